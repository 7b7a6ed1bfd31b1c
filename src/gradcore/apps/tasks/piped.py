"""Inputs that can be read only once, such as pipes: their content is kept for as long as needed.

Readers look at the first bytes of a file, and some read it several times; what was read from a pipe
does not come again.
"""

from __future__ import annotations

import os
import select
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from io import BufferedReader
from pathlib import Path

from ...errors import ArgumentError

__all__ = ["content", "kept"]

# The most bytes that are taken from a pipe: an endless one must not fill the disk.
LARGEST = 4 * 10**9
_CHUNK = 1 << 20
# How long a writer of a named pipe may take to open it.
WRITER_SECONDS = 2


class _Copies:
    """The copies of pipes, by their paths, in a folder that is made for the first one."""

    def __init__(self) -> None:
        self._made: dict[Path, Path] = {}
        self._folder: Path | None = None

    def of(self, path: Path, most: int) -> Path:
        if path not in self._made:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="gradcore-"))
            copy = self._folder / str(len(self._made))
            _copy(path, copy, most)
            self._made[path] = copy
        return self._made[path]

    def remove(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


_copies: ContextVar[_Copies | None] = ContextVar("copies", default=None)


@contextmanager
def kept() -> Iterator[None]:
    """A context in which pipes are read once, however often content() is asked; it may be nested.

    As a decorator it is such a context around each call of a function.
    """
    if _copies.get() is not None:
        yield
        return
    made = _Copies()
    token = _copies.set(made)
    try:
        yield
    finally:
        _copies.reset(token)
        made.remove()


def content(path: Path, most: int | None = None) -> Path:
    """A regular file with the content of path: path itself, or a copy of what a pipe gives.

    most: the most bytes to take from a pipe, if not LARGEST.

    Raises ArgumentError for a device other than a terminal, and OSError.
    """
    mode = path.stat().st_mode
    if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and not _is_terminal(path)):
        raise ArgumentError(f"{path} is a device and not a file. Name a file.")
    copies = _copies.get()
    if copies is None or not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        return path
    return copies.of(path, LARGEST if most is None else most)


def _is_terminal(path: Path) -> bool:
    with path.open("rb", buffering=0) as file:
        return file.isatty()


def _copy(path: Path, copy: Path, most: int) -> None:
    taken = 0
    with _opened(path) as source, copy.open("xb") as target:
        while part := source.read1(_CHUNK):
            taken += len(part)
            if taken > most:
                raise ArgumentError(
                    f"{path} is a pipe that gave more than {most:,} bytes. If that is right, "
                    "write them to a file and name that."
                )
            target.write(part)


def _opened(path: Path) -> BufferedReader:
    """Opens a pipe for reading; raises ArgumentError if nobody begins to write to it."""
    if not hasattr(select, "poll"):  # Windows has no named pipes in its folders
        return path.open("rb")
    # Opening waits for a writer for as long as it takes, unless it is told not to wait.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        if not waiting.poll(WRITER_SECONDS * 1_000) and not _is_written(handle):
            raise ArgumentError(f"{path} is a pipe that nothing is written to. Name a file.")
        os.set_blocking(handle, True)
    except BaseException:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def _is_written(handle: int) -> bool:
    """Whether another process has opened a pipe for writing, which is empty so far."""
    try:
        os.read(handle, 1)  # nothing, as poll() has just found; without a writer it is the end
    except BlockingIOError:
        return True
    return False
