"""Accumulation of gradients over several batches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.checks import float_in
from .._base.reprs import Abbreviated, described
from .._base.state_reader import StateDict, StateReader
from .._net.stack import Grads, Params
from ..errors import ArgumentError, DTypeError, ShapeError

__all__ = ["Accumulator"]

# So many elements are widened to float64 at a time. They fit into the cache (256 kB), and no
# temporary array as large as all parameters is allocated for every batch.
PIECE = 1 << 15


class Accumulator:
    """Weighted mean of the gradients of several batches, for one step of the optimizer.

    params: the parameters that the gradients belong to.

    The sum is kept in float64 with an exponent of its own, so that gradients beyond the range of
    their dtype can be added, too; terms that are more than about 2**1000 times smaller than the
    largest are lost.
    """

    def __init__(self, params: Params) -> None:
        if not isinstance(params, Params):
            raise DTypeError(f"params must be gradcore.Params; got {type(params).__name__}.")
        self._owner, self._dtype = params.owner, params.dtype
        self._sum = np.zeros(params.flat.shape)
        self._exponent = 0  # the true sum is _sum * 2**_exponent
        self._weight = 0.0
        self._count = 0

    def __repr__(self) -> str:
        values = Abbreviated(f"{self._sum.size:,} values")
        return described(self, params=values, count=self._count, weight=self._weight)

    @property
    def count(self) -> int:
        """The number of gradients added since the last take()."""
        return self._count

    def add(self, grads: Grads, weight: float = 1.0) -> None:
        """Adds weight * grads; weight is 0 or more, for example the batch's number of loss terms.

        Raises ShapeError, DTypeError or ArgumentError, and adds nothing then.
        """
        if not isinstance(grads, Grads):
            raise DTypeError(f"grads must be gradcore.Grads; got {type(grads).__name__}.")
        if grads.owner != self._owner or grads.dtype != self._dtype:
            raise ShapeError(
                f"grads must be laid out like the params, {self._dtype} for {self._owner!r}; "
                f"they are {grads.dtype} for {grads.owner!r}."
            )
        weight = float_in("weight", weight, 0.0)
        if self._count == 0:
            self._exponent = grads.exponent
        elif grads.exponent > self._exponent:
            np.ldexp(self._sum, _shift(self._exponent - grads.exponent), out=self._sum)
            self._exponent = grads.exponent
        for start in range(0, self._sum.size, PIECE):
            term = grads.flat[start : start + PIECE].astype(np.float64)
            if grads.exponent < self._exponent:
                np.ldexp(term, _shift(grads.exponent - self._exponent), out=term)
            if weight != 1.0:
                term *= weight
            self._sum[start : start + PIECE] += term
        self._weight += weight
        self._count += 1

    def take(self) -> Grads:
        """Returns the weighted mean and clears the sum.

        The mean has an exponent other than 0 only if its numbers would leave the range of the
        dtype without one. Raises ArgumentError if nothing was added or all weights are 0.
        """
        flat = np.empty(self._sum.shape, self._dtype)
        return Grads(self._owner, flat, self._take_into(flat))

    def _take_into(self, flat: NDArray[Any]) -> int:
        """Writes the mean to `flat`, clears the sum and returns the exponent of the mean."""
        if self._weight == 0.0:
            raise ArgumentError(
                "take() needs gradients with a weight above 0; "
                f"{self._count} were added, with a total weight of 0. Call add(grads) first."
            )
        mean: NDArray[np.float64] = self._sum
        exponent = 0
        mean /= self._weight
        if self._exponent != 0:
            mean, exponent = _folded(mean, self._exponent, self._dtype == np.float32)
        np.copyto(flat, mean, casting="same_kind")
        self._clear()
        return exponent

    def _clear(self) -> None:
        self._sum.fill(0.0)
        self._exponent, self._weight, self._count = 0, 0.0, 0

    def state_dict(self) -> StateDict:
        """The sum of what was added since the last take(), its exponent, weight and count."""
        return {
            "kind": "accumulator",
            "sum": self._sum.copy(),
            "exponent": self._exponent,
            "weight": self._weight,
            "count": self._count,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continues from a state dict.

        Raises ArgumentError, DTypeError or ShapeError naming the key, and changes nothing then.
        """
        keys = ("sum", "exponent", "weight", "count")
        read = StateReader("Accumulator", state, "accumulator", keys)
        total = read.array("sum", self._sum)
        exponent = read.integer("exponent", -(2**62))
        weight, count = read.number("weight", 0.0), read.integer("count")
        np.copyto(self._sum, total)
        self._exponent, self._weight, self._count = exponent, weight, count


def _shift(exponent: int) -> int:
    """The exponent, cut to +-4000 to fit np.ldexp: any float64 is 0 or infinite beyond that."""
    return max(-4000, min(4000, exponent))


def _folded(
    mean: np.ndarray[tuple[int, ...], np.dtype[np.float64]], exponent: int, single: bool
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float64]], int]:
    """The same mean as (numbers, exponent), with exponent 0 if its largest number is well in range.

    Otherwise the largest number is brought to between 0.5 and 1.
    """
    largest = float(np.max(np.abs(mean)))
    if largest == 0.0 or not math.isfinite(largest):
        return mean, 0
    size = math.frexp(largest)[1]
    low, high = (-40, 120) if single else (-400, 1000)
    kept = 0 if low <= size + exponent <= high else exponent + size
    return np.ldexp(mean, _shift(exponent - kept)), kept
