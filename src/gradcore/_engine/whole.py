"""Losses that need the outputs of all steps at once, computed between the two halves of a pass."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InternalError
from ..loss import ErrorToSignal, Loss, WholeSequence
from .error_to_signal import SignalLoss, signal_bytes
from .whole_function import FunctionLoss

__all__ = ["Shape", "Whole", "Workings", "whole_bytes"]

Array = NDArray[Any]
Shape = tuple[int, int, int]


class Workings(Protocol):
    """What computes a loss of the whole sequence; it holds the targets."""

    def evaluate(
        self, outputs: Array, lengths: Array | None, gradient: bool, threads: int
    ) -> tuple[float, float, Array | None]:
        """The loss, its weight among those of several batches, and its gradient if wanted."""


class Whole:
    """A loss of the whole sequence with its targets, which are checked here."""

    def __init__(self, loss: Loss, shape: Shape, dtype: np.dtype[Any], y: object) -> None:
        self.loss, self.shape, self.dtype = loss, shape, dtype
        self.workings = _workings(loss, shape, dtype, y)

    @property
    def name(self) -> str:
        """The name of the loss."""
        return type(self.loss).__name__

    def bytes(self, gradient: bool, threads: int) -> int:
        """The memory for the outputs, for their gradient if wanted, and for computing the loss."""
        return whole_bytes(self.loss, self.shape, self.dtype, gradient, threads)


def whole_bytes(
    loss: Loss, shape: Shape, dtype: np.dtype[Any], gradient: bool, threads: int
) -> int:
    """The bytes of the outputs of all steps, of their gradient, and of computing the loss.

    Those that a function takes are not known.
    """
    arrays = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize * (2 if gradient else 1)
    return arrays + (signal_bytes(shape) if isinstance(loss, ErrorToSignal) else 0)


def _workings(loss: Loss, shape: Shape, dtype: np.dtype[Any], y: object) -> Workings:
    """Checks y and makes what computes the loss."""
    if isinstance(loss, WholeSequence):
        return FunctionLoss(loss, dtype, y)
    if isinstance(loss, ErrorToSignal):
        return SignalLoss(loss, shape, dtype, y)
    raise InternalError(f"nothing computes {loss!r}.")
