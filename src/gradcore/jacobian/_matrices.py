"""Jacobians of the state as matrices: of single steps and of a range of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.checks import integer
from .._base.scaled import log10_norm
from .._engine.calls import apply
from .._engine.prepare import Progress
from .._net import validate
from .._net.stack import Params, Stack
from .._net.state import LayerState, spans, state_size
from ..errors import ArgumentError
from ._ranges import Ranges, one_way
from ._states import columns_of, state_of_columns
from ._tangents import jvp

__all__ = ["ScaledMatrices", "state_jacobian", "step_jacobians"]


@dataclass(frozen=True, eq=False)
class ScaledMatrices:
    """Matrices mantissa (B, S, S) times 2**exponent, in range for any number of steps."""

    mantissa: NDArray[Any]
    exponent: int

    def log10_norm(self) -> NDArray[np.float64]:
        """log10 of the Frobenius norm of each matrix, (B,); -inf for a norm of 0."""
        return log10_norm(self.mantissa, self.exponent, axis=(1, 2))


def step_jacobians(
    net: Stack,
    params: Params,
    x: Any,
    steps: Sequence[int],
    *,
    layer: int | None = None,
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    lengths: Any = None,
    reset: Any = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> NDArray[Any]:
    """d state_t / d state_(t-1) at chosen steps t, (len(steps), B, S, S), in evaluation mode.

    Rows belong to the state after step t, columns to the state before it. S is the size of one
    sequence's state. Its order is, for each recurrent layer: the last outputs, oldest first (more
    than one with a skip connection), then c of an LSTM. layer: return only the block of this
    recurrent layer's state. The Jacobian of a step that is reset is zero, and that of a step past a
    sequence's end is the identity.

    The cost is one forward pass up to the last of the steps, and S tangents through each of them.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    """
    validate.model(net, params)
    one_way(net, "step_jacobians")
    ranges = Ranges(net, params.dtype, x, lengths, reset, static)
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
    static: Any = None,
    lengths: Any = None,
    reset: Any = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ScaledMatrices:
    """d state_T / d state_0 over all steps of x, (B, S, S) with an exponent, in evaluation mode.

    Rows and columns are those of step_jacobians. Singular values that are smaller than the largest
    by more than the dtype's precision are lost to rounding: for all singular values use
    state_singular_values.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    """
    validate.model(net, params)
    one_way(net, "state_jacobian")
    ranges = Ranges(net, params.dtype, x, lengths, reset, static)
    size = state_size(net, 1)
    start = state_of_columns(net, ranges.batch, params.dtype, np.eye(size, dtype=params.dtype))
    result = jvp(
        net,
        params,
        x,
        dstate=start,
        state=state,
        static=static,
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


def _part(net: Stack, layer: int | None) -> slice:
    """The slice of one sequence's flat state that holds this layer's state; all of it for None."""
    if layer is None:
        return slice(None)
    return spans(net, 1)[validate.recurrent_index(net, layer)]
