"""By how much each single step of a net can stretch a perturbation, along its trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.checks import positive_int
from .._engine.calls import apply
from .._engine.prepare import Progress
from .._net import validate
from .._net.stack import Params, Stack
from .._net.state import LayerState, state_size
from ..jacobian import step_jacobians
from ..jacobian._ranges import Ranges, one_way
from .spectral import spectral_norm

__all__ = ["Amplification", "along"]

# The bytes of Jacobians that are in memory at a time.
PIECE = 32_000_000


@dataclass(frozen=True, eq=False)
class Amplification:
    """Norms of the Jacobian d state_t / d state_(t-1) at chosen steps t.

    steps (n,): the chosen steps. norm (n, B): the spectral norm, the largest factor by which a
    perturbation can grow in the step.
    """

    steps: NDArray[np.int64]
    norm: NDArray[np.float64]

    @property
    def log10_bound(self) -> NDArray[np.float64]:
        """log10 of the geometric mean of the norms, (B,).

        If the chosen steps are typical, the norm of the product of T Jacobians is at most
        10**(T * log10_bound). It is often far smaller, because the factors stretch different
        directions: gradcore.lyapunov measures the true growth.
        """
        with np.errstate(divide="ignore"):
            logs: NDArray[np.float64] = np.log10(self.norm).mean(axis=0)
        return logs


def along(
    net: Stack,
    params: Params,
    x: Any,
    *,
    points: int = 100,
    layer: int | None = None,
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    lengths: Any = None,
    reset: Any = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Amplification:
    """Spectral norms of a net's one-step Jacobians along its trajectory.

    points: the number of steps to measure, spread evenly over all T. layer: measure only the block
    of this recurrent layer's state; None measures the whole state of the net, S values. The other
    arguments are those of gradcore.jacobian.step_jacobians; the net is in evaluation mode. The norm
    is 0 at a step that is reset, and 1 past a sequence's end.

    The cost is two forward passes, and for each of the steps S tangents and an iteration for the
    norm: about 5 ms per step for an LSTM with 128 units, S = 256.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    Reference: Pascanu, Mikolov, Bengio 2013, eq. 6 (the bound by the norms).
    """
    validate.model(net, params)
    one_way(net, "amplification.along")
    ranges = Ranges(net, params.dtype, x, lengths, reset, static)
    count = min(positive_int("points", points), ranges.steps)
    steps = np.unique(np.linspace(0, ranges.steps - 1, count).astype(np.int64))
    size = state_size(net, 1)
    group = max(1, PIECE // (ranges.batch * size * size * params.dtype.itemsize))
    how: dict[str, Any] = {"memory": memory, "threads": threads}
    norms = np.empty((len(steps), ranges.batch))
    at, now = 0, state
    for first in range(0, len(steps), group):
        chosen = steps[first : first + group]
        stop = int(chosen[-1]) + 1
        if at < chosen[0]:
            _, now = apply(net, params, **ranges[at : chosen[0]], state=now, **how)
            at = int(chosen[0])
        part = ranges[at:stop]
        found = step_jacobians(
            net, params, steps=(chosen - at).tolist(), layer=layer, state=now, **part, **how
        )
        flat = found.reshape(-1, *found.shape[2:])
        values = np.asarray(spectral_norm(flat, threads=threads).value)
        norms[first : first + group] = values.reshape(found.shape[:2])
        if stop < ranges.steps:
            _, now = apply(net, params, **part, state=now, **how)
        at = stop
        if progress is not None:
            progress(min(first + group, len(steps)), len(steps))
    return Amplification(steps, norms)
