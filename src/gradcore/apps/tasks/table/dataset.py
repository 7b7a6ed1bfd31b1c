"""From files to what a net learns from: inputs, targets, and the part that each belongs to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...._base.checks import choice
from ....errors import ArgumentError
from . import read, sequences
from . import schema as schemas
from .columns import Table, unknown_column
from .roles import Roles, resolve
from .schema import Missing, Schema, Target, Unseen
from .sequences import TRAIN, UNUSED, Groups, Split
from .wanted import Wanted


@dataclass(frozen=True, eq=False)
class Dataset:
    """A table as a net reads it.

    x: (n, I) float32 or (n,) int32 tokens, for the places of groups. y: the target as float64, (n,)
    per step (of the row `ahead` later) or (S,) per sequence; classes as their number; NaN where
    unknown. now: (n,) the target of the row itself, which forecasts are compared with. parts:
    TRAIN, VALIDATION, TEST or UNUSED for each of y. split: how they were parted.
    """

    schema: Schema
    groups: Groups
    x: NDArray[np.float32] | NDArray[np.int32]
    y: NDArray[np.float64]
    now: NDArray[np.float64]
    parts: NDArray[np.int8]
    split: Split
    notes: tuple[str, ...]

    @property
    def per_sequence(self) -> bool:
        """Whether there is one target per sequence."""
        return self.schema.target.per == "sequence"

    def sequence(self, index: int) -> slice:
        """The places of a sequence."""
        return slice(int(self.groups.starts[index]), int(self.groups.starts[index + 1]))


def load(
    paths: Sequence[str | os.PathLike[str]],
    roles: Roles,
    wanted: Wanted,
    *,
    missing: Missing = "error",
    classify: bool | None = None,
    split: Split | None = None,
    seed: int = 0,
) -> Dataset:
    """Reads files to learn from.

    Scales, categories and the numbers of a target are measured on the part TRAIN alone.
    Raises ArgumentError in one line that says what was expected, what came, and what to do.
    """
    choice("missing", missing, schemas.MISSING)
    names, notes = read.names(paths, wanted)
    roles, more = resolve(roles, names, str(paths[0]))
    assert roles.features is not None
    text = (*roles.text, *((roles.sequence,) if roles.sequence else ()))
    table = read.read(
        paths, replace(wanted, names=roles.names, text=frozenset(text), order=roles.order)
    )
    notes += more
    groups, more = _grouped(table, roles, missing)
    notes += more
    column = table.columns[roles.target]
    kind, more = schemas.target_kind(roles, column, classify, table)
    notes += more
    target: Target | None = None
    if kind == "class":
        target = schemas.fit_classes(roles, column)
        now = schemas.class_codes(target, column)[groups.rows]
    else:
        now = column.values[groups.rows]
    labels = None
    if roles.per == "sequence":
        y = _one_each(table, roles, groups, now)
        known = ~np.isnan(y)
        if not known.all():
            notes.append(f"{int((~known).sum()):,} sequences have no {roles.target}; left out")
            now, y = now[known[groups.of_rows]], y[known]
            groups = groups.keep(known)
        labels = np.zeros(len(y), np.int64) if target is None else y.astype(np.int64)
    how, of_rows = sequences.split(groups, split, seed, labels, roles.sequence)
    if roles.per == "sequence":
        parts = of_rows[groups.starts[:-1]]
    else:
        y = _later(now, groups, roles.ahead)
        # A step belongs where its target does, or the future would be learned from.
        later = _later(of_rows.astype(np.float64), groups, roles.ahead)
        parts = np.where(np.isnan(y), UNUSED, np.nan_to_num(later, nan=UNUSED)).astype(np.int8)
    if target is None:
        target = schemas.fit_number(roles, y[parts == TRAIN])
    features, more = schemas.fit_features(roles, table, groups, of_rows == TRAIN, missing)
    notes += more
    schema = Schema(features, target, roles.sequence, roles.order, missing)
    x, more = schemas.encode(schema, table, groups, "none")
    notes += more
    _check_parts(schema, y, parts, notes)
    return Dataset(schema, groups, x, y, now, parts, how, (*table.notes, *notes))


def load_inputs(
    paths: Sequence[str | os.PathLike[str]],
    schema: Schema,
    wanted: Wanted,
    unseen: Unseen = "error",
    target: bool = False,
) -> tuple[Table, Groups, NDArray[np.float32] | NDArray[np.int32], list[str]]:
    """Reads files to predict from: the table, its sequences, what the net reads, and notes.

    target: whether the table gets the target's column, too, where the files have it.
    Raises ArgumentError for a column that the net needs and the files lack, and as load does.
    """
    names, notes = read.names(paths, wanted)
    features = tuple(feature.name for feature in schema.features)
    others = [name for name in (schema.sequence, schema.order) if name is not None]
    lacking = [name for name in (*features, *others) if name not in names]
    if lacking:
        raise ArgumentError(_lacking(str(paths[0]), lacking, names))
    text = [feature.name for feature in schema.features if feature.kind == "text"]
    number = [feature.name for feature in schema.features if feature.kind == "number"]
    if target and schema.target.name in names:
        others.append(schema.target.name)
        if schema.target.kind == "number":
            number.append(schema.target.name)
    table = read.read(
        paths,
        replace(
            wanted,
            names=frozenset((*features, *others)),
            number=frozenset(number),
            text=frozenset((*text, *((schema.sequence,) if schema.sequence else ()))),
            order=schema.order,
        ),
    )
    groups = sequences.group(table, schema.sequence, schema.order)
    dropped = schemas.missing_cells(table, features, groups, schema.missing)
    if dropped.any():
        notes.append(f"{int(dropped.sum()):,} rows with missing values; no prediction for them")
        groups = groups.without(dropped)
    x, more = schemas.encode(schema, table, groups, unseen)
    return table, groups, x, [*table.notes, *notes, *more]


def load_targets(
    paths: Sequence[str | os.PathLike[str]], schema: Schema, wanted: Wanted
) -> tuple[NDArray[np.float32] | NDArray[np.int32], NDArray[np.float64] | None, Groups]:
    """What the net reads for each place of the groups, and its target, as Dataset has them.

    Texts and classes that training has not seen are none of the categories, and NaN. None for the
    targets if the files have no such column. Raises as load_inputs.
    """
    table, groups, x, _ = load_inputs(paths, schema, wanted, "none", target=True)
    target = schema.target
    if target.name not in table.columns:
        return x, None, groups
    column = table.columns[target.name]
    of_rows = schemas.class_codes(target, column) if target.kind == "class" else column.values
    now = of_rows[groups.rows]
    if target.per == "sequence":
        return x, np.fmax.reduceat(now, groups.starts[:-1]), groups
    return x, _later(now, groups, target.ahead), groups


def _lacking(file: str, lacking: list[str], names: list[str]) -> str:
    if len(lacking) == 1:
        return str(unknown_column(lacking[0], names, "the net", file))
    return (
        f"{file} lacks columns that the net was trained with: {', '.join(lacking)}; it has "
        f"{', '.join(names)}."
    )


def _grouped(table: Table, roles: Roles, missing: Missing) -> tuple[Groups, list[str]]:
    """Sequences without rows that are to be dropped and without those too short to learn from."""
    assert roles.features is not None
    groups = sequences.group(table, roles.sequence, roles.order)
    notes = []
    needed = roles.features
    if roles.per == "step" and roles.target not in needed:
        needed = (*needed, roles.target)
    dropped = schemas.missing_cells(table, needed, groups, missing)
    if dropped.all():
        raise ArgumentError(
            "every row has a missing value, so that --missing drop leaves nothing. Fill some "
            "column, or leave it out of --features."
        )
    if dropped.any():
        notes.append(f"{int(dropped.sum()):,} rows with missing values left out")
        groups = groups.without(dropped)
    least = roles.ahead + 2 if roles.per == "step" else 2
    short = groups.lengths < least
    if short.all():
        what = f" (--ahead {roles.ahead} needs {least})" if roles.ahead else ""
        raise ArgumentError(
            f"expected sequences of {least} rows or more{what}; the longest of "
            f"{len(groups.ids):,} has {groups.lengths.max()}. "
            + (
                f"Is {roles.sequence!r} the right --sequence?"
                if roles.sequence
                else "Give more rows."
            )
        )
    if short.any():
        first = groups.ids[int(np.flatnonzero(short)[0])]
        notes.append(
            f"{int(short.sum()):,} sequences shorter than {least} rows left out, such as {first!r}"
        )
        groups = groups.keep(~short)
    return groups, notes


def _later(values: NDArray[np.float64], groups: Groups, ahead: int) -> NDArray[np.float64]:
    """(n,) the value `ahead` places later in the same sequence, NaN behind its end."""
    if not ahead:
        return values
    later = np.full(len(values), np.nan)
    of_rows = groups.of_rows
    same = of_rows[ahead:] == of_rows[:-ahead]
    later[:-ahead][same] = values[ahead:][same]
    return later


def _one_each(
    table: Table, roles: Roles, groups: Groups, values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(S,) the one value that the rows of each sequence have, NaN where none has any."""
    starts = groups.starts[:-1]
    least, most = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
    wrong = np.flatnonzero(least < most)
    if len(wrong):
        index = int(wrong[0])
        places = np.arange(groups.starts[index], groups.starts[index + 1])
        known = places[~np.isnan(values[places])]
        other = known[np.flatnonzero(values[known] != values[known[0]])[0]]
        rows = int(groups.rows[known[0]]), int(groups.rows[other])
        column = table.columns[roles.target]
        shown = [column.cell(row) for row in rows]
        raise ArgumentError(
            f"with --per sequence the rows of a sequence must have one {roles.target}; sequence "
            f"{groups.ids[index]!r} has {shown[0]!r} ({table.where(rows[0])}) and {shown[1]!r} "
            f"({table.where(rows[1]).rpartition('/')[2]}). Use --per step if it changes from row "
            "to row."
        )
    result: NDArray[np.float64] = least
    return result


def _check_parts(
    schema: Schema, y: NDArray[np.float64], parts: NDArray[np.int8], notes: list[str]
) -> None:
    """Every part must have targets; classes that only later parts have are told."""
    for part, name in enumerate(("to learn from", "for validation", "for the test")):
        if not (parts == part).any():
            raise ArgumentError(
                f"no row {name} has a {schema.target.name}: too few of the rows are filled in. "
                "Give more rows, or another --split or --seed."
            )
    if schema.target.kind == "class":
        learned = set(y[parts == TRAIN].astype(int).tolist())
        later = [name for i, name in enumerate(schema.target.classes) if i not in learned]
        if later:
            notes.append(
                f"no row to learn from is of class {', '.join(map(repr, later))}: the net cannot "
                "know it"
            )
        if len(learned) < 2:
            raise ArgumentError(
                f"the rows to learn from are all of class {schema.target.classes[learned.pop()]!r}"
                f": there is nothing to learn. Give more rows, or another --split or --seed."
            )
