"""Evaluation against arithmetic by hand, on whole documents, and the place where a fault is
reported.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradcore as gd
from gradcore.apps.tasks.brackets import check, evaluate, lexing
from gradcore.apps.tasks.brackets.dataset import CLASSES
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
    """A net whose largest output is always number `answer`."""
    net = gd.Stack(gd.Embedding(128, 2), gd.LSTM(2, 3), gd.Linear(3, 5))
    params = net.init(seed=0)
    params.flat[:] = 0
    params["2.bias"][answer] = 9
    return net, params


def test_the_answer_for_a_closing_bracket_is_the_output_before_it():
    # The net's output depends only on the last character: "(" gives 1, any other character gives
    # none.
    net = gd.Stack(gd.Embedding(128, 1), gd.RNN(1, 1), gd.Linear(1, 5))
    params = net.init(seed=0)
    params.flat[:] = 0
    params["0.weight"][ord("(")] = 1
    params["1.weight_ih"][:] = 1
    params["2.weight"][1] = 1
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
    net = gd.Stack(gd.Embedding(128, 2), gd.GRU(2, 3), gd.Linear(3, 5))
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


def logits(broken, last="none"):
    """Outputs that are certain of "faulty" where the array is True."""
    outputs = np.zeros((len(broken), 5), np.float32)
    outputs[:, 4] = np.where(broken, 4, -4)
    outputs[-1, CLASSES.index(last)] += 2
    return outputs


def test_locate_finds_when_broken_becomes_true_for_good():
    assert evaluate.locate(logits([False] * 9)) == -1
    assert evaluate.locate(logits([False] * 6 + [True] * 5)) == 6
    assert evaluate.locate(logits([True] * 5)) == 0
    wavering = [False] * 20 + [True] * 2 + [False] * 20 + [True] * 10
    assert evaluate.locate(logits(wavering)) == 42
    assert evaluate.locate(logits([False] * 20 + [True] * 2 + [False] * 20)) == -1


def test_locate_tells_a_bracket_left_open():
    assert evaluate.locate(logits([False] * 9, last="{")) == 9
    assert evaluate.locate(np.zeros((0, 5), np.float32)) == -1


def test_one_very_sure_output_does_not_decide():
    outputs = logits([False] * 20 + [True] * 20)
    outputs[30] = (1e4, 0, 0, 0, 0)
    assert evaluate.locate(outputs) == 20


def test_fault_share_by_hand():
    # One net never reports a fault, and one always reports it at the first character.
    documents = [document("f(a)\n" * 20), document("[1]\n" * 2)]
    silent = check.fault_share(*constant_net(0), documents)
    assert (silent.files, silent.found) == (2, 0)
    # Line 1 is within 3 lines of every fault of the short document, and of some faults of the long
    # one by chance.
    loud = check.fault_share(*constant_net(4), documents[1:])
    assert (loud.files, loud.found) == (1, 1)
    assert evaluate.evaluate(*constant_net(4), documents, 1).false_alarms == 1
    assert evaluate.evaluate(*constant_net(0), documents, 1).false_alarms == 0


def test_findings_name_line_column_and_what_was_expected():
    net = constant_net(4)
    (finding,) = check.check_texts(*net, [(Path("x.py"), ")\n")])
    assert str(finding).startswith("x.py:1:1: ')' does not match")
    net, params = constant_net(3)
    (finding,) = check.check_texts(net, params, [(Path("x.c"), "int f() {\n  g();\n\n")])
    assert str(finding) == "x.c:2:7: '{' is never closed"
    assert list(check.check_texts(*constant_net(0), [(Path("a"), "x"), (Path("b"), "")])) == [
        None,
        None,
    ]
