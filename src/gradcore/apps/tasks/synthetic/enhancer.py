"""Enhancer and promoter: does a motif far back in the sequence fit the one near its end?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from ....data._contents import fingerprint
from ..dna.labels import tokens
from ..dna.records import read_sequences
from ..dna.synthetic import genome
from .task import Baseline, Measured, Task

# The bases of a motif, so many that the background hardly has one by chance: 20 given bases with at
# most four mismatches occur once in 2.6 million.
MOTIF = 20
# The probability of a motif's consensus base; the other three share the rest.
KEPT = 0.92
TYPES = 2
# The first stage and the growth of the next ones. With stages that double, a net that has learned
# one stage is often worse than guessing in the next.
_SHORTEST_STAGE, _GROWTH = 32, 1.5
_CHEAP = 1_000
_BACKGROUND = 2_000_000


@lru_cache(maxsize=1)
def motifs() -> NDArray[np.float64]:
    """Position weight matrices of enhancers and promoters, (2 kinds, 2 types, MOTIF, 4)."""
    rng = np.random.default_rng(20_260_101)
    consensus = rng.integers(0, 4, (2, TYPES, MOTIF))
    made = np.full((2, TYPES, MOTIF, 4), (1 - KEPT) / 3)
    np.put_along_axis(made, consensus[..., None], KEPT, axis=3)
    return made


@lru_cache(maxsize=1)
def background(path: str = "") -> NDArray[np.uint8]:
    """The bases of all records of a file, or without a path those of a synthetic genome."""
    if not path:
        return tokens(genome("background", _BACKGROUND, 0).letters, 1)
    return tokens(np.concatenate([record.letters for record in read_sequences(Path(path))]), 1)


@dataclass(frozen=True)
class Enhancer(Task):
    """Bases (T, B) with an enhancer motif and, D bases later, a promoter motif; T = 1.1 D + 20.

    D is `length`. Each motif is of one of two types, drawn from a position weight matrix, planted
    in a genome. The target (B, 1), read at the end, is 1 if the types are the same. Neither motif
    gives the answer alone. The pair lies anywhere within the sequence. The task is semi-synthetic;
    real gene regulation is different.

    background: a file that gradcore.apps.tasks.dna.records.read_sequences can read, or "" for a
    synthetic genome. Held-out sequences come from its last fifth, training sequences from the rest.
    """

    background: str = ""

    name: ClassVar[str] = "enhancer"
    title: ClassVar[str] = "telling whether an enhancer fits a promoter"
    score_name: ClassVar[str] = "accuracy"
    maximise: ClassVar[bool] = True
    criterion: ClassVar[str] = "held-out accuracy at least 0.95"
    loss: ClassVar[gd.loss.Loss] = gd.loss.BinaryCrossEntropy(step="last")
    least: ClassVar[int] = MOTIF
    usual: ClassVar[int] = 500

    @property
    def steps(self) -> int:
        return self.length + self.length // 10 + MOTIF

    @property
    def baseline(self) -> Baseline:
        return Baseline(math.log(2), 0.5, "either answer as likely: log(2)")

    @property
    def outputs(self) -> int:
        return 1

    def first_layer(self) -> tuple[gd.Embedding | None, int]:
        return gd.Embedding(5, 8), 8

    def draw(self, rng: np.random.Generator, sequences: int) -> gd.Batch:
        return self._draw(rng, sequences, held_out=False)

    def draw_held_out(self, rng: np.random.Generator, sequences: int) -> gd.Batch:
        return self._draw(rng, sequences, held_out=True)

    def contents(self) -> dict[str, str]:
        return {"background": fingerprint(background(self.background))} if self.background else {}

    def _draw(self, rng: np.random.Generator, sequences: int, held_out: bool) -> gd.Batch:
        base, steps = background(self.background), self.steps
        cut = len(base) - len(base) // 5
        base = base[cut:] if held_out else base[:cut]
        if len(base) < steps:
            raise gd.ArgumentError(
                f"background must have at least 5 times {steps:,} bases, because its last fifth is "
                f"for held-out sequences; {self.background or 'the synthetic genome'} has "
                f"{len(background(self.background)):,}. Choose a shorter distance or a larger "
                "genome."
            )
        starts = rng.integers(0, len(base) - steps + 1, sequences)
        x = base[starts + np.arange(steps)[:, None]]
        types = rng.integers(0, TYPES, (2, sequences))
        first = rng.integers(0, self.length // 10 + 1, sequences)
        for kind, places in enumerate((first, first + self.length)):
            # Draw one base for each column of the matrix, by inverse transform sampling.
            sums = motifs()[kind, types[kind]].cumsum(axis=2)
            drawn = (rng.random((sequences, MOTIF, 1)) > sums[..., :3]).sum(axis=2)
            x[places + np.arange(MOTIF)[:, None], np.arange(sequences)] = drawn.T
        y = (types[0] == types[1]).astype(np.float32)[:, None]
        return gd.Batch(x, y)

    def measure(self, outputs: NDArray[Any], batch: gd.Batch) -> Measured:
        said, y = outputs[-1].astype(np.float64), np.asarray(batch.y)
        loss = float(np.mean(np.logaddexp(0.0, said) - y * said))
        return Measured(loss, float(np.mean((said > 0) == (y > 0.5))))

    def solved(self, measured: Measured) -> bool:
        return measured.score >= 0.95

    def passed(self, measured: Measured) -> bool:
        # Short stages are cheap, and a net that leaves one too early may forget it, so they need a
        # higher score than long stages.
        return measured.score >= (0.95 if self.length < _CHEAP else 0.87)

    def stage(self, level: int) -> Enhancer:
        grown = int(_SHORTEST_STAGE * _GROWTH ** min(level, 80))
        return replace(self, length=min(self.length, grown))
