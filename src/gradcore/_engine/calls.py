"""The calls that users make: value_and_grad, value and apply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._base.memory import empty
from .._net import validate
from .._net.stack import Grads, Params, Stack
from .._net.state import LayerState, state_size, unflatten
from .objective import AnyLoss, Objective, objective
from .planner import Plan
from .prepare import Arrays, Progress, Report, prepare
from .results import Results

__all__ = [
    "GradientResult",
    "WeightedLoss",
    "apply",
    "release_memory",
    "value",
    "value_and_grad",
    "weighted_value",
]

Seed = int | tuple[int, int] | None


@dataclass(frozen=True, eq=False)
class GradientResult:
    """The result of value_and_grad; gradients that wrt does not name are None.

    loss: the loss over all terms that count. loss_weight: the sum of the terms' weights, class
    weights included; losses and gradients of several batches are averaged with these weights. It is
    0 for a Python loss function and for Given, whose terms are not known. grads: the gradient with
    respect to the parameters. state: the state after step T-1, or after step lengths[b]-1. dx
    [T, B, I]: the true gradient with respect to x[t] is dx[t] * 2**dx_exponent[t]. dstate: the
    gradient with respect to the initial state; that of layer i is to be multiplied by
    2**dstate_exponent[i], where a bidirectional layer counts as two, one per direction of time.
    dstatic [B, S]: the gradient with respect to static, to be multiplied by 2**dstatic_exponent.
    plan: the plan that the call followed; arena_bytes: the working memory of the core in bytes;
    threads: the number of threads in use at the end of the call. losses, loss_weights: of a net
    with several heads the loss of each one that has targets, before it is multiplied by the head's
    weight, and the sum of the weights of its terms, of which loss_weight is the sum; else None.
    """

    loss: float
    loss_weight: float
    grads: Grads | None
    state: tuple[LayerState, ...]
    dx: NDArray[Any] | None
    dx_exponent: NDArray[np.int32] | None
    dstate: tuple[LayerState, ...] | None
    dstate_exponent: NDArray[np.int32] | None
    dstatic: NDArray[Any] | None
    dstatic_exponent: int
    plan: Plan
    threads: int
    arena_bytes: int
    losses: dict[str, float] | None = None
    loss_weights: dict[str, float] | None = None


class WeightedLoss(NamedTuple):
    """A loss, the sum of the weights of its terms, and both of each of several heads."""

    loss: float
    weight: float
    heads: dict[str, tuple[float, float]] | None

    @staticmethod
    def of(report: Report, goal: Objective, net: Stack) -> WeightedLoss:
        if report.heads is None or net.heads is None:
            return WeightedLoss(report.loss, goal.terms(report.loss_weight), None)
        heads = {n: report.heads[n] for n in net.heads.columns if n in report.heads}
        return WeightedLoss(report.loss, sum(weight for _, weight in heads.values()), heads)

    def each(self, item: int) -> dict[str, float] | None:
        """The losses (0) or the weights (1) of the heads by name."""
        return None if self.heads is None else {n: pair[item] for n, pair in self.heads.items()}


def value_and_grad(
    net: Stack,
    params: Params,
    x: Any,
    y: Any = None,
    *,
    loss: AnyLoss,
    weight: Any = None,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    seed: Seed = None,
    train: bool = True,
    wrt: Sequence[str] = ("params",),
    memory: int | str | None = None,
    threads: int | None = None,
    out: Grads | None = None,
    progress: Progress | None = None,
) -> GradientResult:
    """The loss and its exact gradient by backpropagation through all T steps, in a memory budget.

    x: (T, B, I) in the dtype of params, or (T, B) integer tokens. y: see gradcore.loss.
    loss: "cross_entropy", "binary_cross_entropy", "mse", "huber", "gaussian_nll", an object of
    gradcore.loss, or a Python function (outputs [t1-t0, B, O], t0, t1) -> (loss, d_outputs), which
    is called for each segment of steps, not always in the order of time. If the net has a Pool, y
    is (B,) or (B, O), and the function is called once, with outputs (B, O). Of a net with Heads,
    loss is a dict with one for each head or a gradcore.loss.Heads, y is a dict of targets, and
    weight may be a dict.
    weight: (T, B), or (B,) for losses of the last step and with a Pool. lengths: (B,) integers in
    0..T; from step lengths[b] on the state does not change, and there is no loss. reset: (T, B)
    bool; True sets the state of the sequence to zero before that step. state: the initial state, as
    an earlier call returned it; None means that of each layer's initial_state, usually zeros.
    static: (B, S), inputs that do not change with time, for nets with StaticInput or
    initial_state="static".
    train: whether Dropout, zoneout and recurrent_dropout draw random masks; False is evaluation,
    with expectations instead. The masks depend on seed alone, which is an integer or (seed, step)
    with the number of the training step, each in 0..2**64-1.
    wrt: the gradients to compute, of "params", "x", "state" and "static". memory: the budget in
    bytes, text such as "64MB", "full" for no limit, or None for 256 MB (less if little memory is
    available).
    threads: the most threads to use; None uses all that the process may. out: Grads whose buffer
    the gradient is written to. progress: a function that is called as progress(done, total) at
    intervals.

    The gradient has the same bits for every memory budget and number of threads. An exception, also
    one from a callback or Ctrl-C, leaves params as they were and the contents of out undefined.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    Reference: Werbos 1990; Griewank and Walther 2000 for the recomputation.
    """
    validate.model(net, params)
    inputs = validate.inputs(net, params.dtype, x, lengths, reset, state, static)
    mode = validate.mode(net, train, seed)
    goal = objective(loss, net, params.dtype, inputs, y, weight)
    wanted = validate.wrt(wrt, inputs.token_bytes > 0, net)
    given = validate.out(out, params)
    steps, batch, dtype = inputs.steps, inputs.batch, params.dtype
    flat = None if given is None else given.flat
    results = Results.of(net, dtype, steps, batch, wanted, flat)
    state_out = np.empty(state_size(net, batch), dtype)
    arrays: Arrays = {"state_out": state_out, **results.arrays}
    call = prepare(params, inputs, mode, goal, arrays, memory, threads, progress)
    report, made = call.run()
    told = WeightedLoss.of(report, goal, net)
    grads = None
    if "params" in wanted:
        grads = (given or Grads(net, results.grads)).written(report.grads_exponent)
    return GradientResult(
        loss=report.loss,
        loss_weight=told.weight,
        grads=grads,
        state=unflatten(net, batch, state_out),
        **results.of_inputs(),
        plan=made,
        threads=report.threads,
        arena_bytes=report.arena_bytes,
        losses=told.each(0),
        loss_weights=told.each(1),
    )


def value(
    net: Stack,
    params: Params,
    x: Any,
    y: Any = None,
    *,
    loss: AnyLoss,
    weight: Any = None,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    seed: Seed = None,
    train: bool = False,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> float:
    """The loss alone, with the same bits as in value_and_grad with the same seed and train.

    Arguments and errors are those of value_and_grad, but the default is train=False.
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
        static=static,
        seed=seed,
        train=train,
        memory=memory,
        threads=threads,
        progress=progress,
    ).loss


def weighted_value(
    net: Stack,
    params: Params,
    x: Any,
    y: Any = None,
    *,
    loss: AnyLoss,
    weight: Any = None,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    seed: Seed = None,
    train: bool = False,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> WeightedLoss:
    """The loss, and the sum of the weights of its terms (see GradientResult.loss_weight)."""
    validate.model(net, params)
    inputs = validate.inputs(net, params.dtype, x, lengths, reset, state, static)
    mode = validate.mode(net, train, seed)
    goal = objective(loss, net, params.dtype, inputs, y, weight)
    report, _ = prepare(params, inputs, mode, goal, {}, memory, threads, progress).run()
    return WeightedLoss.of(report, goal, net)


def apply(
    net: Stack,
    params: Params,
    x: Any,
    *,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    seed: Seed = None,
    train: bool = False,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[Any, tuple[LayerState, ...]]:
    """Outputs (T, B, O) of a net, (B, O) behind a Pool, and its state after the last step.

    Outputs are zero where t >= lengths[b], and behind a Pool of sequences of length 0; those of a
    net with Heads are a dict of such arrays. Arguments and errors are those of value_and_grad, but
    the default is train=False.
    """
    validate.model(net, params)
    inputs = validate.inputs(net, params.dtype, x, lengths, reset, state, static)
    shape = (*net.positions(inputs.output_steps, inputs.batch), net.output_size)
    outputs = empty(shape, params.dtype)
    state_out = np.empty(state_size(net, inputs.batch), params.dtype)
    results: Arrays = {"outputs": outputs, "state_out": state_out}
    mode = validate.mode(net, train, seed)
    prepare(params, inputs, mode, Objective("none"), results, memory, threads, progress).run()
    return net.named(outputs), unflatten(net, inputs.batch, state_out)


def release_memory() -> None:
    """Returns the memory that the core keeps for later calls to the system."""
    _core.release_memory()
