"""SequenceForecaster."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.checks import flag, float_in, positive_int
from ..errors import DTypeError, ShapeError
from ..loss import MeanSquaredError
from ._estimator import SequenceEstimator, warn_few
from ._inputs import Sequences
from ._prepared import Scale
from ._training import Material

__all__ = ["SequenceForecaster"]


class SequenceForecaster(SequenceEstimator):
    """A recurrent net that continues series: it forecasts the next `horizon` steps at once.

        model = SequenceForecaster(horizon=12, random_state=0).fit(series)
        model.predict(series)  # (N, 12, features): the steps behind the end of each

    X: a list with one array per series, (T_i,) or (T_i, features); an array (N, T) or
    (N, T, features); or a frame as for SequenceClassifier. One series is [x]. At each step the net
    forecasts how the next `horizon` steps differ from this one, so that a net that has learned
    nothing repeats the last value. horizon: steps ahead. window: series that are longer are cut
    into windows of so many steps, which overlap by half, and of which the first quarter does not
    count; None: whole series, with the exact gradient over all of their steps. early_stopping holds
    back the last validation_fraction of the steps of each series.

    cell: the name of a cell, such as "LSTM", "GRU" or "RNN". hidden_size, num_layers, dropout: of
    the recurrent layers, as in torch.nn.LSTM. batch_size: windows per update. max_iter: passes over
    the data. learning_rate_init, weight_decay: of AdamW. max_norm: the norm to which gradients are
    clipped; None: no clipping. early_stopping: stop after n_iter_no_change passes without a better
    loss on what is held back, and keep the parameters of the best. random_state: seed of initial
    values and order. sequence_column: the column of a long frame that says which sequence a row
    belongs to. memory, threads: see gradcore.value_and_grad. verbose: show progress.

    Attributes: net_, params_, n_iter_, loss_curve_, validation_loss_curve_ (mean squared errors of
    standardised differences). Errors are ValueError or TypeError with the number of the series.
    """

    def __init__(
        self,
        *,
        horizon: int = 1,
        window: int | None = 256,
        cell: str = "LSTM",
        hidden_size: int = 64,
        num_layers: int = 1,
        dropout: float = 0.0,
        batch_size: int = 32,
        max_iter: int = 100,
        learning_rate_init: float = 3e-3,
        weight_decay: float = 1e-4,
        max_norm: float | None = 1.0,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        random_state: Any = None,
        sequence_column: str | None = None,
        memory: int | str | None = None,
        threads: int | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            cell=cell,
            hidden_size=hidden_size,
            num_layers=num_layers,
            dropout=dropout,
            targets="step",
            batch_size=batch_size,
            max_iter=max_iter,
            learning_rate_init=learning_rate_init,
            weight_decay=weight_decay,
            max_norm=max_norm,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            random_state=random_state,
            sequence_column=sequence_column,
            memory=memory,
            threads=threads,
            verbose=verbose,
        )
        self.horizon = horizon
        self.window = window

    def fit(self, X: Any, y: Any = None) -> SequenceForecaster:
        """Trains a new net on series; y is ignored, as the series are their own targets."""
        series = self._series(X)
        horizon = positive_int("horizon", self.horizon)
        ends = self._ends(series, horizon)
        known = [item[:end] for item, end in zip(series.items, ends, strict=True)]
        self.kind_ = "step"
        self._begin(Sequences(known), horizon * series.features)
        changes = [_changes(item, horizon) for item in known]
        self._scale = Scale.of(changes)
        held_out = None
        if any(end < len(item) for item, end in zip(series.items, ends, strict=True)):
            held_out = self._later(series, ends, horizon)
        self._fit(self._windows(known, changes), held_out, MeanSquaredError(nan="ignore"))
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """The steps behind the end of each series, (N, horizon, features).

        (N, horizon) for series of shape (T,).
        """
        series, outputs = self._outputs(X)
        last = np.stack([item[-1] for item in series.items])
        found = np.stack([self._scale.undo(output[-1].astype(np.float64)) for output in outputs])
        steps: NDArray[np.float64] = last[:, None] + found.reshape(len(last), -1, last.shape[1])
        return steps[..., 0] if series.plain else steps

    def score(self, X: Any, y: Any = None) -> float:
        """The skill within series: 1 - (sum of squared errors) / (that of the last value).

        Over all steps and all of the horizon that the series have; 0: as good as the last value.
        """
        series, outputs = self._outputs(X)
        errors = naive = 0.0
        for item, output in zip(series.items, outputs, strict=True):
            changes = _changes(np.asarray(item), output.shape[1] // item.shape[1])
            found = self._scale.undo(output.astype(np.float64))
            errors += float(np.nansum((found - changes) ** 2))
            naive += float(np.nansum(changes**2))
        return 1.0 - errors / naive if naive else float(errors == 0)

    # ---- Series --------------------------------------------------------------------------------

    def _read(self, X: Any) -> Sequences:
        series = super()._read(X)
        if series.text:
            raise DTypeError("series must hold numbers; X has strings.")
        return series

    def _series(self, X: Any) -> Sequences:
        series = self._read(X)
        short = np.flatnonzero(series.lengths < 2)
        if len(short):
            raise ShapeError(
                f"series must have at least 2 steps to learn from; series {short[0]} has "
                f"{series.lengths[short[0]]}."
            )
        return series

    def _ends(self, series: Sequences, horizon: int) -> NDArray[np.int64]:
        """How many steps of each series are trained on; the others are held back."""
        lengths = series.lengths
        if not flag("early_stopping", self.early_stopping):
            return lengths
        fraction = float_in("validation_fraction", self.validation_fraction, 0.0, 1.0)
        ends = lengths - np.maximum(np.round(fraction * lengths).astype(np.int64), 1)
        enough = ends > max(2, horizon)
        if not enough.any():
            warn_few(f"series of {lengths.max()} steps are too short", self.max_iter)
        return np.where(enough, ends, lengths)

    def _windows(self, known: list[NDArray[Any]], changes: list[NDArray[Any]]) -> Material:
        """The series cut into windows, standardised, with weights 0 where nothing is read yet."""
        parts = []
        for item, change in zip(known, changes, strict=True):
            steps = len(item) if self.window is None else positive_int("window", self.window)
            first = 0
            while True:
                end = min(first + steps, len(item))
                weight = np.ones(end - first)
                weight[: 0 if first == 0 else steps // 4] = 0.0
                parts.append((item[first:end], change[first:end], weight))
                if end == len(item):
                    break
                first += max(steps // 2, 1)
        return self._materials(parts)

    def _later(self, series: Sequences, ends: NDArray[np.int64], horizon: int) -> Material:
        """Whole series of which only forecasts of held-back steps count."""
        parts = []
        for item, end in zip(series.items, ends, strict=True):
            change, weight = _changes(np.asarray(item), horizon), np.ones(len(item))
            # A forecast counts where all of its steps come behind what was trained on.
            weight[: end - 1] = 0.0
            if weight.any() and not np.isnan(change[end - 1]).all():
                parts.append((np.asarray(item), change, weight))
        return self._materials(parts)

    def _materials(self, parts: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]) -> Material:
        name = type(self).__name__
        return Material(
            self._prepared.arrays(Sequences([x for x, _, _ in parts]), name),
            [self._scale.apply(change).astype(np.float32) for _, change, _ in parts],
            [weight.astype(np.float32) for _, _, weight in parts],
            "step",
        )


def _changes(item: NDArray[Any], horizon: int) -> NDArray[np.float64]:
    """(T, horizon * features): how the next steps differ from each one, NaN behind the end."""
    steps, features = item.shape
    changes = np.full((steps, horizon, features), np.nan)
    for k in range(1, min(horizon, steps - 1) + 1):
        changes[: steps - k, k - 1] = item[k:] - item[: steps - k]
    return changes.reshape(steps, -1)
