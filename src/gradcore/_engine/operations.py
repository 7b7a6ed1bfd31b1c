"""The operations of a pass in segments: what runs forward, is taped and goes backward, and when.

Segments are gathered in groups. The first pass over the net keeps the state at the start of every
group and, in the last one, of every segment. When backward reaches another group, its segments run
forward again to keep the states between them, and then each is taped in turn. One group is one
level of recomputation, several are two. Slots that hold the starts of later groups are free when
backward has passed them, so every group is one segment longer than the one behind it: K slots do
for (K+1)(K+4)/2 segments, the most for three forward passes.
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
    "fewest_slots",
    "goes_back",
    "groups_of",
    "listed",
]

# As gc_op in gradcore.h.
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
# Operations of a list that is kept from one call to the next; longer ones are made anew, in less
# than a thousandth of the time of the steps that they stand for.
KEPT_OPS = 4096


class OpKind(IntEnum):
    """What an operation does, as in gradcore.h."""

    FORWARD = _core.OP_FORWARD
    TAPE = _core.OP_TAPE
    BACKWARD = _core.OP_BACKWARD
    EMIT = _core.OP_EMIT
    COTANGENT = _core.OP_COTANGENT


def goes_back(aim: OpKind) -> bool:
    """Whether a pass for this ends with the first step."""
    return aim in (OpKind.BACKWARD, OpKind.COTANGENT)


class Op(NamedTuple):
    """One operation of a part of the net over the steps [t0, t1), as in gradcore.h."""

    kind: OpKind
    from_slot: int
    to_slot: int
    part: int
    t0: int
    t1: int


class Schedule(NamedTuple):
    """A pass over steps in segments of so many blocks of the core, with so many slots for states.

    The first segment may be shorter; the last is whole because it is the one whose forward pass is
    not repeated. parts: of the net. aim: what the pass is for: EMIT goes forward only, BACKWARD
    and COTANGENT back as well.
    """

    steps: int
    blocks: int
    slots: int
    parts: int = 1
    aim: OpKind = OpKind.BACKWARD

    @property
    def backward(self) -> bool:
        """Whether the pass goes back."""
        return goes_back(self.aim)

    @property
    def segments(self) -> int:
        """How many segments there are."""
        return -(-self.steps // (self.blocks * _core.block_steps()))

    def borders(self) -> NDArray[np.int64]:
        """The steps at which segments begin, and the end of the last: [segments + 1]."""
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
        """The longest segment."""
        if self.segments == 1:
            return self.steps
        if self.segments > 2:
            return self.blocks * _core.block_steps()
        first = int(self.borders()[1])
        return max(first, self.steps - first)

    @property
    def groups(self) -> list[int]:
        """Segments per group, earliest first."""
        return groups_of(self.segments, self.slots)

    @property
    def levels(self) -> int:
        """Levels of recomputation: 0 for the whole tape, 1 for segments, 2 for groups of them."""
        if not self.backward or self.segments == 1:
            return 0
        return 1 if self.segments <= self.slots + 2 else 2

    @property
    def recomputed_steps(self) -> int:
        """Steps that run forward again; one that runs three times in all counts twice."""
        if not self.levels:
            return 0
        borders, first, again = self.borders(), 0, 0
        for size in self.groups[:-1]:
            again += int(borders[first + size - 1] - borders[first])
            first += size
        return int(borders[-2]) + again

    @property
    def n_ops(self) -> int:
        """Operations of all parts."""
        if not self.backward:
            return self.parts * self.segments
        groups = self.groups
        again = self.segments - groups[-1] - (len(groups) - 1)
        return self.parts * (3 * self.segments - 1 + again)

    def ops(self) -> NDArray[np.void]:
        """All operations in order, as the core takes them."""
        return _kept_ops(self) if self.n_ops <= KEPT_OPS else _made_ops(self)


def groups_of(segments: int, slots: int) -> list[int]:
    """Segments per group, earliest first: as few groups as the slots allow, late ones full.

    With C groups and K slots, C-1 slots have the starts of groups, and the last group may have
    K-C+3 segments: its first and its last need no slot of their own.
    """
    if segments <= slots + 2:
        return [segments]
    half = slots + 2.5
    under = max(0.0, half * half - 2.0 * segments)
    count = max(2, math.floor(half - math.sqrt(under)) - 1)
    while count * (slots - count + 3) + count * (count - 1) // 2 < segments:
        count += 1
        if count > slots + 1:
            raise ValueError(f"{slots} slots do not do for {segments} segments.")
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
    """The operations one by one."""
    return [Op(OpKind(op[0]), *op[1:]) for op in schedule.ops().tolist()]


@lru_cache(maxsize=64)
def _kept_ops(schedule: Schedule) -> NDArray[np.void]:
    return _made_ops(schedule)


def _made_ops(schedule: Schedule) -> NDArray[np.void]:
    made = np.empty(schedule.n_ops, OP)
    if not schedule.backward:
        for part, ops in enumerate(np.split(made, schedule.parts)):
            _fill(ops, schedule.aim, part, schedule.borders())
            ops["from_slot"][0] = FROM_START
    else:
        # Every part of a net goes forward before the next, and backward after it. The tape of its
        # last segment stays where it is in between.
        ahead = schedule.segments
        back = schedule.n_ops // schedule.parts - ahead
        for part in range(schedule.parts):
            _ahead(made[part * ahead : (part + 1) * ahead], schedule, part)
            end = schedule.n_ops - part * back
            _back(made[end - back : end], schedule, part)
    made.flags.writeable = False
    return made


def _ahead(ops: NDArray[np.void], schedule: Schedule, part: int) -> None:
    """Forward over all segments but the last, which is taped."""
    _fill(ops, OpKind.FORWARD, part, schedule.borders())
    ops["from_slot"][0] = FROM_START
    ops["kind"][-1] = OpKind.TAPE
    groups = schedule.groups
    starts = np.cumsum(groups[:-1], dtype=np.int64)
    # The operation that ends where a group starts keeps its state.
    ops["to_slot"][starts - 1] = np.arange(len(starts))
    first = schedule.segments - groups[-1]
    _keep_inner(ops["to_slot"][first:], len(groups) - 1, groups[-1])


def _back(ops: NDArray[np.void], schedule: Schedule, part: int) -> None:
    """From the last segment to the first; every group but the last runs forward again before."""
    borders, groups = schedule.borders(), schedule.groups
    end, at = schedule.segments, 0
    for g in range(len(groups) - 1, -1, -1):
        size = groups[g]
        start = end - size
        here = FROM_START if g == 0 else g - 1
        # In the last group the first pass has kept the states, and taped the last segment.
        done = g == len(groups) - 1
        if not done:
            again = ops[at : at + size - 1]
            _fill(again, OpKind.FORWARD, part, borders[start:end])
            again["from_slot"][:1] = here
            _keep_inner(again["to_slot"], g, size)
            at += size - 1
        pairs = _pairs(borders[start : end + 1], here, g, part, schedule.aim)
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
        # Starts and ends from the last to the first, which _fill takes the other way round.
        _fill(pairs[offset::2], kind, part, borders)
        pairs["t0"][offset::2] = borders[-2::-1]
        pairs["t1"][offset::2] = borders[:0:-1]
    sources = pairs["from_slot"][0::2]
    sources[1:-1] = np.arange(first_slot + size - 3, first_slot - 1, -1)[: max(0, size - 2)]
    # Forward has just come to the last segment, unless it is the only one.
    sources[-1] = here
    return pairs


def _keep_inner(to_slot: NDArray[np.int32], first_slot: int, size: int) -> None:
    """Forward over a group of so many segments keeps the states that are not reached by going on.

    Its first segment has the group's slot; its last is taped right after forward has come to it.
    """
    inner = max(0, size - 2)
    to_slot[:inner] = np.arange(first_slot, first_slot + inner)


def _fill(ops: NDArray[np.void], kind: OpKind, part: int, borders: NDArray[Any]) -> None:
    """Operations of one kind, segment after segment, each from where the one before it ended."""
    ops["kind"], ops["part"] = kind, part
    ops["from_slot"], ops["to_slot"] = FROM_PREVIOUS, TO_NOWHERE
    ops["t0"], ops["t1"] = borders[:-1], borders[1:]
