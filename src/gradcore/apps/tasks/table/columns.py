"""A table in memory: typed columns of one length, and where each row came from."""

from __future__ import annotations

import difflib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ....errors import ArgumentError

Kind = Literal["number", "text", "date"]

# Codes of a text column that stand for no text, and dates that are none (NumPy's NaT).
NO_TEXT = -1
NO_DATE = np.iinfo(np.int64).min
_NAMES_SHOWN = 12
_UNITS = {"D": 86_400 * 10**6, "s": 10**6}


@dataclass(frozen=True, eq=False)
class Column:
    """One column of n rows.

    kind "number": values (n,) float64, NaN where missing; int64 for an order of whole numbers.
    kind "text": values (n,) int32, places in texts, -1 where missing.
    kind "date": values (n,) int64, microseconds since 1970, NO_DATE where missing.
    """

    kind: Kind
    values: NDArray[Any]
    texts: tuple[str, ...] = ()

    @cached_property
    def _unit(self) -> str:
        """That of all dates of the column, so that their texts are alike."""
        return _coarsest(self.values)

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
        return Column(self.kind, self.values[rows], self.texts)

    def cells(self, rows: NDArray[np.int64]) -> list[str]:
        """Rows as text, as a CSV file would have them."""
        values = self.values[rows]
        if self.kind == "text":
            return [self.texts[code] if code >= 0 else "" for code in values.tolist()]
        if self.kind == "date":
            return dates_as_text(values, self._unit)
        return [str(value) for value in values.tolist()]


@dataclass(frozen=True, eq=False)
class Table:
    """Columns by name.

    files: where the rows came from; first[i] is the first row of files[i]. lines: (n,) line of each
    row in its file, None for files without lines. indices: (n,) row of its file, counted from 0.
    notes: what the reader wants to tell.
    """

    columns: dict[str, Column]
    files: tuple[str, ...]
    first: tuple[int, ...]
    lines: NDArray[np.int64] | None
    notes: tuple[str, ...] = ()

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


def dates_as_text(values: NDArray[np.int64], unit: str | None = None) -> list[str]:
    """Microseconds since 1970 in ISO 8601, to the day, the second or the microsecond.

    unit: "D", "s" or "us"; None for the coarsest that loses nothing.
    """
    dates = values.view("datetime64[us]").astype(f"datetime64[{unit or _coarsest(values)}]")
    return [str(date) for date in dates]


def _coarsest(values: NDArray[np.int64]) -> str:
    known = values[values != NO_DATE]
    return next((unit for unit, size in _UNITS.items() if not (known % size).any()), "us")


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


def listed(names: Iterable[str]) -> str:
    """Names for a message, the first dozen of them."""
    shown = list(names)
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
    if parts[0].kind != "text":
        return Column(parts[0].kind, np.concatenate([part.values for part in parts]))
    places: dict[str, int] = {}
    values = []
    for part in parts:
        codes = [places.setdefault(text, len(places)) for text in part.texts]
        # The last place is that of -1, which stays -1.
        values.append(np.array([*codes, NO_TEXT], dtype=np.int32)[part.values])
    return Column("text", np.concatenate(values), tuple(places))
