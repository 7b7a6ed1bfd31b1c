"""Where the table of a CSV file begins: delimiter, comments, the line of names, lines of units.

Known layouts (TOA5, USGS RDB, `sep=;`, names in a comment, a line of units) are read and told in a
note; whatever else stands before a table is refused with the options that read it.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ....errors import ArgumentError
from . import cells
from .columns import listed
from .dates import looks_like_a_date
from .numberformat import NumberFormat, Style, look
from .textfile import Lines, encoding_of, opened
from .units import is_unit
from .wanted import Format, SkipRows

__all__ = ["Layout", "csv_reader", "find"]

DELIMITERS = (",", ";", "\t", "|")
# Each takes a kilobyte before it holds anything: a file of commas is not to fill the memory.
MOST_COLUMNS = 100_000
_SAMPLE_LINES = 60  # with content, among so many at most
_MOST_LINES = 20_000
_SAMPLE_CHARACTERS = 200_000
_CELLS = 50  # of a row that are looked at
_SEP = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_RDB_WIDTH = re.compile(r"\d+[sdn]", re.IGNORECASE)
_PANDAS_UNNAMED = re.compile(r"Unnamed: \d+(_level_\d+)?(\.\d+)?")
_LOGGERS = {"TOA5": 2, "TOACI1": 0}  # lines behind the names that are no data
_MOST_UNIT_LINES = 3
_COMMENTS = ("//", "%", ";", "!", "*", "--")


@dataclass(frozen=True)
class Layout:
    """How the rows of a file are to be read.

    skip: lines that are no rows. comment: what lines begin with that are passed over. names: of the
    columns. unnamed: those that had no name of their own.
    """

    encoding: str
    delimiter: str
    skip: SkipRows
    comment: str | None
    names: tuple[str, ...]
    unnamed: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Row:
    """A row of the sample: the lines that it begins and ends in, and its cells."""

    begin: int
    end: int
    cells: tuple[str, ...]


@dataclass
class _Sample:
    """The first lines of a file and what was found in them."""

    path: Path
    lines: list[str]
    skip: SkipRows
    comment: str | None
    delimiter: str = ","
    rows: list[_Row] = field(default_factory=list)
    comments: list[tuple[int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def csv_reader(lines: Lines, delimiter: str, strict: bool = True) -> Any:
    """A reader of rows; strict: misplaced quotes are a fault to tell, not something to guess at."""
    apart = delimiter == " "  # any number of spaces is one delimiter
    return csv.reader(lines, delimiter=delimiter, strict=strict, skipinitialspace=apart)


def find(path: Path, wanted: Format) -> Layout:
    """The layout of a CSV file.

    Raises ArgumentError naming file, line and remedy where the names cannot be told; OSError.
    """
    encoding, notes = encoding_of(path, wanted.encoding)
    skip = wanted.skip_rows or SkipRows()
    if wanted.header_row is not None:
        skip = replace(skip, first=max(skip.first, wanted.header_row - 1))
    lines = _first_lines(path, encoding, skip, wanted.comment or "#")
    sample = _Sample(path, lines, skip, wanted.comment, notes=notes)
    _find_delimiter(sample, wanted)
    if not sample.rows and not sample.comments:
        raise _nothing(path, wanted)
    if wanted.header is not None:
        return _without_names(sample, encoding, wanted)
    return _with_names(sample, encoding, wanted)


def _nothing(path: Path, wanted: Format) -> ArgumentError:
    """The error for a file without a line of names."""
    if wanted.header_row is not None:
        return ArgumentError(
            f"{path} has no line {wanted.header_row}, which --header-row names as that of the "
            "names."
        )
    if wanted.skip_rows is not None:
        return ArgumentError(f"--skip-rows {wanted.skip_rows} leaves no line of {path}.")
    return ArgumentError(f"{path} is empty: expected a first line that names the columns.")


def _first_lines(path: Path, encoding: str, skip: SkipRows, comment: str) -> list[str]:
    """The lines up to some dozens that are neither to be skipped nor empty nor comments."""
    found: list[str] = []
    content = 0
    with opened(path, encoding) as stream:
        for line in islice(stream, _MOST_LINES):
            found.append(line[:_SAMPLE_CHARACTERS])
            text = found[-1].strip()
            if text and len(found) not in skip and not text.startswith(comment):
                content += 1
                if content == _SAMPLE_LINES:
                    break
    return found


def _without_names(sample: _Sample, encoding: str, wanted: Format) -> Layout:
    assert wanted.header is not None
    skip = sample.skip
    if wanted.header_row is not None:  # a line of names that --columns replaces
        skip = replace(skip, first=max(skip.first, wanted.header_row))
    return Layout(
        encoding, sample.delimiter, skip, sample.comment, wanted.header, notes=tuple(sample.notes)
    )


def _with_names(sample: _Sample, encoding: str, wanted: Format) -> Layout:
    path = sample.path
    line = wanted.header_row or _line_of_names(sample)
    marked = any(number == line for number, _ in sample.comments)
    with opened(path, encoding) as stream:
        skip = replace(sample.skip, first=max(sample.skip.first, line - 1))
        lines = Lines(stream, skip, None, strip=sample.delimiter == " ")
        reader = csv_reader(lines, sample.delimiter)
        try:
            row = next((row for row in reader if row), None)
        except csv.Error as error:
            raise ArgumentError(
                f"{path}:{lines.begin}: the row that begins here cannot be read as CSV: {error}. "
                "Check its quotes."
            ) from error
    if row is None:
        raise _nothing(path, wanted)
    if marked and sample.comment:
        row = _uncommented(sample, row)
    end = lines.number
    names, unnamed, notes = _names(path, lines.begin, row, sample.delimiter)
    behind = [other for other in sample.rows if other.begin > end]
    units, told = _lines_of_units(sample, names, behind)
    skip = replace(sample.skip, first=end, lines=(*sample.skip.lines, *units))
    return Layout(
        encoding,
        sample.delimiter,
        skip,
        sample.comment,
        names,
        unnamed,
        (*sample.notes, *told, *notes),
    )


# ---- Delimiter and comments --------------------------------------------------------------------


def _find_delimiter(sample: _Sample, wanted: Format) -> None:
    """Takes a line `sep=;`, finds comments and the delimiter, and cuts the sample into rows."""
    first = next((n for n, line in enumerate(sample.lines, 1) if line.strip()), None)
    delimiter = wanted.delimiter
    if first is not None:
        named = _SEP.fullmatch(sample.lines[first - 1].strip(" \r\n"))
        if named is not None:
            sample.skip = replace(sample.skip, first=max(first, sample.skip.first))
            delimiter = delimiter or named[1]
            sample.notes.append(f"{sample.path}:{first}: names the delimiter {named[1]!r}")
    if sample.comment is None:
        content = (
            line for n, line in enumerate(sample.lines, 1) if n not in sample.skip and line.strip()
        )
        if next(content, "").lstrip().startswith("#"):
            sample.comment = "#"
    sample.delimiter = delimiter or _best_delimiter(sample)
    sample.rows, sample.comments = _cut(sample, sample.delimiter)
    if sample.comment is not None and wanted.comment is None and sample.comments:
        sample.notes.append(
            f"{sample.path}:{sample.comments[0][0]}: lines that begin with # are taken for "
            "comments and left out"
        )


def _cut(sample: _Sample, delimiter: str) -> tuple[list[_Row], list[tuple[int, str]]]:
    """Rows of the sample by a delimiter, up to the first that is no CSV; numbered comments."""
    lines = Lines(sample.lines, sample.skip, sample.comment, strip=delimiter == " ")
    reader = csv_reader(lines, delimiter, strict=False)
    found = []
    try:
        lines.begins()
        for row in reader:
            if row:
                found.append(_Row(lines.begin, lines.number, tuple(row)))
            lines.begins()
    except csv.Error:
        pass
    return found, lines.comments


def _best_delimiter(sample: _Sample) -> str:
    """The one that cuts most rows alike; among those, the one that leaves the most numbers."""
    best: tuple[tuple[float, float, int], str] = ((0.0, 0.0, 0), DELIMITERS[0])
    for delimiter in DELIMITERS:
        score = _score(_cut(sample, delimiter)[0], _is_number)
        if score is not None and score > best[0]:
            best = (score, delimiter)
    # Spaces only where they leave the most numbers and little else: texts have spaces, too.
    score = _score(_cut(sample, " ")[0], _is_value)
    if score is not None and score[0] >= 0.9 and score[1] >= max(0.5, best[0][1] + 0.1):
        return " "
    return best[1]


def _score(rows: list[_Row], is_number: Callable[[str], bool]) -> tuple[float, float, int] | None:
    """How alike the rows are, the share of numbers in them, and their width; None for one cell."""
    if not rows:
        return None
    width, count = Counter(len(row.cells) for row in rows).most_common(1)[0]
    if width < 2:
        return None
    looked = [cell for row in rows if len(row.cells) == width for cell in row.cells[:_CELLS]]
    share = sum(map(is_number, looked)) / len(looked)
    return round(count / len(rows), 1), round(share, 1), width


_PLAIN = cells.Numbers(NumberFormat())


def _is_plain(cell: str) -> bool:
    value = _PLAIN.one(cell)
    return value is not None and value == value


def _is_number(cell: str) -> bool:
    return _is_plain(cell) or look(cell.strip()) is not None


def _is_value(cell: str) -> bool:
    """Whether a cell is no name: "3.5" is none, "1st" may be one."""
    found = look(cell.strip())
    apart = found is not None and found.style is not Style.OTHER
    return _is_plain(cell) or apart or looks_like_a_date(cell.strip())


def _is_data(cell: str) -> bool:
    """Whether a cell cannot be a name or a unit."""
    text = cell.strip()
    return _is_number(text) or looks_like_a_date(text)


# ---- The line of names -------------------------------------------------------------------------


def _line_of_names(sample: _Sample) -> int:
    """The line at which the row of names begins. Raises ArgumentError where it cannot be told."""
    if not sample.rows:
        return _names_among_comments(sample)
    first = sample.rows[0]
    logger = first.cells[0].strip()
    if logger in _LOGGERS and len(sample.rows) > 1:
        names = sample.rows[1]
        more = _LOGGERS[logger]
        behind = (
            f", lines {names.end + 1} to {names.end + more} hold units and kinds" if more else ""
        )
        sample.notes.append(
            f"{sample.path}: {logger} of a Campbell logger: line {names.begin} has the names"
            f"{behind}; what stands in line {first.begin} is left out"
        )
        lines = tuple(row.begin for row in sample.rows[2 : 2 + more])
        sample.skip = replace(sample.skip, lines=(*sample.skip.lines, *lines))
        return names.begin
    if sample.comments and (in_comment := _names_in_comment(sample)) is not None:
        return in_comment
    _check_preamble(sample)
    return first.begin


def _names_among_comments(sample: _Sample) -> int:
    """The names of a file that has comments alone: there are no rows, which is told later."""
    return sample.comments[-1][0]


def _names_in_comment(sample: _Sample) -> int | None:
    """The line of the last comment before the rows, if it has the names; None if a row has them."""
    first = sample.rows[0]
    before = [(number, text) for number, text in sample.comments if number < first.begin]
    if not before:
        return None
    number, text = before[-1]
    cut: list[str] = next(
        iter(csv_reader(Lines([text], SkipRows(), None), sample.delimiter, False)), []
    )
    names = _uncommented(sample, cut)
    if len(names) != len(first.cells) or any(map(_is_data, names)):
        return None
    if any(map(_is_data, first.cells)):
        if len(names) > 1 or len(before) == 1:
            sample.notes.append(f"{sample.path}:{number}: the last comment has the names")
            return number
        return None
    below = sample.rows[1:]
    numbers = any(
        all(_is_data(row.cells[place]) for row in below if len(row.cells) > place)
        for place in range(min(len(first.cells), _CELLS))
    )
    if (below and numbers) or len(names) == 1:
        return None
    raise ArgumentError(
        f"{sample.path}: the names may be in line {number}, a comment ({cells.shown(text)}), or in "
        f"line {first.begin} ({cells.shown(sample.delimiter.join(first.cells))}). Pass "
        f"--header-row {number} or --header-row {first.begin}."
    )


def _uncommented(sample: _Sample, row: Sequence[str]) -> list[str]:
    """A row of names without the sign of comments before the first one."""
    assert sample.comment is not None
    text = row[0].lstrip() if row else ""
    while text.startswith(sample.comment):
        text = text[len(sample.comment) :]
    rest = list(row[1:])
    return [text.strip(), *rest] if text.strip() or sample.delimiter != " " else rest


def _check_preamble(sample: _Sample) -> None:
    """Raises ArgumentError if what stands first is not cut as the rows below it are."""
    rows, path = sample.rows, sample.path
    widths = [len(row.cells) for row in rows]
    sign = next((s for s in _COMMENTS if rows[0].cells[0].lstrip().startswith(s)), None)
    width, count = Counter(widths[1:]).most_common(1)[0] if rows[1:] else (0, 0)
    if width < 2 or widths[0] >= width or count < (2 if widths[0] == 1 else 3):
        return
    begin = next(
        (k for k in range(len(rows)) if widths[k] == width and _steady(widths[k:], width)), None
    )
    if not begin:
        return
    table, text = rows[begin], cells.shown(sample.delimiter.join(rows[0].cells))
    before = (
        f"{path}:{rows[0].begin}: the file begins with {text}, and rows of {width} fields begin"
    )
    remedy = f" Or pass --comment {sign!r} if such lines are comments." if sign else ""
    if not any(map(_is_data, table.cells)):
        raise ArgumentError(
            f"{before} in line {table.begin} with "
            f"{cells.shown(sample.delimiter.join(table.cells))}. If that line names the columns, "
            f"pass --header-row {table.begin}.{remedy}"
        )
    if begin == 1 and widths[0] == width - 1:
        if all(not row.cells[-1].strip() for row in rows[1:] if len(row.cells) == width):
            return  # a delimiter at the end of each row
        if width == 2 and sample.delimiter == ",":
            text = cells.shown(",".join(table.cells))
            raise ArgumentError(
                f"{path}:{rows[0].begin}: the line of names has one field and the rows have two, "
                f"such as {text}. If these are decimal commas, pass --delimiter ';'; if the first "
                f"field numbers the rows, pass --skip-rows {rows[0].end} --columns row,"
                f"{rows[0].cells[0].strip()}."
            )
        names = ",".join(name.strip() for name in rows[0].cells)
        raise ArgumentError(
            f"{path}:{rows[0].begin}: the line of names has {widths[0]} fields and the rows have "
            f"{width}: row names as R writes them? Pass --skip-rows {rows[0].end} --columns "
            f"row,{names} to name them all."
        )
    raise ArgumentError(
        f"{before} in line {table.begin}, which holds values. Pass --skip-rows {table.begin - 1} "
        f"--columns a,b,... to name them, or --header-row N if line N has the names.{remedy}"
    )


def _steady(widths: list[int], width: int) -> bool:
    return widths.count(width) >= 0.8 * len(widths)


def _names(
    path: Path, line: int, row: list[str], delimiter: str
) -> tuple[tuple[str, ...], frozenset[str], list[str]]:
    """Names of the columns, those that had none, and notes."""
    if len(row) > MOST_COLUMNS:
        raise ArgumentError(
            f"{path}:{line}: the first line names {len(row):,} columns; a table may have "
            f"{MOST_COLUMNS:,}."
        )
    found = [name.strip() for name in row]
    if all(not name or _is_value(name) for name in found) and any(found):
        raise ArgumentError(
            f"{path}:{line}: the first line must name the columns; it holds numbers: "
            f"{cells.shown(delimiter.join(row))}. Name them with --columns a,b,c if there is no "
            "such line, or its line with --header-row N."
        )
    notes = []
    taken, without = set(found), []
    unnamed = {name for name in found if _PANDAS_UNNAMED.fullmatch(name)}
    for place, name in enumerate(found):
        if not name:
            called = f"c{place}"
            while called in taken:
                called += "_"
            found[place] = called
            without.append((place + 1, called))
    if without:
        numbers = listed(str(number) for number, _ in without)
        called = listed(name for _, name in without)
        what = "column {} has no name; it is called {}"
        if len(without) > 1:
            what = "columns {} have no names; they are called {}"
        notes.append(f"{path}: {what.format(numbers, called)}")
        unnamed |= {name for _, name in without}
    twice = sorted(name for name, times in Counter(found).items() if times > 1)
    if twice:
        places = [str(place + 1) for place, name in enumerate(found) if name == twice[0]]
        raise ArgumentError(
            f"{path}:{line}: two columns have the name {twice[0]!r} (columns "
            f"{' and '.join(places)}). Rename one."
        )
    return tuple(found), frozenset(unnamed), notes


# ---- Lines behind the names that are no data ---------------------------------------------------


def _lines_of_units(
    sample: _Sample, names: Sequence[str], behind: list[_Row]
) -> tuple[list[int], list[str]]:
    """Lines behind the names that hold field widths or units, and notes."""
    behind = [row for row in behind if row.begin not in sample.skip.lines]
    if behind and all(_RDB_WIDTH.fullmatch(cell.strip()) for cell in behind[0].cells):
        line = behind[0].begin
        return [line], [
            f"{sample.path}:{line}: holds the widths of the fields, as USGS RDB files do: left out"
        ]
    for count in range(min(_MOST_UNIT_LINES, len(behind) - 2), 0, -1):
        above, below = behind[:count], behind[count:]
        kinds = [_kind_below(below, place) for place in range(min(len(names), _CELLS))]
        if all(_holds_units(row, kinds, len(names)) for row in above):
            return [row.begin for row in above], [
                f"{sample.path}:{row.begin}: taken for a line of units and left out ({text})"
                for row, text in (
                    (row, cells.shown(sample.delimiter.join(row.cells))) for row in above
                )
            ]
    return [], []


def _kind_below(rows: list[_Row], place: int) -> str:
    """What the cells of a column are: "number", "date", "text" or "none"."""
    found = [row.cells[place].strip() for row in rows if len(row.cells) > place]
    found = [text for text in found if text.lower() not in cells.MISSING_NUMBERS]
    if not found:
        return "none"
    if all(map(looks_like_a_date, found)):
        return "date"
    return "number" if all(map(_is_number, found)) else "text"


def _holds_units(row: _Row, kinds: list[str], width: int) -> bool:
    """Whether no cell is a value where the rows below have values, and some are units."""
    if len(row.cells) != width:
        return False
    told = units = 0
    for cell, kind in zip(row.cells, kinds, strict=False):
        text = cell.strip()
        if _is_plain(text) or (_is_data(text) and not is_unit(text)):
            return False
        if kind == "number" and text:
            if text.lower() in cells.MISSING_NUMBERS:
                return False
            told += 1
            units += is_unit(text)
        elif kind == "text" and text and not is_unit(text):
            return False
    return units > 0 or (told > 1 and told >= 0.5 * kinds.count("number"))
