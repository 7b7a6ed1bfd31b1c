"""Genes from a net's class probabilities: the best set of open reading frames."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .codes import BACTERIAL, GeneticCode
from .genome import Gene
from .orfs import Frame, frames

__all__ = ["decode"]

# Bases that neighbours may share: many genes of phages and bacteria overlap by a few.
OVERLAP = 60
LEAST = 90
# A base's evidence is kept within this: one that is certain should not outvote a hundred others.
MOST_EVIDENCE = 3.0


@dataclass(frozen=True)
class _Candidate:
    """A gene over the bases start..stop of the plus strand, and what it adds to the evidence."""

    start: int
    stop: int
    gain: float
    gene: Gene


def decode(
    letters: NDArray[np.uint8],
    log_p: NDArray[np.float32],
    *,
    cost: float = 12.0,
    code: GeneticCode = BACTERIAL,
    circular: bool = False,
) -> list[Gene]:
    """Calls the set of genes that has the most evidence while none overlap by more than 60 bases.

    log_p (n, 7): log probabilities of labels.CLASSES. A frame's evidence is the sum over its bases
    of log p(its codon position) - log p(non-coding), kept within +-3; it starts at the start codon
    that gives most, less a little per codon that is passed over. cost: evidence that a gene must
    have. circular: genes may lie over the end of the sequence. Unknown bases end a frame.
    By dynamic programming over ends (weighted intervals); a circle is cut where the candidates over
    the cut have the least evidence, most often none.
    """
    length = len(letters)
    candidates: list[_Candidate] = []
    sums = _sums(np.concatenate([log_p, log_p]) if circular else log_p)
    for frame in frames(letters, LEAST, code=code, circular=circular):
        best = _best(frame, sums[frame.strand, frame.first % 3])
        if best is None:
            continue
        at, evidence = best
        if evidence > cost and frame.stop - at >= LEAST:
            gene = frame.gene(at, length)
            start = gene.start if gene.strand == 1 else gene.stop
            candidates.append(_Candidate(start, start + frame.stop - at, evidence - cost, gene))
    if circular:
        candidates = _cut(candidates, length)
    return sorted(_chosen(candidates), key=lambda gene: gene.span[1])


def _chosen(candidates: list[_Candidate]) -> list[Gene]:
    """Returns the genes of the best set of candidates on a line."""
    candidates = sorted(candidates, key=lambda one: one.stop)
    ends = [one.stop for one in candidates]
    # total[i]: of the best set among the first i; before[i]: how many of them are left to choose
    # from with candidate i-1, -1 where it is better left out.
    total, before = [0.0], [0]
    for i, one in enumerate(candidates):
        room = min(OVERLAP, (one.stop - one.start) // 3)
        last = bisect_right(ends, one.start + room, 0, i)
        with_it = total[last] + one.gain
        total.append(max(total[i], with_it))
        before.append(last if with_it > total[i] else -1)
    chosen, i = [], len(candidates)
    while i > 0:
        if before[i] >= 0:
            chosen.append(candidates[i - 1].gene)
            i = before[i]
        else:
            i -= 1
    return chosen[::-1]


def _cut(candidates: list[_Candidate], length: int) -> list[_Candidate]:
    """Returns candidates on a circle as they lie on the line that it becomes when it is cut."""
    # change[i]: by how much the evidence over a cut before base i exceeds that before base i - 1.
    change = np.zeros(length + 1)
    for one in candidates:
        whole = one.stop <= length
        crossed = [(one.start + 1, one.stop)] if whole else [(one.start + 1, length)]
        for first, stop in crossed if whole else [*crossed, (0, one.stop - length)]:
            change[first] += one.gain
            change[stop] -= one.gain
    at = int(np.argmin(np.cumsum(change)[:length]))
    moved = []
    for one in candidates:
        start = (one.start - at) % length
        stop = start + one.stop - one.start
        if stop <= length:
            moved.append(replace(one, start=start, stop=stop))
    return moved


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


def _best(frame: Frame, sums: NDArray[np.float64]) -> tuple[int, float] | None:
    """Returns the start with the most evidence after it, with that evidence.

    Where nothing ends the frame before its first codon, that codon may be the start as well.
    """
    starts = frame.starts
    if frame.open:
        starts = np.union1d(starts, [frame.first])
    starts = starts[starts <= frame.stop - LEAST]
    if not len(starts):
        return None
    evidence = sums[frame.stop] - sums[starts]
    at = int(np.argmax(evidence))
    return int(starts[at]), float(evidence[at])
