"""Jacobian-vector products: K tangents that are carried forward through a net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.memory import empty
from .._engine.calls import Seed
from .._engine.objective import Objective
from .._engine.planner import Plan
from .._engine.prepare import Arrays, Progress, prepare
from .._net import validate
from .._net.stack import Grads, Params, Stack
from .._net.state import LayerState, state_size, unflatten
from ..errors import ArgumentError
from ._directions import (
    count_of,
    input_directions,
    parameter_directions,
    state_directions,
)

__all__ = ["Jvp", "jvp"]


@dataclass(frozen=True, eq=False)
class Jvp:
    """The result of jvp.

    outputs [T, B, O] and state: the same bits that gradcore.apply gives. d_outputs [K, T, B, O]:
    the true tangent of outputs[t] is d_outputs[:, t] * 2**d_outputs_exponent[t]. dstate: tangents
    of state, whose arrays have a leading axis K; those of layer i are to be multiplied by
    2**dstate_exponent[i], where a bidirectional layer counts as two, one per direction of time.
    Of a net with Heads, outputs and d_outputs are dicts of such arrays.
    Exponents are 0 unless the numbers would leave the range of the dtype. plan: the plan that the
    pass followed; arena_bytes: the working memory of the core in bytes; threads: the number of
    threads in use at the end of the pass.
    """

    outputs: Any
    state: tuple[LayerState, ...]
    d_outputs: Any
    d_outputs_exponent: NDArray[np.int32]
    dstate: tuple[LayerState, ...]
    dstate_exponent: NDArray[np.int32]
    plan: Plan
    threads: int
    arena_bytes: int


def jvp(
    net: Stack,
    params: Params,
    x: Any,
    *,
    dparams: NDArray[Any] | Sequence[Params | Grads] | None = None,
    dx: Any = None,
    dstate: Sequence[LayerState] | None = None,
    dstatic: Any = None,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    seed: Seed = None,
    train: bool = False,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Jvp:
    """J v for K directions v at once: tangents of a net's outputs and of its final state.

    dparams: directions of the parameters, (K, n_parameters) or a sequence of K Params or Grads.
    dx: directions of the input, (K, T, B, I), for float x only; those past a sequence's end do not
    count. dstate: directions of the initial state, a state whose arrays have a leading axis K;
    where the net computes its initial state, they are added to those that it has from the others.
    dstatic: directions of static, (K, B, S). What is None stays constant; at least one must be
    given, and all that are given must agree in K. The other arguments are those of gradcore.apply.

    The forward pass runs once; the K tangents of all B sequences are rows of one product. The K
    tangents share one power of two as their scale, which is checked every 8 steps: the largest is
    exact for any size, and those smaller than it by a factor of more than 2**126 (float32) are 0.
    The accuracy is that of a gradient in this dtype. Results have the same bits for every memory
    budget and number of threads.

    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, and NonFiniteError if the
    forward pass overflows, or a tangent within one step.
    Reference: Griewank and Walther 2008, section 3.1.
    """
    validate.model(net, params)
    inputs = validate.inputs(net, params.dtype, x, lengths, reset, state, static)
    mode = validate.mode(net, train, seed)
    batch = inputs.batch
    directions, count = _directions(params, inputs, dparams, dx, dstate, dstatic)
    outputs = empty((*net.positions(inputs.output_steps, batch), net.output_size), params.dtype)
    state_out = np.empty(state_size(net, batch), params.dtype)
    d_outputs = empty((count, *outputs.shape), params.dtype)
    exponent = np.empty(inputs.output_steps, np.int32)
    d_state = np.empty((count, state_size(net, batch)), params.dtype)
    d_state_exponent = np.empty(net.n_states, np.int32)
    results: Arrays = {
        "outputs": outputs,
        "state_out": state_out,
        "t_outputs": d_outputs,
        "t_exponent": exponent,
        "t_state_out": d_state,
        "t_state_exponent": d_state_exponent,
    }
    report, made = prepare(
        params,
        inputs.beside(directions, dparams, dx, dstatic),
        mode,
        Objective("none"),
        results,
        memory,
        threads,
        progress,
        tangents=count,
    ).run()
    return Jvp(
        outputs=net.named(outputs),
        state=unflatten(net, batch, state_out),
        d_outputs=net.named(d_outputs),
        d_outputs_exponent=exponent,
        dstate=unflatten(net, batch, d_state),
        dstate_exponent=d_state_exponent,
        plan=made,
        threads=report.threads,
        arena_bytes=report.arena_bytes,
    )


def _directions(
    params: Params,
    inputs: validate.Inputs,
    dparams: object,
    dx: object,
    dstate: Sequence[LayerState] | None,
    dstatic: object,
) -> tuple[Arrays, int]:
    """The directions, checked, by the names of the core's arrays, and their number K."""
    net, dtype, batch = params.net, params.dtype, inputs.batch
    if dx is not None and inputs.token_bytes:
        raise ArgumentError(
            "dx must be None if x holds integer tokens, which have no tangent. Pass a direction of "
            "the embedding, or of weight_ih, as dparams instead."
        )
    if dstatic is not None and net.static_size is None:
        raise ArgumentError("dstatic must be None, because no layer of the net reads static.")
    t_params = t_x = t_state = t_static = None
    if dparams is not None:
        t_params = parameter_directions("dparams", dparams, params)
    if dx is not None:
        t_x = input_directions("dx", dx, (inputs.steps, batch, net.input_size), dtype)
    if dstate is not None:
        t_state = state_directions("dstate", net, batch, dtype, dstate)
    if dstatic is not None:
        t_static = input_directions("dstatic", dstatic, (batch, net.static_size or 0), dtype)
    count = count_of(dparams=t_params, dx=t_x, dstate=t_state, dstatic=t_static)
    found: Arrays = {"t_params": t_params, "t_x": t_x, "t_state": t_state, "t_static": t_static}
    return found, count
