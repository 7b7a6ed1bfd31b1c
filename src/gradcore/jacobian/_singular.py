"""Singular values of the Jacobian of the state over many steps, in logarithms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.blas import single_threaded
from .._base.checks import integer, positive_int
from .._engine.calls import apply
from .._engine.prepare import Progress
from .._net import validate
from .._net.stack import Params, Stack
from .._net.state import LayerState, state_size
from ..errors import ArgumentError
from ._interval import next_interval
from ._ranges import Ranges, one_way
from ._reverse import vjp
from ._states import columns_of, state_of_columns
from ._tangents import jvp

__all__ = ["state_singular_values"]

# The QR iteration on the triangular factors ends when no logarithm changes by more than SETTLED in
# a sweep. Each sweep multiplies the off-diagonal elements by the squared ratio of neighbouring
# singular values.
SETTLED = 1e-7
MOST_SWEEPS = 60

# The leading k values come from a subspace iteration with k + SPARE directions, which ends when no
# log10 rises by more than RISE in a round.
SPARE = 8
RISE = 1e-4
MOST_ROUNDS = 20

# The number of steps between two states of the forward pass that are kept.
STRETCH = 64

Matrices = NDArray[np.float64]


def state_singular_values(
    net: Stack,
    params: Params,
    x: Any,
    lags: Sequence[int],
    k: int | None = None,
    *,
    interval: int | None = None,
    seed: int = 0,
    state: Sequence[LayerState] | None = None,
    lengths: Any = None,
    reset: Any = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """log10 of the singular values of d state_T / d state_(T-lag), (len(lags), B, k), descending.

    k: the number of values to compute, from the largest; None computes all S, the size of one
    sequence's state. For all S, cotangents are carried back from the end and orthogonalised every
    `interval` steps (None: as often as their measured growth requires, at most every 64 steps). The
    product of the triangular factors is never formed, so values of 1e+5000 and 1e-5000 can stand
    side by side; a value of 0 gives -inf. The error of a logarithm is about the dtype's rounding
    error times the number of factors; values below 1e-16 of the largest that agree with a neighbour
    within a few percent may be off by a part of their difference. The factors take
    lag/interval * B * S * S * 8 bytes, and the time grows with S^3.

    With k, a subspace iteration carries k + 8 random directions (seed) forward and back between
    T-lag and T until no value rises by more than 1e-4 in log10. The values are lower bounds; those
    with close neighbours may be about 1e-3 too low. Time and memory grow with S * k.

    The net is in evaluation mode. Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError,
    NonFiniteError.
    Reference: Oliveira and Stewart 2000, "Exponential splittings of products of matrices" (the QR
    iteration on the factors); Benettin et al. 1980 for the orthogonalisation; Halko, Martinsson and
    Tropp 2011, algorithm 4.4 (subspace iteration).
    """
    validate.model(net, params)
    one_way(net, "state_singular_values")
    ranges = Ranges(net, params.dtype, x, lengths, reset)
    wanted = [integer("lags", lag) for lag in lags]
    if not wanted or any(not 0 <= lag <= ranges.steps for lag in wanted):
        raise ArgumentError(f"lags must be in 0..T = 0..{ranges.steps}; got {wanted}.")
    size = state_size(net, 1)
    count = size if k is None else positive_int("k", k)
    if count > size:
        raise ArgumentError(
            f"k must be at most S = {size}, the size of one sequence's state; got {count}."
        )
    fixed = None if interval is None else positive_int("interval", interval)
    rng = np.random.default_rng(integer("seed", seed))
    lengths_of = sorted(set(wanted) - {0})
    # A pass follows every decomposition.
    with single_threaded():
        path = _Path(net, params, ranges, state, ranges.steps - max(wanted), fixed, memory, threads)
        if count + SPARE < size:
            logs = _leading(path, lengths_of, count, rng, progress)
        else:
            logs = _all(path, lengths_of, progress)
    logs[0] = np.zeros((ranges.batch, size))
    found: Matrices = np.stack([logs[lag][:, :count] for lag in wanted]) / np.log(10.0)
    return found


def _all(path: _Path, lags: Sequence[int], progress: Progress | None) -> dict[int, Matrices]:
    """Natural logs of all singular values by lag, from one pass back with S directions."""
    size, end = state_size(path.net, 1), path.ranges.steps
    frames = np.broadcast_to(np.eye(size), (path.ranges.batch, size, size)).copy()
    factors: list[Matrices] = []
    logs = {}
    for lag in lags:
        begin = path.ranges.steps - lag

        def tell(t: int) -> None:
            if progress is not None:
                progress(path.ranges.steps - t, lags[-1])

        frames = path.back(frames, end, begin, factors, tell)
        end = begin
        logs[lag] = _log_singular_values(factors)
    return logs


def _leading(
    path: _Path,
    lags: Sequence[int],
    count: int,
    rng: np.random.Generator,
    progress: Progress | None,
) -> dict[int, Matrices]:
    """Natural logs of the largest singular values by lag, by subspace iteration."""
    size, end, batch = state_size(path.net, 1), path.ranges.steps, path.ranges.batch
    logs = {}
    for number, lag in enumerate(lags):
        begin = end - lag
        frames = np.linalg.qr(rng.standard_normal((batch, size, count + SPARE)))[0]
        before = np.full((batch, count), -np.inf)
        for _ in range(MOST_ROUNDS):
            factors: list[Matrices] = []
            frames = path.back(path.forth(frames, begin, end), end, begin, factors)
            found = _log_singular_values(factors)
            rises = found[:, :count] > before + RISE * np.log(10.0)
            before = found[:, :count]
            if not rises.any():
                break
        logs[lag] = found
        if progress is not None:
            progress(number + 1, len(lags))
    return logs


class _Path:
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
            start = max(at - self.step, begin)
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
            frames, factor = self._orthogonal(result.dstate, result.dstate_exponent, at - start)
            factors.append(factor)
            at = start
            tell(at)
        return frames

    def forth(self, frames: Matrices, begin: int, end: int) -> Matrices:
        """Carries tangents forward from `begin` to `end`."""
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
            frames, _ = self._orthogonal(result.dstate, result.dstate_exponent, stop - at)
            at = stop
        return frames

    def _before(self, t: int) -> Any:
        """The state before step t."""
        start = min(self.first + (t - self.first) // STRETCH * STRETCH, max(self.kept))
        if t == start:
            return self.kept[start]
        ranges = self.ranges[start:t]
        return apply(self.net, self.params, **ranges, state=self.kept[start], **self.how)[1]

    def _directions(self, frames: Matrices) -> tuple[LayerState, ...]:
        dtype = self.params.dtype
        return state_of_columns(self.net, self.ranges.batch, dtype, frames.astype(dtype))

    def _orthogonal(
        self, states: Sequence[LayerState], exponents: NDArray[np.int32], steps: int
    ) -> tuple[Matrices, Matrices]:
        """Q and R of a frame that was carried over `steps` steps; chooses the next interval."""
        dtype = self.params.dtype
        product, exponent = columns_of(self.net, self.ranges.batch, dtype, states, exponents)
        frames, factor = _orthogonal(product, exponent)
        if self.fixed is None:
            diagonal = np.abs(np.einsum("bkk->bk", factor[:, :, :-1]))
            self.step = next_interval(diagonal, steps, dtype)
        return frames, factor


# ---- the product of the factors


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


def _left_vectors(triangles: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Left singular vectors [B, S, S] of R_n ... R_1, as exact as a plain float64 product is."""
    product = triangles[0]
    for triangle in triangles[1:]:
        product = triangle @ product
        largest = np.abs(product).max(axis=(1, 2), keepdims=True)
        product = product / np.where(largest > 0, largest, 1.0)
    vectors: NDArray[np.float64] = np.linalg.svd(product)[0]
    return vectors


def _log_singular_values(factors: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Natural logs [B, S] of the singular values of R_n ... R_1, descending."""
    total = sum(factor[:, 0, -1] for factor in factors)
    triangles = [factor[:, :, :-1] for factor in factors]
    before = None
    for _ in range(MOST_SWEEPS):
        # The transposed product is R_1' ... R_n'. Orthogonalised from its right end it becomes
        # Q U_1 ... U_n with upper triangles again, in the opposite order. The first sweep starts
        # from the left singular vectors of the plain product; without them, values that are nearly
        # equal would take many sweeps to get into descending order.
        frame, swept = _left_vectors(triangles) if before is None else None, []
        for triangle in reversed(triangles):
            lower = triangle.transpose(0, 2, 1)
            frame, upper = np.linalg.qr(lower if frame is None else lower @ frame)
            swept.append(upper)
        triangles = swept
        with np.errstate(divide="ignore"):
            logs = np.asarray(
                sum(np.log(np.abs(np.einsum("bss->bs", triangle))) for triangle in triangles)
            )
        if before is not None:
            with np.errstate(invalid="ignore"):  # -inf - (-inf) is NaN; such a value is settled
                settled = (logs == before) | (np.abs(logs - before) < SETTLED)
            if settled.all():
                break
        before = logs
    values: NDArray[np.float64] = -np.sort(-(logs + np.asarray(total)[:, None]), axis=1)
    return values
