"""Fingerprints of arrays, by which a resumed run notices other data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._maps import ReadPages
from ._rows import Rows

__all__ = ["SAMPLED", "fingerprint"]

# BLAKE2 reads about 1 GB/s. Memory maps may be far larger than what a disk gives in a second: of
# those beyond WHOLE bytes only BLOCKS blocks of BLOCK bytes are read, evenly spaced from the first
# rows to the last.
WHOLE = 64 * 10**6
BLOCK = 2**16
BLOCKS = 256
# A fingerprint that begins with this word is that of a sample.
SAMPLED = "sample"


def fingerprint(arrays: NDArray[Any] | Iterable[NDArray[Any]]) -> str:
    """A hash of the shapes, dtypes and numbers of one array or several, whatever their layout.

    Only a sample of a large memory map, or of large Rows, is read, and the text says so.
    """
    made = hashlib.blake2b(digest_size=16)
    read = whole = 0
    left = WHOLE
    for array in [arrays] if isinstance(arrays, (np.ndarray, Rows)) else arrays:
        made.update(f"{array.dtype.str} {array.shape};".encode())
        mapped = _is_map(array)
        sampled = mapped and array.nbytes > left
        pages = ReadPages((array,))
        for start, stop in _sample(array) if sampled else _all(array):
            rows = np.ascontiguousarray(array[start:stop])
            made.update(rows.tobytes())
            pages.read(array, start, stop)
            read += rows.nbytes
        pages.give_back()
        whole += array.nbytes
        if mapped and not sampled:
            left -= array.nbytes
    if read < whole:
        return f"{SAMPLED} of {read:,} of {whole:,} bytes, blake2b {made.hexdigest()}"
    return f"blake2b {made.hexdigest()}"


def _is_map(array: NDArray[Any] | Rows) -> bool:
    owner: Any = array
    if isinstance(array, Rows):
        return True
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap):
            return True
        owner = owner.base
    return False


def _rows(array: NDArray[Any]) -> int:
    """The rows of a block; an array without an axis has none."""
    return max(1, BLOCK // max(1, array.nbytes // max(1, len(array))))


def _all(array: NDArray[Any]) -> Iterator[tuple[int, int]]:
    step = 16 * _rows(array)
    for start in range(0, len(array), step):
        yield start, min(start + step, len(array))


def _sample(array: NDArray[Any]) -> Iterator[tuple[int, int]]:
    rows = min(_rows(array), len(array))
    starts = np.linspace(0, len(array) - rows, min(BLOCKS, -(-len(array) // rows)))
    for start in np.unique(starts.astype(np.int64)):
        yield int(start), int(start) + rows
