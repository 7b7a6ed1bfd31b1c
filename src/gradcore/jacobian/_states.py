"""Directions of a state as the columns of matrices, one matrix per sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._net.stack import Stack
from .._net.state import LayerState, at_one_exponent, spans, state_size, unflatten
from ._directions import state_directions

__all__ = ["columns_of", "state_of_columns"]


def _rows(net: Stack, batch: int) -> NDArray[np.intp]:
    """Index of element s of sequence b in the flat state of the batch, [B, S]."""
    flat = np.arange(state_size(net, batch))
    parts = []
    for layer, span in zip(net.recurrent, spans(net, batch), strict=True):
        block = flat[span].reshape(-1, batch, layer.hidden_size)
        parts.append(block.transpose(1, 0, 2).reshape(batch, -1))
    return np.concatenate(parts, axis=1)


def state_of_columns(
    net: Stack, batch: int, dtype: np.dtype[Any], columns: NDArray[Any]
) -> tuple[LayerState, ...]:
    """Columns [S, K], or [B, S, K], as K directions of the state."""
    columns = np.broadcast_to(columns, (batch, *columns.shape[-2:]))
    flat = np.empty((columns.shape[2], state_size(net, batch)), dtype)
    flat[:, _rows(net, batch)] = columns.transpose(2, 0, 1)
    return unflatten(net, batch, flat)


def columns_of(
    net: Stack,
    batch: int,
    dtype: np.dtype[Any],
    states: Sequence[LayerState],
    exponents: NDArray[np.int32],
) -> tuple[NDArray[np.float64], int]:
    """K directions of a state as the columns of matrices [B, S, K], all at one exponent.

    exponents: one per layer and direction of time, as jvp and vjp return them.
    """
    flat = state_directions("state", net, batch, dtype, states).astype(np.float64)
    common = at_one_exponent(net, batch, flat, exponents)
    return flat[:, _rows(net, batch)].transpose(1, 2, 0), common
