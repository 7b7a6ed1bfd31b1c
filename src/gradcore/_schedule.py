"""The operations of a pass in segments: what runs forward, is taped and goes backward, and when."""

from __future__ import annotations

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
    """One operation over the steps [t0, t1), as in gradcore.h."""

    kind: OpKind
    from_slot: int
    to_slot: int
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


def gradient_ops(steps: int, blocks: int) -> tuple[Op, ...]:
    """Forward over all segments but the last, then tape and backward from the last to the first."""
    segments = ranges(steps, blocks)
    last = len(segments) - 1
    # The last segment goes on from where forward stopped: the state at its start needs no slot.
    forward = [
        Op(
            OpKind.FORWARD,
            FROM_PREVIOUS if i else FROM_START,
            i if i < last - 1 else TO_NOWHERE,
            *segments[i],
        )
        for i in range(last)
    ]
    backward = [
        op
        for i in range(last, -1, -1)
        for op in (
            Op(OpKind.TAPE, _source(i, last), TO_NOWHERE, *segments[i]),
            Op(OpKind.BACKWARD, FROM_PREVIOUS, TO_NOWHERE, *segments[i]),
        )
    ]
    return (*forward, *backward)


def forward_ops(steps: int, blocks: int) -> tuple[Op, ...]:
    """Every segment once, with its outputs and its share of the loss."""
    return tuple(
        Op(OpKind.EMIT, FROM_PREVIOUS if t0 else FROM_START, TO_NOWHERE, t0, t1)
        for t0, t1 in ranges(steps, blocks)
    )


def slots(steps: int, blocks: int) -> int:
    """States that gradient_ops keeps at segment borders."""
    return max(0, -(-steps // (blocks * _core.block_steps())) - 2)


def _source(index: int, last: int) -> int:
    if index == 0:
        return FROM_START
    return FROM_PREVIOUS if index == last else index - 1
