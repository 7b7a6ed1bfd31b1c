"""Open reading frames of both strands, and the rule that takes the longest ones for genes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from .codes import BACTERIAL, GeneticCode
from .genome import Gene
from .labels import complement

__all__ = ["Frame", "frames", "longest_orfs"]

# The bases that a letter may stand for, as a sum of A = 1, C = 2, G = 4 and T = 8; N for the rest.
MAY_BE = np.full(256, 15, np.uint16)
for _letter, _bases in zip(
    b"ACGTURYSWKMBDHV", (1, 2, 4, 8, 8, 5, 10, 6, 9, 12, 3, 14, 13, 11, 7), strict=True
):
    MAY_BE[_letter] = MAY_BE[_letter + 32] = _bases
# What a codon is to a frame.
PLAIN, STOP, UNKNOWN = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Frame:
    """An open reading frame, in bases of its own strand as it is read.

    strand. first: start of the first codon after the previous stop, or of the first whole codon
    after unknown bases or the beginning of the sequence. stop: end of the stop codon, or of the
    last whole codon before unknown bases or the end of the sequence. starts: positions of its start
    codons, rising. closed: whether there is a stop codon. open: whether there is none before
    `first`. On a circle `stop` may be up to twice its length.
    """

    strand: int
    first: int
    stop: int
    starts: NDArray[np.int64]
    closed: bool
    open: bool

    def gene(self, start: int, length: int) -> Gene:
        """Returns the gene that begins at `start`, in bases of the plus strand of a sequence."""
        turns = length if start >= length else 0
        a, b = start - turns, self.stop - turns
        parts = [(a, b)] if b <= length else [(a, length), (0, b - length)]
        if self.strand == -1:
            parts = [(length - b, length - a) for a, b in parts]
        known = not self.open or start != self.first or start in self.starts
        return Gene(tuple(parts), self.strand, start_known=known, stop_known=self.closed)


def frames(
    letters: NDArray[np.uint8],
    least: int,
    *,
    code: GeneticCode = BACTERIAL,
    circular: bool = False,
) -> list[Frame]:
    """Finds the frames of at least `least` bases, with or without a start codon.

    Unknown bases end a frame: a codon of which two bases are N. One alone does not, though it may
    hide a stop: in the genome of lambda the codon NAA at base 20,661 lies within a gene. circular:
    frames continue across the end of the sequence, at most once around.
    """
    length = len(letters)
    if length < 3:
        return []
    found: list[Frame] = []
    kinds, starts = _codons(code)
    for strand in (1, -1):
        own = letters if strand == 1 else complement(letters)
        may_be = MAY_BE[np.concatenate([own, own]) if circular else own]
        codon = may_be[:-2] * 256 + may_be[1:-1] * 16 + may_be[2:]
        vague = (may_be & (may_be - 1)) != 0
        vague_codon = vague[:-2] | vague[1:-1] | vague[2:]
        for offset in range(3):
            marks = np.flatnonzero(kinds[codon[offset::3]]) * 3 + offset
            at = np.flatnonzero(starts[codon[offset::3]]) * 3 + offset
            whole = offset + (len(own) * (2 if circular else 1) - offset) // 3 * 3
            stops = kinds[codon[marks]] == STOP
            begins = np.concatenate([[offset], marks + 3])
            ends = np.concatenate([np.where(stops, marks + 3, marks), [whole]])
            closed = np.concatenate([stops, [False]])
            is_open = np.concatenate([[True], ~stops])
            if circular:
                is_open[0] = False
                begins = np.maximum(begins, ends - length // 3 * 3)
                ends[(ends <= length) | (ends > 2 * length)] = 0
                ends[-1] = 0
            for i in np.flatnonzero(ends - begins >= least):
                first, stop = int(begins[i]), int(ends[i])
                # The codon beside unknown bases may hold the first or the last of them.
                first += 3 * bool(is_open[i] and vague_codon[first])
                stop -= 3 * bool(not closed[i] and vague_codon[stop - 3])
                low, high = np.searchsorted(at, [first, stop])
                if stop - first >= least:
                    found.append(
                        Frame(strand, first, stop, at[low:high], bool(closed[i]), bool(is_open[i]))
                    )
    return found


@lru_cache(maxsize=8)
def _codons(code: GeneticCode) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Returns two tables over all codons of letters, numbered by what these may stand for: what a
    codon is to a frame, and whether it is a start whatever it stands for.
    """
    kinds, starts = np.zeros(4096, np.uint8), np.zeros(4096, bool)
    for masks in product(range(1, 16), repeat=3):
        number = masks[0] * 256 + masks[1] * 16 + masks[2]
        meant = list(_meant(masks))
        stops = sum(codon in code.stops for codon in meant)
        if stops == len(meant):
            kinds[number] = STOP
        elif sum(mask == 15 for mask in masks) >= 2:
            kinds[number] = UNKNOWN
        starts[number] = all(codon in code.starts for codon in meant)
    return kinds, starts


def _meant(masks: tuple[int, ...]) -> Iterator[int]:
    """The codons, as 16 a + 4 b + c, that three letters may stand for."""
    bases = [[base for base in range(4) if mask >> base & 1] for mask in masks]
    return (16 * a + 4 * b + c for a, b, c in product(*bases))


def longest_orfs(
    letters: NDArray[np.uint8],
    least: int = 300,
    *,
    code: GeneticCode = BACTERIAL,
    circular: bool = False,
) -> list[Gene]:
    """Returns the genes of the ORF rule: from the first start codon of a frame to its stop, if
    these are `least` bases or more.

    Shorter ones come first, so that the longer of two overlapping ones decides.
    """
    made = []
    for frame in frames(letters, least, code=code, circular=circular):
        if len(frame.starts) and frame.closed and frame.stop - frame.starts[0] >= least:
            made.append(frame.gene(int(frame.starts[0]), len(letters)))
    return sorted(made, key=lambda gene: gene.bases)
