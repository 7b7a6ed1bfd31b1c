"""Trains a recurrent net on windows that grow, to say which bracket must be closed next."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import gradcore as gd

from ...settings import Resources, Safeguards, option, skip_option
from .. import staged
from ..staged import Pace
from .dataset import CLASSES, VOCABULARY, Corpus
from .windows import STAGES, Stage, Windows

CELLS = {"lstm": gd.LSTM, "gru": gd.GRU, "rnn": gd.RNN, "antisymmetric": gd.AntisymmetricRNN}


@dataclass(frozen=True)
class Options:
    """Settings of the net and its training. embedding: the width of a character's embedding."""

    cell: Literal["lstm", "gru", "rnn", "antisymmetric"] = option("lstm", "The recurrent cell.")
    hidden: int = option(128, "Number of hidden units.", min=1)
    skip: int | None = skip_option()
    seed: int = option(0, "Seed of the weights and the training windows.", min=0)
    embedding: int = 16
    stages: Sequence[Stage] = STAGES
    pace: Pace = field(default_factory=lambda: Pace(lr=5e-3, steady=0.4))
    safeguards: Safeguards = field(default_factory=Safeguards)
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True)
class Trained:
    """A trained net, with the cost of its training.

    steps: the number of updates. characters: the number of characters read, including repeats.
    longest_sequence: the steps of the longest window. stages: (steps, batch, updates) of each stage
    that was trained. interrupted: whether Ctrl-C ended the training.
    """

    net: gd.Stack
    params: gd.Params
    steps: int
    seconds: float
    characters: int
    longest_sequence: int
    stages: tuple[tuple[int, int, int], ...]
    interrupted: bool


def build(options: Options) -> gd.Stack:
    """The net that options describe; raises ArgumentError for invalid sizes."""
    if options.cell not in CELLS:
        raise gd.ArgumentError(f"cell must be one of {', '.join(CELLS)}; got {options.cell!r}.")
    # The learned skip connection starts with a share of 0.1 of the past output.
    skip = options.skip and gd.Skip(options.skip, kind="mix", value=0.1, learned=True)
    return gd.Stack(
        gd.Embedding(VOCABULARY, options.embedding),
        CELLS[options.cell](options.embedding, options.hidden, skip=skip or None),
        gd.Linear(options.hidden, len(CLASSES)),
    )


def train(
    corpus: Corpus,
    options: Options,
    *,
    seconds: float = math.inf,
    characters: int | None = None,
    described: dict[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    quiet: bool = False,
    on_stage: Callable[[Stage], None] = lambda stage: None,
) -> Trained:
    """Trains a net for about `seconds` or on about `characters`, whichever comes first.

    Every stage gets its share of that, and the last at least one update. Without a limit in seconds
    the result always has the same bits, also if the training was resumed; a limit in seconds
    includes the time before. checkpoint: the file to which the net is saved now and then, at the
    end, and when Ctrl-C ends the training, in which case the current net is returned. run, resume:
    see gradcore.Trainer.fit. described: see Windows. quiet: show no progress.
    Raises ArgumentError without any limit, and what fit raises.
    """
    if math.isinf(seconds) and characters is None:
        raise gd.ArgumentError("training needs a limit: give seconds or characters.")
    net = build(options)
    windows = Windows(
        corpus.train,
        options.stages,
        seed=options.seed,
        seconds=seconds,
        characters=characters,
        described=described,
        on_stage=on_stage,
    )
    params, report = staged.fit(
        net,
        windows,
        options,
        task="brackets",
        checkpoint=checkpoint,
        run=run,
        resume=resume,
        quiet=quiet,
    )
    done = [(s.steps, s.batch, n) for s, n in zip(options.stages, windows.counts, strict=True) if n]
    return Trained(
        net=net,
        params=params,
        steps=report.steps,
        seconds=report.seconds,
        characters=windows.read,
        longest_sequence=max((steps for steps, _, _ in done), default=0),
        stages=tuple(done),
        interrupted=report.interrupted,
    )
