"""Training by stages that share the time: batches by the clock, and what follows that clock."""

from __future__ import annotations

import math
import os
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import gradcore as gd

from ..settings import Resources, Safeguards

__all__ = ["Falling", "LastShare", "Pace", "Scheduled", "Stage", "Staged", "fit"]


@dataclass(frozen=True)
class Stage:
    """Windows of `steps` steps, `batch` side by side, for a share of the training time."""

    steps: int
    batch: int
    share: float


@dataclass(frozen=True)
class Pace:
    """Learning rate, clipping and averaging of a training by the clock.

    lr: largest learning rate; it rises over `warmup` updates and falls to `last_lr` of itself from
    the share `steady` of the time on. clip: largest norm of a gradient. average: the net is the
    mean of those after each update of this last share of the time.
    Reference for the mean: Polyak and Juditsky 1992.
    """

    lr: float
    steady: float
    last_lr: float = 0.02
    warmup: int = 100
    clip: float = 1.0
    average: float = 0.15


class Options(Protocol):
    """The part of the tasks' Options that fit() reads."""

    @property
    def seed(self) -> int: ...
    @property
    def pace(self) -> Pace: ...
    @property
    def safeguards(self) -> Safeguards: ...
    @property
    def resources(self) -> Resources: ...


class Shape(Protocol):
    """What every stage has: windows of `steps` steps, `batch` side by side."""

    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int: ...


class Scheduled(gd.data.Source):
    """One pass of windows in stages, which knows how much of the training is over.

    What a batch holds follows from its number and stage. How much is over, and with it the stage,
    may depend on the time; a resumed run goes on with the seconds left. described: what must be the
    same for a run to be gone on with, as JSON values. on_stage: called with each stage when it
    begins.

    on_batch: called with the number of each batch before it is made. counts: batches taken of each
    stage.
    """

    def __init__(
        self,
        stages: Sequence[Shape],
        *,
        seconds: float,
        described: dict[str, Any],
        on_stage: Callable[[Any], None],
    ) -> None:
        super().__init__()
        self.stages: tuple[Any, ...] = tuple(stages)
        self.counts = [0] * len(self.stages)
        self.on_batch: Callable[[int], None] = lambda number: None
        self._seconds = seconds
        self._description = described
        self._on_stage = on_stage
        self._told: Shape | None = None
        self._spent, self._start = 0.0, time.monotonic()
        self._part = self._time = 0.0

    @abstractmethod
    def make(self, index: int, stage: int) -> gd.Batch:
        """The batch number `index` of a stage."""

    @abstractmethod
    def _over(self, time: float) -> float:
        """The share of the training that is over if the share `time` of the seconds is used."""

    @abstractmethod
    def _stage(self) -> int:
        """The number of the present stage."""

    def _arrive(self) -> None:
        """Is called before each batch, when its time is known."""

    def scored(self, score: float) -> None:
        """Is told each score of the net, between two updates."""

    @property
    def part(self) -> float:
        """Share of the training that was over before the latest batch."""
        return self._part

    @property
    def read(self) -> int:
        """Steps in the batches taken."""
        return sum(s.steps * s.batch * n for s, n in zip(self.stages, self.counts, strict=True))

    def __len__(self) -> int:
        """More than there can be: the pass ends when all of the training is over."""
        return sys.maxsize

    def batch(self, epoch: int, index: int) -> gd.Batch:
        """The batch number `index`, if it is of the present stage."""
        return self.make(index, self._stage())

    def take(self) -> gd.Batch:
        """The next batch, of the stage that its time and what was read before it give."""
        before, self._time = self._time, self._elapsed() / self._seconds
        self._arrive()
        self._part = self._over(self._time)
        stage = self._stage()
        if self.stages[stage] is not self._told:
            self._told = self.stages[stage]
            self._on_stage(self._told)
        self.on_batch(self.position)
        taken = self.batch(self.epoch, self.position)
        self.position += 1
        self.counts[stage] += 1
        # By the clock as well it is told now that the next update would begin too late: it takes
        # about as long from here to there as it took from the batch before.
        if self._over(2 * self._time - before) >= 1 and self.counts[-1]:
            self.epoch, self.position = self.epoch + 1, 0
        return taken

    def describe(self) -> dict[str, Any]:
        return self._description

    def state_dict(self) -> dict[str, Any]:
        """The place, the batches taken of each stage, and the seconds spent."""
        return {**super().state_dict(), "counts": [*self.counts], "seconds": self._elapsed()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a place that state_dict told; raises ArgumentError for one that cannot be."""
        counts, seconds = state.get("counts"), state.get("seconds")
        if (
            not isinstance(counts, list)
            or len(counts) != len(self.stages)
            or not all(isinstance(n, int) and n >= 0 for n in counts)
            or not isinstance(seconds, float)
            or not 0 <= seconds < math.inf
        ):
            raise gd.ArgumentError(
                f"the state of windows must have counts, {len(self.stages)} whole numbers >= 0, "
                f"and seconds >= 0; got {counts!r} and {seconds!r}."
            )
        super().load_state_dict(state)
        self.counts = [*counts]
        self._spent, self._start = seconds, time.monotonic()
        self._time = seconds / self._seconds

    def _elapsed(self) -> float:
        return self._spent + time.monotonic() - self._start


class Staged(Scheduled):
    """Windows that end when `seconds` or `limit` steps are used up.

    Every stage has its share of that, the last at least one batch. Without a limit in seconds a
    resumed run meets the same batches. Other arguments: see Scheduled.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        seconds: float = math.inf,
        limit: int | None = None,
        described: dict[str, Any],
        on_stage: Callable[[Any], None] = lambda stage: None,
    ) -> None:
        super().__init__(
            stages,
            seconds=seconds,
            described={**described, "stages": [asdict(stage) for stage in stages]},
            on_stage=on_stage,
        )
        self._limit = math.inf if limit is None else limit

    def _over(self, time: float) -> float:
        """Share of the time or the steps that is used."""
        return max(time, self.read / self._limit)

    def _stage(self) -> int:
        """Where the part used lies among the shares."""
        part = self._part * sum(stage.share for stage in self.stages)
        for index, stage in enumerate(self.stages):
            part -= stage.share
            if part < 0:
                return index
        return len(self.stages) - 1


# Updates between two checkpoints.
SAVE_EVERY = 1_000
# Windows differ widely, and 0.999 remembers their squares for too long: after 36 million characters
# of source 0.99 gave 0.979 at distances 10-100 against 0.974, and 3% false alarms against 17%.
BETAS = (0.9, 0.99)


def fit(
    params: gd.Params,
    windows: Scheduled,
    options: Options,
    *,
    task: str,
    checkpoint: str | os.PathLike[str] | None,
    run: str | os.PathLike[str] | None,
    resume: bool,
    quiet: bool,
    metadata: Mapping[str, Any] | None = None,
    evaluate: Callable[[gd.Params], float] | None = None,
    every: int = 100,
) -> tuple[gd.Params, gd.FitReport]:
    """Trains a net on windows until they end; returns the mean of its last parameters.

    checkpoint: where the net is saved now and then, at the end and when Ctrl-C ends the training,
    with the task's name for `gradcore diagnose` and with `metadata`. evaluate: gives a score,
    higher for better nets, which windows are told every `every` updates; None for no scores.
    run, resume: as for gradcore.Trainer.fit. Raises as that does.
    """
    pace, safeguards, resources = options.pace, options.safeguards, options.resources
    net = params.net
    optimizer = gd.optim.Adam(
        params,
        lr=pace.lr,
        betas=BETAS,
        clip=gd.clip.GlobalNorm(pace.clip),
        constraints=safeguards.constraints(),
    )
    average = LastShare(params, pace.average, windows)

    def save() -> None:
        if checkpoint is not None:
            told = {"task": task, "optimizer_steps": optimizer.steps, **(metadata or {})}
            gd.save(checkpoint, net, average.params, **told)

    def on_batch(number: int) -> None:
        if number > 0 and number % SAVE_EVERY == 0:
            save()

    windows.on_batch = on_batch
    trainer = gd.Trainer(
        net,
        params,
        optimizer,
        loss="cross_entropy",
        schedule=gd.schedule.WarmUp(pace.warmup, Falling(pace.steady, pace.last_lr, windows)),
        average=average,
        stability=safeguards.monitor(),
        memory=resources.memory,
        threads=resources.threads,
        quiet=quiet,
    )
    report = trainer.fit(
        windows,
        epochs=1,
        evaluate=evaluate,
        every=every,
        maximise=evaluate is not None,
        run=run,
        resume=resume,
        save_every=SAVE_EVERY,
        watch=safeguards.watch,
    )
    save()
    return average.params, report


class Falling(gd.schedule.Schedule):
    """1 until the share `steady` of the training, then half a cosine down to `last` at its end.

    windows: tell how much of the training is over. As gradcore.schedule.Cosine, which counts
    updates; here their number is not known before, and those of the last stage take longest.
    """

    kind = "falling"

    def __init__(self, steady: float, last: float, windows: Scheduled) -> None:
        self.steady, self.last = steady, last
        self._windows = windows

    def observe(self, score: float) -> None:
        """Tells the windows; the trainer lets no signal in between."""
        super().observe(score)
        self._windows.scored(score)

    def _factor(self, step: int) -> float:
        falling = min(1.0, max(0.0, self._windows.part - self.steady) / (1 - self.steady))
        return self.last + (1 - self.last) * 0.5 * (1 + math.cos(math.pi * falling))


class LastShare(gd.optim.Average):
    """The mean over the updates of the last `share` of the training; until then the parameters.

    windows: tell how much of the training is over.
    """

    def __init__(self, params: gd.Params, share: float, windows: Scheduled) -> None:
        super().__init__(params, decay=None)
        self.share = share
        self._windows = windows

    def update(self) -> None:
        """Counts the parameters as they are now."""
        super().update()
        if self._windows.part < 1 - self.share:
            self.restart()
