"""Lanczos iteration: the largest eigenvalues of a symmetric operator from products with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Eigenpairs", "top_eigenpairs"]

Array = NDArray[np.float64]

# The part of a product outside the space counts as rounding error up to this size, relative to the
# largest value; the space is then invariant and contains eigenvectors exactly.
ROUNDING = 4e-16


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """values (k,), descending; vectors (k, n); residuals (k,): |A v - value v|, for unit vectors v.

    An eigenvalue lies within the residual of each value, and the k largest eigenvalues are at least
    as large as the values. Of a multiple eigenvalue only as many copies may be found as start had
    vectors. products: the number of products of A with a vector. converged: whether all residuals
    are within the tolerance.
    """

    values: Array
    vectors: Array
    residuals: Array
    products: int
    converged: bool


def top_eigenpairs(
    product: Callable[[Array], Array],
    n: int,
    k: int,
    *,
    tol: float,
    start: Array | None,
    most: int,
    seed: int,
    room: int = 20,
    of_each: bool = False,
) -> Eigenpairs:
    """Thick-restart Lanczos with full orthogonalisation.

    It ends when all residuals are at most tol times the largest |value| (with of_each, times their
    own |value|), or after `most` products. start (k', n): vectors to start from, for example those
    of a similar operator. room: the most vectors kept, but at least 3*k; 20 take 160 MB at
    n = 10^6.
    SciPy's eigsh finds the same values, and tests compare with it. It fills a basis before it looks
    at residuals: for one eigenvalue of Hessians of LSTMs at tol = 1e-3 it needs 21 products, and
    this iteration 9 to 14, or 7 when it starts from vectors of a similar operator.
    Reference: Wu and Simon 2000; Parlett 1998, section 13.
    """
    rng = np.random.default_rng(seed)
    space = _Space(n, min(n, max(room, 3 * k)))
    waiting = [] if start is None else [np.array(row) for row in start]
    used = 0
    while True:
        v = space.unit(waiting.pop(0) if waiting else rng.standard_normal(n), rng)
        while True:
            space.add(v, np.asarray(product(v), np.float64))
            used += 1
            pairs = space.pairs(k)
            scale = np.abs(pairs.values) if of_each else pairs.largest
            open_ = np.flatnonzero(pairs.residuals > tol * scale)
            full = len(pairs.values) == k
            met = full and not len(open_) and not waiting
            if met or space.held == n or (full and used >= most):
                vectors = space.vectors(pairs.turn[:, :k])
                done = met or space.held == n
                return Eigenpairs(pairs.values, vectors, pairs.residuals, used, done)
            off = space.off(pairs.turn[:, open_[0]]) if len(open_) and not waiting else None
            if space.held == len(space.basis):
                space.shrink(pairs.turn[:, : min(k + 2, len(space.basis) - 1)])
            if off is None:
                break
            v = space.unit(off, rng)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """values, residuals: (k,) or fewer. turn: eigenvectors in the basis, largest value first."""

    values: Array
    residuals: Array
    turn: Array
    largest: float


class _Space:
    """A space with orthonormal basis Q (rows) for which A Q' = Q' S + L' C.

    The rows of L are orthogonal to Q and to each other. If the iteration started from one vector,
    the space is a Krylov space and L has one row. No product with A needs to be stored.
    """

    def __init__(self, n: int, room: int) -> None:
        self.basis = np.zeros((room, n))
        self.small = np.zeros((room, room))
        self.held = 0
        self.loose = np.zeros((0, n))
        self.weights = np.zeros((0, room))

    def unit(self, v: Array, rng: np.random.Generator) -> Array:
        """The unit vector along the part of v orthogonal to Q; a random direction if that is 0."""
        basis = self.basis[: self.held]
        while True:
            size = float(np.linalg.norm(v))
            for _ in range(2):
                v = v - basis.T @ (basis @ v)
            left = float(np.linalg.norm(v))
            if left > 1e-10 * size and left > 0:
                return v / left
            v = rng.standard_normal(len(v))

    def add(self, v: Array, image: Array) -> None:
        """Adds a unit vector v from unit() to the basis; image: A v."""
        # The part of L along v moves to S; that is all of L if v came from a single row of it.
        along = self.loose @ v
        left = self.loose - np.outer(along, v)
        there = np.linalg.norm(left, axis=1) > 1e-13 * np.abs(along)
        self.loose, self.weights = left[there], self.weights[there]
        at = self.held
        self.basis[at], self.held = v, at + 1
        basis = self.basis[: self.held]
        inside = basis @ image
        self.small[at, : at + 1] = self.small[: at + 1, at] = inside
        rest = image - basis.T @ inside
        rest -= basis.T @ (basis @ rest)
        weight = np.zeros((1, self.weights.shape[1]))
        weight[0, at] = 1.0
        self.loose = np.concatenate([self.loose, rest[None]])
        self.weights = np.concatenate([self.weights, weight])
        self._tidy()

    def _tidy(self) -> None:
        """Makes the rows of L orthogonal and drops those that are only rounding errors."""
        least = ROUNDING * max(float(np.abs(self.small[: self.held, : self.held]).max()), 1e-300)
        sizes = np.linalg.norm(self.loose, axis=1)
        there = sizes > least * max(1.0, len(sizes) - 1.0)
        self.loose, self.weights = self.loose[there], self.weights[there]
        if len(self.loose) > 1:
            turn, sizes, rows = np.linalg.svd(self.loose, full_matrices=False)
            kept = sizes > 1e-13 * sizes[0]
            self.loose = sizes[kept, None] * rows[kept]
            self.weights = turn.T[kept] @ self.weights

    def pairs(self, k: int) -> _Pairs:
        """The k largest Ritz values of A in this space, with their residuals."""
        theta, turn = np.linalg.eigh(self.small[: self.held, : self.held])
        theta, turn = theta[::-1], turn[:, ::-1]
        parts = self.weights[:, : self.held] @ turn[:, :k]
        residuals = np.linalg.norm(parts * np.linalg.norm(self.loose, axis=1)[:, None], axis=0)
        largest = max(float(np.abs(theta).max()), float(np.finfo(float).tiny))
        return _Pairs(theta[:k], residuals, turn, largest)

    def vectors(self, turn: Array) -> Array:
        """Combinations of the basis vectors, one for each column of turn."""
        made: Array = turn.T @ self.basis[: self.held]
        return made

    def off(self, turn: Array) -> Array:
        """The residual A y - theta y of the pair with these coefficients in the basis."""
        made: Array = (self.weights[:, : self.held] @ turn) @ self.loose
        return made

    def shrink(self, turn: Array) -> None:
        """Reduces the space to the Ritz vectors in turn; S is diagonal afterwards."""
        values = np.diag(turn.T @ self.small[: self.held, : self.held] @ turn)
        weights = np.zeros_like(self.weights)
        weights[:, : turn.shape[1]] = self.weights[:, : self.held] @ turn
        vectors = self.vectors(turn)
        self.held, self.weights = len(vectors), weights
        self.basis[: self.held] = vectors
        self.small[: self.held, : self.held] = np.diag(values)
