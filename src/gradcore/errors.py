"""Exceptions of gradcore: each says what was expected, what came, and what to do.

Each derives from GradcoreError and, where Python has one for the case, from the built-in exception.
A warning comes with a result that is returned nevertheless but should not be trusted as it is;
warnings.simplefilter("error", gd.ConvergenceWarning) turns it into an exception.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "CompileError",
    "ConditioningWarning",
    "ConvergenceWarning",
    "DTypeError",
    "GradcoreError",
    "InternalError",
    "MemoryBudgetError",
    "NonFiniteError",
    "OutOfMemoryError",
    "ShapeError",
]


class GradcoreError(Exception):
    """Base class of every exception that gradcore defines."""


class ArgumentError(GradcoreError, ValueError):
    """An argument has a value that cannot be used."""


class CompileError(GradcoreError):
    """A cell cannot be compiled: no compiler, or an error of the compiler in the cell's source."""


class ShapeError(ArgumentError):
    """An array or a layer does not have the size that the net, the data or its neighbour needs."""


class DTypeError(GradcoreError, TypeError):
    """An argument has the wrong type or dtype; gradcore converts no values silently."""


class MemoryBudgetError(ArgumentError):
    """A call cannot keep to its memory budget; `smallest` is the least budget in bytes that works.

    `smallest` is 0 where it is not known.
    """

    def __init__(self, message: str, smallest: int = 0) -> None:
        super().__init__(message)
        self.smallest = smallest


class NonFiniteError(GradcoreError, ArithmeticError):
    """A value is infinite or NaN.

    `layer` counts the recurrent layers from 0, and a `layer` equal to their number means the head
    or the loss; `step` is the time step and `sequence` the row of the batch. Each is -1 where it
    does not apply.
    """

    def __init__(self, message: str, layer: int = -1, step: int = -1, sequence: int = -1) -> None:
        super().__init__(message)
        self.layer = layer
        self.step = step
        self.sequence = sequence


class CheckpointError(GradcoreError):
    """A checkpoint cannot be read or written."""


class OutOfMemoryError(GradcoreError, MemoryError):
    """The operating system refused the memory that a call needs."""


class InternalError(GradcoreError, RuntimeError):
    """A defect of gradcore itself; please report it."""


class ConvergenceWarning(UserWarning):
    """An iteration ended before its residual met the tolerance; the result says in which rows."""


class ConditioningWarning(UserWarning):
    """A problem is so nearly singular that its solution or gradient magnifies every error."""
