"""What every task tells: how to draw sequences, what guessing reaches, and when it is solved."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

# Loss of a net that overflows: the largest number that JSON can hold.
OVERFLOW = sys.float_info.max

# Of everything that is drawn: the first number of the key says for what.
_TRAINING, _HELD_OUT = 0, 1
_HELD_OUT_SEED = 20_260_101


@dataclass(frozen=True)
class Baseline:
    """What the best answer that remembers nothing reaches, with its formula in words."""

    loss: float
    score: float
    formula: str


@dataclass(frozen=True)
class Measured:
    """Loss and score of a net on held-out sequences of the full length."""

    loss: float
    score: float


@dataclass(frozen=True)
class Task(ABC):
    """A task at one length.

    length: T; what exactly it counts is told by each task. A task is a function: equal tasks and
    random numbers give equal batches.
    """

    length: int

    name: ClassVar[str]
    title: ClassVar[str]
    score_name: ClassVar[str]
    # Whether a higher score is better.
    maximise: ClassVar[bool]
    criterion: ClassVar[str]
    loss: ClassVar[gd.loss.Loss]
    # Least length that the definition allows, and the length of the command without an option.
    least: ClassVar[int]
    usual: ClassVar[int]

    def __post_init__(self) -> None:
        if isinstance(self.length, bool) or not isinstance(self.length, int):
            raise gd.DTypeError(f"length must be an integer; got {self.length!r}.")
        if self.length < self.least:
            raise gd.ArgumentError(
                f"length of {self.name} must be at least {self.least}; got {self.length}."
            )

    @property
    @abstractmethod
    def steps(self) -> int:
        """Steps of a sequence."""

    @property
    @abstractmethod
    def baseline(self) -> Baseline:
        """What guessing reaches."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, sequences: int) -> gd.Batch:
        """That many sequences side by side."""

    def draw_held_out(self, rng: np.random.Generator, sequences: int) -> gd.Batch:
        """Sequences to judge nets by, where these are drawn from something else than others."""
        return self.draw(rng, sequences)

    @abstractmethod
    def first_layer(self) -> tuple[gd.Embedding | None, int]:
        """The embedding, if inputs are tokens, and the number of values that follow it."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Outputs of the net."""

    @abstractmethod
    def measure(self, outputs: NDArray[Any], batch: gd.Batch) -> Measured:
        """Mean loss and score of outputs (T, B, O)."""

    @abstractmethod
    def solved(self, measured: Measured) -> bool:
        """Whether a net that reaches this has learned the task; `criterion` in code."""

    def passed(self, measured: Measured) -> bool:
        """Whether a net that reaches this on a stage is ready for the next one."""
        return self.solved(measured)

    @abstractmethod
    def stage(self, level: int) -> Task:
        """An easier task of the same kind, harder with every level from 0 on, in the end this."""

    @property
    def overflow(self) -> Measured:
        """What a net reaches that gives no numbers."""
        return Measured(OVERFLOW, 0.0 if self.maximise else OVERFLOW)

    def training_batch(self, seed: int, update: int, sequences: int) -> gd.Batch:
        """The batch of one update, a function of the arguments alone: it can be drawn again."""
        return self.draw(_generator(seed, _TRAINING, update), sequences)

    def held_out(self, sequences: int) -> gd.Batch:
        """The sequences nets are judged on: the same for all nets, from no seed of a training."""
        return self.draw_held_out(_generator(_HELD_OUT_SEED, _HELD_OUT), sequences)

    def part(self, batch: gd.Batch, sequences: slice) -> gd.Batch:
        """Some sequences of a batch."""
        last = self.loss.step == "last"
        return gd.Batch(
            batch.x[:, sequences], batch.y[sequences if last else (slice(None), sequences)]
        )


def cross_entropy(outputs: NDArray[Any], y: NDArray[Any]) -> float:
    """Mean of -log softmax(outputs)[y] over classes y [N] for outputs [N, O], in float64."""
    logits = outputs.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    right = np.take_along_axis(logits, y[..., None].astype(np.int64), axis=-1)[..., 0]
    return float(np.mean(np.log(np.exp(logits).sum(axis=-1)) - right))


def _generator(seed: int, *key: int) -> np.random.Generator:
    # A spawn key, for [1, 0] and [1] are the same entropy to a SeedSequence.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
