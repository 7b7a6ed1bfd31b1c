"""How much a batch counts: the divisor of its mean loss, by which batches weigh."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._engine.objective import resolve
from ..data import Batch
from ..loss import CrossEntropy, Loss, LossFunction

__all__ = ["total_weight"]


def total_weight(loss: str | Loss | LossFunction, batch: Batch) -> float:
    """Sum of the weights of the loss terms of a batch, class weights and ignored targets included.

    1 for a loss function, whose terms are not known.
    """
    described = resolve(loss)
    if not isinstance(described, Loss):
        return 1.0
    steps, sequences = np.shape(batch.x)[:2]
    last = described.step == "last"
    weight = np.ones((sequences,) if last else (steps, sequences))
    if batch.weight is not None:
        weight = weight * np.asarray(batch.weight, np.float64)
    if batch.lengths is not None:
        lengths = np.asarray(batch.lengths)
        weight = weight * (lengths > 0 if last else np.arange(steps)[:, None] < lengths)
    if isinstance(described, CrossEntropy):
        weight = weight * _of_classes(described, np.asarray(batch.y))
    return float(weight.sum())


def _of_classes(loss: CrossEntropy, y: NDArray[Any]) -> NDArray[np.float64]:
    counted = np.asarray(y != loss.ignore_index, np.float64)
    if loss.weight is None:
        return counted
    table = np.asarray(loss.weight, np.float64)
    counted *= table[np.clip(y, 0, len(table) - 1)]
    return counted
