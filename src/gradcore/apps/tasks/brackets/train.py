"""Trains a recurrent net on windows that grow, to say which bracket must be closed next."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import gradcore as gd

from ...settings import Resources, Safeguards, option, skip_option
from .. import staged
from ..staged import Pace
from . import evaluate
from .answers import OUTPUTS
from .dataset import VOCABULARY, Corpus
from .windows import LEARN, SETTLE, Progress, Stage, Windows

CELLS = {"lstm": gd.LSTM, "gru": gd.GRU, "rnn": gd.RNN, "antisymmetric": gd.AntisymmetricRNN}
# The longest time constant with which the gates of LSTM and GRU start; the others are spread below
# it, evenly in log. Pairs are rarely farther apart.
LONGEST_MEMORY = 3_000
EVERY = 500
"""Updates between two scores."""
GOALS = {"10-100": 0.97, "100-1k": 0.92, "1k-10k": 0.9}
"""The accuracy by distance at which a net is good."""
_FEW = 20
"""A distance with fewer brackets says nothing."""


@dataclass(frozen=True)
class Options:
    """Settings of the net and its training. embedding: the width of a character's embedding."""

    cell: Literal["lstm", "gru", "rnn", "antisymmetric"] = option("lstm", "The recurrent cell.")
    hidden: int = option(128, "Number of hidden units.", min=1)
    skip: int | None = skip_option()
    seed: int = option(0, "Seed of the weights and the training windows.", min=0)
    embedding: int = 16
    learn: Sequence[Stage] = LEARN
    settle: Sequence[Stage] = SETTLE
    progress: Progress = field(default_factory=Progress)
    pace: Pace = field(default_factory=lambda: Pace(lr=5e-3, steady=0.0, average=0.25))
    safeguards: Safeguards = field(default_factory=Safeguards)
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True)
class Trained:
    """A trained net, with the cost of its training.

    steps: the number of updates. characters: the number of characters read, including repeats.
    longest_sequence: the steps of the longest window. stages: (steps, batch, updates) of each stage
    that was trained. validation: accuracy on the validation files, by which stages ended. hurried:
    whether a limit shortened the training. interrupted: whether Ctrl-C ended it.
    """

    net: gd.Stack
    params: gd.Params
    steps: int
    seconds: float
    characters: int
    longest_sequence: int
    stages: tuple[tuple[int, int, int], ...]
    validation: evaluate.Score
    hurried: bool
    interrupted: bool

    @property
    def missed(self) -> dict[str, float]:
        """The distances at which the validation files have less than GOALS, with the accuracy."""
        shares = {name: _known(self.validation, name) for name in GOALS}
        return {n: s for n, s in shares.items() if s is not None and s < GOALS[n]}


def build(options: Options) -> gd.Stack:
    """The net that options describe; raises ArgumentError for invalid sizes."""
    if options.cell not in CELLS:
        raise gd.ArgumentError(f"cell must be one of {', '.join(CELLS)}; got {options.cell!r}.")
    # The learned skip connection starts with a share of 0.1 of the past output.
    skip = options.skip and gd.Skip(options.skip, kind="mix", value=0.1, learned=True)
    return gd.Stack(
        gd.Embedding(VOCABULARY, options.embedding),
        CELLS[options.cell](options.embedding, options.hidden, skip=skip or None),
        gd.Linear(options.hidden, OUTPUTS),
    )


def train(
    corpus: Corpus,
    options: Options,
    *,
    seconds: float = math.inf,
    characters: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    quiet: bool = False,
    on_stage: Callable[[Stage], None] = lambda stage: None,
) -> Trained:
    """Trains a net until it is good on the validation files, or has stopped becoming better.

    seconds, characters: limits; see Windows. Unless the limit in seconds takes effect, the result
    has the same bits on every machine of one kind, also if the training was resumed; that limit
    includes the time before. checkpoint: the file to which the net is saved now and then, at the
    end, and when Ctrl-C ends the training, in which case the current net is returned. run, resume:
    see gradcore.Trainer.fit. quiet: show no progress. Raises what fit raises.
    """
    net = build(options)
    windows = Windows(
        corpus,
        seed=options.seed,
        learn=options.learn,
        settle=options.settle,
        progress=options.progress,
        seconds=seconds,
        characters=characters,
        on_stage=on_stage,
    )

    def measured(params: gd.Params) -> evaluate.Score:
        own = options.resources
        return evaluate.accuracy(
            net, params, corpus.validation, threads=own.threads, memory=own.memory
        )

    params, report = staged.fit(
        initial(net, options),
        windows,
        options,
        task="brackets",
        checkpoint=checkpoint,
        run=run,
        resume=resume,
        quiet=quiet,
        evaluate=lambda params: mean_by_distance(measured(params)),
        every=EVERY,
    )
    counts = zip(windows.stages, windows.counts, strict=True)
    done = [(stage.steps, stage.batch, n) for stage, n in counts if n]
    return Trained(
        net=net,
        params=params,
        steps=report.steps,
        seconds=report.seconds,
        characters=windows.read,
        longest_sequence=max((steps for steps, _, _ in done), default=0),
        stages=tuple(done),
        validation=measured(params),
        hurried=windows.hurried,
        interrupted=report.interrupted,
    )


def initial(net: gd.Stack, options: Options) -> gd.Params:
    """Parameters for a training; gates start with time constants up to LONGEST_MEMORY.

    Reference: Tallec and Ollivier 2018.
    """
    if options.cell in ("lstm", "gru"):
        return net.init(seed=options.seed, chrono=LONGEST_MEMORY, chrono_spread="log")
    return net.init(seed=options.seed)


def mean_by_distance(score: evaluate.Score) -> float:
    """The mean of the accuracies at those distances at which there are enough brackets."""
    shares = [_known(score, name) for name in evaluate.BINS]
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else score.accuracy or 0.0


def _known(score: evaluate.Score, name: str) -> float | None:
    few = score.count_by_distance[name] < _FEW
    return None if few else score.accuracy_by_distance[name]
