"""A pass in two calls: the forward pass first, the backward pass when the gradient is known.

It is for losses that are computed elsewhere, for example in another framework.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.memory import empty
from .._net import validate
from .._net.named import joined
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
    """The result of Pass.backward; gradients that wrt did not name are None.

    grads: the gradient with respect to the parameters. dx (T, B, I): the true gradient with respect
    to x[t] is dx[t] * 2**dx_exponent[t]. dstate: the gradient with respect to the initial state;
    that of layer i is to be multiplied by 2**dstate_exponent[i], where a bidirectional layer counts
    as two, one per direction of time. dstatic (B, S): the gradient with respect to static, to be
    multiplied by 2**dstatic_exponent.
    """

    grads: Grads | None
    dx: Array | None
    dx_exponent: NDArray[np.int32] | None
    dstate: tuple[LayerState, ...] | None
    dstate_exponent: NDArray[np.int32] | None
    dstatic: Array | None
    dstatic_exponent: int


def forward(
    net: Stack,
    params: Params,
    x: Any,
    *,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    seed: Seed = None,
    train: bool = True,
    wrt: Sequence[str] = ("params",),
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Pass:
    """Runs the forward pass and keeps the tape, so that Pass.backward can follow later.

    Use it to train on a loss that is computed elsewhere from the outputs; the backward pass can run
    once. If the cotangents are known beforehand, or K of them are wanted, or ranges of steps are
    chained, use gradcore.jacobian.vjp, which is one call.

    wrt: the gradients that Pass.backward will compute, of "params", "x", "state" and
    "static". The other
    arguments and errors are those of gradcore.value_and_grad, and the gradient has the same bits.
    The memory is in use until backward() or until the Pass is deleted; x, params and state must not
    change before that.

    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    """
    validate.model(net, params)
    inputs = validate.inputs(net, params.dtype, x, lengths, reset, state, static)
    mode = validate.mode(net, train, seed)
    wanted = validate.wrt(wrt, inputs.token_bytes > 0, net)
    return Pass(params, inputs, mode, wanted, memory, threads, progress)


class Pass:
    """A forward pass after which backward() can be called once; gradcore.forward makes it.

    outputs (T, B, O), or (B, O) behind a Pool: zero where t >= lengths[b]; a dict of such arrays if
    the net has Heads. state: the state after the last step (after step lengths[b]-1). plan: the
    plan of the pass; about plan.bytes of memory are in use until backward() or until this object is
    deleted.
    """

    outputs: Any
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
        shape = (*net.positions(inputs.output_steps, batch), net.output_size)
        self.flat_outputs = empty(shape, dtype)
        self.outputs = net.named(self.flat_outputs)
        self.flat_state = np.empty(size, dtype)
        # The adjoint of the final state is written here before the backward pass.
        self._d_end = np.zeros(size, dtype)
        self.results = Results.of(net, dtype, steps, batch, wanted)
        self._call, self.plan, *_ = prepare(
            params,
            inputs.beside({"cotangent_final_state": self._d_end}),
            mode,
            Objective("given"),
            {"outputs": self.flat_outputs, "state_out": self.flat_state, **self.results.arrays},
            memory,
            threads,
            progress,
            cotangents=1,
        )
        self._done = False
        self._call.begin()
        self.state = unflatten(net, batch, self.flat_state)

    def __repr__(self) -> str:
        width = self.flat_outputs.shape[-1]
        state = "gone back" if self._done else "waits for d_outputs"
        sizes = f"T={self.plan.steps}, B={self._batch}, O={width}"
        return f"Pass({sizes}, {self.plan.bytes:,} bytes, {state})"

    def __reduce__(self) -> Any:
        raise DTypeError(
            "a Pass cannot be copied or pickled, because it holds the tape of one call. Copy its "
            "outputs, or call gradcore.forward again."
        )

    def backward(
        self, d_outputs: Any, dstate_out: Sequence[LayerState] | None = None
    ) -> PassGradient:
        """Gradients from those of the outputs and of the state after the last step.

        d_outputs: has the shape of `outputs`; of a net with Heads it is a dict with an array for
        each head, or None for zeros. dstate_out: has the form of `state`; None means zero.
        Raises ShapeError, DTypeError, NonFiniteError; ArgumentError when called again.
        """
        net, dtype = self._params.net, self._params.dtype
        shape = self.flat_outputs.shape
        together = joined("d_outputs", d_outputs, net, shape[:-1], dtype)
        checked = validate.floats("d_outputs", together, shape, dtype)
        given = np.require(checked, requirements=["C", "A"])
        end = None
        if dstate_out is not None:
            end = flatten(net, self._batch, dtype, dstate_out, "dstate_out")
        grads = self.backward_flat(given, end)
        return PassGradient(
            grads=grads if "params" in self._wanted else None, **self.results.of_inputs()
        )

    def backward_flat(self, d_outputs: Array, d_end: Array | None) -> Grads:
        """backward() for checked arrays; returns grads, and `results` has the other gradients."""
        if self._done:
            raise ArgumentError(
                "backward() can be called once for a Pass, because it uses up the tape. Call "
                "gradcore.forward again."
            )
        if d_end is not None:
            np.copyto(self._d_end, d_end)
        self._done = True
        report = self._call.finish(d_outputs)
        return Grads(self._params.net, self.results.grads, report.grads_exponent)
