"""How far back the gradient of a trained net reaches in whole files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from .lexing import Document

_SEQUENCES, _STEPS = 4, 20_000
_RANGES = 40


@dataclass(frozen=True)
class Horizon:
    """The gradient of the last output with respect to the hidden states before it.

    steps: the length of the shortest of the files that were measured, at most 20,000. lags: the
    geometric middles of ranges of lags, in characters before the output. log10: log10 of the root
    mean square norm in each range, relative to that at the output itself, as the median over the
    files; -inf where it is 0.
    """

    steps: int
    lags: NDArray[np.float64]
    log10: NDArray[np.float64]

    def at(self, lag: float) -> float:
        """log10 in the range that holds a lag."""
        return float(self.log10[np.argmin(np.abs(np.log(self.lags / lag)))])


def measure(
    net: gd.Stack,
    params: gd.Params,
    documents: Sequence[Document],
    *,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Horizon:
    """Measures the gradient in the longest documents, see gradcore.horizon.reach."""
    longest = sorted(documents, key=len, reverse=True)[:_SEQUENCES]
    lengths = np.array([min(len(document), _STEPS) for document in longest])
    x = np.zeros((int(lengths.max()), len(longest)), dtype=np.uint8)
    for b, document in enumerate(longest):
        x[: lengths[b], b] = document.characters[: lengths[b]]
    reach = gd.horizon.reach(net, params, x, lengths=lengths, threads=threads, memory=memory)
    shortest = int(lengths.min())
    borders = np.unique(np.geomspace(1, shortest, _RANGES + 1).astype(np.int64))
    norms = [
        [_root_mean_square(at_lags[one:two]) for one, two in pairwise(borders)]
        for at_lags in (
            reach.norm_log10[:end, b][::-1] - reach.norm_log10[end - 1, b]
            for b, end in enumerate(lengths)
        )
    ]
    middles = np.sqrt(borders[:-1] * borders[1:])
    return Horizon(shortest, middles, np.median(norms, axis=0))


def _root_mean_square(log10: NDArray[np.float64]) -> float:
    squares = np.logaddexp.reduce(2 * log10 * np.log(10)) - np.log(len(log10))
    return float(squares / (2 * np.log(10)))
