"""SequenceRegressor."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score

from ..errors import ArgumentError, DTypeError
from ..loss import MeanSquaredError
from ._estimator import SequenceEstimator
from ._inputs import Sequences
from ._prepared import Scale
from ._targets import counted, flat, shaped, targets_of, weights_of
from ._training import Material

__all__ = ["SequenceRegressor"]


class SequenceRegressor(RegressorMixin, SequenceEstimator):  # type: ignore[misc]
    """A recurrent net that predicts numbers for each sequence, or for each step.

        model = SequenceRegressor(hidden_size=32, random_state=0).fit(sequences, y)

    X: see SequenceClassifier. y: one target per sequence, (N,) or (N, O), or one per step, a list
    of (T_i,) or (T_i, O), or an array (N, T) or (N, T, O). Targets are standardised in training,
    and predictions are in their units.

    cell: the name of a cell, such as "LSTM", "GRU" or "RNN". hidden_size, num_layers,
    bidirectional, dropout: of the recurrent layers, as in torch.nn.LSTM. pool: what is made of all
    steps for one target per sequence, "mean", "max", "last" or "attention". embedding_dim: features
    of a step where steps are strings. targets: "sequence" if y has a target per sequence, "step" if
    it has one per step; "auto" tells from its shape, and asks where it could be both. batch_size:
    sequences per update. max_iter: passes over the data. learning_rate_init, weight_decay: of
    AdamW. max_norm: the norm to which gradients are clipped; None: no clipping. early_stopping:
    hold back validation_fraction of the sequences, stop after n_iter_no_change passes without a
    better loss on them, and keep the parameters of the best. random_state: seed of initial values,
    order and held-back sequences. sequence_column: the column of a long frame that says which
    sequence a row belongs to. memory, threads: see gradcore.value_and_grad. verbose: show progress.

    Attributes: net_ and params_, the gradcore net and its parameters; kind_, "sequence" or "step";
    n_iter_, the passes made; loss_curve_ and validation_loss_curve_, the mean squared error of
    standardised targets by pass. Errors are ValueError or TypeError with the number of the
    sequence.
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SequenceRegressor:
        """Trains a new net. sample_weight: one per sequence, or one per step."""
        sequences = self._read(X)
        targets, kind = self._numbers(sequences, y)
        weights = weights_of(sample_weight, sequences, kind)
        sequences, targets, weights = counted(sequences, targets, weights)
        self._start(sequences, targets, kind)
        self._train(self._material(sequences, targets, weights), self._loss())
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> SequenceRegressor:
        """One pass over X and y; the first call makes the net and learns the standardisation."""
        sequences = self._read(X)
        targets, kind = self._numbers(sequences, y)
        weights = weights_of(sample_weight, sequences, kind)
        sequences, targets, weights = counted(sequences, targets, weights)
        if not hasattr(self, "params_"):
            self._start(sequences, targets, kind)
        elif kind != self.kind_ or targets[0].shape[-1] != len(self._scale.mean):
            raise ArgumentError(
                f"y must have {len(self._scale.mean)} numbers per {self.kind_}, as before."
            )
        self._train_once(self._material(sequences, targets, weights), self._loss())
        return self

    def predict(self, X: Any) -> Any:
        """Predictions (N,) or (N, O), or one per step, in the form of X."""
        sequences, found = self._predicted(X)
        return np.stack(found) if self.kind_ == "sequence" else shaped(found, sequences, X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The coefficient of determination R^2 over all sequences, or over all steps."""
        sequences, found = self._predicted(X)
        wanted = targets_of(y, sequences, self.kind_, one=False)
        weights = weights_of(sample_weight, sequences, self.kind_)
        if self.kind_ == "step" and weights is not None:
            each = isinstance(weights, np.ndarray)
            weights = np.repeat(weights, sequences.lengths) if each else np.concatenate(weights)
        got = flat(found, self.kind_)
        true = flat(wanted.values, self.kind_).reshape(got.shape)
        return float(r2_score(true, got, sample_weight=weights))

    # ---- Targets -------------------------------------------------------------------------------

    def _start(self, sequences: Sequences, targets: list[NDArray[Any]], kind: str) -> None:
        self.kind_ = kind
        self._scale = Scale.of([np.atleast_2d(target) for target in targets])
        self._begin(sequences, targets[0].shape[-1])

    def _numbers(self, sequences: Sequences, y: Any) -> tuple[list[NDArray[Any]], str]:
        """Targets as (O,) or (T_i, O) per sequence, and their kind; remembers if O has an axis."""
        targets = targets_of(y, sequences, self.targets, one=False)
        values = list(targets.values)
        try:
            values = [np.asarray(value, np.float64) for value in values]
        except (TypeError, ValueError) as error:
            raise DTypeError(f"y must hold numbers: {error}.") from None
        for i, value in enumerate(values):
            if not np.isfinite(value).all():
                raise ArgumentError(f"y must be finite; the target of sequence {i} has NaN or inf.")
        axes = 1 if targets.kind == "sequence" else 2
        self._flat = values[0].ndim < axes
        if self._flat:
            values = [value[..., None] for value in values]
        return values, targets.kind

    def _material(
        self, sequences: Sequences, targets: list[NDArray[Any]], weights: Any
    ) -> Material:
        x = self._prepared.arrays(sequences, type(self).__name__)
        scaled = [self._scale.apply(target).astype(np.float32) for target in targets]
        y = np.stack(scaled) if self.kind_ == "sequence" else scaled
        return Material(x, y, weights, self.kind_)

    def _loss(self) -> MeanSquaredError:
        return MeanSquaredError()

    def _predicted(self, X: Any) -> tuple[Sequences, list[NDArray[Any]]]:
        sequences, outputs = self._outputs(X)
        found = [self._scale.undo(output.astype(np.float64)) for output in outputs]
        return sequences, [value[..., 0] if self._flat else value for value in found]
