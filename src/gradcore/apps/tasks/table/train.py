"""The net for a table and its training."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

import gradcore as gd

from ...._base.checks import choice, positive_int
from ...._net.layers import Layer
from ....data._contents import fingerprint
from ...settings import Resources, Safeguards, option, skip_option
from .dataset import Dataset
from .predict import WINDOW, Model
from .schema import Schema
from .scores import Score, judge
from .sequences import TRAIN, VALIDATION

CELLS = {"lstm": gd.LSTM, "gru": gd.GRU, "rnn": gd.RNN, "antisymmetric": gd.AntisymmetricRNN}
_EMBEDDING = 32
# Longer sequences with a target in every row are learned window by window.
LONGEST_WHOLE = 5_000
_LONGEST_WINDOW = 1_024
_UPDATES_PER_PASS = 4
# Targets that a look at the validation part is limited to, and the share of time it may take.
_VALIDATION_TARGETS = 50_000
_EVERY_LEAST, _VALIDATION_SHARE = 20, 0.1


@dataclass(frozen=True)
class Options:
    """Settings of the net and its training.

    batch: sequences side by side. window: steps that a gradient reaches back at most; None for
    whole sequences up to 5,000 rows, and windows of the rows' number for longer ones and where the
    parts are split by time. patience: stop after so many looks without a better score. run: folder
    of a run that resume goes on with.
    """

    cell: Literal["lstm", "gru", "rnn", "antisymmetric"] = option("lstm", "Recurrent cell.")
    hidden: int = option(64, "Hidden units.", min=1)
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
    patience: int | None = option(
        None,
        "Stop after N looks at the validation part without progress.",
        min=1,
        metavar="N",
    )
    lr: float = option(3e-3, "Learning rate of Adam.", min=0.0)
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

    best, best_step: that score (a loss, smaller is better) and the update it was reached after.
    window: steps that a gradient passed over at most. interrupted: whether Ctrl-C ended it.
    validation: the best score if it was reached since the training was last resumed.
    """

    model: Model
    steps: int
    seconds: float
    best: float | None
    best_step: int | None
    window: int
    interrupted: bool
    validation: Score | None


def build(schema: Schema, options: Options) -> gd.Stack:
    """The net that reads what schema describes. Raises ArgumentError for sizes that cannot be."""
    choice("cell", options.cell, CELLS)
    cell, hidden = CELLS[options.cell], positive_int("hidden", options.hidden)
    skip = options.skip and gd.Skip(options.skip, kind="mix", value=0.1, learned=True)
    layers: list[Layer] = []
    width = schema.width
    if schema.tokens:
        layers.append(gd.Embedding(width, min(_EMBEDDING, width)))
        width = min(_EMBEDDING, width)
    for _ in range(positive_int("layers", options.layers)):
        layers.append(cell(width, hidden, skip=skip))
        width = hidden
    return gd.Stack(*layers, gd.Linear(width, schema.target.width))


def init(schema: Schema, net: gd.Stack, seed: int, chrono: int | None = None) -> gd.Params:
    """Fresh parameters; a text that was not seen in training starts, and stays, as nothing.

    chrono: see gradcore.Stack.init. Raises ArgumentError for a net without memory gates.
    """
    if chrono is not None and all(layer.cell.memory_gate is None for layer in net.recurrent):
        raise gd.ArgumentError(
            "--chrono needs memory gates, which --cell lstm and --cell gru have. Use one of them, "
            "or leave --chrono out."
        )
    params = net.init(seed=seed, chrono=chrono)
    if schema.tokens:
        params["0.weight"][-1] = 0.0
    return params


def train(
    data: Dataset,
    options: Options,
    *,
    minutes: float | None = None,
    updates: int | None = None,
) -> Trained:
    """Trains a net for so many minutes or updates, whichever comes first; keeps the best.

    Without minutes the result is the same to the bit every time.
    Raises ArgumentError without any limit and as gradcore.Trainer does.
    """
    if minutes is None and updates is None:
        raise gd.ArgumentError("a limit is needed: give minutes or updates.")
    net = build(data.schema, options)
    params = init(data.schema, net, options.seed, options.chrono)
    optimizer = gd.optim.Adam(
        params,
        lr=options.lr,
        clip=gd.clip.GlobalNorm(options.clip),
        constraints=options.safeguards.constraints(),
    )
    batches, window = source(data, options)
    batches.roles = roles_of(data)
    trainer = gd.Trainer(
        net,
        params,
        optimizer,
        loss=loss(data.schema),
        seed=options.seed,
        stability=options.safeguards.monitor(),
        memory=options.resources.memory,
        threads=options.resources.threads,
        quiet=options.quiet,
    )
    keeper = _Best(data, net, window, options)
    report = trainer.fit(
        batches,
        steps=updates,
        minutes=minutes,
        evaluate=keeper,
        every=_every(data, batches),
        patience=options.patience,
        run=options.run,
        resume=options.resume,
        watch=options.safeguards.watch,
    )
    if options.run is not None:
        best = Path(options.run) / "best.safetensors"
        if best.exists():  # not if it was interrupted before the first look
            params = gd.load(best).params
    elif keeper.flat is not None:
        params.flat[:] = keeper.flat
    return Trained(
        model=Model(net, params, data.schema),
        steps=report.steps,
        seconds=report.seconds,
        best=report.best,
        best_step=report.best_step,
        window=window,
        interrupted=report.interrupted,
        validation=keeper.score,
    )


class _Best:
    """The score of the validation part, and the parameters that had the best so far."""

    def __init__(self, data: Dataset, net: gd.Stack, window: int, options: Options) -> None:
        self.data, self.net, self.options = data, net, options
        self.warm = max(window, WINDOW)
        self.best = math.inf
        self.score: Score | None = None
        self.flat: np.ndarray[tuple[int], np.dtype[np.float32]] | None = None

    def __call__(self, params: gd.Params) -> float:
        judged = judge(
            Model(self.net, params, self.data.schema),
            self.data,
            VALIDATION,
            warm=self.warm,
            most=_VALIDATION_TARGETS,
            threads=self.options.resources.threads,
            memory=self.options.resources.memory,
        )
        assert judged.score.loss is not None
        if judged.score.loss < self.best:
            self.best, self.flat = judged.score.loss, params.flat.copy()
            self.score = judged.score
        return judged.score.loss


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


def source(data: Dataset, options: Options) -> tuple[gd.data.Source, int]:
    """The batches to learn from, and the steps that a gradient passes over at most."""
    batch = positive_int("batch", options.batch)
    if options.window is not None:
        positive_int("window", options.window)
    if data.per_sequence:
        if options.window is not None:
            raise gd.ArgumentError(
                "--window needs a target in every row; with --per sequence a gradient passes over "
                "the whole sequence. Leave it out."
            )
        return _whole_for_one(data, batch, options.seed)
    learned = data.parts == TRAIN
    spans = []
    for index in range(len(data.groups.ids)):
        rows = data.sequence(index)
        places = np.flatnonzero(learned[rows])
        if len(places):
            spans.append(slice(rows.start, rows.start + int(places[-1]) + 1))
    longest = max(span.stop - span.start for span in spans)
    if options.window is None and data.split == "sequence" and longest <= LONGEST_WHOLE:
        return _whole(data, spans, batch, options.seed), longest
    return _windows(data, spans, batch, options.window)


def _targets(data: Dataset) -> np.ndarray[tuple[int, ...], np.dtype[np.float32 | np.int64]]:
    """y as the loss takes it, 0 where unknown: (n,) classes or (n, 1) standardised numbers."""
    target, y = data.schema.target, np.nan_to_num(data.y, nan=0.0)
    if target.kind == "class":
        return y.astype(np.int64)
    known = ~np.isnan(data.y)
    scaled = np.where(known, (y - target.mean) / target.std, 0.0)
    return scaled.astype(np.float32)[:, None]


def _whole_for_one(data: Dataset, batch: int, seed: int) -> tuple[gd.data.Source, int]:
    chosen = np.flatnonzero(data.parts == TRAIN)
    x = [data.x[data.sequence(int(i))] for i in chosen]
    batches = gd.data.Sequences(
        x, _targets(data)[chosen], step="last", batch_size=min(batch, len(x)), seed=seed
    )
    return batches, max(map(len, x))


def _whole(data: Dataset, spans: list[slice], batch: int, seed: int) -> gd.data.Source:
    y, learned = _targets(data), (data.parts == TRAIN).astype(np.float32)
    weights = [learned[span] for span in spans]
    return gd.data.Sequences(
        [data.x[span] for span in spans],
        [y[span] for span in spans],
        weight=None if all(weight.all() for weight in weights) else weights,
        batch_size=min(batch, len(spans)),
        seed=seed,
    )


def _windows(
    data: Dataset, spans: list[slice], batch: int, window: int | None
) -> tuple[gd.data.Source, int]:
    """All rows to learn from behind each other, read in `batch` lanes with the state carried."""
    rows = np.concatenate([np.arange(span.start, span.stop) for span in spans])
    begins = np.cumsum([0, *(span.stop - span.start for span in spans)])[:-1]
    reset = np.zeros(len(rows), dtype=np.bool_)
    reset[begins] = True
    # A lane begins with an empty state in the middle of a sequence: few lanes if rows are few.
    lanes = min(batch, max(1, len(rows) // 256))
    steps = -(-len(rows) // lanes)
    if window is None:
        window = min(_LONGEST_WINDOW, max(32, steps // _UPDATES_PER_PASS))
    window = min(window, steps)
    learned = (data.parts == TRAIN).astype(np.float32)[rows]
    batches = gd.data.Stream(
        data.x[rows],
        _targets(data)[rows],
        batch_size=lanes,
        k1=window,
        weight=None if learned.all() else learned,
        reset=reset if len(spans) > 1 else None,
    )
    return batches, window


def _every(data: Dataset, batches: gd.data.Source) -> int:
    """Updates between looks at the validation part, so that these take a tenth of the time.

    By counting rows and not by the clock, which would make results depend on it.
    """
    learned = float((data.parts == TRAIN).sum()) / len(batches)
    looked = min(float((data.parts == VALIDATION).sum()), _VALIDATION_TARGETS)
    # An update reads its rows forward and twice as much backward.
    return max(_EVERY_LEAST, math.ceil(looked / (3.0 * learned * _VALIDATION_SHARE)))
