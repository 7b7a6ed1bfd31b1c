"""The operations of a pass in segments: what runs forward, is taped and goes backward, and when."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from . import _core
from ._core import FROM_PREVIOUS, FROM_START, TO_NOWHERE

__all__ = ["Op", "OpKind", "forward_ops", "gradient_ops", "ranges", "slots"]


class OpKind(IntEnum):
    """What an operation does, as in gradcore.h."""

    FORWARD = _core.OP_FORWARD
    TAPE = _core.OP_TAPE
    BACKWARD = _core.OP_BACKWARD
    EMIT = _core.OP_EMIT


class Op(NamedTuple):
    """One operation of a part of the net over the steps [t0, t1), as in gradcore.h."""

    kind: OpKind
    from_slot: int
    to_slot: int
    part: int
    t0: int
    t1: int


def ranges(steps: int, blocks: int) -> list[tuple[int, int]]:
    """Segments of so many blocks of the core; the first may be shorter.

    The last is whole because it is the one whose forward pass is not repeated.
    """
    block = _core.block_steps()
    total = -(-steps // block)
    starts = [0, *range((total - 1) % blocks + 1, total, blocks)]
    return [
        (first * block, min(end * block, steps))
        for first, end in zip(starts, [*starts[1:], total], strict=True)
    ]


def gradient_ops(steps: int, blocks: int, parts: int = 1) -> tuple[Op, ...]:
    """Forward over all segments but the last, then tape and backward from the last to the first.

    Every part of a net goes forward before the next, and backward after it. The tape of its last
    segment stays where it is in between.
    """
    segments = ranges(steps, blocks)
    last = len(segments) - 1

    # The last segment goes on from where forward stopped: the state at its start needs no slot.
    def ahead(part: int) -> Iterator[Op]:
        for i in range(last):
            source = FROM_PREVIOUS if i else FROM_START
            target = i if i < last - 1 else TO_NOWHERE
            yield Op(OpKind.FORWARD, source, target, part, *segments[i])
        yield Op(OpKind.TAPE, _source(last, last), TO_NOWHERE, part, *segments[last])

    def back(part: int) -> Iterator[Op]:
        for i in range(last, -1, -1):
            if i < last:
                yield Op(OpKind.TAPE, _source(i, last), TO_NOWHERE, part, *segments[i])
            yield Op(OpKind.BACKWARD, FROM_PREVIOUS, TO_NOWHERE, part, *segments[i])

    order = range(parts)
    return (
        *(op for part in order for op in ahead(part)),
        *(op for part in reversed(order) for op in back(part)),
    )


def forward_ops(steps: int, blocks: int, parts: int = 1) -> tuple[Op, ...]:
    """Every segment once, with its outputs and its share of the loss, part by part."""
    return tuple(
        Op(OpKind.EMIT, FROM_PREVIOUS if t0 else FROM_START, TO_NOWHERE, part, t0, t1)
        for part in range(parts)
        for t0, t1 in ranges(steps, blocks)
    )


def slots(steps: int, blocks: int) -> int:
    """States that gradient_ops keeps at segment borders."""
    return max(0, -(-steps // (blocks * _core.block_steps())) - 2)


def _source(index: int, last: int) -> int:
    if index == 0:
        return FROM_START
    return FROM_PREVIOUS if index == last else index - 1
