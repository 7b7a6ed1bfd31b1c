"""What the estimators of sequences share: their parameters, nets, trainings and outputs."""

from __future__ import annotations

import warnings
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils import check_random_state

from .._base.checks import choice, flag, float_in, positive_int
from .._net.cells import CELLS
from .._net.heads import Linear
from .._net.layers import Dropout, Embedding, Pool, PoolKind
from .._net.stack import Stack
from ..errors import ArgumentError
from ..loss import Loss
from ._inputs import Sequences, read
from ._prepared import Prepared
from ._training import Material, Settings, optimizer_of, outputs_of, train

__all__ = ["SequenceEstimator", "warn_few"]


class SequenceEstimator(BaseEstimator):  # type: ignore[misc]
    """Parameters and training of all estimators."""

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
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.pool = pool
        self.embedding_dim = embedding_dim
        self.targets = targets
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.learning_rate_init = learning_rate_init
        self.weight_decay = weight_decay
        self.max_norm = max_norm
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state
        self.sequence_column = sequence_column
        self.memory = memory
        self.threads = threads
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags

    # ---- Training ------------------------------------------------------------------------------

    def _read(self, X: Any) -> Sequences:
        return read(X, self.sequence_column)

    def _begin(self, sequences: Sequences, outputs: int) -> None:
        """Makes the net and its initial parameters."""
        self._prepared = Prepared.of(sequences)
        if not sequences.text:
            self.n_features_in_ = sequences.features
        self._random = check_random_state(self.random_state)
        self.net_ = self._net(outputs)
        self.params_ = self.net_.init(seed=int(self._random.randint(2**31)))
        self._optimizer = optimizer_of(
            self.params_, self.learning_rate_init, self.weight_decay, self.max_norm
        )
        self.loss_curve_: list[float] = []
        self.validation_loss_curve_: list[float] = []
        self.n_iter_ = 0

    def _net(self, outputs: int) -> Stack:
        kinds = {kind.__name__.upper(): kind for kind in CELLS}
        kind = kinds.get(self.cell.upper()) if isinstance(self.cell, str) else None
        if kind is None:
            names = ", ".join(repr(found.__name__) for found in CELLS)
            raise ArgumentError(f"cell must be one of {names}; got {self.cell!r}.")
        size = positive_int("hidden_size", self.hidden_size)
        both = flag("bidirectional", self.bidirectional)
        layers: list[Any] = []
        width = self._prepared.features
        if self._prepared.alphabet is not None:
            width = positive_int("embedding_dim", self.embedding_dim)
            layers.append(Embedding(len(self._prepared.alphabet), width))
        for _ in range(positive_int("num_layers", self.num_layers)):
            layers.append(kind(width, size, bidirectional=both))
            width = size * (2 if both else 1)
            if self.dropout:
                layers.append(Dropout(self.dropout))
        if self.kind_ == "sequence":
            pool: Any = choice("pool", self.pool, get_args(PoolKind))
            layers.append(Pool(pool, width))
        return Stack(*layers, Linear(width, outputs))

    def _settings(self, passes: int, patience: int | None) -> Settings:
        return Settings(
            positive_int("batch_size", self.batch_size),
            passes,
            patience,
            int(self._random.randint(2**31)),
            self.memory,
            self.threads,
            flag("verbose", self.verbose),
        )

    def _train(self, material: Material, loss: Loss, classes: NDArray[Any] | None = None) -> None:
        """All passes of fit. classes: of each sequence, to hold back some of each."""
        self._fit(*self._held_back(material, classes), loss)

    def _fit(self, material: Material, held_out: Material | None, loss: Loss) -> None:
        passes = positive_int("max_iter", self.max_iter)
        patience = None
        if held_out is not None:
            patience = positive_int("n_iter_no_change", self.n_iter_no_change)
        settings = self._settings(passes, patience)
        trained = train(self.net_, self._optimizer, loss, material, held_out, settings)
        self._keep(trained.params, trained.losses, trained.scores)
        if patience is not None and trained.stopped == "epochs":
            warnings.warn(
                f"max_iter={passes} passes were made, and the loss of held-back data was still "
                "falling. Pass a larger max_iter, or a larger learning_rate_init.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _train_once(self, material: Material, loss: Loss) -> None:
        """One pass of partial_fit, over all sequences."""
        settings = self._settings(1, None)
        trained = train(self.net_, self._optimizer, loss, material, None, settings)
        self._keep(trained.params, trained.losses, [])

    def _keep(self, params: Any, losses: list[float], scores: list[float]) -> None:
        self.params_ = params
        # partial_fit goes on from the best parameters, which need not be the last.
        self._optimizer.params.flat[:] = params.flat
        self.loss_curve_ += losses
        self.validation_loss_curve_ += scores
        self.n_iter_ += len(losses)

    def _held_back(
        self, material: Material, classes: NDArray[Any] | None
    ) -> tuple[Material, Material | None]:
        """The sequences to train on, and those held back."""
        if not flag("early_stopping", self.early_stopping):
            return material, None
        fraction = float_in("validation_fraction", self.validation_fraction, 0.0, 1.0)
        count, total = max(1, round(fraction * len(material))), len(material)
        order = self._random.permutation(total)
        if total < 2 * count + 1 or total < 5:
            warn_few(f"{total} sequences are too few", self.max_iter)
            return material, None
        chosen = order[:count] if classes is None else _of_each(order, classes, count)
        held = np.zeros(total, bool)
        held[chosen] = True
        return material.part(np.flatnonzero(~held)), material.part(np.flatnonzero(held))

    # ---- Outputs -------------------------------------------------------------------------------

    def _outputs(self, X: Any) -> tuple[Sequences, list[NDArray[Any]]]:
        """The outputs of the net for each sequence: (T_i, O), or (O,) behind a pool."""
        name = type(self).__name__
        if not hasattr(self, "params_"):
            raise NotFittedError(
                f"This {name} instance is not fitted yet. Call 'fit' with appropriate arguments "
                "before using this estimator."
            )
        sequences = self._read(X)
        arrays = self._prepared.arrays(sequences, name)
        settings = Settings(
            positive_int("batch_size", self.batch_size),
            1,
            None,
            0,
            self.memory,
            self.threads,
            False,
        )
        outputs = outputs_of(self.net_, self.params_, arrays, settings)
        return sequences, outputs


def warn_few(what: str, passes: int) -> None:
    """Warns that there is nothing to stop early by."""
    warnings.warn(
        f"{what} to hold some back, so that the training makes all max_iter={passes} passes. Cut a "
        "long sequence into several, or pass early_stopping=False.",
        UserWarning,
        stacklevel=5,
    )


def _of_each(order: NDArray[Any], classes: NDArray[Any], count: int) -> NDArray[Any]:
    """Sequences to hold back, class by class in turn; the last one of a class stays."""
    left = {value: int(np.sum(classes == value)) for value in np.unique(classes)}
    share = {value: number * count / len(classes) for value, number in left.items()}
    chosen: list[int] = []
    for row in order:
        value = classes[row]
        if len(chosen) < count and share[value] > 0.5 and left[value] > 1:
            chosen.append(row)
            share[value] -= 1
            left[value] -= 1
    return np.array(chosen if chosen else order[:count])
