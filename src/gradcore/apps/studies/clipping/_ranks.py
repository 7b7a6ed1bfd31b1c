"""Whether one set of errors is smaller than another, or only seems to be."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

__all__ = ["p_value"]


Errors = Sequence[float] | NDArray[np.float64]


def p_value(one: Errors, two: Errors) -> float:
    """Two-sided p-value of the exact rank-sum test: the chance of ranks that differ as much.

    one, two: numbers that may be infinite; equal ones share their ranks, with which the test errs
    towards larger p-values. Reference: Mann and Whitney 1947.
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (one, two))
    wins = float((a[:, None] < b).sum() + 0.5 * (a[:, None] == b).sum())
    most = max(wins, a.size * b.size - wins)
    ways = _ways(a.size, b.size)
    extreme = sum(ways[int(most) :])  # half a pair counts as none
    return min(1.0, 2 * extreme / comb(a.size + b.size, a.size))


def _ways(n: int, m: int) -> list[int]:
    """How many of the orders of n and m numbers have 0, 1, ... n m pairs in which n's is smaller.

    These are the coefficients of the Gaussian binomial [n + m, n].
    """
    ways = [1] + [0] * (n * m)
    for k in range(1, n + 1):
        # Multiply by 1 - q^(m+k), then divide by 1 - q^k.
        for i in range(n * m, m + k - 1, -1):
            ways[i] -= ways[i - m - k]
        for i in range(k, n * m + 1):
            ways[i] += ways[i - k]
    return ways
