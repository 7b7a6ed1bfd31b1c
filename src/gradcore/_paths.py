"""Sums over paths through a chain with a skip connection, in logarithms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["path_sum"]


def path_sum(a: float, lag: int, strength: float, length: int) -> NDArray[np.float64]:
    """log10 of g_0, ..., g_(length-1) with g_t = a g_(t-1) + s g_(t-lag), g_0 = 1; -inf for 0."""
    logs = np.full(length, -np.inf)
    logs[0] = 0.0
    with np.errstate(divide="ignore"):
        step, hop = np.log10(a), np.log10(strength)
    for t in range(1, length):
        terms = [step + logs[t - 1]]
        if t >= lag:
            terms.append(hop + logs[t - lag])
        top = max(terms)
        if top > -np.inf:
            logs[t] = top + np.log10(sum(10.0 ** (term - top) for term in terms))
    return logs
