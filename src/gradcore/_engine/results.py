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
    """Gradients of x and of the initial state as calls return them; None for what is not wanted."""

    dx: NDArray[Any] | None
    dx_exponent: NDArray[np.int32] | None
    dstate: tuple[LayerState, ...] | None
    dstate_exponent: NDArray[np.int32] | None


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

    @staticmethod
    def of(
        net: Stack,
        dtype: np.dtype[Any],
        steps: int,
        batch: int,
        wanted: frozenset[str],
        grads: NDArray[Any] | None = None,
    ) -> Results:
        """Makes the arrays. wanted: some of "params", "x", "state". grads: a buffer to use."""
        x, state = "x" in wanted, "state" in wanted
        return Results(
            net,
            batch,
            empty((net.n_parameters,), dtype) if grads is None else grads,
            empty((steps, batch, net.input_size), dtype) if x else None,
            np.empty(steps, np.int32) if x else None,
            np.empty(state_size(net, batch), dtype) if state else None,
            np.empty(net.n_states, np.int32) if state else None,
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
        }

    def of_inputs(self) -> InputGradients:
        """The gradients of x and of the initial state, the latter as LayerStates."""
        dstate = None if self.dstate is None else unflatten(self.net, self.batch, self.dstate)
        return {
            "dx": self.dx,
            "dx_exponent": self.dx_exponent,
            "dstate": dstate,
            "dstate_exponent": self.dstate_exponent,
        }
