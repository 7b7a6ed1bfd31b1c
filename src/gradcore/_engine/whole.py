"""Losses that need the outputs of all steps at once, computed between the two halves of a pass."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InternalError
from ..loss import CTC, ErrorToSignal, Loss, WholeSequence
from .ctc import CtcLoss, ctc_bytes
from .error_to_signal import SignalLoss, signal_bytes
from .whole_function import FunctionLoss

__all__ = ["Shape", "Whole", "Workings", "whole_bytes"]

Array = NDArray[Any]
# (T, B, O), or (B, O) behind a Pool.
Shape = tuple[int, ...]


class Workings(Protocol):
    """What computes a loss of the whole sequence; it holds the targets."""

    def evaluate(
        self, outputs: Array, lengths: Array | None, gradient: bool, threads: int
    ) -> tuple[float, float, Array | None]:
        """The loss, its weight among those of several batches, and its gradient if wanted."""

    def bytes(self, gradient: bool, threads: int) -> int:
        """The memory that evaluate takes besides the outputs and their gradient, if it is known."""


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
        beside = self.workings.bytes(gradient, threads)
        return _arrays_bytes(self.shape, self.dtype, gradient) + beside


def whole_bytes(
    loss: Loss, shape: Shape, dtype: np.dtype[Any], gradient: bool, threads: int
) -> int:
    """The bytes of a Whole whose targets are not known yet; of CTC for as many labels as steps."""
    beside = 0
    if isinstance(loss, ErrorToSignal):
        beside = signal_bytes(_with_steps(shape))
    if isinstance(loss, CTC):
        labels = shape[0] * shape[1] * 8
        beside = ctc_bytes(_with_steps(shape), None, gradient, threads) + labels
    return _arrays_bytes(shape, dtype, gradient) + beside


def _with_steps(shape: Shape) -> tuple[int, int, int]:
    """The shape for a loss that compares steps, which objective.check_pooled keeps from others."""
    steps, batch, outputs = shape
    return steps, batch, outputs


def _arrays_bytes(shape: Shape, dtype: np.dtype[Any], gradient: bool) -> int:
    """The bytes of the outputs of all steps, and of their gradient if wanted."""
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize * (2 if gradient else 1)


def _workings(loss: Loss, shape: Shape, dtype: np.dtype[Any], y: object) -> Workings:
    """Checks y and makes what computes the loss."""
    if isinstance(loss, WholeSequence):
        return FunctionLoss(loss, dtype, y)
    if isinstance(loss, ErrorToSignal):
        return SignalLoss(loss, _with_steps(shape), dtype, y)
    if isinstance(loss, CTC):
        return CtcLoss(loss, _with_steps(shape), y)
    raise InternalError(f"nothing computes {loss!r}.")
