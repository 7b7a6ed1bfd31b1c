"""Prepares a call of the core: makes its plan within the budget and gives it its arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray

from .. import _core
from .._base.memory import budget_bytes
from .._net import validate
from .._net.description import core_net
from .._net.stack import Params
from .execution import EXECUTION
from .objective import Objective
from .planner import Plan, Workload, make_plan

__all__ = ["Arrays", "Prepared", "Progress", "prepare"]

Progress = Callable[[int, int], object]
Arrays = dict[str, NDArray[Any] | None]


class Prepared(NamedTuple):
    """A call of the core with its plan and its arrays, ready to run."""

    call: _core.Call
    plan: Plan

    def run(self) -> tuple[_core.Report, Plan]:
        """Runs the call; returns the core's report and the plan."""
        return self.call.run(), self.plan


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
    work = Workload(
        params.net,
        params.dtype,
        inputs.steps,
        inputs.batch,
        frozenset(
            name
            for name, array in {"params": params.flat, **arrays, **results}.items()
            if array is not None
        ),
        inputs.token_bytes,
        goal.kind,
        goal.last,
        validate.threads(threads),
        inputs.copied + goal.copied,
        mode.train and params.net.is_random,
        cotangents,
        tangents,
        curvature,
        goal.settings,
    )
    made = make_plan(work, budget_bytes(memory))
    arrays = {name: validate.laid_out(name, array) for name, array in arrays.items()}
    settings = EXECUTION.get()
    call = _core.Call(core_net(work.net, work.dtype), steps=work.steps, batch=work.batch)
    call.loss(
        goal.kind,
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
    return Prepared(call, made)
