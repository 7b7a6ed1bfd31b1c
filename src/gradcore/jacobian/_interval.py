"""The number of steps between two orthogonalisations (QR) of a set of directions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["next_interval"]

LONGEST = 64


def next_interval(diagonal: NDArray[np.float64], length: int, dtype: np.dtype[Any]) -> int:
    """The steps after which the growth of directions differs by a quarter of the dtype's digits.

    It is at most LONGEST. The other three quarters of the digits are the accuracy that is left to
    the direction that grew least. diagonal (B, K): the factor by which each direction grew over the
    last `length` steps, the diagonal of R. A sequence whose directions are all exactly 0 is left
    out; if one direction is 0 beside others that are not, the next interval is one step.
    """
    alive = diagonal[diagonal.any(axis=1)]
    if not len(alive):
        return length
    if not alive.all():
        return 1
    per_step = max(float(np.log(alive.max(axis=1) / alive.min(axis=1)).max()), 1e-9) / length
    apart = -0.25 * np.log(float(np.finfo(dtype).eps))
    return int(np.clip(apart / per_step, 1, LONGEST))
