"""Trainer: trains a net, with evaluations, checkpoints, and interruptions that lose nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from .._base.checks import flag, integer, positive_int
from .._base.interrupts import Interrupts
from .._base.progress import progress
from .._base.reprs import described
from .._engine.objective import AnyLoss, heads_of, resolve
from .._net.stack import Params, Stack
from .._net.validate import model
from ..callbacks import Callback
from ..data import Batch, Source
from ..errors import ArgumentError, DTypeError
from ..loss import Heads
from ..optim import Average, Optimizer
from ..schedule import Plateau, Schedule, WarmUp
from ..stability import StabilityMonitor
from .feed import Data, feed_of
from .fit import Fit, Limits
from .hooks import checked_callbacks
from .report import FitReport, report_of, teller
from .runs import RunFolder
from .scoring import scorer
from .supervised import Stopped
from .updates import Carried, Updater
from .watch import Watch

__all__ = ["Trainer"]


class Trainer:
    """Trains a net on arrays, streams or your own batches; results depend only on the seeds.

        trainer = gd.Trainer(net, params, gd.optim.Adam(params, 1e-3), loss="cross_entropy")
        data = gd.data.Sequences(x, y, batch_size=32)
        trainer.fit(data, epochs=20, validation=held_out, patience=5, run="runs/first", resume=True)

    loss, memory, threads: see value_and_grad. optimizer: must have been made with params. schedule:
    one of gradcore.schedule, which multiplies the optimizer's rate. average: a
    gradcore.optim.Average of params, which evaluations and the best checkpoint use. stability: a
    gradcore.stability.StabilityMonitor, which reports when steps are too large for the curvature,
    or limits them. accumulate: the number of batches per update; they are weighted by the weights
    of their loss terms, so that the update is that of one large batch (with a Python loss function
    all batches count the same; losses of several heads must be sums). seed: seed of the net's
    random masks. callbacks: instances of gradcore.callbacks.Callback, which are called after
    updates, evaluations and checkpoints, and at the end, and change nothing about the training.
    quiet: show no progress.
    Raises ArgumentError, ShapeError or DTypeError.
    """

    def __init__(
        self,
        net: Stack,
        params: Params,
        optimizer: Optimizer,
        *,
        loss: AnyLoss,
        schedule: Schedule | None = None,
        average: Average | None = None,
        stability: StabilityMonitor | None = None,
        accumulate: int = 1,
        seed: int = 0,
        memory: int | str | None = None,
        threads: int | None = None,
        callbacks: Sequence[Callback] = (),
        quiet: bool = False,
    ) -> None:
        model(net, params)
        if not isinstance(optimizer, Optimizer):
            raise DTypeError(f"optimizer must be one of gradcore.optim; got {optimizer!r}.")
        if optimizer.params is not params:
            raise ArgumentError("optimizer must have been made with the params of the trainer.")
        if schedule is not None and not isinstance(schedule, Schedule):
            raise DTypeError(f"schedule must be one of gradcore.schedule; got {schedule!r}.")
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
        batches = positive_int("accumulate", accumulate)
        if isinstance(resolved, Heads):
            heads_of(resolved, net)  # checks the names
            if batches > 1 and resolved.reduction != "sum":
                raise ArgumentError(
                    "accumulate must be 1 for losses of several heads that are means, because each "
                    "mean has a divisor of its own: the update would not be that of one large "
                    "batch. Give each loss reduction='sum', or make the batches larger."
                )
        self.callbacks = checked_callbacks(callbacks)
        self.quiet = flag("quiet", quiet)
        self._updater = Updater(
            net,
            params,
            optimizer,
            resolved,
            schedule,
            average,
            batches,
            integer("seed", seed),
            memory,
            threads,
            stability,
        )
        # The data and the last state of the previous fit; the next fit over them continues there.
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
            callbacks=self.callbacks or None,
        )

    @property
    def net(self) -> Stack:
        """The net that is trained."""
        return self._updater.net

    @property
    def params(self) -> Params:
        """The parameters after the last update."""
        return self._updater.params

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that updates the parameters."""
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
        """Makes updates until the limit of steps, epochs, minutes or patience is reached.

        data: gradcore.data.Sequences or Stream, an iterable of gradcore.Batch, or a function
        epoch -> iterable. Without steps, epochs and minutes the fit is one pass over the data; with
        one of them there are as many passes as needed, but only one over an iterator.
        validation: a source or list of batches; the score is their loss with train=False, weighted
        by the weights of its terms. evaluate: a function that takes params and returns the score,
        instead of validation. The score is computed every `every` updates and at the end; lower
        scores are better, or higher ones with maximise. patience: stop after this many evaluations
        in a row without a better score.
        run: a folder for metrics.jsonl (one line per update), last.safetensors (the checkpoint to
        resume from, written once a minute and every `save_every` updates if given) and
        best.safetensors (the parameters of the best score). gradcore.load reads both. Files are
        replaced atomically: a killed process loses only the updates since the last checkpoint.
        resume: continue the run in that folder, with the same net, optimizer, seed and data, to the
        same bits as if it had never stopped, or start a new run if there is none; steps, epochs and
        minutes count from its start. Data and validation are compared by a hash of their numbers
        (of memory maps above 64 MB, of a sample of 16 MB) and by the source's roles. An iterable
        must give the same batches again from its start; those used in this pass are compared.
        watch: every `watch` updates, the line of metrics.jsonl (and in FitReport.watched) also has
        the horizon and memory length of each recurrent layer (gradcore.horizon, median of up to 4
        sequences), the norms of dL/dh over time, and the two largest Lyapunov exponents with their
        standard errors, over at most the last 2,000 steps of the update's batch. The line of a
        clipped update, at most one in `watch` updates, also has the layer with the largest gradient
        and the time window that contributes most of it, with its share. What cannot be measured is
        None, and watch_missing has the reason. A measurement takes as long as two to eight updates
        and does not change the training. See docs/training.md.
        Ctrl-C and SIGTERM end the training: fit writes the checkpoint and returns. An error of a
        callback is passed on after the checkpoint is written; others leave the last checkpoint.
        Raises ArgumentError if the folder holds a run and resume is False, or one with other
        settings; CheckpointError for one of no use; NonFiniteError outside the dtype's range.
        """
        limits = Limits.of(steps, epochs, minutes, patience)
        if flag("resume", resume) and run is None:
            raise ArgumentError("resume=True needs run=, the folder of the run to continue.")
        _check_dtypes(self.params, data=data, validation=validation)
        feed = feed_of(data, limits.epochs)
        folder = None if run is None else RunFolder(run)
        try:
            fit = Fit(
                self._updater,
                feed,
                limits,
                score=scorer(self._updater, validation, evaluate),
                validation=None if validation is None else feed_of(validation, None),
                every=positive_int("every", every),
                save_every=None if save_every is None else positive_int("save_every", save_every),
                maximise=flag("maximise", maximise),
                folder=folder,
                carried=self._carried[1] if self._carried[0] is data else None,
                watch=None if watch is None else Watch(self._updater, positive_int("watch", watch)),
                callbacks=self.callbacks,
                tell=teller(self.quiet),
            )
            if fit.score is not None:
                _check_direction(self._updater.schedule, fit.maximise)
            elif limits.patience is not None:
                raise ArgumentError("patience needs a score: pass validation or evaluate.")
            stopped = self._run(fit, data, resume)
        finally:
            if folder is not None:
                folder.close()
        return report_of(fit, stopped)

    def _run(self, fit: Fit, data: Data, resume: bool) -> Stopped:
        """Runs a fit and keeps its last state for the next fit over the same data."""
        try:
            with progress(self.quiet) as show, Interrupts() as interrupts:
                return fit.run(resume, show, interrupts)
        finally:
            self._carried = (data, fit.carried)


def _check_dtypes(params: Params, **sources: object) -> None:
    for name, source in sources.items():
        given = source.float_dtype if isinstance(source, Source) else None
        if given is not None and given != params.dtype:
            raise DTypeError(
                f"{name} gives floats as {given}, and the parameters are {params.dtype}. Pass "
                f"dtype={str(params.dtype)!r} to {type(source).__name__}."
            )


def _check_direction(schedule: Schedule | None, maximise: bool) -> None:
    """Raises ArgumentError if a Plateau, also one after a warm-up, has the opposite direction."""
    while isinstance(schedule, WarmUp):
        schedule = schedule.then
    wanted = "max" if maximise else "min"
    if isinstance(schedule, Plateau) and schedule.mode != wanted:
        raise ArgumentError(
            f"schedule.Plateau must have mode={wanted!r} with maximise={maximise}; it has "
            f"mode={schedule.mode!r}."
        )
