"""Puts faults into balanced text: a bracket is deleted, swapped or inserted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .... import _index
from .lexing import BRACKET, HIDDEN, real_of

FAULTS = ("deleted", "swapped", "inserted")
_OPENING = b"([{"
_CLOSING = b")]}"


@dataclass(frozen=True)
class Corruption:
    """A text with one fault: characters and kinds [n] uint8, and the change (one of FAULTS).

    position: the place of the change. fault: the position of the first provable fault, which
    `bracket_labels` returns.
    """

    characters: NDArray[np.uint8]
    kinds: NDArray[np.uint8]
    change: str
    position: int
    fault: int


def corrupt(
    characters: NDArray[np.uint8],
    kinds: NDArray[np.uint8],
    rng: np.random.Generator,
    change: str | None = None,
) -> Corruption | None:
    """A copy of a text with one fault at a random place; None if the text has no real bracket.

    characters, kinds: [n] uint8 of a balanced text or of the beginning of one; they do not change.
    change: one of FAULTS, or None for a random one. A bracket is inserted only beside a bracket or
    white space in code, where it cannot change which characters are strings and comments. Raises
    ValueError for an unknown change.
    """
    if change is None:
        change = FAULTS[rng.integers(len(FAULTS))]
    if change not in FAULTS:
        raise ValueError(f"change must be one of {', '.join(FAULTS)} or None; got {change!r}")
    brackets = np.flatnonzero(kinds == BRACKET)
    if brackets.size == 0:
        return None
    if change == "inserted":
        position = int(rng.choice(_gaps(characters, kinds)))
        new = (_OPENING + _CLOSING)[rng.integers(6)]
        characters = np.insert(characters, position, new)
        kinds = np.insert(kinds, position, np.uint8(BRACKET))
    else:
        position = int(rng.choice(brackets))
        if change == "deleted":
            characters = np.delete(characters, position)
            kinds = np.delete(kinds, position)
        else:
            old = int(characters[position])
            same_side = _OPENING if old in _OPENING else _CLOSING
            characters = characters.copy()
            characters[position] = rng.choice([new for new in same_side if new != old])
    _, _, fault = _index.bracket_labels(characters, real_of(kinds))
    return Corruption(characters, kinds, change, position, fault)


def _gaps(characters: NDArray[np.uint8], kinds: NDArray[np.uint8]) -> NDArray[np.int64]:
    # Positions before which a bracket may be inserted: both neighbours are code, and one of them is
    # a bracket or white space. There is always such a position beside a bracket, unless strings
    # touch it on both sides.
    code = kinds != HIDDEN
    loose = (kinds == BRACKET) | (code & np.isin(characters, np.frombuffer(b" \n\t", np.uint8)))
    between = np.flatnonzero(code[1:] & code[:-1] & (loose[1:] | loose[:-1])) + 1
    return between if between.size else np.flatnonzero(kinds == BRACKET)
