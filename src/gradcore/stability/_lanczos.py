"""The largest eigenvalues of a symmetric operator, by products with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import NonFiniteError

__all__ = ["Eigenpairs", "top_eigenpairs"]

Array = NDArray[np.float64]

# Vectors kept, each with its product: 320 MB at 10^6 parameters.
ROOM = 20


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """values (k,), falling; vectors (k, n); residuals (k,): |A v - value v|, for unit vectors v.

    There is an eigenvalue within residual of each value, and the k largest are at least so large.
    Of equal ones only as many need be found as start had vectors. products: how often A was
    multiplied by a vector.
    """

    values: Array
    vectors: Array
    residuals: Array
    products: int


def top_eigenpairs(
    product: Callable[[Array], Array],
    n: int,
    k: int,
    *,
    tol: float,
    start: Array | None,
    most: int,
    seed: int,
) -> Eigenpairs:
    """Thick-restart Lanczos in the form of Rayleigh and Ritz, with full orthogonalisation.

    Ends when all residuals are within tol of the largest |value|, or behind `most` products. start
    (k', n): vectors to begin with, as those of an operator nearby.
    Reference: Wu and Simon 2000; Parlett 1998, section 13.
    """
    rng = np.random.default_rng(seed)
    room = min(n, max(ROOM, 3 * k))
    basis, images, small = np.zeros((room, n)), np.zeros((room, n)), np.zeros((room, room))
    waiting = [] if start is None else [np.array(row) for row in start]
    held = used = 0
    while True:
        v = _orthogonal(waiting.pop(0) if waiting else rng.standard_normal(n), basis[:held], rng)
        image = np.asarray(product(v), np.float64)
        if not np.isfinite(image).all():
            raise NonFiniteError("a product with the Hessian is not finite: use float64.")
        basis[held], images[held] = v, image
        held, used = held + 1, used + 1
        small[held - 1, :held] = small[:held, held - 1] = basis[:held] @ image
        theta, turn = np.linalg.eigh(small[:held, :held])
        theta, turn = theta[::-1], turn[:, ::-1]
        count = min(k, held)
        vectors = turn[:, :count].T @ basis[:held]
        off = turn[:, :count].T @ images[:held] - theta[:count, None] * vectors
        residuals = np.linalg.norm(off, axis=1)
        floor = max(float(np.abs(theta).max()), np.finfo(float).tiny)
        open_ = np.flatnonzero(residuals > tol * floor)
        met = count == k and not len(open_) and not waiting
        if held == n or met or (used >= most and count == k):
            return Eigenpairs(theta[:count], vectors, residuals, used)
        if not waiting and len(open_):
            waiting = [off[open_[0]]]
        if held == room:
            held = min(k + 2, room - 1)
            basis[:held], images[:held] = turn[:, :held].T @ basis, turn[:, :held].T @ images
            small[:held, :held] = np.diag(theta[:held])


def _orthogonal(v: Array, basis: Array, rng: np.random.Generator) -> Array:
    """A unit vector along v, orthogonal to the basis; along a random one where nothing is left."""
    while True:
        size = float(np.linalg.norm(v))
        for _ in range(2):
            v = v - basis.T @ (basis @ v)
        left = float(np.linalg.norm(v))
        if left > 1e-10 * size and left > 0:
            v = v / left
            return v - basis.T @ (basis @ v)
        v = rng.standard_normal(len(v))
