"""Limits the size to which compressed files may unpack, so that no file can fill the memory."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import IO

from ...errors import ArgumentError
from .piped import content

__all__ = ["check_gzip", "check_unpacked", "is_gzip", "open_gzip"]

# Deflate can compress a thousand equal bytes into one. Genomes are compressed by a factor of 3 to
# 5, tables by up to some tens. A file that unpacks to more than LARGEST bytes and by more than a
# factor of RATIO is refused; the user can unpack it.
LARGEST = 10**9
RATIO = 100
# Reading a table takes ten seconds for as many bytes.
LARGEST_TABLE = 10**8
# The packed bytes after which check_gzip may stop, and the unpacked ones that it reads at once.
_LOOKED_AT, _BLOCK = 1 << 20, 1 << 20


def check_unpacked(path: Path, unpacked: int, packed: int, largest: int | None = None) -> None:
    """Raises ArgumentError if `packed` bytes unpack to implausibly many, `unpacked` bytes.

    largest: the size up to which every ratio is plausible, if not LARGEST.
    """
    most = max(LARGEST if largest is None else largest, RATIO * packed)
    if unpacked > most:
        raise ArgumentError(
            f"{path} has {packed:,} bytes and unpacks to more than "
            f"{most:,}, which is implausible. If it is the right file, "
            "unpack it and name the unpacked file."
        )


def check_gzip(path: Path) -> None:
    """Raises ArgumentError for a gzipped table that unpacks to implausibly much.

    Unpacking alone takes a hundredth of the time that reading does. It stops after the beginning if
    that is not dense; open_gzip raises an error if the rest unpacks to too much.
    """
    file = content(path)
    packed = file.stat().st_size
    with file.open("rb") as raw:
        unpacked = 0
        with gzip.GzipFile(fileobj=raw) as stream:
            while part := stream.read(_BLOCK):
                unpacked += len(part)
                check_unpacked(path, unpacked, packed, LARGEST_TABLE)
                if raw.tell() > _LOOKED_AT and unpacked < RATIO * raw.tell():
                    return


def is_gzip(path: Path) -> bool:
    """Whether a file starts with the magic number of gzip; raises OSError."""
    with content(path).open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def open_gzip(path: Path, encoding: str, newline: str | None = None) -> IO[str]:
    """Opens a gzip file as text; reading raises ArgumentError if it unpacks to too much."""
    return io.TextIOWrapper(_Limited(path), encoding=encoding, newline=newline)


class _Limited(gzip.GzipFile):
    """A gzip file that checks the number of bytes read so far at every read."""

    def __init__(self, path: Path) -> None:
        file = content(path)
        super().__init__(file, "rb")
        self._path, self._size = path, file.stat().st_size

    def read1(self, size: int = -1) -> bytes:  # the only method that io.TextIOWrapper calls
        check_unpacked(self._path, self.tell(), self._size)
        return super().read1(size)
