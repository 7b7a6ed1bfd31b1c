"""The calls: value_and_grad, value and apply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._base.memory import empty
from .._net import validate
from .._net.stack import Grads, Params, Stack
from .._net.state import LayerState, state_size, unflatten
from ..loss import Loss, LossFunction
from .objective import Objective, objective
from .planner import Plan
from .prepare import Arrays, Progress, prepare
from .results import Results

__all__ = ["GradientResult", "apply", "release_memory", "value", "value_and_grad"]

Seed = int | tuple[int, int] | None


@dataclass(frozen=True, eq=False)
class GradientResult:
    """What value_and_grad found.

    loss: the loss over all terms that count. loss_weight: the sum of the terms' weights, class
    weights included, by which losses and gradients of several batches are to be averaged; 0 for a
    loss function and for Given, whose terms are not known. grads: gradients of the parameters, or
    None. state: the state after step T-1, or after lengths[b]-1. dx [T, B, I]: the true gradient of
    x[t] is dx[t] * 2**dx_exponent[t]. dstate: gradient with respect to the initial state; that of
    layer i is to be multiplied by 2**dstate_exponent[i], where a bidirectional layer counts as two,
    one per direction. plan: what was done; arena_bytes: what the core held; threads: those used at
    the end.
    """

    loss: float
    loss_weight: float
    grads: Grads | None
    state: tuple[LayerState, ...]
    dx: NDArray[Any] | None
    dx_exponent: NDArray[np.int32] | None
    dstate: tuple[LayerState, ...] | None
    dstate_exponent: NDArray[np.int32] | None
    plan: Plan
    threads: int
    arena_bytes: int


def value_and_grad(
    net: Stack,
    params: Params,
    x: Any,
    y: Any = None,
    *,
    loss: str | Loss | LossFunction,
    weight: Any = None,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    seed: Seed = None,
    train: bool = True,
    wrt: Sequence[str] = ("params",),
    memory: int | str | None = None,
    threads: int | None = None,
    out: Grads | None = None,
    progress: Progress | None = None,
) -> GradientResult:
    """Loss and its exact gradient by backpropagation through all T steps, within a memory budget.

    x: (T, B, I) in the dtype of params, or (T, B) integer tokens. y: see gradcore.loss.
    loss: "cross_entropy", "binary_cross_entropy", "mse", an object of gradcore.loss, or a function
    (outputs [t1-t0, B, O], t0, t1) -> (loss, d_outputs), called per segment, perhaps not in order.
    weight: (T, B), or (B,) for losses of the last step. lengths: (B,) integers in 0..T; later
    steps hold the state and count for nothing. reset: (T, B) bool; True zeroes the state of the
    sequence before the step. state: where to start, as an earlier call returned it.
    train: with the random masks of Dropout, zoneout and recurrent_dropout, drawn from seed, an
    integer or (seed, step) with the number of the training step, both in 0..2**64-1; masks are a
    function of these numbers. False: evaluation, with expectations instead.
    wrt: "params", "x", "state". memory: None, "full", bytes or "64MB". out: Grads to write to.
    progress: called as progress(done, total) now and then.

    The gradient is the same to the bit for every memory, threads and run. An exception, one of a
    callback or Ctrl-C included, leaves params as they were and the contents of out undefined.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    Reference: Werbos 1990; Griewank and Walther 2000 for the recomputation.
    """
    validate.model(net, params)
    inputs = validate.inputs(net, params.dtype, x, lengths, reset, state)
    mode = validate.mode(net, train, seed)
    goal = objective(loss, net, params.dtype, inputs.steps, inputs.batch, y, weight)
    wanted = validate.wrt(wrt, inputs.token_bytes > 0)
    given = validate.out(out, params)
    steps, batch, dtype = inputs.steps, inputs.batch, params.dtype
    flat = None if given is None else given.flat
    results = Results.of(net, dtype, steps, batch, wanted, flat)
    state_out = np.empty(state_size(net, batch), dtype)
    arrays: Arrays = {"state_out": state_out, **results.arrays}
    call = prepare(params, inputs, mode, goal, arrays, memory, threads, progress)
    report, made = call.run()
    grads = None
    if "params" in wanted:
        grads = (given or Grads(net, results.grads)).written(report.grads_exponent)
    return GradientResult(
        loss=report.loss,
        loss_weight=goal.terms(report.loss_weight, net),
        grads=grads,
        state=unflatten(net, batch, state_out),
        **results.of_inputs(),
        plan=made,
        threads=report.threads,
        arena_bytes=report.arena_bytes,
    )


def value(
    net: Stack,
    params: Params,
    x: Any,
    y: Any = None,
    *,
    loss: str | Loss | LossFunction,
    weight: Any = None,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    seed: Seed = None,
    train: bool = False,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> float:
    """The loss alone, equal to the bit to that of value_and_grad with the same seed and train.

    Arguments and errors as there, but the default is train=False, evaluation.
    """
    return weighted_value(
        net,
        params,
        x,
        y,
        loss=loss,
        weight=weight,
        lengths=lengths,
        reset=reset,
        state=state,
        seed=seed,
        train=train,
        memory=memory,
        threads=threads,
        progress=progress,
    )[0]


def weighted_value(
    net: Stack,
    params: Params,
    x: Any,
    y: Any = None,
    *,
    loss: str | Loss | LossFunction,
    weight: Any = None,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    seed: Seed = None,
    train: bool = False,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[float, float]:
    """The loss, and the sum of the weights of its terms as GradientResult.loss_weight has it."""
    validate.model(net, params)
    inputs = validate.inputs(net, params.dtype, x, lengths, reset, state)
    mode = validate.mode(net, train, seed)
    goal = objective(loss, net, params.dtype, inputs.steps, inputs.batch, y, weight)
    report, _ = prepare(params, inputs, mode, goal, {}, memory, threads, progress).run()
    return report.loss, goal.terms(report.loss_weight, net)


def apply(
    net: Stack,
    params: Params,
    x: Any,
    *,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    seed: Seed = None,
    train: bool = False,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[NDArray[Any], tuple[LayerState, ...]]:
    """Outputs (T, B, O) of a net and its state after the last step.

    Outputs are zero where t >= lengths[b]. Arguments and errors as for value_and_grad, but the
    default is train=False, evaluation.
    """
    validate.model(net, params)
    inputs = validate.inputs(net, params.dtype, x, lengths, reset, state)
    outputs = empty((inputs.steps, inputs.batch, net.output_size), params.dtype)
    state_out = np.empty(state_size(net, inputs.batch), params.dtype)
    results: Arrays = {"outputs": outputs, "state_out": state_out}
    mode = validate.mode(net, train, seed)
    prepare(params, inputs, mode, Objective("none"), results, memory, threads, progress).run()
    return outputs, unflatten(net, inputs.batch, state_out)


def release_memory() -> None:
    """Gives the memory that the core keeps for later calls back to the system."""
    _core.release_memory()
