"""Copy memory: ten symbols are shown and must be repeated after a delay of T steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from .task import Baseline, Measured, Task, cross_entropy

SYMBOLS = 8
RECALLED = 10
BLANK, GO = SYMBOLS, SYMBOLS + 1

_SHORTEST_STAGE = 8


@dataclass(frozen=True)
class Copying(Task):
    """Tokens (T+20, B): ten symbols of eight kinds, T-1 blanks, the signal to repeat, ten blanks.

    Targets (T+20, B): T+10 blanks, then the ten symbols in order; `length` is T.
    Reference: Hochreiter and Schmidhuber 1997; this form is that of Arjovsky, Shah, Bengio 2016,
    sec. 5.1.
    """

    name: ClassVar[str] = "copy"
    title: ClassVar[str] = "copying ten symbols after a delay"
    score_name: ClassVar[str] = "accuracy"
    maximise: ClassVar[bool] = True
    criterion: ClassVar[str] = (
        "held-out accuracy of the ten symbols at least 0.99 and loss under a tenth of the baseline"
    )
    loss: ClassVar[gd.loss.Loss] = gd.loss.CrossEntropy()
    least: ClassVar[int] = 1
    usual: ClassVar[int] = 500

    @property
    def steps(self) -> int:
        return self.length + 2 * RECALLED

    @property
    def baseline(self) -> Baseline:
        """The loss of answering blanks, then each of the eight symbols with equal probability."""
        loss = RECALLED * math.log(SYMBOLS) / self.steps
        return Baseline(loss, 1 / SYMBOLS, f"blanks, then any symbol: 10*log(8)/{self.steps}")

    @property
    def outputs(self) -> int:
        return SYMBOLS + 1

    def first_layer(self) -> tuple[gd.Embedding | None, int]:
        return gd.Embedding(SYMBOLS + 2, SYMBOLS + 2), SYMBOLS + 2

    def draw(self, rng: np.random.Generator, sequences: int) -> gd.Batch:
        symbols = rng.integers(0, SYMBOLS, (RECALLED, sequences), np.uint8)
        x = np.full((self.steps, sequences), BLANK, np.uint8)
        x[:RECALLED] = symbols
        x[RECALLED + self.length - 1] = GO
        y = np.full((self.steps, sequences), BLANK, np.uint8)
        y[-RECALLED:] = symbols
        return gd.Batch(x, y)

    def measure(self, outputs: NDArray[Any], batch: gd.Batch) -> Measured:
        said = outputs[-RECALLED:].argmax(axis=2)
        accuracy = float(np.mean(said == batch.y[-RECALLED:]))
        return Measured(cross_entropy(outputs, batch.y), accuracy)

    def solved(self, measured: Measured) -> bool:
        return measured.score >= 0.99 and measured.loss < 0.1 * self.baseline.loss

    def stage(self, level: int) -> Copying:
        return replace(self, length=min(self.length, _SHORTEST_STAGE * 2 ** min(level, 40)))
