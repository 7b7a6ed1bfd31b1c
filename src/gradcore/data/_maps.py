"""Returns pages of memory maps to the system once they have been read."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ReadPages"]

# Linux maps not only the page that is touched but also what the file cache holds around it: 64 kB,
# or 2 MB where the cache has huge pages, as on ext4. So reads are counted in regions of 2 MB.
REGION_BITS = 21
# So many regions (16 MB) may stay mapped. To return one and map it anew takes some microseconds.
KEPT_REGIONS = 8


class ReadPages:
    """Returns pages of read-only or shared memory maps to the system after they have been read.

    Pages of a map that have been touched count as the process's memory until the system runs short
    of it, so a pass over a long file would seem to hold the whole file. Returned pages stay in the
    file cache. Private maps (mode "c" of numpy.memmap) are left alone, because what was written to
    them would be lost.
    """

    def __init__(self, arrays: Iterable[NDArray[Any] | None]) -> None:
        self._places: dict[int, tuple[int, int]] = {}
        self._maps: list[mmap.mmap] = []
        self._touched: set[int] = set()
        for array in arrays:
            found = None if array is None else _map_of(array)
            if array is None or found is None:
                continue
            self._places[id(array)] = (array.ctypes.data, array.strides[0])
            if not any(found is each for each in self._maps):
                self._maps.append(found)

    def read(self, array: NDArray[Any], start: int, stop: int) -> None:
        """Notes that rows [start, stop) of an array have been read; returns pages if due."""
        if id(array) not in self._places:
            return
        address, stride = self._places[id(array)]
        first, last = sorted((address + start * stride, address + (stop - 1) * stride))
        self._touched.update(range(first >> REGION_BITS, (last >> REGION_BITS) + 1))
        if len(self._touched) > KEPT_REGIONS:
            self.give_back()

    def give_back(self) -> None:
        """Returns all pages now."""
        for each in self._maps:
            each.madvise(mmap.MADV_DONTNEED)
        self._touched.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        # A map cannot be pickled. The arrays themselves are pickled and copied as arrays in memory,
        # which have no pages to return.
        return ReadPages, ((),)


def _map_of(array: NDArray[Any]) -> mmap.mmap | None:
    """The memory map that an array lies in, if returning its pages loses nothing; else None."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return None
    owner: Any = array
    shared = False
    while isinstance(owner, np.ndarray | memoryview):
        if isinstance(owner, np.memmap):
            shared = owner.mode in ("r+", "w+")
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    if not isinstance(owner, mmap.mmap):
        return None
    with memoryview(owner) as view:
        return owner if shared or view.readonly else None
