"""The compiled module gradcore._index agrees with plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gradcore import _index

OPENING, CLOSING = "([{", ")]}"

# Few letters are used, so that long matches and mismatches both occur; the mask hides some
# brackets.
texts = st.text(alphabet="()[]{}a\n", max_size=80)
masked = texts.flatmap(
    lambda text: st.tuples(
        st.just(text), st.lists(st.booleans(), min_size=len(text), max_size=len(text))
    )
)


def arrays(text, mask=None):
    mask = [True] * len(text) if mask is None else mask
    characters = np.frombuffer(text.encode("ascii"), np.uint8)
    real = [shown and c in OPENING + CLOSING for c, shown in zip(text, mask, strict=True)]
    return characters, np.array(real, dtype=np.uint8)


def plain_labels(text, real):
    stack, labels, distances = [], [], []
    for t, character in enumerate(text):
        distance = -1
        if real[t] and character in OPENING:
            stack.append(t)
        elif real[t] and character in CLOSING:
            if not stack or OPENING.index(text[stack[-1]]) != CLOSING.index(character):
                rest = len(text) - t
                return labels + [4] * rest, distances + [-1] * rest, t
            distance = t - stack.pop()
        labels.append(1 + OPENING.index(text[stack[-1]]) if stack else 0)
        distances.append(distance)
    return labels, distances, len(text) if stack else -1


@given(masked)
@example(("", []))
@example((")", [True]))
@example(("(]", [True, True]))
def test_labels_are_those_of_a_plain_stack(case):
    text, mask = case
    characters, real = arrays(text, mask)
    labels, distances, fault = _index.bracket_labels(characters, real)
    assert (labels.tolist(), distances.tolist(), fault) == plain_labels(text, real)
    assert labels.dtype == np.uint8
    assert distances.dtype == np.int64


@given(masked, st.integers(0, 20))
def test_a_limited_stack_sees_the_last_characters_only(case, reach):
    text, mask = case
    characters, real = arrays(text, mask)
    expected = _index.expected_within(characters, real, reach)
    for t, character in enumerate(text):
        stack = []
        for s in range(max(0, t - reach), t):
            if real[s] and text[s] in OPENING:
                stack.append(text[s])
            elif real[s] and stack:
                stack.pop()
        asked = real[t] and character in CLOSING
        assert expected[t] == (1 + OPENING.index(stack[-1]) if asked and stack else 0)


@given(masked)
def test_reading_from_a_fresh_start_gives_the_labels_of_the_whole(case):
    text, mask = case
    characters, real = arrays(text, mask)
    kinds = np.where(real, 2, 1).astype(np.uint8)
    labels, _, fault = _index.bracket_labels(characters, real)
    stop = len(text) if fault < 0 else fault
    for start in _index.fresh_starts(characters, kinds):
        assert start == 0 or text[start - 1] == "\n"
        part, _, _ = _index.bracket_labels(characters[start:stop], real[start:stop])
        assert part.tolist() == labels[start:stop].tolist()


def test_fresh_starts_are_outside_brackets_strings_and_comments():
    text = 'a\nf(\n)\n"""x\ny"""\nb\n'
    hidden = [7 <= t < 16 for t in range(len(text))]
    characters, real = arrays(text, [not h for h in hidden])
    kinds = np.where(hidden, 0, np.where(real, 2, 1)).astype(np.uint8)
    lines = [text[start:].split("\n")[0] for start in _index.fresh_starts(characters, kinds)]
    assert lines == ["a", "f(", '"""x', "b"]


def test_read_only_arrays_are_accepted_and_left_alone():
    characters, real = arrays("([])")
    real.flags.writeable = False
    labels, _, fault = _index.bracket_labels(characters, real)
    assert labels.tolist() == [1, 2, 1, 0]
    assert fault == -1


def test_arguments_that_cannot_be_are_refused():
    characters, real = arrays("()")
    with pytest.raises(ValueError, match="must have one length; got 2 and 1"):
        _index.bracket_labels(characters, real[:1])
    with pytest.raises(ValueError, match="must have one length"):
        _index.expected_within(characters, real[:1], 3)
    with pytest.raises(ValueError, match="must have one length"):
        _index.fresh_starts(characters, real[:1])
    with pytest.raises(ValueError, match="reach must not be negative; got -1"):
        _index.expected_within(characters, real, -1)
    with pytest.raises(ValueError, match="Buffer dtype mismatch"):
        _index.bracket_labels(characters.astype(np.int64), real)
    with pytest.raises(TypeError, match="must not be None"):
        _index.bracket_labels(None, real)
