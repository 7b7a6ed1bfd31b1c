"""Measures how often a net says rightly which bracket closes, by distance, with baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from .... import _index
from .answers import CLASSES, answers_of, trust_of
from .lexing import Document

BORDERS = (1, 10, 100, 1_000, 10_000)
BINS = ("1-10", "10-100", "100-1k", "1k-10k", "10k+")
"""Names of the bins of distances, each from one border up to but not including the next."""
REACH = 100
"""The baseline's stack sees only the last so many characters."""

LEAST_TRUST = 0.02
"""A bracket is called wrong if it is right with a smaller probability, or an even smaller one."""
MARGIN = 1 / 3
"""The limit is so much smaller than the smallest trust in intact validation files."""
BATCH = 16
"""At most so many files are read side by side."""
_BATCH_CHARACTERS = 800_000

Texts = Sequence[NDArray[np.uint8]]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Score:
    """Shares of right answers at closing brackets; None if there is no such bracket."""

    accuracy: float | None
    accuracy_by_distance: dict[str, float | None]
    count_by_distance: dict[str, int]


@dataclass(frozen=True)
class Closings:
    """The m closing brackets of a document: position, distance to the opening one, class."""

    position: NDArray[np.int64]
    distance: NDArray[np.int64]
    expected: NDArray[np.uint8]


@dataclass(frozen=True)
class Evaluation:
    """Scores of the net and of the baselines on the same brackets.

    false_alarms: the share of intact files in which the net finds a fault. longest: the number of
    characters of the longest file.
    """

    net: Score
    baselines: dict[str, Score]
    files: int
    longest: int
    false_alarms: float


def closings(document: Document) -> Closings:
    """The closing brackets of a balanced document, and what each closes."""
    labels, distances, _ = _index.bracket_labels(document.characters, document.real)
    position = np.flatnonzero(distances > 0)
    # The bracket that closes at t must match the one that is open after t-1.
    return Closings(position, distances[position], labels[position - 1])


def score(distance: NDArray[np.int64], right: NDArray[np.bool_]) -> Score:
    """Accuracy over all brackets and by distance, from distance [m] >= 1 and right [m]."""
    bins = np.searchsorted(np.asarray(BORDERS), distance, side="right") - 1
    counts = np.bincount(bins, minlength=len(BINS))
    hits = np.bincount(bins, weights=right, minlength=len(BINS))
    return Score(
        accuracy=float(np.mean(right)) if right.size else None,
        accuracy_by_distance={
            name: float(hit / count) if count else None
            for name, hit, count in zip(BINS, hits, counts, strict=True)
        },
        count_by_distance={name: int(count) for name, count in zip(BINS, counts, strict=True)},
    )


def most_frequent(documents: Iterable[Document]) -> int:
    """The class of bracket that is closed most often."""
    counts = np.zeros(len(CLASSES), dtype=np.int64)
    for document in documents:
        counts += np.bincount(closings(document).expected, minlength=len(CLASSES))
    return int(np.argmax(counts))


def outputs_of(
    net: gd.Stack,
    params: gd.Params,
    texts: Texts,
    *,
    threads: int | None = None,
    memory: int | str | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yields (index of the text, outputs [n, OUTPUTS] of the net over the whole text).

    Texts of about the same length run side by side, so they come in another order. progress is
    called with the number of characters done.
    """
    for indices in _batches([text.shape[0] for text in texts]):
        lengths = np.array([texts[i].shape[0] for i in indices], dtype=np.int64)
        x = np.zeros((int(lengths.max()), len(indices)), dtype=np.uint8)
        for b, i in enumerate(indices):
            x[: lengths[b], b] = texts[i]
        outputs, _ = gd.apply(net, params, x, lengths=lengths, threads=threads, memory=memory)
        for b, i in enumerate(indices):
            yield i, outputs[: lengths[b], b]
        if progress is not None:
            progress(int(lengths.sum()))


def accuracy(
    net: gd.Stack,
    params: gd.Params,
    documents: Sequence[Document],
    *,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Score:
    """Scores of the net over whole balanced documents."""
    asked = [closings(document) for document in documents]
    right = [np.zeros(0, dtype=np.bool_)] * len(documents)
    texts = [document.characters for document in documents]
    for i, outputs in outputs_of(net, params, texts, threads=threads, memory=memory):
        right[i] = right_of(outputs, asked[i])
    return score(np.concatenate([of.distance for of in asked]), np.concatenate(right))


def right_of(outputs: NDArray[np.float32], asked: Closings) -> NDArray[np.bool_]:
    """[m] bool: where the largest answer before a closing bracket is right, from outputs [n, 9]."""
    answers = answers_of(outputs[asked.position - 1])
    right: NDArray[np.bool_] = answers.argmax(axis=1) == asked.expected
    return right


def evaluate(
    net: gd.Stack,
    params: gd.Params,
    documents: Sequence[Document],
    majority: int,
    *,
    least: float = LEAST_TRUST,
    threads: int | None = None,
    memory: int | str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Computes scores over whole balanced documents.

    The net's answer for a closing bracket at t is the largest output at t-1. majority: the class
    that the first baseline always answers, and the second if its stack, which sees only the last
    REACH characters, is empty. least: see `locate`.
    """
    asked = [closings(document) for document in documents]
    right: list[NDArray[np.bool_]] = [np.zeros(0, dtype=np.bool_)] * len(documents)
    texts = [document.characters for document in documents]
    false_alarms = 0
    for i, outputs in outputs_of(
        net, params, texts, threads=threads, memory=memory, progress=progress
    ):
        right[i] = right_of(outputs, asked[i])
        false_alarms += locate(texts[i], outputs, least) >= 0
    distance = np.concatenate([of.distance for of in asked])
    expected = np.concatenate([of.expected for of in asked])
    near = np.concatenate(
        [
            _index.expected_within(document.characters, document.real, REACH)[of.position]
            for document, of in zip(documents, asked, strict=True)
        ]
    )
    return Evaluation(
        net=score(distance, np.concatenate(right)),
        baselines={
            "majority": score(distance, expected == majority),
            f"stack of {REACH}": score(distance, np.where(near, near, majority) == expected),
        },
        files=len(documents),
        longest=max(text.shape[0] for text in texts),
        false_alarms=false_alarms / len(texts),
    )


def locate(
    characters: NDArray[np.uint8], outputs: NDArray[np.float32], least: float = LEAST_TRUST
) -> int:
    """The position of the first fault by outputs [n, OUTPUTS] for a text of characters [n].

    It is the first closing bracket whose probability to be right is below `least`; n if that is so
    for the end of the text, where a bracket is left open; -1 for none.
    """
    if not len(characters):
        return -1
    position, trust = trust_of(characters, outputs)
    wrong = np.flatnonzero(trust < least)
    return int(position[wrong[0]]) if wrong.size else -1


def least_trust(
    net: gd.Stack,
    params: gd.Params,
    documents: Sequence[Document],
    *,
    threads: int | None = None,
    memory: int | str | None = None,
) -> float:
    """The limit for `locate`: MARGIN times the smallest trust in these balanced documents."""
    texts = [document.characters for document in documents]
    lowest = min(
        float(trust_of(texts[i], outputs)[1].min())
        for i, outputs in outputs_of(net, params, texts, threads=threads, memory=memory)
    )
    return min(LEAST_TRUST, MARGIN * lowest)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    # Texts are sorted by length, so that there is little padding. Long ones come first, so that the
    # time left is not underestimated.
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not lengths[i]:
            continue
        if batch and (len(batch) == BATCH or lengths[batch[0]] * len(batch) >= _BATCH_CHARACTERS):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
