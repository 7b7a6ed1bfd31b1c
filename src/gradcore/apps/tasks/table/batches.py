"""What a net for a table learns from, in batches: whole sequences, or windows of long ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from ...._base.checks import positive_int
from . import base as bases
from .base import Base
from .dataset import Dataset
from .schema import Schema
from .sequences import TRAIN

# Longer sequences with a target in every row are learned window by window.
LONGEST_WHOLE = 5_000
_LONGEST_WINDOW, _SHORTEST_WINDOW = 1_024, 64
_UPDATES_PER_PASS = 16


def source(
    data: Dataset, base: Base | None, *, batch: int, window: int | None, seed: int
) -> tuple[gd.data.Source, int]:
    """The batches to learn from, and the steps that a gradient passes over at most.

    base: what the net's output is added to. Raises ArgumentError for a window per sequence.
    """
    batch = positive_int("batch", batch)
    if window is not None:
        positive_int("window", window)
    if data.per_sequence:
        if window is not None:
            raise gd.ArgumentError(
                "--window needs a target in every row; with --per sequence a gradient passes over "
                "the whole sequence. Leave it out."
            )
        return _whole_for_one(data, batch, seed)
    read = _Read(*_inputs_and_targets(data, base), (data.parts == TRAIN).astype(np.float32))
    learned = data.parts == TRAIN
    spans = []
    for index in range(len(data.groups.ids)):
        rows = data.sequence(index)
        places = np.flatnonzero(learned[rows])
        if len(places):
            spans.append(slice(rows.start, rows.start + int(places[-1]) + 1))
    longest = max(span.stop - span.start for span in spans)
    if window is None and data.split == "sequence" and longest <= LONGEST_WHOLE:
        return _whole(read, spans, batch, seed), longest
    return _windows(read, spans, batch, window)


@dataclass(frozen=True, eq=False)
class _Read:
    """What a net reads (n, I), its targets (n, O), and weights (n,) of 1 where it learns."""

    x: NDArray[Any]
    y: NDArray[Any]
    weight: NDArray[np.float32]


def _inputs_and_targets(data: Dataset, base: Base | None) -> tuple[NDArray[Any], NDArray[Any]]:
    if base is None:
        return bases.inputs(data.x, None), targets(data.schema, data.y)
    begins = bases.begins_of(data.groups.starts)
    front = base.linear.values(data.x, np.arange(len(data.x)), begins)
    return bases.inputs(data.x, front), targets(data.schema, data.y, base, front)


def targets(
    schema: Schema,
    y: NDArray[np.float64],
    base: Base | None = None,
    front: NDArray[np.float64] | None = None,
) -> NDArray[np.float32 | np.int64]:
    """y as the loss takes it, 0 where unknown: (n,) classes or (n, 1) standardised numbers.

    With a base it is what front, its linear forecast of each row, leaves to the net.
    """
    known, target = ~np.isnan(y), schema.target
    if target.kind == "class":
        return np.where(known, y, 0.0).astype(np.int64)
    scaled = (y - target.mean) / target.std
    if base is not None and front is not None:
        scaled = (scaled - front) / (base.scale or 1.0)
    return np.where(known, scaled, 0.0).astype(np.float32)[:, None]


def _whole_for_one(data: Dataset, batch: int, seed: int) -> tuple[gd.data.Source, int]:
    chosen = np.flatnonzero(data.parts == TRAIN)
    x = [bases.inputs(data.x[data.sequence(int(i))], None) for i in chosen]
    batches = gd.data.Sequences(
        x,
        targets(data.schema, data.y)[chosen],
        step="last",
        batch_size=min(batch, len(x)),
        seed=seed,
    )
    return batches, max(map(len, x))


def _whole(read: _Read, spans: list[slice], batch: int, seed: int) -> gd.data.Source:
    weights = [read.weight[span] for span in spans]
    return gd.data.Sequences(
        [read.x[span] for span in spans],
        [read.y[span] for span in spans],
        weight=None if all(weight.all() for weight in weights) else weights,
        batch_size=min(batch, len(spans)),
        seed=seed,
    )


def _windows(
    read: _Read, spans: list[slice], batch: int, window: int | None
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
        window = min(_LONGEST_WINDOW, max(_SHORTEST_WINDOW, steps // _UPDATES_PER_PASS))
    window = min(window, steps)
    learned = read.weight[rows]
    batches = gd.data.Stream(
        read.x[rows],
        read.y[rows],
        batch_size=lanes,
        k1=window,
        weight=None if learned.all() else learned,
        reset=reset if len(spans) > 1 else None,
    )
    return batches, window
