"""A logger for Weights & Biases."""

from __future__ import annotations

from typing import Any

from .._base.packages import needed
from ..errors import ArgumentError
from ._logger import Logger
from ._view import FitView

__all__ = ["WandbLogger"]


class WandbLogger(Logger):
    """Logs the metrics of updates and the scores to a run of Weights & Biases.

    run: a run that you have made with wandb.init, which stays open. Without it the logger makes one
    with wandb.init(**options), such as project="walks", name=..., mode="offline", and finishes it
    at the end: as failed if an exception ends the fit. The settings of the training become part of
    its config. every: log the metrics of every `every`-th update. Updates are drawn over the metric
    "step", so that a resumed run can log updates again that it has logged before it was killed:
    wandb itself takes no steps that go back. To resume a run there as well, pass its id= and
    resume="allow". Needs the package wandb. Raises ImportError or ArgumentError, and what wandb
    raises.
    """

    def __init__(self, *, every: int = 1, run: Any = None, **options: Any) -> None:
        super().__init__(every)
        if run is not None and options:
            raise ArgumentError(
                f"options of wandb.init ({', '.join(options)}) have no use with run=, a run that "
                "has been made already."
            )
        self._wandb = needed("wandb", type(self).__name__, "wandb")
        self._given, self._options = run, options
        self._run: Any = None

    def _write(self, view: FitView, values: dict[str, float]) -> None:
        if self._run is None:
            self._run = self._open(view)
        self._run.log({"step": view.steps, **values})

    def _open(self, view: FitView) -> Any:
        run = self._wandb.init(**self._options) if self._given is None else self._given
        run.config.update(view.settings, allow_val_change=True)
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run

    def _close(self, view: FitView) -> None:
        if self._run is not None and self._given is None:
            self._run.finish(exit_code=int(view.stopped == "error"))
        self._run = None
