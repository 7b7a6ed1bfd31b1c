"""The bases that a net may stand on, fitted to a table, and how much of the net is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from . import linear
from .base import Base, Kind, bears, begins_of, left_by, made
from .dataset import Dataset
from .linear import Choice, Lagged, Linear
from .sequences import TRAIN, VALIDATION

__all__ = ["Bases", "Ridge", "combined", "fitted", "share_of_net"]

Array = NDArray[np.float64]
# Stretches of the validation part whose gains are compared, and the rows of one at least. A net is
# the best of some hundred looks at some nets, which finds gains where there are none: those of one
# such net in a hundred count. The normal quantile of that, from which Student's follows.
_STRETCHES, _LEAST_STRETCHES, _LEAST_ROWS = 20, 4, 10
_QUANTILE = 2.326
# Parts of the rows to learn from, the later of which choose a regression.
_FOLDS = 6


@dataclass(frozen=True, eq=False)
class Ridge:
    """Ridge regression on the latest rows.

    hows: the forms, lags and penalties whose mean it is. learned: fitted to the rows to learn from.
    refitted: fitted to these and the validation part.
    """

    hows: tuple[Choice, ...]
    learned: Linear
    refitted: Linear


@dataclass(frozen=True, eq=False)
class Bases:
    """What a net may stand on by name, and the ridge regression among it."""

    linears: dict[Kind, Linear]
    ridge: Ridge
    left: dict[Kind, Array]

    def base(self, kind: Kind) -> Base:
        """A base whose net has the scale of what the linear forecast leaves."""
        return made(self.linears[kind], self.left[kind])


def fitted(data: Dataset) -> Bases | None:
    """The bases for a table; None if its target is no number in every row."""
    schema, target = data.schema, data.schema.target
    if not bears(schema):
        return None
    x, begins = data.x, begins_of(data.groups.starts)
    y = (data.y - target.mean) / target.std
    learned, chosen = (np.flatnonzero(data.parts == part) for part in (TRAIN, VALIDATION))
    lags = min(linear.most_lags(len(learned), schema.width), int(data.groups.lengths.max()))
    folds = [Lagged.of(x, y, rows, begins, lags) for rows in (*_stretches(data, learned), chosen)]
    sums, both = reduce(Lagged.__add__, folds[:-1]), reduce(Lagged.__add__, folds)
    now = linear.last_value(schema)
    hows = linear.choose(folds, now)
    ridge = Ridge(hows, linear.fit(sums, hows, now), linear.fit(both, hows, now))
    linears: dict[Kind, Linear] = {"ridge": ridge.learned, "mean": linear.mean(schema)}
    if now is not None:
        linears["last value"] = now
    left = {kind: left_by(one, target, x, data.y, begins)[learned] for kind, one in linears.items()}
    return Bases(linears, ridge, left)


def _stretches(data: Dataset, learned: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows to learn from in parts: of each sequence by time, or whole ones by their order."""
    place, count = np.arange(len(learned)), np.full(len(learned), len(learned))
    if data.split == "time":
        _, first, of_rows = np.unique(
            data.groups.of_rows[learned], return_index=True, return_inverse=True
        )
        place -= first[of_rows]
        count = np.bincount(of_rows)[of_rows]
    part = place * _FOLDS // count
    parts = [learned[part == fold] for fold in range(_FOLDS)]
    return [rows for rows in parts if len(rows)]


def combined(base: Base, ridge: Ridge, share: float) -> Base:
    """The base with which the net has that share of the forecast, and ridge regression the rest.

    Where ridge regression is part of it, it is the one fitted to both parts.
    """
    own = ridge.refitted if base.linear is ridge.learned else base.linear
    return Base(_mixed(ridge.refitted, own, share), share * base.scale)


def share_of_net(left: Array, added: Array) -> float:
    """The share of the net in a forecast: of `added`, what it adds to ridge regression.

    left: (m,) what that leaves of the truth. The share of the smallest squared error, in [0, 1],
    and 0 if the gain may be chance: if Student's test of the gains of stretches of rows, since
    neighbours are alike, does not reject that at 1 %.
    """
    total = float((added**2).sum())
    if total == 0.0:
        return 0.0
    share = min(1.0, max(0.0, float((left * added).sum()) / total))
    gain = left**2 - (left - share * added) ** 2
    count = min(_STRETCHES, len(gain) // _LEAST_ROWS)
    if count < _LEAST_STRETCHES:
        return 0.0
    parts = np.array([part.mean() for part in np.array_split(gain, count)])
    error = float(parts.std(ddof=1)) / math.sqrt(count)
    return share if parts.mean() > _student(count - 1) * error else 0.0


def _student(freedom: int) -> float:
    """The 99 % quantile of Student's distribution, 7 % too small for 3 degrees of freedom.

    Reference: Abramowitz and Stegun 1964, 26.7.5, the first three terms.
    """
    z = _QUANTILE
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return z + (z**3 + z) / (4 * freedom) + second


def _mixed(one: Linear, other: Linear, share: float) -> Linear:
    """The mean of two linear forecasts, the other one with that share."""
    if share == 1.0 or one is other:
        return other
    weights = np.zeros((max(one.lags, other.lags), one.weights.shape[1]))
    weights[: one.lags] += (1.0 - share) * one.weights
    weights[: other.lags] += share * other.weights
    return Linear(weights, (1.0 - share) * one.bias + share * other.bias)
