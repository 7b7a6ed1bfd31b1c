"""Clips in simple form, over a dict from names to arrays.

Each returns the clipped gradients and how many parts of each were clipped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.float64]]
Clipped = tuple[dict[str, NDArray[np.float64]], dict[str, int]]


def parameter_norm(grads: Arrays, max_norm: float) -> Clipped:
    """Limits the norm of each array to max_norm."""
    clipped, counts = {}, {}
    for name, g in grads.items():
        norm = math.sqrt(float(np.sum(g * g)))
        counts[name] = int(norm > max_norm)
        clipped[name] = g * (max_norm / norm) if norm > max_norm else g.copy()
    return clipped, counts


def value(grads: Arrays, max_value: float) -> Clipped:
    """Limits each element to [-max_value, max_value]."""
    clipped = {name: np.clip(g, -max_value, max_value) for name, g in grads.items()}
    return clipped, {name: int(np.sum(np.abs(g) > max_value)) for name, g in grads.items()}


def adaptive(grads: Arrays, params: Arrays, clipping: float, eps: float) -> Clipped:
    """Equation 3 of Brock et al. 2021, for each row of a matrix or each vector."""
    clipped, counts = {}, {}
    for name, g in grads.items():
        rows = g.reshape(g.shape[0], -1) if g.ndim > 1 else g.reshape(1, -1)
        weights = params[name].reshape(rows.shape)
        new, counts[name] = rows.copy(), 0
        for i, (row, weight) in enumerate(zip(rows, weights, strict=True)):
            norm = math.sqrt(float(np.sum(row * row)))
            w = max(math.sqrt(float(np.sum(weight * weight))), eps)
            if norm / w > clipping:
                new[i] = clipping * w / norm * row
                counts[name] += 1
        clipped[name] = new.reshape(g.shape)
    return clipped, counts
