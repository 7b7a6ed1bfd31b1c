"""A call of a net without its arrays, and what the custom calls are told of it as attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .._base.memory import budget_bytes
from .._engine.execution import EXECUTION
from .._engine.planner import Workload, make_plan
from .._net.description import core_net
from .._net.stack import Stack

__all__ = ["Call", "Parts", "attributes"]


class Parts(NamedTuple):
    """Flags of the three things that a net is differentiated by."""

    params: bool
    x: bool
    state: bool


@dataclass(frozen=True)
class Call:
    """A call of a net, as a parameter of primitives: what does not change while a program runs.

    state, lengths, reset: whether these arrays are given.
    """

    net: Stack
    memory: int | str | None
    state: bool
    lengths: bool
    reset: bool

    @property
    def extras(self) -> int:
        """The number of operands between x and the ones that only some primitives have."""
        return self.state + self.lengths + self.reset


# The arrays that the core has in each kind of call, besides those that are given.
_FORWARD = ("outputs", "state_out")
_BACK = ("d_outputs", "cotangent_final_state", "grads", "outputs", "state_out")
_TANGENTS = (*_FORWARD, "t_outputs", "t_exponent", "t_state_out", "t_state_exponent")
_MOVED = ("t_params", "t_x", "t_state")


def attributes(
    call: Call,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    wanted: Parts | None = None,
    moved: Parts | None = None,
    count: int = 0,
) -> dict[str, Any]:
    """What a custom call is told, for x of this shape and dtype.

    wanted: the gradients of a way back. moved: the directions of tangents, count of them; with
    both, the product with the Hessian.
    Raises MemoryBudgetError if call.memory is too small.
    """
    work = _workload(call, shape, dtype, wanted, moved, count)
    plan = make_plan(work, budget_bytes(call.memory))
    core, settings = core_net(call.net, dtype), EXECUTION.get()
    hessian = wanted is not None and moved is not None
    given = [call.state, call.lengths, call.reset, *(moved or Parts(False, False, False))]
    return {
        "net": np.array(core.words(), np.int64),
        "cells": " ".join(layer.cell.name for layer in call.net.recurrent),
        "ops": np.frombuffer(plan.schedule.ops().tobytes(), np.int64),
        "segment_steps": np.int64(plan.segment_steps),
        "slots": np.int64(plan.slots),
        "threads": np.int64(work.threads),
        "exact_threads": np.int64(settings.exact_threads),
        "no_scaling": np.int64(hessian or not settings.scaling),
        "given": _bits(given),
        "wanted": _bits(wanted or ()),
        "count": np.int64(count),
    }


def _workload(
    call: Call,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    wanted: Parts | None,
    moved: Parts | None,
    count: int,
) -> Workload:
    names = {"params", "x"}
    names |= {name for name in ("state", "lengths", "reset") if getattr(call, name)}
    hessian = wanted is not None and moved is not None
    if wanted is None:
        names |= set(_TANGENTS if count else _FORWARD)
    else:
        names |= set(_BACK)
        if wanted.x:
            names |= {"dx", "dx_exponent", *(["t_dx"] if hessian else [])}
        if wanted.state:
            names |= {"dstate", "dstate_exponent", *(["t_dstate"] if hessian else [])}
    if moved is not None:
        names |= {name for name, there in zip(_MOVED, moved, strict=True) if there}
    if hessian:
        names.add("product")
    steps, batch, _ = shape
    return Workload(
        call.net,
        dtype,
        steps,
        batch,
        frozenset(names),
        loss="none" if wanted is None else "given",
        cotangents=0 if wanted is None else 1,
        tangents=count,
        curvature="hessian" if hessian else "none",
    )


def _bits(flags: Any) -> np.int64:
    return np.int64(sum(1 << place for place, flag in enumerate(flags) if flag))
