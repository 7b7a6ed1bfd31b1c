"""A small training loop: progress, evaluation, checkpoints, and Ctrl-C that loses nothing."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import io
from ._checks import finite_float, float_in, positive_int
from ._validate import model
from .api import value_and_grad
from .errors import ArgumentError, DTypeError
from .layers import Stack
from .loss import Loss, LossFunction
from .optim import Optimizer
from .params import Params

__all__ = ["Batch", "FitReport", "Trainer"]

# Seconds between plain progress lines.
PLAIN_INTERVAL = 10.0


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's data, as value_and_grad takes them: x (T, B, I) or (T, B), y, and masks."""

    x: Any
    y: Any
    lengths: Any = None
    weight: Any = None
    reset: Any = None


@dataclass(frozen=True)
class FitReport:
    """What fit did.

    losses: one per step of this fit. evaluations: (step, score) pairs. best: the best score.
    interrupted: whether Ctrl-C ended it.
    """

    steps: int
    seconds: float
    losses: tuple[float, ...]
    evaluations: tuple[tuple[int, float], ...]
    best: float | None
    interrupted: bool


class Trainer:
    """Trains a net on batches from any iterable.

    loss, memory, threads: as for value_and_grad. quiet: no progress.
    """

    def __init__(
        self,
        net: Stack,
        params: Params,
        optimizer: Optimizer,
        *,
        loss: str | Loss | LossFunction,
        memory: int | str | None = None,
        threads: int | None = None,
        quiet: bool = False,
    ) -> None:
        model(net, params)
        if not isinstance(optimizer, Optimizer):
            raise DTypeError(f"optimizer must be a gradcore.optim one; got {optimizer!r}.")
        if optimizer.params is not params:
            raise ArgumentError("optimizer must have been made with the params of the trainer.")
        self.net, self.params, self.optimizer = net, params, optimizer
        self.loss, self.memory, self.threads, self.quiet = loss, memory, threads, quiet

    def fit(
        self,
        batches: Iterable[Batch],
        *,
        steps: int | None = None,
        minutes: float | None = None,
        evaluate: Callable[[Params], float] | None = None,
        every: int = 100,
        maximise: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> FitReport:
        """Takes batches until steps, minutes or the batches are used up.

        evaluate: called with params every `every` steps and at the end; a lower score is better,
        a higher one with maximise. checkpoint: file for the parameters as they are after each
        evaluation and at the end; those of the best score go to "<name>.best<suffix>" beside it.
        Ctrl-C ends the training, writes the checkpoint and returns; a step is done whole or not.
        Other exceptions, those of the batches and callbacks included, pass through.
        """
        run = _Fit(self, evaluate, maximise, None if checkpoint is None else Path(checkpoint))
        last = None if steps is None else positive_int("steps", steps)
        every = positive_int("every", every)
        limit = math.inf if minutes is None else 60.0 * float_in("minutes", minutes, 0.0)
        with _progress(last, limit, self.quiet) as show:
            try:
                run.loop(iter(batches), last, limit, every, show)
            except KeyboardInterrupt:
                run.interrupted = True
                run.save()
        return run.report()


class _Fit:
    """The running state of one fit."""

    def __init__(
        self,
        trainer: Trainer,
        evaluate: Callable[[Params], float] | None,
        maximise: bool,
        checkpoint: Path | None,
    ) -> None:
        self.trainer, self.evaluate = trainer, evaluate
        self.sign = -1.0 if maximise else 1.0
        self.checkpoint = checkpoint
        self.start = time.monotonic()
        self.losses: list[float] = []
        self.evaluations: list[tuple[int, float]] = []
        self.best: float | None = None
        self.interrupted = False

    def loop(
        self, batches: Iterator[Batch], last: int | None, limit: float, every: int, show: _Progress
    ) -> None:
        while (last is None or len(self.losses) < last) and self.seconds() < limit:
            batch = next(batches, None)
            if batch is None:
                break
            self.step(batch)
            if len(self.losses) % every == 0:
                self.look()
            show(self)
        if not self.evaluations or self.evaluations[-1][0] != len(self.losses):
            self.look()

    def step(self, batch: Batch) -> None:
        if not isinstance(batch, Batch):
            raise DTypeError(f"batches must yield gradcore.Batch; got {type(batch).__name__}.")
        trainer = self.trainer
        result = value_and_grad(
            trainer.net,
            trainer.params,
            batch.x,
            batch.y,
            loss=trainer.loss,
            lengths=batch.lengths,
            weight=batch.weight,
            reset=batch.reset,
            memory=trainer.memory,
            threads=trainer.threads,
        )
        assert result.grads is not None
        trainer.optimizer.step(result.grads, threads=trainer.threads)
        self.losses.append(result.loss)

    def look(self) -> None:
        """Evaluates and saves."""
        if self.evaluate is not None:
            score = finite_float("the score of evaluate", self.evaluate(self.trainer.params))
            self.evaluations.append((len(self.losses), score))
            if self.best is None or self.sign * score < self.sign * self.best:
                self.best = score
                self.save(best=True)
        self.save()

    def save(self, best: bool = False) -> None:
        if self.checkpoint is None:
            return
        path = self.checkpoint
        if best:
            path = path.with_name(f"{path.stem}.best{path.suffix}")
        score = self.evaluations[-1][1] if self.evaluations else None
        trainer = self.trainer
        steps = trainer.optimizer.steps
        io.save(path, trainer.net, trainer.params, optimizer_steps=steps, score=score)

    def seconds(self) -> float:
        return time.monotonic() - self.start

    def report(self) -> FitReport:
        return FitReport(
            steps=len(self.losses),
            seconds=self.seconds(),
            losses=tuple(self.losses),
            evaluations=tuple(self.evaluations),
            best=self.best,
            interrupted=self.interrupted,
        )

    def line(self) -> str:
        recent = self.losses[-20:]
        text = f"step {len(self.losses)}  loss {sum(recent) / len(recent):.4g}"
        if self.evaluations:
            text += f"  score {self.evaluations[-1][1]:.4g} (best {self.best:.4g})"
        return f"{text}  {self.seconds():.0f} s"


_Progress = Callable[[_Fit], None]


def _progress(last: int | None, limit: float, quiet: bool) -> AbstractContextManager[_Progress]:
    """What shows progress: rich on a terminal that has it, plain lines otherwise."""
    if quiet:
        return nullcontext(lambda run: None)
    if sys.stderr.isatty() and find_spec("rich") is not None:
        return _RichProgress(last, limit)
    return nullcontext(_PlainProgress())


class _PlainProgress:
    """A line on stderr now and then."""

    def __init__(self) -> None:
        self.next = time.monotonic() + PLAIN_INTERVAL

    def __call__(self, run: _Fit) -> None:
        if time.monotonic() >= self.next:
            self.next = time.monotonic() + PLAIN_INTERVAL
            print(run.line(), file=sys.stderr, flush=True)


class _RichProgress(AbstractContextManager[_Progress]):
    """A bar on stderr, over the steps or the minutes, whichever is nearer to its end."""

    def __init__(self, last: int | None, limit: float) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.last, self.limit = last, limit
        self.bar = Progress(
            BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True)
        )
        self.task = self.bar.add_task("starting", total=1.0 if last or limit < math.inf else None)

    def __enter__(self) -> _Progress:
        self.bar.start()
        return self.show

    def __exit__(self, *exc_info: object) -> None:
        self.bar.stop()

    def show(self, run: _Fit) -> None:
        part = run.seconds() / self.limit
        if self.last is not None:
            part = max(part, len(run.losses) / self.last)
        self.bar.update(self.task, completed=min(1.0, part), description=run.line())
