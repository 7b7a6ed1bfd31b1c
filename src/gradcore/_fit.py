"""One fit: the loop over updates, what is looked at and saved in between, and where it stands."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from . import io
from ._checks import float_in, positive_int
from ._feed import Feed
from ._interrupts import Interrupts
from ._optimizer_state import load_optimizer, optimizer_state
from ._progress import Show, Status
from ._scoring import Score
from ._updates import Carried, Updater
from .errors import (
    ArgumentError,
    CheckpointError,
    DTypeError,
    GradcoreError,
    NonFiniteError,
    ShapeError,
)
from .loss import Loss
from .optim import StepReport
from .runs import RunFolder
from .state import state_size, unflatten
from .training_checkpoint import Place, TrainingCheckpoint

__all__ = ["Fit", "Limits", "Stopped"]

Stopped = Literal["steps", "epochs", "minutes", "patience", "data", "interrupted"]

# Seconds of training that a killed process loses at most, however slow its updates are.
SAVE_SECONDS = 300.0


@dataclass(frozen=True)
class Limits:
    """When a fit ends; None where there is no such limit."""

    steps: int | None
    epochs: int | None
    seconds: float | None
    patience: int | None

    @staticmethod
    def of(
        steps: int | None, epochs: int | None, minutes: float | None, patience: int | None
    ) -> Limits:
        """One pass where there is neither steps, epochs nor minutes."""
        if steps is None and epochs is None and minutes is None:
            epochs = 1
        return Limits(
            None if steps is None else positive_int("steps", steps),
            None if epochs is None else positive_int("epochs", epochs),
            None if minutes is None else 60.0 * float_in("minutes", minutes, 0.0),
            None if patience is None else positive_int("patience", patience),
        )


class Fit:
    """The running state of one fit."""

    def __init__(
        self,
        updater: Updater,
        feed: Feed,
        limits: Limits,
        *,
        score: Score | None,
        every: int,
        save_every: int,
        maximise: bool,
        folder: RunFolder | None,
        carried: Carried,
    ) -> None:
        self.updater, self.feed, self.limits, self.score = updater, feed, limits, score
        self.every, self.save_every, self.maximise = every, save_every, maximise
        self.folder, self.carried = folder, carried
        self.place = Place(first_epoch=feed.epoch)
        self.losses: list[float] = []
        # Where the data are after the last whole update; the feed itself may be ahead of it.
        self.feed_state = feed.state_dict()
        self.saved_step = 0
        self.saved_at = time.monotonic()
        self._start = time.monotonic()
        self._interrupts = Interrupts()

    def run(self, resume: bool, show: Show, interrupts: Interrupts) -> Stopped:
        """Opens the run, trains, and leaves data and parameters at the same place."""
        self._interrupts = interrupts
        with interrupts.held():
            self._open(resume)
        try:
            return self._loop(show)
        except KeyboardInterrupt:
            with interrupts.held():
                self._save(interrupted=True)
            return "interrupted"
        except NonFiniteError as error:
            if self.folder is None:
                raise
            raise NonFiniteError(
                f"{error} It was at update {self.place.step + 1}; {self.folder.last} has the "
                f"training as it was after update {self.saved_step}.",
                error.layer,
                error.step,
                error.sequence,
            ) from error
        finally:
            self.feed.rewind(self.feed_state)

    def seconds(self) -> float:
        return self.place.seconds + time.monotonic() - self._start

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

    # ---- The loop ------------------------------------------------------------------------------

    def _loop(self, show: Show) -> Stopped:
        if self.place.step % self.every == 0:
            self._look()  # a run that was interrupted while it looked
        while (reason := self._reached()) is None:
            if not self._update():
                reason = "data" if self._reached() is None else "epochs"
                break
            if self.place.step % self.every == 0:
                self._look()
            late = time.monotonic() - self.saved_at > SAVE_SECONDS
            if self.place.step % self.save_every == 0 or late:
                with self._interrupts.held():
                    self._save()
            show(self.status)
        self._look()
        with self._interrupts.held():
            self._write_line()
            self._save()
        return reason

    def _reached(self) -> Stopped | None:
        limits, place = self.limits, self.place
        if limits.steps is not None and place.step >= limits.steps:
            return "steps"
        if limits.epochs is not None and self.feed.epoch - place.first_epoch >= limits.epochs:
            return "epochs"
        if limits.seconds is not None and self.seconds() >= limits.seconds:
            return "minutes"
        if limits.patience is not None and place.since_best >= limits.patience:
            return "patience"
        return None

    def _part(self) -> float | None:
        limits, place, parts = self.limits, self.place, [0.0]
        if limits.steps is not None:
            parts.append(place.step / limits.steps)
        if limits.epochs is not None:
            done = self.feed.epoch - place.first_epoch + self.feed.part
            parts.append(done / limits.epochs)
        if limits.seconds:
            parts.append(self.seconds() / limits.seconds)
        return max(parts) if len(parts) > 1 else None

    def _update(self) -> bool:
        """One update; False where the data have no more batches."""
        epochs = self.limits.epochs
        last = None if epochs is None else self.place.first_epoch + epochs
        epoch = self.feed.epoch

        def take() -> Any:
            if self.feed.epoch > epoch + 1:
                raise ArgumentError(
                    "a whole pass over the data had no loss term of a weight other than 0. Look "
                    "at weight, lengths and burn_in."
                )
            return self.feed.take(last)

        gathered = self.updater.gather(take, self.carried)
        with self._interrupts.held():
            if gathered.grads is not None:
                report, rate = self.updater.step(gathered.grads)
                self._write_line()
                self.place.step += 1
                self.place.line = self._line(epoch, gathered.loss, rate, report)
                self.losses.append(gathered.loss)
            self.carried = gathered.carried
            self.feed_state = self.feed.state_dict()
        return gathered.grads is not None

    def _look(self) -> None:
        """Scores the parameters as they are now, unless that has been done."""
        place = self.place
        done = bool(place.evaluations) and place.evaluations[-1][0] == place.step
        if self.score is None or place.step == 0 or done:
            return
        params = self.updater.averaged
        score = self.score(params)
        with self._interrupts.held():
            place.evaluations.append((place.step, score))
            if place.line is not None:
                place.line["score"] = score
            if self.updater.schedule is not None:
                self.updater.schedule.observe(score)
            sign = -1.0 if self.maximise else 1.0
            if place.best is None or sign * score < sign * place.best:
                place.best_step = place.step
                if self.folder is not None:
                    self.folder.save_best(params, step=place.step, score=score)

    def _line(
        self, epoch: int, loss: float, rate: float, report: StepReport
    ) -> dict[str, float | int | bool | None]:
        norm = report.grad_norm_log10
        ratio = report.update_norm / report.param_norm if report.param_norm > 0 else None
        return {
            "step": self.place.step,
            "epoch": epoch,
            "loss": loss,
            "lr": rate,
            "grad_norm_log10": norm if math.isfinite(norm) else None,
            "clipped": report.clipped,
            "update_ratio": ratio,
            "seconds": round(self.seconds(), 3),
        }

    # ---- The run's folder ----------------------------------------------------------------------

    def _open(self, resume: bool) -> None:
        if self.folder is None:
            return
        earlier = self.folder.earlier(resume)
        if earlier is not None:
            self._restore(earlier)
        place = self.place
        self.folder.start(place.step + (place.line is None))
        self._save()

    def _write_line(self) -> None:
        if self.folder is not None and self.place.line is not None:
            self.folder.write_line(self.place.line)
        self.place.line = None

    def _save(self, interrupted: bool = False) -> None:
        if self.folder is None:
            return
        now = time.monotonic()
        self.place.seconds += now - self._start
        self._start = self.saved_at = now
        made = TrainingCheckpoint(self.updater.params, self._settings(), self.place, self._states())
        self.folder.save_last(made)
        self.saved_step = self.place.step
        if interrupted:
            # For whoever draws the curves; a resumed run writes it anew.
            self._write_line()

    def _settings(self) -> dict[str, Any]:
        """What must be the same for a run to go on to the same bits."""
        updater = self.updater
        return {
            "net": io.describe(updater.net),
            "dtype": str(updater.params.dtype),
            "optimizer": updater.optimizer.kind,
            "loss": repr(updater.loss) if isinstance(updater.loss, Loss) else "a function",
            "schedule": _kind(updater.schedule),
            "average": _kind(updater.average),
            "accumulate": updater.accumulate,
            "seed": updater.seed,
            "maximise": self.maximise,
            "data": self.feed.describe(),
        }

    def _states(self) -> dict[str, dict[str, Any]]:
        updater = self.updater
        states = {"optimizer": optimizer_state(updater.optimizer), "data": self.feed_state}
        if updater.schedule is not None:
            states["schedule"] = updater.schedule.state_dict()
        if updater.average is not None:
            states["average"] = updater.average.state_dict()
        states["carried"] = updater.flat_state(self.carried)
        return states

    def _restore(self, earlier: TrainingCheckpoint) -> None:
        """Goes to the place of a checkpoint; on an error everything is as it was."""
        assert self.folder is not None
        wrong = _differences(earlier.settings, self._settings())
        if wrong:
            raise ArgumentError(
                f"{self.folder.folder} holds a run with other settings: {'; '.join(wrong)}. Pass "
                "what the run began with, or choose another folder; nothing was changed."
            )
        before = copy.deepcopy(self._states())
        # The data are rewound, not loaded: an iterator would be taken from twice.
        before.pop("data")
        try:
            if {*before, "data"} != set(earlier.states):
                raise CheckpointError(f"it has the states of {', '.join(earlier.states)}")
            self._load(earlier.states)
        except (GradcoreError, KeyError) as error:
            self._load(before)
            self.feed.rewind(self.feed_state)
            raise CheckpointError(
                f"{self.folder.last} cannot be gone on with: {str(error).rstrip('.')}."
            ) from error
        np.copyto(self.updater.params.flat, earlier.params.flat)
        self.place = earlier.place
        self.feed_state = self.feed.state_dict()

    def _load(self, states: dict[str, dict[str, Any]]) -> None:
        updater = self.updater
        parts: dict[str, Callable[[dict[str, Any]], object]] = {
            "optimizer": lambda state: load_optimizer(updater.optimizer, state),
            "data": self.feed.load_state_dict,
            "carried": self._load_carried,
        }
        if updater.schedule is not None:
            parts["schedule"] = updater.schedule.load_state_dict
        if updater.average is not None:
            parts["average"] = updater.average.load_state_dict
        for name, state in states.items():
            parts[name](state)

    def _load_carried(self, state: dict[str, Any]) -> None:
        if not state:
            self.carried = None
            return
        net, dtype = self.updater.net, self.updater.params.dtype
        flat = state.get("flat")
        if not isinstance(flat, np.ndarray) or flat.dtype != dtype:
            raise DTypeError(f"the carried state is no array of {dtype}")
        batch = positive_int("the batch size of the carried state", state.get("batch"))
        if flat.shape != (state_size(net, batch),):
            raise ShapeError("the carried state does not fit the net")
        self.carried = unflatten(net, batch, flat)


def _kind(part: object) -> str | None:
    return None if part is None else type(part).__name__


def _differences(earlier: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """'name was A and is B' for every setting that differs."""
    wrong = []
    for name in sorted({*earlier, *now}):
        old, new = earlier.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            wrong += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            wrong.append(f"{prefix}{name} was {old!r} and is {new!r}")
    return wrong
