"""The net for a table and its training."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

import gradcore as gd

from ...._base.checks import choice, positive_int
from ...._net.layers import Layer
from ...._training.runs import BEST
from ....data._contents import fingerprint
from ...settings import Resources, Safeguards, option, skip_option
from . import bases, plan
from .base import Base, Kind, begins_of
from .batches import source
from .dataset import Dataset
from .plan import Cell, Plan, Trial
from .predict import WINDOW, Model
from .schema import Schema
from .scores import Score, judge, score
from .sequences import TRAIN, VALIDATION

CELLS = {"lstm": gd.LSTM, "gru": gd.GRU, "rnn": gd.RNN, "antisymmetric": gd.AntisymmetricRNN}
# The nets that are tried where none is named.
_NETS: tuple[tuple[Cell, int], ...] = (("gru", 32), ("lstm", 64))
_CELL: Cell = "lstm"
_HIDDEN = 64
_EMBEDDING = 32
# Updates of a training and of a trial at most, and the rows that these read at most.
_MOST_UPDATES, _MOST_READ = 20_000, 40_000_000
_TRIAL_UPDATES, _TRIAL_READ = 300, 2_000_000
_LEAST_UPDATES = 50
# Share of --minutes that trials may take.
_TRIAL_TIME = 0.4
# The rate rises over so many updates, and halves after so many looks without progress.
_WARM_UP, _STALLED = 20, 12
_AVERAGE = 0.99
# Targets that a look at the validation part is limited to, and the share of time it may take.
_VALIDATION_TARGETS = 50_000
_EVERY_LEAST, _VALIDATION_SHARE = 20, 0.1

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """Settings of the net and its training.

    cell, hidden: None to try GRU 32 beside LSTM 64. batch: sequences side by side. window: steps
    that a gradient reaches back at most; None for whole sequences up to 5,000 rows, and windows of
    the rows' number for longer ones and where the parts are split by time. patience: stop after so
    many looks without a better score. run: folder of a run that resume goes on with.
    """

    cell: Cell | None = option(
        None, "Recurrent cell. Default: gru or lstm, whichever does better in a short trial."
    )
    hidden: int | None = option(
        None, "Hidden units. Default: 64, or 32 of a GRU if that does better.", min=1
    )
    layers: int = option(1, "Recurrent layers.", min=1)
    skip: int | None = skip_option()
    chrono: int | None = option(
        None,
        "Start with memory gates that remember for up to N steps; for --cell lstm and gru.",
        min=3,
        metavar="N",
    )
    window: int | None = option(
        None,
        "Steps that a gradient reaches back at most. Default: whole sequences up to 5,000 "
        "rows, up to 1,024 steps where they are longer or split by time.",
        min=1,
        metavar="N",
    )
    dropout: float = option(
        0.1, "Share of the units that are left out at random in front of the head.", min=0.0
    )
    patience: int = option(
        40,
        "Stop after N looks at the validation part without progress.",
        min=1,
        metavar="N",
    )
    lr: float = option(
        3e-3, "Learning rate of Adam at first; it halves when progress ends.", min=0.0
    )
    batch: int = option(16, "Sequences side by side.", min=1)
    seed: int = option(0, "Seed of weights, parts and order.", min=0)
    clip: float = 1.0
    run: str | os.PathLike[str] | None = None
    resume: bool = False
    quiet: bool = False
    safeguards: Safeguards = field(default_factory=Safeguards)
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True, eq=False)
class Trained:
    """The net of the best validation score and what it took.

    plan: what was trained. best, best_step: the score of the net (RMSE in the target's unit, or
    cross-entropy) and the update it was reached after; validation: that of what is kept. share: of
    the net in it, beside ridge regression. ridge: the regression, None where there is none. window:
    steps that a gradient passed over at most. stopped: what ended the training, as in
    gradcore.FitReport.
    """

    model: Model
    plan: Plan
    steps: int
    seconds: float
    best: float | None
    best_step: int | None
    window: int
    stopped: str
    validation: Score
    share: float = 1.0
    ridge: bases.Ridge | None = None

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        return self.stopped == "interrupted"


def build(schema: Schema, options: Options, base: bool = False) -> gd.Stack:
    """The net that reads what schema describes, and a linear forecast if it has a base.

    Raises ArgumentError for sizes that cannot be.
    """
    named = options.cell or _CELL
    choice("cell", named, CELLS)
    hidden = positive_int("hidden", _HIDDEN if options.hidden is None else options.hidden)
    skip = options.skip and gd.Skip(options.skip, kind="mix", value=0.1, learned=True)
    layers: list[Layer] = []
    width = schema.width + base
    if schema.tokens:
        layers.append(gd.Embedding(width, min(_EMBEDDING, width)))
        width = min(_EMBEDDING, width)
    for _ in range(positive_int("layers", options.layers)):
        layers.append(CELLS[named](width, hidden, skip=skip))
        width = hidden
    if options.dropout:
        layers.append(gd.Dropout(options.dropout))
    return gd.Stack(*layers, gd.Linear(width, schema.target.width))


def init(
    schema: Schema, net: gd.Stack, seed: int, chrono: int | None = None, base: bool = False
) -> gd.Params:
    """Fresh parameters; a text that was not seen in training starts, and stays, as nothing.

    base: whether the net starts as what it stands on, with a head of zeros. chrono: see
    gradcore.Stack.init. Raises ArgumentError for a net without memory gates.
    """
    if chrono is not None and all(layer.cell.memory_gate is None for layer in net.recurrent):
        raise gd.ArgumentError(
            "--chrono needs memory gates, which --cell lstm and --cell gru have. Use one of them, "
            "or leave --chrono out."
        )
    params = net.init(seed=seed, chrono=chrono)
    if schema.tokens:
        params["0.weight"][-1] = 0.0
    if base:
        for name in ("weight", "bias"):
            params[f"{len(net.layers) - 1}.{name}"][...] = 0.0
    return params


def train(
    data: Dataset,
    options: Options,
    *,
    minutes: float | None = None,
    updates: int | None = None,
    say: Say = lambda line: None,
) -> Trained:
    """Trains a net until it stops improving on the validation part; keeps the best.

    minutes: an upper bound; without one, or if it is not reached, the result is the same to the bit
    every time. updates: those of the training at most, by default as many as read 40 million rows.
    say: called with lines about what was decided. Raises ArgumentError as gradcore.Trainer does.
    """
    start = time.monotonic()
    found = bases.fitted(data)
    chosen = plan.kept(options.run)
    if chosen is None:
        chosen = _planned(data, found, options, minutes, say)
        if options.run is not None and not chosen.interrupted:
            plan.keep(options.run, chosen)
    options = replace(options, cell=chosen.cell, hidden=chosen.hidden)
    base = None if found is None or chosen.base is None else found.base(chosen.base)
    if chosen.interrupted:
        net = build(data.schema, options, base is not None)
        params = init(data.schema, net, options.seed, options.chrono, base is not None)
        made = _Fitted(Model(net, params, data.schema, base), None, 0)
    else:
        left = None if minutes is None else max(0.0, minutes - (time.monotonic() - start) / 60)
        made = _fit(data, base, options, minutes=left, updates=updates)
    model, share, validation = _kept(data, found, made, options.resources)
    report = made.report
    return Trained(
        model=model,
        plan=chosen,
        steps=0 if report is None else report.steps,
        seconds=time.monotonic() - start,
        best=None if report is None else report.best,
        best_step=None if report is None else report.best_step,
        window=made.window,
        stopped="interrupted" if report is None else report.stopped,
        validation=validation,
        share=share,
        ridge=None if found is None else found.ridge,
    )


def _planned(
    data: Dataset,
    found: bases.Bases | None,
    options: Options,
    minutes: float | None,
    say: Say,
) -> Plan:
    """The net and its base, by short trainings of those that there are.

    The bases are tried with the first net, and the second net on the best of them.
    """
    kinds: list[Kind | None] = [None] if found is None else [*found.linears]
    nets = list(_NETS)
    if options.cell is not None or options.hidden is not None:
        hidden = _HIDDEN if options.hidden is None else options.hidden
        nets = [(options.cell or _CELL, hidden)]
    if len(kinds) == len(nets) == 1:
        return Plan(kinds[0], *nets[0])
    trials: list[Trial] = []
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes * _TRIAL_TIME
    stopped = ""
    for cell, hidden in nets:
        for kind in kinds if not trials else [_best(trials).base]:
            own = replace(
                options,
                cell=cell,
                hidden=hidden,
                run=None,
                resume=False,
                quiet=True,
                safeguards=replace(options.safeguards, watch=None, stability=None, stable_lr=False),
            )
            base = None if found is None or kind is None else found.base(kind)
            left = None if minutes is None else max(0.0, (end - time.monotonic()) / 60)
            report = _fit(data, base, own, minutes=left, trial=True).report
            assert report is not None
            stopped = report.stopped
            if report.best is not None:
                trials.append(Trial(kind, cell, hidden, report.best))
            if stopped in ("interrupted", "minutes"):
                break
        if stopped in ("interrupted", "minutes") or not trials:
            break
    if not trials:
        return Plan(kinds[0], *nets[0], interrupted=stopped == "interrupted")
    best = _best(trials)
    on = "" if best.base is None else f" on {best.base}"
    say(f"tried {len(trials)} nets shortly: {best.cell} {best.hidden}{on} does best")
    return Plan(best.base, best.cell, best.hidden, tuple(trials), stopped == "interrupted")


def _best(trials: list[Trial]) -> Trial:
    return min(trials, key=lambda trial: trial.score)


@dataclass(frozen=True, eq=False)
class _Fitted:
    """The best net of one training; report: None if there was none."""

    model: Model
    report: gd.FitReport | None
    window: int


def _fit(
    data: Dataset,
    base: Base | None,
    options: Options,
    *,
    minutes: float | None = None,
    updates: int | None = None,
    trial: bool = False,
) -> _Fitted:
    """Trains one net on one base; trial: for a short while."""
    schema, threads, memory = data.schema, options.resources.threads, options.resources.memory
    net = build(schema, options, base is not None)
    params = init(schema, net, options.seed, options.chrono, base is not None)
    optimizer = gd.optim.Adam(
        params,
        lr=options.lr,
        clip=gd.clip.GlobalNorm(options.clip),
        constraints=options.safeguards.constraints(),
    )
    batches, window = source(
        data, base, batch=options.batch, window=options.window, seed=options.seed
    )
    batches.roles = roles_of(data)
    every = _every(data, batches)
    trainer = gd.Trainer(
        net,
        params,
        optimizer,
        loss=loss(schema),
        schedule=gd.schedule.WarmUp(_WARM_UP, Halving(optimizer, every)),
        average=gd.optim.Average(params, _AVERAGE),
        seed=options.seed,
        stability=options.safeguards.monitor(),
        memory=memory,
        threads=threads,
        quiet=options.quiet,
    )
    model = Model(net, params, schema, base)
    keeper = _Best(data, model, window, options)
    report = trainer.fit(
        batches,
        steps=_limit(data, batches, trial) if updates is None else updates,
        minutes=minutes,
        evaluate=keeper,
        every=every,
        patience=options.patience,
        run=options.run,
        resume=options.resume,
        watch=options.safeguards.watch,
    )
    if options.run is not None:
        best = Path(options.run) / BEST
        if best.exists():  # not if it was interrupted before the first look
            model = replace(model, params=gd.load(best).params)
    elif keeper.flat is not None:
        params.flat[:] = keeper.flat
    return _Fitted(model, report, window)


def _kept(
    data: Dataset, found: bases.Bases | None, made: _Fitted, resources: Resources
) -> tuple[Model, float, Score]:
    """The net and ridge regression together, the net's share, and the score on validation."""
    judged = judge(made.model, data, VALIDATION, threads=resources.threads, memory=resources.memory)
    if found is None or made.model.base is None:
        return made.model, 1.0, judged.score
    target, places = data.schema.target, judged.places
    begins = begins_of(data.groups.starts)[places]
    by_ridge = found.ridge.learned.values(data.x, places, begins) * target.std + target.mean
    share = bases.share_of_net(judged.truth - by_ridge, judged.guess - by_ridge)
    together = by_ridge + share * (judged.guess - by_ridge)
    base = bases.combined(made.model.base, found.ridge, share)
    return (
        replace(made.model, base=base),
        share,
        score(target, judged.truth, together),
    )


class Halving(gd.schedule.Plateau):
    """Halves the rate when the validation score has not improved for some looks.

    Scores between the regular looks, which a training has when it is stopped, do not count, so that
    a training that goes on has the rates of one that was never stopped. optimizer: tells the
    update. every: updates between regular looks.
    """

    kind = "plateau"

    def __init__(self, optimizer: gd.optim.Optimizer, every: int) -> None:
        super().__init__(0.5, _STALLED, threshold=0.0)
        self.every = every
        self._optimizer = optimizer

    def observe(self, score: float) -> None:
        """Counts the score of a regular look."""
        if self._optimizer.steps % self.every == 0:
            super().observe(score)


class _Best:
    """The score of the validation part, and the parameters that had the best so far."""

    def __init__(self, data: Dataset, model: Model, window: int, options: Options) -> None:
        self.data, self.model, self.options = data, model, options
        self.warm = max(window, WINDOW)
        self.best = math.inf
        self.flat: np.ndarray[tuple[int], np.dtype[np.float32]] | None = None

    def __call__(self, params: gd.Params) -> float:
        judged = judge(
            replace(self.model, params=params),
            self.data,
            VALIDATION,
            warm=self.warm,
            most=_VALIDATION_TARGETS,
            threads=self.options.resources.threads,
            memory=self.options.resources.memory,
        )
        found = judged.score.measure
        if found < self.best:
            self.best, self.flat = found, params.flat.copy()
        return found


def roles_of(data: Dataset) -> dict[str, Any]:
    """What a resumed run compares besides the numbers that it learns from.

    The columns with their scale, since a column times two is standardised to the same numbers, and
    all rows, those of validation and test included.
    """
    schema = data.schema
    return {
        "features": {feature.name: repr(feature) for feature in schema.features},
        "target": repr(schema.target),
        "rows": fingerprint([data.x, data.y, data.parts]),
    }


def loss(schema: Schema) -> gd.loss.Loss:
    """What training makes small."""
    step: Literal["all", "last"] = "last" if schema.target.per == "sequence" else "all"
    if schema.target.kind == "class":
        return gd.loss.CrossEntropy(step=step)
    return gd.loss.MeanSquaredError(step=step)


def _limit(data: Dataset, batches: gd.data.Source, trial: bool) -> int:
    """Updates of a training at most, or of a trial."""
    rows = float((data.parts == TRAIN).sum())
    if data.per_sequence:
        rows = float(data.size(TRAIN)[0])
    most, read = (_TRIAL_UPDATES, _TRIAL_READ) if trial else (_MOST_UPDATES, _MOST_READ)
    return max(_LEAST_UPDATES, min(most, math.ceil(read * len(batches) / rows)))


def _every(data: Dataset, batches: gd.data.Source) -> int:
    """Updates between looks at the validation part, so that these take a tenth of the time.

    By counting rows and not by the clock, which would make results depend on it.
    """
    learned = float((data.parts == TRAIN).sum()) / len(batches)
    looked = min(float((data.parts == VALIDATION).sum()), _VALIDATION_TARGETS)
    # An update reads its rows forward and twice as much backward.
    return max(_EVERY_LEAST, math.ceil(looked / (3.0 * learned * _VALIDATION_SHARE)))
