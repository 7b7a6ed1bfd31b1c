"""Regions that came from a phage: from the genes that are marked so to a label per base."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..dna.genome import Record
from ..dna.labels import Labels

__all__ = ["CLASSES", "REVERSED", "by_species", "labels", "regions", "reverse_labels"]

CLASSES = ("host", "prophage")
# Neither class has a strand.
REVERSED = np.array([0, 1], np.int8)
# Marked genes nearer than this belong to one region.
GAP = 3_000


def regions(record: Record) -> list[tuple[int, int]]:
    """Returns (start, stop) of regions: genes with /is_phage, gaps of less than 3 kb closed.

    One that lies over the origin of a circular record is two, on either side of it.
    """
    found: list[tuple[int, int]] = []
    marked = [one for gene in record.genes or () if gene.phage for one in gene.stretches]
    for start, stop in sorted(marked):
        if found and start - found[-1][1] < GAP:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    if record.circular and found and found[0][0] + len(record) - found[-1][1] < GAP:
        found[0] = 0, found[0][1]
        found[-1] = found[-1][0], len(record)
    return found


def labels(record: Record) -> Labels:
    """Returns a class of CLASSES for every base; all bases count."""
    classes = np.zeros(len(record), np.int8)
    for start, stop in regions(record):
        classes[start:stop] = 1
    return Labels(classes, np.ones(len(record), bool))


def reverse_labels(given: Labels) -> Labels:
    """The labels of the other strand, as it is read."""
    return Labels(np.ascontiguousarray(given.classes[::-1]), given.counts)


def by_species(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by the first two words of their organism, in the order in which they come.

    A record without an organism belongs to the species of its file; if no record has one, the file
    is a species.
    """
    told = {r.source: _two_words(r) for r in records if _two_words(r)}
    found: dict[str, list[Record]] = {}
    for record in records:
        name = _two_words(record) or told.get(record.source, record.source)
        found.setdefault(name, []).append(record)
    return found


def _two_words(record: Record) -> str:
    return " ".join(record.organism.strip(".").split()[:2])
