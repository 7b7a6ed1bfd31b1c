"""The training loop: data, updates, evaluation, checkpoints, and Ctrl-C that loses nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._base.checks import flag, integer, positive_int
from .._base.interrupts import Interrupts
from .._base.progress import progress
from .._base.reprs import described
from .._engine.objective import resolve
from .._net.stack import Params, Stack
from .._net.validate import model
from ..data import Batch, Source
from ..errors import ArgumentError, DTypeError
from ..loss import Loss, LossFunction
from ..optim import Average, Optimizer
from ..schedule import Plateau, Schedule, WarmUp
from ..stability import StabilityMonitor
from .feed import Data, feed_of
from .fit import Fit, Limits, Stopped
from .runs import RunFolder
from .scoring import scorer
from .updates import Carried, Updater
from .watch import Watch

__all__ = ["FitReport", "Trainer"]


@dataclass(frozen=True)
class FitReport:
    """What fit did.

    steps, seconds: updates and time, those before a resumption included. losses: one per update of
    this call. evaluations: (step, score) pairs. best: the best score, at best_step. stopped: what
    ended it; "data" where the batches ran out. run: the folder, if there is one. watched: the lines
    of this call's updates in which fit's watch told something, as metrics.jsonl has them.
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

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C or SIGTERM ended it."""
        return self.stopped == "interrupted"


class Trainer:
    """Trains a net on arrays, streams or batches of one's own; deterministic by seed.

        trainer = gd.Trainer(net, params, gd.optim.Adam(params, 1e-3), loss="cross_entropy")
        data = gd.data.Sequences(x, y, batch_size=32)
        trainer.fit(data, epochs=20, validation=held_out, patience=5, run="runs/first", resume=True)

    loss, memory, threads: as for value_and_grad. optimizer: made with params. schedule: of
    gradcore.schedule; multiplies the optimizer's rate. average: a gradcore.optim.Average of params;
    evaluations and the best checkpoint use it. stability: a gradcore.stability.StabilityMonitor,
    which tells when steps are too large for the curvature, or holds them back. accumulate: batches
    per update, weighted by the weights of their loss terms, so that the update is that of one large
    batch (batches of a loss function count the same). seed: of the net's random layers. quiet: no
    progress.
    Raises ArgumentError, ShapeError or DTypeError.
    """

    def __init__(
        self,
        net: Stack,
        params: Params,
        optimizer: Optimizer,
        *,
        loss: str | Loss | LossFunction,
        schedule: Schedule | None = None,
        average: Average | None = None,
        stability: StabilityMonitor | None = None,
        accumulate: int = 1,
        seed: int = 0,
        memory: int | str | None = None,
        threads: int | None = None,
        quiet: bool = False,
    ) -> None:
        model(net, params)
        if not isinstance(optimizer, Optimizer):
            raise DTypeError(f"optimizer must be a gradcore.optim one; got {optimizer!r}.")
        if optimizer.params is not params:
            raise ArgumentError("optimizer must have been made with the params of the trainer.")
        if schedule is not None and not isinstance(schedule, Schedule):
            raise DTypeError(f"schedule must be a gradcore.schedule one; got {schedule!r}.")
        if average is not None and not isinstance(average, Average):
            raise DTypeError(f"average must be a gradcore.optim.Average; got {average!r}.")
        if average is not None and average._source is not params:
            raise ArgumentError("average must have been made with the params of the trainer.")
        resolved = resolve(loss)
        if stability is not None:
            if not isinstance(stability, StabilityMonitor):
                raise DTypeError(
                    f"stability must be a gradcore.stability.StabilityMonitor; got {stability!r}."
                )
            stability.check(optimizer, resolved)
        self.quiet = flag("quiet", quiet)
        self._updater = Updater(
            net,
            params,
            optimizer,
            resolved,
            schedule,
            average,
            positive_int("accumulate", accumulate),
            integer("seed", seed),
            memory,
            threads,
            stability,
        )
        # The state that a fit left for the next one over the same data.
        self._carried: tuple[object, Carried] = (None, None)

    def __repr__(self) -> str:
        u = self._updater
        return described(
            self,
            net=u.net,
            optimizer=u.optimizer,
            loss=u.loss,
            schedule=u.schedule,
            average=u.average,
            stability=u.stability,
            accumulate=u.accumulate,
            seed=u.seed,
            memory=u.memory,
            threads=u.threads,
        )

    @property
    def net(self) -> Stack:
        """What is trained."""
        return self._updater.net

    @property
    def params(self) -> Params:
        """The parameters as they are after the last update."""
        return self._updater.params

    @property
    def optimizer(self) -> Optimizer:
        """What updates them."""
        return self._updater.optimizer

    def fit(
        self,
        data: Data,
        *,
        steps: int | None = None,
        epochs: int | None = None,
        minutes: float | None = None,
        validation: Source | Sequence[Batch] | None = None,
        evaluate: Callable[[Params], float] | None = None,
        every: int = 100,
        maximise: bool = False,
        patience: int | None = None,
        run: str | os.PathLike[str] | None = None,
        resume: bool = False,
        save_every: int | None = None,
        watch: int | None = None,
    ) -> FitReport:
        """Updates until steps, epochs, minutes or patience are used up, whichever comes first.

        data: gradcore.data.Sequences or Stream, or an iterable of gradcore.Batch, or a function
        epoch -> iterable. Without steps, epochs and minutes: one pass. With one of them data are
        passed over as often as it takes, an iterator only once.
        validation: a source or list of batches; the score is their loss with train=False, weighted
        by the weights of its terms. evaluate: instead, a function of params that returns a score.
        Either is called every `every` updates and at the end; a lower score is better, a higher one
        with maximise. patience: stop after so many evaluations in a row without a better one.

        run: a folder that gets metrics.jsonl (a line per update), last.safetensors (to resume;
        once a minute, and every `save_every` updates if given) and best.safetensors (the parameters
        of the best score). gradcore.load reads both. Files are replaced whole: a process killed at
        any moment loses the updates since the last of them.
        resume: go on with the run of that folder, with the same net, optimizer, seed and data, to
        the same bits as if it had never stopped; steps, epochs and minutes count from its start.
        Starts anew if there is no run. An iterable must give the same batches from its start; those
        already used are skipped.

        watch: every so many updates, the line of metrics.jsonl (and of FitReport.watched) also gets
        the horizon and memory length of each recurrent layer (gradcore.horizon, median of up to 4
        sequences), the norms of dL/dh over time, and the two largest Lyapunov exponents with their
        standard errors, over up to the last 2,000 steps of the update's batch; and a clipped
        update, at most one of as many, the layer whose gradient is largest and the window of time
        that gives most of it, with its share. What cannot be found is None, and why is in
        watch_missing. A look takes as long as two to eight updates and changes nothing. See
        docs/training.md.

        Ctrl-C and SIGTERM end the training, write the checkpoint and return; an update is done
        whole or not. Other exceptions, those of data and callbacks included, pass through; a run
        keeps its last checkpoint then.
        Raises ArgumentError if run holds another run or differs from what is given here,
        CheckpointError for a checkpoint of no use, NonFiniteError if numbers leave their range.
        """
        limits = Limits.of(steps, epochs, minutes, patience)
        if flag("resume", resume) and run is None:
            raise ArgumentError("resume=True needs run, the folder of the run to go on with.")
        _check_dtypes(self.params, data=data, validation=validation)
        feed = feed_of(data, limits.epochs)
        folder = None if run is None else RunFolder(run)
        try:
            fit = Fit(
                self._updater,
                feed,
                limits,
                score=scorer(self._updater, validation, evaluate),
                every=positive_int("every", every),
                save_every=None if save_every is None else positive_int("save_every", save_every),
                maximise=flag("maximise", maximise),
                folder=folder,
                carried=self._carried[1] if self._carried[0] is data else None,
                watch=None if watch is None else Watch(self._updater, positive_int("watch", watch)),
                tell=_quiet if self.quiet else _say,
            )
            if fit.score is not None:
                _check_direction(self._updater.schedule, fit.maximise)
            elif limits.patience is not None:
                raise ArgumentError("patience needs a score: pass validation or evaluate.")
            stopped = self._run(fit, data, resume)
        finally:
            if folder is not None:
                folder.close()
        return _report(fit, stopped, folder)

    def _run(self, fit: Fit, data: Data, resume: bool) -> Stopped:
        """Runs a fit and keeps its last state for the next fit over the same data."""
        try:
            with progress(self.quiet) as show, Interrupts() as interrupts:
                return fit.run(resume, show, interrupts)
        finally:
            self._carried = (data, fit.carried)


def _report(fit: Fit, stopped: Stopped, folder: RunFolder | None) -> FitReport:
    return FitReport(
        steps=fit.place.step,
        seconds=fit.seconds(),
        losses=tuple(fit.losses),
        evaluations=tuple(fit.place.evaluations),
        best=fit.place.best,
        best_step=fit.place.best_step,
        stopped=stopped,
        run=None if folder is None else folder.folder,
        watched=tuple(fit.watched),
    )


def _say(line: str) -> None:
    print(f"gradcore: {line}", file=sys.stderr, flush=True)


def _quiet(line: str) -> None:
    pass


def _check_dtypes(params: Params, **sources: object) -> None:
    for name, source in sources.items():
        given = source.float_dtype if isinstance(source, Source) else None
        if given is not None and given != params.dtype:
            raise DTypeError(
                f"{name} gives its floats as {given}, and the parameters are {params.dtype}. Pass "
                f"dtype={str(params.dtype)!r} to {type(source).__name__}."
            )


def _check_direction(schedule: Schedule | None, maximise: bool) -> None:
    """A Plateau must look for the same direction as the fit, also behind a warm-up."""
    while isinstance(schedule, WarmUp):
        schedule = schedule.then
    wanted = "max" if maximise else "min"
    if isinstance(schedule, Plateau) and schedule.mode != wanted:
        raise ArgumentError(
            f"schedule.Plateau must have mode={wanted!r} where maximise={maximise}; it has "
            f"mode={schedule.mode!r}."
        )
