"""What a reader of tables is told: how the files are written, and which columns it is to bring."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from typing import Any

from ....errors import ArgumentError

__all__ = ["Format", "SkipRows", "Wanted"]


@dataclass(frozen=True)
class SkipRows:
    """Lines of a file that are no part of the table.

    first: so many lines at the start. lines: further lines by their number, counted from 1.
    """

    first: int = 0
    lines: tuple[int, ...] = ()

    def __contains__(self, line: int) -> bool:
        return line <= self.first or line in self.lines

    def __str__(self) -> str:
        return str(self.first) if self.first else ",".join(map(str, self.lines))

    @classmethod
    def parse(cls, text: str) -> SkipRows:
        """ "4" are the first four lines; "3,4" and "3-4" are the lines of these numbers.

        Raises ArgumentError for anything else.
        """
        parts = [part.strip() for part in text.split(",")]
        if len(parts) == 1 and parts[0].isdecimal():
            return cls(first=int(parts[0]))
        lines: list[int] = []
        for part in parts:
            begin, dash, end = (piece.strip() for piece in part.partition("-"))
            last = end if dash else begin
            if not (begin.isdecimal() and last.isdecimal() and 0 < int(begin) <= int(last)):
                raise ArgumentError(
                    "--skip-rows must be a number of lines at the start, such as 4, or the numbers "
                    f"of lines, such as 3,4 or 3-4; got {text!r}."
                )
            if int(last) - int(begin) > 10_000:
                raise ArgumentError(f"--skip-rows {text} names more than 10,000 lines.")
            lines += range(int(begin), int(last) + 1)
        return cls(lines=tuple(lines))


@dataclass(frozen=True)
class Format:
    """How files are written. None (or no entry) means that the reader finds out.

    delimiter, encoding: of a CSV file. header: names of the columns of a file that has no line of
    names. decimal: "." or ",", the sign before decimals; the other sign, spaces and apostrophes may
    then separate thousands. missing_values: texts that stand for a missing value, beside the usual
    ones. skip_rows: lines that are no part of the table. header_row: the line, counted from 1, that
    names the columns. comment: what lines begin with that are to be passed over. date_format: of an
    order of dates: a format of strptime, "day-first" or "month-first".
    """

    delimiter: str | None = None
    encoding: str | None = None
    header: tuple[str, ...] | None = None
    decimal: str | None = None
    missing_values: tuple[str, ...] = ()
    skip_rows: SkipRows | None = None
    header_row: int | None = None
    comment: str | None = None
    date_format: str | None = None

    def __post_init__(self) -> None:
        if self.decimal not in (None, ".", ","):
            raise ArgumentError(f"--decimal must be a point or a comma; got {self.decimal!r}.")
        if self.header_row is not None and self.header_row < 1:
            raise ArgumentError(f"--header-row counts lines from 1; got {self.header_row}.")
        if self.comment is not None and not self.comment.strip():
            raise ArgumentError("--comment must be a sign, such as # or %; got none.")
        if (
            self.header_row is not None
            and self.skip_rows is not None
            and self.header_row in self.skip_rows
        ):
            raise ArgumentError(
                f"--skip-rows leaves out line {self.header_row}, which --header-row names as that "
                "of the names. Lines before the names are left out anyway; name only those behind "
                f"them, such as --skip-rows {self.header_row + 1}-{self.header_row + 2}."
            )

    def options(self) -> str:
        """The entries as options of the command line; "" for none."""
        found = []
        for name in ("delimiter", "encoding", "decimal", "header_row", "comment", "date_format"):
            value = getattr(self, name)
            if value is not None:
                found.append(f"--{name.replace('_', '-')} {_quoted(str(value))}")
        if self.header is not None:
            found.append(f"--columns {_quoted(','.join(self.header))}")
        if self.skip_rows is not None:
            found.append(f"--skip-rows {self.skip_rows}")
        found += [f"--missing-value {_quoted(text)}" for text in self.missing_values]
        return " ".join(found)

    def as_json(self) -> dict[str, Any]:
        """The format as JSON values."""
        made = {field.name: getattr(self, field.name) for field in fields(Format)}
        if self.skip_rows is not None:
            made["skip_rows"] = {
                "first": self.skip_rows.first,
                "lines": list(self.skip_rows.lines),
            }
        for name in ("header", "missing_values"):
            made[name] = None if made[name] is None else list(made[name])
        return made


def format_from_json(value: object) -> Format:
    """The format that as_json told. Raises TypeError, ValueError or ArgumentError if it is none."""
    if not isinstance(value, dict):
        raise TypeError("the format of files is no object")
    strange = set(value) - {field.name for field in fields(Format)}
    if strange:
        raise ValueError(f"the format of files has {', '.join(sorted(map(str, strange)))}")
    made = dict(value)
    for name in ("delimiter", "encoding", "decimal", "comment", "date_format"):
        if not isinstance(made.get(name), (str, type(None))):
            raise TypeError(f"{name} is no text")
    for name in ("header", "missing_values"):
        texts = made.get(name)
        if texts is None:
            texts = None if name == "header" else []
        elif not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"{name} is no list of texts")
        made[name] = None if texts is None else tuple(texts)
    if made.get("header_row") is not None:
        made["header_row"] = _whole("header_row", made["header_row"])
    if made.get("skip_rows") is not None:
        rows = made["skip_rows"]
        lines = tuple(_whole("skip_rows", line) for line in rows["lines"])
        made["skip_rows"] = SkipRows(_whole("skip_rows", rows["first"]), lines)
    return Format(**made)


def _quoted(text: str) -> str:
    """A value as a shell takes it."""
    return {"\t": "tab", " ": "space"}.get(text) or shlex.quote(text)


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is no whole number")
    return value


@dataclass(frozen=True)
class Wanted(Format):
    """A format, and what a reader is to bring.

    names: columns, None for all. number, text: columns that are this whatever the cells look like;
    others find out. order: the column to sort by.
    """

    names: frozenset[str] | None = None
    number: frozenset[str] = frozenset()
    text: frozenset[str] = frozenset()
    order: str | None = None

    @property
    def format(self) -> Format:
        """The format alone."""
        return Format(**{field.name: getattr(self, field.name) for field in fields(Format)})

    def over(self, other: Format) -> Wanted:
        """This with the entries of another format wherever this has none.

        Values that stand for missing ones are those of both.
        """
        filled = {
            field.name: getattr(self, field.name) or getattr(other, field.name)
            for field in fields(Format)
        }
        both = dict.fromkeys((*other.missing_values, *self.missing_values))
        filled["missing_values"] = tuple(both)
        own = {
            field.name: getattr(self, field.name)
            for field in fields(Wanted)
            if field.name not in filled
        }
        return Wanted(**filled, **own)
