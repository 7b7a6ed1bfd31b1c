"""Tests of injected faults, of the parts of a corpus, and of training windows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcore import _index
from gradcore.apps.tasks.brackets import dataset, lexing, sources
from gradcore.apps.tasks.brackets.answers import OUTPUTS, targets_of
from gradcore.apps.tasks.brackets.corrupt import FAULTS, corrupt
from gradcore.apps.tasks.brackets.dataset import Sampler, Weights
from gradcore.apps.tasks.brackets.lexing import BRACKET, CODE, HIDDEN, Document
from gradcore.apps.tasks.brackets.sources import SourceFile

OPENING, CLOSING = b"([{", b")]}"


def document(text, name="a.py"):
    """A document in which brackets after a # on the same line do not count."""
    kinds, hidden = [], False
    for character in text:
        hidden = character != "\n" and (hidden or character == "#")
        kinds.append(HIDDEN if hidden else BRACKET if character in "()[]{}" else CODE)
    file = SourceFile(sources.Path(name), name, name, "python", len(text))
    kinds = np.array(kinds, np.uint8)
    return Document(file, lexing.tokens_of(text), kinds, lexing.digest_of(text))


# Balanced text of several lines, with unmatched brackets in comments.
balanced = st.recursive(
    st.sampled_from(["", "a", "b c", "x\n", "# )]\n", "\n"]),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["()", "[]", "{}"]), inner).map(
            lambda pair: pair[0][0] + pair[1] + ("\n" if "#" in pair[1] else "") + pair[0][1]
        ),
        st.tuples(inner, inner).map(lambda pair: pair[0] + "\n" + pair[1]),
    ),
    max_leaves=12,
)


@given(balanced, st.integers(0, 2**32), st.sampled_from(FAULTS))
def test_one_fault_is_one_change_and_can_be_proved(text, seed, change):
    whole = document(text)
    before = whole.characters.copy()
    result = corrupt(whole.characters, whole.kinds, np.random.default_rng(seed), change)
    np.testing.assert_array_equal(whole.characters, before)
    if not whole.real.any():
        assert result is None
        return
    assert result.change == change
    _, _, fault = _index.bracket_labels(result.characters, lexing.real_of(result.kinds))
    assert result.fault == fault >= 0
    growth = {"deleted": -1, "swapped": 0, "inserted": 1}[change]
    assert len(result.characters) == len(result.kinds) == len(whole) + growth
    t = result.position
    if change == "deleted":
        restored = np.insert(result.characters, t, before[t])
        assert whole.kinds[t] == BRACKET
    elif change == "inserted":
        restored = np.delete(result.characters, t)
        assert result.kinds[t] == BRACKET
        assert bytes([result.characters[t]]) in OPENING + CLOSING
    else:
        restored = result.characters.copy()
        restored[t] = before[t]
        assert result.kinds[t] == BRACKET
        assert result.characters[t] != before[t]
        assert (before[t] in OPENING) == (result.characters[t] in OPENING)
    np.testing.assert_array_equal(restored, before)


def test_faults_of_every_kind_occur_and_others_are_refused():
    whole = document("f(a[1])\n" * 5)
    rng = np.random.default_rng(0)
    seen = {corrupt(whole.characters, whole.kinds, rng).change for _ in range(50)}
    assert seen == set(FAULTS)
    with pytest.raises(ValueError, match="change must be one of deleted, swapped, inserted"):
        corrupt(whole.characters, whole.kinds, rng, "burnt")


def test_an_insertion_stays_out_of_comments_and_names():
    whole = document("ab (cd)  # x y (\n" * 3)
    rng = np.random.default_rng(1)
    for _ in range(200):
        t = corrupt(whole.characters, whole.kinds, rng, "inserted").position
        assert whole.kinds[t] != HIDDEN or whole.kinds[t - 1] == CODE
        around = whole.characters[t - 1 : t + 1].tobytes().decode()
        assert around not in ("ab", "cd")


def corpus(tmp_path, files, **options):
    for name, text in files.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    found = sources.find([tmp_path / "src"]).files
    limits = {"validation_characters": 10**6, "held_out_characters": 10**6} | options
    return dataset.Corpus(found, lexing.LexCache(tmp_path / "cache"), **limits)


def train_of(corpus, characters=10**9):
    with corpus.train as supply:
        return supply.first(characters)


def test_parts_share_no_module_and_no_text(tmp_path):
    files = {f"m{i}/f{j}.py": f"f({i}, {j})\n" for i in range(40) for j in range(3)}
    files |= {f"m{i}/copy.py": "copied()\n" for i in range(40)}
    parts = corpus(tmp_path, files)
    train = train_of(parts)
    groups, digests = (
        [{getter(d) for d in part} for part in (train, parts.validation, parts.held_out)]
        for getter in (lambda d: d.source.group, lambda d: d.digest)
    )
    for sets in (groups, digests):
        assert all(sets)
        assert not sets[0] & sets[1]
        assert not sets[0] & sets[2]
        assert not sets[1] & sets[2]
    # A text that occurs in several parts stays in the part that is used for evaluation.
    assert lexing.digest_of("copied()\n") in digests[2]
    assert parts.notes == ("39 files that repeat another",)


def test_only_as_much_is_read_as_is_used(tmp_path):
    files = {f"m{i}.py": f"f({i:02})\n" * 10 for i in range(99)}  # 60 characters each
    parts = corpus(tmp_path, files, validation_characters=200, held_out_characters=100)
    assert len(parts.validation) == 4
    assert len(parts.held_out) == 2
    assert len(train_of(parts, 300)) == 5


def test_unbalanced_files_and_files_without_brackets_are_left_out(tmp_path):
    files = {f"m{i}.py": f"f({i})\n" for i in range(40)}
    files |= {f"n{i}.py": f"f({i}]\n" for i in range(7)} | {"plain.py": "x = 1\n"}
    parts = corpus(tmp_path, files)
    names = {d.source.name for d in (*train_of(parts), *parts.validation, *parts.held_out)}
    assert parts.notes == ("7 files whose brackets do not balance",)
    assert names == {f"m{i}.py" for i in range(40)}


def test_a_part_without_files_is_an_error(tmp_path):
    files = {f"m{i}.py": f"f({i}]\n" for i in range(10)}
    with pytest.raises(sources.SourceError, match="no held-out file with balanced brackets among"):
        corpus(tmp_path, files)


def test_files_too_long_to_judge_on_are_for_training_only(tmp_path):
    files = {f"m{i}.py": f"f({i:02})\n" * 20_000 for i in range(30)}
    files |= {f"s{i}.py": f"f({i})\n" for i in range(30)}
    parts = corpus(tmp_path, files)
    judged = (*parts.held_out, *parts.validation)
    assert max(len(d) for d in judged) < 100_000 < max(len(d) for d in train_of(parts))


DOCUMENTS = (
    document("f(a,\n b[1])\nx = {\n 1: (2),\n}\n# )\nz()\n" * 4, "one"),
    document("g()\n", "two"),
    document("class A {\n" + "m(x[0]) { y }\n" * 12 + "}\n", "three"),
)


@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (7, 3), (64, 5), (300, 2)])
def test_windows_have_the_labels_of_their_pieces(steps, batch):
    sampler = Sampler(DOCUMENTS, seed=0)
    for number in range(5):
        window = sampler.batch(number, steps, batch)
        for array, dtype in (
            (window.x, np.uint8),
            (window.y, np.int64),
            (window.weight, np.float32),
            (window.reset, np.bool_),
        ):
            assert array.shape == (steps, batch)
            assert array.dtype == dtype
            assert array.flags.c_contiguous
        assert window.reset[0].all()
        for b in range(batch):
            borders = [*np.flatnonzero(window.reset[:, b]), steps]
            for t0, t1 in itertools.pairwise(borders):
                check_piece(window.x[t0:t1, b], window.y[t0:t1, b])


def check_piece(x, y):
    """Asserts that the piece occurs in a document and starts at the start of a line outside every
    bracket.
    """
    text = x.tobytes()
    for whole in DOCUMENTS:
        start = whole.characters.tobytes().find(text)
        if start >= 0:
            break
    assert start >= 0
    part = slice(start, start + len(x))
    labels, _, _ = _index.bracket_labels(whole.characters[part].copy(), whole.real[part].copy())
    assert y.tolist() == targets_of(labels, whole.kinds[part]).tolist()
    assert start == 0 or whole.characters[start - 1] == ord("\n")


def test_a_share_of_the_pieces_is_broken():
    none, some, all_of_them = (
        np.mean(Sampler(DOCUMENTS[:1], seed=1).batch(0, 160, 200, share).y == OUTPUTS - 1)
        for share in (0.0, 0.3, 1.0)
    )
    assert none == 0 < some < all_of_them


def test_a_piece_ends_soon_after_its_fault():
    window = Sampler(DOCUMENTS, seed=1).batch(0, 400, 30, 1.0)
    broken = window.y == OUTPUTS - 1
    lengths = []
    for b in range(30):
        starts = [*np.flatnonzero(window.reset[:, b]), 400]
        lengths += [int(broken[s:e, b].sum()) for s, e in itertools.pairwise(starts)]
    assert max(lengths) == dataset.FAULT_STEPS
    assert min(lengths) < dataset.FAULT_STEPS  # cut off by the end of a document or a window


def test_a_sampler_draws_from_what_was_added():
    grown, whole = Sampler(DOCUMENTS[:1], seed=3), Sampler(DOCUMENTS, seed=3)
    few = grown.batch(7, 50, 4)
    grown.extend(DOCUMENTS[1:])
    for name in ("x", "y", "weight", "reset"):
        np.testing.assert_array_equal(
            getattr(grown.batch(7, 50, 4), name), getattr(whole.batch(7, 50, 4), name)
        )
    assert not np.array_equal(few.x, grown.batch(7, 50, 4).x)


def test_the_same_seed_gives_the_same_windows():
    one, two, other = (Sampler(DOCUMENTS, seed=seed).batch(7, 50, 4) for seed in (3, 3, 4))
    for name in ("x", "y", "weight", "reset"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert not np.array_equal(one.x, other.x)


def test_weights_count_closing_brackets_by_distance_and_nothing_long_after_a_fault():
    text = "(a)" + "[" + "b" * 20 + "]" + "}" + "c" * 19
    whole = document(text)
    weights = Weights(every=1.0, closing=(2.0, 5.0), end=7.0, fault=4.0)
    found = weights.of(*_index.bracket_labels(whole.characters, whole.real))
    expected = np.ones(len(text), np.float32)
    expected[1] += 2.0  # before ")", at distance 2
    expected[23] += 5.0  # before "]", at distance 21
    expected[25 : 25 + 10] += 4.0  # "}" at 25 closes nothing
    expected[25 + 10 :] = 0
    np.testing.assert_array_equal(found, expected)
    found = weights.of(*_index.bracket_labels(whole.characters, whole.real), at_end=True)
    expected[-1] += 7.0
    np.testing.assert_array_equal(found, expected)


def test_no_documents():
    with pytest.raises(ValueError, match="documents must not be empty"):
        Sampler([], seed=0).batch(0, 5, 1)
