"""How well scores along a chromosome predict prophages, and the 6-mers to compare with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..dna.genome import Record
from ..dna.labels import CODES, complement
from .regions import labels

__all__ = ["BIN", "auroc", "averaged", "binned", "by_kmers", "kmer_weights", "truth"]

K = 6
# Bases of a bin, over which scores are averaged and which is judged as one.
BIN = 1_000
# Bases over which the log-odds of 6-mers are averaged, and a net's beside its own per bin.
WINDOW = 10_000


def auroc(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """The probability that a positive one has the higher score, ties half; nan without both kinds.

    Reference: Mann and Whitney 1947.
    """
    ones = int(positive.sum())
    zeros = len(positive) - ones
    if ones == 0 or zeros == 0:
        return float("nan")
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - 0.5 * (counts - 1))[place]
    return float((rank[positive].sum() - 0.5 * ones * (ones + 1)) / (ones * zeros))


def binned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over bins of BIN bases; the last may be shorter."""
    starts = np.arange(0, len(values), BIN)
    sums = np.add.reduceat(values, starts)
    made: NDArray[np.float64] = sums / np.diff(np.append(starts, len(values)))
    return made


def truth(record: Record) -> NDArray[np.bool_]:
    """Whether at least half of a bin lies in a prophage."""
    return binned(labels(record).classes.astype(np.float64)) >= 0.5


def _kmers(letters: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The 6-mer that starts at each base; 4^6 where one of its letters is not A, C, G or T."""
    codes = CODES[letters].astype(np.int64)
    n = max(0, len(codes) - K + 1)
    made, known = np.zeros(n, np.int64), np.ones(n, bool)
    for i in range(K):
        made = made * 4 + codes[i : i + n]
        known &= codes[i : i + n] < 4
    return np.where(known, made, 4**K)


def kmer_weights(records: Sequence[Record]) -> NDArray[np.float64]:
    """log p(6-mer | prophage) - log p(6-mer | host), both strands counted; (4^6 + 1,), the last 0.

    A count of 1 is added to every 6-mer of either kind.
    """
    counts = np.ones((2, 4**K + 1))
    for record in records:
        classes = labels(record).classes
        for letters, own in (
            (record.letters, classes),
            (complement(record.letters), classes[::-1]),
        ):
            found = _kmers(letters)
            for kind in (0, 1):
                chosen = found[own[: len(found)] == kind]
                counts[kind] += np.bincount(chosen, minlength=4**K + 1)
    made: NDArray[np.float64] = np.log(counts[1] / counts[1, :-1].sum())
    made -= np.log(counts[0] / counts[0, :-1].sum())
    made[-1] = 0.0
    return made


def by_kmers(weights: NDArray[np.float64], record: Record) -> NDArray[np.float64]:
    """Mean weight of the 6-mers in the WINDOW bases round each bin, (bins,)."""
    values = np.zeros(len(record))
    found = _kmers(record.letters)
    values[: len(found)] = weights[found]
    return averaged(values)


def averaged(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of a value per base over the WINDOW bases round each bin, (bins,)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    middle = np.arange(0, len(values), BIN) + BIN // 2
    low = np.clip(middle - WINDOW // 2, 0, len(values))
    high = np.clip(middle + WINDOW // 2, 0, len(values))
    made: NDArray[np.float64] = (sums[high] - sums[low]) / np.maximum(1, high - low)
    return made
