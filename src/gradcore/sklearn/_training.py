"""The training of an estimator: passes over batches, and when to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import clip, data, optim
from .._engine import calls
from .._net.stack import Params, Stack
from .._training.trainer import Trainer
from ..callbacks import Callback, FitView
from ..loss import Loss

__all__ = ["Material", "Settings", "Trained", "optimizer_of", "outputs_of", "train"]


@dataclass(frozen=True)
class Material:
    """Sequences with their targets, as gradcore.data.Sequences takes them."""

    x: list[NDArray[Any]]
    y: Any
    weight: Any
    kind: str

    def __len__(self) -> int:
        return len(self.x)

    def part(self, rows: NDArray[np.int64]) -> Material:
        """Some of the sequences."""

        def of(values: Any) -> Any:
            if values is None:
                return None
            return values[rows] if isinstance(values, np.ndarray) else [values[i] for i in rows]

        return Material([self.x[i] for i in rows], of(self.y), of(self.weight), self.kind)

    def source(self, batch_size: int, seed: int, shuffle: bool) -> data.Sequences:
        return data.Sequences(
            self.x,
            self.y,
            weight=self.weight,
            step="last" if self.kind == "sequence" else "all",
            batch_size=min(batch_size, len(self)),
            shuffle=shuffle,
            seed=seed,
        )


@dataclass(frozen=True)
class Settings:
    """How to train. patience: passes without a better score, None without validation."""

    batch_size: int
    max_iter: int
    patience: int | None
    seed: int
    memory: int | str | None
    threads: int | None
    verbose: bool


@dataclass(frozen=True)
class Trained:
    """The best parameters; the mean loss of each pass, and the validation loss behind each."""

    params: Params
    losses: list[float]
    scores: list[float]
    stopped: str


class _Best(Callback):
    """Keeps the parameters of the best score."""

    def __init__(self) -> None:
        self.params: Params | None = None

    def on_evaluation(self, view: FitView) -> None:
        if view.best_step == view.steps:
            self.params = view.params


def optimizer_of(
    params: Params, rate: float, weight_decay: float, max_norm: float | None
) -> optim.Optimizer:
    """AdamW with a limit on the norm of the gradient."""
    limit = None if max_norm is None else clip.GlobalNorm(max_norm)
    return optim.AdamW(params, lr=rate, weight_decay=weight_decay, clip=limit)


def train(
    net: Stack,
    optimizer: optim.Optimizer,
    loss: Loss,
    material: Material,
    held_out: Material | None,
    settings: Settings,
) -> Trained:
    """Trains the parameters of the optimizer; with held_out, until its loss stops falling."""
    best = _Best()
    source = material.source(settings.batch_size, settings.seed, shuffle=True)
    trainer = Trainer(
        net,
        optimizer.params,
        optimizer,
        loss=loss,
        seed=settings.seed,
        memory=settings.memory,
        threads=settings.threads,
        callbacks=[best],
        quiet=not settings.verbose,
    )
    checked = None if held_out is None else held_out.source(settings.batch_size, 0, shuffle=False)
    report = trainer.fit(
        source,
        epochs=settings.max_iter,
        validation=checked,
        every=len(source),
        patience=settings.patience,
    )
    if report.interrupted:
        raise KeyboardInterrupt
    passes = [report.losses[i : i + len(source)] for i in range(0, len(report.losses), len(source))]
    return Trained(
        optimizer.params if best.params is None else best.params,
        [float(np.mean(part)) for part in passes],
        [score for _, score in report.evaluations],
        report.stopped,
    )


def outputs_of(
    net: Stack, params: Params, x: Sequence[NDArray[Any]], settings: Settings
) -> list[NDArray[Any]]:
    """The outputs of each sequence, (T_i, O) or, behind a pool, (O,)."""
    lengths = np.array([len(item) for item in x])
    order = np.argsort(lengths, kind="stable")
    found: list[Any] = [None] * len(x)
    for start in range(0, len(x), settings.batch_size):
        rows = order[start : start + settings.batch_size]
        longest = int(lengths[rows].max())
        batch = np.zeros((longest, len(rows), *x[0].shape[1:]), x[0].dtype)
        for column, row in enumerate(rows):
            batch[: lengths[row], column] = x[row]
        outputs, _ = calls.apply(
            net,
            params,
            batch,
            lengths=lengths[rows],
            memory=settings.memory,
            threads=settings.threads,
        )
        for column, row in enumerate(rows):
            own = outputs[: lengths[row], column] if net.pool is None else outputs[column]
            found[row] = own.copy()
    return found
