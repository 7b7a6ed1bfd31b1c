"""Plans of a pass within a memory budget: which states are kept, and which steps run again.

The state is kept at the borders of segments, and the tape of a segment is made when the backward
pass reaches it. If even the states take too much, segments are collected in groups: only the states
at the starts of groups are kept, and those inside a group are computed again. Segments are whole
blocks of the core, so every plan gives the same bits. In a net with bidirectional layers each
direction is a pass of its own, and the outputs between layers and their gradients are kept as whole
arrays.
Reference: Griewank and Walther 2000; Gruslys et al. 2016, sec. 3.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
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
from ..loss import CrossEntropy, Heads, Loss, NashSutcliffe
from .objective import (
    AnyLoss,
    Head,
    LossPart,
    Objective,
    check_pooled,
    heads_of,
    refuse_one_loss,
    resolve,
)
from .operations import OP, OP_BYTES, Op, OpKind, Schedule, fewest_slots, goes_back, listed
from .whole import whole_bytes

__all__ = ["Plan", "Workload", "add_losses", "make_plan", "plan"]

# The result arrays for each gradient; the core always sums the gradient of the parameters.
GRADIENTS = {
    "params": ("grads",),
    "x": ("grads", "dx", "dx_exponent"),
    "state": ("grads", "dstate", "dstate_exponent"),
    "static": ("grads", "d_static", "d_static_exponent"),
}
# The most blocks of a segment in a forward pass: longer ones are no faster, as their buffers do not
# fit into the cache.
FORWARD_BLOCKS = 8
# Segments of one block make small nets slower by half (LSTM, H=32, B=1: 1.2 us per step, and 0.76
# with 4 blocks); longer segments than this make no difference.
CHEAP_BLOCKS = 4
# The last segment is not recomputed. It is made as long as memory allows only if it then covers at
# least this share of the steps.
WORTHWHILE_PART = 1 / 8


@dataclass(frozen=True)
class Plan:
    """The plan of a call.

    bytes: the memory that gradcore will use during the call, including the list of operations.
    budget: the bytes allowed, None for no limit. segment_steps: the steps of the longest segment;
    these and recomputed_steps are those of the part of the net with the most steps, where layers
    shorten time.
    slots: the number of states kept at segment borders. levels: 0 if the whole tape is kept, 1 if
    it is recomputed segment by segment, 2 if states between segments are recomputed, too.
    recomputed_steps: the number of repeated forward steps; a step that runs three times counts
    twice.
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
        """The list of operations, made at each access: for 10^8 steps it may have millions."""
        return listed(self.schedule)


@dataclass(frozen=True)
class Workload:
    """Everything about a call that its memory depends on.

    arrays: names of the core's arrays that are present, inputs and results. copies: the bytes of
    the copies that gradcore made of the caller's arrays. train: whether random masks are drawn.
    cotangents: the number of them that go back at once. tangents: the number of tangents carried
    forward. curvature: "hessian" or "gauss_newton" if such a product goes back, else "none".
    settings: what else describes the loss to the core. whole: the bytes of the outputs, of their
    gradient and of what else a loss of the whole sequence takes. parts: the losses of several
    heads.
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
    settings: tuple[tuple[str, Any], ...] = ()
    whole: int = 0
    parts: tuple[LossPart, ...] = ()

    @property
    def aim(self) -> OpKind:
        """The kind of operation that the pass is for, which follows from its arrays."""
        if "grads" in self.arrays:
            return OpKind.BACKWARD
        return OpKind.COTANGENT if self.cotangents else OpKind.EMIT

    @property
    def backward(self) -> bool:
        """Whether the pass has a backward part."""
        return goes_back(self.aim)


def plan(
    net: Stack,
    steps: int,
    batch: int,
    *,
    dtype: DTypeLike = "float32",
    loss: AnyLoss = "cross_entropy",
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

    tokens: whether x holds integer tokens; the default is whether the net has an Embedding.
    lengths, reset, state, weight: whether these arguments are given. wrt=() makes the plan of
    gradcore.value. train: whether random masks are drawn; the default is whether wrt is not empty.
    Raises MemoryBudgetError naming the smallest budget if `memory` is too small.
    """
    if not isinstance(net, Stack):
        raise DTypeError(f"net must be a gradcore.Stack; got {type(net).__name__}.")
    given = {"lengths": lengths, "reset": reset, "state": state, "weight": weight}
    names = {name for name, present in given.items() if flag(name, present)}
    integer_input = net.embedding is not None if tokens is None else flag("tokens", tokens)
    if net.embedding is not None and not integer_input:
        raise ArgumentError("tokens must not be False for a net that starts with an Embedding.")
    names |= {"params", "state_out", "tokens" if integer_input else "x"}
    names |= {"static"} if net.static_size else set()
    described = resolve(loss)
    settings: tuple[tuple[str, Any], ...] = ()
    copies, batch = 0, positive_int("batch", batch)
    if net.pool is not None and reset:
        raise ArgumentError("reset must be False for a net with a Pool, which takes no resets.")
    parts: tuple[LossPart, ...] = ()
    if isinstance(described, Heads):
        parts = _parts(described, net)
        names |= {"target"} if any(part.kind != "given" for part in parts) else set()
    elif isinstance(described, Loss):
        refuse_one_loss(described, net)
        check_pooled(net, described)
        described._targets(net.output_size)  # checks the number of outputs
        names.add(described.array)
        settings = described._settings()
        if isinstance(described, CrossEntropy) and described.weight is not None:
            names.add("class_weight")
        if isinstance(described, NashSutcliffe):
            names.add("target_weight")
            copies = batch * net.output_size * 8
    for name in validate.wrt(wrt, integer_input, net) if wrt else ():
        names.update(GRADIENTS[name])
    steps = positive_int("steps", steps)
    validate.output_steps(net, steps)
    work = Workload(
        net,
        float_dtype("dtype", dtype),
        steps,
        batch,
        frozenset(names if wrt else names - {"state_out"}),
        token_bytes=4 if integer_input else 0,
        loss=described.kind if isinstance(described, Loss) else "callback",
        last=isinstance(described, Loss) and described.step == "last",
        threads=validate.threads(threads),
        train=net.is_random and (bool(wrt) if train is None else flag("train", train)),
        copies=copies,
        settings=settings,
        parts=parts,
    )
    if isinstance(described, Heads):
        work = _with_whole_heads(work, described)
    elif isinstance(described, Loss) and described.kind == "whole":
        work = _with_whole(work, described)
    return make_plan(work, budget_bytes(memory))


def _with_whole(work: Workload, loss: Loss) -> Workload:
    """The workload with what a loss of the whole sequence takes."""
    net = work.net
    shape = (*net.positions(net.output_steps(work.steps), work.batch), net.output_size)
    return replace(
        work,
        arrays=(work.arrays - {loss.array}) | {"outputs"},
        loss="given" if work.backward else "none",
        whole=whole_bytes(loss, shape, work.dtype, work.backward, work.threads),
    )


def _parts(loss: Heads, net: Stack) -> tuple[LossPart, ...]:
    """The losses of all heads, as if each had targets."""
    found = []
    for name, columns, own, scale in heads_of(loss, net):
        check_pooled(net, own)
        own._targets(columns.stop - columns.start)  # checks the number of outputs
        kind = "given" if own.kind == "whole" else own.kind
        goal = Objective(kind, own.step == "last", own.reduction == "sum", settings=own._settings())
        found.append(Head(name, columns, scale, goal).part)
    return tuple(found)


def _with_whole_heads(work: Workload, loss: Heads) -> Workload:
    """The workload with what losses of the whole sequence of some heads take, and sums by head."""
    net, bytes_, copies = work.net, 0, 0
    positions = net.positions(net.output_steps(work.steps), work.batch)
    together = math.prod(positions) * net.output_size * work.dtype.itemsize
    wholes = set()
    for name, columns, own, _ in heads_of(loss, net):
        size = columns.stop - columns.start
        if own.kind == "whole":
            wholes.add(f"head {name!r}")
            shape = (*positions, size)
            bytes_ += whole_bytes(own, shape, work.dtype, work.backward, work.threads)
        if isinstance(own, NashSutcliffe):
            copies += work.batch * size * 8
        if own.kind == "given":
            copies += together
    if not wholes:
        return replace(work, copies=work.copies + copies)
    parts = tuple(part for part in work.parts if work.backward or part.name not in wholes)
    return replace(
        work,
        copies=work.copies + copies,
        parts=parts,
        loss="parts" if parts else "none",
        arrays=work.arrays | {"outputs"},
        whole=bytes_ + together * (2 if work.backward else 1),
    )


@lru_cache(maxsize=256)
def make_plan(work: Workload, budget: int | None) -> Plan:
    """The plan for a workload within a budget in bytes; None means no limit.

    Raises MemoryBudgetError if the smallest plan does not fit either.
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
        segment_steps=schedule.longest.segment_steps,
        segments=schedule.longest.segments,
        slots=schedule.slots,
        levels=schedule.longest.levels,
        recomputed_steps=schedule.longest.recomputed_steps,
        schedule=schedule,
    )


class Predictor:
    """The bytes that a call takes with a given schedule.

    They depend on the length of segments and the numbers of slots and operations, but not on the
    operations themselves; so the core is asked with a short list, three operations per part.
    """

    def __init__(self, work: Workload) -> None:
        net = core_net(work.net, work.dtype)
        self.work, self.parts = work, net.n_parts
        # Of each part; the longest one decides about the length of segments.
        self.steps = tuple(net.part_steps(part, work.steps) for part in range(net.n_parts))
        self.blocks = -(-max(self.steps) // _core.block_steps())
        self._call = _core.Call(net, steps=work.steps, batch=work.batch)
        callback = work.loss == "callback"
        if work.parts:
            add_losses(self._call, work.parts)
        else:
            self._call.loss(
                work.loss,
                last=work.last,
                function=_no_loss if callback else None,
                **dict(work.settings),
            )
        self._call.mode(work.train)
        self._call.cotangents(work.cotangents)
        self._call.tangents(work.tangents, curvature=work.curvature)
        self._call.expect(sorted(work.arrays), work.token_bytes)
        self._call.execution(threads=work.threads, scaling=work.curvature != "hessian")
        # A Python loss function gets a copy of its segment's outputs.
        self._handed = work.batch * net.n_outputs * work.dtype.itemsize if callback else 0
        # If there are several parts, the core also makes a list of operations for each.
        self.op_bytes = OP_BYTES * (1 if self.parts == 1 else 2)
        self._held: dict[tuple[int, int], int] = {}

    def __call__(self, schedule: Schedule) -> int:
        held = self.held(schedule.longest.segment_steps, schedule.slots)
        return held + self.op_bytes * schedule.n_ops

    def held(self, segment_steps: int, slots: int) -> int:
        """The bytes of everything except the list of operations."""
        key = (segment_steps, slots)
        if key not in self._held:
            self._held[key] = self._ask(segment_steps, slots)
        return self._held[key]

    def schedule(self, blocks: int, slots: int | None = None) -> Schedule:
        """The schedule with segments of `blocks` blocks; slots=None means one level."""
        backward = self.work.backward
        if slots is None:
            slots = max(0, -(-self.blocks // blocks) - 2) if backward else 0
        return Schedule(self.steps, blocks, slots, self.work.aim)

    def _ask(self, segment_steps: int, slots: int) -> int:
        parts = range(self.parts)
        if self.work.backward:
            kinds = [(OpKind.TAPE, part) for part in parts]
            for part in reversed(parts):
                kinds += [(OpKind.TAPE, part), (self.work.aim, part)]
        else:
            kinds = [(OpKind.EMIT, part) for part in parts]
        ends = [min(_core.block_steps(), steps) for steps in self.steps]
        ops = np.array(
            [
                (kind, _core.FROM_START, _core.TO_NOWHERE, part, 0, ends[part])
                for kind, part in kinds
            ],
            OP,
        )
        self._call.plan(ops, segment_steps=segment_steps, slots=slots)
        held = self._call.bytes() - self.op_bytes * len(ops)
        return held + segment_steps * self._handed + self.work.copies + self.work.whole


def add_losses(call: _core.Call, parts: Sequence[LossPart]) -> None:
    """Describes the losses of several heads to the core."""
    for part in parts:
        call.add_loss(
            part.kind,
            name=part.name,
            begin=part.begin,
            outputs=part.outputs,
            scale=part.scale,
            last=part.last,
            sum=part.total,
            **dict(part.settings),
        )


def _no_loss(outputs: NDArray[Any], t0: int, t1: int) -> tuple[float, NDArray[Any]]:
    """Takes the place of a loss function while memory is counted; it is never called."""
    raise InternalError("a plan was run instead of a call.")


def _choose_forward(predict: Predictor, budget: int | None) -> Schedule:
    """The schedule with the longest useful segment that fits."""
    # Tangents are computed a few steps at a time, whatever the segments are.
    size = 1 if predict.work.tangents else min(predict.blocks, FORWARD_BLOCKS)
    while budget is not None and size > 1 and predict(predict.schedule(size)) > budget:
        size -= 1
    return predict.schedule(size)


def _choose_gradient(predict: Predictor, budget: int | None) -> Schedule:
    """Chooses the schedule of a pass with a backward part.

    It is one segment if that fits. Otherwise recomputation costs 10 to 30 % of the time, and the
    last segment is not recomputed: if the budget lets it cover a fair share of the steps, the
    longest that fits is taken; if not, more memory would gain nothing, and the smallest plan is
    taken. A second level costs as much again and is used only if one level does not fit.
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
    """The schedule that recomputes least within the budget, or the smallest if none fits."""
    for schedule in model.two_levels(budget):
        if predict(schedule) <= budget:
            return schedule
    return min([*model.lean_two_levels(), one_level], key=predict)


class _Model:
    """A model of the bytes for all segment lengths at once: tape*length + state*slots + operations.

    It is exact up to the rounding of arrays to cache lines, so the best candidates that it finds
    are then checked exactly.
    """

    def __init__(self, predict: Predictor) -> None:
        self.predict = predict
        block, steps = _core.block_steps(), max(predict.steps)
        one, two = min(block, steps), min(2 * block, steps)
        # These come from the core, which pads rows: the state of a net of one unit takes 128 bytes.
        self.floor = predict.held(one, 0)
        self.state = predict.held(one, 1) - self.floor
        self.tape = predict.held(two, 0) - self.floor
        self.op = predict.op_bytes * predict.parts
        self.sizes = np.arange(1, predict.blocks + 1)
        self.segments = -(-predict.blocks // self.sizes)

    def bytes(self, slots: NDArray[np.int64], ops: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.floor + self.tape * (self.sizes - 1) + self.state * slots + self.op * ops

    def lean_one_level(self) -> Iterator[Schedule]:
        """Candidates of one level, among which is the smallest."""
        slots = np.maximum(self.segments - 2, 0)
        for at in _smallest(self.bytes(slots, 3 * self.segments - 1), 4):
            yield self.predict.schedule(int(self.sizes[at]))

    def lean_two_levels(self) -> Iterator[Schedule]:
        """Candidates of two levels, among which is the smallest or nearly the smallest.

        N segments in groups need only about sqrt(2N) slots instead of N, and up to 4N operations.
        """
        slots = fewest_slots(self.segments)
        again = self.segments - 2 - slots
        for at in _smallest(self.bytes(slots, 3 * self.segments - 1 + np.maximum(again, 0)), 8):
            yield self.predict.schedule(int(self.sizes[at]), int(slots[at]))

    def two_levels(self, budget: int) -> Iterator[Schedule]:
        """Candidates that should fit the budget, in the order of what they recompute.

        All with segments of CHEAP_BLOCKS or more come before the others.
        """
        none = np.zeros_like(self.sizes)
        room = budget - self.bytes(none, 4 * self.segments)
        fewest = fewest_slots(self.segments)
        slots = np.minimum(room // self.state, self.segments - 2)
        fits = np.flatnonzero((slots >= fewest) & (self.segments > 2))
        sizes, segments, slots = self.sizes[fits], self.segments[fits], slots[fits]
        # The blocks that run a second and a third time, computed as in groups_of.
        half = slots + 2.5
        groups = np.ceil(half - np.sqrt(np.maximum(0.0, half * half - 2.0 * segments)))
        again = segments - (slots - groups + 3) - (groups - 1)
        blocks = (segments - 1 + np.maximum(again, 0)) * sizes
        short = sizes < CHEAP_BLOCKS
        for at in _smallest(blocks + short * (3.0 * self.predict.blocks), 8):
            # Arrays are rounded up, so one or two slots fewer than the model says may be needed.
            for fewer in range(3):
                if slots[at] - fewer >= fewest[fits[at]]:
                    yield self.predict.schedule(int(sizes[at]), int(slots[at]) - fewer)


def _smallest(values: NDArray[Any], count: int) -> NDArray[np.intp]:
    """The indices of the `count` smallest values, the smallest first."""
    count = min(count, len(values))
    best = np.argpartition(values, count - 1)[:count] if count else np.empty(0, np.intp)
    return best[np.argsort(values[best], kind="stable")]


def _too_small(work: Workload, budget: int, smallest: int) -> str:
    why = ""
    if work.whole:
        why = (
            f" {format_bytes(work.whole)} of them are for the outputs of all steps and what a loss "
            "of the whole sequence needs beside them."
        )
    return (
        f"memory must be at least {smallest} bytes ({format_bytes(smallest)}) for T={work.steps}, "
        f"B={work.batch} with this net; the budget is {budget} bytes.{why} Raise memory, or "
        "use fewer sequences at a time."
    )
