"""Lyapunov exponents: the rates at which nearby states of a net diverge or converge, in nats/step.

The largest exponent says whether gradients explode (above 0) or vanish (below 0) along a typical
trajectory, and how fast: going back `steps` steps multiplies a gradient by about
exp(exponent * steps).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.blas import single_threaded
from .._base.checks import integer, positive_int
from .._engine.prepare import Progress
from .._net import validate
from .._net.stack import Params, Stack
from .._net.state import LayerState, state_size
from ..errors import ArgumentError, NonFiniteError
from ..jacobian import jvp
from ..jacobian._interval import Lost
from ..jacobian._ranges import Ranges, one_way
from ..jacobian._states import columns_of, state_of_columns

__all__ = ["LyapunovSpectrum", "of_map", "spectrum"]

# The error of the mean is estimated from so many batches of steps: enough to estimate their
# variance, and few enough that each is long compared with the correlation between steps.
BATCHES = 20


@dataclass(frozen=True, eq=False)
class LyapunovSpectrum:
    """The k largest exponents of each sequence.

    exponents (B, k): nats per step, descending; -inf if a direction becomes exactly 0, or less than
    rounding leaves of it: if every step that is looked at alone, as those of a singular Jacobian
    would, makes it smaller than 8 * sqrt(S) * eps of the dtype times the largest direction. So a
    relu net has as many finite exponents as it has units on where it has fewest.
    standard_error (B, k): by batch means over the trajectory. interval: the most steps between two
    orthogonalisations. steps: the steps counted, after burn_in. dimension: S, the number of all
    exponents.
    """

    exponents: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    interval: int
    steps: int
    burn_in: int
    dimension: int

    @property
    def kaplan_yorke(self) -> NDArray[np.float64]:
        """The Kaplan-Yorke dimension of each sequence, (B,); NaN if too few exponents are known.

        It is j + (sum of the first j exponents) / |exponent j+1|, with the largest j for which the
        sum is not negative (Kaplan and Yorke 1979).
        """
        return np.array([self._dimension_of(row) for row in self.exponents])

    def _dimension_of(self, exponents: NDArray[np.float64]) -> float:
        sums = np.cumsum(exponents)
        falls = np.flatnonzero(sums < 0)
        if not len(falls):
            return float(self.dimension) if len(exponents) == self.dimension else float("nan")
        j = int(falls[0])
        before = float(sums[j - 1]) if j else 0.0
        return j + before / abs(float(exponents[j]))


def spectrum(
    net: Stack,
    params: Params,
    x: Any,
    k: int | None = None,
    *,
    interval: int | None = None,
    burn_in: int | None = None,
    frames_seed: int = 0,
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> LyapunovSpectrum:
    """The k largest Lyapunov exponents of a net driven by x, for each sequence.

    x: (T, B, I) or tokens (T, B). k: None means all S, the size of one sequence's state. interval:
    steps between two orthogonalisations; by default as many as let the growth of directions differ
    by a quarter of the dtype's digits, at most 64. burn_in: steps at the start that are not
    counted, while the directions align; by default a tenth of T. frames_seed: seed of the random
    initial directions. state: the initial state. The net is in evaluation mode.

    The cost is one pass over the T steps with k tangents. The exponents of this trajectory are
    exact up to rounding; standard_error estimates how far they are from those of a typical one.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    Reference: Benettin et al. 1980, eq. 9; Engelken, Wolf, Abbott 2023, sec. II.
    """
    validate.model(net, params)
    one_way(net, "lyapunov.spectrum")
    ranges = Ranges(net, params.dtype, x, static=static)
    size, batch, dtype = state_size(net, 1), ranges.batch, params.dtype
    count = size if k is None else positive_int("k", k)
    if count > size:
        raise ArgumentError(
            f"k must be at most S = {size}, the size of one sequence's state; got {count}."
        )
    before, now, begun = state, state, -1

    def advance(t0: int, t1: int, frames: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
        nonlocal before, now, begun
        if t0 == begun:  # once more, with fewer steps
            now = before
        before, begun = now, t0
        result = jvp(
            net,
            params,
            **ranges[t0:t1],
            dstate=state_of_columns(net, batch, dtype, frames.astype(dtype)),
            state=now,
            memory=memory,
            threads=threads,
        )
        now = result.state
        return columns_of(net, batch, dtype, result.dstate, result.dstate_exponent)

    with single_threaded():  # a pass follows every decomposition
        frames = _first_frames(batch, size, count, frames_seed)
        return _collect(advance, frames, ranges.steps, size, interval, burn_in, dtype, progress)


def of_map(
    step: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    tangent: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    state: Any,
    steps: int,
    k: int | None = None,
    *,
    interval: int = 1,
    burn_in: int | None = None,
    frames_seed: int = 0,
    progress: Progress | None = None,
) -> LyapunovSpectrum:
    """The k largest Lyapunov exponents of any map, given as Python functions.

    step(state) returns the next state, (S,). tangent(state, v) returns the Jacobian at state times
    v (S, k). state: the initial state. For a flow, let step be one step of an integrator and divide
    the exponents by its length. The other arguments and the result are those of spectrum, with
    B = 1.
    Raises ArgumentError, and NonFiniteError naming the step if a state is not finite.
    """
    point = np.array(state, dtype=np.float64)
    if point.ndim != 1 or not len(point):
        raise ArgumentError(f"state must have shape (S,); got {point.shape}.")
    size = len(point)
    count = size if k is None else positive_int("k", k)
    if count > size:
        raise ArgumentError(f"k must be at most S = {size}; got {count}.")
    positive_int("interval", interval)

    def advance(t0: int, t1: int, frames: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
        nonlocal point
        moved = frames[0]
        for t in range(t0, t1):
            moved = tangent(point, moved)
            point = step(point)
            if not (np.isfinite(point).all() and np.isfinite(moved).all()):
                raise NonFiniteError(
                    f"the map returned a value that is not finite at step {t}.", 0, t, 0
                )
        return moved[None], 0

    frames = _first_frames(1, size, count, frames_seed)
    return _collect(
        advance,
        frames,
        positive_int("steps", steps),
        size,
        interval,
        burn_in,
        np.dtype("float64"),
        progress,
    )


def _first_frames(batch: int, size: int, count: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(integer("frames_seed", seed))
    frames: NDArray[np.float64] = np.linalg.qr(rng.standard_normal((batch, size, count)))[0]
    return frames


def _collect(
    advance: Callable[[int, int, NDArray[np.float64]], tuple[NDArray[np.float64], int]],
    frames: NDArray[np.float64],
    steps: int,
    size: int,
    interval: int | None,
    burn_in: int | None,
    dtype: np.dtype[Any],
    progress: Progress | None,
) -> LyapunovSpectrum:
    """Follows the trajectory, orthogonalises every `interval` steps and sums logs of the growth."""
    skipped = steps // 10 if burn_in is None else integer("burn_in", burn_in)
    if not 0 <= skipped < steps:
        raise ArgumentError(f"burn_in must be in 0..T-1 = 0..{steps - 1}; got {skipped}.")
    length = 1 if interval is None else positive_int("interval", interval)
    logs, lengths, longest, at = [], [], 0, 0
    lost = Lost(frames.shape, dtype)
    while at < steps:
        # No window crosses the end of the burn-in.
        end = min(at + length, skipped if at < skipped else steps)
        moved, exponent = advance(at, end, frames)
        turned, r = np.linalg.qr(moved)
        diagonal = np.abs(np.einsum("bkk->bk", r))
        largest = np.abs(r).max(axis=(1, 2))[:, None]
        least = lost.least * largest
        if end - at == 1:
            zero = lost.removed(moved, diagonal, least)
            diagonal = np.where(zero, 0.0, diagonal)
            lost.give_up(zero, at >= skipped)
        elif interval is None:
            if (~lost.given_up & (diagonal <= lost.doubtful * largest)).any():
                length = (end - at) // 2
                continue
            diagonal = np.where(lost.given_up, np.maximum(diagonal, least), diagonal)
        lost.look(diagonal, least, end - at)
        frames = turned
        if at >= skipped:
            with np.errstate(divide="ignore"):
                logs.append(np.log(diagonal) + exponent * np.log(2.0))
            lengths.append(end - at)
            longest = max(longest, end - at)
        if interval is None:
            length = lost.next_interval(diagonal, end - at)
        at = end
        if progress is not None:
            progress(at, steps)
    logs[0][lost.given_up] = -np.inf
    return _summary(np.stack(logs), np.array(lengths), longest, skipped, size)


def _summary(
    logs: NDArray[np.float64],
    lengths: NDArray[np.int64],
    longest: int,
    skipped: int,
    size: int,
) -> LyapunovSpectrum:
    """Exponents from logs of the growth in each window (W, B, k), with errors by batch means."""
    steps = int(lengths.sum())
    exponents = logs.sum(axis=0) / steps
    count = min(BATCHES, len(lengths))
    error = np.full(exponents.shape, np.nan)
    if count > 1:
        borders = np.searchsorted(
            np.cumsum(lengths), steps * np.arange(1, count) / count, side="left"
        )
        parts = [part for part in np.split(np.arange(len(lengths)), borders + 1) if len(part)]
        with np.errstate(invalid="ignore"):
            means = np.stack([logs[part].sum(axis=0) / lengths[part].sum() for part in parts])
            error = means.std(axis=0, ddof=1) / np.sqrt(len(parts)) if len(parts) > 1 else error
    order = np.argsort(-exponents, axis=1, kind="stable")
    return LyapunovSpectrum(
        np.take_along_axis(exponents, order, 1),
        np.take_along_axis(error, order, 1),
        longest,
        steps,
        skipped,
        size,
    )
