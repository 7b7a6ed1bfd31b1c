"""The largest singular values of a product of Jacobians, by block Golub-Kahan iteration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._factors import log_singular_values, scaled_product
from ._interval import LOST
from ._path import Matrices, Path

__all__ = ["TOLERANCE", "Leading", "leading"]

# A value is found when its left singular vector has a part of at most TOLERANCE outside the space
# of the pass before; a singular value then lies within about this share of it. With 3e-3, nets of
# 512 units took a fifth longer, and values were within 5e-6 instead of 1.2e-4 in log10.
TOLERANCE = 1e-2
# Of this many blocks at most a space is made before it is reduced to its best block, and of so many
# in all.
ROOM = 10
MOST_BLOCKS = 60
# A plain product in float64 has singular vectors for values of at least this part of the largest.
RESOLVED = 1e-10


@dataclass(frozen=True, eq=False)
class Leading:
    """logs (B, K): natural logs of singular values, descending, of which the first `count` are
    sought; residuals (B, count): |J' u - s v| / s, or 0 for values that are 0 or rounding errors.
    left (B, S, K): left singular vectors. apart: whether values differ so much that a space of
    several blocks cannot have all of them.
    """

    logs: Matrices
    residuals: Matrices
    left: Matrices
    apart: bool

    @property
    def converged(self) -> bool:
        return float(self.residuals.max()) <= TOLERANCE


def leading(path: Path, begin: int, end: int, count: int, frames: Matrices) -> Leading:
    """The `count` largest singular values of J = d state_end / d state_begin.

    frames [B, S, K]: orthonormal directions to start from, K > count. A value of multiplicity up to
    K is found as often as it is. Every block is carried along the trajectory as a nested frame, so
    a space of a single block has values of any size; one of several blocks has values down to about
    the square root of the dtype's rounding error times the largest. If more are wanted, the space
    is reduced to its best block after every pass, which makes it a subspace iteration: values so
    far apart need only a few passes of it.
    Reference: Golub, Luk, Overton 1981 (block Lanczos for singular values); Halko, Martinsson and
    Tropp 2011, algorithm 4.4 (subspace iteration).
    """
    eps = float(np.finfo(path.params.dtype).eps)
    space = _Space(path.forth(frames, begin, end, []), count, eps)
    for _ in range(MOST_BLOCKS):
        factors: list[Matrices] = []
        right = space.add_right(path.back(space.newest, end, begin, []))
        ahead = path.forth(right, begin, end, factors)
        found = space.values(ahead, factors)
        if found.converged:
            break
        if found.apart or space.blocks == ROOM or space.full:
            space = _Space(found.left, count, eps)
        else:
            space.add_left(ahead)
    return found


class _Space:
    """Orthonormal bases P (left) and Q (right) of one or more blocks, and the images J Q."""

    def __init__(self, left: Matrices, count: int, eps: float) -> None:
        self.left = self.newest = left
        self.right = self.images = np.empty((*left.shape[:2], 0))
        self.count, self.eps, self.blocks = count, eps, 0

    @property
    def full(self) -> bool:
        return bool(self.left.shape[2] == self.left.shape[1])

    def add_left(self, frames: Matrices) -> None:
        """Adds the part of frames outside P to it."""
        self.newest = _outside(frames, self.left)
        self.left = np.concatenate([self.left, self.newest], axis=2)

    def add_right(self, frames: Matrices) -> Matrices:
        """Adds the part of frames outside Q to it, and returns this part."""
        new = _outside(frames, self.right)
        self.right = np.concatenate([self.right, new], axis=2)
        self.blocks += 1
        return new

    def values(self, ahead: Matrices, factors: list[Matrices]) -> Leading:
        """The values after the last right block was carried to frames `ahead` times factors."""
        product, log = scaled_product(factors)
        if self.blocks == 1:
            self.log, self.first = log, log_singular_values(factors)
            self.gone = _gone(factors, LOST * math.sqrt(ahead.shape[1]) * self.eps)
            self.images = ahead @ product
            logs, left = self.first, _single(ahead, product)
        else:
            scale = np.exp(np.where(np.isneginf(log), -np.inf, log - self.log))
            self.images = np.concatenate(
                [self.images, ahead @ product * scale[:, None, None]], axis=2
            )
            vectors, sizes, _ = np.linalg.svd(self.images, full_matrices=False)
            left = vectors[:, :, : self.gone.shape[1]]
            with np.errstate(divide="ignore"):
                logs = np.log(sizes[:, : self.gone.shape[1]]) + self.log[:, None]
            logs = np.where(self.gone, self.first, logs)
        gone = self.gone[:, : self.count]
        parts = left[:, :, : self.count]
        parts = parts - self.left @ (self.left.transpose(0, 2, 1) @ parts)
        residuals = np.where(gone, 0.0, np.linalg.norm(parts, axis=1))
        lowest = np.where(gone, np.inf, logs[:, : self.count]).min(axis=1)
        apart = lowest < logs[:, 0] + 0.5 * np.log(self.eps)
        return Leading(logs, residuals, left, bool(np.any(apart)))


def _gone(factors: list[Matrices], least: float) -> NDArray[np.bool_]:
    """The directions [B, K] of which some window left 0, or less than rounding errors."""
    diagonals = [np.abs(np.einsum("bkk->bk", factor[:, :, :-1])) for factor in factors]
    return np.asarray(np.any([diagonal <= least for diagonal in diagonals], axis=0))


def _single(frames: Matrices, product: Matrices) -> Matrices:
    """Left singular vectors of frames times an upper triangular product with any range of values.

    Where a value is far below the largest, the column of the frame stands for its vector: columns
    are in the order of their growth.
    """
    turn, sizes, _ = np.linalg.svd(product)
    far = sizes < RESOLVED * sizes[:, :1]
    turn = np.where(far[:, None, :], np.eye(turn.shape[1]), turn)
    return np.asarray(np.linalg.qr(frames @ turn)[0])


def _outside(frames: Matrices, basis: Matrices) -> Matrices:
    """Orthonormal columns for the part of frames outside the span of an orthonormal basis.

    A column without such a part becomes a direction of rounding errors, outside all the same.
    """
    width = min(frames.shape[2], frames.shape[1] - basis.shape[2])
    if not basis.shape[2]:
        return frames
    for _ in range(3):
        frames = frames - basis @ (basis.transpose(0, 2, 1) @ frames)
        frames = np.linalg.qr(frames)[0]
    return frames[:, :, :width]
