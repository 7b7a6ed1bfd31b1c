"""Directions of a state as the columns of matrices, one matrix per sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..layers import Stack
from ..state import LayerState, state_size
from ._directions import flat_states, states_of

__all__ = ["columns_of", "state_directions"]


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


def state_directions(
    net: Stack, batch: int, dtype: np.dtype[Any], columns: NDArray[Any]
) -> tuple[LayerState, ...]:
    """Columns [S, K], or [B, S, K], as K directions of the state."""
    columns = np.broadcast_to(columns, (batch, *columns.shape[-2:]))
    flat = np.empty((columns.shape[2], state_size(net, batch)), dtype)
    flat[:, _rows(net, batch)] = columns.transpose(2, 0, 1)
    return states_of(net, batch, flat)


def columns_of(
    net: Stack, batch: int, dtype: np.dtype[Any], states: Sequence[LayerState]
) -> NDArray[Any]:
    """K directions of a state as the columns of matrices [B, S, K]."""
    flat = flat_states("state", net, batch, dtype, states)
    return np.ascontiguousarray(flat[:, _rows(net, batch)].transpose(1, 2, 0))
