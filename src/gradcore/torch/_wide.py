"""Arrays with an exponent of their own, for numbers beyond the range of a dtype."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Wide"]


class Wide(NamedTuple):
    """The numbers values * 2^exponent: float64 values, of which the largest is in [0.5, 1) or 0."""

    values: NDArray[np.float64]
    exponent: int

    @staticmethod
    def of(values: NDArray[Any], exponent: int = 0) -> Wide:
        """Finite values of any dtype, times 2^exponent."""
        top = float(np.abs(values).max(initial=0.0))
        if top == 0.0:
            return Wide(np.zeros(values.shape), 0)
        shift = math.frexp(top)[1]
        return Wide(_scaled(values.astype(np.float64), -shift), exponent + shift)

    def plus(self, other: Wide) -> Wide:
        # The exponent of zeros is 0 and says nothing.
        exponent = max((one.exponent for one in (self, other) if one.values.any()), default=0)
        parts = [_scaled(one.values, one.exponent - exponent) for one in (self, other)]
        return Wide.of(parts[0] + parts[1], exponent)

    def norm(self) -> tuple[float, int]:
        """The Euclidean norm as m and e of m * 2^e."""
        return float(np.linalg.norm(self.values)), self.exponent

    def tensor(self, like: Tensor) -> Tensor:
        """In the dtype of a tensor: infinite or 0 where a number is beyond its range."""
        return torch.from_numpy(_scaled(self.values, self.exponent)).to(like.dtype)


def _scaled(values: NDArray[np.float64], exponent: int) -> NDArray[np.float64]:
    """values * 2^exponent, rounded once."""
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(values, exponent)
