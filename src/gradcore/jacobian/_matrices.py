"""Jacobians of the state as matrices: of single steps, of many steps, and their singular values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _validate
from .._checks import integer, positive_int
from .._run import Progress
from .._scaled import log10_norm
from ..api import apply
from ..errors import ArgumentError
from ..layers import Stack
from ..params import Params
from ..state import LayerState, spans, state_size
from ._interval import next_interval
from ._ranges import Ranges, one_way
from ._reverse import vjp
from ._states import columns_of, state_of_columns
from ._tangents import jvp

__all__ = ["ScaledMatrices", "state_jacobian", "state_singular_values", "step_jacobians"]

# The QR iteration on the triangular factors ends when no logarithm moves by more; each sweep
# multiplies what is off the diagonal by the squared ratio of neighbouring singular values.
SETTLED = 1e-7
MOST_SWEEPS = 60


@dataclass(frozen=True, eq=False)
class ScaledMatrices:
    """Matrices mantissa (B, S, S) times 2**exponent: never out of range because of many steps."""

    mantissa: NDArray[Any]
    exponent: int

    def log10_norm(self) -> NDArray[np.float64]:
        """log10 of the Frobenius norm of each, (B,); -inf for zero."""
        return log10_norm(self.mantissa, self.exponent, axis=(1, 2))


def step_jacobians(
    net: Stack,
    params: Params,
    x: Any,
    steps: Sequence[int],
    *,
    layer: int | None = None,
    state: Sequence[LayerState] | None = None,
    lengths: Any = None,
    reset: Any = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> NDArray[Any]:
    """d state_t / d state_(t-1) at chosen steps t, (len(steps), B, S, S), in evaluation mode.

    Rows: the state after step t; columns: the state before it. S counts what one sequence keeps, in
    the order of the flat state: per recurrent layer the last outputs, oldest first, then c of an
    LSTM. layer: the block of that layer's state alone. A step that is reset has zeros; one past a
    sequence's end has the identity.

    One forward pass to the last of the steps, and S tangents through each of them.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    """
    _validate.model(net, params)
    one_way(net, "step_jacobians")
    ranges = Ranges(net, params.dtype, x, lengths, reset)
    wanted = [integer("steps", t) for t in steps]
    if any(not 0 <= t < ranges.steps for t in wanted):
        raise ArgumentError(f"steps must be in 0..T-1 = 0..{ranges.steps - 1}; got {wanted}.")
    part = _part(net, layer)
    found: dict[int, NDArray[Any]] = {}
    at, now = 0, state
    how: dict[str, Any] = {"memory": memory, "threads": threads}
    for count, t in enumerate(sorted(set(wanted))):
        if t > at:
            _, now = apply(net, params, **ranges[at:t], state=now, **how)
            at = t
        made = state_jacobian(net, params, **ranges[t : t + 1], state=now, **how)
        found[t] = np.ldexp(made.mantissa, made.exponent)[:, part, part]
        if progress is not None:
            progress(count + 1, len(set(wanted)))
    return np.stack([found[t] for t in wanted])


def state_jacobian(
    net: Stack,
    params: Params,
    x: Any,
    *,
    state: Sequence[LayerState] | None = None,
    lengths: Any = None,
    reset: Any = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ScaledMatrices:
    """d state_T / d state_0 over all steps of x, (B, S, S) with an exponent, in evaluation mode.

    Rows and columns as of step_jacobians. Columns that lie more than the dtype's digits below the
    largest are lost in its roundings: for all singular values use state_singular_values.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    """
    _validate.model(net, params)
    one_way(net, "state_jacobian")
    ranges = Ranges(net, params.dtype, x, lengths, reset)
    size = state_size(net, 1)
    start = state_of_columns(net, ranges.batch, params.dtype, np.eye(size, dtype=params.dtype))
    result = jvp(
        net,
        params,
        x,
        dstate=start,
        state=state,
        lengths=lengths,
        reset=reset,
        memory=memory,
        threads=threads,
        progress=progress,
    )
    matrices, exponent = columns_of(
        net, ranges.batch, params.dtype, result.dstate, result.dstate_exponent
    )
    return ScaledMatrices(matrices.astype(params.dtype), exponent)


def state_singular_values(
    net: Stack,
    params: Params,
    x: Any,
    lags: Sequence[int],
    *,
    interval: int | None = None,
    state: Sequence[LayerState] | None = None,
    lengths: Any = None,
    reset: Any = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """log10 of all singular values of d state_T / d state_(T-lag), (len(lags), B, S), falling.

    Cotangents go back from the end and are orthogonalised every `interval` steps (None: as often as
    their measured spread asks for, at most 64); the triangular factors are multiplied without ever
    being formed, so values of 1e+5000 and 1e-5000 stand side by side; -inf for zero. Logarithms are
    right to the dtype's roundings times the number of factors; neighbours below 1e-16 of the
    largest that are equal to within some percent may be off by part of their distance. Takes
    lag/interval * B * S * S * 8 bytes for the factors.

    In evaluation mode. Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError,
    NonFiniteError.
    Reference: Oliveira and Stewart 2000, "Exponential splittings of products of matrices" (the QR
    iteration on the factors); Benettin et al. 1980 for the orthogonalisation.
    """
    _validate.model(net, params)
    one_way(net, "state_singular_values")
    ranges = Ranges(net, params.dtype, x, lengths, reset)
    wanted = [integer("lags", lag) for lag in lags]
    if not wanted or any(not 0 <= lag <= ranges.steps for lag in wanted):
        raise ArgumentError(f"lags must be in 0..T = 0..{ranges.steps}; got {wanted}.")
    step = 1 if interval is None else positive_int("interval", interval)
    size, batch, dtype = state_size(net, 1), ranges.batch, params.dtype
    how: dict[str, Any] = {"memory": memory, "threads": threads}
    longest = max(wanted)
    borders = sorted({ranges.steps - lag for lag in wanted} | {ranges.steps})
    states = _states_at(net, params, ranges, state, borders[0], how)
    frames = np.broadcast_to(np.eye(size), (batch, size, size)).copy()
    factors: list[NDArray[np.float64]] = []
    logs: dict[int, NDArray[np.float64]] = {0: np.zeros((batch, size))}
    at = ranges.steps
    while at > borders[0]:
        begin = max(at - step, max(b for b in borders if b < at))
        result = vjp(
            net,
            params,
            **ranges[begin:at],
            dstate_out=state_of_columns(net, batch, dtype, frames.astype(dtype)),
            wrt=("state",),
            state=states(begin),
            **how,
        )
        assert result.dstate is not None
        assert result.dstate_exponent is not None
        product, exponent = columns_of(net, batch, dtype, result.dstate, result.dstate_exponent)
        frames, factor = _orthogonal(product, exponent)
        factors.append(factor)
        if interval is None:
            diagonal = np.abs(np.einsum("bss->bs", factor[:, :, :-1]))
            step = next_interval(diagonal, at - begin, dtype)
        at = begin
        if ranges.steps - at in wanted:
            logs[ranges.steps - at] = _log_singular_values(factors)
        if progress is not None:
            progress(ranges.steps - at, longest)
    found: NDArray[np.float64] = np.stack([logs[lag] for lag in wanted]) / np.log(10.0)
    return found


# ---- states and matrices


def _part(net: Stack, layer: int | None) -> slice:
    """Where a layer's state lies in the flat state of one sequence."""
    if layer is None:
        return slice(None)
    which = integer("layer", layer)
    if not -len(net.recurrent) <= which < len(net.recurrent):
        raise ArgumentError(
            f"layer must be one of the net's {len(net.recurrent)} recurrent layers; got {which}."
        )
    return spans(net, 1)[which]


def _states_at(
    net: Stack,
    params: Params,
    ranges: Ranges,
    state: Sequence[LayerState] | None,
    first: int,
    how: dict[str, Any],
) -> Any:
    """A function from a step at or behind `first` to the state before it; keeps every 64th."""
    stretch = 64
    kept: dict[int, Any] = {}
    if first:
        _, state = apply(net, params, **ranges[:first], state=state, **how)
    kept[first] = state
    for t in range(first, ranges.steps - stretch, stretch):
        _, kept[t + stretch] = apply(net, params, **ranges[t : t + stretch], state=kept[t], **how)

    def before(t: int) -> Any:
        start = min(first + (t - first) // stretch * stretch, max(kept))
        if t == start:
            return kept[start]
        return apply(net, params, **ranges[start:t], state=kept[start], **how)[1]

    return before


# ---- the product of the factors


def _orthogonal(
    product: NDArray[np.float64], exponent: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Q and R of each matrix; R has its exponent taken in as a last column of logs.

    Returned as R [B, S, S + 1]: true R is R[:, :, :S] * exp(R[:, 0, S]).
    """
    q, r = np.linalg.qr(product)
    largest = np.abs(r).max(axis=(1, 2))
    scale = np.where(largest > 0, largest, 1.0)
    logs = np.where(largest > 0, np.log(scale) + exponent * np.log(2.0), -np.inf)
    scaled = np.concatenate([r / scale[:, None, None], np.zeros((*r.shape[:2], 1))], axis=2)
    scaled[:, 0, -1] = logs
    return q, scaled


def _left_vectors(triangles: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Left singular vectors [B, S, S] of R_n ... R_1, as far as double precision reaches."""
    product = triangles[0]
    for triangle in triangles[1:]:
        product = triangle @ product
        largest = np.abs(product).max(axis=(1, 2), keepdims=True)
        product = product / np.where(largest > 0, largest, 1.0)
    vectors: NDArray[np.float64] = np.linalg.svd(product)[0]
    return vectors


def _log_singular_values(factors: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Natural logs [B, S] of the singular values of R_n ... R_1, falling."""
    total = sum(factor[:, 0, -1] for factor in factors)
    triangles = [factor[:, :, :-1] for factor in factors]
    before = None
    for _ in range(MOST_SWEEPS):
        # The transposed product is R_1' ... R_n'; orthogonalised from its right end it is Q U_1 ...
        # U_n with upper triangles again, in the opposite order. The first sweep begins with what a
        # plain product knows of its left singular vectors, or equal neighbours would take long to
        # change places.
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
        if before is not None and np.all((logs == before) | (np.abs(logs - before) < SETTLED)):
            break
        before = logs
    values: NDArray[np.float64] = -np.sort(-(logs + np.asarray(total)[:, None]), axis=1)
    return values
