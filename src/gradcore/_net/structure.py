"""Recurrent weights with structure, written as the dense weights that do the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .layers import Recurrent

__all__ = ["dense_weight_hh"]


def dense_weight_hh(layer: Recurrent, weight: NDArray[Any] | None) -> NDArray[Any]:
    """weight_hh [G*H, H] of a dense layer whose recurrent product is that of this layer.

    weight: its weight_hh; None for recurrent="none", which gives zeros.
    """
    gates, size = len(layer.cell.gates), layer.hidden_size
    if weight is None:
        return np.zeros((gates * size, size))
    if layer.recurrent == "dense":
        return weight
    head = layer.head_size
    made = np.zeros((gates, size // head, head, size // head, head), weight.dtype)
    own = np.arange(size // head)
    # The indices of one block stand in front: [block, gate, unit, unit of the state].
    made[:, own, :, own] = weight.reshape(gates, size // head, head, head).transpose(1, 0, 2, 3)
    return made.reshape(gates * size, size)
