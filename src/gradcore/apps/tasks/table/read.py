"""Files to a table: what kind each file is, and several files below each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ....errors import ArgumentError
from ..piped import kept
from . import arrays, csvfile
from .columns import Table, join, unknown_column
from .csvfile import Draft, Plan
from .dates import MONTH_FIRST, Dates
from .filekind import kind
from .numberformat import COMMA, NumberFormat, Style
from .survey import Survey, decimal_comma, refused, two_readings
from .wanted import Format, Wanted

__all__ = ["Wanted", "names", "read"]

_NAMES = {
    "csv": csvfile.names,
    "array": arrays.names_of_array,
    "parquet": arrays.names_of_parquet,
}


@kept()
def names(
    paths: Sequence[str | os.PathLike[str]], wanted: Wanted | None = None
) -> tuple[list[str], list[str]]:
    """The names of the columns of the first file, and notes.

    Raises ArgumentError for a file that is no table or lacks a column that the first one has.
    """
    files, wanted = _files(paths), wanted or Wanted()
    found, notes = _NAMES[kind(files[0])](files[0], wanted)
    for file in files[1:]:
        others, more = _NAMES[kind(file)](file, wanted)
        notes += more
        for name in found:
            if name not in others:
                raise unknown_column(name, others, f"{files[0]}", f"{file}")
    return found, notes


@kept()
def read(paths: Sequence[str | os.PathLike[str]], wanted: Wanted | None = None) -> Table:
    """The wanted columns of one or more files, all rows below each other.

    CSV (also gzipped), .npy, .npz and Parquet, told apart by their first bytes. All CSV files have
    one format of numbers and of dates; what was found out is the format of the table.
    Raises ArgumentError in one line that says where and what to do; OSError.
    """
    wanted = wanted or Wanted()
    files = _files(paths)
    kinds = [kind(file) for file in files]
    drafts, found, notes = _drafts(
        [file for file, what in zip(files, kinds, strict=True) if what == "csv"], wanted
    )
    tables = []
    for file, what in zip(files, kinds, strict=True):
        if what == "csv":
            tables.append(drafts[file].table(wanted))
        else:
            reader = arrays.read_arrays if what == "array" else arrays.read_parquet
            tables.append(reader(file, wanted))
    for table in tables[1:]:
        for name in tables[0].columns:
            if name not in table.columns:
                pair = tables[0].files[0], table.files[0]
                raise unknown_column(name, list(table.columns), *pair)
    whole = _without_markers(join(tables), wanted)
    return replace(whole, format=found, notes=(*whole.notes, *notes))


def _files(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    if not paths:
        raise ArgumentError("expected a file; got none.")
    files = [Path(path) for path in paths]
    twice = next((file for file in files if files.count(file) > 1), None)
    if twice is not None:
        raise ArgumentError(f"{twice} is named twice. Name each file once.")
    return files


def _without_markers(table: Table, wanted: Wanted) -> Table:
    """The table with numbers that stand for missing values made missing."""
    values = []
    for text in wanted.missing_values:
        value = NumberFormat().number(text.strip())
        value = COMMA.number(text.strip()) if value is None else value
        if value is not None:
            values.append(value)
    if not values:
        return table
    columns = dict(table.columns)
    for name, column in columns.items():
        if column.kind == "number" and name != wanted.order:
            gone = np.isin(column.values, values)
            columns[name] = replace(column, values=np.where(gone, np.nan, column.values))
    return replace(table, columns=columns)


# ---- CSV files: formats of numbers and dates that are found out together -----------------------


def _drafts(files: Sequence[Path], wanted: Wanted) -> tuple[dict[Path, Draft], Format, list[str]]:
    """The CSV files as read by the right plan, the format that was found, and notes."""
    form = NumberFormat() if wanted.decimal is None else NumberFormat(wanted.decimal, grouped=True)
    dates = Dates(wanted.date_format)
    drafts = {file: csvfile.draft(file, wanted, Plan(form), dates) for file in files}
    comma = None
    if wanted.decimal is None:
        comma = decimal_comma(_surveys(drafts))
        if comma is not None:
            form = COMMA
    _check_dates(wanted, dates)
    if dates.given is None and dates.way == MONTH_FIRST:
        dates = Dates(MONTH_FIRST)
        drafts = {
            file: csvfile.draft(file, wanted, Plan(form), dates) for file, one in drafts.items()
        }
    for file, one in drafts.items():
        plan = Plan(form, one.lacks_text())
        if plan != one.plan:
            drafts[file] = one = csvfile.draft(file, wanted, plan, dates)
        lacking = one.lacks_text()
        if lacking:  # with another format of numbers a column may turn out to hold texts
            plan = replace(plan, text=plan.text | lacking)
            drafts[file] = csvfile.draft(file, wanted, plan, dates)
    _check_numbers(drafts, wanted, form, comma)
    found = replace(
        wanted.format,
        decimal="," if comma is not None else wanted.decimal,
        date_format=wanted.date_format or dates.way,
    )
    return (
        drafts,
        found,
        [*_about_numbers(drafts, wanted, form, comma), *_about_dates(wanted, dates)],
    )


def _surveys(drafts: dict[Path, Draft]) -> list[Survey]:
    return [survey for one in drafts.values() for survey in one.surveys.values()]


def _check_numbers(
    drafts: dict[Path, Draft], wanted: Wanted, form: NumberFormat, comma: Survey | None
) -> None:
    for survey in _surveys(drafts):
        strict = survey.name in wanted.number
        # Cells of the order are told where it is sorted, but for their two readings.
        if survey.wrong and (strict or survey.holds_numbers) and survey.name != wanted.order:
            raise refused(survey, form, comma, strict=strict)
        fault = two_readings(survey, comma)
        if fault is not None and (strict or survey.holds_numbers):
            raise fault


def _check_dates(wanted: Wanted, dates: Dates) -> None:
    fault = dates.ambiguous()
    if fault is not None:
        raise ArgumentError(f"the order in column {wanted.order!r} {fault}.")


def _about_numbers(
    drafts: dict[Path, Draft], wanted: Wanted, form: NumberFormat, comma: Survey | None
) -> list[str]:
    if comma is not None:
        line, cell = comma.first[Style.COMMA]
        value = COMMA.number(cell.strip())
        return [
            f"{comma.path}:{line}: decimal commas: {cell.strip()!r} in column {comma.name} is read "
            f"as {value:.15g}, and all numbers so; --decimal . if commas separate thousands, "
            f"--text {comma.name} if these are names"
        ]
    if form != COMMA:
        return []
    notes = []
    for one in _surveys(drafts):
        if one.holds_numbers and one.point_groups is not None and not one.commas:
            line, cell = one.point_groups
            notes.append(
                f"{one.path}:{line}: column {one.name} has points and no commas: {cell.strip()!r} "
                f"is read as {COMMA.number(cell.strip()):.15g}"
            )
    return notes


def _about_dates(wanted: Wanted, dates: Dates) -> list[str]:
    way = dates.way
    shown = dates.day or dates.month or dates.open
    if wanted.date_format is not None or way is None or shown is None:
        return []
    first = "day" if way != MONTH_FIRST else "month"
    why = "" if dates.day or dates.month else ", as dates with points have it"
    return [
        f"column {wanted.order}: dates such as {shown!r} are read with the {first} first{why}; "
        "--date-format decides otherwise"
    ]
