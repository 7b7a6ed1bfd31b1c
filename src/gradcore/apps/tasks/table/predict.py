"""A trained net on a table: outputs in bounded memory, and predictions as CSV."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from ...._base.output import check_output, write_output
from . import base as bases
from .base import Base
from .columns import Table, counted
from .dataset import load_inputs
from .schema import Schema, Target, Unseen, from_json
from .sequences import Groups
from .stamps import Stamps, stamps
from .wanted import Wanted

# Steps that are run at once; the state is carried to the next ones.
WINDOW = 2_048
SIDE_BY_SIDE = 32
METADATA, BASE = "table", "base"


@dataclass(frozen=True, eq=False)
class Model:
    """A net with the schema of the tables that it reads, and what its output is added to."""

    net: gd.Stack
    params: gd.Params
    schema: Schema
    base: Base | None = None

    def save(self, path: str | os.PathLike[str], **metadata: Any) -> None:
        """Writes all of it to a file. Raises CheckpointError."""
        base = None if self.base is None else self.base.as_json()
        told = {METADATA: self.schema.as_json(), BASE: base}
        gd.save(path, self.net, self.params, **told, **metadata)


def load_model(path: str | os.PathLike[str]) -> Model:
    """What `gradcore train csv` saved. Raises CheckpointError for anything else."""
    net, params, metadata = gd.load(path)
    schema = from_json(metadata.get(METADATA), str(path))
    base = bases.from_json(metadata.get(BASE), schema, str(path))
    width = schema.width + (base is not None)
    inputs = net.vocabulary if schema.tokens else net.input_size
    embedded = (net.embedding is not None) == schema.tokens
    if not embedded or inputs != width or net.output_size != schema.target.width:
        raise gd.CheckpointError(
            f"{path} is damaged: its net has {inputs} inputs and {net.output_size} outputs; its "
            f"table has {width} and {schema.target.width}."
        )
    return Model(net, params, schema, base)


def outputs(
    model: Model,
    x: NDArray[Any],
    spans: Sequence[tuple[int, int]],
    *,
    begins: NDArray[np.int64] | None = None,
    last: bool = False,
    window: int = WINDOW,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Outputs for sequences that are rows [start, stop) of x, windows at a time.

    Yields (rows (m,), outputs (m, O)) in order; with last only those of the last step of each span,
    whose index comes instead of rows. With a base the outputs are those of the net and the base
    together; begins: (rows of x,) where each one's sequence begins, by default where its span does.
    The state is carried from window to window, so the result does not depend on window, to the bit;
    memory goes with window and not with the lengths.
    """
    net = model.net
    for group in _side_by_side(spans, SIDE_BY_SIDE * WINDOW if last else WINDOW):
        lengths = np.array([spans[i][1] - spans[i][0] for i in group])
        firsts = np.array([spans[i][0] for i in group])
        state: Sequence[gd.LayerState] | None = None
        ends = np.zeros((len(group), net.output_size), model.params.dtype)
        held: list[list[NDArray[Any]]] = [[] for _ in group]
        for t0 in range(0, int(lengths.max()), window):
            counts = np.clip(lengths - t0, 0, window)
            reads = [
                _read(model.base, x, np.arange(first + t0, first + t0 + count), first, begins)
                for first, count in zip(firsts, counts, strict=True)
            ]
            part = np.zeros((int(counts.max()), len(group), *reads[0][0].shape[1:]), x.dtype)
            for b, (own, _) in enumerate(reads):
                part[: len(own), b] = own
            out, state = gd.apply(
                net, model.params, part, lengths=counts, state=state, threads=threads, memory=memory
            )
            if last:
                ended = np.flatnonzero((counts > 0) & (lengths <= t0 + window))
                ends[ended] = out[counts[ended] - 1, ended]
                continue
            for b, (own, front) in enumerate(reads):
                held[b].append(_joined(model.base, out[: len(own), b], front))
            if len(group) == 1:
                yield firsts[0] + t0 + np.arange(len(part)), held[0].pop()
        if last:
            yield np.array(group, dtype=np.int64), ends
        elif len(group) > 1:
            rows = [np.arange(*spans[i]) for i in group]
            yield np.concatenate(rows), np.concatenate([part for parts in held for part in parts])


def _read(
    base: Base | None,
    x: NDArray[Any],
    rows: NDArray[np.int64],
    first: int,
    begins: NDArray[np.int64] | None,
) -> tuple[NDArray[Any], NDArray[np.float64] | None]:
    """What the net reads in rows, and the linear forecast of them."""
    if base is None:
        return bases.inputs(x[rows], None), None
    start = np.full(len(rows), first) if begins is None else begins[rows]
    front = base.linear.values(x, rows, start)
    return bases.inputs(x[rows], front), front


def _joined(
    base: Base | None, out: NDArray[Any], front: NDArray[np.float64] | None
) -> NDArray[Any]:
    """Outputs of the net (m, O) and the linear forecast together."""
    if base is None or front is None:
        return out
    return front[:, None] + base.scale * out.astype(np.float64)


def _side_by_side(spans: Sequence[tuple[int, int]], most_steps: int) -> Iterator[list[int]]:
    """Neighbours of like length, few enough that holding their outputs costs little."""
    group: list[int] = []
    longest = total = 0
    for index, (start, stop) in enumerate(spans):
        length = stop - start
        if length < 1:
            continue
        most = max(longest, length)
        wasteful = most * (len(group) + 1) > 2 * (total + length)
        if group and (len(group) == SIDE_BY_SIDE or wasteful or most > most_steps):
            yield group
            group, longest, total = [], 0, 0
            most = length
        group.append(index)
        longest, total = most, total + length
    if group:
        yield group


def values(target: Target, out: NDArray[Any]) -> NDArray[np.float64]:
    """(m,) predictions from outputs (m, O): numbers in the target's unit, or numbers of classes."""
    if target.kind == "class":
        return np.asarray(out.argmax(axis=1), dtype=np.float64)
    return out[:, 0].astype(np.float64) * target.std + target.mean


def probabilities(out: NDArray[Any]) -> NDArray[np.float64]:
    """(m, O) softmax of outputs."""
    shifted = out.astype(np.float64) - out.max(axis=1, keepdims=True)
    odds = np.exp(shifted)
    result: NDArray[np.float64] = odds / odds.sum(axis=1, keepdims=True)
    return result


@dataclass(frozen=True)
class Predicted:
    """What write did: rows written, and what the reader told."""

    rows: int
    notes: tuple[str, ...]


def write(
    model: Model,
    paths: Sequence[str | os.PathLike[str]],
    out: IO[str] | str | os.PathLike[str],
    wanted: Wanted | None = None,
    *,
    with_probabilities: bool = False,
    unseen: Unseen = "error",
    window: int = WINDOW,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Predicted:
    """Predictions for files with the columns that the net was trained with, as CSV.

    One line per row, sequence by sequence in order (or one per sequence, if the net tells one
    thing of each): the sequence, the order (or the place in the sequence, from 0), the prediction,
    and with with_probabilities a column for each class. The prediction of a net that was trained
    with --ahead N is called TARGET_ahead_N, and the order is that of the row it is for, N steps
    later. out: a stream, or a file, which is written whole or not at all.
    window: steps that are run at once. Raises ArgumentError, NonFiniteError, OSError.
    """
    target = model.schema.target
    if with_probabilities and target.kind != "class":
        raise gd.ArgumentError(
            f"--probabilities needs a net that tells classes; this one tells the number "
            f"{target.name!r}. Leave it out."
        )
    if isinstance(out, (str, os.PathLike)):
        check_output(out, paths)
    inputs = _Inputs(*load_inputs(paths, model.schema, wanted or Wanted(), unseen))
    told: list[Predicted] = []

    def write_to(stream: IO[str]) -> None:
        told.append(_write(model, inputs, stream, with_probabilities, window, threads, memory))

    if not isinstance(out, (str, os.PathLike)):
        write_to(out)
        return told[0]

    def write_file(temporary: Path) -> None:
        how: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
        with temporary.open("w", **how) as stream:
            write_to(stream)

    write_output(out, write_file)
    return told[0]


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What load_inputs brings."""

    table: Table
    groups: Groups
    x: NDArray[Any]
    notes: list[str]


def _write(
    model: Model,
    inputs: _Inputs,
    stream: IO[str],
    with_probabilities: bool,
    window: int,
    threads: int | None,
    memory: int | str | None,
) -> Predicted:
    table, groups, target = inputs.table, inputs.groups, model.schema.target
    spans = list(zip(groups.starts[:-1].tolist(), groups.starts[1:].tolist(), strict=True))
    last = target.per == "sequence"
    told = stamps(table, model.schema) if model.schema.order is not None and not last else None
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_header(model.schema, table, last, with_probabilities))
    written = 0
    for places, part in outputs(
        model,
        inputs.x,
        spans,
        last=last,
        window=window,
        threads=threads,
        memory=memory,
    ):
        columns = _keys(model.schema, table, groups, places, told)
        columns.append(_cells(target, values(target, part)))
        if with_probabilities:
            columns += [[f"{p:.6g}" for p in each] for each in probabilities(part).T.tolist()]
        writer.writerows(zip(*columns, strict=True))
        written += len(places)
    notes = [*inputs.notes, *([] if told is None else told.notes(groups.rows))]
    empty = int((groups.lengths == 0).sum())
    if last and empty:
        notes.append(f"{counted(empty, 'sequence')} without any row left: no prediction")
    return Predicted(written, tuple(notes))


def _header(schema: Schema, table: Table, last: bool, with_probabilities: bool) -> list[str]:
    names = []
    if schema.sequence is not None or len(table.files) > 1 or last:
        names.append(schema.sequence or "file")
    if not last:
        names.append(schema.order or "row")
    names.append(schema.target.column)
    if with_probabilities:
        names += [f"p({name})" for name in schema.target.classes]
    return names


def _keys(
    schema: Schema,
    table: Table,
    groups: Groups,
    places: NDArray[np.int64],
    stamped: Stamps | None,
) -> list[list[str]]:
    """The columns that tell what a prediction is for."""
    if schema.target.per == "sequence":
        return [[groups.ids[i] for i in places.tolist()]]
    columns = []
    indices = np.searchsorted(groups.starts, places, side="right") - 1
    if schema.sequence is not None or len(table.files) > 1:
        columns.append([groups.ids[i] for i in indices.tolist()])
    if stamped is not None:
        columns.append(stamped.cells(groups.rows[places]))
    else:
        ahead = schema.target.ahead
        columns.append([str(t) for t in (places - groups.starts[indices] + ahead).tolist()])
    return columns


def _cells(target: Target, predicted: NDArray[np.float64]) -> list[str]:
    if target.kind == "class":
        return [target.classes[int(code)] for code in predicted.tolist()]
    return [f"{value:.9g}" for value in predicted.tolist()]
