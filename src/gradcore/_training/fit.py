"""One call of Trainer.fit: the loop over updates, with evaluations, checkpoints and messages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .._base.checks import float_in, positive_int
from .._base.interrupts import Interrupts
from .._base.progress import Show, Status
from ..callbacks import Callback, FitView
from ..data import Batch
from ..data._contents import SAMPLED
from ..errors import ArgumentError, NonFiniteError
from ..optim import StepReport
from .checkpoint import Place, TrainingCheckpoint
from .feed import Feed
from .hooks import Hooks
from .runs import RunFolder
from .scoring import Score
from .snapshot import restore, settings_of, states_of
from .updates import Carried, Gathered, Updater
from .watch import WATCHED, Watch, grown_before

__all__ = ["Fit", "Limits", "Stopped"]

Stopped = Literal["steps", "epochs", "minutes", "patience", "data", "interrupted"]

# The seconds between two checkpoints, which a killed process loses at most (plus one update). A
# checkpoint takes about 15 ms even for a small net, because it waits for the disk.
SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class Limits:
    """The limits that end a fit; None means no such limit."""

    steps: int | None
    epochs: int | None
    seconds: float | None
    patience: int | None

    @staticmethod
    def of(
        steps: int | None, epochs: int | None, minutes: float | None, patience: int | None
    ) -> Limits:
        """Checks the limits; without steps, epochs and minutes the fit is one pass."""
        if steps is None and epochs is None and minutes is None:
            epochs = 1
        return Limits(
            None if steps is None else positive_int("steps", steps),
            None if epochs is None else positive_int("epochs", epochs),
            None if minutes is None else 60.0 * float_in("minutes", minutes, 0.0),
            None if patience is None else positive_int("patience", patience),
        )


class Fit:
    """The state of one fit while it runs."""

    def __init__(
        self,
        updater: Updater,
        feed: Feed,
        limits: Limits,
        *,
        score: Score | None,
        validation: Feed | None,
        every: int,
        save_every: int | None,
        maximise: bool,
        folder: RunFolder | None,
        carried: Carried,
        watch: Watch | None,
        callbacks: Sequence[Callback],
        tell: Callable[[str], None],
    ) -> None:
        self.updater, self.feed, self.limits, self.score = updater, feed, limits, score
        self.every, self.save_every, self.maximise = every, save_every, maximise
        self.folder, self.carried = folder, carried
        self.watch, self.tell = watch, tell
        # The batch and the initial state of the update that is being made; None in evaluations.
        self._begun: tuple[Batch, Carried] | None = None
        self.watched: list[dict[str, Any]] = []
        # The line of the last update; place.line is the same until it has been written.
        self.metrics: dict[str, Any] = {}
        self.view = FitView(self)
        self._hooks = Hooks(callbacks, self.view)
        self.stopped: Stopped | Literal["error"] | None = None
        self.error: BaseException | None = None
        self.place = Place(first_epoch=feed.epoch)
        self.losses: list[float] = []
        # The place in the data after the last complete update; the feed itself may be ahead of it.
        self.feed_state = feed.state_dict()
        self.saved_step = 0
        self.saved_at = time.monotonic()
        self._start = time.monotonic()
        self._interrupts = Interrupts()
        # The settings as the user gives them, before a checkpoint changes the optimizer's rate.
        kept = folder is not None
        self.settings = settings_of(
            updater,
            feed.describe(contents=kept),
            None if validation is None else validation.describe(contents=kept),
            maximise,
        )

    def run(self, resume: bool, show: Show, interrupts: Interrupts) -> Stopped:
        """Opens the run and trains; at the end the data are at the place of the last update."""
        self._interrupts = interrupts
        try:
            self.stopped = stopped = self._saved(resume, show)
        except BaseException as error:
            self.stopped, self.error = "error", error
            self._hooks.end()
            raise
        finally:
            self.feed.rewind(self.feed_state)
        self._hooks.end()
        return stopped

    def _saved(self, resume: bool, show: Show) -> Stopped:
        """Trains; when it ends or an interruption or a callback ends it, the run is saved."""
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
        except NonFiniteError as error:
            if self._hooks.failed:
                raise
            grown = self._grown_before(error)
            if self.folder is None and grown is None:
                raise
            message = str(error) if grown is None else f"{error} {grown}"
            if self.folder is not None:
                self._write_line()
                where = f"at update {self.place.step + 1}"
                if self._begun is None:
                    where = f"in the evaluation after update {self.place.step}"
                message += (
                    f" This happened {where}; {self.folder.last} has the training after update "
                    f"{self.saved_step}."
                )
            raise NonFiniteError(
                message,
                error.layer,
                error.step,
                error.sequence,
            ) from error

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
            self._look()  # the run may have been interrupted during this evaluation
        while (reason := self._reached()) is None:
            if not self._update():
                reason = "data" if self._reached() is None else "epochs"
                break
            if self.place.step % self.every == 0:
                self._look()
            due = self.save_every is not None and self.place.step % self.save_every == 0
            if due or time.monotonic() - self.saved_at > SAVE_SECONDS:
                self._checkpoint()
            show(self.status)
        self._look()
        with self._interrupts.held():
            self._write_line()
        self._checkpoint()
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
        """Makes one update; returns False if the data have no more batches."""
        epochs = self.limits.epochs
        last = None if epochs is None else self.place.first_epoch + epochs
        epoch = self.feed.epoch

        def take() -> Any:
            if self.feed.epoch > epoch + 1:
                raise ArgumentError(
                    "the data must have loss terms with a weight other than 0, and a whole pass "
                    "had none. Check weight, lengths and burn_in."
                )
            return self.feed.take(last)

        def begun(batch: Batch, start: Carried) -> None:
            self._begun = batch, start

        gathered = self.updater.gather(take, self.carried, begun)
        # Measurements come before the update: if one is interrupted, the update has not been made,
        # and a resumed run measures again.
        seen = self._seen(gathered)
        with self._interrupts.held():
            if gathered.grads is not None:
                self._write_line()  # before the update: if the disk is full, nothing has changed
                report, rate = self.updater.step(gathered.grads)
                self.place.step += 1
                self.place.line = self._line(epoch, gathered.loss, rate, report) | seen
                self.losses.append(gathered.loss)
            self.carried = gathered.carried
            self.feed_state = self.feed.state_dict()
            if gathered.grads is not None and report.clipped:
                # Signals wait for this as well: the update has been made, so a resumed run could
                # not explain it any more, and would explain a later one.
                self._explain(gathered)
            line = self.place.line
            if gathered.grads is not None and line is not None:
                self.metrics = line
                if set(line) & WATCHED:
                    self.watched.append(line)
        if gathered.grads is None:
            return False
        self._call("on_update")
        return True

    def _seen(self, gathered: Gathered) -> dict[str, Any]:
        """Entries of watch and monitor for the line of the update that is about to be made."""
        seen: dict[str, Any] = {}
        if gathered.last is None:
            return seen
        step = self.place.step + 1
        if self.watch is not None:
            self.watch.remember(step, self.place.explained)
            if step % self.watch.every == 0:
                seen |= self.watch.look(*gathered.last)
        found, told = self.updater.monitored(*gathered.last)
        if told is not None:
            self.tell(f"update {step}: {told}")
        return seen | found

    def _explain(self, gathered: Gathered) -> None:
        """Adds the cause of a clip to the line."""
        if self.watch is None:
            return
        assert gathered.grads is not None
        assert gathered.last is not None
        assert self.place.line is not None
        cause = self.watch.cause(gathered.grads, *gathered.last)
        if not cause:
            return
        if self.place.explained is None:
            self.tell(_cause(self.place.step, cause))
        self.place.explained = self.place.step
        missing = self.place.line.get("watch_missing", {}) | cause.get("watch_missing", {})
        self.place.line.update(cause)
        if missing:
            self.place.line["watch_missing"] = missing

    def _grown_before(self, error: NonFiniteError) -> str | None:
        return None if self._begun is None else grown_before(self.updater, *self._begun, error)

    def _look(self) -> None:
        """Evaluates the current parameters, unless that has been done already."""
        place = self.place
        done = bool(place.evaluations) and place.evaluations[-1][0] == place.step
        if self.score is None or place.step == 0 or done:
            return
        params = self.updater.averaged
        self._begun = None
        score = self.score(params)
        with self._interrupts.held():
            place.evaluations.append((place.step, score))
            if place.line is not None:
                place.line["score"] = score
            if self.updater.schedule is not None:
                self.updater.schedule.observe(score)
            # An evaluation may change the data: those of a curriculum go on to the next stage.
            self.feed_state = self.feed.state_dict()
            sign = -1.0 if self.maximise else 1.0
            if place.best is None or sign * score < sign * place.best:
                place.best_step = place.step
                if self.folder is not None:
                    self.folder.save_best(params, step=place.step, score=score)
        self._call("on_evaluation")

    def _call(self, hook: str) -> None:
        """Calls the callbacks; before an exception of theirs is passed on, the run is saved."""
        try:
            self._hooks.call(hook)
        except Exception:
            with self._interrupts.held():
                self._save(interrupted=True)
            raise

    def _line(self, epoch: int, loss: float, rate: float, report: StepReport) -> dict[str, Any]:
        norm, ratio = report.grad_norm_log10, report.update_ratio
        return {
            "step": self.place.step,
            "epoch": epoch,
            "loss": loss,
            "lr": rate,
            "grad_norm_log10": norm if math.isfinite(norm) else None,
            "clipped": report.clipped,
            "update_ratio": ratio if math.isfinite(ratio) else None,
            "seconds": round(self.seconds(), 3),
        }

    # ---- The run's folder ----------------------------------------------------------------------

    def _open(self, resume: bool) -> None:
        if self.folder is None:
            return
        earlier = self.folder.earlier(resume)
        for name, text in self.settings["data"].get("contents", {}).items():
            if text.startswith(SAMPLED):
                self.tell(f"a resumed run will compare a {text.split(', blake2b')[0]} of {name}")
        if earlier is not None:
            self.carried = restore(earlier, self.settings, self.updater, self.feed, self.folder)
            self.place, self.feed_state = earlier.place, self.feed.state_dict()
            self.metrics = self.place.line or {}
        place = self.place
        self.folder.start(place.step + (place.line is None))
        self._save()

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
        states = states_of(self.updater, self.feed_state, self.carried)
        self.folder.save_last(
            TrainingCheckpoint(self.updater.params, self.settings, self.place, states)
        )
        self.saved_step = self.place.step
        if interrupted:
            # The last line is written so that curves can be drawn; a resumed run writes it again.
            self._write_line()


def _cause(step: int, seen: dict[str, Any]) -> str:
    told = f"update {step} was clipped; {seen['clip_layer']} has the largest gradient"
    if seen["clip_window"] is None:
        return told
    first, last = seen["clip_window"]
    return f"{told}, and {seen['clip_share']:.0%} of it comes from steps {first:,} to {last:,}"
