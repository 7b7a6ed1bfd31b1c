"""The operations of a pass in segments: which steps run forward, are taped, and go backward, when.

Segments are collected in groups. The first forward pass keeps the state at the start of every group
and, in the last group, of every segment. When the backward pass reaches another group, the group's
segments run forward again to keep the states between them, and then each segment is taped and goes
backward in turn. One group means one level of recomputation, several groups mean two. A slot that
holds the start of a group is free again when the backward pass has passed it, so every group can
have one segment more than the group after it: K slots are enough for (K+1)(K+4)/2 segments, the
most that three forward passes allow.
Reference: Griewank and Walther 2000, prop. 1 (binomial checkpointing with two repetitions).
"""

from __future__ import annotations

import math
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._core import FROM_PREVIOUS, FROM_START, TO_NOWHERE

__all__ = [
    "OP",
    "OP_BYTES",
    "Op",
    "OpKind",
    "Schedule",
    "Walk",
    "fewest_slots",
    "goes_back",
    "groups_of",
    "listed",
]

# The layout of gc_op in gradcore.h.
OP = np.dtype(
    [
        ("kind", np.int32),
        ("from_slot", np.int32),
        ("to_slot", np.int32),
        ("part", np.int32),
        ("t0", np.int64),
        ("t1", np.int64),
    ]
)
OP_BYTES = OP.itemsize
# Lists of at most so many operations are cached between calls. Longer ones are made anew, which
# takes less than a thousandth of the time of the steps that they describe.
KEPT_OPS = 4096


class OpKind(IntEnum):
    """The kinds of operations, with the numbers of gradcore.h."""

    FORWARD = _core.OP_FORWARD
    TAPE = _core.OP_TAPE
    BACKWARD = _core.OP_BACKWARD
    EMIT = _core.OP_EMIT
    COTANGENT = _core.OP_COTANGENT


def goes_back(aim: OpKind) -> bool:
    """Whether a pass with this aim has a backward part."""
    return aim in (OpKind.BACKWARD, OpKind.COTANGENT)


class Op(NamedTuple):
    """One operation of a part of the net over the steps [t0, t1); see gc_op in gradcore.h."""

    kind: OpKind
    from_slot: int
    to_slot: int
    part: int
    t0: int
    t1: int


class Walk(NamedTuple):
    """How a part of the net goes over its `steps`, in segments of `blocks` blocks of the core.

    The first segment may be shorter. The last is whole, because its forward pass is the only one
    that is not repeated. slots: the number of states that may be kept. aim: EMIT for a pass that
    only goes forward, BACKWARD or COTANGENT for one that also goes back.
    """

    steps: int
    blocks: int
    slots: int
    aim: OpKind = OpKind.BACKWARD

    @property
    def backward(self) -> bool:
        """Whether the pass has a backward part."""
        return goes_back(self.aim)

    @property
    def segments(self) -> int:
        """The number of segments."""
        return -(-self.steps // (self.blocks * _core.block_steps()))

    def borders(self) -> NDArray[np.int64]:
        """The first step of each segment, and the end of the last: [segments + 1]."""
        block = _core.block_steps()
        total = -(-self.steps // block)
        first = (total - 1) % self.blocks + 1
        borders = np.empty(self.segments + 1, np.int64)
        borders[0] = 0
        borders[1:] = np.arange(first, total + 1, self.blocks) * block
        borders[-1] = self.steps
        return borders

    @property
    def segment_steps(self) -> int:
        """The steps of the longest segment."""
        if self.segments == 1:
            return self.steps
        if self.segments > 2:
            return self.blocks * _core.block_steps()
        first = int(self.borders()[1])
        return max(first, self.steps - first)

    @property
    def groups(self) -> list[int]:
        """The number of segments of each group, in the order of time."""
        return groups_of(self.segments, self.slots)

    @property
    def levels(self) -> int:
        """Levels of recomputation: 0 if the whole tape is kept, 1 for segments, 2 for groups."""
        if not self.backward or self.segments == 1:
            return 0
        return 1 if self.segments <= self.slots + 2 else 2

    @property
    def recomputed_steps(self) -> int:
        """The number of repeated forward steps; a step that runs three times counts twice."""
        if not self.levels:
            return 0
        borders, first, again = self.borders(), 0, 0
        for size in self.groups[:-1]:
            again += int(borders[first + size - 1] - borders[first])
            first += size
        return int(borders[-2]) + again

    @property
    def n_ops(self) -> int:
        """The number of operations."""
        if not self.backward:
            return self.segments
        groups = self.groups
        again = self.segments - groups[-1] - (len(groups) - 1)
        return 3 * self.segments - 1 + again


class Schedule(NamedTuple):
    """A pass in segments of `blocks` blocks of the core, with `slots` kept states.

    steps: those of each part of the net, which differ where a layer shortens time. aim: see Walk.
    """

    steps: tuple[int, ...]
    blocks: int
    slots: int
    aim: OpKind = OpKind.BACKWARD

    def walk(self, part: int) -> Walk:
        """How a part goes over its steps."""
        return Walk(self.steps[part], self.blocks, self.slots, self.aim)

    @property
    def longest(self) -> Walk:
        """How the part with the most steps goes over them."""
        return Walk(max(self.steps), self.blocks, self.slots, self.aim)

    @property
    def n_ops(self) -> int:
        """The number of operations of all parts."""
        return sum(self.walk(part).n_ops for part in range(len(self.steps)))

    def ops(self) -> NDArray[np.void]:
        """All operations in order, as the core takes them."""
        return _kept_ops(self) if self.n_ops <= KEPT_OPS else _made_ops(self)


def groups_of(segments: int, slots: int) -> list[int]:
    """The segments of each group in the order of time: as few groups as possible, late ones full.

    With C groups and K slots, C-1 slots hold the starts of groups, and the last group may have
    K-C+3 segments, because its first and its last segment need no slot of their own.
    """
    if segments <= slots + 2:
        return [segments]
    half = slots + 2.5
    under = max(0.0, half * half - 2.0 * segments)
    count = max(2, math.floor(half - math.sqrt(under)) - 1)
    while count * (slots - count + 3) + count * (count - 1) // 2 < segments:
        count += 1
        if count > slots + 1:
            raise ValueError(f"{slots} slots are too few for {segments} segments.")
    sizes = [slots - count + 3 + behind for behind in range(count - 1)]
    return [segments - sum(sizes), *reversed(sizes)]


def fewest_slots(segments: NDArray[np.int64]) -> NDArray[np.int64]:
    """The smallest K with (K+1)(K+4)/2 >= segments."""
    slots = np.floor((np.sqrt(9.0 + 8.0 * segments) - 5.0) / 2.0).astype(np.int64)
    slots = np.maximum(slots, 0)
    rounded_down = (slots + 1) * (slots + 4) // 2 < segments
    fewest: NDArray[np.int64] = np.where(rounded_down, slots + 1, slots)
    return fewest


def listed(schedule: Schedule) -> list[Op]:
    """The operations of a schedule as a list of Op."""
    return [Op(OpKind(op[0]), *op[1:]) for op in schedule.ops().tolist()]


@lru_cache(maxsize=64)
def _kept_ops(schedule: Schedule) -> NDArray[np.void]:
    return _made_ops(schedule)


def _made_ops(schedule: Schedule) -> NDArray[np.void]:
    made = np.empty(schedule.n_ops, OP)
    walks = [schedule.walk(part) for part in range(len(schedule.steps))]
    # Each part of a net goes forward before the next part, and backward after it. The tape of its
    # last segment is kept in between.
    at = 0
    for part, walk in enumerate(walks):
        ops = made[at : at + walk.segments]
        if goes_back(schedule.aim):
            _ahead(ops, walk, part)
        else:
            _fill(ops, schedule.aim, part, walk.borders())
            ops["from_slot"][0] = FROM_START
        at += walk.segments
    for part, walk in reversed(list(enumerate(walks))):
        back = walk.n_ops - walk.segments
        if back:
            _back(made[at : at + back], walk, part)
        at += back
    made.flags.writeable = False
    return made


def _ahead(ops: NDArray[np.void], walk: Walk, part: int) -> None:
    """Fills in the forward operations of all segments but the last, which is taped."""
    _fill(ops, OpKind.FORWARD, part, walk.borders())
    ops["from_slot"][0] = FROM_START
    ops["kind"][-1] = OpKind.TAPE
    groups = walk.groups
    starts = np.cumsum(groups[:-1], dtype=np.int64)
    # The operation that ends where a group starts keeps the state there.
    ops["to_slot"][starts - 1] = np.arange(len(starts))
    first = walk.segments - groups[-1]
    _keep_inner(ops["to_slot"][first:], len(groups) - 1, groups[-1])


def _back(ops: NDArray[np.void], walk: Walk, part: int) -> None:
    """Fills in the backward part; each group but the last runs forward again before it."""
    borders, groups = walk.borders(), walk.groups
    end, at = walk.segments, 0
    for g in range(len(groups) - 1, -1, -1):
        size = groups[g]
        start = end - size
        here = FROM_START if g == 0 else g - 1
        # In the last group the first pass has kept the states and taped the last segment already.
        done = g == len(groups) - 1
        if not done:
            again = ops[at : at + size - 1]
            _fill(again, OpKind.FORWARD, part, borders[start:end])
            again["from_slot"][:1] = here
            _keep_inner(again["to_slot"], g, size)
            at += size - 1
        pairs = _pairs(borders[start : end + 1], here, g, part, walk.aim)
        pairs = pairs[1:] if done else pairs
        ops[at : at + len(pairs)] = pairs
        at += len(pairs)
        end = start


def _pairs(
    borders: NDArray[np.int64], here: int, first_slot: int, part: int, back: OpKind
) -> NDArray[np.void]:
    """TAPE and BACKWARD (or COTANGENT) in turn, from the last segment of a group to the first."""
    size = len(borders) - 1
    pairs = np.empty(2 * size, OP)
    for offset, kind in enumerate((OpKind.TAPE, back)):
        # _fill puts segments in the order of time, so starts and ends are reversed here.
        _fill(pairs[offset::2], kind, part, borders)
        pairs["t0"][offset::2] = borders[-2::-1]
        pairs["t1"][offset::2] = borders[:0:-1]
    sources = pairs["from_slot"][0::2]
    sources[1:-1] = np.arange(first_slot + size - 3, first_slot - 1, -1)[: max(0, size - 2)]
    # The first pair starts from where the forward pass has just ended (FROM_PREVIOUS), and the last
    # pair from the start of the group, also if it is the only one.
    sources[-1] = here
    return pairs


def _keep_inner(to_slot: NDArray[np.int32], first_slot: int, size: int) -> None:
    """Makes a forward pass over a group of `size` segments keep the states that it needs later.

    The first segment starts from the group's slot, and the last is taped right after the forward
    pass has reached it; the states at the starts of the others are kept.
    """
    inner = max(0, size - 2)
    to_slot[:inner] = np.arange(first_slot, first_slot + inner)


def _fill(ops: NDArray[np.void], kind: OpKind, part: int, borders: NDArray[Any]) -> None:
    """Fills in operations of one kind in the order of time, each starting where the last ended."""
    ops["kind"], ops["part"] = kind, part
    ops["from_slot"], ops["to_slot"] = FROM_PREVIOUS, TO_NOWHERE
    ops["t0"], ops["t1"] = borders[:-1], borders[1:]
