"""Multi-query associative recall: pairs of key and value, then keys whose values must be given."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from .task import Baseline, Measured, Task, cross_entropy

FILLER = 0
NO_QUESTION = -100

_SHORTEST_STAGE = 24


@dataclass(frozen=True)
class Mqar(Task):
    """Tokens (T, B): `pairs` keys each followed by its value, then every key once, among fillers.

    Keys are drawn without repetition from `symbols` keys, and values from as many values. Queries
    come in random order at places drawn uniformly from the rest of the sequence. Targets (T, B):
    the value at a query, NO_QUESTION elsewhere. Tokens are numbered: the filler, the keys, the
    values.
    Reference: Arora et al. 2023 (Zoology), sec. 4.1, whose queries tend to come early; here they
    are uniform, so that the distance grows with T.
    """

    pairs: int = 4
    symbols: int = 16

    name: ClassVar[str] = "mqar"
    title: ClassVar[str] = "recalling the values of keys"
    score_name: ClassVar[str] = "accuracy"
    maximise: ClassVar[bool] = True
    criterion: ClassVar[str] = "held-out accuracy of the queries at least 0.99"
    loss: ClassVar[gd.loss.Loss] = gd.loss.CrossEntropy(ignore_index=NO_QUESTION)
    least: ClassVar[int] = 3
    usual: ClassVar[int] = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("pairs", self.pairs), ("symbols", self.symbols)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise gd.DTypeError(f"{name} must be an integer; got {value!r}.")
            if value < 1:
                raise gd.ArgumentError(f"{name} must be at least 1; got {value}.")
        if self.pairs > self.symbols:
            raise gd.ArgumentError(
                f"pairs must be at most the number of symbols, {self.symbols}, because no key "
                f"occurs twice; got {self.pairs}."
            )
        if self.length < 3 * self.pairs:
            raise gd.ArgumentError(
                f"length of mqar must be at least 3 times the pairs, {3 * self.pairs}, for a key, "
                f"a value and a query of each; got {self.length}."
            )

    @property
    def steps(self) -> int:
        return self.length

    @property
    def baseline(self) -> Baseline:
        """Guessing any of the values in the sequence, without knowing which belongs to the key."""
        return Baseline(
            math.log(self.pairs),
            1 / self.pairs,
            f"any value that was shown: loss log({self.pairs}), accuracy 1/{self.pairs}",
        )

    @property
    def outputs(self) -> int:
        return self.symbols

    def first_layer(self) -> tuple[gd.Embedding | None, int]:
        width = min(32, self.symbols)
        return gd.Embedding(1 + 2 * self.symbols, width), width

    def draw(self, rng: np.random.Generator, sequences: int) -> gd.Batch:
        keys = self._some(rng, self.symbols, sequences)
        values = self._some(rng, self.symbols, sequences)
        context = 2 * self.pairs
        x = np.full((self.length, sequences), FILLER, np.int32)
        x[0:context:2] = 1 + keys
        x[1:context:2] = 1 + self.symbols + values
        places = context + self._some(rng, self.length - context, sequences)
        y = np.full((self.length, sequences), NO_QUESTION, np.int32)
        np.put_along_axis(x, places, (1 + keys).astype(np.int32), axis=0)
        np.put_along_axis(y, places, values.astype(np.int32), axis=0)
        return gd.Batch(x, y)

    def _some(self, rng: np.random.Generator, among: int, sequences: int) -> NDArray[np.int64]:
        """(pairs, B): `pairs` different numbers below `among` per sequence, in random order."""
        order: NDArray[np.int64] = rng.random((among, sequences)).argsort(axis=0)
        return order[: self.pairs]

    def measure(self, outputs: NDArray[Any], batch: gd.Batch) -> Measured:
        asked = batch.y != NO_QUESTION
        answers, y = outputs[asked], batch.y[asked]
        return Measured(cross_entropy(answers, y), float(np.mean(answers.argmax(axis=1) == y)))

    def solved(self, measured: Measured) -> bool:
        return measured.score >= 0.99

    def stage(self, level: int) -> Mqar:
        """The task at a level: two pairs at level 0, one more per level, then longer sequences."""
        pairs = min(self.pairs, 2 + level)
        doubled = min(40, max(0, level - self.pairs + 2))
        length = min(self.length, _SHORTEST_STAGE * 2**doubled)
        return replace(self, pairs=pairs, length=max(length, 3 * pairs))
