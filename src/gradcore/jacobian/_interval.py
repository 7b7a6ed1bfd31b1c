"""The number of steps between two orthogonalisations (QR) of a set of directions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["next_interval"]

LONGEST = 64


def next_interval(
    diagonal: NDArray[np.float64],
    length: int,
    dtype: np.dtype[Any],
    lost: NDArray[np.bool_] | None = None,
) -> int:
    """The steps after which the growth of directions differs by a quarter of the dtype's digits.

    It is at most LONGEST. The other three quarters of the digits are the accuracy that is left to
    the direction that grew least. diagonal (B, K): the factor by which each direction grew over the
    last `length` steps, the diagonal of R. lost (B, K): directions that are left out. A sequence
    whose directions are all exactly 0 is left out, too; if one direction is 0 beside others that
    are not, the next interval is one step.
    """
    kept = np.ones(diagonal.shape, bool) if lost is None else ~lost
    kept[~np.any(diagonal, axis=1)] = False
    rows = kept.any(axis=1)
    if not rows.any():
        return length
    least = np.where(kept, diagonal, np.inf)[rows].min(axis=1)
    most = np.where(kept, diagonal, 0.0)[rows].max(axis=1)
    if not least.all():
        return 1
    per_step = max(float(np.log(most / least).max()), 1e-9) / length
    apart = -0.25 * np.log(float(np.finfo(dtype).eps))
    return int(np.clip(apart / per_step, 1, LONGEST))
