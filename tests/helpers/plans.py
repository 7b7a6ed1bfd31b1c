"""Executes plans on the positions of states instead of states."""

from gradcore._core import FROM_PREVIOUS, FROM_START, TO_NOWHERE
from gradcore._engine.operations import OpKind, Schedule, Walk, listed


def walk(ops, steps):
    """Executes a plan on the positions of states; returns the ranges that ran backward."""
    slots, position, backward, tape = {}, None, [], None
    for op in ops:
        assert op.t0 < op.t1 <= steps
        if op.kind is OpKind.BACKWARD:
            assert tape == (op.t0, op.t1)
            backward.append(tape)
            tape = position = None
            continue
        start = {FROM_START: 0, FROM_PREVIOUS: position}.get(op.from_slot, slots.get(op.from_slot))
        assert start == op.t0
        assert op.t0 < op.t1 <= steps
        position = op.t1
        tape = (op.t0, op.t1) if op.kind is OpKind.TAPE else None
        if op.to_slot != TO_NOWHERE:
            slots[op.to_slot] = op.t1
    return backward, len(slots)


def gradient_ops(steps, blocks, parts=1, slots=None):
    """The operations of a gradient in readable form; slots: by default as many as one level
    needs.
    """
    one_level = max(0, Walk(steps, blocks, 0).segments - 2)
    return listed(Schedule((steps,) * parts, blocks, one_level if slots is None else slots))


def forward_ops(steps, blocks, parts=1):
    """Runs every segment once, with its outputs and its part of the loss, part by part."""
    return listed(Schedule((steps,) * parts, blocks, 0, OpKind.EMIT))
