"""Pruning by Optuna."""

from __future__ import annotations

from typing import Any

from .._base.packages import needed
from ..errors import ArgumentError, DTypeError
from ._callback import Callback
from ._view import FitView

__all__ = ["OptunaPruning"]


class OptunaPruning(Callback):
    """Reports scores to a trial of Optuna; ends the fit by optuna.TrialPruned if it is hopeless.

        def objective(trial):
            trainer = gd.Trainer(..., callbacks=[gd.callbacks.OptunaPruning(trial)])
            return trainer.fit(data, validation=held_out, ...).best

    trial: what study.optimize gives to the objective. The fit needs a score (validation or
    evaluate), and the study the direction of the score: "minimize", or "maximize" with
    maximise=True. Needs the package optuna. Raises ImportError or DTypeError; on_end raises
    ArgumentError if there was nothing to report, and on_evaluation for another direction.
    """

    def __init__(self, trial: Any) -> None:
        self._optuna = needed("optuna", type(self).__name__, "optuna")
        if not isinstance(trial, self._optuna.trial.BaseTrial):
            raise DTypeError(f"trial must be a trial of Optuna; got {type(trial).__name__}.")
        self.trial = trial

    def on_evaluation(self, view: FitView) -> None:
        if isinstance(self.trial, self._optuna.Trial):
            directions = self._optuna.study.StudyDirection
            wanted = directions.MAXIMIZE if view.maximise else directions.MINIMIZE
            if self.trial.study.direction != wanted:
                raise ArgumentError(
                    f"the study must have direction={wanted.name.lower()!r} with "
                    f"maximise={view.maximise}; it has "
                    f"{self.trial.study.direction.name.lower()!r}."
                )
        self.trial.report(view.score, view.steps)
        if self.trial.should_prune():
            raise self._optuna.TrialPruned(
                f"pruned after {view.steps} updates with score {view.score}"
            )

    def on_end(self, view: FitView) -> None:
        if not view.evaluations and view.stopped not in ("error", "interrupted"):
            raise ArgumentError(
                "OptunaPruning needs scores: pass validation or evaluate to fit, and make at least "
                "one update."
            )
