"""Packed files of any origin: what they unpack to has a limit, so that none can fill the memory."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import IO

from ...errors import ArgumentError

__all__ = ["check_unpacked", "is_gzip", "open_gzip"]

# Deflate packs a thousand equal bytes into one. Genomes are packed 3 to 5 times, tables up to some
# tens of times; a file that is neither small nor plausible is refused, and can be unpacked by hand.
LARGEST = 10**9
RATIO = 100


def check_unpacked(path: Path, unpacked: int, packed: int) -> None:
    """Raises ArgumentError if so many bytes should not come out of so many."""
    if unpacked > max(LARGEST, RATIO * packed):
        raise ArgumentError(
            f"{path} has {packed:,} bytes and unpacks to more than {max(LARGEST, RATIO * packed):,}"
            ": is it what it should be? If so, unpack it and name the unpacked file."
        )


def is_gzip(path: Path) -> bool:
    """Whether a file begins as gzip files do. Raises OSError."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def open_gzip(path: Path, encoding: str, newline: str | None = None) -> IO[str]:
    """A gzip file as text; reading raises ArgumentError where it unpacks to too much."""
    return io.TextIOWrapper(_Limited(path), encoding=encoding, newline=newline)


class _Limited(gzip.GzipFile):
    """A gzip file that looks at how much has come out of it whenever more is to come."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._path, self._size = path, path.stat().st_size

    def read1(self, size: int = -1) -> bytes:  # all that io.TextIOWrapper calls
        check_unpacked(self._path, self.tell(), self._size)
        return super().read1(size)
