"""Orthonormal frames of directions, carried along a trajectory in both directions of time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._engine.calls import apply
from .._net.stack import Params, Stack
from .._net.state import LayerState
from ._interval import Lost
from ._ranges import Ranges
from ._reverse import vjp
from ._states import columns_of, state_of_columns
from ._tangents import jvp

__all__ = ["Matrices", "Path"]

# The most steps between two states of the forward pass that are kept, and the least.
STRETCH = 64
CLOSEST = 16

Matrices = NDArray[np.float64]


class Path:
    """A trajectory from step `first` on, along which orthonormal frames [B, S, K] are carried."""

    def __init__(
        self,
        net: Stack,
        params: Params,
        ranges: Ranges,
        state: Sequence[LayerState] | None,
        first: int,
        interval: int | None,
        memory: int | str | None,
        threads: int | None,
    ) -> None:
        self.net, self.params, self.ranges, self.first = net, params, ranges, first
        self.fixed = interval
        self.step = 1 if interval is None else interval
        self.how: dict[str, Any] = {"memory": memory, "threads": threads}
        self.lost: dict[tuple[str, int], Lost] = {}  # by the direction of time and K
        if first:
            _, state = apply(net, params, **ranges[:first], state=state, **self.how)
        self.kept: dict[int, Any] = {first: state}
        for t in range(first, ranges.steps - STRETCH, STRETCH):
            _, self.kept[t + STRETCH] = apply(
                net, params, **ranges[t : t + STRETCH], state=self.kept[t], **self.how
            )

    def back(
        self,
        frames: Matrices,
        end: int,
        begin: int,
        factors: list[Matrices],
        tell: Callable[[int], None] = lambda t: None,
    ) -> Matrices:
        """Carries cotangents back from `end` to `begin`; appends the triangular factors."""
        at = end
        while at > begin:
            start = self._start(at, begin)
            result = vjp(
                self.net,
                self.params,
                **self.ranges[start:at],
                dstate_out=self._directions(frames),
                wrt=("state",),
                state=self._before(start),
                **self.how,
            )
            assert result.dstate is not None
            assert result.dstate_exponent is not None
            frames, factor = self._orthogonal(
                "back", result.dstate, result.dstate_exponent, at - start
            )
            factors.append(factor)
            at = start
            tell(at)
        return frames

    def forth(self, frames: Matrices, begin: int, end: int, factors: list[Matrices]) -> Matrices:
        """Carries tangents forward from `begin` to `end`; appends the triangular factors."""
        at, state = begin, self._before(begin)
        while at < end:
            stop = min(at + self.step, end)
            result = jvp(
                self.net,
                self.params,
                **self.ranges[at:stop],
                dstate=self._directions(frames),
                state=state,
                **self.how,
            )
            state = result.state
            frames, factor = self._orthogonal(
                "forth", result.dstate, result.dstate_exponent, stop - at
            )
            factors.append(factor)
            at = stop
            if at - self._nearest(at) >= CLOSEST:
                self.kept[at] = state
        return frames

    def _start(self, at: int, begin: int) -> int:
        """Where the pass back from `at` stops next: if possible, at a state that is kept."""
        start = max(at - self.step, begin)
        if self.fixed is None and start > begin:
            start = next((t for t in range(start, at) if t in self.kept), start)
        return start

    def _nearest(self, t: int) -> int:
        """The last step at or before t before which the state is kept."""
        return next(s for s in range(t, -1, -1) if s in self.kept)

    def _before(self, t: int) -> Any:
        """The state before step t."""
        start = self._nearest(t)
        if t == start:
            return self.kept[start]
        ranges = self.ranges[start:t]
        return apply(self.net, self.params, **ranges, state=self.kept[start], **self.how)[1]

    def _directions(self, frames: Matrices) -> tuple[LayerState, ...]:
        dtype = self.params.dtype
        return state_of_columns(self.net, self.ranges.batch, dtype, frames.astype(dtype))

    def _orthogonal(
        self, time: str, states: Sequence[LayerState], exponents: NDArray[np.int32], steps: int
    ) -> tuple[Matrices, Matrices]:
        """Q and R of a frame that was carried over `steps` steps; chooses the next interval."""
        dtype = self.params.dtype
        product, exponent = columns_of(self.net, self.ranges.batch, dtype, states, exponents)
        frames, factor = _orthogonal(product, exponent)
        if self.fixed is None:
            lost = self.lost.setdefault((time, product.shape[2]), Lost(product.shape, dtype))
            diagonal = np.abs(np.einsum("bkk->bk", factor[:, :, :-1]))
            least = np.full((len(factor), 1), lost.least)  # the largest element of R is 1
            if steps == 1:  # what is lost in one step stays lost in the product
                lost.give_up(diagonal <= least, True)
            lost.look(diagonal, least, steps)
            diagonal = np.where(lost.given_up, np.maximum(diagonal, least), diagonal)
            self.step = lost.next_interval(diagonal, steps)
        return frames, factor


def _orthogonal(
    product: NDArray[np.float64], exponent: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Q and R of each matrix times 2**exponent, with the scale of R in an additional last column.

    R is [B, S, S + 1]: the true R is R[:, :, :S] * exp(R[:, 0, S]).
    """
    q, r = np.linalg.qr(product)
    largest = np.abs(r).max(axis=(1, 2))
    scale = np.where(largest > 0, largest, 1.0)
    logs = np.where(largest > 0, np.log(scale) + exponent * np.log(2.0), -np.inf)
    scaled = np.concatenate([r / scale[:, None, None], np.zeros((*r.shape[:2], 1))], axis=2)
    scaled[:, 0, -1] = logs
    return q, scaled
