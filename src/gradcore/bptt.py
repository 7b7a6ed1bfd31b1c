"""Plans of a pass: which steps run, are kept and are recomputed, within a memory budget.

One level of checkpoints: the state is kept at segment borders, and a segment's tape is made again
when backward reaches it. Segments are whole blocks of the core, so every plan gives the same bits.
Where a layer reads both ways, each direction is such a pass of its own, and the outputs between
layers and their gradients are whole arrays.
Reference: Griewank and Walther 2000; Gruslys et al. 2016, sec. 3.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _core, _validate
from ._checks import flag, float_dtype, positive_int
from ._memory import budget_bytes, format_bytes
from ._net import core_net
from ._schedule import Op, forward_ops, gradient_ops, ranges, slots
from .errors import ArgumentError, DTypeError, InternalError, MemoryBudgetError
from .layers import Stack
from .loss import CrossEntropy, Loss, LossFunction, resolve

__all__ = ["Plan", "Workload", "make_plan", "plan"]

# The core sums the parameters' gradients whatever is wanted.
GRADIENTS = {
    "params": ("grads",),
    "x": ("grads", "dx", "dx_exponent"),
    "state": ("grads", "dstate", "dstate_exponent"),
}
# Longer forward segments than this bring nothing: their buffers leave the cache.
FORWARD_BLOCKS = 8
# Segments of one block cost small nets half as much again (LSTM, H=32, B=1: 1.2 us per step, 0.76
# with 4 blocks); beyond that, their length makes no difference.
CHEAP_BLOCKS = 4
# Part of the steps that the last segment must cover to be worth its memory.
WORTHWHILE_PART = 1 / 8


@dataclass(frozen=True)
class Plan:
    """What a call will do.

    bytes: what gradcore will hold during the call. segment_steps: the longest segment.
    recomputed_steps: how many of the steps run forward twice. budget: bytes allowed, or
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
    that gradcore made of the caller's arrays. train: whether random masks are drawn.
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
    train: bool = False

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
    train: bool | None = None,
) -> Plan:
    """The plan that value_and_grad would make for inputs of T = steps and B = batch.

    tokens: whether x is integer, by default if the net has an Embedding. lengths, reset, state and
    weight: whether these arguments are given. wrt=() plans gradcore.value. train: with random
    masks, by default if wrt is not empty.
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
        train=net.is_random and (bool(wrt) if train is None else flag("train", train)),
    )
    return make_plan(work, budget_bytes(memory))


@lru_cache(maxsize=256)
def make_plan(work: Workload, budget: int | None) -> Plan:
    """The plan for a workload within a budget; None allows anything.

    Raises MemoryBudgetError if not even the smallest plan fits.
    """
    predict = _predictor(work)
    blocks = -(-work.steps // _core.block_steps())
    choose = _choose_gradient if work.backward else _choose_forward
    size = choose(work, predict, blocks, budget)
    needed = predict(size)
    if budget is not None and needed > budget:
        raise MemoryBudgetError(_too_small(work, budget, needed), needed)
    segments = ranges(work.steps, size)
    return Plan(
        steps=work.steps,
        batch=work.batch,
        bytes=needed,
        budget=budget,
        segment_steps=max(t1 - t0 for t0, t1 in segments),
        segments=len(segments),
        slots=slots(work.steps, size) if work.backward else 0,
        recomputed_steps=segments[-1][0] if work.backward else 0,
        ops=_ops(work, size),
    )


def copied_bytes(arrays: dict[str, NDArray[Any] | None], given: Sequence[object]) -> int:
    """Bytes of those arrays that gradcore made itself rather than took from the caller."""
    own = (array for array in arrays.values() if array is not None and array.flags.owndata)
    return sum(array.nbytes for array in own if not any(array is item for item in given))


def _predictor(work: Workload) -> Callable[..., int]:
    """The bytes that a pass in segments of so many blocks takes, with more slots than it needs."""
    net = core_net(work.net, work.dtype)
    call = _core.Call(net, steps=work.steps, batch=work.batch)
    call.loss(work.loss, last=work.last, function=_no_loss if work.loss == "callback" else None)
    call.mode(work.train)
    call.expect(sorted(work.arrays), work.token_bytes)
    call.execution(threads=work.threads)
    # A loss function is handed a copy of its segment's outputs.
    handed = work.batch * net.n_outputs * work.dtype.itemsize if work.loss == "callback" else 0

    @cache
    def predict(size: int, more_slots: int = 0) -> int:
        ops = _ops(work, size)
        longest = max(op.t1 - op.t0 for op in ops)
        kept = slots(work.steps, size) if work.backward else 0
        call.plan(ops, segment_steps=longest, slots=kept + more_slots)
        return call.bytes() + longest * handed + work.copies

    return predict


def _ops(work: Workload, size: int) -> tuple[Op, ...]:
    make = gradient_ops if work.backward else forward_ops
    return make(work.steps, size, core_net(work.net, work.dtype).n_parts)


def _no_loss(outputs: NDArray[Any], t0: int, t1: int) -> tuple[float, NDArray[Any]]:
    """Stands in for a loss function while memory is counted; nothing calls it."""
    raise InternalError("a plan was run instead of a call.")


def _choose_forward(
    work: Workload, predict: Callable[..., int], blocks: int, budget: int | None
) -> int:
    """The longest useful segment that fits, in blocks."""
    size = min(blocks, FORWARD_BLOCKS)
    while budget is not None and size > 1 and predict(size) > budget:
        size -= 1
    return size


def _choose_gradient(
    work: Workload, predict: Callable[..., int], blocks: int, budget: int | None
) -> int:
    """One segment if it fits. Otherwise recomputing costs 10-30 % of the time, less the part of the
    steps that the last segment covers: where the budget lets it cover a fair part, the longest that
    fits; elsewhere memory buys nothing, and the smallest plan it is.
    """
    if budget is None or predict(blocks) <= budget:
        return blocks
    smallest = min(_lean_sizes(work, predict, blocks), key=predict)
    if predict(smallest) > budget:
        return smallest
    longest = smallest + bisect_right(range(smallest + 1, blocks), budget, key=predict)
    if longest >= WORTHWHILE_PART * blocks:
        return longest
    cheap = min(longest, max(smallest, CHEAP_BLOCKS))
    return cheap if predict(cheap) <= budget else smallest


def _lean_sizes(work: Workload, predict: Callable[..., int], blocks: int) -> list[int]:
    """Segment lengths, in blocks, among which the smallest plan is.

    Bytes are tape*length + state*slots but for the rounding of arrays to cache lines, so the best
    few of that model are looked at exactly.
    """
    # From the core, which pads rows: a net of one unit keeps 128 bytes, and with a smaller number
    # the tape would seem to cost nothing.
    state = predict(1, 1) - predict(1)
    two = min(2, blocks)
    tape = predict(two) - predict(1) + (slots(work.steps, 1) - slots(work.steps, two)) * state

    def model(size: int) -> int:
        return tape * size + state * slots(work.steps, size)

    return heapq.nsmallest(4, range(1, blocks + 1), key=model)


def _too_small(work: Workload, budget: int, smallest: int) -> str:
    return (
        f"memory must be at least {smallest} bytes ({format_bytes(smallest)}) for T={work.steps}, "
        f"B={work.batch} with this net; the budget is {budget} bytes. Raise memory, or take fewer "
        "sequences at a time."
    )
