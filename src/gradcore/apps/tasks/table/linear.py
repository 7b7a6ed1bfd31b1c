"""The linear forecast that a net stands on: ridge regression on the latest rows of a sequence.

It is fitted in closed form, from the products of all columns, which are summed once; lags, penalty
and form are those of the smallest error on rows that come later. The forms differ in what a penalty
makes small: weights of values, of values for the change from the last value of the target, or of
the changes of all features for that change, which knows no level and follows a series that drifts.
Reference: Hoerl and Kennard 1970.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ....errors import CheckpointError
from .schema import Schema

__all__ = [
    "Choice",
    "Lagged",
    "Linear",
    "choose",
    "error",
    "fit",
    "from_json",
    "last_value",
    "mean",
    "most_lags",
]

Array = NDArray[np.float64]
Form = Literal["values", "change by values", "change by changes"]

_LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_PENALTIES = tuple(10.0**power for power in range(-8, 3))
# Regressions whose error is larger by this factor at most are as good as the best one.
_ALIKE = 1.05
# The share of the target's square that rounding may take from a squared error or add to it.
_ROUNDING = 1e-13
# Regressors at most, and how many targets there must be for each.
_MOST, _TARGETS_EACH = 512, 3
# Lags that a file may have, and rows whose products are summed at once.
_MOST_LAGS = 100_000
_BLOCK = 4_096


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear function of the inputs of the latest rows.

    weights: (L, I) of the inputs now, one row ago, ...; the rows before the first are taken for
    copies of it. bias: what is added. The result is the target, standardised.
    """

    weights: Array
    bias: float

    @property
    def lags(self) -> int:
        """How many rows it reads."""
        return len(self.weights)

    def values(self, x: NDArray[Any], rows: NDArray[np.int64], begins: NDArray[np.int64]) -> Array:
        """(m,) for rows of x; begins: (m,) where the sequence of each begins.

        The sum of each row is made in one order, so that its bits do not depend on the others.
        """
        total = np.full(len(rows), self.bias)
        for lag, weights in enumerate(self.weights):
            used = np.flatnonzero(weights)
            if len(used):
                part = x[np.maximum(rows - lag, begins)].astype(np.float64)
                for column in used:
                    total += part[:, column] * weights[column]
        return total

    def as_json(self) -> dict[str, Any]:
        """The function as JSON values, which keep every bit."""
        return {"weights": self.weights.tolist(), "bias": self.bias}


def from_json(value: object, schema: Schema, source: str) -> Linear:
    """The function that as_json told. Raises CheckpointError if it is none for that table."""
    try:
        assert isinstance(value, dict)
        weights = np.array(value["weights"], dtype=np.float64)
        bias = float(value["bias"])
    except (AssertionError, KeyError, TypeError, ValueError):
        raise CheckpointError(f"{source} is damaged: its linear forecast is none.") from None
    shape = weights.shape
    if len(shape) != 2 or not 1 <= shape[0] <= _MOST_LAGS or shape[1] != schema.width:
        raise CheckpointError(
            f"{source} is damaged: its linear forecast has weights of shape {shape}; its table "
            f"has {schema.width} inputs."
        )
    if not (np.isfinite(weights).all() and math.isfinite(bias)):
        raise CheckpointError(f"{source} is damaged: its linear forecast is not finite.")
    return Linear(weights, bias)


def mean(schema: Schema) -> Linear:
    """The mean of the targets learned from, whatever the inputs are."""
    return Linear(np.zeros((1, schema.width)), 0.0)


def last_value(schema: Schema) -> Linear | None:
    """The target of the row itself, if it is among the features of a forecast."""
    target, start = schema.target, 0
    if not target.horizon:
        return None
    for feature in schema.features:
        if feature.name == target.name and feature.kind == "number":
            weights = np.zeros((1, schema.width))
            weights[0, start] = feature.std / target.std
            return Linear(weights, (feature.mean - target.mean) / target.std)
        start += feature.width
    return None


@dataclass(frozen=True, eq=False)
class Lagged:
    """Sums over rows of the products of lagged inputs, of 1, and of the target.

    products: (L*I + 2, L*I + 2), the inputs of each lag behind those of the one before it, then 1,
    then the target, standardised. rows: how many.
    """

    products: Array
    inputs: int
    rows: int

    def __add__(self, other: Lagged) -> Lagged:
        return Lagged(self.products + other.products, self.inputs, self.rows + other.rows)

    @classmethod
    def of(
        cls,
        x: NDArray[Any],
        y: Array,
        chosen: NDArray[np.int64],
        begins: NDArray[np.int64],
        lags: int,
    ) -> Lagged:
        """The sums over chosen rows of x; begins: (rows of x,) where each one's sequence begins."""
        width = lags * x.shape[1]
        products = np.zeros((width + 2, width + 2))
        for rows in _blocks(chosen):
            a = np.ones((len(rows), width + 2))
            a[:, :width] = lagged(x, rows, begins, lags)
            a[:, -1] = y[rows]
            products += a.T @ a
        return cls(products, x.shape[1], len(chosen))

    @property
    def most(self) -> int:
        """The lags that there are products of."""
        return (len(self.products) - 2) // self.inputs


def lagged(x: NDArray[Any], rows: NDArray[np.int64], begins: NDArray[np.int64], lags: int) -> Array:
    """(m, L*I) inputs of rows and of those before them, the first one of a sequence repeated."""
    places = np.maximum(rows[:, None] - np.arange(lags), begins[rows][:, None])
    found: Array = x[places].reshape(len(rows), -1).astype(np.float64)
    return found


def _blocks(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK]


def most_lags(rows: int, inputs: int) -> int:
    """The most lags that so many rows to learn from bear."""
    most = min(_MOST, rows // _TARGETS_EACH) // inputs
    return max((lags for lags in _LAGS if lags <= most), default=1)


@dataclass(frozen=True)
class Choice:
    """How a ridge regression is made: its form, lags and penalty."""

    form: Form
    lags: int
    penalty: float


def choose(folds: Sequence[Lagged], now: Linear | None) -> tuple[Choice, ...]:
    """The ridge regressions of the smallest errors on rows after those they are fitted to.

    For each form and number of lags the best penalty; of these all that are about as good as the
    best, whose mean errs less than one that chance has made the first.

    folds: stretches of rows in the order of time. The regression is fitted to all stretches before
    one and judged on that one, for each of the later half of them, so that many rows decide and a
    series that drifts is extrapolated. now: the last value, if the inputs have it; None allows for
    one form only. Reference: Tashman 2000, rolling origins.
    """
    errors: dict[Choice, float] = {}
    for held in range(len(folds) // 2, len(folds)):
        learned = reduce(Lagged.__add__, folds[:held])
        for form in get_args(Form) if now is not None else ("values",):
            for lags in _LAGS:
                if lags > learned.most or (form == "change by changes" and lags < 2):
                    continue
                problem = _Problem(learned, form, lags, now)
                for penalty in _PENALTIES:
                    found = error(folds[held], problem.solution(penalty)) * folds[held].rows
                    how = Choice(form, lags, penalty)
                    errors[how] = errors.get(how, 0.0) + found
    best: dict[tuple[Form, int], Choice] = {}
    for how in sorted(errors, key=errors.__getitem__):
        best.setdefault((how.form, how.lags), how)
    least = min(errors.values())
    return tuple(how for how in best.values() if errors[how] <= _ALIKE * least)


def fit(learned: Lagged, hows: Sequence[Choice], now: Linear | None) -> Linear:
    """The mean of the ridge regressions of these choices."""
    made = [_Problem(learned, how.form, how.lags, now).solution(how.penalty) for how in hows]
    weights = np.zeros((max(one.lags for one in made), learned.inputs))
    for one in made:
        weights[: one.lags] += one.weights / len(made)
    return Linear(weights, sum(one.bias for one in made) / len(made))


class _Problem:
    """One form and number of lags, ready for any penalty.

    The penalty of each weight is relative to the spread of what it multiplies, so that scales of
    inputs, and rows, do not matter.
    """

    def __init__(self, sums: Lagged, form: Form, lags: int, now: Linear | None) -> None:
        self.inputs, self.lags = sums.inputs, lags
        size = lags * sums.inputs
        products = np.concatenate([sums.products[:, :size], sums.products[:, -2:]], axis=1)
        products = np.concatenate([products[:size], products[-2:]])
        self.base = np.zeros(size)
        self.start = 0.0
        if form != "values":
            assert now is not None
            self.base[: self.inputs] = now.weights[0]
            self.start = now.bias
        # The target becomes what the base leaves of it.
        change = np.eye(size + 2)
        change[:size, -1] = -self.base
        change[-2, -1] = -self.start
        self.basis = np.eye(size)
        if form == "change by changes":
            self.basis = self.basis[:, : size - self.inputs] - self.basis[:, self.inputs :]
            change = np.concatenate([np.pad(self.basis, ((0, 2), (0, 0))), change[:, -2:]], axis=1)
        products = change.T @ products @ change
        mean = products[-2, :-2] / sums.rows
        self.mean, self.center = mean, products[-2, -1] / sums.rows
        gram = products[:-2, :-2] - sums.rows * np.outer(mean, mean)
        self.scale = np.sqrt(np.maximum(gram.diagonal(), 0.0))
        self.scale[self.scale <= 1e-9 * math.sqrt(sums.rows)] = np.inf  # constant: no weight
        gram = gram / np.outer(self.scale, self.scale)
        right = (products[:-2, -1] - sums.rows * mean * self.center) / self.scale
        self.values, self.vectors = np.linalg.eigh(gram)
        self.right = self.vectors.T @ right

    def solution(self, penalty: float) -> Linear:
        """The weights with that penalty."""
        solved = self.right / (np.maximum(self.values, 0.0) + penalty)
        own = self.vectors @ solved / self.scale
        weights = self.base + self.basis @ own
        bias = self.start + self.center - float(self.mean @ own)
        return Linear(weights.reshape(self.lags, self.inputs), float(bias))


def error(sums: Lagged, linear: Linear) -> float:
    """The mean squared error over the rows of the sums, or what rounding may hide of it."""
    size = linear.lags * sums.inputs
    residual = np.zeros(len(sums.products))
    residual[:size] = -linear.weights.ravel()
    residual[-2:] = -linear.bias, 1.0
    # Terms as large as the target's square cancel, and may leave less than nothing.
    hidden = _ROUNDING * sums.products[-1, -1]
    return max(float(residual @ sums.products @ residual), float(hidden)) / sums.rows
