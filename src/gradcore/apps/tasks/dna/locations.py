"""The genes that CDS features of GenBank and EMBL files mean, by Biopython's locations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradcore as gd

from .codes import genetic_code
from .genome import Gene
from .remarks import Remarks

__all__ = ["LEFT_OUT", "Coding", "code_of", "genes_of", "marked"]

LEFT_OUT = "CDS features left out"
MASKED = "CDS features masked"


@dataclass(frozen=True)
class Coding:
    """A CDS feature as it is written. line: of its location. words: its qualifiers."""

    line: int
    location: str
    words: Mapping[str, str]


def marked(words: Mapping[str, str], key: str) -> bool:
    """Whether a qualifier is there and does not say no."""
    return key in words and words[key].strip().lower() not in ("0", "false", "no")


def code_of(words: Mapping[str, str], line: int, remarks: Remarks) -> int | None:
    """The number of the genetic code of a CDS, None if it names none that exists."""
    told = words.get("transl_table")
    if told is None:
        return None
    try:
        return genetic_code(int(told)).number
    except ValueError:  # of int(), or ArgumentError, which is one
        remarks(
            "CDS features whose genetic code does not exist",
            line,
            f"there is no genetic code {told!r} (transl_table); it is ignored",
        )
        return None


def genes_of(
    path: Path,
    name: str,
    coding: Coding,
    known: Set[str],
    length: int,
    circular: bool,
    remarks: Remarks,
) -> Iterator[Gene]:
    """Yields the gene of a CDS feature: none if it cannot be read, several where it is cut.

    known: the names of its record, as locations may name others. Genes whose frame is not certain
    are masked: each part is pseudo. Parts in another record are left out, and what lies on either
    side of them are genes of which an end is not known.
    Raises ArgumentError for a location that is not within the record.
    """
    from Bio.SeqFeature import Location

    text, line = coding.location, coding.line
    try:
        location: Any = Location.fromstring(text, length, circular, True)  # type: ignore[no-untyped-call]
        parts = [_Part.of(part, known) for part in location.parts]
    except Exception as error:  # LocationParserError, ValueError, AssertionError, TypeError
        remarks(LEFT_OUT, line, f"the CDS {text} is left out: {_reason(error, circular)}")
        return
    own = [part for part in parts if part.own]
    if any(not 0 <= part.low <= part.high <= length for part in own):
        raise gd.ArgumentError(
            f"{path}, record {name}, line {line}: the CDS at {text} is not within the "
            f"{length:,} bases of the record. Do sequence and annotation belong together?"
        )
    if not own or any(part.low == part.high for part in own):
        why = "it lies between two bases" if own else "all of it lies in another record"
        remarks(LEFT_OUT, line, f"the CDS {text} is left out: {why}")
        return
    phage, code = marked(coding.words, "is_phage"), code_of(coding.words, line, remarks)
    doubt = _doubt(parts, getattr(location, "operator", "join"))
    if doubt is not None:
        remarks(
            MASKED,
            line,
            f"the bases of the CDS {text} are left out of training and scores: {doubt}",
        )
        for part in own:
            yield Gene(((part.low, part.high),), part.strand, pseudo=True, phage=phage, code=code)
        return
    pseudo = marked(coding.words, "pseudo") or "pseudogene" in coding.words
    how = {"pseudo": pseudo, "phage": phage, "code": code}
    for gene in _cut(parts, _phase(coding, remarks), **how):
        if not circular and len(gene.stretches) > 1:
            told = f"the parts of CDS {text} are joined in this order, though {name} is linear"
            remarks("CDS features whose parts are out of order", line, told)
        yield gene


@dataclass(frozen=True)
class _Part:
    """One part of a location.

    low, high: its borders from 0. first, last: whether the border where reading begins and the one
    where it ends are "exact", "beyond" (< or >) or "uncertain". own: whether the part lies in the
    record of the feature.
    """

    low: int
    high: int
    strand: int
    first: str
    last: str
    own: bool

    @staticmethod
    def of(part: Any, known: Set[str]) -> _Part:
        ends = [_kind(part.start), _kind(part.end)]
        if part.strand == -1:
            ends.reverse()
        own = part.ref is None or part.ref in known
        return _Part(int(part.start), int(part.end), part.strand, ends[0], ends[1], own)


def _kind(position: Any) -> str:
    from Bio.SeqFeature import AfterPosition, BeforePosition, ExactPosition

    if type(position) is ExactPosition:
        return "exact"
    return "beyond" if isinstance(position, (BeforePosition, AfterPosition)) else "uncertain"


def _reason(error: Exception, circular: bool) -> str:
    told = " ".join(str(error).split())[:200] or type(error).__name__
    if "span" in told and "origin" in told and not circular:
        return "it ends before it begins, and the record is linear"
    return f"Biopython cannot read its location ({told})"


def _doubt(parts: list[_Part], operator: str) -> str | None:
    """Why the frame of the bases is not certain, None if it is."""
    if operator != "join":
        return f"{operator}(...) does not say that its parts are joined"
    if len({part.strand for part in parts}) > 1:
        return "it is read from both strands"
    inner = [part.last for part in parts[:-1]] + [part.first for part in parts[1:]]
    if "beyond" in inner or any("uncertain" in (part.first, part.last) for part in parts):
        return "one of its positions is uncertain"
    return None


def _phase(coding: Coding, remarks: Remarks) -> int:
    told = coding.words.get("codon_start", "1")
    if told not in ("1", "2", "3"):
        remarks(
            "CDS features with a wrong codon_start",
            coding.line,
            f"codon_start must be 1, 2 or 3; got {told!r}, and 1 is used",
        )
        return 0
    return int(told) - 1


def _cut(parts: list[_Part], phase: int, **how: Any) -> Iterator[Gene]:
    """Yields genes of the parts in the record; the bases of the others count in the frame."""
    at, own = -phase, list[_Part]()
    begun = at
    for i, part in enumerate([*parts, None]):
        if part is not None and part.own:
            begun = begun if own else at
            own.append(part)
        elif own:
            first = i - len(own)
            yield Gene(
                tuple((one.low, one.high) for one in own),
                own[0].strand,
                phase=-begun % 3,
                start_known=first == 0 and own[0].first == "exact" and phase == 0,
                stop_known=i == len(parts) and own[-1].last == "exact",
                **how,
            )
            own = []
        if part is not None:
            at += part.high - part.low
