"""Norms of arrays times a power of two, in logarithms."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["log10_norm"]


def log10_norm(
    values: NDArray[Any], exponent: int, axis: tuple[int, ...] | None = None
) -> NDArray[np.float64]:
    """log10 of the Euclidean norm of values * 2**exponent over `axis`, or over all axes if None.

    A norm of 0 gives -inf.
    """
    largest = np.abs(values).max(axis=axis, keepdims=True).astype(np.float64)
    scaled = values / np.where(largest > 0, largest, 1.0)
    squares = np.square(scaled, out=scaled).sum(axis=axis)
    with np.errstate(divide="ignore"):
        logs = 0.5 * np.log10(squares) + np.log10(largest.reshape(squares.shape))
    return np.asarray(logs + exponent * np.log10(2.0))
