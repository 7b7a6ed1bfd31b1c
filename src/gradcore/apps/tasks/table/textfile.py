"""Text of a file: encodings, byte-order marks, and physical lines with their numbers."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ....errors import ArgumentError
from ..packed import is_gzip, open_gzip
from ..piped import content
from .wanted import SkipRows

__all__ = ["Lines", "encoding_of", "opened"]

_SAMPLE = 4_096
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32", "UTF-32"),
    (b"\x00\x00\xfe\xff", "utf-32", "UTF-32"),
    (b"\xff\xfe", "utf-16", "UTF-16"),
    (b"\xfe\xff", "utf-16", "UTF-16"),
)
_SHOWN = 40


class Lines:
    """The lines of a stream that belong to its table, for csv.reader.

    skip: lines to pass over. comment: what lines begin with that are passed over, None for none; a
    line inside a quoted cell is never taken for one, if `begins` is called before each row. number:
    of the line that came last, counted from 1. begin: of the line at which the row began. comments:
    numbers and texts of the first lines that were passed over as comments. strip: whether spaces at
    both ends of a line are no part of it.
    """

    _KEPT = 1_000

    def __init__(
        self, stream: Iterable[str], skip: SkipRows, comment: str | None, *, strip: bool = False
    ) -> None:
        self._stream = iter(stream)
        self._skip, self._comment = skip, comment
        self._fresh, self._strip = True, strip
        self.number = self.begin = 0
        self.comments: list[tuple[int, str]] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while True:
            line = next(self._stream)
            self.number += 1
            if self.number in self._skip:
                continue
            if self._fresh:
                if self._comment is not None and line.lstrip().startswith(self._comment):
                    if len(self.comments) < self._KEPT:
                        self.comments.append((self.number, line.rstrip("\r\n")))
                    continue
                self.begin, self._fresh = self.number, False
            return line.strip() if self._strip else line

    def begins(self) -> None:
        """Says that the next line begins a row."""
        self._fresh = True


def encoding_of(path: Path, given: str | None) -> tuple[str, list[str]]:
    """The encoding to read a file in, and notes; a byte-order mark decides where none is given.

    Raises ArgumentError for text that has zero bytes in it, as UTF-16 without such a mark does.
    """
    start = _start(path)
    for mark, encoding, shown in _MARKS:
        if start.startswith(mark) and (given is None or _is_utf8(given)):
            return encoding, [f"{path} is {shown}, as its byte-order mark says, and is read so"]
    if given is not None and not _is_utf8(given):
        return given, []
    if b"\0" in start:
        even, odd = start[::2].count(0), start[1::2].count(0)
        if max(even, odd) > 0.3 * len(start) / 2:
            name = "utf-16-be" if even > odd else "utf-16-le"
            raise ArgumentError(
                f"{path} looks like UTF-16 without a byte-order mark: every other byte is zero. "
                f"Pass --encoding {name}, or save it as UTF-8."
            )
        raise ArgumentError(
            f"{path} holds zero bytes, which no CSV file has: it is binary data or damaged. Save "
            "the table as CSV and name that file."
        )
    return "utf-8-sig", []  # spreadsheets write a byte-order mark


def _is_utf8(encoding: str) -> bool:
    return encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")


def _start(path: Path) -> bytes:
    try:
        if is_gzip(path):
            with gzip.open(content(path)) as file:
                return file.read(_SAMPLE)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ArgumentError(f"{path} is a damaged or truncated gzip file: {error}.") from error
    with content(path).open("rb") as file:
        return file.read(_SAMPLE)


@contextmanager
def opened(path: Path, encoding: str) -> Iterator[IO[str]]:
    """A file, gzipped or not, as text; faults of the file itself become ArgumentErrors."""
    try:
        stream = (
            open_gzip(path, encoding, newline="")
            if is_gzip(path)
            else content(path).open(encoding=encoding, newline="")
        )
        with stream:
            yield stream
    except UnicodeDecodeError as error:
        raise ArgumentError(_undecodable(path, encoding, error)) from error
    except UnicodeError as error:
        raise ArgumentError(f"{path} is not text in {encoding}: {error}.") from error
    except LookupError as error:
        if "encoding" not in str(error):
            raise
        raise ArgumentError(
            f"--encoding must be one that Python knows, such as utf-8, latin-1 or cp1252; got "
            f"{encoding!r}."
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ArgumentError(f"{path} is a damaged or truncated gzip file: {error}.") from error


def _undecodable(path: Path, encoding: str, error: UnicodeDecodeError) -> str:
    shown = encoding.replace("-sig", "").upper()
    byte = error.object[error.start]
    told = (
        f"is not text in {shown} (byte 0x{byte:02x}). Save it as UTF-8, or say what it is, for "
        "instance --encoding latin-1, cp1252 or utf-16."
    )
    found = _first_undecoded(path, encoding) if _is_utf8(encoding) else None
    if found is None:
        return f"{path} {told}"
    return f"{path}:{found[0]} {told} As cp1252 it reads {found[1]!r} there."


def _first_undecoded(path: Path, encoding: str) -> tuple[int, str] | None:
    """The number of the first line that the encoding cannot read, and the place in cp1252."""
    try:
        whole = content(path)
        with gzip.open(whole) if is_gzip(path) else whole.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode(encoding)
                except UnicodeDecodeError as error:
                    begin = max(0, error.start - _SHOWN // 2)
                    part = line[begin : error.start + _SHOWN // 2]
                    return number, part.decode("cp1252", errors="replace").strip()
    except (OSError, EOFError, zlib.error):
        pass
    return None
