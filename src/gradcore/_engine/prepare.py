"""Prepares a call of the core: makes its plan within the budget and gives it its arrays.

A loss of the whole sequence is computed between the two halves of a pass: the call then runs as
outputs first, and the backward pass when their gradient is known.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._base.memory import budget_bytes, empty
from .._net import validate
from .._net.description import core_net
from .._net.stack import Params
from ..errors import ArgumentError
from .execution import EXECUTION
from .objective import Head, Objective
from .planner import Plan, Workload, add_losses, make_plan
from .whole import Whole

__all__ = ["Arrays", "Prepared", "Progress", "Report", "prepare"]

Progress = Callable[[int, int], object]
Arrays = dict[str, NDArray[Any] | None]


class Report(NamedTuple):
    """What a call says about itself; see GradientResult for the fields.

    heads: the loss of each of several heads, and the sum of the weights of its terms.
    """

    loss: float
    loss_weight: float
    grads_exponent: int
    arena_bytes: int
    threads: int
    heads: dict[str, tuple[float, float]] | None = None


class Prepared(NamedTuple):
    """A call of the core with its plan and its arrays, ready to run.

    heads: those whose losses the core computes, in its order. between: computes losses of the
    whole sequence between the two halves of the call.
    """

    call: _core.Call
    plan: Plan
    heads: tuple[Head, ...] = ()
    between: _Between | None = None

    def run(self) -> tuple[Report, Plan]:
        """Runs the call; returns its report and the plan."""
        if self.between is not None:
            return self.between.run(self.call, self.heads), self.plan
        return _report(self.call.run(), self.heads), self.plan


class _Between(NamedTuple):
    """Losses of the whole sequence, and what they are computed from.

    wholes: each with its head, or None if it is that of all outputs. gradient: whether it is
    wanted. given: the gradient that other heads are given, of all outputs.
    """

    wholes: tuple[tuple[Head | None, Whole], ...]
    lengths: NDArray[Any] | None
    gradient: bool
    threads: int
    outputs: NDArray[Any]
    given: NDArray[Any] | None

    @staticmethod
    def of(
        goal: Objective, inputs: validate.Inputs, gradient: bool, threads: int, curvature: str
    ) -> _Between | None:
        """None if there is no such loss; the outputs are still missing."""
        wholes: list[tuple[Head | None, Whole]] = [
            (head, head.goal.whole) for head in goal.heads if head.goal.whole is not None
        ]
        if goal.whole is not None:
            wholes.append((None, goal.whole))
        if not wholes:
            return None
        if curvature != "none":
            raise ArgumentError(
                f"the Hessian of {wholes[0][1].name} by the outputs is not known, because it is a "
                "loss of the whole sequence. Finite differences of gradcore.value_and_grad along v "
                "approximate the product."
            )
        lengths, given = inputs.output_lengths, goal.arrays.get("d_outputs")
        return _Between(tuple(wholes), lengths, gradient, threads, np.empty((0, 0, 0)), given)

    def bytes(self, outputs: int) -> int:
        """The memory of all outputs, of their gradient and of computing the losses."""
        *lead, _ = self.wholes[0][1].shape
        own = sum(whole.bytes(self.gradient, self.threads) for _, whole in self.wholes)
        if self.wholes[0][0] is None:
            return own
        # The outputs of a head are copied out of the array of all, and its gradient into another.
        together = prod(lead) * outputs * self.wholes[0][1].dtype.itemsize
        return own + together * (2 if self.gradient and self.given is None else 1)

    def run(self, call: _core.Call, heads: tuple[Head, ...]) -> Report:
        """Runs the call up to the outputs, computes the losses, and runs the backward pass."""
        done = call.begin() if self.gradient else call.run()
        d_outputs = self.given
        values: dict[str, tuple[float, float]] = {}
        total = weight = 0.0
        for head, whole in self.wholes:
            outputs = self.outputs if head is None else self.outputs[..., head.columns]
            value, weight, slopes = whole.workings.evaluate(
                np.ascontiguousarray(outputs), self.lengths, self.gradient, self.threads
            )
            total += value if head is None else head.scale * value
            if head is not None:
                values[head.name] = value, weight
            if slopes is not None and head is not None:
                if d_outputs is None:
                    d_outputs = empty(self.outputs.shape, self.outputs.dtype)
                np.multiply(slopes, head.scale, out=d_outputs[..., head.columns])
            elif slopes is not None:
                d_outputs = np.require(slopes, requirements=["C", "A"])
        if self.gradient:
            assert d_outputs is not None
            done = call.finish(d_outputs)
        report = _report(done, heads)
        if self.wholes[0][0] is None:
            return report._replace(loss=total, loss_weight=weight)
        return report._replace(loss=report.loss + total, heads={**(report.heads or {}), **values})


def _report(report: _core.Report, heads: tuple[Head, ...]) -> Report:
    pairs = zip(heads, report.losses, strict=True)
    return Report(
        report.loss,
        report.loss_weight,
        report.grads_exponent,
        report.arena_bytes,
        report.threads,
        {head.name: (value, head.goal.terms(weight)) for head, (value, weight) in pairs} or None,
    )


def prepare(
    params: Params,
    inputs: validate.Inputs,
    mode: validate.Mode,
    goal: Objective,
    results: Arrays,
    memory: int | str | None,
    threads: int | None,
    progress: Progress | None,
    *,
    tangents: int = 0,
    curvature: str = "none",
    cotangents: int = 0,
    final_exponent: int = 0,
    hidden: int = 0,
) -> Prepared:
    """Plans a call within its budget and gives it its arrays.

    tangents, curvature: see planner.Workload. cotangents, final_exponent: the number of cotangents
    and the exponent of those of the final state. hidden: the number of the layer, counted by
    directions of time, whose adjoints or gates are recorded.
    """
    arrays: Arrays = {**inputs.arrays, **goal.arrays}
    names = {
        name
        for name, array in {"params": params.flat, **arrays, **results}.items()
        if array is not None
    }
    between = _Between.of(goal, inputs, "grads" in results, validate.threads(threads), curvature)
    # A loss of the whole sequence is given to the core, if its gradient is wanted.
    ahead = between is None or between.gradient
    heads = tuple(head for head in goal.heads if ahead or head.goal.whole is None)
    kind = goal.kind if (heads if goal.heads else ahead) else "none"
    if any("target" in head.goal.arrays for head in heads):
        names.add("target")
    work = Workload(
        params.net,
        params.dtype,
        inputs.steps,
        inputs.batch,
        frozenset(names if between is None else {*names, "outputs"}),
        inputs.token_bytes,
        kind,
        goal.last,
        validate.threads(threads),
        inputs.copied + goal.copied,
        mode.train and params.net.is_random,
        cotangents,
        tangents,
        curvature,
        goal.settings,
        0 if between is None else between.bytes(params.net.output_size),
        tuple(head.part for head in heads),
    )
    made = make_plan(work, budget_bytes(memory))
    if between is not None:
        positions = params.net.positions(inputs.output_steps, inputs.batch)
        shape = (*positions, params.net.output_size)
        between = between._replace(outputs=empty(shape, params.dtype))
        results = {**results, "outputs": between.outputs}
    settings = EXECUTION.get()
    call = _core.Call(core_net(work.net, work.dtype), steps=work.steps, batch=work.batch)
    _describe_loss(call, work, goal)
    call.tangents(tangents, curvature=curvature)
    call.cotangents(cotangents, final_exponent=final_exponent)
    call.hidden(hidden)
    call.mode(mode.train, seed=mode.seed, step=mode.step)
    call.bind(params=params.flat, **_laid_out(arrays), **results)
    for place, head in enumerate(heads):
        call.bind_loss(place, **_laid_out(head.goal.arrays))
    call.execution(
        threads=work.threads,
        exact_threads=settings.exact_threads,
        scaling=settings.scaling and curvature != "hessian",
        progress=progress,
    )
    call.plan(made.schedule.ops(), segment_steps=made.segment_steps, slots=made.slots)
    return Prepared(call, made, heads, between)


def _describe_loss(call: _core.Call, work: Workload, goal: Objective) -> None:
    if work.parts:
        add_losses(call, work.parts)
        return
    call.loss(
        work.loss,
        last=goal.last,
        sum=goal.total,
        function=goal.function,
        **dict(goal.settings),
    )


def _laid_out(arrays: Arrays) -> Arrays:
    return {name: validate.laid_out(name, array) for name, array in arrays.items()}
