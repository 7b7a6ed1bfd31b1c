"""SequenceClassifier."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.exceptions import DataConversionWarning
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import check_classification_targets

from ..errors import ArgumentError
from ..loss import CrossEntropy
from ._estimator import SequenceEstimator
from ._inputs import Sequences
from ._targets import counted, flat, shaped, targets_of, weights_of
from ._training import Material

__all__ = ["SequenceClassifier"]


class SequenceClassifier(ClassifierMixin, SequenceEstimator):  # type: ignore[misc]
    """A recurrent net that gives each sequence, or each step, a class.

        model = SequenceClassifier(cell="GRU", hidden_size=32, random_state=0)
        model.fit(sequences, labels).predict_proba(others)

    X: a list with one array per sequence, (T_i,) or (T_i, features); an array (N, T) or (N, T,
    features); a list of strings or of lists of strings, whose characters or strings are embedded;
    or a frame, either long with sequence_column, or with one row per sequence whose cells are
    series. y: one class per sequence, (N,), or one per step, a list of (T_i,) or an array (N, T);
    classes are numbers or strings.

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

    class_weight: None, "balanced", which weights each class by the inverse of its frequency, or a
    dict class -> weight.
    Attributes: classes_, (K,) in ascending order; net_ and params_, the gradcore net and its
    parameters; kind_, "sequence" or "step"; n_iter_, the passes made; loss_curve_ and
    validation_loss_curve_, by pass. Errors are those of scikit-learn's kind: ValueError and
    TypeError, with the number of the sequence.
    """

    def __init__(
        self,
        *,
        cell: str = "LSTM",
        hidden_size: int = 64,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        pool: str = "mean",
        embedding_dim: int = 16,
        targets: str = "auto",
        class_weight: Any = None,
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
            bidirectional=bidirectional,
            dropout=dropout,
            pool=pool,
            embedding_dim=embedding_dim,
            targets=targets,
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
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SequenceClassifier:
        """Trains a new net. sample_weight: one per sequence, or one per step."""
        sequences = self._read(X)
        numbers, self.kind_ = self._classes(sequences, y, None)
        weights = weights_of(sample_weight, sequences, self.kind_)
        sequences, numbers, weights = counted(sequences, numbers, weights)
        self._begin(sequences, len(self.classes_))
        each = np.asarray(numbers) if self.kind_ == "sequence" else None
        self._train(self._material(sequences, numbers, weights), self._loss(numbers), each)
        return self

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> SequenceClassifier:
        """One pass over X and y; the first call makes the net and learns the standardisation.

        classes: all classes that will come, needed in the first call.
        """
        sequences = self._read(X)
        begins = not hasattr(self, "params_")
        if begins and classes is None:
            raise ArgumentError("classes must be passed on the first call to partial_fit.")
        numbers, kind = self._classes(sequences, y, classes if begins else self.classes_)
        weights = weights_of(sample_weight, sequences, kind)
        sequences, numbers, weights = counted(sequences, numbers, weights)
        if begins:
            self.kind_ = kind
            self._begin(sequences, len(self.classes_))
        elif kind != self.kind_:
            raise ArgumentError(f"y must have one class per {self.kind_}, as in earlier calls.")
        self._train_once(self._material(sequences, numbers, weights), self._loss(numbers))
        return self

    def predict(self, X: Any) -> Any:
        """The most probable class of each sequence (N,), or of each step, in the form of X."""
        sequences, outputs = self._outputs(X)
        if self.kind_ == "sequence":
            return self.classes_[np.argmax(np.stack(outputs), axis=1)]
        return shaped([self.classes_[np.argmax(o, axis=1)] for o in outputs], sequences, X)

    def predict_proba(self, X: Any) -> Any:
        """Probabilities (N, K) of the classes, or (T_i, K) for each sequence, in the form of X."""
        sequences, outputs = self._outputs(X)
        if self.kind_ == "sequence":
            return _softmax(np.stack(outputs))
        return shaped([_softmax(output) for output in outputs], sequences, X)

    def predict_log_proba(self, X: Any) -> Any:
        """Logarithms of predict_proba."""
        found = self.predict_proba(X)
        with np.errstate(divide="ignore"):
            return [np.log(p) for p in found] if isinstance(found, list) else np.log(found)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The accuracy over all sequences, or over all steps."""
        sequences = self._read(X)
        wanted = targets_of(y, sequences, self.kind_, one=True)
        weights = weights_of(sample_weight, sequences, self.kind_)
        _, outputs = self._outputs(X)
        if self.kind_ == "step":
            found = np.concatenate([self.classes_[np.argmax(o, axis=1)] for o in outputs])
            if isinstance(weights, np.ndarray):
                weights = np.repeat(weights, sequences.lengths)
            elif weights is not None:
                weights = np.concatenate(weights)
        else:
            found = self.classes_[np.argmax(np.stack(outputs), axis=1)]
        return float(accuracy_score(flat(wanted.values, self.kind_), found, sample_weight=weights))

    # ---- Classes -------------------------------------------------------------------------------

    def _classes(self, sequences: Sequences, y: Any, classes: Any) -> tuple[Any, str]:
        """Numbers of the classes of y and its kind; sets classes_."""
        if getattr(y, "shape", None) == (len(sequences.items), 1):
            warnings.warn(
                "A column-vector y was passed when a 1d array was expected: pass y.ravel().",
                DataConversionWarning,
                stacklevel=3,
            )
        targets = targets_of(y, sequences, self.targets, one=True)
        every = flat(targets.values, targets.kind)
        check_classification_targets(every)
        found, numbers = np.unique(every, return_inverse=True)
        self.classes_ = found if classes is None else np.unique(classes)
        if classes is not None:
            unknown = ~np.isin(found, self.classes_)
            if unknown.any():
                raise ArgumentError(
                    f"y has the class {found[unknown].tolist()[0]!r}, which is not among classes: "
                    f"{self.classes_.tolist()}."
                )
            numbers = np.searchsorted(self.classes_, every)
        numbers = numbers.reshape(-1).astype(np.int64)
        if targets.kind == "step":
            return np.split(numbers, np.cumsum(sequences.lengths)[:-1]), "step"
        return numbers, "sequence"

    def _material(self, sequences: Sequences, numbers: Any, weights: Any) -> Material:
        x = self._prepared.arrays(sequences, type(self).__name__)
        return Material(x, numbers, weights, self.kind_)

    def _loss(self, numbers: Any) -> CrossEntropy:
        weight = self._class_weights(flat(numbers, self.kind_))
        return CrossEntropy(weight=weight)

    def _class_weights(self, numbers: NDArray[Any]) -> NDArray[Any] | None:
        count = len(self.classes_)
        if self.class_weight is None:
            return None
        if isinstance(self.class_weight, dict):
            unknown = [key for key in self.class_weight if key not in self.classes_]
            if unknown:
                raise ArgumentError(f"class_weight has {unknown[0]!r}, which is no class of y.")
            return np.array([self.class_weight.get(c, 1.0) for c in self.classes_.tolist()])
        if self.class_weight != "balanced":
            raise ArgumentError(
                f"class_weight must be None, 'balanced' or a dict; got {self.class_weight!r}."
            )
        seen = np.bincount(numbers, minlength=count)
        return len(numbers) / (count * np.maximum(seen, 1))


def _softmax(outputs: NDArray[Any]) -> NDArray[Any]:
    """Of the last axis, in float64, so that rows sum to 1."""
    wide = outputs.astype(np.float64)
    shifted = np.exp(wide - wide.max(axis=-1, keepdims=True))
    probabilities: NDArray[Any] = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities
