"""What constraints do to stacks of matrices (N, m, n) in float64, by eigenvalues of W'W or WW'.

The eigenvalues of the smaller of the two have an error of about 1e-16 of the largest, and only the
largest singular values matter for a limit. LAPACK's SVD takes three to twenty times as long.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["cayley", "clipped", "largest", "nearest_orthogonal", "polished", "top_pair"]

Array = NDArray[np.float64]


def _gram(w: Array) -> tuple[Array, bool]:
    """The smaller of W'W and WW', and whether it is WW', the product of rows."""
    rows = w.shape[1] < w.shape[2]
    return (w @ w.transpose(0, 2, 1) if rows else w.transpose(0, 2, 1) @ w), rows


def _eigen(w: Array) -> tuple[Array, Array, bool]:
    """Squared singular values, ascending; singular vectors of the shorter side; _gram's flag."""
    gram, rows = _gram(w)
    squares, vectors = np.linalg.eigh(gram)
    return np.maximum(squares, 0.0), vectors, rows


def largest(w: Array) -> Array:
    """Spectral norms (N,), in half the time of `clipped` and `top_pair`, which need vectors."""
    found: Array = np.sqrt(np.maximum(np.linalg.eigvalsh(_gram(w)[0])[:, -1], 0.0))
    return found


def clipped(w: Array, limit: float) -> tuple[Array, Array]:
    """The matrices with singular values above the limit lowered to it, and their norms before."""
    squares, vectors, rows = _eigen(w)
    values = np.sqrt(squares)
    factor = np.minimum(1.0, limit / np.maximum(values, np.finfo(float).tiny))
    turn = (vectors * factor[:, None, :]) @ vectors.transpose(0, 2, 1)
    found: Array = turn @ w if rows else w @ turn
    return found, values[:, -1]


def top_pair(w: Array) -> tuple[Array, Array, Array]:
    """Spectral norms (N,) and their left (N, m) and right (N, n) singular vectors."""
    squares, vectors, rows = _eigen(w)
    value, own = np.sqrt(squares[:, -1]), vectors[:, :, -1]
    safe = np.maximum(value, np.finfo(float).tiny)[:, None]
    other = np.einsum("bmn,bm->bn" if rows else "bmn,bn->bm", w, own) / safe
    return (value, own, other) if rows else (value, other, own)


def nearest_orthogonal(w: Array) -> Array:
    """The polar factor of square matrices (Higham 1986)."""
    u, _, vt = np.linalg.svd(w)
    found: Array = u @ vt
    return found


def polished(w: Array) -> Array:
    """One Newton-Schulz step towards the polar factor, which squares the orthogonality error."""
    gram = w.transpose(0, 2, 1) @ w
    return 1.5 * w - 0.5 * (w @ gram)


def cayley(w: Array, change: Array) -> Array:
    """w C(A), orthogonal if w is: C is the Cayley transform, A the skew part of w'change."""
    part = w.transpose(0, 2, 1) @ change
    skew = 0.5 * (part - part.transpose(0, 2, 1))
    one = np.eye(w.shape[1])
    found: Array = w @ np.linalg.solve(one - 0.5 * skew, one + 0.5 * skew)
    return found
