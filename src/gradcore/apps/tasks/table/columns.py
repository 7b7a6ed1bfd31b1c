"""A table in memory: typed columns of one length, and where each row came from."""

from __future__ import annotations

import difflib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ....errors import ArgumentError
from .wanted import Format

Kind = Literal["number", "text", "date"]

# Codes of a text column that stand for no text, and dates that are none (NumPy's NaT).
NO_TEXT = -1
NO_DATE = np.iinfo(np.int64).min
_NAMES_SHOWN = 12
_UNITS = {"D": 86_400 * 10**9, "s": 10**9, "us": 10**3}
# Ticks of a second for each unit that dates may be counted in.
TICKS = {"us": 10**6, "ns": 10**9}


@dataclass(frozen=True, eq=False)
class Column:
    """One column of n rows.

    kind "number": values (n,) float64, NaN where missing; int64 for an order of whole numbers.
    kind "text": values (n,) int32, places in texts, -1 where missing.
    kind "date": values (n,) int64 since 1970 in unit, "us" or "ns", NO_DATE where missing.
    """

    kind: Kind
    values: NDArray[Any]
    texts: tuple[str, ...] = ()
    unit: Literal["us", "ns"] = "us"

    @cached_property
    def _shown_unit(self) -> str:
        """That of the texts of all dates of the column, so that they are alike."""
        return _coarsest(self.values, self.unit)

    def missing(self) -> NDArray[np.bool_]:
        """(n,) where there is no value."""
        if self.kind == "text":
            return np.asarray(self.values == NO_TEXT)
        if self.kind == "date":
            return np.asarray(self.values == NO_DATE)
        return np.asarray(np.isnan(self.values))

    def cell(self, row: int) -> str:
        """One row as text."""
        return self.cells(np.array([row]))[0]

    def take(self, rows: NDArray[Any]) -> Column:
        """The column with these rows alone, by index or mask."""
        return Column(self.kind, self.values[rows], self.texts, self.unit)

    def cells(self, rows: NDArray[np.int64]) -> list[str]:
        """Rows as text, as a CSV file would have them."""
        values = self.values[rows]
        if self.kind == "text":
            return [self.texts[code] if code >= 0 else "" for code in values.tolist()]
        if self.kind == "date":
            return dates_as_text(values, self._shown_unit, self.unit)
        return [str(value) for value in values.tolist()]


@dataclass(frozen=True, eq=False)
class Table:
    """Columns by name.

    files: where the rows came from; first[i] is the first row of files[i]. lines: (n,) line of each
    row in its file, None for files without lines. notes: what the reader wants to tell. unnamed:
    columns that had no name. format: how the files turned out to be written.
    """

    columns: dict[str, Column]
    files: tuple[str, ...]
    first: tuple[int, ...]
    lines: NDArray[np.int64] | None
    notes: tuple[str, ...] = ()
    unnamed: frozenset[str] = frozenset()
    format: Format = field(default_factory=Format)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return next((len(column.values) for column in self.columns.values()), 0)

    def where(self, row: int) -> str:
        """FILE:LINE of a row, or "FILE row N" counted from 0."""
        index = bisect_right(self.first, row) - 1
        name = self.files[index]
        if self.lines is not None:
            return f"{name}:{self.lines[row]}"
        return f"{name} row {row - self.first[index]}"

    def file_of_rows(self) -> Column:
        """The name of its file for each row, as a text column."""
        counts = np.diff([*self.first, self.rows])
        codes = np.repeat(np.arange(len(self.files), dtype=np.int32), counts)
        return Column("text", codes, self.files)


def date_column(nanoseconds: Sequence[int]) -> Column:
    """A column of dates given in nanoseconds since 1970: in microseconds where that loses nothing.

    Raises OverflowError for nanoseconds that matter outside the years 1678 to 2261.
    """
    try:
        values = np.array(nanoseconds, dtype=np.int64)
        if (values % 1_000).any():
            return Column("date", values, unit="ns")
        return Column("date", values // 1_000)
    except OverflowError:
        if any(value % 1_000 for value in nanoseconds):
            raise
    return Column("date", np.array([value // 1_000 for value in nanoseconds], dtype=np.int64))


def in_unit(column: Column, unit: Literal["us", "ns"]) -> Column:
    """A column of dates in another unit that is no coarser."""
    if column.unit == unit:
        return column
    factor = TICKS[unit] // TICKS[column.unit]
    values = np.where(column.values == NO_DATE, NO_DATE, column.values * factor)
    return Column("date", values, unit=unit)


def dates_as_text(
    values: NDArray[np.int64], shown: str | None = None, unit: str = "us"
) -> list[str]:
    """Dates since 1970 in ISO 8601, to the day, the second, the microsecond or the nanosecond.

    shown: "D", "s", "us" or "ns"; None for the coarsest that loses nothing. unit: of the values.
    """
    dates = values.view(f"datetime64[{unit}]")
    return [str(d) for d in dates.astype(f"datetime64[{shown or _coarsest(values, unit)}]")]


def _coarsest(values: NDArray[np.int64], unit: str) -> str:
    known = values[values != NO_DATE]
    per_tick = 10**9 // TICKS[unit]
    sizes = {name: size // per_tick for name, size in _UNITS.items() if size >= per_tick}
    return next((name for name, size in sizes.items() if not (known % size).any()), unit)


def unknown_column(name: str, known: Sequence[str], what: str, where: str) -> ArgumentError:
    """The error for a column that is not there, with the nearest names."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    folded = [other for other in known if other.casefold() == name.strip().casefold()]
    hints = list(dict.fromkeys([*folded, *near]))
    hint = f" Did you mean {' or '.join(map(repr, hints))}?" if hints else ""
    return ArgumentError(
        f"{what} names the column {name!r}, which {where} does not have; its columns are "
        f"{listed(known)}.{hint}"
    )


def counted(count: int, noun: str) -> str:
    """A number with its noun, such as "1 row" and "2,000 rows"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def listed(names: Iterable[str]) -> str:
    """Names for a message, in one line, the first dozen of them."""
    shown = [" ".join(name.splitlines()) for name in names]
    more = f" and {len(shown) - _NAMES_SHOWN:,} more" if len(shown) > _NAMES_SHOWN else ""
    return ", ".join(shown[:_NAMES_SHOWN]) + more


def join(tables: Sequence[Table]) -> Table:
    """The rows of several tables below each other; columns go by name.

    Raises ArgumentError where a column is of one kind here and of another there.
    """
    if len(tables) == 1:
        return tables[0]
    names = tables[0].columns
    first, total = [], 0
    for table in tables:
        first.append(total)
        total += table.rows
    lines = None
    if all(table.lines is not None for table in tables):
        lines = np.concatenate([table.lines for table in tables if table.lines is not None])
    return Table(
        {name: _join_column(name, tables) for name in names},
        tuple(table.files[0] for table in tables),
        tuple(first),
        lines,
        tuple(note for table in tables for note in table.notes),
        frozenset().union(*(table.unnamed for table in tables)),
        tables[0].format,
    )


def _join_column(name: str, tables: Sequence[Table]) -> Column:
    parts = [table.columns[name] for table in tables]
    kinds: Collection[Kind] = {part.kind for part in parts}
    if len(kinds) > 1:
        first = parts[0].kind
        other = next(i for i, part in enumerate(parts) if part.kind != first)
        raise ArgumentError(
            f"column {name!r} must be of one kind in all files; it holds {first}s in "
            f"{tables[0].files[0]} and {parts[other].kind}s in {tables[other].files[0]}."
        )
    if parts[0].kind == "date":
        unit: Literal["us", "ns"] = "ns" if any(part.unit == "ns" for part in parts) else "us"
        return Column("date", np.concatenate([in_unit(p, unit).values for p in parts]), unit=unit)
    if parts[0].kind == "number":
        return Column("number", np.concatenate([part.values for part in parts]))
    places: dict[str, int] = {}
    values = []
    for part in parts:
        codes = [places.setdefault(text, len(places)) for text in part.texts]
        # The last place is that of -1, which stays -1.
        values.append(np.array([*codes, NO_TEXT], dtype=np.int32)[part.values])
    return Column("text", np.concatenate(values), tuple(places))
