"""Open reading frames of both strands, and the rule that takes the longest ones for genes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .labels import CODES, complement
from .records import Gene

__all__ = ["Frame", "frames", "longest_orfs"]

# ATG, GTG, TTG and TAA, TAG, TGA as 16 a + 4 b + c with A C G T = 0 1 2 3: translation table 11.
STARTS = (14, 46, 62)
STOPS = (48, 50, 56)


@dataclass(frozen=True, eq=False)
class Frame:
    """An open reading frame, in bases of its own strand as it is read.

    strand. first: of the first codon behind the stop before (or the first whole codon of the
    sequence). stop: behind the stop codon, or behind the last whole codon where the sequence ends
    within. starts: positions of its start codons, rising. closed: whether there is a stop codon.
    """

    strand: int
    first: int
    stop: int
    starts: NDArray[np.int64]
    closed: bool

    def gene(self, start: int, length: int) -> Gene:
        """From one of its starts on, in bases of the plus strand of a sequence."""
        span = (start, self.stop) if self.strand == 1 else (length - self.stop, length - start)
        return Gene((span,), self.strand, stop_known=self.closed)


def frames(letters: NDArray[np.uint8], least: int) -> list[Frame]:
    """Those of at least so many bases, with or without a start codon."""
    found = []
    for strand in (1, -1):
        codes = CODES[letters if strand == 1 else complement(letters)].astype(np.int64)
        if len(codes) < 3:
            continue
        codon = codes[:-2] * 16 + codes[1:-1] * 4 + codes[2:]
        known = (codes[:-2] < 4) & (codes[1:-1] < 4) & (codes[2:] < 4)
        is_stop, is_start = np.isin(codon, STOPS) & known, np.isin(codon, STARTS) & known
        for offset in range(3):
            stops = np.flatnonzero(is_stop[offset::3]) * 3 + offset
            starts = np.flatnonzero(is_start[offset::3]) * 3 + offset
            whole = offset + (len(codes) - offset) // 3 * 3
            begins = np.concatenate([[offset], stops + 3])
            ends = np.concatenate([stops + 3, [whole]])
            for i in np.flatnonzero(ends - begins >= least):
                low, high = np.searchsorted(starts, [begins[i], ends[i]])
                first, stop, closed = int(begins[i]), int(ends[i]), bool(i < len(stops))
                found.append(Frame(strand, first, stop, starts[low:high], closed))
    return found


def longest_orfs(letters: NDArray[np.uint8], least: int = 300) -> list[Gene]:
    """The rule: from the first start codon to the stop, `least` bases or more; shorter ones first,
    so that where two overlap the longer one has the last word.
    """
    made = []
    for frame in frames(letters, least):
        if len(frame.starts) and frame.closed and frame.stop - frame.starts[0] >= least:
            made.append(frame.gene(int(frame.starts[0]), len(letters)))
    return sorted(made, key=lambda gene: gene.span[1] - gene.span[0])
