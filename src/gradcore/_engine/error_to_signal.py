"""The error-to-signal ratio with pre-emphasis and a term for constant offsets.

With e = outputs - y and the filter p_t = e_t - a e_(t-1) (e_(-1) = 0) a sequence of n steps has

    (1/n) sum_t p_t^2 / (S_p + eps) + ((1/n) sum_t e_t)^2 / (S + eps),

where S_p and S are the means of the squares of y with and without the filter. The second term and
the filter couple all steps, so that the sums are known only after all steps: they are taken in one
pass over the outputs, and the gradient in a second one, block by block in float64.
Reference: Wright, Damskägg, Välimäki 2019; Wright and Välimäki 2020.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._net import validate
from ..errors import NonFiniteError
from ..loss import ErrorToSignal

__all__ = ["SignalLoss", "signal_bytes"]

Array = NDArray[Any]
# So many steps are converted to float64 at a time.
BLOCK_STEPS = 4096
# Arrays of a block that exist at the same time.
BLOCK_ARRAYS = 8


def signal_bytes(shape: tuple[int, int, int]) -> int:
    """The bytes of a block's arrays."""
    steps, batch, outputs = shape
    return BLOCK_ARRAYS * (min(steps, BLOCK_STEPS) + 2) * batch * outputs * 8


class SignalLoss:
    """Computes an ErrorToSignal for targets y (T, B, O)."""

    def __init__(
        self, loss: ErrorToSignal, shape: tuple[int, int, int], dtype: np.dtype[Any], y: object
    ) -> None:
        why = f"one target per output; the net has {shape[2]}"
        self.loss, self.shape = loss, shape
        self.y = validate.floats("y", y, shape, dtype, why)

    def bytes(self, gradient: bool, threads: int) -> int:
        """The memory of a block."""
        return signal_bytes(self.shape)

    def evaluate(
        self, outputs: Array, lengths: Array | None, gradient: bool, threads: int
    ) -> tuple[float, float, Array | None]:
        loss, (steps, batch, width) = self.loss, outputs.shape
        counts = np.full(batch, steps) if lengths is None else lengths
        n = np.maximum(counts, 1)[:, None].astype(np.float64)
        there = (counts > 0)[:, None]
        energy, power, squares, error = self._sums(outputs, counts)
        ratio = squares / n / (energy / n + loss.eps)
        offset = error / n
        if loss.dc:
            ratio += offset**2 / (power / n + loss.eps)
        sequences = int((counts > 0).sum())
        divisor = max(sequences * width, 1) if loss.reduction == "mean" else 1
        value = float(ratio[there[:, 0]].sum()) / divisor
        if not gradient:
            return value, float(sequences), None
        of_squares = there * 2.0 / (n * (energy / n + loss.eps) * divisor)
        of_offset = there * 2.0 * offset / (n * (power / n + loss.eps) * divisor) * loss.dc
        return value, float(sequences), self._slopes(outputs, counts, of_squares, of_offset)

    def _sums(self, outputs: Array, counts: Array) -> tuple[Array, Array, Array, Array]:
        """Sums over time, [B, O]: squares of filtered y, of y, of filtered e; and e."""
        sums = np.zeros((4, *outputs.shape[1:]))
        a, now = self.loss.pre_emphasis, slice(1, -1)
        for t0, y, e in self._blocks(outputs, counts):
            there = np.arange(t0, t0 + len(y) - 2)[:, None, None] < counts[:, None]
            for place, block in ((0, y), (2, e)):
                filtered = np.where(there, block[now] - a * block[:-2], 0.0)
                sums[place] += _energy(filtered)
            sums[1] += _energy(y[now])
            sums[3] += e[now].sum(axis=0)
            if not np.isfinite(sums).all():
                self._refuse(outputs, t0, y[now], e[now])
        return sums[0], sums[1], sums[2], sums[3]

    def _slopes(self, outputs: Array, counts: Array, of_squares: Array, of_offset: Array) -> Array:
        slopes = np.empty_like(outputs)
        a = self.loss.pre_emphasis
        for t0, _, e in self._blocks(outputs, counts):
            steps = np.arange(t0, t0 + len(e) - 2)[:, None, None]
            there = steps < counts[:, None]
            p = e[1:] - a * e[:-1]  # of the block's steps and the one after them
            behind = np.where(steps + 1 < counts[:, None], p[1:], 0.0)
            slope = of_squares * (p[:-1] - a * behind) + of_offset
            slopes[t0 : t0 + len(slope)] = np.where(there, slope, 0.0)
        return slopes

    def _blocks(self, outputs: Array, counts: Array) -> Iterator[tuple[int, Array, Array]]:
        """Blocks of steps with one step more on either side: their start, y and e, in float64.

        Where a sequence has ended, or not begun, both are 0.
        """
        steps = len(outputs)
        for t0 in range(0, steps, BLOCK_STEPS):
            t1 = min(t0 + BLOCK_STEPS, steps)
            first, last = max(t0 - 1, 0), min(t1 + 1, steps)
            y = np.zeros((t1 - t0 + 2, *outputs.shape[1:]))
            e = np.zeros_like(y)
            rows = slice(first - t0 + 1, last - t0 + 1)
            there = (np.arange(first, last)[:, None] < counts)[:, :, None]
            y[rows] = np.where(there, self.y[first:last], 0.0)
            e[rows] = np.where(there, outputs[first:last], 0.0) - y[rows]
            yield t0, y, e

    def _refuse(self, outputs: Array, t0: int, y: Array, e: Array) -> None:
        wrong = np.argwhere(~np.isfinite(y) | ~np.isfinite(e))
        if not wrong.size:
            raise NonFiniteError("the squares of outputs or targets are beyond float64.")
        t, b, o = (int(i) for i in wrong[0])
        name = "outputs" if np.isfinite(y[t, b, o]) else "y"
        value = outputs[t0 + t, b, o] if name == "outputs" else y[t, b, o]
        raise NonFiniteError(
            f"{name}[{t0 + t}, {b}, {o}] is {value}; it must be finite.", step=t0 + t, sequence=b
        )


def _energy(values: Array) -> Array:
    """The sums of squares over time, infinite beyond float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        energy: Array = (values**2).sum(axis=0)
    return energy
