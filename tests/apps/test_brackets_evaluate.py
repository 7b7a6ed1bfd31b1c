"""Evaluation against arithmetic by hand, on whole documents, and the place where a fault is
reported.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradcore as gd
from gradcore.apps.tasks.brackets import check, evaluate, horizon, lexing
from gradcore.apps.tasks.brackets.answers import CLASSES, OUTPUTS, answers_of, targets_of, trust_of
from gradcore.apps.tasks.brackets.lexing import Document
from gradcore.apps.tasks.brackets.sources import Path, SourceFile


def document(text, name="a.py"):
    file = SourceFile(Path(name), name, name, "python", len(text))
    kinds = np.array([2 if c in "()[]{}" else 1 for c in text], np.uint8)
    return Document(file, lexing.tokens_of(text), kinds, lexing.digest_of(text))


def test_closings_by_hand():
    found = evaluate.closings(document("a([x]{}b)"))
    assert found.position.tolist() == [4, 6, 8]
    assert found.distance.tolist() == [2, 1, 7]
    assert [CLASSES[c] for c in found.expected] == ["[", "{", "("]


def test_score_by_hand():
    distance = np.array([1, 9, 10, 99, 100, 1_000, 9_999, 10_000, 250_000])
    right = np.array([True, False, True, True, False, True, False, False, True])
    score = evaluate.score(distance, right)
    assert score.accuracy == pytest.approx(5 / 9)
    assert score.count_by_distance == {"1-10": 2, "10-100": 2, "100-1k": 1, "1k-10k": 2, "10k+": 2}
    assert score.accuracy_by_distance == {
        "1-10": 0.5,
        "10-100": 1.0,
        "100-1k": 0.0,
        "1k-10k": 0.5,
        "10k+": 0.5,
    }


def test_a_distance_without_brackets_has_no_accuracy():
    score = evaluate.score(np.array([5]), np.array([True]))
    assert score.accuracy_by_distance["10k+"] is None
    assert score.count_by_distance["10k+"] == 0
    assert evaluate.score(np.zeros(0, np.int64), np.zeros(0, bool)).accuracy is None


@given(st.lists(st.tuples(st.integers(1, 20_000), st.booleans()), min_size=1))
def test_all_distances_together_are_the_whole(pairs):
    distance, right = (np.array(column) for column in zip(*pairs, strict=True))
    score = evaluate.score(distance, right)
    hits = sum(
        share * score.count_by_distance[name]
        for name, share in score.accuracy_by_distance.items()
        if share is not None
    )
    assert sum(score.count_by_distance.values()) == len(pairs)
    assert score.accuracy == pytest.approx(hits / len(pairs))


def constant_net(answer):
    """A net that is sure of class number `answer`, and that every character is code."""
    net = gd.Stack(gd.Embedding(128, 2), gd.LSTM(2, 3), gd.Linear(3, OUTPUTS))
    params = net.init(seed=0)
    params.flat[:] = 0
    params["2.bias"][4 + answer] = 9
    return net, params


def test_the_answer_for_a_closing_bracket_is_the_output_before_it():
    # The net's output depends only on the last character: "(" gives 1, any other character gives
    # none.
    net = gd.Stack(gd.Embedding(128, 1), gd.RNN(1, 1), gd.Linear(1, OUTPUTS))
    params = net.init(seed=0)
    params.flat[:] = 0
    params["0.weight"][ord("(")] = 1
    params["1.weight_ih"][:] = 1
    params["2.weight"][4 + 1] = 1
    documents = [document("()"), document("(())"), document("[()]a")]
    result = evaluate.evaluate(net, params, documents, majority=1)
    # The answer is right at every "()" and wrong where another character comes before the bracket.
    assert result.net.accuracy == pytest.approx(3 / 5)
    assert result.net.count_by_distance["1-10"] == 5
    assert (result.files, result.longest) == (3, 5)


def test_baselines_by_hand():
    far = "[" + "a" * 150 + "]"
    net, params = constant_net(2)
    result = evaluate.evaluate(net, params, [document("(x)" * 3 + far)], majority=1)
    assert result.net.accuracy_by_distance["1-10"] == 0
    assert result.net.accuracy_by_distance["100-1k"] == 1
    majority, stack = (result.baselines[name] for name in ("majority", "stack of 100"))
    assert majority.accuracy == pytest.approx(3 / 4)
    assert stack.accuracy_by_distance["1-10"] == 1
    assert stack.accuracy_by_distance["100-1k"] == 0
    # With another majority class, an empty stack gives that class.
    result = evaluate.evaluate(net, params, [document("(x)" * 3 + far)], majority=2)
    assert result.baselines["stack of 100"].accuracy == 1


def test_majority_is_the_class_closed_most_often():
    assert evaluate.most_frequent([document("()"), document("[[]]")]) == 2


@given(st.lists(st.integers(0, 60), min_size=1, max_size=40))
def test_every_text_is_read_whole_and_by_itself(lengths):
    net = gd.Stack(gd.Embedding(128, 2), gd.GRU(2, 3), gd.Linear(3, OUTPUTS))
    params = net.init(seed=1)
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 128, n).astype(np.uint8) for n in lengths]
    found = {i: o.copy() for i, o in evaluate.outputs_of(net, params, texts)}
    assert sorted(found) == [i for i, n in enumerate(lengths) if n]
    for i, outputs in found.items():
        alone, _ = gd.apply(net, params, texts[i][:, None])
        np.testing.assert_allclose(outputs, alone[:, 0], rtol=1e-5, atol=1e-6)


def test_progress_counts_characters():
    net, params = constant_net(0)
    seen = []
    texts = [np.zeros(n, np.uint8) for n in range(1, 40)]
    for _ in evaluate.outputs_of(net, params, texts, progress=seen.append):
        pass
    assert sum(seen) == sum(range(1, 40))
    assert len(seen) > 1


def test_targets_have_class_and_kind():
    labels = np.array([0, 1, 2, 3, 0, 1, 4, 4], np.uint8)
    kinds = np.array([0, 0, 1, 2, 2, 1, 0, 1], np.uint8)
    assert targets_of(labels, kinds).tolist() == [0, 1, 6, 7, 4, 5, 8, 8]


def test_answers_have_the_probabilities_of_the_classes():
    outputs = np.random.default_rng(0).standard_normal((20, OUTPUTS)).astype(np.float32) * 30
    share = np.exp(outputs.astype(np.float64))
    share /= share.sum(axis=1, keepdims=True)
    expected = np.concatenate([share[:, :4] + share[:, 4:8], share[:, 8:]], axis=1)
    answers = answers_of(outputs).astype(np.float64)
    found = np.exp(answers - np.logaddexp.reduce(answers, axis=1, keepdims=True))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-30)


def outputs_of_shares(shares):
    """Outputs [n, OUTPUTS] of a net that gives these classes, hidden or not, these shares."""
    outputs = np.full((len(shares), OUTPUTS), 1e-9)
    for t, row in enumerate(shares):
        for (kind, name), share in row.items():
            outputs[t, 4 * (kind == "code") + CLASSES.index(name)] = share
    return np.log(outputs).astype(np.float32)


def test_trust_by_hand():
    text = np.frombuffer(b"(])", np.uint8)
    outputs = outputs_of_shares(
        [
            {("code", "("): 0.6, ("hidden", "("): 0.2, ("code", "["): 0.2},
            {("hidden", "("): 0.7, ("code", "none"): 0.3},
            {("code", "none"): 0.9, ("code", "{"): 0.1},
        ]
    )
    position, trust = trust_of(text, outputs)
    assert position.tolist() == [1, 2, 3]
    # "]" is hidden with 0.7, and otherwise closes a "[" with 0.2; ")" is not hidden, and closes a
    # "(" with 0.7; nothing is open at the end with 0.9.
    np.testing.assert_allclose(trust, [0.7 + 0.3 * 0.2, 0.7, 0.9], rtol=1e-5)


def test_a_bracket_at_the_start_closes_nothing():
    code = outputs_of_shares([{("code", "none"): 1.0}] * 2)
    position, trust = trust_of(np.frombuffer(b")x", np.uint8), code)
    assert position.tolist() == [0, 2]
    np.testing.assert_allclose(trust, [0.0, 1.0], atol=1e-6)


def test_without_a_closing_bracket_only_the_end_can_be_wrong():
    position, trust = trust_of(
        np.frombuffer(b"ab", np.uint8), outputs_of_shares([{("code", "{"): 1.0}] * 2)
    )
    assert position.tolist() == [2]
    np.testing.assert_allclose(trust, [0.0], atol=1e-6)


def test_locate_names_the_first_that_is_not_trusted():
    text = np.frombuffer(b"(a]b)c", np.uint8)
    open_round = outputs_of_shares([{("code", "("): 1.0}] * 6)
    assert evaluate.locate(text, open_round) == 2
    closed = outputs_of_shares([{("code", "("): 1.0}] * 5 + [{("code", "none"): 1.0}])
    assert evaluate.locate(text[[0, 1, 4]], closed[[0, 1, 5]]) == -1
    assert evaluate.locate(text[[0, 1, 4]], open_round[:3]) == 3
    assert evaluate.locate(text[:0], open_round[:0]) == -1
    # Doubts below the limit are no finding.
    doubt = outputs_of_shares([{("code", "("): 0.9, ("code", "["): 0.1}] * 3)
    assert evaluate.locate(text[:3], doubt, least=0.05) == 3
    assert evaluate.locate(text[:3], doubt, least=0.2) == 2


def test_the_limit_is_below_what_intact_files_have(monkeypatch):
    rng = np.random.default_rng(0)
    documents = [document("(x)" * int(n)) for n in rng.integers(1, 40, 50)]
    net = gd.Stack(gd.Embedding(128, 8), gd.LSTM(8, 8), gd.Linear(8, OUTPUTS))
    params = net.init(seed=0)
    params["2.weight"] *= 9
    monkeypatch.setattr(evaluate, "LEAST_TRUST", 1.0)
    least = evaluate.least_trust(net, params, documents)
    assert evaluate.evaluate(net, params, documents, 1, least=2.99 * least).false_alarms == 0
    assert evaluate.evaluate(net, params, documents, 1, least=3.01 * least).false_alarms > 0
    monkeypatch.setattr(evaluate, "LEAST_TRUST", 1e-9)
    assert evaluate.least_trust(net, params, documents) == 1e-9


def checker(answer, least=0.02):
    return check.Checker(*constant_net(answer), least)


def test_fault_share_by_hand():
    # The net says that "(" is open everywhere, so it reports the end of every text, and the first
    # bracket that is not round.
    documents = [document("f(a)\n" * 20), document("[1]\n" * 2)]
    silent = check.fault_share(checker(1, least=0.0), documents)
    assert (silent.files, silent.found) == (2, 0)
    # Line 1 is within 3 lines of every fault of the short document.
    loud = check.fault_share(checker(1), documents[1:])
    assert (loud.files, loud.found) == (1, 1)
    assert evaluate.evaluate(*constant_net(1), documents, 1).false_alarms == 1
    assert evaluate.evaluate(*constant_net(1), documents, 1, least=0.0).false_alarms == 0


def test_findings_name_line_column_and_what_was_expected():
    (finding,) = check.check_texts(checker(0), [(Path("x.py"), ")\n")])
    assert str(finding) == "x.py:1:1: ')' does not match: nothing is open"
    (finding,) = check.check_texts(checker(2), [(Path("x.py"), "f(\n a)\n")])
    assert str(finding) == "x.py:2:3: ')' does not match: expected ']'"
    (finding,) = check.check_texts(checker(3), [(Path("x.c"), "int f() {\n  g();\n\n")])
    assert str(finding) == "x.c:1:7: ')' does not match: expected '}'"
    (finding,) = check.check_texts(checker(3), [(Path("x.c"), "int f {\n  g;\n\n")])
    assert str(finding) == "x.c:2:5: '{' is never closed"
    assert list(check.check_texts(checker(0), [(Path("a"), "x"), (Path("b"), "")])) == [None, None]


def test_the_horizon_of_a_net_that_forgets_at_a_known_rate():
    # h_t = h_{t-1} / 2 + ..., so a gradient halves with every step.
    net = gd.Stack(
        gd.Embedding(128, 1), gd.RNN(1, 1, nonlinearity="relu", bias=False), gd.Linear(1, OUTPUTS)
    )
    params = net.init(seed=0)
    params["0.weight"][:], params["1.weight_ih"][:], params["1.weight_hh"][:] = 1, 1, 0.5
    found = horizon.measure(net, params, [document("x" * n) for n in (300, 200, 150, 120, 9)])
    assert found.steps == 120
    assert (np.diff(found.lags) > 0).all()
    # In a range of lags a, a+1, ... b-1 the mean square is dominated by the first lag.
    assert found.log10[0] == pytest.approx(-np.log10(2), abs=1e-3)
    expected = -found.lags * np.log10(2)
    assert (found.log10[5:] >= expected[5:] - 0.2).all()
    assert (found.log10[5:] <= expected[5:] * 0.8).all()
    assert found.at(50) == pytest.approx(-50 * np.log10(2), rel=0.1)
