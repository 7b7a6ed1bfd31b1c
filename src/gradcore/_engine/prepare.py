"""Prepares a call of the core: makes its plan within the budget and gives it its arrays.

A loss of the whole sequence is computed between the two halves of a pass: the call then runs as
outputs first, and the backward pass when their gradient is known.
"""

from __future__ import annotations

from collections.abc import Callable
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
from .objective import Objective
from .planner import Plan, Workload, make_plan
from .whole import Whole

__all__ = ["Arrays", "Prepared", "Progress", "Report", "prepare"]

Progress = Callable[[int, int], object]
Arrays = dict[str, NDArray[Any] | None]


class Report(NamedTuple):
    """What a call says about itself; see GradientResult for the fields."""

    loss: float
    loss_weight: float
    grads_exponent: int
    arena_bytes: int
    threads: int


class Prepared(NamedTuple):
    """A call of the core with its plan and its arrays, ready to run.

    between: computes a loss of the whole sequence between the two halves of the call.
    """

    call: _core.Call
    plan: Plan
    between: _Between | None = None

    def run(self) -> tuple[Report, Plan]:
        """Runs the call; returns its report and the plan."""
        if self.between is not None:
            return self.between.run(self.call), self.plan
        return _report(self.call.run()), self.plan


class _Between(NamedTuple):
    """A loss of the whole sequence, and what it is computed from; gradient: whether it has one."""

    whole: Whole
    lengths: NDArray[Any] | None
    gradient: bool
    threads: int
    outputs: NDArray[Any]

    @staticmethod
    def of(
        goal: Objective, inputs: validate.Inputs, gradient: bool, threads: int, curvature: str
    ) -> _Between | None:
        """None if the loss is no such loss; the outputs are still missing."""
        if goal.whole is None:
            return None
        if curvature != "none":
            raise ArgumentError(
                f"the Hessian of {goal.whole.name} by the outputs is not known, because it is a "
                "loss of the whole sequence. Finite differences of gradcore.value_and_grad along v "
                "approximate the product."
            )
        return _Between(goal.whole, inputs.output_lengths, gradient, threads, np.empty((0, 0, 0)))

    @property
    def bytes(self) -> int:
        """The memory of the outputs, of their gradient and of computing the loss."""
        return self.whole.bytes(self.gradient, self.threads)

    def run(self, call: _core.Call) -> Report:
        """Runs the call up to the outputs, computes the loss, and runs the backward pass."""
        done = call.begin() if self.gradient else call.run()
        value, weight, slopes = self.whole.workings.evaluate(
            self.outputs, self.lengths, self.gradient, self.threads
        )
        if slopes is not None:
            done = call.finish(np.require(slopes, requirements=["C", "A"]))
        return _report(done)._replace(loss=value, loss_weight=weight)


def _report(report: _core.Report) -> Report:
    return Report(
        report.loss,
        report.loss_weight,
        report.grads_exponent,
        report.arena_bytes,
        report.threads,
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
    work = Workload(
        params.net,
        params.dtype,
        inputs.steps,
        inputs.batch,
        frozenset(names if between is None else {*names, "outputs"}),
        inputs.token_bytes,
        goal.kind if between is None or between.gradient else "none",
        goal.last,
        validate.threads(threads),
        inputs.copied + goal.copied,
        mode.train and params.net.is_random,
        cotangents,
        tangents,
        curvature,
        goal.settings,
        0 if between is None else between.bytes,
    )
    made = make_plan(work, budget_bytes(memory))
    if between is not None:
        between = between._replace(outputs=empty(between.whole.shape, params.dtype))
        results = {**results, "outputs": between.outputs}
    arrays = {name: validate.laid_out(name, array) for name, array in arrays.items()}
    settings = EXECUTION.get()
    call = _core.Call(core_net(work.net, work.dtype), steps=work.steps, batch=work.batch)
    call.loss(
        work.loss,
        last=goal.last,
        sum=goal.total,
        function=goal.function,
        **dict(goal.settings),
    )
    call.tangents(tangents, curvature=curvature)
    call.cotangents(cotangents, final_exponent=final_exponent)
    call.hidden(hidden)
    call.mode(mode.train, seed=mode.seed, step=mode.step)
    call.bind(params=params.flat, **arrays, **results)
    call.execution(
        threads=work.threads,
        exact_threads=settings.exact_threads,
        scaling=settings.scaling and curvature != "hessian",
        progress=progress,
    )
    call.plan(made.schedule.ops(), segment_steps=made.segment_steps, slots=made.slots)
    return Prepared(call, made, between)
