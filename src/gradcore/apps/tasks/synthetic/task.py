"""The base class of tasks: how sequences are drawn, the baseline, and when a task is solved."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

# The loss of a net that overflows: the largest float, because JSON has no infinity.
OVERFLOW = sys.float_info.max

# The first number of a random generator's key says what it is used for.
_TRAINING, _HELD_OUT = 0, 1
_HELD_OUT_SEED = 20_260_101


# The core counts the steps of a pass with fewer than 29 bits.
MOST_STEPS = 2**29


@dataclass(frozen=True)
class Baseline:
    """Loss and score of the best answer without memory, with their formula in words."""

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

    length: T, whose exact meaning each task defines. Equal tasks and random numbers give equal
    batches.
    """

    length: int

    name: ClassVar[str]
    title: ClassVar[str]
    score_name: ClassVar[str]
    # Whether a higher score is better.
    maximise: ClassVar[bool]
    criterion: ClassVar[str]
    loss: ClassVar[gd.loss.Loss]
    # The smallest length that the definition allows, and the default length of the command.
    least: ClassVar[int]
    usual: ClassVar[int]

    def __post_init__(self) -> None:
        if isinstance(self.length, bool) or not isinstance(self.length, int):
            raise gd.DTypeError(f"length must be an integer; got {self.length!r}.")
        if self.length < self.least:
            raise gd.ArgumentError(
                f"length of {self.name} must be at least {self.least}; got {self.length}."
            )
        if self.length >= MOST_STEPS or self.steps >= MOST_STEPS:
            raise gd.ArgumentError(
                f"length of {self.name} must be so small that a sequence has fewer than "
                f"{MOST_STEPS:,} steps; got {self.length:,}."
            )

    @property
    @abstractmethod
    def steps(self) -> int:
        """The number of steps of a sequence."""

    @property
    @abstractmethod
    def baseline(self) -> Baseline:
        """Loss and score of guessing."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, sequences: int) -> gd.Batch:
        """Draws a batch of `sequences` sequences."""

    def draw_held_out(self, rng: np.random.Generator, sequences: int) -> gd.Batch:
        """Draws held-out sequences; a task overrides it if these come from other data."""
        return self.draw(rng, sequences)

    def contents(self) -> dict[str, str]:
        """Fingerprints of files that sequences are made of, which a resumed run compares.

        A task without files has none: its sequences follow from the settings of the run, the seed
        among them.
        """
        return {}

    @abstractmethod
    def first_layer(self) -> tuple[gd.Embedding | None, int]:
        """The embedding, or None if inputs are floats, and the input size of the next layer."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """The number of outputs of the net."""

    @abstractmethod
    def measure(self, outputs: NDArray[Any], batch: gd.Batch) -> Measured:
        """The mean loss and score of outputs (T, B, O)."""

    @abstractmethod
    def solved(self, measured: Measured) -> bool:
        """Whether a net with this result has solved the task; `criterion` says it in words."""

    def passed(self, measured: Measured) -> bool:
        """Whether a net with this result on a stage is ready for the next one."""
        return self.solved(measured)

    @abstractmethod
    def stage(self, level: int) -> Task:
        """An easier task of the same kind, which gets harder with each level up to this task."""

    @property
    def overflow(self) -> Measured:
        """The result of a net that overflows."""
        return Measured(OVERFLOW, 0.0 if self.maximise else OVERFLOW)

    def training_batch(self, seed: int, update: int, sequences: int) -> gd.Batch:
        """The batch of one update, which depends only on the arguments and can be drawn again."""
        return self.draw(_generator(seed, _TRAINING, update), sequences)

    def held_out(self, sequences: int) -> gd.Batch:
        """The held-out sequences, the same for all nets, from a seed that no training has."""
        return self.draw_held_out(_generator(_HELD_OUT_SEED, _HELD_OUT), sequences)

    def part(self, batch: gd.Batch, sequences: slice) -> gd.Batch:
        """A part of the sequences of a batch."""
        last = self.loss.step == "last"
        return gd.Batch(
            batch.x[:, sequences], batch.y[sequences if last else (slice(None), sequences)]
        )


def cross_entropy(outputs: NDArray[Any], y: NDArray[Any]) -> float:
    """The mean of -log softmax(outputs)[y] for outputs [N, O] and classes y [N], in float64."""
    logits = outputs.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    right = np.take_along_axis(logits, y[..., None].astype(np.int64), axis=-1)[..., 0]
    return float(np.mean(np.log(np.exp(logits).sum(axis=-1)) - right))


def _generator(seed: int, *key: int) -> np.random.Generator:
    # The key is a spawn key, because as entropy [1, 0] and [1] would be the same.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
