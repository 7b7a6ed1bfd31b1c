"""The squared deviations of targets from their mean, which the Nash-Sutcliffe loss divides by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, NonFiniteError

__all__ = ["target_weights"]

# Targets are converted to float64 so many steps at a time.
BLOCK_STEPS = 1024


def target_weights(
    y: NDArray[Any],
    weight: NDArray[Any] | None,
    lengths: NDArray[Any] | None,
    *,
    ignore_nan: bool,
    mean: bool,
) -> tuple[NDArray[np.float64], float]:
    """What squared errors of y (T, B, O) are multiplied by, [B, O], and the number of sequences.

    It is 1 over the deviations, and with mean=True over the number of pairs of a sequence and an
    output that have targets; 0 for the others. That number over O is the number of sequences.
    Raises ArgumentError for negative weights, and naming the sequence and output whose targets do
    not vary or vary beyond the range of float64.
    """
    if weight is not None and (weight < 0).any():
        raise ArgumentError(
            "weight must not be negative for NashSutcliffe, which divides by sums of these weights."
        )
    batch, outputs = y.shape[1:]
    total, first = np.zeros((batch, outputs)), np.zeros((batch, outputs))
    for values, counts, _ in _blocks(y, weight, lengths, ignore_nan):
        total += counts.sum(axis=0)
        first += (counts * values).sum(axis=0)
    there = total > 0.0
    centre = np.divide(first, total, out=np.zeros_like(first), where=there)
    deviations = np.zeros_like(first)
    for values, counts, t0 in _blocks(y, weight, lengths, ignore_nan):
        with np.errstate(over="ignore", invalid="ignore"):  # checked below
            deviations += (counts * (values - centre) ** 2).sum(axis=0)
        _check_finite(values, deviations, t0)
    # A constant that is no binary fraction leaves a rounding error as its deviation.
    level = total * (np.finfo(y.dtype).eps * np.abs(centre)) ** 2
    constant = np.argwhere(there & (deviations <= level))
    if constant.size:
        b, o = constant[0]
        raise ArgumentError(
            f"y must vary for NashSutcliffe, which divides by its deviations; y[:, {b}, {o}] is "
            f"{centre[b, o]:g} at all steps that count. Leave the sequence out with weight 0."
        )
    pairs = int(there.sum())
    with np.errstate(over="ignore"):  # checked below
        scale = np.divide(1.0, deviations, out=np.zeros_like(deviations), where=there)
    if not np.isfinite(scale).all():
        raise ArgumentError("the squares of y must be within the range of float64.")
    return scale / pairs if mean and pairs else scale, pairs / outputs


def _blocks(
    y: NDArray[Any], weight: NDArray[Any] | None, lengths: NDArray[Any] | None, ignore_nan: bool
) -> Any:
    """Blocks of steps: the targets in float64, 0 where they do not count; their weights; t0."""
    for t0 in range(0, len(y), BLOCK_STEPS):
        values = y[t0 : t0 + BLOCK_STEPS].astype(np.float64)
        counts = np.ones(values.shape)
        if weight is not None:
            counts *= weight[t0 : t0 + BLOCK_STEPS, :, None]
        if lengths is not None:
            counts[np.arange(t0, t0 + len(values))[:, None] >= lengths] = 0.0
        if ignore_nan:
            counts[np.isnan(values)] = 0.0
        values[counts == 0.0] = 0.0
        yield values, counts, t0


def _check_finite(values: NDArray[np.float64], sums: NDArray[np.float64], t0: int) -> None:
    if np.isfinite(sums).all():
        return
    wrong = np.argwhere(~np.isfinite(values))
    if not wrong.size:
        raise ArgumentError("the squares of y must be within the range of float64.")
    t, b, o = (int(i) for i in wrong[0])
    raise NonFiniteError(
        f"y[{t0 + t}, {b}, {o}] is {values[t, b, o]}. If targets are missing, pass a loss with "
        'nan="ignore", and those that are NaN count for nothing.',
        step=t0 + t,
        sequence=b,
    )
