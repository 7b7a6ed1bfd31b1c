"""Plans of a pass: which steps run, are kept and are recomputed, within a memory budget.

One level of checkpoints: the state is kept at segment borders, and a segment's tape is made again
when backward reaches it. Segments are whole blocks of the core, so every plan gives the same bits.
Reference: Griewank and Walther 2000; Gruslys et al. 2016, sec. 3.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _core, _validate
from ._checks import flag, float_dtype, positive_int
from ._core import FROM_PREVIOUS, FROM_START, TO_NOWHERE
from ._memory import budget_bytes, format_bytes
from ._net import core_net
from .errors import ArgumentError, DTypeError, MemoryBudgetError
from .layers import Stack
from .loss import CrossEntropy, Loss, LossFunction, resolve

__all__ = ["Op", "OpKind", "Plan", "Workload", "make_plan", "plan"]

# The core sums the parameters' gradients whatever is wanted.
GRADIENTS = {
    "params": ("grads",),
    "x": ("grads", "dx", "dx_exponent"),
    "state": ("grads", "dstate", "dstate_exponent"),
}
# Longer forward segments than this bring nothing: their buffers leave the cache.
FORWARD_BLOCKS = 8


class OpKind(IntEnum):
    """What an operation does, as in gradcore.h."""

    FORWARD = _core.OP_FORWARD
    TAPE = _core.OP_TAPE
    BACKWARD = _core.OP_BACKWARD
    EMIT = _core.OP_EMIT


class Op(NamedTuple):
    """One operation of a plan over the steps [t0, t1), as in gradcore.h."""

    kind: OpKind
    from_slot: int
    to_slot: int
    t0: int
    t1: int


@dataclass(frozen=True)
class Plan:
    """What a call will do.

    bytes: what gradcore will hold during the call. segment_steps: the longest segment.
    recomputed_steps: steps that run forward twice, of `steps` in all. budget: bytes allowed, or
    None without a limit. slots: states kept at segment borders.
    """

    steps: int
    batch: int
    bytes: int
    budget: int | None
    segment_steps: int
    segments: int
    slots: int
    recomputed_steps: int
    ops: tuple[Op, ...] = field(repr=False)


@dataclass(frozen=True)
class Workload:
    """Everything about a call that its memory depends on.

    arrays: names of the core's arrays that are present, in and out. copies: bytes of the copies
    that gradcore made of the caller's arrays.
    """

    net: Stack
    dtype: np.dtype[Any]
    steps: int
    batch: int
    arrays: frozenset[str]
    token_bytes: int = 0
    loss: str = "none"
    last: bool = False
    threads: int = 0
    copies: int = 0

    @property
    def backward(self) -> bool:
        """Whether a gradient is wanted."""
        return "grads" in self.arrays


def plan(
    net: Stack,
    steps: int,
    batch: int,
    *,
    dtype: DTypeLike = "float32",
    loss: str | Loss | LossFunction = "cross_entropy",
    wrt: Sequence[str] = ("params",),
    memory: int | str | None = None,
    threads: int | None = None,
    tokens: bool | None = None,
    lengths: bool = False,
    reset: bool = False,
    state: bool = False,
    weight: bool = False,
) -> Plan:
    """The plan that value_and_grad would make for inputs of T = steps and B = batch.

    tokens: whether x is integer, by default if the net has an Embedding. lengths, reset, state and
    weight: whether these arguments are given. wrt=() plans gradcore.value.
    Raises MemoryBudgetError naming the smallest budget if `memory` cannot be met.
    """
    if not isinstance(net, Stack):
        raise DTypeError(f"net must be a gradcore.Stack; got {type(net).__name__}.")
    given = {"lengths": lengths, "reset": reset, "state": state, "weight": weight}
    names = {name for name, present in given.items() if flag(name, present)}
    integer_input = net.embedding is not None if tokens is None else flag("tokens", tokens)
    if net.embedding is not None and not integer_input:
        raise ArgumentError("tokens must not be False for a net that starts with an Embedding.")
    names |= {"params", "state_out", "tokens" if integer_input else "x"}
    described = resolve(loss)
    if isinstance(described, Loss):
        names.add("target")
        if isinstance(described, CrossEntropy) and described.weight is not None:
            names.add("class_weight")
    for name in _validate.wrt(wrt, integer_input) if wrt else ():
        names.update(GRADIENTS[name])
    work = Workload(
        net,
        float_dtype("dtype", dtype),
        positive_int("steps", steps),
        positive_int("batch", batch),
        frozenset(names if wrt else names - {"state_out"}),
        token_bytes=4 if integer_input else 0,
        loss=described.kind if isinstance(described, Loss) else "callback",
        last=isinstance(described, Loss) and described.step == "last",
        threads=_validate.threads(threads),
    )
    return make_plan(work, budget_bytes(memory))


@lru_cache(maxsize=256)
def make_plan(work: Workload, budget: int | None) -> Plan:
    """The plan for a workload: one segment if it fits the budget, otherwise the smallest plan.

    Raises MemoryBudgetError if not even that fits.
    """
    predict = _predictor(work)
    block = _core.block_steps()
    blocks = -(-work.steps // block)
    longest = blocks if work.backward else min(blocks, FORWARD_BLOCKS)
    segment = min(longest * block, work.steps)
    if budget is not None and predict(segment) > budget:
        smaller = _gradient_sizes(work, predict) if work.backward else range(longest - 1, 0, -1)
        segments = [segment, *(min(size * block, work.steps) for size in smaller)]
        fitting = [] if work.backward else [s for s in segments if predict(s) <= budget]
        segment = fitting[0] if fitting else min(segments, key=predict)
    if budget is not None and predict(segment) > budget:
        raise MemoryBudgetError(_too_small(work, budget, predict(segment)), predict(segment))
    return _build(work, budget, segment, predict(segment))


def copied_bytes(arrays: dict[str, NDArray[Any] | None], given: Sequence[object]) -> int:
    """Bytes of those arrays that gradcore made itself rather than took from the caller."""
    own = (array for array in arrays.values() if array is not None and array.flags.owndata)
    return sum(array.nbytes for array in own if not any(array is item for item in given))


def gradient_ops(steps: int, segment: int) -> tuple[Op, ...]:
    """Forward over all segments but the last, then tape and backward from the last to the first."""
    starts = range(0, steps, segment)
    ranges = [(t0, min(t0 + segment, steps)) for t0 in starts]
    last = len(ranges) - 1
    # The last segment goes on from where forward stopped, so the state at its start needs no slot.
    forward = [
        Op(OpKind.FORWARD, FROM_PREVIOUS if i else FROM_START, _slot(i, last), *ranges[i])
        for i in range(last)
    ]
    backward = [
        Op(kind, source, TO_NOWHERE, *ranges[i])
        for i in range(last, -1, -1)
        for kind, source in (
            (OpKind.TAPE, _source(i, last)),
            (OpKind.BACKWARD, FROM_PREVIOUS),
        )
    ]
    return (*forward, *backward)


def forward_ops(steps: int, segment: int) -> tuple[Op, ...]:
    """Every segment once, with its outputs and its share of the loss."""
    return tuple(
        Op(
            OpKind.EMIT,
            FROM_PREVIOUS if t0 else FROM_START,
            TO_NOWHERE,
            t0,
            min(t0 + segment, steps),
        )
        for t0 in range(0, steps, segment)
    )


def _slot(index: int, last: int) -> int:
    return index if index < last - 1 else TO_NOWHERE


def _source(index: int, last: int) -> int:
    if index == 0:
        return FROM_START
    return FROM_PREVIOUS if index == last else index - 1


def _slots(steps: int, segment: int) -> int:
    return max(0, -(-steps // segment) - 2)


def _build(work: Workload, budget: int | None, segment: int, needed: int) -> Plan:
    segments = -(-work.steps // segment)
    return Plan(
        steps=work.steps,
        batch=work.batch,
        bytes=needed,
        budget=budget,
        segment_steps=segment,
        segments=segments,
        slots=_slots(work.steps, segment) if work.backward else 0,
        recomputed_steps=(segments - 1) * segment if work.backward else 0,
        ops=(gradient_ops if work.backward else forward_ops)(work.steps, segment),
    )


def _predictor(work: Workload) -> Callable[[int], int]:
    """The bytes that a pass in segments of so many steps takes."""
    net = core_net(work.net, work.dtype)
    call = _core.Call(net, steps=work.steps, batch=work.batch)
    call.loss(work.loss, last=work.last, function=print if work.loss == "callback" else None)
    call.expect(sorted(work.arrays), work.token_bytes)
    call.execution(threads=work.threads)
    # A loss function is handed a copy of its segment's outputs.
    handed = work.batch * net.n_outputs * work.dtype.itemsize if work.loss == "callback" else 0

    @cache
    def predict(segment: int) -> int:
        ops = (gradient_ops if work.backward else forward_ops)(work.steps, segment)
        slots = _slots(work.steps, segment) if work.backward else 0
        call.plan(ops, segment_steps=segment, slots=slots)
        return call.bytes() + segment * handed + work.copies

    return predict


def _gradient_sizes(work: Workload, predict: Callable[[int], int]) -> list[int]:
    """Segment lengths, in blocks, among which the smallest plan is.

    Bytes are tape*length + state*slots but for the rounding of arrays to cache lines, so the best
    few of that model are looked at exactly.
    """
    block = _core.block_steps()
    one, two = (min(n * block, work.steps) for n in (1, 2))
    state = core_net(work.net, work.dtype).state_size(work.batch) * work.dtype.itemsize
    fewer = _slots(work.steps, one) - _slots(work.steps, two)
    tape = predict(two) - predict(one) + fewer * state

    def model(size: int) -> int:
        return tape * size + state * _slots(work.steps, size * block)

    return heapq.nsmallest(3, range(1, -(-work.steps // block) + 1), key=model)


def _too_small(work: Workload, budget: int, smallest: int) -> str:
    return (
        f"memory must be at least {smallest} bytes ({format_bytes(smallest)}) for T={work.steps}, "
        f"B={work.batch} with this net; the budget is {budget} bytes. Raise memory, or take fewer "
        "sequences at a time."
    )
