"""A class for every base: non-coding, or strand and codon position; and which bases count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from .genome import Gene, Record

__all__ = [
    "CLASSES",
    "REVERSED",
    "TOKENS",
    "Labels",
    "classes_by_part",
    "classes_of",
    "complement",
    "labels",
    "paint",
    "reverse_labels",
    "tokens",
]

# 1 + p: position p of a codon on the plus strand; 4 + p: on the minus strand, p as it is read.
CLASSES = ("non-coding", "+0", "+1", "+2", "-0", "-1", "-2")
REVERSED = np.array([0, 4, 5, 6, 1, 2, 3], np.int8)

CODES = np.full(256, 4, np.uint8)
for _i, _letter in enumerate(b"ACGT"):
    CODES[_letter] = CODES[_letter + 32] = _i
# Overlapping 3-mers round each base, and one token where one of them is not A, C, G or T.
TOKENS = {1: 5, 3: 65}


@dataclass(frozen=True, eq=False)
class Labels:
    """What every base of a record is.

    classes (n,): indices into CLASSES. counts (n,): whether a base takes part in training and
    scores; it does not where genes overlap, where a pseudogene lies, or where a frame is not known.
    """

    classes: NDArray[np.int8]
    counts: NDArray[np.bool_]


def labels(record: Record) -> Labels:
    """Makes the labels of a record. Raises ArgumentError if its genes were not read."""
    if record.genes is None:
        raise gd.ArgumentError(
            f"{record.source}, record {record.name}: there are no genes to learn or to score. Give "
            "a GenBank or EMBL file, or a FASTA file with a GFF3 file of the same name beside it."
        )
    classes = np.zeros(len(record), np.int8)
    covered = np.zeros(len(record), np.uint8)
    counts = np.ones(len(record), bool)
    for gene in record.genes:
        if gene.pseudo:
            for start, stop in gene.parts:
                counts[start:stop] = False
            continue
        paint(gene, classes)
        for start, stop in gene.parts:
            covered[start:stop] = np.minimum(covered[start:stop] + 1, 2)
    counts &= covered < 2
    return Labels(classes, counts)


def classes_by_part(gene: Gene) -> Iterator[tuple[int, int, NDArray[np.int8]]]:
    """Yields (start, stop, classes of the bases between) of each part of a gene."""
    position = -gene.phase
    for start, stop in gene.parts:
        place = ((position + np.arange(stop - start)) % 3).astype(np.int8)
        yield start, stop, 1 + place if gene.strand == 1 else 4 + place[::-1]
        position += stop - start


def paint(gene: Gene, classes: NDArray[np.int8]) -> None:
    """Writes a gene's classes into those of all bases of its record."""
    for start, stop, own in classes_by_part(gene):
        classes[start:stop] = own


def classes_of(genes: Iterable[Gene], length: int) -> NDArray[np.int8]:
    """Returns the class of every base that genes mean; where two overlap, the later one decides."""
    classes = np.zeros(length, np.int8)
    for gene in genes:
        paint(gene, classes)
    return classes


def tokens(letters: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Single bases (A C G T, others 4), or 3-mers with the base in the middle (others 64)."""
    codes = CODES[letters]
    if width == 1:
        return codes
    padded = np.concatenate([[4], codes, [4]]).astype(np.int64)
    three = padded[:-2] * 16 + padded[1:-1] * 4 + padded[2:]
    unknown = (padded[:-2] == 4) | (padded[1:-1] == 4) | (padded[2:] == 4)
    return np.where(unknown, 64, three).astype(np.uint8)


COMPLEMENT = np.arange(256, dtype=np.uint8)
for _a, _b in zip(b"ACGTRYSWKMBDHVN-", b"TGCAYRSWMKVHDBN-", strict=True):
    COMPLEMENT[_a] = _b


def complement(letters: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The other strand, as it is read."""
    return np.ascontiguousarray(COMPLEMENT[letters][::-1])


def reverse_labels(given: Labels) -> Labels:
    """The labels of the other strand, as it is read."""
    return Labels(
        np.ascontiguousarray(REVERSED[given.classes][::-1]),
        np.ascontiguousarray(given.counts[::-1]),
    )
