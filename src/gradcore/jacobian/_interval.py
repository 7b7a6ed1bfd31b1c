"""The number of steps between two orthogonalisations (QR) of a set of directions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LOST", "Lost"]

LONGEST = 64
# Rounding leaves up to LOST * sqrt(S) * eps, times the largest direction, of a direction that a
# singular Jacobian removes; it was 4 * sqrt(S) with S = 64 in float32.
LOST = 8
# Of about the last MEAN single steps most must have lost a direction for it to have no say about
# the interval, and one of PROBE windows is a single step, in which it may come back.
MEAN = 10
PROBE = 16


def _next_interval(
    diagonal: NDArray[np.float64],
    length: int,
    dtype: np.dtype[Any],
    lost: NDArray[np.bool_] | None = None,
) -> int:
    """The steps after which the growth of directions differs by a quarter of the dtype's digits.

    It is at most LONGEST. The other three quarters of the digits are the accuracy that is left to
    the direction that grew least. diagonal (B, K): the factor by which each direction grew over the
    last `length` steps, the diagonal of R. lost (B, K): directions that are left out. A sequence
    whose directions are all exactly 0 is left out, too; if one direction is 0 beside others that
    are not, the next interval is one step.
    """
    kept = np.ones(diagonal.shape, bool) if lost is None else ~lost
    kept[~np.any(diagonal, axis=1)] = False
    rows = kept.any(axis=1)
    if not rows.any():
        return length
    least = np.where(kept, diagonal, np.inf)[rows].min(axis=1)
    most = np.where(kept, diagonal, 0.0)[rows].max(axis=1)
    if not least.all():
        return 1
    per_step = max(float(np.log(most / least).max()), 1e-9) / length
    apart = -0.25 * np.log(float(np.finfo(dtype).eps))
    return int(np.clip(apart / per_step, 1, LONGEST))


class Lost:
    """Knows which directions [B, K] are exactly 0, or below what rounding leaves of them.

    Such a direction would ask for an interval of one step forever, as if that could resolve it. It
    is given up, that is, has no say, if it is exactly 0 (units of a relu net that are off remove
    some), or if most recent single steps have lost it and none that counts has not; one that
    saturated gates lose for a while is not.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        batch, size, count = shape
        self.dtype = dtype
        self.least = LOST * math.sqrt(size) * float(np.finfo(dtype).eps)
        # A window in which directions came so far apart may have lost one at some step of it, and
        # rounding errors have grown since; a window is to use half as many digits.
        self.doubtful = max(self.least, math.sqrt(float(np.finfo(dtype).eps)))
        self.share = np.zeros((batch, count))  # of recent single steps, those that lost it
        self.since = 0  # windows since the last single step
        self.seen = np.zeros((batch, count), bool)  # in a window of one step that counts
        self.zero = np.zeros((batch, count), bool)  # given up for good
        self.counting = False

    @property
    def given_up(self) -> NDArray[np.bool_]:
        return self.zero | ~self.seen & (self.share > 0.5)

    def removed(
        self, moved: NDArray[np.float64], diagonal: NDArray[np.float64], least: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """The directions that a single step has made exactly 0. moved (B, S, K): after the step.

        A matrix with n rows that are not 0 has a rank of at most n, so the directions beyond n, of
        which R has rounding errors, are 0. After several steps rows may be 0 by underflow.
        """
        rank = np.any(moved, axis=2).sum(axis=1)
        beyond = np.arange(moved.shape[2]) >= rank[:, None]
        return np.asarray((diagonal == 0) | beyond & (diagonal <= least))

    def give_up(self, which: NDArray[np.bool_], counts: bool) -> None:
        """Gives directions up for good, or until the first window that counts."""
        if counts and not self.counting:
            self.counting = True
            self.zero[:] = False
        self.zero |= which

    def look(self, diagonal: NDArray[np.float64], least: NDArray[np.float64], steps: int) -> None:
        """Takes in a window of `steps` steps. least [B, 1]: what rounding leaves after it."""
        self.since = 0 if steps == 1 else self.since + 1
        if steps > 1:
            return
        lost = diagonal <= least
        self.share += (lost - self.share) / MEAN
        if self.counting:
            self.seen |= ~lost

    def next_interval(self, diagonal: NDArray[np.float64], steps: int) -> int:
        """The steps until the next orthogonalisation."""
        given_up = self.given_up
        if self.since >= PROBE and (given_up & ~self.zero).any():
            return 1
        return _next_interval(diagonal, steps, self.dtype, given_up)
