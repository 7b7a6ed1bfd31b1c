"""How good an annotation is: per base, and gene by gene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .genome import Gene
from .labels import Labels

__all__ = ["GeneScore", "Score", "gene_score", "majority", "matthews", "score"]


@dataclass(frozen=True)
class Score:
    """Scores per base, over those that count.

    accuracy: of non-coding, plus, minus. frames: accuracy of all seven classes. matthews:
    correlation coding/non-coding, 0 where a side is missing. bases: how many count.
    """

    accuracy: float
    frames: float
    matthews: float
    bases: int


@dataclass(frozen=True)
class GeneScore:
    """How many genes were found. known: genes whose stop is exact and that are no pseudogenes.
    stops: how many of those were called with the same strand and stop; whole: how many with the
    same start as well. called: genes called in all; false: those called with a stop that no known
    gene has, pseudogenes included among the known.
    """

    known: int
    stops: int
    whole: int
    called: int
    false: int


def matthews(truth: NDArray[np.bool_], guess: NDArray[np.bool_]) -> float:
    """Matthews correlation of two yes-no arrays; 0 where one of them is all the same."""
    tp = float(np.sum(truth & guess))
    tn = float(np.sum(~truth & ~guess))
    fp, fn = float(np.sum(~truth & guess)), float(np.sum(truth & ~guess))
    below = np.sqrt(tp + fp) * np.sqrt(tp + fn) * np.sqrt(tn + fp) * np.sqrt(tn + fn)
    return float((tp * tn - fp * fn) / below) if below > 0 else 0.0


def score(truth: Labels, guess: NDArray[np.int8]) -> Score:
    """Scores guessed classes, guess (n,), over the bases that count."""
    own, got = truth.classes[truth.counts], guess[truth.counts]
    if not len(own):
        return Score(float("nan"), float("nan"), 0.0, 0)
    return Score(
        float(np.mean(_strand(own) == _strand(got))),
        float(np.mean(own == got)),
        matthews(own > 0, got > 0),
        len(own),
    )


def _strand(classes: NDArray[np.int8]) -> NDArray[np.int8]:
    return np.where(classes == 0, 0, np.where(classes < 4, 1, 2)).astype(np.int8)


def majority(truth: Labels) -> float:
    """Accuracy of always saying the most frequent of non-coding, plus, minus."""
    own = truth.classes[truth.counts]
    return float(np.bincount(_strand(own)).max() / len(own)) if len(own) else float("nan")


def gene_score(truth: Sequence[Gene], called: Sequence[Gene]) -> GeneScore:
    """Compares called genes with the known ones, by their stops and starts."""
    known = [g for g in truth if g.stop_known and not g.pseudo]
    by_stop = {_stop(gene): gene for gene in called if gene.stop_known}
    stops = [gene for gene in known if _stop(gene) in by_stop]
    whole = [
        gene for gene in stops if gene.start_known and by_stop[_stop(gene)].start == gene.start
    ]
    real = {_stop(gene) for gene in truth}
    return GeneScore(
        len(known),
        len(stops),
        len(whole),
        len(called),
        sum(stop not in real for stop in by_stop),
    )


def _stop(gene: Gene) -> tuple[int, int]:
    return gene.strand, gene.stop
