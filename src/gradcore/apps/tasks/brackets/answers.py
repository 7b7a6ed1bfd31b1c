"""What the net says at each character: targets for training, and answers from its outputs.

The net learns more than the question asks: with each class of bracket also whether the character is
hidden (in a string or a comment). Training with these targets needs half as many characters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .lexing import HIDDEN

CLASSES = ("none", "(", "[", "{", "broken")
"""The answers: the innermost open bracket after a character, or that the text is broken."""
BROKEN = 4
CLOSING = np.frombuffer(b")]}", dtype=np.uint8)
"""What closes the classes 1, 2 and 3."""
OUTPUTS = 2 * BROKEN + 1
"""Outputs of the net: four classes for a hidden character, four for any other, and broken."""


def targets_of(labels: NDArray[np.uint8], kinds: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Targets [n] uint8 below OUTPUTS from classes [n] and the kinds [n] of characters."""
    shown = np.where(kinds == HIDDEN, labels, labels + np.uint8(BROKEN))
    targets: NDArray[np.uint8] = np.where(labels == BROKEN, OUTPUTS - 1, shown).astype(np.uint8)
    return targets


def answers_of(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits [n, 5] of CLASSES from outputs [n, OUTPUTS]: those of one class are added up.

    Their exponentials are added, so the answers have the probabilities of the classes.
    """
    answers = np.empty((outputs.shape[0], len(CLASSES)), dtype=outputs.dtype)
    np.logaddexp(outputs[:, :BROKEN], outputs[:, BROKEN : 2 * BROKEN], out=answers[:, :BROKEN])
    answers[:, BROKEN] = outputs[:, 2 * BROKEN]
    return answers


def trust_of(
    characters: NDArray[np.uint8], outputs: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where a text could be wrong, and by the net's outputs the probability that it is not.

    characters: [n] uint8. outputs: [n, OUTPUTS]. Returns positions [m] of all closing brackets and
    last n, the end of the text; and the probabilities [m]: that the bracket is hidden or closes the
    one that is open, and that no bracket is open at the end.
    """
    position = np.flatnonzero(np.isin(characters, CLOSING))
    logits = outputs[np.append(position, len(characters) - 1)].astype(np.float64)
    share = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    hidden, none = share[:, :BROKEN].sum(axis=1), share[:, 0] + share[:, BROKEN]
    # What is open before the bracket, if the text was right so far; at its start nothing is.
    before = answers_of(outputs[np.maximum(position - 1, 0)])[:, :BROKEN].astype(np.float64)
    before[position == 0] = [0.0, -np.inf, -np.inf, -np.inf]
    closed = np.searchsorted(CLOSING, characters[position]) + 1
    found = before[np.arange(len(position)), closed]
    matches = np.exp(found - np.logaddexp.reduce(before, axis=1))
    trust = np.append(hidden[:-1] + (1 - hidden[:-1]) * matches, none[-1])
    return np.append(position, len(characters)), trust
