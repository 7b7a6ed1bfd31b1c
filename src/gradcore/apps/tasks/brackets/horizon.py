"""How far back the gradient of a trained net reaches in whole files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from .lexing import Document

_SEQUENCES, _STEPS = 4, 20_000
_LAGS = 120


@dataclass(frozen=True)
class Horizon:
    """The gradient of the last output by the hidden states before it, in the longest files.

    steps: the median of the files' lengths, at most 20,000. memory_length: the median of the
    largest lags at which the gradient still has 1 % of its norm at lag 0. lags, log10: the median
    of log10 of the norm at each lag, relative to lag 0; -inf where it is 0.
    """

    steps: int
    memory_length: int
    lags: NDArray[np.int64]
    log10: NDArray[np.float64]


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
    lags = np.unique(np.geomspace(1, int(lengths.min()), _LAGS).astype(np.int64)) - 1
    norms = [
        reach.norm_log10[n - 1 - lags, b] - reach.norm_log10[n - 1, b]
        for b, n in enumerate(lengths)
    ]
    return Horizon(
        int(np.median(lengths)),
        int(np.median(reach.memory_length())),
        lags,
        np.median(norms, axis=0),
    )
