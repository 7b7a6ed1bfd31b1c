"""The adding problem: the sum of two marked numbers, far apart, must be given at the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from .task import Baseline, Measured, Task

_SHORTEST_STAGE = 32


@dataclass(frozen=True)
class Adding(Task):
    """Inputs (T, B, 2): numbers from [0, 1) and marks; target (B, 1): the sum of the marked two.

    One mark is in the first half of the sequence, one in the second, each anywhere in its half.
    Reference: Hochreiter and Schmidhuber 1997, sec. 5.4; the halves are those of Arjovsky, Shah,
    Bengio 2016, sec. 5.2.
    """

    name: ClassVar[str] = "adding"
    title: ClassVar[str] = "adding two marked numbers"
    score_name: ClassVar[str] = "MSE"
    maximise: ClassVar[bool] = False
    criterion: ClassVar[str] = "held-out MSE under 0.01"
    loss: ClassVar[gd.loss.Loss] = gd.loss.MeanSquaredError(step="last")
    least: ClassVar[int] = 2
    usual: ClassVar[int] = 1_000

    @property
    def steps(self) -> int:
        return self.length

    @property
    def baseline(self) -> Baseline:
        """The variance of the sum of two numbers from [0, 1), the error of always answering 1."""
        return Baseline(1 / 6, 1 / 6, "always 1, the mean of the sum: MSE 1/6")

    @property
    def outputs(self) -> int:
        return 1

    def first_layer(self) -> tuple[gd.Embedding | None, int]:
        return None, 2

    def draw(self, rng: np.random.Generator, sequences: int) -> gd.Batch:
        x = np.zeros((self.length, sequences, 2), np.float32)
        x[:, :, 0] = rng.random((self.length, sequences), np.float32)
        half = self.length // 2
        each = np.arange(sequences)
        first = rng.integers(0, half, sequences)
        second = rng.integers(half, self.length, sequences)
        x[first, each, 1] = x[second, each, 1] = 1.0
        return gd.Batch(x, (x[first, each, 0] + x[second, each, 0])[:, None])

    def measure(self, outputs: NDArray[Any], batch: gd.Batch) -> Measured:
        mse = float(np.mean((outputs[-1].astype(np.float64) - batch.y) ** 2))
        return Measured(mse, mse)

    def solved(self, measured: Measured) -> bool:
        return measured.score < 0.01

    def stage(self, level: int) -> Adding:
        return replace(self, length=min(self.length, _SHORTEST_STAGE * 2 ** min(level, 40)))
