"""What trainings of every kind share: clock, progress, checkpoints, callbacks, interruptions."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

from .._base.interrupts import Interrupts
from .._base.progress import Show, Status
from ..callbacks import Callback, FitView
from .checkpoint import Place, TrainingCheckpoint
from .hooks import Hooks
from .runs import RunFolder

__all__ = ["SAVE_SECONDS", "Stopped", "Supervised"]

Stopped = Literal[
    "steps", "epochs", "minutes", "patience", "data", "interrupted", "converged", "precision"
]

# The seconds between two checkpoints, which a killed process loses at most (plus one update). A
# checkpoint takes about 15 ms even for a small net, because it waits for the disk.
SAVE_SECONDS = 60.0


class Supervised(ABC):
    """A training while it runs; what derives from it opens a run and makes its updates.

    place: its progress. losses: one per update of this call. head_losses, head_scores: see
    FitReport. metrics: the line of the last update;
    place.line is the same until it has been written. watched: lines that have measurements.
    settings: what a resumed run compares. saved_step: the update of the last checkpoint.
    """

    settings: dict[str, Any]
    updater: Any

    def __init__(
        self,
        place: Place,
        folder: RunFolder | None,
        maximise: bool,
        callbacks: Sequence[Callback],
        tell: Callable[[str], None],
    ) -> None:
        self.place, self.folder, self.maximise, self.tell = place, folder, maximise, tell
        self.losses: list[float] = []
        self.head_losses: dict[str, list[float]] = {}
        self.head_scores: list[tuple[int, dict[str, float]]] = []
        self.watched: list[dict[str, Any]] = []
        self.metrics: dict[str, Any] = {}
        self.stopped: Stopped | Literal["error"] | None = None
        self.error: BaseException | None = None
        self.saved_step = 0
        self.saved_at = self._start = time.monotonic()
        self._hooks = Hooks(callbacks, FitView(self))
        self._interrupts = Interrupts()

    @abstractmethod
    def _open(self, resume: bool) -> None:
        """Opens the folder, restores the run that it has, and saves it."""

    @abstractmethod
    def _loop(self, show: Show) -> Stopped:
        """Makes all updates, and saves the run at the end."""

    @abstractmethod
    def _made(self) -> TrainingCheckpoint:
        """The checkpoint of this moment."""

    @abstractmethod
    def _part(self) -> float | None:
        """The share of the work that is done, if it is known."""

    @abstractmethod
    def _leave(self) -> None:
        """Called when the training has ended, whatever ended it."""

    def run(self, resume: bool, show: Show, interrupts: Interrupts) -> Stopped:
        """Opens the run and trains; callbacks hear of the end, whatever it is."""
        self._interrupts = interrupts
        try:
            self.stopped = stopped = self._saved(resume, show)
        except BaseException as error:
            self.stopped, self.error = "error", error
            self._leave()
            self._hooks.end()
            raise
        self._leave()
        self._hooks.end()
        return stopped

    def _saved(self, resume: bool, show: Show) -> Stopped:
        """Trains; what ends it, Ctrl-C too, finds the run saved."""
        try:
            with self._interrupts.held():
                self._open(resume)
            if self.folder is not None:
                self._call("on_checkpoint")
            return self._loop(show)
        except KeyboardInterrupt:
            self._interrupts.ignore()
            self._checkpoint(interrupted=True)
            return "interrupted"

    def seconds(self) -> float:
        return self.place.seconds + time.monotonic() - self._start

    def take_losses(self, losses: dict[str, float] | None) -> None:
        """Keeps the loss of each head at the update that has just been made."""
        for name, loss in (losses or {}).items():
            # A head of weight 0 may have had no targets before.
            known = self.head_losses.setdefault(name, [])
            known += [math.nan] * (len(self.losses) - 1 - len(known)) + [loss]

    def take_scores(self, step: int, heads: dict[str, float] | None) -> None:
        """Keeps the loss of each head on the validation data after update `step`."""
        if heads is not None:
            self.head_scores.append((step, heads))

    def status(self) -> Status:
        recent = self.losses[-20:]
        evaluations = self.place.evaluations
        return Status(
            step=self.place.step,
            loss=sum(recent) / len(recent),
            score=evaluations[-1][1] if evaluations else None,
            best=self.place.best,
            seconds=self.seconds(),
            part=self._part(),
        )

    def _call(self, hook: str) -> None:
        """Calls the callbacks; before an exception of theirs is passed on, the run is saved."""
        try:
            self._hooks.call(hook)
        except Exception:
            with self._interrupts.held():
                self._save(interrupted=True)
            raise

    def _write_line(self) -> None:
        if self.folder is not None and self.place.line is not None:
            self.folder.write_line(self.place.line)
        self.place.line = None

    def _checkpoint(self, interrupted: bool = False) -> None:
        """Writes the checkpoint, and lets callbacks know."""
        with self._interrupts.held():
            self._save(interrupted)
        if self.folder is not None:
            self._call("on_checkpoint")

    def _save(self, interrupted: bool = False) -> None:
        if self.folder is None:
            return
        now = time.monotonic()
        self.place.seconds += now - self._start
        self._start = self.saved_at = now
        self.folder.save_last(self._made())
        self.saved_step = self.place.step
        if interrupted:
            # The last line is written so that curves can be drawn; a resumed run writes it again.
            self._write_line()
