"""The net that annotates, and its training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from ...settings import Resources, Safeguards, option, skip_option
from .. import staged
from ..staged import Pace, Stage
from .genome import Record
from .labels import CLASSES, REVERSED, TOKENS, Labels, labels, reverse_labels
from .reading import probabilities
from .windows import STAGES, Windows

__all__ = [
    "CELLS",
    "Labelling",
    "Options",
    "Trained",
    "build",
    "predict",
    "train",
    "width_of",
]

CELLS = {"lstm": gd.LSTM, "gru": gd.GRU, "rnn": gd.RNN}


@dataclass(frozen=True)
class Options:
    """Settings of the net and its training.

    embedding: width of what stands for a token.
    """

    cell: Literal["gru", "lstm", "rnn"] = option("gru", "Recurrent cell.")
    hidden: int = option(64, "Hidden units, each direction.", min=1)
    layers: int = option(2, "Recurrent layers.", min=1)
    forward: bool = option(False, "Read in one direction only.", "--forward")
    width: int = option(3, "Bases per token: 1, or 3 that overlap.")
    skip: int | None = skip_option()
    residual: bool = option(False, "Add the input of each upper layer to its output.", "--residual")
    seed: int = option(0, "Seed of weights and windows.", min=0)
    embedding: int = 16
    stages: Sequence[Stage] = STAGES
    pace: Pace = field(default_factory=lambda: Pace(lr=2e-3, steady=0.1))
    safeguards: Safeguards = field(default_factory=Safeguards)
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True)
class Labelling:
    """The classes that a net learns to assign to every base.

    task: its name, for `gradcore diagnose`. classes: how many. label, reverse: see Windows. spots:
    the parts of a record that half of the windows hold a base of.
    """

    task: str
    classes: int
    label: Callable[[Record], Labels]
    reverse: Callable[[Labels], Labels]
    spots: Callable[[Record], Sequence[tuple[int, int]]] = lambda record: ()


GENES = Labelling("dna", len(CLASSES), labels, reverse_labels)


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
        wide = options.hidden * (1 if options.forward else 2)
        layers.append(
            CELLS[options.cell](
                size,
                options.hidden,
                bidirectional=not options.forward,
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
    """Bases per token of a net. Raises ArgumentError if it does not have those classes."""
    rows = None if net.embedding is None else net.embedding.num_embeddings
    width = next((w for w, n in TOKENS.items() if n == rows), None)
    if width is None or net.output_size != classes:
        raise gd.ArgumentError(
            "the net does not read bases for this task: it must read 5 or 65 tokens and give "
            f"{classes} classes."
        )
    return width


def train(
    records: Sequence[Record],
    options: Options,
    labelling: Labelling = GENES,
    *,
    seconds: float = math.inf,
    bases: int | None = None,
    checkpoint: str | Path | None = None,
    run: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    metadata: Mapping[str, Any] | None = None,
    on_stage: Callable[[Stage], None] = lambda stage: None,
) -> Trained:
    """Trains a net for about `seconds` or on about `bases`, whichever comes first.

    Exact gradients over whole windows. checkpoint: where the net is saved at intervals, with
    `metadata`. Other arguments as of tasks.brackets.train.train.
    Raises ArgumentError without any limit, for records without genes, and as Trainer.fit does.
    """
    if math.isinf(seconds) and bases is None:
        raise gd.ArgumentError("a limit is needed: give seconds or bases.")
    if not records:
        raise gd.ArgumentError("there must be a record to train on; got none.")
    net = build(options, labelling.classes)
    windows = Windows(
        records,
        options.stages,
        width=options.width,
        seed=options.seed,
        seconds=seconds,
        bases=bases,
        label=labelling.label,
        reverse=labelling.reverse,
        spots=[labelling.spots(record) for record in records],
        on_stage=on_stage,
    )
    params, report = staged.fit(
        net.init(seed=options.seed),
        windows,
        options,
        task=labelling.task,
        checkpoint=checkpoint,
        run=run,
        resume=resume,
        quiet=quiet,
        metadata=metadata,
    )
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
    circular: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> NDArray[np.float32]:
    """Log probabilities (n, 7) of every base's class: the mean over both strands.

    Sequences of more than 66,000 bases are read in pieces of 60,000 with 3,000 more on each side.
    circular: the last base is followed by the first.
    """
    mean = probabilities(
        net,
        params,
        letters,
        width=width_of(net),
        reverse=REVERSED,
        piece=PIECE,
        beside=BESIDE,
        circular=circular,
        threads=threads,
        memory=memory,
    )
    return np.log(np.maximum(mean, 1e-12)).astype(np.float32)
