"""How many steps may go by between two orthogonalisations of directions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["next_interval"]

LONGEST = 64


def next_interval(diagonal: NDArray[np.float64], length: int, dtype: np.dtype[Any]) -> int:
    """So many steps that directions grow apart by a quarter of the dtype's digits; at most LONGEST.

    The rest of the digits is what the weakest direction is right to. diagonal (B, K): by how much
    each grew over the last `length` steps. A sequence whose directions are all dead asks for
    nothing; one that is dead beside living ones asks for a look at every step.
    """
    alive = diagonal[diagonal.any(axis=1)]
    if not len(alive):
        return length
    if not alive.all():
        return 1
    per_step = max(float(np.log(alive.max(axis=1) / alive.min(axis=1)).max()), 1e-9) / length
    apart = -0.25 * np.log(float(np.finfo(dtype).eps))
    return int(np.clip(apart / per_step, 1, LONGEST))
