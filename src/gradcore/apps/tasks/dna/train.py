"""The net that annotates, and its training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from .. import staged
from ..staged import Stage, Staged
from .labels import CLASSES, REVERSED, TOKENS
from .reading import probabilities
from .records import Record
from .windows import STAGES, Windows

__all__ = ["CELLS", "Options", "Trained", "build", "predict", "train", "trained", "width_of"]

CELLS = {"lstm": gd.LSTM, "gru": gd.GRU, "rnn": gd.RNN}


@dataclass(frozen=True)
class Options:
    """Settings of the net and its training.

    width: bases per token, 1 or 3 that overlap. both: reads each layer in both directions. skip:
    lag of a learned connection through time, None for none. residual: upper layers add their input.
    Others: see staged.Settings.
    """

    cell: str = "gru"
    hidden: int = 64
    layers: int = 2
    embedding: int = 16
    width: int = 3
    both: bool = True
    skip: int | None = None
    residual: bool = False
    seed: int = 0
    lr: float = 2e-3
    last_lr: float = 0.02
    warmup: int = 100
    steady: float = 0.1
    clip: float = 1.0
    average: float = 0.15
    stages: Sequence[Stage] = STAGES
    threads: int | None = None
    memory: int | str | None = None
    watch: int | None = None
    stability: int | None = None
    stable_lr: bool = False
    constrain: str | None = None
    limit: float = 1.0


@dataclass(frozen=True)
class Trained:
    """A trained net. bases: how many were read in all, repeats included. longest: steps of the
    longest window that a gradient passed over. losses: of every update.
    """

    net: gd.Stack
    params: gd.Params
    steps: int
    seconds: float
    bases: int
    longest: int
    losses: tuple[float, ...]
    interrupted: bool


def build(options: Options, classes: int = len(CLASSES)) -> gd.Stack:
    """The net that options describe. Raises ArgumentError for what cannot be."""
    if options.cell not in CELLS:
        raise gd.ArgumentError(f"cell must be one of {', '.join(CELLS)}; got {options.cell!r}.")
    if options.width not in TOKENS:
        raise gd.ArgumentError(f"width must be 1 or 3 bases; got {options.width}.")
    skip = options.skip and gd.Skip(options.skip, kind="mix", value=0.1, learned=True)
    layers: list[gd.Recurrent] = []
    size = options.embedding
    for _ in range(options.layers):
        wide = options.hidden * (2 if options.both else 1)
        layers.append(
            CELLS[options.cell](
                size,
                options.hidden,
                bidirectional=options.both,
                skip=skip or None,
                residual=options.residual and size == wide,
            )
        )
        size = wide
    return gd.Stack(
        gd.Embedding(TOKENS[options.width], options.embedding),
        *layers,
        gd.Linear(size, classes),
    )


def width_of(net: gd.Stack, classes: int = len(CLASSES)) -> int:
    """Bases per token of a net. Raises ArgumentError if it is none that tells those classes."""
    rows = None if net.embedding is None else net.embedding.num_embeddings
    width = next((w for w, n in TOKENS.items() if n == rows), None)
    if width is None or net.output_size != classes:
        raise gd.ArgumentError(
            "the net is none that reads bases for this: it must read 5 or 65 tokens and put out "
            f"{classes} classes."
        )
    return width


def train(
    records: Sequence[Record],
    options: Options,
    *,
    seconds: float = math.inf,
    bases: int | None = None,
    checkpoint: str | Path | None = None,
    run: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    on_stage: Callable[[Stage], None] = lambda stage: None,
) -> Trained:
    """Trains a net for about `seconds` or on about `bases`, whichever comes first.

    Exact gradients over whole windows, up to 50,000 bases in the last stage. checkpoint: where the
    net is kept now and then. Other arguments as of tasks.brackets.train.train.
    Raises ArgumentError without any limit, for records without genes, and as Trainer.fit does.
    """
    if math.isinf(seconds) and bases is None:
        raise gd.ArgumentError("a limit is needed: give seconds or bases.")
    if not records:
        raise gd.ArgumentError("there must be a record to train on; got none.")
    net = build(options)
    windows = Windows(
        records,
        options.stages,
        width=options.width,
        seed=options.seed,
        seconds=seconds,
        bases=bases,
        on_stage=on_stage,
    )
    params, report = staged.fit(
        net,
        windows,
        options,
        task="dna",
        checkpoint=checkpoint,
        run=run,
        resume=resume,
        quiet=quiet,
    )
    return trained(net, params, report, windows)


def trained(net: gd.Stack, params: gd.Params, report: gd.FitReport, windows: Staged) -> Trained:
    """What came of a training on windows."""
    longest = [s.steps for s, n in zip(windows.stages, windows.counts, strict=True) if n]
    return Trained(
        net=net,
        params=params,
        steps=report.steps,
        seconds=report.seconds,
        bases=windows.read,
        longest=max(longest, default=0),
        losses=report.losses,
        interrupted=report.interrupted,
    )


# Sequences are read in pieces with this much beside them that is read but not kept.
PIECE, BESIDE = 60_000, 3_000


def predict(
    net: gd.Stack,
    params: gd.Params,
    letters: NDArray[np.uint8],
    *,
    threads: int | None = None,
    memory: int | str | None = None,
) -> NDArray[np.float32]:
    """Log probabilities (n, 7) of every base's class: the mean over both strands.

    Sequences of more than 66,000 bases are read in pieces of 60,000 with 3,000 more on each side.
    """
    mean = probabilities(
        net,
        params,
        letters,
        width=width_of(net),
        reverse=REVERSED,
        piece=PIECE,
        beside=BESIDE,
        threads=threads,
        memory=memory,
    )
    return np.log(np.maximum(mean, 1e-12)).astype(np.float32)
