"""The one way in which files that a user named are written.

Readers of a regular file see the old or the new content, never a part. A character device, a named
pipe and an open file of this process, such as /dev/stdout, are written to directly. Folders, block
devices and sockets are refused, and so is a file that is being read.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ArgumentError
from .files import replace_file, try_folder

__all__ = [
    "check_output",
    "figure_format",
    "same_file",
    "write_bytes",
    "write_figure",
    "write_output",
    "write_text",
]

PathLike = str | os.PathLike[str]

# Links that are followed before a name is taken for a circle of links, as Linux does.
_MOST_LINKS = 40
_OPEN_FILE = re.compile(r"/proc/(self|thread-self|\d+)(/task/\d+)?/fd/\d+|/dev/fd/\d+")
_WRITTEN_THROUGH = (stat.S_ISCHR, stat.S_ISFIFO)
_REFUSED = (
    (stat.S_ISDIR, "it is a folder"),
    (stat.S_ISBLK, "it is a disk"),
    (stat.S_ISSOCK, "it is a socket"),
)


def check_output(path: PathLike, inputs: Iterable[PathLike] = ()) -> bool:
    """Checks before the work whether a file can be written at path, and changes nothing.

    inputs: files that must not be replaced. Returns whether a file there would be replaced.
    Raises ArgumentError with the reason if it cannot be written or is one of the inputs.
    """
    try:
        place = _place(path)
        through = _is_written_through(place)
        for other in inputs:
            if not through and same_file(path, other):
                raise ArgumentError(
                    f"cannot write {path}: it is one of the files to read, and would be replaced. "
                    "Name another file for the output."
                )
        if through:
            if not os.access(place, os.W_OK):
                raise ArgumentError(f"cannot write {path}: permission denied.")
            return False
        if not place.parent.is_dir():
            raise ArgumentError(
                f"cannot write {path}: {Path(path).absolute().parent} is not a folder. Create it "
                "first."
            )
        there = place.exists()
        if there and not os.access(place, os.W_OK):
            raise ArgumentError(f"cannot write {path}: the file there is write-protected.")
        try_folder(place)
    except OSError as error:
        raise ArgumentError(f"cannot write {path}: {error.strerror or error}.") from error
    return there


def write_output(path: PathLike, write: Callable[[Path], None]) -> None:
    """Lets `write` make a file, whose content then is at path, or goes through the device there.

    Raises ArgumentError for a folder, a block device and a socket, and OSError with the name path.
    """
    try:
        place = _place(path)
        if not _is_written_through(place):
            replace_file(place, write)
            return
        with tempfile.TemporaryDirectory(prefix="gradcore-") as folder:
            made = Path(folder) / (place.name or "output")
            write(made)
            with made.open("rb") as source, _opened(place) as device:
                shutil.copyfileobj(source, device)
    except OSError as error:
        # The name of the temporary file would tell the user nothing.
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error


def write_text(path: PathLike, text: str) -> None:
    """Writes text in UTF-8 as write_output does; names of files may be in another encoding."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_bytes(path: PathLike, content: bytes) -> None:
    """Writes bytes as write_output does."""

    def write(made: Path) -> None:
        made.write_bytes(content)

    write_output(path, write)


def write_figure(path: PathLike, figure: Any, *, dpi: int) -> None:
    """Writes a figure of matplotlib as write_output does; the suffix of path gives the format.

    Raises ArgumentError if matplotlib does not know the format.
    """
    kind = figure_format(path)
    write_output(path, lambda made: figure.savefig(made, dpi=dpi, format=kind))


def figure_format(path: PathLike) -> str:
    """The format of a picture by the suffix of its name, png without any; needs matplotlib.

    Raises ArgumentError if matplotlib does not know the format.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    kind = Path(path).suffix[1:].lower() or "png"
    known = FigureCanvasBase.get_supported_filetypes()
    if kind not in known:
        raise ArgumentError(
            f"cannot write {path}: the format {kind!r} is not supported (supported formats: "
            f"{', '.join(sorted(known))})."
        )
    return kind


def same_file(one: PathLike, other: PathLike) -> bool:
    """Whether two names are those of one file, also of one that does not exist yet."""
    first, second = _place(one), _place(other)
    if first == second:
        return True
    try:
        return first.samefile(second)
    except OSError:
        return False


def _place(path: PathLike) -> Path:
    """Where path leads to when links are followed, but those that stand for open files are kept."""
    if "\0" in os.fspath(path):
        raise ArgumentError(f"cannot write {os.fspath(path)!r}: a file's name has no zero bytes.")
    place = Path(path).absolute()
    for _ in range(_MOST_LINKS):
        # The folders on the way may be links as well: /dev/fd is one to /proc/self/fd.
        place = Path(os.path.realpath(place.parent)) / place.name
        if _OPEN_FILE.fullmatch(str(place)) or not place.is_symlink():
            return place
        place = place.parent / place.readlink()
    raise ArgumentError(f"cannot write {path}: its links lead in a circle.")


def _is_written_through(place: Path) -> bool:
    """Whether a place is a device or a pipe; raises ArgumentError for what cannot be an output."""
    if _OPEN_FILE.fullmatch(str(place)):
        return True
    try:
        mode = place.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    for test, what in _REFUSED:
        if test(mode):
            raise ArgumentError(f"cannot write {place}: {what}. Name a file.")
    return any(test(mode) for test in _WRITTEN_THROUGH)


def _opened(place: Path) -> BinaryIO:
    """Opens a device or a pipe; an open file of this process is written from its position on."""
    own = re.fullmatch(rf"/(?:proc/(?:self|{os.getpid()})|dev)/fd/(\d+)", str(place))
    if own is None:
        # Without O_CREAT: a device that is gone by now must not become a file.
        return os.fdopen(os.open(place, os.O_WRONLY), "wb")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return os.fdopen(os.dup(int(own[1])), "wb")
