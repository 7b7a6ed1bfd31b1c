"""The output and error streams of the command: missing letters in encodings, closed pipes."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TextIO, cast

from ..errors import ArgumentError
from .text import plain

__all__ = ["flush", "prepare", "table_output", "unwritten"]


def prepare() -> None:
    """Has the streams escape letters that their encoding lacks, instead of failing at them."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def flush() -> str | None:
    """Writes what the streams still hold.

    Returns None if that worked, "" if the reader of a pipe has left, and else what went wrong. What
    is written to such a stream afterwards is dropped, so that Python does not complain at its end.
    """
    wrong = None
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            wrong = wrong or ""
            _drop(stream)
        except OSError as error:
            wrong = unwritten(error)
            _drop(stream)
    return wrong


def unwritten(error: OSError) -> str:
    """What is said of an error of an output stream, which has no name of its own."""
    return f"cannot write the output: {error.strerror or error}"


@contextmanager
def table_output() -> Iterator[IO[str]]:
    """The output as a stream for a table: UTF-8 as in files, but on a terminal without controls.

    Raises ArgumentError if the output is closed or cannot be written.
    """
    try:
        with _table_output() as stream:
            yield stream
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is not None:
            raise
        flush()
        raise ArgumentError(unwritten(error)) from error


@contextmanager
def _table_output() -> Iterator[IO[str]]:
    stream = sys.stdout
    if stream is None:
        raise ArgumentError("the output is closed. Name a file with --out.")
    if stream.isatty():
        yield cast(IO[str], _Terminal(stream))
        return
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is None:
        yield stream
        return
    before = {"encoding": stream.encoding, "errors": stream.errors}
    # Names of files that are not UTF-8 are written as they are.
    reconfigure(encoding="utf-8", errors="surrogateescape")
    yield stream
    stream.flush()
    reconfigure(**before)


class _Terminal(io.TextIOBase):
    """Writes to a terminal without control characters."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(plain(text))


def _drop(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
