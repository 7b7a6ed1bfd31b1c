"""A pass in two calls: outputs first, and the way back when their gradient is known.

For losses that are computed elsewhere: in another framework, behind other layers, by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.memory import empty
from .._net import validate
from .._net.stack import Grads, Params, Stack
from .._net.state import LayerState, flatten, state_size, unflatten
from ..errors import ArgumentError, DTypeError
from .calls import Seed
from .objective import Objective
from .planner import Plan
from .prepare import Progress, prepare
from .results import Results

__all__ = ["Pass", "PassGradient", "forward"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class PassGradient:
    """What went back; None for what was not wanted.

    grads: of the parameters. dx (T, B, I): the true gradient of x[t] is dx[t] * 2**dx_exponent[t].
    dstate: of the initial state; that of layer i is to be multiplied by 2**dstate_exponent[i],
    where a bidirectional layer counts as two, one per direction.
    """

    grads: Grads | None
    dx: Array | None
    dx_exponent: NDArray[np.int32] | None
    dstate: tuple[LayerState, ...] | None
    dstate_exponent: NDArray[np.int32] | None


def forward(
    net: Stack,
    params: Params,
    x: Any,
    *,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    seed: Seed = None,
    train: bool = True,
    wrt: Sequence[str] = ("params",),
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Pass:
    """Outputs now; their gradient's way back, through all T steps, when it is known.

    For training on a loss that is computed elsewhere from the outputs: the tape is kept until the
    gradient is there, and the way back runs once. Where cotangents are known beforehand, or K of
    them are wanted, or ranges of steps are to be chained, use gradcore.jacobian.vjp, one call.

    wrt: what Pass.backward will be asked for: "params", "x", "state". Other arguments and errors as
    for gradcore.value_and_grad, and the gradient is the same to the bit. The memory budget is held
    until backward() or until the Pass is dropped; x, params and state must not change before.

    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    """
    validate.model(net, params)
    inputs = validate.inputs(net, params.dtype, x, lengths, reset, state)
    mode = validate.mode(net, train, seed)
    wanted = validate.wrt(wrt, inputs.token_bytes > 0)
    return Pass(params, inputs, mode, wanted, memory, threads, progress)


class Pass:
    """A forward pass whose way back can follow, once; gradcore.forward makes it.

    outputs (T, B, O): zero where t >= lengths[b]. state: after the last step (after lengths[b]-1).
    plan: what is done; about plan.bytes are held until backward() or the end of this object.
    """

    outputs: Array
    state: tuple[LayerState, ...]
    plan: Plan

    def __init__(
        self,
        params: Params,
        inputs: validate.Inputs,
        mode: validate.Mode,
        wanted: frozenset[str],
        memory: int | str | None,
        threads: int | None,
        progress: Progress | None,
    ) -> None:
        net, dtype = params.net, params.dtype
        steps, batch = inputs.steps, inputs.batch
        size = state_size(net, batch)
        self._params, self._batch, self._wanted = params, batch, wanted
        self.outputs = empty((steps, batch, net.output_size), dtype)
        self.flat_state = np.empty(size, dtype)
        # Where the adjoint of the final state will be put.
        self._d_end = np.zeros(size, dtype)
        self.results = Results.of(net, dtype, steps, batch, wanted)
        self._call, self.plan = prepare(
            params,
            inputs.beside({"cotangent_final_state": self._d_end}),
            mode,
            Objective("given"),
            {"outputs": self.outputs, "state_out": self.flat_state, **self.results.arrays},
            memory,
            threads,
            progress,
            cotangents=1,
        )
        self._done = False
        self._call.begin()
        self.state = unflatten(net, batch, self.flat_state)

    def __repr__(self) -> str:
        steps, batch, width = self.outputs.shape
        state = "gone back" if self._done else "waits for d_outputs"
        return f"Pass(T={steps}, B={batch}, O={width}, {self.plan.bytes:,} bytes, {state})"

    def __reduce__(self) -> Any:
        raise DTypeError(
            "a Pass cannot be copied or pickled: it holds the tape of one call. Copy its outputs, "
            "or call gradcore.forward again."
        )

    def backward(
        self, d_outputs: Any, dstate_out: Sequence[LayerState] | None = None
    ) -> PassGradient:
        """Gradients from those of the outputs (T, B, O) and of the state after the last step.

        dstate_out: shaped like `state`; None counts as zero.
        Raises ShapeError, DTypeError, NonFiniteError; ArgumentError when called again.
        """
        net, dtype = self._params.net, self._params.dtype
        given = validate.floats("d_outputs", d_outputs, self.outputs.shape, dtype)
        end = None
        if dstate_out is not None:
            end = flatten(net, self._batch, dtype, dstate_out, "dstate_out")
        grads = self.backward_flat(given, end)
        return PassGradient(
            grads=grads if "params" in self._wanted else None, **self.results.of_inputs()
        )

    def backward_flat(self, d_outputs: Array, d_end: Array | None) -> Grads:
        """The same from checked arrays; the others are in `results`."""
        if self._done:
            raise ArgumentError(
                "backward() has used up this pass: its tape is gone. Call gradcore.forward again."
            )
        if d_end is not None:
            np.copyto(self._d_end, d_end)
        self._done = True
        report = self._call.finish(d_outputs)
        return Grads(self._params.net, self.results.grads, report.grads_exponent)
