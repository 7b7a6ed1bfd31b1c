"""CSV files: delimiter, header, rows in chunks, and columns that find out what they hold.

A chunk of rows is converted column by column, so that memory goes with the typed columns (8 bytes a
number, 4 a text) and not with the text of the file.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ....errors import ArgumentError
from ..packed import is_gzip, open_gzip
from . import cells
from .columns import Column, Table

DELIMITERS = (",", ";", "\t", "|")
# Each takes a kilobyte before it holds anything: a file of commas is not to fill the memory.
MOST_COLUMNS = 100_000
_CHUNK = 20_000
_SAMPLE_LINES = 50
_SAMPLE_CHARACTERS = 200_000
_NAMES = {"\t": "tab"}


@dataclass(frozen=True)
class Wanted:
    """What a reader is to bring.

    names: columns, None for all. number, text: columns that are this whatever the cells look like;
    others find out. order: the column to sort by. delimiter: None to find out. header: names of the
    columns of a file without a line that names them.
    """

    names: frozenset[str] | None = None
    number: frozenset[str] = frozenset()
    text: frozenset[str] = frozenset()
    order: str | None = None
    delimiter: str | None = None
    encoding: str = "utf-8-sig"
    header: tuple[str, ...] | None = None


def names(path: Path, wanted: Wanted) -> tuple[list[str], list[str]]:
    """The names of a file's columns, and notes. Raises ArgumentError, OSError."""
    with _opened(path, wanted) as source:
        return source.names, source.notes


def read(path: Path, wanted: Wanted) -> Table:
    """The wanted columns of a file.

    Raises ArgumentError naming file, line and column for whatever does not fit; OSError.
    """
    as_text = set(wanted.text)
    while True:
        with _opened(path, wanted) as source:
            builders = _builders(path, source, wanted, as_text)
            lines = _fill(path, source, builders)
        again = {name for name, builder in builders.items() if builder.turns_out_text()}
        if not again:
            break
        # Numbers at first, mostly text later: read once more, now as text from the first row on.
        as_text |= again
    if not len(lines):
        raise ArgumentError(f"{path} has a header and no rows: expected one row per time step.")
    made = {name: builder.column() for name, builder in builders.items()}
    return Table(made, (str(path),), (0,), lines, tuple(source.notes))


@dataclass
class _Source:
    """An open file past its header."""

    path: Path
    reader: Any
    names: list[str]
    notes: list[str] = field(default_factory=list)
    line: int = 1  # where the row that is being read begins


@contextmanager
def _opened(path: Path, wanted: Wanted) -> Iterator[_Source]:
    """A file with its header read; faults of the file itself become ArgumentErrors."""
    source: _Source | None = None
    try:
        with _text(path, wanted.encoding) as stream:
            delimiter = wanted.delimiter or _delimiter(path, wanted)
            # strict: misplaced quotes are a fault to tell, not something to guess at.
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            source = _Source(path, reader, [])
            source.names, source.notes = _header(path, reader, delimiter, wanted)
            yield source
    except UnicodeDecodeError as error:
        raise ArgumentError(_undecodable(path, wanted.encoding, error)) from error
    except UnicodeError as error:
        raise ArgumentError(f"{path} is not text in {wanted.encoding}: {error}.") from error
    except LookupError as error:
        if "encoding" not in str(error):
            raise
        raise ArgumentError(
            f"--encoding must be one that Python knows, such as utf-8, latin-1 or cp1252; got "
            f"{wanted.encoding!r}."
        ) from error
    except csv.Error as error:
        raise ArgumentError(
            f"{path}:{source.line if source else 1}: the row that begins here cannot be read as "
            f"CSV: {error}. Check its quotes."
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ArgumentError(f"{path} is a damaged or truncated gzip file: {error}.") from error


def _text(path: Path, encoding: str) -> IO[str]:
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        encoding = "utf-8-sig"  # spreadsheets write a byte-order mark
    if is_gzip(path):
        return open_gzip(path, encoding, newline="")
    return path.open(encoding=encoding, newline="")


def _undecodable(path: Path, encoding: str, error: UnicodeDecodeError) -> str:
    shown = encoding.replace("-sig", "").upper()
    byte = error.object[error.start]
    return (
        f"{path} is not text in {shown} (byte 0x{byte:02x}). Save it as UTF-8, or say what it is, "
        "for instance --encoding latin-1, cp1252 or utf-16."
    )


def _delimiter(path: Path, wanted: Wanted) -> str:
    """The delimiter that cuts the first lines into the most columns, as many in each row."""
    with _text(path, wanted.encoding) as stream:
        sample = [line[:_SAMPLE_CHARACTERS] for line in islice(stream, _SAMPLE_LINES)]
    best = (False, 1, DELIMITERS[0])
    for delimiter in DELIMITERS:
        try:
            widths = [len(row) for row in csv.reader(sample, delimiter=delimiter) if row]
        except csv.Error:
            continue
        if widths and widths[0] > 1:
            found = (len(set(widths)) == 1, widths[0], delimiter)
            if found[:2] > best[:2]:
                best = found
    return best[2]


def _header(path: Path, reader: Any, delimiter: str, wanted: Wanted) -> tuple[list[str], list[str]]:
    """Names of the columns, and notes."""
    if wanted.header is not None:
        return list(wanted.header), []
    row = next((row for row in reader if row), None)
    if row is None:
        raise ArgumentError(f"{path} is empty: expected a first line that names the columns.")
    if len(row) > MOST_COLUMNS:
        raise ArgumentError(
            f"{path}:{reader.line_num}: the first line names {len(row):,} columns; a table may "
            f"have {MOST_COLUMNS:,}."
        )
    found = [name.strip() for name in row]
    values, wrong = cells.numbers(found)
    if not wrong and not np.isnan(values).all():
        raise ArgumentError(
            f"{path}:{reader.line_num}: the first line must name the columns; it holds numbers: "
            f"{cells.shown(delimiter.join(row))}. Name them with --columns a,b,c if there is no "
            "such line."
        )
    notes = []
    for place, name in enumerate(found):
        if not name:
            found[place] = f"c{place}"
            notes.append(f"{path}: column {place + 1} has no name; it is called c{place}")
    twice = sorted(name for name, times in Counter(found).items() if times > 1)
    if twice:
        places = [str(place + 1) for place, name in enumerate(found) if name == twice[0]]
        raise ArgumentError(
            f"{path}:{reader.line_num}: two columns have the name {twice[0]!r} (columns "
            f"{' and '.join(places)}). Rename one."
        )
    return found, notes


def _builders(
    path: Path, source: _Source, wanted: Wanted, as_text: set[str]
) -> dict[str, _Builder]:
    made = {}
    for place, name in enumerate(source.names):
        if wanted.names is None or name in wanted.names:
            kind: type[_Builder] = _Builder
            if name == wanted.order:
                kind = _Order
            elif name in as_text:
                kind = _Text
            made[name] = kind(path, name, place, strict=name in wanted.number)
    return made


def _fill(path: Path, source: _Source, builders: dict[str, _Builder]) -> NDArray[np.int64]:
    """Gives the builders all rows; the line at which each row begins."""
    lines: list[NDArray[np.int64]] = []
    width = len(source.names)
    for rows, starts in _chunks(source):
        if not all(len(row) == width for row in rows):
            place = next(i for i, row in enumerate(rows) if len(row) != width)
            raise ArgumentError(_wrong_width(path, starts[place], rows[place], source))
        by_place = list(zip(*rows, strict=True))
        begins = np.array(starts, dtype=np.int64)
        for builder in builders.values():
            builder.add(by_place[builder.place], begins)
        lines.append(begins)
    return np.concatenate(lines) if lines else np.zeros(0, dtype=np.int64)


def _chunks(source: _Source) -> Iterator[tuple[list[list[str]], list[int]]]:
    """Rows with the lines at which they begin; empty lines are passed over."""
    rows: list[list[str]] = []
    starts: list[int] = []
    reader = source.reader
    source.line = reader.line_num + 1
    for row in reader:
        if row:
            rows.append(row)
            starts.append(source.line)
            if len(rows) == _CHUNK:
                yield rows, starts
                rows, starts = [], []
        source.line = reader.line_num + 1
    if rows:
        yield rows, starts


def _wrong_width(path: Path, line: int, row: list[str], source: _Source) -> str:
    width = len(source.names)
    delimiter = source.reader.dialect.delimiter
    text = (
        f"{path}:{line}: expected {width} fields, as the header has; got {len(row)}: "
        f"{cells.shown(delimiter.join(row))}."
    )
    if len(row) > width:
        name = _NAMES.get(delimiter, delimiter)
        return f"{text} Put quotes round a cell that contains the delimiter {name!r}."
    return f"{text} Fill up the row, or leave it out."


class _Builder:
    """A column that finds out whether it holds numbers or text.

    Numbers, unless most of its cells are none; a few that are none are an error, not a category.
    strict: numbers in any case.
    """

    def __init__(self, path: Path, name: str, place: int, strict: bool) -> None:
        self.path, self.name, self.place, self.strict = path, name, place, strict
        self.parts: list[NDArray[Any]] = []
        self.present = self.wrong = 0
        self.first_fault: tuple[int, str] | None = None
        self.text: _Text | None = None

    def add(self, chunk: Sequence[str], lines: NDArray[np.int64]) -> None:
        if self.text is not None:
            self.text.add(chunk, lines)
            return
        values, wrong = cells.numbers(chunk)
        if wrong and self.first_fault is None:
            self.first_fault = (int(lines[wrong[0]]), chunk[wrong[0]])
        self.present += len(chunk) - int(np.isnan(values).sum()) + len(wrong)
        self.wrong += len(wrong)
        if self.strict and wrong:
            raise self.fault()
        if not self.parts and self.mostly_text():
            self.text = _Text(self.path, self.name, self.place, False)
            self.text.add(chunk, lines)
        else:
            self.parts.append(values)

    def mostly_text(self) -> bool:
        return 2 * self.wrong > self.present

    def turns_out_text(self) -> bool:
        """Whether the rows must be read once more, as text."""
        return self.text is None and not self.strict and self.mostly_text()

    def column(self) -> Column:
        if self.text is not None:
            return self.text.column()
        if self.first_fault is not None:
            raise self.fault()
        return Column("number", np.concatenate(self.parts))

    def fault(self) -> ArgumentError:
        assert self.first_fault is not None
        line, cell = self.first_fault
        parts = [
            f"{self.path}:{line}: column {self.name!r} must hold finite numbers; got "
            f"{cells.shown(cell)}.",
            cells.hint(cell),
        ]
        if not parts[1] and not self.strict:
            parts[1] = f"Correct or empty the cell, or add --text {self.name} if these are names."
        elif not parts[1]:
            parts[1] = "Correct or empty the cell."
        return ArgumentError(" ".join(parts))


class _Text(_Builder):
    """A column of texts, kept as codes."""

    def __init__(self, path: Path, name: str, place: int, strict: bool) -> None:
        super().__init__(path, name, place, strict)
        self.codes = cells.Codes()

    def add(self, chunk: Sequence[str], lines: NDArray[np.int64]) -> None:
        self.parts.append(self.codes.encode(chunk))

    def column(self) -> Column:
        return Column("text", np.concatenate(self.parts), tuple(self.codes.texts))


class _Order(_Builder):
    """A column to sort by: whole numbers, numbers or dates, without gaps."""

    kind: str | None = None

    def add(self, chunk: Sequence[str], lines: NDArray[np.int64]) -> None:
        kind, values, place = cells.order(chunk)
        if place is None and self.kind not in (None, kind):
            place = 0
        if place is not None:
            raise self.unsortable(int(lines[place]), chunk[place], self.kind or kind)
        self.kind = kind
        self.parts.append(values)

    def unsortable(self, line: int, cell: str, kind: str) -> ArgumentError:
        what = "is missing" if not cell.strip() else f"is {cells.shown(cell)}"
        expected = "a date" if kind == "date" else "a number"
        return ArgumentError(
            f"{self.path}:{line}: the order in column {self.name!r} must be {expected} in every "
            "row (numbers, or dates such as 2024-05-31 or 2024-05-31T12:00:00); it "
            f"{what}. Correct it, or leave out --order if the rows are in order."
        )

    def column(self) -> Column:
        return Column("date" if self.kind == "date" else "number", np.concatenate(self.parts))
