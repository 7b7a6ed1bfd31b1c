"""How good predictions are, and how good the simplest guesses would be on the same rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import predict
from .base import begins_of
from .dataset import Dataset
from .schema import Target

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Score:
    """Predictions against the truth, over `count` targets.

    Numbers: rmse and mae in the target's unit, r2 = 1 - squared error / that of the mean of these
    targets. Classes: accuracy, f1 (mean over the classes that occur), confusion [true, predicted].
    cross_entropy: of classes, in nats per target; None where there are no probabilities.
    """

    count: int
    cross_entropy: float | None = None
    rmse: float | None = None
    mae: float | None = None
    r2: float | None = None
    accuracy: float | None = None
    f1: float | None = None
    confusion: NDArray[np.int64] | None = field(default=None, repr=False)

    @property
    def measure(self) -> float:
        """What chooses a net, smaller being better: RMSE, or the cross-entropy of classes."""
        found = self.cross_entropy if self.rmse is None else self.rmse
        assert found is not None
        return found

    def as_json(self) -> dict[str, Any]:
        """What is known, as JSON values."""
        names = ("cross_entropy", "rmse", "mae", "r2", "accuracy", "f1")
        found = {name: getattr(self, name) for name in names}
        return {"count": self.count, **{k: v for k, v in found.items() if v is not None}}


def score(target: Target, truth: Array, guess: Array, entropy: float | None = None) -> Score:
    """The score of guesses (m,): numbers in the target's unit, or numbers of classes."""
    if target.kind == "class":
        size = len(target.classes)
        pairs = truth.astype(np.int64) * size + guess.astype(np.int64)
        confusion = np.bincount(pairs, minlength=size * size).reshape(size, size)
        return _class_score(confusion, entropy)
    error = guess - truth
    spread = float(((truth - truth.mean()) ** 2).sum())
    return Score(
        count=len(truth),
        rmse=math.sqrt(float((error**2).mean())),
        mae=float(np.abs(error).mean()),
        r2=1.0 - float((error**2).sum()) / spread if spread > 0.0 else None,
    )


def _class_score(confusion: NDArray[np.int64], entropy: float | None) -> Score:
    right = np.diagonal(confusion)
    there, told = confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = 2.0 * right / np.maximum(there + told, 1)
    count = int(confusion.sum())
    return Score(
        count=count,
        cross_entropy=entropy,
        accuracy=float(right.sum()) / count,
        f1=float(f1[there > 0].mean()),
        confusion=confusion,
    )


@dataclass(frozen=True, eq=False)
class Judged:
    """A score with what it is of: places (m,) in y of the dataset, truth and guess (m,)."""

    score: Score
    places: NDArray[np.int64]
    truth: Array
    guess: Array


def judge(
    model: predict.Model,
    data: Dataset,
    part: int,
    *,
    warm: int | None = None,
    most: int | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Judged:
    """The net on the targets of a part.

    Every sequence is run from its start, so that the state knows what came before; warm: from this
    many steps before the first target on. most: stop after about so many targets.
    """
    wanted = data.parts == part
    spans, places = _spans(data, wanted, warm, most)
    found: list[NDArray[np.int64]] = []
    guesses: list[Array] = []
    entropy = 0.0 if data.schema.target.kind == "class" else None
    for rows, out in predict.outputs(
        model,
        data.x,
        spans,
        begins=begins_of(data.groups.starts),
        last=data.per_sequence,
        threads=threads,
        memory=memory,
    ):
        if data.per_sequence:
            rows = places[rows]
        chosen = wanted[rows]
        rows, out = rows[chosen], out[chosen]
        found.append(rows)
        guesses.append(predict.values(data.schema.target, out))
        if entropy is not None:
            entropy += cross_entropy(data.y[rows], out)
    rows, guess = np.concatenate(found), np.concatenate(guesses)
    truth = data.y[rows]
    entropy = None if entropy is None else entropy / len(rows)
    return Judged(score(data.schema.target, truth, guess, entropy), rows, truth, guess)


def _spans(
    data: Dataset, wanted: NDArray[np.bool_], warm: int | None, most: int | None
) -> tuple[list[tuple[int, int]], NDArray[np.int64]]:
    """Rows to run the net over, and the sequence of each span."""
    spans: list[tuple[int, int]] = []
    chosen = []
    left = most
    for index in range(len(data.groups.ids)):
        rows = data.sequence(index)
        if data.per_sequence:
            if not wanted[index]:
                continue
            spans.append((rows.start, rows.stop))
            cost = rows.stop - rows.start
        else:
            places = np.flatnonzero(wanted[rows])
            if not len(places):
                continue
            places = places if left is None else places[:left]
            first, last = rows.start + int(places[0]), rows.start + int(places[-1])
            begin = rows.start if warm is None else max(rows.start, first - warm)
            spans.append((begin, last + 1))
            cost = len(places)
        chosen.append(index)
        if left is not None:
            left -= cost
            if left <= 0:
                break
    return spans, np.array(chosen, dtype=np.int64)


def cross_entropy(truth: Array, out: NDArray[Any]) -> float:
    """The sum over targets of the cross-entropy of outputs (m, O), in nats."""
    shifted = out.astype(np.float64) - out.max(axis=1, keepdims=True)
    picked = shifted[np.arange(len(truth)), truth.astype(np.int64)]
    return float((np.log(np.exp(shifted).sum(axis=1)) - picked).sum())


def is_better(net: Score, other: Score) -> bool:
    """Whether the net beats a guess: fewer squared errors, or more right answers."""
    if net.accuracy is not None and other.accuracy is not None:
        return net.accuracy > other.accuracy
    return net.rmse is not None and other.rmse is not None and net.rmse < other.rmse
