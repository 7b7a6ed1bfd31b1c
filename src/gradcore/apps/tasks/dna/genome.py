"""What a genome file holds: records, each a sequence of bases with its genes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Gene", "Record"]


@dataclass(frozen=True)
class Gene:
    """A coding sequence.

    parts: (start, stop) in bases from 0, stop excluded, in the order in which they are read: of
    strand -1 the last part on the plus strand comes first. A gene over the origin of a circular
    record has a part on either side of it. phase: bases of the first part before its first whole
    codon. pseudo: the gene does not code, or its frame is not known, so that its bases are left out
    of training and scores. start_known, stop_known: whether the ends are exact. phage: the gene is
    marked as one of a prophage. code: number of the genetic code (/transl_table), None if the file
    does not give it.
    """

    parts: tuple[tuple[int, int], ...]
    strand: int
    phase: int = 0
    pseudo: bool = False
    start_known: bool = True
    stop_known: bool = True
    phage: bool = False
    code: int | None = field(default=None, compare=False)

    @property
    def start(self) -> int:
        """Where reading begins: the border before the first base in the direction of reading."""
        return self.parts[0][0] if self.strand == 1 else self.parts[0][1]

    @property
    def stop(self) -> int:
        """Where reading ends: the border after the last base in the direction of reading."""
        return self.parts[-1][1] if self.strand == 1 else self.parts[-1][0]

    @property
    def bases(self) -> int:
        """How many bases all parts have together."""
        return sum(b - a for a, b in self.parts)

    @property
    def span(self) -> tuple[int, int]:
        """The lowest base and the one after the highest; over an origin, all between its parts."""
        return min(a for a, _ in self.parts), max(b for _, b in self.parts)

    @property
    def stretches(self) -> tuple[tuple[int, int], ...]:
        """The (start, stop) that the gene stretches over, introns included.

        They are two, the lower one first, for a gene that is read over the origin of a circle, and
        one otherwise.
        """
        upward = self.parts if self.strand == 1 else self.parts[::-1]
        turn = next((i for i in range(1, len(upward)) if upward[i][0] < upward[i - 1][0]), 0)
        pieces = [upward[turn:], upward[:turn]] if turn else [upward]
        return tuple((min(a for a, _ in p), max(b for _, b in p)) for p in pieces)


@dataclass(frozen=True, eq=False)
class Record:
    """One sequence of a file.

    letters (n,): upper case ASCII. genes: None where no annotation was read, empty where it was and
    has none of this record. organism: as a GenBank or EMBL file names it, else empty. circular:
    whether the last base is followed by the first. title: the whole header of FASTA, of which the
    name is the first word.
    """

    name: str
    source: str
    letters: NDArray[np.uint8]
    genes: tuple[Gene, ...] | None
    organism: str = ""
    circular: bool = False
    title: str = ""

    def __len__(self) -> int:
        return len(self.letters)

    @property
    def codes(self) -> Counter[int]:
        """How many genes name each number of a genetic code."""
        return Counter(gene.code for gene in self.genes or () if gene.code is not None)
