"""CSV files: rows in chunks, and columns that find out what they hold.

A chunk of rows is converted column by column, so that memory goes with the typed columns (8 bytes a
number, 4 a text) and not with the text of the file. A file is read once if its numbers are plain;
once more where it turns out that they have decimal commas, or that a column holds texts.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import ArgumentError
from . import cells
from .columns import NO_DATE, Column, Table, counted, date_column
from .dates import Dates
from .layout import Layout, csv_reader, find
from .numberformat import NumberFormat, look
from .survey import Survey, markers
from .textfile import Lines, opened
from .wanted import Wanted

__all__ = ["Draft", "Plan", "draft", "names"]

_CHUNK = 20_000
_NAMES = {"\t": "tab", " ": "space"}


@dataclass(frozen=True)
class Plan:
    """What is known, or assumed, when a file is read: the format of numbers, columns of texts."""

    form: NumberFormat
    text: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Draft:
    """A file as read by a plan. surveys: of the columns that may hold numbers."""

    path: Path
    plan: Plan
    layout: Layout
    builders: dict[str, _Builder | _Text | _Order]
    lines: NDArray[np.int64]
    notes: tuple[str, ...]

    @property
    def surveys(self) -> dict[str, Survey]:
        """What the cells look like, of columns that were not read as texts from the start."""
        return {
            name: builder.survey
            for name, builder in self.builders.items()
            if isinstance(builder, (_Builder, _Order))
        }

    def lacks_text(self) -> frozenset[str]:
        """Columns that turn out to hold texts and were not kept as such."""
        return frozenset(
            name
            for name, builder in self.builders.items()
            if isinstance(builder, _Builder) and builder.is_text and builder.text is None
        )

    def table(self, wanted: Wanted) -> Table:
        """The columns. Raises ArgumentError for cells that do not fit."""
        made = {}
        for name, builder in self.builders.items():
            column = builder.column()
            if column.kind == "text" and name not in wanted.text:
                column = self._checked(name, column)
            made[name] = column
        return Table(
            made,
            (str(self.path),),
            (0,),
            self.lines,
            (*self.layout.notes, *self.notes),
            self.layout.unnamed,
        )

    def _checked(self, name: str, column: Column) -> Column:
        """A column of texts, as dates if they are dates; numbers with markers are refused."""
        counts = np.bincount(column.values[column.values >= 0], minlength=len(column.texts))
        texts = Counter(dict(zip(column.texts, counts.tolist(), strict=True)))
        dates = _as_dates(column)
        if dates is not None:
            return dates
        odd = [text for text in texts if cells.hint(text) == "" and not _is_number(text)]
        if odd:
            code = column.texts.index(odd[0])
            line = int(self.lines[np.flatnonzero(column.values == code)[0]])
            fault = markers(name, f"{self.path}:{line}", texts)
            if fault is not None:
                raise fault
        return column


def _is_number(text: str) -> bool:
    return NumberFormat().number(text) is not None or look(text) is not None


def _as_dates(column: Column) -> Column | None:
    """The column as dates if every text is one. Day or month first: here it does not matter."""
    found = []
    for text in column.texts:
        dates = Dates()
        value = dates.one(text)
        if value is None:
            return None
        found.append(value)
    if not found:
        return None
    try:
        each = date_column(found)
    except OverflowError:
        return None
    values = np.array([*each.values, NO_DATE], dtype=np.int64)[column.values]
    return Column("date", values, unit=each.unit)


def names(path: Path, wanted: Wanted) -> tuple[list[str], list[str]]:
    """The names of a file's columns, and notes. Raises ArgumentError, OSError."""
    layout = find(path, wanted)
    return list(layout.names), list(layout.notes)


def draft(path: Path, wanted: Wanted, plan: Plan, dates: Dates) -> Draft:
    """The wanted columns of a file, read by a plan. dates: those of the order, of all files.

    Raises ArgumentError naming file, line and column for whatever does not fit; OSError.
    """
    layout = find(path, wanted)
    with _rows(path, layout) as source:
        builders = _builders(path, layout, wanted, plan, dates)
        lines = _fill(source, builders)
    if not len(lines):
        raise ArgumentError(f"{path} has a header and no rows: expected one row per time step.")
    return Draft(path, plan, layout, builders, lines, tuple(source.notes))


@dataclass
class _Source:
    """An open file past its names."""

    path: Path
    layout: Layout
    lines: Lines
    reader: Any
    notes: list[str] = field(default_factory=list)


@contextmanager
def _rows(path: Path, layout: Layout) -> Iterator[_Source]:
    with opened(path, layout.encoding) as stream:
        apart = layout.delimiter == " "
        lines = Lines(stream, layout.skip, layout.comment, strip=apart)
        source = _Source(path, layout, lines, csv_reader(lines, layout.delimiter))
        try:
            yield source
        except csv.Error as error:
            raise ArgumentError(
                f"{path}:{lines.begin}: the row that begins here cannot be read as CSV: {error}. "
                "Check its quotes."
            ) from error


def _builders(
    path: Path, layout: Layout, wanted: Wanted, plan: Plan, dates: Dates
) -> dict[str, _Builder | _Text | _Order]:
    made: dict[str, _Builder | _Text | _Order] = {}
    for place, name in enumerate(layout.names):
        if wanted.names is not None and name not in wanted.names:
            continue
        if name == wanted.order:
            made[name] = _Order(path, name, place, wanted, plan, dates)
        elif name in wanted.text:
            made[name] = _Text(place, wanted)
        else:
            made[name] = _Builder(path, name, place, wanted, plan)
    return made


def _fill(source: _Source, builders: dict[str, _Builder | _Text | _Order]) -> NDArray[np.int64]:
    """Gives the builders all rows; the line at which each row begins."""
    lines: list[NDArray[np.int64]] = []
    for rows, starts in _chunks(source):
        by_place = list(zip(*rows, strict=True))
        begins = np.array(starts, dtype=np.int64)
        for builder in builders.values():
            builder.add(by_place[builder.place], begins)
        lines.append(begins)
    return np.concatenate(lines) if lines else np.zeros(0, dtype=np.int64)


def _chunks(source: _Source) -> Iterator[tuple[list[list[str]], list[int]]]:
    """Rows of the right width with the lines at which they begin.

    Empty lines are passed over, and so are rows without any value at the end of the file.
    """
    rows: list[list[str]] = []
    starts: list[int] = []
    held: list[tuple[list[str], int]] = []  # rows without any value, which may be the last ones
    width = len(source.layout.names)
    for row, line in _each(source):
        if len(row) != width:
            row = _fitted(source, row, line)
        if width > 1 and not any(row):
            held.append((row, line))
            continue
        for empty, begin in held:
            rows.append(empty)
            starts.append(begin)
        held.clear()
        rows.append(row)
        starts.append(line)
        if len(rows) >= _CHUNK:
            yield rows, starts
            rows, starts = [], []
    if held:
        source.notes.append(
            f"{source.path}:{held[0][1]}: no values at all from here to the end of the file "
            f"({counted(len(held), 'row')}): left out"
        )
    if rows:
        yield rows, starts


def _each(source: _Source) -> Iterator[tuple[list[str], int]]:
    lines, reader = source.lines, source.reader
    lines.begins()
    for row in reader:
        if row:
            yield row, lines.begin
        lines.begins()


def _fitted(source: _Source, row: list[str], line: int) -> list[str]:
    """A row without empty cells behind the last column. Raises ArgumentError for another width."""
    width = len(source.layout.names)
    delimiter = source.layout.delimiter
    name = _NAMES.get(delimiter, delimiter)
    if len(row) > width and not any(cell.strip() for cell in row[width:]):
        if not source.notes:
            source.notes.append(
                f"{source.path}:{line}: rows end in the delimiter {name!r}; the empty cells behind "
                "the last column are passed over"
            )
        return row[:width]
    text = (
        f"{source.path}:{line}: expected {width} fields, as the header has; got {len(row)}: "
        f"{cells.shown(delimiter.join(row))}."
    )
    if source.layout.comment is None and row[0].lstrip().startswith(("#", "%", "//")):
        sign = row[0].lstrip()[0]
        raise ArgumentError(f"{text} Pass --comment {sign!r} if such lines are comments.")
    if len(row) > width:
        raise ArgumentError(f"{text} Put quotes round a cell that contains the delimiter {name!r}.")
    raise ArgumentError(
        f"{text} Fill up the row, or leave it out: --skip-rows {line}-{line} does so."
    )


class _Text:
    """A column of texts, kept as codes."""

    def __init__(self, place: int, wanted: Wanted) -> None:
        self.place = place
        self.codes = cells.Codes(wanted.missing_values)
        self.parts: list[NDArray[np.int32]] = []

    def add(self, chunk: Sequence[str], lines: NDArray[np.int64]) -> None:
        self.parts.append(self.codes.encode(chunk))

    def column(self) -> Column:
        return Column("text", np.concatenate(self.parts), tuple(self.codes.texts))


class _Builder:
    """A column that finds out whether it holds numbers or texts.

    Texts are kept beside the numbers where the plan says so, and where the first chunk is mostly
    texts, so that the file need not be read again. Numbers in any case if it must hold them.
    """

    def __init__(self, path: Path, name: str, place: int, wanted: Wanted, plan: Plan) -> None:
        self.place, self.form = place, plan.form
        self.strict = name in wanted.number
        self.wanted = wanted
        self.numbers = cells.Numbers(plan.form, wanted.missing_values)
        self.survey = Survey(path, name)
        self.parts: list[NDArray[np.float64]] = []
        self.text = _Text(place, wanted) if name in plan.text else None

    def add(self, chunk: Sequence[str], lines: NDArray[np.int64]) -> None:
        values, wrong = self.numbers.read(chunk)
        self.survey.add(chunk, values, wrong, lines, self.form)
        if not self.parts and self.text is None and self.is_text:
            self.text = _Text(self.place, self.wanted)
        self.parts.append(values)
        if self.text is not None:
            self.text.add(chunk, lines)

    @property
    def is_text(self) -> bool:
        """Whether this is no column of numbers, as far as it is known."""
        return not self.strict and not self.survey.holds_numbers

    def column(self) -> Column:
        if self.is_text:
            assert self.text is not None
            return self.text.column()
        return Column("number", np.concatenate(self.parts))


class _Order:
    """A column to sort by: whole numbers, numbers or dates, without gaps."""

    def __init__(
        self, path: Path, name: str, place: int, wanted: Wanted, plan: Plan, dates: Dates
    ) -> None:
        self.place = place
        self.form = plan.form
        self.survey = Survey(path, name)
        self.places = cells.Places(plan.form, dates)
        self.missing = {text.strip() for text in wanted.missing_values}
        self.fault: tuple[int, str] | None = None

    def add(self, chunk: Sequence[str], lines: NDArray[np.int64]) -> None:
        if self.fault is not None:
            return
        place = self.places.add(chunk)
        self.places.dates.found_in(self.survey.path, chunk, lines.tolist())
        if self.form.decimal == "," and self.places.kind == "number":
            self.survey.add_commas(chunk, lines)
        gone = [i for i, cell in enumerate(chunk) if cell.strip() in self.missing]
        if gone and (place is None or gone[0] < place):
            place = gone[0]
        if place is not None:
            # Told in the end: it may be a number with a decimal comma, as others have it.
            self.fault = int(lines[place]), chunk[place]
            if look(chunk[place].strip()) is not None:
                unread = np.full(1, np.nan)
                self.survey.add([chunk[place]], unread, [0], lines[[place]], self.form)

    def column(self) -> Column:
        if self.fault is not None:
            raise self._unsortable(*self.fault)
        try:
            return self.places.column()
        except OverflowError:
            raise ArgumentError(
                f"{self.survey.path}: the order in column {self.survey.name!r} holds dates to the "
                "nanosecond outside the years 1678 to 2261. Cut them to microseconds."
            ) from None

    def _unsortable(self, line: int, cell: str) -> ArgumentError:
        text = cell.strip()
        missing = not text or text in self.missing
        what = "is missing" if missing else f"is {cells.shown(cell)}"
        kind, given = self.places.kind, self.places.dates.given
        expected = "a date" if kind == "date" else "a number"
        found = look(text) if NumberFormat().number(text) is None else None
        readings = f" ({found.first}, or {found.second})" if found is not None else ""
        forms = "numbers, or dates such as 2024-05-31, 31.05.2024 or 2024-05-31T12:00:00"
        if kind == "date" and given is not None:
            forms = f"dates of the format {given!r}, as --date-format or the net has it"
        remedy = (
            "Correct it, or leave out --order if the rows are in order."
            if missing or kind == "number" or given is not None
            else "Correct it, or pass --date-format, such as '%d.%m.%Y %H:%M', if it is a date."
        )
        return ArgumentError(
            f"{self.survey.path}:{line}: the order in column {self.survey.name!r} must be "
            f"{expected} in every row ({forms}); it {what}{readings}. {remedy}"
        )
