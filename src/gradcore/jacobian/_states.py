"""Directions of a state as the columns of matrices, one matrix per sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..layers import Stack
from ..state import LayerState, state_size
from ._directions import split_state, state_directions

__all__ = ["columns_of", "state_of_columns"]


def _rows(net: Stack, batch: int) -> NDArray[np.intp]:
    """Index of element s of sequence b in the flat state of the batch, [B, S]."""
    flat = np.arange(state_size(net, batch))
    parts, start = [], 0
    for layer in net.recurrent:
        rows = layer.lag + len(layer.cell.states) - 1
        size = rows * batch * layer.hidden_size
        block = flat[start : start + size].reshape(rows, batch, layer.hidden_size)
        parts.append(block.transpose(1, 0, 2).reshape(batch, -1))
        start += size
    return np.concatenate(parts, axis=1)


def state_of_columns(
    net: Stack, batch: int, dtype: np.dtype[Any], columns: NDArray[Any]
) -> tuple[LayerState, ...]:
    """Columns [S, K], or [B, S, K], as K directions of the state."""
    columns = np.broadcast_to(columns, (batch, *columns.shape[-2:]))
    flat = np.empty((columns.shape[2], state_size(net, batch)), dtype)
    flat[:, _rows(net, batch)] = columns.transpose(2, 0, 1)
    return split_state(net, batch, flat)


def columns_of(
    net: Stack,
    batch: int,
    dtype: np.dtype[Any],
    states: Sequence[LayerState],
    exponents: NDArray[np.int32],
) -> tuple[NDArray[np.float64], int]:
    """K directions of a state as the columns of matrices [B, S, K], all at one exponent.

    exponents: by layer, as jvp and vjp return them.
    """
    flat = state_directions("state", net, batch, dtype, states).astype(np.float64)
    matrices = flat[:, _rows(net, batch)].transpose(1, 2, 0)
    common, start = int(exponents.max()), 0
    scaled = np.array(matrices)
    for layer, exponent in zip(net.recurrent, exponents, strict=True):
        size = (layer.lag + len(layer.cell.states) - 1) * layer.hidden_size
        rows = slice(start, start + size)
        scaled[:, rows] = np.ldexp(matrices[:, rows], int(exponent) - common)
        start += size
    return scaled, common
