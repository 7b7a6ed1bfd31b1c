"""The output of a net for every base of a sequence of any length, the same for both strands."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from .labels import complement, tokens

__all__ = ["probabilities"]


def probabilities(
    net: gd.Stack,
    params: gd.Params,
    letters: NDArray[np.uint8],
    *,
    width: int,
    reverse: Any,
    piece: int,
    beside: int,
    circular: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> NDArray[np.float64]:
    """Probabilities (n, C) of every base's class, the mean over both strands.

    width: bases per token. reverse (C,): of each class, the one that it is on the other strand.
    Sequences of more than piece + 2 beside bases are read in pieces of `piece`, with `beside` more
    on each side that are read but not kept. circular: the last base is followed by the first, so
    that as many are read beyond either end.
    """
    if circular:
        ends = min(beside, len(letters))
        turned = np.concatenate([letters[len(letters) - ends :], letters, letters[:ends]])
        found = probabilities(
            net,
            params,
            turned,
            width=width,
            reverse=reverse,
            piece=piece,
            beside=beside,
            threads=threads,
            memory=memory,
        )
        return found[ends : ends + len(letters)]
    found = np.empty((len(letters), net.output_size))
    whole = len(letters) <= piece + 2 * beside
    for start in range(0, len(letters), len(letters) if whole else piece):
        stop = len(letters) if whole else min(start + piece, len(letters))
        low, high = max(0, start - beside), min(len(letters), stop + beside)
        part = letters[low:high]
        both = np.stack([tokens(part, width), tokens(complement(part), width)], axis=1)
        outputs, _ = gd.apply(net, params, both.astype(np.int64), threads=threads, memory=memory)
        made = np.exp(outputs.astype(np.float64) - outputs.max(axis=2, keepdims=True))
        made /= made.sum(axis=2, keepdims=True)
        mean = 0.5 * (made[:, 0] + made[::-1, 1][:, reverse])
        found[start:stop] = mean[start - low : stop - low]
    return found
