"""Skip connections in proofs: their strengths, and sums over all paths through time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .layers import Skip
from .stack import Params

__all__ = ["path_sum", "skip_strengths"]


def skip_strengths(skip: Skip, params: Params, place: str) -> NDArray[np.float64]:
    """The strength s ("add") or a ("mix") of a skip connection: (H,) if it is learned, else (1,).

    place: the number of the layer in its stack, as in the names of its parameters.
    """
    if not skip.learned:
        return np.array([float(skip.value or 0.0)])
    if skip.kind == "add":
        return params[f"{place}.skip_scale"].astype(np.float64)
    scores = params[f"{place}.skip_logit"].astype(np.float64)
    found: NDArray[np.float64] = 1 / (1 + np.exp(-scores))
    return found


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
