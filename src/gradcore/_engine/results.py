"""The arrays that a backward pass writes its gradients to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from .._base.memory import empty
from .._net.stack import Stack
from .._net.state import LayerState, state_size, unflatten

__all__ = ["InputGradients", "Results"]


class InputGradients(TypedDict):
    """Gradients of inputs as calls return them; None for what is not wanted."""

    dx: NDArray[Any] | None
    dx_exponent: NDArray[np.int32] | None
    dstate: tuple[LayerState, ...] | None
    dstate_exponent: NDArray[np.int32] | None
    dstatic: NDArray[Any] | None
    dstatic_exponent: int


@dataclass(frozen=True, eq=False)
class Results:
    """New arrays for the gradients that a call is asked for, flat as the core writes them.

    They take no memory until they are written. grads always exists, because the core sums the
    gradient of the parameters in any case.
    """

    net: Stack
    batch: int
    grads: NDArray[Any]
    dx: NDArray[Any] | None
    dx_exponent: NDArray[np.int32] | None
    dstate: NDArray[Any] | None
    dstate_exponent: NDArray[np.int32] | None
    dstatic: NDArray[Any] | None
    dstatic_exponent: NDArray[np.int32] | None

    @staticmethod
    def of(
        net: Stack,
        dtype: np.dtype[Any],
        steps: int,
        batch: int,
        wanted: frozenset[str],
        grads: NDArray[Any] | None = None,
    ) -> Results:
        """Makes the arrays. wanted: some of "params", "x", "state", "static". grads: a buffer."""
        x, state, static = "x" in wanted, "state" in wanted, "static" in wanted
        return Results(
            net,
            batch,
            empty((net.n_parameters,), dtype) if grads is None else grads,
            empty((steps, batch, net.input_size), dtype) if x else None,
            np.empty(steps, np.int32) if x else None,
            np.empty(state_size(net, batch), dtype) if state else None,
            np.empty(net.n_states, np.int32) if state else None,
            np.empty((batch, net.static_size or 0), dtype) if static else None,
            np.empty(1, np.int32) if static else None,
        )

    @property
    def arrays(self) -> dict[str, NDArray[Any] | None]:
        """All arrays by the names that the core knows them by."""
        return {
            "grads": self.grads,
            "dx": self.dx,
            "dx_exponent": self.dx_exponent,
            "dstate": self.dstate,
            "dstate_exponent": self.dstate_exponent,
            "d_static": self.dstatic,
            "d_static_exponent": self.dstatic_exponent,
        }

    def of_inputs(self) -> InputGradients:
        """The gradients of x, of the initial state as LayerStates, and of static."""
        dstate = None if self.dstate is None else unflatten(self.net, self.batch, self.dstate)
        return {
            "dx": self.dx,
            "dx_exponent": self.dx_exponent,
            "dstate": dstate,
            "dstate_exponent": self.dstate_exponent,
            "dstatic": self.dstatic,
            "dstatic_exponent": 0
            if self.dstatic_exponent is None
            else int(self.dstatic_exponent[0]),
        }
