"""GFF3 and GTF files: the lines of coding sequences, what they name, the sequences inside.

References: the Sequence Ontology's GFF3 specification, version 1.26; GTF 2.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from urllib.parse import unquote

import gradcore as gd

from .fasta import parse_fasta
from .genome import Gene, Record
from .grouping import Line, genes_of
from .locations import code_of, marked
from .opening import opened
from .remarks import Remarks, Say

__all__ = ["PROGRAM", "Features", "parse_gff3", "read_gff3"]

# What the second column of files that `gradcore annotate` writes calls the origin of the genes.
PROGRAM = "gradcore"

# An attribute of GTF: key "value"; numbers may go without the quotes.
ATTRIBUTE = re.compile(r'\s*(\w+) +(?:"([^"]*)"|([^;"]+?))\s*(?:;|$)')
# Types may be given by their numbers in the Sequence Ontology.
TERMS = {"SO:0000316": "CDS", "SO:0000336": "pseudogene", "SO:0000001": "region"}
# Features that are a whole sequence.
WHOLE = ("region", "sequence", "chromosome", "contig", "supercontig", "plasmid")
# A CDS whose parent is one of these is no part of one gene with the other CDS of that parent.
SHARED = ("operon", "gene_group", *WHOLE)


@dataclass(eq=False)
class Features:
    """What an annotation file holds.

    names: every sequence that it names, and in which line first. declared: those of which it says
    that they are there, with genes or without, by ##sequence-region or a feature of WHOLE. ends:
    the last base of each, if it is given. circular: those with Is_circular=true. coding: the lines
    of their CDS. records: the sequences after ##FASTA. program: what the second column of the first
    CDS names. kinds: the types of all features. gtf: whether it is GTF.
    """

    path: Path
    names: dict[str, int] = field(default_factory=dict)
    declared: set[str] = field(default_factory=set)
    ends: dict[str, int] = field(default_factory=dict)
    circular: set[str] = field(default_factory=set)
    coding: dict[str, list[Line]] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    program: str = ""
    kinds: set[str] = field(default_factory=set)
    gtf: bool | None = None

    def genes(self, name: str, length: int, circular: bool, remarks: Remarks) -> tuple[Gene, ...]:
        """The genes of the sequence that the file calls by that name."""
        lines = self.coding.get(name, [])
        return tuple(genes_of(self.path, name, lines, length, circular, remarks))


def read_gff3(path: str | Path, *, say: Say = lambda line: None) -> dict[str, Sequence[Gene]]:
    """Returns the genes of a GFF3 or GTF file by the names of their sequences.

    Raises ArgumentError naming file and line.
    """
    path = Path(path)
    found = parse_gff3(path, say, sequences=False)
    remarks = Remarks(path, say)
    made: dict[str, Sequence[Gene]] = {}
    for name, lines in found.coding.items():
        circular = name in found.circular
        if circular and name not in found.ends:
            raise gd.ArgumentError(
                f"{path}, record {name}: it is circular, and its length is not given. Add a line "
                f"'##sequence-region {name} 1 LENGTH'."
            )
        reached = max(last for one in lines for _, last in [(0, one.last), *one.stop_codon])
        length = found.ends.get(name, reached)
        made[name] = found.genes(name, length, circular, remarks)
    remarks.finish()
    return made


def parse_gff3(path: Path, say: Say, *, features: bool = True, sequences: bool = True) -> Features:
    """Reads the features of a file, and the sequences after ##FASTA, or either of them.

    Raises ArgumentError naming file and line.
    """
    found = Features(path)
    remarks = Remarks(path, say)
    reader = _Reader(found, remarks)
    with opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            text = line.rstrip("\r\n")
            if text.startswith(("##FASTA", ">")):
                inside = text.startswith(">")
                if sequences:
                    behind = chain([line], lines) if inside else lines
                    found.records = parse_fasta(path, behind, number + (not inside))
                break
            if not features or not text.strip():
                continue
            if text.startswith("#"):
                reader.directive(number, text)
            else:
                reader.feature(number, text)
    reader.finish()
    remarks.finish()
    return found


class _Reader:
    """Takes the lines of a file one by one; facts about a CDS from other lines are added at the
    end.
    """

    def __init__(self, found: Features, remarks: Remarks) -> None:
        self._found, self._remarks = found, remarks
        # By (sequence, ID): the type of a feature, its parents, and whether it is a pseudogene.
        self._features: dict[tuple[str, str], tuple[str, tuple[str, ...], bool]] = {}
        # By (sequence, transcript) of GTF.
        self._starts: set[tuple[str, str]] = set()
        self._stops: dict[tuple[str, str], list[tuple[int, int]]] = {}

    def directive(self, number: int, text: str) -> None:
        """Takes a line that begins with #: ##sequence-region, ##gff-version, or one without meaning
        here.
        """
        words = text.split()
        if words[0] == "##gff-version" and len(words) > 1 and words[1][0] in "12":
            raise gd.ArgumentError(
                f"{self._found.path}, line {number}: this is GFF version {words[1]}, which does "
                "not say which lines are one gene. Convert it to GFF3, for example with AGAT."
            )
        if words[0] == "##sequence-region" and len(words) == 4:
            name = unquote(words[1])
            self._found.names.setdefault(name, number)
            self._found.declared.add(name)
            if words[3].isdecimal():
                self._found.ends[name] = int(words[3])

    def feature(self, number: int, text: str) -> None:
        """Takes a line of 9 columns, which describes a feature."""
        found, words = self._found, text.split("\t")
        if len(words) != 9:
            blanks = len(words) == 1 and len(text.split()) >= 9
            raise gd.ArgumentError(
                f"{found.path}, line {number}: GFF3 has 9 columns, separated by tabs; got "
                f"{len(words)}." + (" They are separated by blanks: write tabs." if blanks else "")
            )
        name, kind = unquote(words[0]), TERMS.get(words[2], words[2])
        found.names.setdefault(name, number)
        found.kinds.add(kind)
        told = self._attributes(words[8])
        if told.get("Is_circular", "").lower() == "true":
            found.circular.add(name)
        if kind in WHOLE:
            found.declared.add(name)
            if words[3] == "1" and words[4].isdecimal():
                found.ends.setdefault(name, int(words[4]))
        if kind == "CDS":
            found.program = found.program or words[1]
            found.coding.setdefault(name, []).append(self._line(name, number, words, told))
        elif found.gtf:
            key = name, told.get("transcript_id", "")
            if kind == "start_codon":
                self._starts.add(key)
            elif kind == "stop_codon":
                self._stops.setdefault(key, []).append(self._place(name, number, words)[:2])
        if told.get("ID"):
            is_pseudo = kind == "pseudogene" or _is_pseudo(told)
            known = self._features.get((name, unquote(told["ID"])), (kind, (), False))
            parents = known[1] + _several(told.get("Parent", ""))
            self._features[name, unquote(told["ID"])] = kind, parents, known[2] or is_pseudo

    def _attributes(self, text: str) -> dict[str, str]:
        """Returns keys and values; those of GFF3 keep their escapes, as a comma may be escaped."""
        if self._found.gtf is None and text.strip() not in ("", "."):
            self._found.gtf = ATTRIBUTE.match(text) is not None and "=" not in text.split('"')[0]
        if self._found.gtf:
            made: dict[str, str] = {}
            for key, quoted, plain in ATTRIBUTE.findall(text):
                made.setdefault(key, quoted or plain)
            return made
        pairs = [pair.split("=", 1) for pair in text.split(";") if "=" in pair]
        return {key.strip(): value.strip() for key, value in pairs}

    def _place(self, name: str, number: int, words: list[str]) -> tuple[int, int, int | None]:
        """Returns the first base from 0, the one after the last, and the phase of a line."""
        try:
            first, last = int(words[3]), int(words[4])
            phase = None if words[7] == "." else int(words[7])
        except ValueError:
            first, last, phase = 0, 0, None
        if not 1 <= first <= last or phase not in (None, 0, 1, 2):
            raise gd.ArgumentError(
                f"{self._found.path}, record {name}, line {number}: start, end and phase must be "
                f"numbers, 1 <= start <= end and phase 0 to 2; got {words[3]}, {words[4]}, "
                f"{words[7]}. A CDS over the origin of a circle ends beyond its last base: one "
                "from 371 over 400 to 60 is written 371 460."
            )
        return first - 1, last, phase

    def _line(self, name: str, number: int, words: list[str], told: Mapping[str, str]) -> Line:
        if words[6] not in ("+", "-"):
            raise gd.ArgumentError(
                f"{self._found.path}, record {name}, line {number}: the strand of a CDS must be + "
                f"or -; got {words[6]!r}."
            )
        first, last, phase = self._place(name, number, words)
        plain = {key: unquote(value) for key, value in told.items()}
        if self._found.gtf:
            identity = told.get("transcript_id") or told.get("gene_id", "")
            parents: tuple[str, ...] = ()
        else:
            identity, parents = plain.get("ID", ""), _several(told.get("Parent", ""))
        # Prodigal tells by two digits which of its ends a gene lacks, the lower one first.
        digits = plain.get("partial", "") if plain.get("partial") in ("01", "10", "11") else "00"
        return Line(
            number,
            first,
            last,
            1 if words[6] == "+" else -1,
            phase,
            identity,
            parents,
            pseudo=_is_pseudo(told),
            phage=marked(plain, "is_phage"),
            partial=plain.get("partial", "").lower() == "true",
            low_open=plain.get("start_range", "").startswith(".,") or digits[0] == "1",
            high_open=plain.get("end_range", "").endswith(",.") or digits[1] == "1",
            spliced="trans" in plain.get("exception", "") and "splic" in plain["exception"],
            code=code_of(plain, number, self._remarks),
        )

    def finish(self) -> None:
        """Adds to each CDS facts from its parents and, in GTF, its start and stop codons."""
        found = self._found
        if found.gtf and found.coding and not self._stops:
            first = min(line.number for lines in found.coding.values() for line in lines)
            told = "there are no stop_codon lines, so the exact ends of genes are unknown"
            self._remarks("files without stop codons", first, told)
        for name, lines in found.coding.items():
            for line in lines:
                line.pseudo = line.pseudo or any(self._pseudo(name, p) for p in line.parents)
                line.parents = tuple(
                    p for p in line.parents if self._features.get((name, p), ("",))[0] not in SHARED
                )
                if found.gtf:
                    key = name, line.identity
                    line.stop_codon = tuple(self._stops.get(key, ()))
                    line.no_stop = not line.stop_codon
                    line.no_start = bool(self._starts) and key not in self._starts

    def _pseudo(self, name: str, identity: str) -> bool:
        """Whether a feature or one above it is a pseudogene."""
        seen, todo = set[str](), [identity]
        while todo:
            one = todo.pop()
            if one not in seen and (name, one) in self._features:
                seen.add(one)
                _, parents, pseudo = self._features[name, one]
                if pseudo:
                    return True
                todo += parents
        return False


def _is_pseudo(told: Mapping[str, str]) -> bool:
    """Whether a line's own attributes call it a pseudogene; Ensembl does so by gene_biotype."""
    biotype = f"{told.get('gene_biotype', '')} {told.get('gene_type', '')}"
    return marked(told, "pseudo") or "pseudogene" in told or "pseudogene" in biotype


def _several(text: str) -> tuple[str, ...]:
    return tuple(unquote(one.strip()) for one in text.split(",") if one.strip())
