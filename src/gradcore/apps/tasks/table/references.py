"""What simple forecasts reach on the rows that a net is judged on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import linear
from .base import begins_of
from .bases import Ridge
from .dataset import Dataset
from .scores import Score, score
from .sequences import TRAIN

__all__ = ["references"]

Array = NDArray[np.float64]
# Rows and inputs that boosting learns from, and classes.
_MOST_ROWS, _MOST_INPUTS, _MOST_CLASSES = 20_000, 64, 20
# Up to so many numbers one thread boosts: its threads spin while they wait for each other, which on
# a busy machine takes far longer than the work.
_ONE_THREAD = 100_000
_LAGS = 16


def references(
    data: Dataset, places: NDArray[np.int64], ridge: Ridge | None, *, threads: int | None = None
) -> dict[str, Score]:
    """Scores on the same targets, all of one part.

    threads: the most that boosting uses.

    "mean" or "majority" of those learned from; for forecasts also "last value", the target of the
    row itself, where that is known; ridge regression on the latest rows, for numbers; gradient
    boosting on them if scikit-learn is installed. The last two learn from all earlier parts.
    """
    target = data.schema.target
    learned, truth = data.y[data.parts == TRAIN], data.y[places]
    if target.kind == "class":
        counts = np.bincount(learned.astype(np.int64), minlength=len(target.classes))
        name, guess = "majority", float(counts.argmax())
    else:
        name, guess = "mean", float(learned.mean())
    found = {name: score(target, truth, np.full(len(truth), guess))}
    if target.horizon:
        now = data.now[places]
        known = ~np.isnan(now)
        if known.any():
            found["last value"] = score(target, truth[known], now[known])
    if ridge is not None:
        begins = begins_of(data.groups.starts)
        fitted = ridge.learned if data.parts[places[0]] == TRAIN + 1 else ridge.refitted
        values = fitted.values(data.x, places, begins[places])
        found["ridge on lags"] = score(target, truth, values * target.std + target.mean)
    boosted = _boosted(data, places, ridge, threads)
    if boosted is not None:
        found["gradient boosting"] = score(target, truth, boosted)
    return found


def _boosted(
    data: Dataset, places: NDArray[np.int64], ridge: Ridge | None, threads: int | None
) -> Array | None:
    """(m,) what gradient boosting says of places; None if it cannot be asked."""
    target = data.schema.target
    many = len(target.classes) > _MOST_CLASSES or data.schema.width > _MOST_INPUTS
    if find_spec("sklearn") is None or many:
        return None
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits  # scikit-learn needs it, too

    lags = _LAGS if ridge is None else ridge.learned.lags
    seen = _seen(data, max(1, min(lags, _MOST_INPUTS // data.schema.width)))
    learned = np.flatnonzero(data.parts < data.parts[places[0]])
    learned = learned[:: -(-len(learned) // _MOST_ROWS)]
    kind: Any = HistGradientBoostingRegressor
    if target.kind == "class":
        kind = HistGradientBoostingClassifier
        if len(np.unique(data.y[learned])) < 2:
            return None
    read = seen(learned)
    with (
        warnings.catch_warnings(),
        threadpool_limits(1 if read.size <= _ONE_THREAD else threads, user_api="openmp"),
    ):
        warnings.simplefilter("ignore")  # of classes with few rows
        made = kind(random_state=0, early_stopping=False, max_iter=100)
        made.fit(read, data.y[learned])
        guesses = [made.predict(seen(some)) for some in _blocks(places)]
    return np.concatenate(guesses).astype(np.float64)


def _blocks(places: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return np.array_split(places, -(-len(places) // _MOST_ROWS))


def _seen(data: Dataset, lags: int) -> Callable[[NDArray[np.int64]], Array]:
    """The inputs of the latest rows, or of a whole sequence in brief, for places of y."""
    x = data.x
    if data.schema.tokens:
        x = np.eye(data.schema.width, dtype=np.float32)[x]
    if not data.per_sequence:
        begins = begins_of(data.groups.starts)
        return lambda places: linear.lagged(x, places, begins, lags)

    def brief(places: NDArray[np.int64]) -> Array:
        found = []
        for place in places.tolist():
            own = x[data.sequence(place)].astype(np.float64)
            parts = (own.mean(0), own.std(0), own.min(0), own.max(0), own[0], own[-1])
            found.append(np.concatenate(parts))
        return np.array(found)

    return brief
