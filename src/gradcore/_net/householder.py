"""QR decomposition whose bits do not depend on the number of BLAS threads.

LAPACK's products run on the threads of BLAS from about 129 columns on, and their bits depend on how
many there are. np.einsum without `optimize` never calls BLAS and sums in a fixed order; for 1,024
columns this takes 1.2 s.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["orthogonal_factor"]

Array = NDArray[np.float64]

# Columns that are reflected one by one before the others are updated by products.
BLOCK = 32
# LAPACK's bits are the same for every number of threads up to this size; it is faster there.
SMALL = 128


def orthogonal_factor(matrix: Array) -> Array:
    """Q of matrix (n, n) = Q R with a diagonal of R that is not negative.

    Reference: Golub and Van Loan 2013, sec. 5.1.6 and 5.2.3; Schreiber and Van Loan 1989 for T.
    """
    if len(matrix) <= SMALL:
        q, r = np.linalg.qr(matrix)
        return np.asarray(q * np.where(np.diagonal(r) < 0.0, -1.0, 1.0))
    rest, n = matrix.copy(), len(matrix)
    blocks = []
    for begin in range(0, n, BLOCK):
        end = min(n, begin + BLOCK)
        block = _reflected(rest[begin:, begin:end].T.copy())
        blocks.append(block)
        rest[begin:, end:] = _applied(block, rest[begin:, end:], transposed=True)
    q = np.eye(n)
    for index in reversed(range(len(blocks))):
        begin = index * BLOCK
        q[begin:, begin:] = _applied(blocks[index], q[begin:, begin:], transposed=False)
    return np.asarray(q * np.concatenate([block.signs for block in blocks]))


class _Block(NamedTuple):
    """The product I - V' T V of reflections, V (w, m), T (w, w) upper triangular.

    signs (w,): those of R's diagonal.
    """

    v: Array
    t: Array
    signs: Array


def _reflected(panel: Array) -> _Block:
    """Reflections that make the rows of panel (w, m) zero after the diagonal."""
    w, m = panel.shape
    v, t, signs = np.zeros((w, m)), np.zeros((w, w)), np.ones(w)
    for j in range(w):
        x = panel[j, j:]
        size = np.sqrt(np.einsum("i,i->", x, x))
        # The sign against which no digits cancel.
        signs[j] = -1.0 if x[0] >= 0 else 1.0
        u = x.copy()
        u[0] -= signs[j] * size
        square = np.einsum("i,i->", u, u)
        beta = 2.0 / square if square else 0.0
        v[j, j:], t[j, j] = u, beta
        t[:j, j] = -beta * np.einsum("ab,b->a", t[:j, :j], np.einsum("ai,i->a", v[:j], v[j]))
        later = panel[j + 1 :, j:]
        later -= beta * np.einsum("ai,i->a", later, u)[:, None] * u
    return _Block(v, t, signs)


def _applied(block: _Block, columns: Array, *, transposed: bool) -> Array:
    """The product of a block's reflections, or its transpose, with columns (m, k)."""
    columns = np.ascontiguousarray(columns)
    inside = np.einsum("ai,ij->aj", block.v, columns)
    scaled = np.einsum("ba,bj->aj" if transposed else "ab,bj->aj", block.t, inside)
    return np.asarray(columns - np.einsum("ai,aj->ij", block.v, scaled))
