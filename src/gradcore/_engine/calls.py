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

__all__ = ["GradientResult", "apply", "release_memory", "value", "value_and_grad"]

Seed = int | tuple[int, int] | None


@dataclass(frozen=True, eq=False)
class GradientResult:
    """What value_and_grad found.

    loss: the loss over all terms that count. grads: gradients of the parameters, or None.
    state: the state after step T-1, or after lengths[b]-1. dx [T, B, I]: the true gradient of x[t]
    is dx[t] * 2**dx_exponent[t]. dstate: gradient with respect to the initial state; that of layer
    i is to be multiplied by 2**dstate_exponent[i], where a bidirectional layer counts as two, one
    per direction. plan: what was done; arena_bytes: what the core held; threads: those used at the
    end.
    """

    loss: float
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
    results = _results(params, inputs, wanted, given)
    report, made = prepare(
        params,
        inputs,
        mode,
        goal,
        results,
        (x, y, weight, lengths, reset),
        memory,
        threads,
        progress,
    ).run()
    grads = None
    if "params" in wanted:
        grads = (given or Grads(net, _present(results, "grads"))).written(report.grads_exponent)
    return _collect(params, inputs, results, report, made, grads)


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
    validate.model(net, params)
    inputs = validate.inputs(net, params.dtype, x, lengths, reset, state)
    mode = validate.mode(net, train, seed)
    goal = objective(loss, net, params.dtype, inputs.steps, inputs.batch, y, weight)
    given = (x, y, weight, lengths, reset)
    report, _ = prepare(params, inputs, mode, goal, {}, given, memory, threads, progress).run()
    return report.loss


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
    results: Arrays = {
        "outputs": empty((inputs.steps, inputs.batch, net.output_size), params.dtype),
        "state_out": np.empty(state_size(net, inputs.batch), params.dtype),
    }
    given = (x, lengths, reset)
    mode = validate.mode(net, train, seed)
    prepare(
        params, inputs, mode, Objective("none"), results, given, memory, threads, progress
    ).run()
    state_after = unflatten(net, inputs.batch, _present(results, "state_out"))
    return _present(results, "outputs"), state_after


def release_memory() -> None:
    """Gives the memory that the core keeps for later calls back to the system."""
    _core.release_memory()


def _results(
    params: Params, inputs: validate.Inputs, wanted: frozenset[str], out: Grads | None
) -> Arrays:
    """Fresh arrays for what is wanted; they take no memory until the core writes them."""
    net, dtype, x = params.net, params.dtype, inputs.arrays["x"]
    size = state_size(net, inputs.batch)
    results: Arrays = {"state_out": np.empty(size, dtype)}
    # The core sums the parameters' gradients in any case.
    results["grads"] = empty((net.n_parameters,), dtype) if out is None else out.flat
    if "x" in wanted and x is not None:
        results["dx"] = empty(x.shape, dtype)
        results["dx_exponent"] = np.empty(inputs.steps, np.int32)
    if "state" in wanted:
        results["dstate"] = np.empty(size, dtype)
        directions = sum(len(layer.directions) for layer in net.recurrent)
        results["dstate_exponent"] = np.empty(directions, np.int32)
    return results


def _collect(
    params: Params,
    inputs: validate.Inputs,
    results: Arrays,
    report: _core.Report,
    made: Plan,
    grads: Grads | None,
) -> GradientResult:
    net, batch = params.net, inputs.batch
    dstate = results.get("dstate")
    return GradientResult(
        loss=report.loss,
        grads=grads,
        state=unflatten(net, batch, _present(results, "state_out")),
        dx=results.get("dx"),
        dx_exponent=results.get("dx_exponent"),
        dstate=None if dstate is None else unflatten(net, batch, dstate),
        dstate_exponent=results.get("dstate_exponent"),
        plan=made,
        threads=report.threads,
        arena_bytes=report.arena_bytes,
    )


def _present(arrays: Arrays, name: str) -> NDArray[Any]:
    array = arrays[name]
    assert array is not None
    return array
