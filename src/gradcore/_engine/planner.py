"""Plans of a pass: which steps run, are kept and are recomputed, within a memory budget.

The state is kept at segment borders, and a segment's tape is made again when backward reaches it.
Where even that is too much, segments are gathered in groups: states are kept at the starts of
groups, and those inside a group are made again too. Segments are whole blocks of the core, so every
plan gives the same bits. Where a layer reads both ways, each direction is such a pass of its own,
and the outputs between layers and their gradients are whole arrays.
Reference: Griewank and Walther 2000; Gruslys et al. 2016, sec. 3.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import _core
from .._base.checks import flag, float_dtype, positive_int
from .._base.memory import budget_bytes, format_bytes
from .._net import validate
from .._net.description import core_net
from .._net.stack import Stack
from ..errors import ArgumentError, DTypeError, InternalError, MemoryBudgetError
from ..loss import CrossEntropy, Loss, LossFunction
from .objective import resolve
from .operations import OP, OP_BYTES, Op, OpKind, Schedule, fewest_slots, goes_back, listed

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

    bytes: what gradcore will hold during the call, the list of operations included. segment_steps:
    the longest segment. levels: 0 where the whole tape is kept, 1 where it is made again segment by
    segment, 2 where the states between segments are made again too. recomputed_steps: how many
    steps run forward again; one that runs three times in all counts twice. budget: bytes allowed,
    or None without a limit. slots: states kept at segment borders.
    """

    steps: int
    batch: int
    bytes: int
    budget: int | None
    segment_steps: int
    segments: int
    slots: int
    levels: int
    recomputed_steps: int
    schedule: Schedule = field(repr=False)

    @property
    def ops(self) -> list[Op]:
        """The operations one by one, made when asked for: 10^8 steps may have millions."""
        return listed(self.schedule)


@dataclass(frozen=True)
class Workload:
    """Everything about a call that its memory depends on.

    arrays: names of the core's arrays that are present, in and out. copies: bytes of the copies
    that gradcore made of the caller's arrays. train: whether random masks are drawn. cotangents: how
    many go back at once. tangents: how many go forward with the steps; curvature: "none", or what
    goes back, "hessian" or "gauss_newton".
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
    cotangents: int = 0
    tangents: int = 0
    curvature: str = "none"

    @property
    def aim(self) -> OpKind:
        """The operation that the pass is for, which its arrays tell."""
        if "grads" in self.arrays:
            return OpKind.BACKWARD
        return OpKind.COTANGENT if self.cotangents else OpKind.EMIT

    @property
    def backward(self) -> bool:
        """Whether the pass goes back."""
        return goes_back(self.aim)


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
        names.add(described.array)
        if isinstance(described, CrossEntropy) and described.weight is not None:
            names.add("class_weight")
    for name in validate.wrt(wrt, integer_input) if wrt else ():
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
        threads=validate.threads(threads),
        train=net.is_random and (bool(wrt) if train is None else flag("train", train)),
    )
    return make_plan(work, budget_bytes(memory))


@lru_cache(maxsize=256)
def make_plan(work: Workload, budget: int | None) -> Plan:
    """The plan for a workload within a budget; None allows anything.

    Raises MemoryBudgetError if not even the smallest plan fits.
    """
    predict = Predictor(work)
    choose = _choose_gradient if work.backward else _choose_forward
    schedule = choose(predict, budget)
    needed = predict(schedule)
    if budget is not None and needed > budget:
        raise MemoryBudgetError(_too_small(work, budget, needed), needed)
    return Plan(
        steps=work.steps,
        batch=work.batch,
        bytes=needed,
        budget=budget,
        segment_steps=schedule.segment_steps,
        segments=schedule.segments,
        slots=schedule.slots,
        levels=schedule.levels,
        recomputed_steps=schedule.recomputed_steps,
        schedule=schedule,
    )


class Predictor:
    """The bytes that a call takes, by schedule.

    They depend on the length of segments, on the slots and on the number of operations, not on what
    the operations are; so the core is asked with a list of two per part.
    """

    def __init__(self, work: Workload) -> None:
        net = core_net(work.net, work.dtype)
        self.work, self.parts = work, net.n_parts
        self.blocks = -(-work.steps // _core.block_steps())
        self._call = _core.Call(net, steps=work.steps, batch=work.batch)
        callback = work.loss == "callback"
        self._call.loss(work.loss, last=work.last, function=_no_loss if callback else None)
        self._call.mode(work.train)
        self._call.cotangents(work.cotangents)
        self._call.tangents(work.tangents, curvature=work.curvature)
        self._call.expect(sorted(work.arrays), work.token_bytes)
        self._call.execution(threads=work.threads, scaling=work.curvature != "hessian")
        # A loss function is handed a copy of its segment's outputs.
        self._handed = work.batch * net.n_outputs * work.dtype.itemsize if callback else 0
        # The core makes a list of its own for each part where there are several.
        self.op_bytes = OP_BYTES * (1 if self.parts == 1 else 2)
        self._held: dict[tuple[int, int], int] = {}

    def __call__(self, schedule: Schedule) -> int:
        held = self.held(schedule.segment_steps, schedule.slots)
        return held + self.op_bytes * schedule.n_ops

    def held(self, segment_steps: int, slots: int) -> int:
        """All but the operations."""
        key = (segment_steps, slots)
        if key not in self._held:
            self._held[key] = self._ask(segment_steps, slots)
        return self._held[key]

    def schedule(self, blocks: int, slots: int | None = None) -> Schedule:
        """Segments of so many blocks; slots: by default those of one level."""
        backward = self.work.backward
        if slots is None:
            slots = max(0, -(-self.blocks // blocks) - 2) if backward else 0
        return Schedule(self.work.steps, blocks, slots, self.parts, self.work.aim)

    def _ask(self, segment_steps: int, slots: int) -> int:
        parts = range(self.parts)
        if self.work.backward:
            kinds = [(OpKind.TAPE, part) for part in parts]
            for part in reversed(parts):
                kinds += [(OpKind.TAPE, part), (self.work.aim, part)]
        else:
            kinds = [(OpKind.EMIT, part) for part in parts]
        end = min(_core.block_steps(), self.work.steps)
        ops = np.array(
            [(kind, _core.FROM_START, _core.TO_NOWHERE, part, 0, end) for kind, part in kinds], OP
        )
        self._call.plan(ops, segment_steps=segment_steps, slots=slots)
        held = self._call.bytes() - self.op_bytes * len(ops)
        return held + segment_steps * self._handed + self.work.copies


def _no_loss(outputs: NDArray[Any], t0: int, t1: int) -> tuple[float, NDArray[Any]]:
    """Stands in for a loss function while memory is counted; nothing calls it."""
    raise InternalError("a plan was run instead of a call.")


def _choose_forward(predict: Predictor, budget: int | None) -> Schedule:
    """The longest useful segment that fits."""
    # Tangents are walked a few steps at a time whatever the segments are.
    size = 1 if predict.work.tangents else min(predict.blocks, FORWARD_BLOCKS)
    while budget is not None and size > 1 and predict(predict.schedule(size)) > budget:
        size -= 1
    return predict.schedule(size)


def _choose_gradient(predict: Predictor, budget: int | None) -> Schedule:
    """One segment if it fits. Otherwise recomputing costs 10-30 % of the time, less the part of the
    steps that the last segment covers: where the budget lets it cover a fair part, the longest that
    fits; elsewhere memory buys nothing, and the smallest plan it is. A second level costs as much
    again, and is for budgets that one cannot meet.
    """
    blocks = predict.blocks
    whole = predict.schedule(blocks)
    if budget is None or predict(whole) <= budget:
        return whole
    model = _Model(predict)
    lean = min(model.lean_one_level(), key=predict)
    if predict(lean) > budget:
        return _choose_two_levels(predict, model, budget, lean)

    def one_level(size: int) -> int:
        return predict(predict.schedule(size))

    smallest = lean.blocks
    longest = smallest + bisect_right(range(smallest + 1, blocks), budget, key=one_level)
    if longest >= WORTHWHILE_PART * blocks:
        return predict.schedule(longest)
    cheap = min(longest, max(smallest, CHEAP_BLOCKS))
    return predict.schedule(cheap) if one_level(cheap) <= budget else lean


def _choose_two_levels(
    predict: Predictor, model: _Model, budget: int, one_level: Schedule
) -> Schedule:
    """What recomputes least within the budget, or the smallest plan of all."""
    for schedule in model.two_levels(budget):
        if predict(schedule) <= budget:
            return schedule
    return min([*model.lean_two_levels(), one_level], key=predict)


class _Model:
    """Bytes for all segment lengths at once: tape*length + state*slots + operations.

    Exact but for the rounding of arrays to cache lines, so what it finds best is looked at exactly.
    """

    def __init__(self, predict: Predictor) -> None:
        self.predict = predict
        block, steps = _core.block_steps(), predict.work.steps
        one, two = min(block, steps), min(2 * block, steps)
        # From the core, which pads rows: a net of one unit keeps 128 bytes, and with a smaller
        # number the tape would seem to cost nothing.
        self.floor = predict.held(one, 0)
        self.state = predict.held(one, 1) - self.floor
        self.tape = predict.held(two, 0) - self.floor
        self.op = predict.op_bytes * predict.parts
        self.sizes = np.arange(1, predict.blocks + 1)
        self.segments = -(-predict.blocks // self.sizes)

    def bytes(self, slots: NDArray[np.int64], ops: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.floor + self.tape * (self.sizes - 1) + self.state * slots + self.op * ops

    def lean_one_level(self) -> Iterator[Schedule]:
        """Plans of one level among which the smallest is."""
        slots = np.maximum(self.segments - 2, 0)
        for at in _smallest(self.bytes(slots, 3 * self.segments - 1), 4):
            yield self.predict.schedule(int(self.sizes[at]))

    def lean_two_levels(self) -> Iterator[Schedule]:
        """Plans of two levels among which the smallest is, or next to it.

        With K slots for N segments as groups, K*(N) falls to sqrt(2N); operations grow to 4N.
        """
        slots = fewest_slots(self.segments)
        again = self.segments - 2 - slots
        for at in _smallest(self.bytes(slots, 3 * self.segments - 1 + np.maximum(again, 0)), 8):
            yield self.predict.schedule(int(self.sizes[at]), int(slots[at]))

    def two_levels(self, budget: int) -> Iterator[Schedule]:
        """Plans that should fit the budget, those that recompute least first.

        Segments of CHEAP_BLOCKS or more come first of all.
        """
        none = np.zeros_like(self.sizes)
        room = budget - self.bytes(none, 4 * self.segments)
        fewest = fewest_slots(self.segments)
        slots = np.minimum(room // self.state, self.segments - 2)
        fits = np.flatnonzero((slots >= fewest) & (self.segments > 2))
        sizes, segments, slots = self.sizes[fits], self.segments[fits], slots[fits]
        # As in groups_of: blocks that run a second and a third time.
        half = slots + 2.5
        groups = np.ceil(half - np.sqrt(np.maximum(0.0, half * half - 2.0 * segments)))
        again = segments - (slots - groups + 3) - (groups - 1)
        blocks = (segments - 1 + np.maximum(again, 0)) * sizes
        short = sizes < CHEAP_BLOCKS
        for at in _smallest(blocks + short * (3.0 * self.predict.blocks), 8):
            # A little less than the model says, where arrays are rounded up.
            for fewer in range(3):
                if slots[at] - fewer >= fewest[fits[at]]:
                    yield self.predict.schedule(int(sizes[at]), int(slots[at]) - fewer)


def _smallest(values: NDArray[Any], count: int) -> NDArray[np.intp]:
    """Where the smallest few are, the smallest first."""
    count = min(count, len(values))
    best = np.argpartition(values, count - 1)[:count] if count else np.empty(0, np.intp)
    return best[np.argsort(values[best], kind="stable")]


def _too_small(work: Workload, budget: int, smallest: int) -> str:
    return (
        f"memory must be at least {smallest} bytes ({format_bytes(smallest)}) for T={work.steps}, "
        f"B={work.batch} with this net; the budget is {budget} bytes. Raise memory, or take fewer "
        "sequences at a time."
    )
