"""The report of a training, and the lines that it prints while it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .supervised import Stopped, Supervised

__all__ = ["FitReport", "report_of", "teller"]


@dataclass(frozen=True)
class FitReport:
    """The result of Trainer.fit and of minimize.

    steps, seconds: updates and time, including those before the run was resumed. losses: one per
    update of this call. evaluations: (step, score) pairs. best: the best score, at best_step.
    stopped: the limit that ended the fit, "data" if the batches ran out, or "interrupted"; of
    minimize also "converged", or "precision" if rounding errors keep the loss from falling. run:
    the folder, if there is one. watched: the lines of metrics.jsonl of those updates of this call
    at which watch or a StabilityMonitor measured something. head_losses: of a net with several
    heads the loss of each one at every update of this call, before its weight; head_scores: (step,
    losses by head) of the evaluations of this call that used validation data.
    """

    steps: int
    seconds: float
    losses: tuple[float, ...]
    evaluations: tuple[tuple[int, float], ...]
    best: float | None
    best_step: int | None
    stopped: Stopped
    run: Path | None
    watched: tuple[dict[str, Any], ...] = ()
    head_losses: dict[str, tuple[float, ...]] | None = None
    head_scores: tuple[tuple[int, dict[str, float]], ...] = ()

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C or SIGTERM ended it."""
        return self.stopped == "interrupted"


def report_of(fit: Supervised, stopped: Stopped) -> FitReport:
    """The report of a training that has ended."""
    return FitReport(
        steps=fit.place.step,
        seconds=fit.seconds(),
        losses=tuple(fit.losses),
        evaluations=tuple(fit.place.evaluations),
        best=fit.place.best,
        best_step=fit.place.best_step,
        stopped=stopped,
        run=None if fit.folder is None else fit.folder.folder,
        watched=tuple(fit.watched),
        head_losses={name: tuple(own) for name, own in fit.head_losses.items()} or None,
        head_scores=tuple(fit.head_scores),
    )


def teller(quiet: bool) -> Callable[[str], None]:
    """What prints a line on stderr, or nothing."""
    return _quiet if quiet else _say


def _say(line: str) -> None:
    print(f"gradcore: {line}", file=sys.stderr, flush=True)


def _quiet(line: str) -> None:
    pass
