"""Prodigal beside the net, where pyrodigal is installed (GPL: never a dependency)."""

from __future__ import annotations

from .genome import Gene, Record
from .labels import Labels, classes_of
from .scores import Score, score

__all__ = ["prodigal"]


def prodigal(record: Record, truth: Labels) -> Score | None:
    """Scores Prodigal in its meta mode; returns None where pyrodigal is not installed.

    Reference: Hyatt et al. 2010; Larralde 2022.
    """
    try:
        import pyrodigal
    except ImportError:
        return None

    found = pyrodigal.GeneFinder(meta=True).find_genes(record.letters.tobytes())
    genes = [Gene(((gene.begin - 1, gene.end),), gene.strand) for gene in found]
    return score(truth, classes_of(genes, len(record)))
