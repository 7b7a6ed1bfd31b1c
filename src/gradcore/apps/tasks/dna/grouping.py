"""Which CDS lines of GFF3 or GTF are one gene, and what gene they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import gradcore as gd

from .genome import Gene
from .remarks import Remarks

__all__ = ["Line", "genes_of"]

# Bases that parts of one gene may share, where the ribosome slips back.
SLIP = 4


@dataclass
class Line:
    """A CDS line.

    number: that of the line in its file. first, last: its bases from 0, the last one excluded;
    beyond the end of a circle the count continues. phase: None if it is not given.
    identity: its ID, or the transcript of GTF. parents: IDs of the features that join the lines of
    one gene. partial: one end is unknown, but the line does not say which; low_open, high_open: the
    lower or the higher end is unknown. spliced: the gene is put together by trans-splicing.
    stop_codon: (first, last) of its stop codon, which GTF keeps apart; no_start, no_stop: GTF has
    no start or stop codon of it.
    """

    number: int
    first: int
    last: int
    strand: int
    phase: int | None
    identity: str
    parents: tuple[str, ...]
    pseudo: bool = False
    phage: bool = False
    partial: bool = False
    low_open: bool = False
    high_open: bool = False
    spliced: bool = False
    code: int | None = None
    stop_codon: tuple[tuple[int, int], ...] = ()
    no_start: bool = False
    no_stop: bool = False


def genes_of(
    path: Path, name: str, lines: Sequence[Line], length: int, circular: bool, remarks: Remarks
) -> Iterator[Gene]:
    """Makes the genes of the CDS lines of one sequence.

    Lines of one parent are parts of one gene, whatever their IDs, unless they overlap; without a
    parent, lines of one ID are. If the frame is uncertain, the parts are masked as pseudo.
    Raises ArgumentError for what is not within the sequence.
    """
    seen: set[Gene] = set()
    for own in _groups(lines, remarks):
        for gene in _gene(path, name, own, length, circular, remarks):
            if gene not in seen:  # two transcripts may have the same CDS
                seen.add(gene)
                yield gene


def _groups(lines: Sequence[Line], remarks: Remarks) -> list[list[Line]]:
    found: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        one = ("ID", line.identity) if line.identity else ("line", str(line.number))
        for key in [("parent", parent) for parent in line.parents] or [one]:
            found.setdefault(key, []).append(line)
    made: list[list[Line]] = []
    for (kind, told), own in found.items():
        by_id: dict[str, list[Line]] = {}
        for line in own:
            by_id.setdefault(line.identity or f"line {line.number}", []).append(line)
        if kind != "parent" or len(by_id) == 1:
            made.append(own)
        elif _differ(own):
            made += by_id.values()
        else:
            if len({line.identity for line in own if line.identity}) > 1:
                remarks(
                    "groups of CDS lines with one parent, each treated as one gene",
                    own[0].number,
                    f"the {len(own)} CDS lines with Parent={told} have different IDs and are "
                    "treated as one gene",
                )
            made.append(own)
    return made


def _differ(lines: list[Line]) -> bool:
    """Whether lines with one parent are several genes, as they overlap or have two strands and
    different IDs.
    """
    identities = {line.identity for line in lines if line.identity}
    if len(identities) > 1 and len({line.strand for line in lines}) > 1:
        return True
    ordered = sorted(lines, key=lambda line: line.first)
    last = ordered[0]
    for line in ordered[1:]:
        same = line.identity and line.identity == last.identity
        if not same and min(line.last, last.last) - line.first > SLIP:
            return True
        last = max(last, line, key=lambda one: one.last)
    return False


def _gene(
    path: Path, name: str, lines: list[Line], length: int, circular: bool, remarks: Remarks
) -> Iterator[Gene]:
    pieces = _pieces(path, name, lines, length, circular)
    code = next((line.code for line in lines if line.code is not None), None)
    phage = any(line.phage for line in lines)
    low, high = any(line.low_open for line in lines), any(line.high_open for line in lines)
    if any(line.partial for line in lines) and not low and not high:
        low = high = True
    strand = lines[0].strand
    ends = (low, high) if strand == 1 else (high, low)
    start_known = not ends[0] and not any(line.no_start for line in lines)
    stop_known = not ends[1] and not any(line.no_stop for line in lines)
    read = pieces if strand == 1 else pieces[::-1]
    phase = read[0][2].phase
    if phase is None and not start_known and stop_known:
        phase = sum(b - a for a, b, _ in read) % 3
    doubt = None
    if len({line.strand for line in lines}) > 1:
        doubt = "it is read from both strands"
    elif any(line.spliced for line in lines):
        doubt = "the order of its parts is not given (trans-splicing)"
    elif phase is None and not start_known:
        doubt = "neither its phase nor its ends are known"
    if doubt is not None:
        first, last = lines[0].first + 1, lines[0].last
        told = (
            f"the bases of the CDS at {first}..{last} are left out of training and scores: {doubt}"
        )
        remarks("CDS features masked", lines[0].number, told)
        for a, b, line in pieces:
            yield Gene(((a, b),), line.strand, pseudo=True, phage=phage, code=code)
        return
    yield Gene(
        tuple((a, b) for a, b, _ in read),
        strand,
        phase=phase or 0,
        pseudo=any(line.pseudo for line in lines),
        start_known=start_known and not phase,
        stop_known=stop_known,
        phage=phage,
        code=code,
    )


def _pieces(
    path: Path, name: str, lines: list[Line], length: int, circular: bool
) -> list[tuple[int, int, Line]]:
    """Returns (start, stop, line) of the parts of a gene, in the order of the plus strand.

    Where they touch both ends of a circle, the gene is read over its origin, and they begin after
    the largest gap.
    """
    found: dict[tuple[int, int], Line] = {}
    for line in lines:
        for first, last in [(line.first, line.last), *line.stop_codon]:
            if last > length and (not circular or last - first > length):
                raise gd.ArgumentError(
                    f"{path}, record {name}, line {line.number}: a gene at {first + 1}..{last} "
                    f"ends beyond {name}, which has {length:,} bases. "
                    + (
                        "It is longer than the circle."
                        if circular
                        else "Do sequence and annotation belong together? A circle has a line of "
                        "type region with Is_circular=true."
                    )
                )
            shift = length if first >= length else 0
            a, b = first - shift, last - shift
            for piece in [(a, b)] if b <= length else [(a, length), (0, b - length)]:
                found.setdefault(piece, line)
    made = _joined(sorted((a, b, line) for (a, b), line in found.items()))
    if circular and len(made) > 1 and made[0][0] == 0 and made[-1][1] == length:
        gaps = [after[0] - before[1] for before, after in pairwise(made)]
        turn = gaps.index(max(gaps)) + 1
        made = made[turn:] + made[:turn]
    return made


def _joined(pieces: list[tuple[int, int, Line]]) -> list[tuple[int, int, Line]]:
    """Joins stop codons, which GTF keeps apart, to the pieces that they touch or lie in."""
    made: list[tuple[int, int, Line]] = []
    for first, stop, line in pieces:
        if line.stop_codon and made and first <= made[-1][1]:
            before = made.pop()
            made.append((before[0], max(before[1], stop), before[2]))
        else:
            made.append((first, stop, line))
    return made
