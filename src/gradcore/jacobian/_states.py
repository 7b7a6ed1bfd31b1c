"""Directions of a state as the columns of matrices, one matrix per sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._net.stack import Stack
from .._net.state import LayerState, at_one_exponent, state_rows, state_size, unflatten
from ._directions import state_directions

__all__ = ["columns_of", "state_of_columns"]


def state_of_columns(
    net: Stack, batch: int, dtype: np.dtype[Any], columns: NDArray[Any]
) -> tuple[LayerState, ...]:
    """Columns [S, K], or [B, S, K], as K directions of the state."""
    columns = np.broadcast_to(columns, (batch, *columns.shape[-2:]))
    flat = np.empty((columns.shape[2], state_size(net, batch)), dtype)
    flat[:, state_rows(net, batch)] = columns.transpose(2, 0, 1)
    return unflatten(net, batch, flat)


def columns_of(
    net: Stack,
    batch: int,
    dtype: np.dtype[Any],
    states: Sequence[LayerState],
    exponents: NDArray[np.int32],
) -> tuple[NDArray[np.float64], int]:
    """K directions of a state as the columns of matrices [B, S, K], all at one exponent.

    exponents: one per layer and direction of time and per convolution, as jvp and vjp return them.
    """
    flat = state_directions("state", net, batch, dtype, states).astype(np.float64)
    common = at_one_exponent(net, batch, flat, exponents)
    return flat[:, state_rows(net, batch)].transpose(1, 2, 0), common
