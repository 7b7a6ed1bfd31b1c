"""Exceptions of gradcore: each says what was expected, what came, and what to do.

Every one derives from GradcoreError and from the built-in exception that a caller would expect.
Warnings are for results that are returned, flagged, and should not be trusted as they are;
warnings.simplefilter("error", gd.ConvergenceWarning) makes exceptions of them.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "CheckpointError",
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
    """Base of every exception that gradcore raises on its own account."""


class ArgumentError(GradcoreError, ValueError):
    """An argument has a value that cannot be used."""


class ShapeError(ArgumentError):
    """An array or a layer does not have the size that its neighbours ask for."""


class DTypeError(GradcoreError, TypeError):
    """An argument has the wrong type or dtype; gradcore converts no values silently."""


class MemoryBudgetError(ArgumentError):
    """The memory budget cannot be met; `smallest` is the least number of bytes that can."""

    def __init__(self, message: str, smallest: int = 0) -> None:
        super().__init__(message)
        self.smallest = smallest


class NonFiniteError(GradcoreError, ArithmeticError):
    """A value is infinite or NaN.

    `layer` counts the recurrent layers from 0 (their number stands for head and loss), `step` is
    the time step and `sequence` the row of the batch; -1 where there is no such place.
    """

    def __init__(self, message: str, layer: int = -1, step: int = -1, sequence: int = -1) -> None:
        super().__init__(message)
        self.layer = layer
        self.step = step
        self.sequence = sequence


class CheckpointError(GradcoreError):
    """A checkpoint cannot be read or written."""


class OutOfMemoryError(GradcoreError, MemoryError):
    """The system refused the memory that a call needs."""


class InternalError(GradcoreError, RuntimeError):
    """A defect of gradcore itself; please report it."""


class ConvergenceWarning(UserWarning):
    """An iteration ended before its residual met the tolerance; the result says where."""


class ConditioningWarning(UserWarning):
    """A problem is so nearly singular that its solution or gradient magnifies every error."""
