"""One call of Trainer.fit: the loop over updates, with evaluations, checkpoints and messages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .._base.checks import float_in, positive_int
from .._base.progress import Show
from ..callbacks import Callback
from ..data import Batch
from ..data._contents import SAMPLED
from ..errors import ArgumentError, NonFiniteError
from ..optim import StepReport
from .checkpoint import Place, TrainingCheckpoint
from .feed import Feed
from .runs import RunFolder
from .scoring import Score
from .snapshot import restore, settings_of, states_of
from .supervised import SAVE_SECONDS, Stopped, Supervised
from .updates import Carried, Gathered, Updater
from .watch import WATCHED, Watch, grown_before

__all__ = ["Fit", "Limits"]


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


class Fit(Supervised):
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
        super().__init__(Place(first_epoch=feed.epoch), folder, maximise, callbacks, tell)
        self.updater: Updater = updater
        self.feed, self.limits, self.score = feed, limits, score
        self.every, self.save_every = every, save_every
        self.carried, self.watch = carried, watch
        # The batch and the initial state of the update that is being made; None in evaluations.
        self._begun: tuple[Batch, Carried] | None = None
        # The place in the data after the last complete update; the feed itself may be ahead of it.
        self.feed_state = feed.state_dict()
        # The settings as the user gives them, before a checkpoint changes the optimizer's rate.
        kept = folder is not None
        self.settings = settings_of(
            updater,
            feed.describe(contents=kept),
            None if validation is None else validation.describe(contents=kept),
            maximise,
        )

    def _leave(self) -> None:
        """The data go back to the place of the last update."""
        self.feed.rewind(self.feed_state)

    def _saved(self, resume: bool, show: Show) -> Stopped:
        """Says of numbers that leave the range of the dtype where it happened and why."""
        try:
            return super()._saved(resume, show)
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
                self.place.line = self._line(epoch, gathered, rate, report) | seen
                self.losses.append(gathered.loss)
                self.take_losses(gathered.losses)
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
        score, heads = self.score(params)
        with self._interrupts.held():
            place.evaluations.append((place.step, score))
            if place.line is not None:
                place.line["score"] = score
                if heads is not None:
                    place.line["scores"] = heads
            self.take_scores(place.step, heads)
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

    def _line(
        self, epoch: int, gathered: Gathered, rate: float, report: StepReport
    ) -> dict[str, Any]:
        norm, ratio = report.grad_norm_log10, report.update_ratio
        return {
            "step": self.place.step,
            "epoch": epoch,
            "loss": gathered.loss,
            **({} if gathered.losses is None else {"losses": gathered.losses}),
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

    def _made(self) -> TrainingCheckpoint:
        states = states_of(self.updater, self.feed_state, self.carried)
        return TrainingCheckpoint(self.updater.params, self.settings, self.place, states)


def _cause(step: int, seen: dict[str, Any]) -> str:
    told = f"update {step} was clipped; {seen['clip_layer']} has the largest gradient"
    if seen["clip_window"] is None:
        return told
    first, last = seen["clip_window"]
    return f"{told}, and {seen['clip_share']:.0%} of it comes from steps {first:,} to {last:,}"
