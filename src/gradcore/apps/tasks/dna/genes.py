"""Genes from a net's class probabilities: the best set of open reading frames."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from .orfs import Frame, frames
from .records import Gene

__all__ = ["decode"]

# Bases that neighbours may share: many genes of phages and bacteria overlap by a few.
OVERLAP = 60
LEAST = 90
# A base's evidence is kept within this: one that is certain should not outvote a hundred others.
MOST_EVIDENCE = 3.0


def decode(
    letters: NDArray[np.uint8], log_p: NDArray[np.float32], *, cost: float = 12.0
) -> list[Gene]:
    """The set of genes with the largest evidence, of those that overlap by 60 bases at most.

    log_p (n, 7): log probabilities of labels.CLASSES. A frame's evidence is the sum over its bases
    of log p(its codon position) - log p(non-coding), kept within +-3; it starts at the start codon
    that gives most, less a little per codon that is passed over. cost: evidence that a gene must
    have. By dynamic programming over ends (weighted intervals).
    """
    length = len(letters)
    candidates: list[tuple[int, int, float, Gene]] = []
    sums = _sums(log_p)
    for frame in frames(letters, LEAST):
        best = _best(frame, sums[frame.strand, frame.first % 3], length)
        if best is None:
            continue
        start, evidence = best
        if evidence > cost and frame.stop - start >= LEAST:
            gene = frame.gene(start, length)
            candidates.append((*gene.span, evidence - cost, gene))
    candidates.sort(key=lambda one: one[1])
    ends = [stop for _, stop, _, _ in candidates]
    # total[i]: of the best set among the first i; taken[i]: whether candidate i-1 is in it.
    total, before = [0.0], [0]
    for i, (start, stop, gain, _) in enumerate(candidates):
        room = min(OVERLAP, (stop - start) // 3)
        last = bisect_right(ends, start + room, 0, i)
        with_it = total[last] + gain
        total.append(max(total[i], with_it))
        before.append(last if with_it > total[i] else -1)
    chosen, i = [], len(candidates)
    while i > 0:
        if before[i] >= 0:
            chosen.append(candidates[i - 1][3])
            i = before[i]
        else:
            i -= 1
    return chosen[::-1]


def _sums(log_p: NDArray[np.float32]) -> dict[tuple[int, int], NDArray[np.float64]]:
    """Running sums of the evidence for a frame, by strand and by the place of its codons mod 3.

    sums[s, o][t]: of the bases before t as strand s is read, codons beginning at o mod 3.
    """
    found = {}
    for strand in (1, -1):
        rows = log_p if strand == 1 else log_p[::-1]
        base = 1 if strand == 1 else 4
        places = np.arange(len(rows))
        for offset in range(3):
            own = rows[places, base + (places - offset) % 3] - rows[:, 0]
            kept = np.clip(own.astype(np.float64), -MOST_EVIDENCE, MOST_EVIDENCE)
            found[strand, offset] = np.concatenate([[0.0], np.cumsum(kept)])
    return found


def _best(frame: Frame, sums: NDArray[np.float64], length: int) -> tuple[int, float] | None:
    """The start with the most evidence behind it; the frame's own begin where the sequence does."""
    starts = frame.starts
    if frame.first < 3:
        starts = np.union1d(starts, [frame.first])
    starts = starts[starts <= frame.stop - LEAST]
    if not len(starts):
        return None
    evidence = sums[frame.stop] - sums[starts]
    at = int(np.argmax(evidence))
    return int(starts[at]), float(evidence[at])
