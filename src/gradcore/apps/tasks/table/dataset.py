"""From files to what a net learns from: inputs, targets, and the part that each belongs to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...._base.checks import choice
from ....errors import ArgumentError
from ..piped import kept
from . import oddities, read, sequences
from . import schema as schemas
from .columns import Table, counted, listed, unknown_column
from .roles import Roles, resolve
from .schema import Missing, Schema, Target, Unseen
from .sequences import TEST, TRAIN, UNUSED, VALIDATION, Groups, Split
from .steps import Horizon, Steps, ahead_of, resolve_horizon, steps_of
from .wanted import Format, Wanted


@dataclass(frozen=True, eq=False)
class Dataset:
    """A table as a net reads it.

    x: (n, I) float32 or (n,) int32 tokens, for the places of groups. y: the target as float64, (n,)
    per step (of the row that lies ahead) or (S,) per sequence; classes as their number; NaN where
    unknown. now: (n,) the target of the row itself, which forecasts are compared with. later: (n,)
    the place whose target each place has, -1 for none. parts: TRAIN, VALIDATION, TEST or UNUSED for
    each of y. split: how they were parted.
    """

    schema: Schema
    groups: Groups
    x: NDArray[np.float32] | NDArray[np.int32]
    y: NDArray[np.float64]
    now: NDArray[np.float64]
    later: NDArray[np.int64]
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

    def size(self, part: int) -> tuple[int, int]:
        """The rows that have a target in a part, and the sequences that these belong to."""
        chosen = self.parts == part
        if self.per_sequence:
            return int(self.groups.lengths[chosen].sum()), int(chosen.sum())
        return int(chosen.sum()), len(np.unique(self.groups.of_rows[chosen]))


@kept()
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
    table, roles, notes = _read(paths, roles, wanted)
    groups, steps, horizon, more = _grouped(table, roles, missing)
    notes += more
    column = table.columns[roles.target]
    kind, more = schemas.target_kind(roles, column, classify, table)
    notes += more
    classes: Target | None = None
    now = column.values[groups.rows]
    if kind == "class":
        classes = schemas.fit_classes(roles, column)
        now = schemas.class_codes(classes, column)[groups.rows]
    if roles.per == "sequence":
        y, now, groups, more = _per_sequence(table, roles, groups, now)
        later = np.arange(len(now))
    else:
        later = ahead_of(groups, steps, horizon)
        y = _taken(now, later)
        more = _lost_targets(roles, groups, steps, horizon, y)
    notes += more
    how, of_rows, more = _parted(roles, groups, split, seed, y, classes is not None)
    notes += more
    parts = (
        of_rows[groups.starts[:-1]] if roles.per == "sequence" else _of_targets(of_rows, y, later)
    )
    target = classes or schemas.fit_number(roles, y[parts == TRAIN])
    target = replace(target, ahead=horizon.steps, lead=horizon.text if roles.horizon.timed else "")
    features, more = schemas.fit_features(roles, table, groups, of_rows == TRAIN, missing)
    notes += more
    step = "" if steps.irregular else steps.step
    schema = Schema(features, target, roles.sequence, roles.order, missing, table.format, step)
    x, more = schemas.encode(schema, table, groups, "none")
    of_row = y[groups.of_rows] if roles.per == "sequence" else y
    notes += more
    notes += oddities.about_columns(table, roles, groups, of_row, now, kind == "class")
    notes += _check_parts(schema, y, parts)
    return Dataset(schema, groups, x, y, now, later, parts, how, tuple(dict.fromkeys(notes)))


def _read(
    paths: Sequence[str | os.PathLike[str]], roles: Roles, wanted: Wanted
) -> tuple[Table, Roles, list[str]]:
    """The table, its roles with the features written out, and notes."""
    names, notes = read.names(paths, wanted)
    given = roles.features
    roles, more = resolve(roles, names, str(paths[0]))
    assert roles.features is not None
    text = (*roles.text, *((roles.sequence,) if roles.sequence else ()))
    table = read.read(
        paths, replace(wanted, names=roles.names, text=frozenset(text), order=roles.order)
    )
    notes += [*table.notes, *more]
    if given is None:
        kept, more = oddities.unnamed_counters(table, roles.features, roles.sequence)
        notes += more
        if not kept:
            raise ArgumentError(
                f"{paths[0]} has no column left to learn from: {more[0]}. A feature is a column "
                "besides target, sequence and order."
            )
        roles = replace(roles, features=kept)
    assert roles.features is not None
    looked = dict.fromkeys((*roles.features, roles.target))
    return table, roles, [*notes, *oddities.far_values(table, tuple(looked))]


@kept()
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
    kept = _kept(schema.files, wanted)
    wanted = wanted.over(schema.files)
    names, notes = read.names(paths, wanted)
    if kept:
        notes.insert(0, f"read as the files of the training were: {kept}")
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
    notes = [*table.notes, *notes, *sequences.unsorted(table, groups, schema.order)]
    steps = steps_of(table, groups, schema.order)
    notes += steps.notes
    if schema.step and steps.step and steps.step != schema.step and not steps.vary:
        notes.append(
            f"the steps of {schema.order} are {steps.step} here and were {schema.step} in "
            "training: the net has not learned such steps"
        )
    dropped = schemas.missing_cells(table, features, groups, schema.missing)
    if dropped.any():
        notes.append(
            f"{counted(int(dropped.sum()), 'row')} with missing values; no prediction for them"
        )
        groups = groups.without(dropped)
    x, more = schemas.encode(schema, table, groups, unseen)
    return table, groups, x, list(dict.fromkeys([*notes, *more]))


@kept()
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
    whole = sequences.group(table, schema.sequence, schema.order)
    steps = steps_of(table, whole, schema.order)
    horizon = _horizon(target.horizon, steps, table, schema.order)
    return x, _taken(now, ahead_of(groups, steps, horizon)), groups


def _kept(files: Format, wanted: Wanted) -> str:
    """What of the training's format is not told anew, as options."""
    own: dict[str, Any] = {
        field.name: None
        for field in fields(Format)
        if field.name != "missing_values" and getattr(wanted, field.name) is not None
    }
    return replace(files, **own).options()


def _lacking(file: str, lacking: list[str], names: list[str]) -> str:
    if len(lacking) == 1:
        return str(unknown_column(lacking[0], names, "the net", file))
    return (
        f"{file} lacks columns that the net was trained with: {', '.join(lacking)}; it has "
        f"{', '.join(names)}."
    )


def _horizon(horizon: Horizon, steps: Steps, table: Table, order: str | None) -> Horizon:
    is_time = order is not None and table.columns[order].kind == "date"
    return resolve_horizon(horizon, steps, order, is_time)


def _grouped(
    table: Table, roles: Roles, missing: Missing
) -> tuple[Groups, Steps, Horizon, list[str]]:
    """Sequences without rows to be dropped and without those too short to learn from.

    With the steps of the order, counted before rows were dropped, and the horizon in them.
    """
    assert roles.features is not None
    groups = sequences.group(table, roles.sequence, roles.order)
    notes = sequences.unsorted(table, groups, roles.order)
    steps = steps_of(table, groups, roles.order)
    horizon = _horizon(roles.horizon, steps, table, roles.order)
    notes += [*steps.notes, *oddities.counters(table, roles.features, groups)]
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
        notes.append(f"{counted(int(dropped.sum()), 'row')} with missing values left out")
        groups = groups.without(dropped)
    least = horizon.steps + 2 if roles.per == "step" else 2
    short = groups.lengths < least
    if short.all():
        raise ArgumentError(_too_short(roles, groups, least))
    if short.any():
        first = groups.ids[int(np.flatnonzero(short)[0])]
        notes.append(
            f"{counted(int(short.sum()), 'sequence')} shorter than {least} rows left out, such as "
            f"{first!r}"
        )
        groups = groups.keep(~short)
    return groups, steps, horizon, notes


def _too_short(roles: Roles, groups: Groups, least: int) -> str:
    what = f" (--ahead {roles.ahead} needs {least})" if roles.horizon else ""
    remedy = f"Is {roles.sequence!r} the right --sequence?" if roles.sequence else "Give more rows."
    return (
        f"expected sequences of {least} rows or more{what}; the longest of {len(groups.ids):,} has "
        f"{groups.lengths.max()}. {remedy}"
    )


def _taken(values: NDArray[np.float64], places: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) values of other places, NaN where the place is -1."""
    return np.where(places < 0, np.nan, values[places])


def _lost_targets(
    roles: Roles, groups: Groups, steps: Steps, horizon: Horizon, y: NDArray[np.float64]
) -> list[str]:
    """Notes on what a target ahead means where steps are irregular or rows are missing.

    Raises ArgumentError if no row has a target.
    """
    if not horizon:
        return []
    notes = []
    if steps.irregular and not horizon.timed:
        notes.append(
            f"--ahead {roles.ahead} counts rows, since {roles.order} has no common step: how far "
            "ahead the target lies changes from row to row"
            + ("; a time such as --ahead 3h does not" if steps.times is not None else "")
        )
    elif horizon.timed:
        notes.append(
            f"--ahead {horizon.text} takes the row that is nearest to it, within half a median "
            f"step ({steps.step}): {int((~np.isnan(y)).sum()):,} of {len(y):,} rows have one"
        )
    if np.isnan(y).all():
        raise ArgumentError(
            f"no row has a {roles.target} --ahead {roles.ahead}: the rows there are missing. "
            "Give another --ahead, or fill the gaps of the table."
        )
    if not horizon.timed:
        ends = np.repeat(groups.starts[1:] - 1, groups.lengths)
        positions = steps.positions[groups.rows]
        lost = np.isnan(y) & (positions + horizon.steps <= positions[ends])
        if lost.any():
            notes.append(
                f"{counted(int(lost.sum()), 'row')} without a target: the row "
                f"{horizon.told('step')} later is missing or was left out"
                + ("; without --order rows are counted" if roles.order else "")
            )
    return notes


def _per_sequence(
    table: Table, roles: Roles, groups: Groups, now: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], Groups, list[str]]:
    """The one target of each sequence, the targets of rows, the sequences that have one, notes."""
    y = _one_each(table, roles, groups, now)
    known = ~np.isnan(y)
    if known.all():
        return y, now, groups, []
    notes = [f"{counted(int((~known).sum()), 'sequence')} without any {roles.target} left out"]
    return y[known], now[known[groups.of_rows]], groups.keep(known), notes


def _parted(
    roles: Roles,
    groups: Groups,
    split: Split | None,
    seed: int,
    y: NDArray[np.float64],
    is_class: bool,
) -> tuple[Split, NDArray[np.int8], list[str]]:
    """How the table is split, the part (n,) of each row, and notes."""
    labels = None
    if roles.per == "sequence":
        labels = y.astype(np.int64) if is_class else np.zeros(len(y), np.int64)
    how, why = sequences.choose_split(groups, split, labels is not None, bool(roles.horizon))
    of_rows = sequences.split(groups, how, seed, labels, roles.sequence)
    return how, of_rows, [why] if why else []


def _of_targets(
    of_rows: NDArray[np.int8], y: NDArray[np.float64], later: NDArray[np.int64]
) -> NDArray[np.int8]:
    """A step belongs where its target does, or the future would be learned from."""
    return np.where(np.isnan(y) | (later < 0), UNUSED, of_rows[later]).astype(np.int8)


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


def _check_parts(schema: Schema, y: NDArray[np.float64], parts: NDArray[np.int8]) -> list[str]:
    """Notes on classes that some part lacks. Raises ArgumentError for a part without targets."""
    for part, name in enumerate(("to learn from", "for validation", "for the test")):
        if not (parts == part).any():
            raise ArgumentError(
                f"no row {name} has a {schema.target.name}: too few of the rows are filled in. "
                "Give more rows, or another --split or --seed."
            )
    if schema.target.kind != "class":
        return []
    unit = "sequence" if schema.target.per == "sequence" else "row"
    notes = []
    for part, what, so in (
        (TRAIN, "to learn from", "the net cannot know it"),
        (VALIDATION, "for validation", "it has no part in choosing the net"),
        (TEST, "of the test part", "the score says nothing about it"),
    ):
        there = set(y[parts == part].astype(int).tolist())
        lacking = [name for i, name in enumerate(schema.target.classes) if i not in there]
        if lacking:
            notes.append(f"no {unit} {what} is of class {listed(map(repr, lacking))}: {so}")
        if part == TRAIN and len(there) < 2:
            raise ArgumentError(
                f"the rows to learn from are all of class {schema.target.classes[there.pop()]!r}"
                f": there is nothing to learn. Give more rows, or another --split or --seed."
            )
    return notes
