"""Genome files with their genes: GenBank, EMBL, FASTA with GFF3 beside it, GFF3 with ##FASTA."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Literal

import gradcore as gd

from ..piped import kept
from .fasta import parse_fasta
from .genome import Gene, Record
from .gff3 import parse_gff3, read_gff3
from .insdc import parse_insdc
from .joining import join, join_records
from .opening import opened
from .remarks import Say

__all__ = ["Gene", "Record", "files_beside", "read", "read_gff3", "read_sequences"]

FASTA = (".fa", ".fasta", ".fna", ".ffn", ".fas", ".seq")
BESIDE = (".gff3", ".gff", ".gtf", ".gff3.gz", ".gff.gz", ".gtf.gz")
# A release file of the NCBI has ten lines before its first record.
HEADER = 100

Kind = Literal["genbank", "embl", "fasta", "gff3"]


@kept()
def read(
    path: str | Path,
    *,
    annotation: str | Path | None = None,
    say: Say = lambda line: None,
) -> list[Record]:
    """Reads the records of a genome file with their genes, plain or gzip.

    annotation: a GFF3 or GTF file (or GenBank, EMBL) with the genes of a FASTA file; without it,
    NAME.gff3, NAME.gff or NAME.gtf beside NAME.fa is taken if it is there. Genes are None for a
    FASTA file alone; a record that the annotation has no genes of has an empty tuple of them. U
    counts as T; what is not an IUPAC letter is an error. say: called with each thing that is left
    out or assumed.
    Raises ArgumentError naming file, record and line.
    """
    path = Path(path)
    kind = _kind(path)
    if kind in ("genbank", "embl"):
        return parse_insdc(path, kind, say, genes=True)
    if kind == "gff3":
        features = parse_gff3(path, say)
        if not features.records:
            raise gd.ArgumentError(
                f"{path} has features and no sequence (there is no ##FASTA). Name the FASTA file "
                "of the genome instead, with this file beside it under the same name."
            )
        return join(features.records, features, say)
    records = _fasta(path)
    beside = Path(annotation) if annotation is not None else _beside(path, say)
    if beside is None:
        return records
    if _kind(beside) == "gff3":
        return join(records, parse_gff3(beside, say, sequences=False), say)
    return join_records(records, read(beside, say=say), beside, say)


@kept()
def read_sequences(path: str | Path, *, say: Say = lambda line: None) -> list[Record]:
    """Reads the records of a genome file without their genes, which are None, and no other file.

    Raises ArgumentError naming file, record and line.
    """
    path = Path(path)
    kind = _kind(path)
    if kind in ("genbank", "embl"):
        return parse_insdc(path, kind, say, genes=False)
    if kind == "fasta":
        return _fasta(path)
    records = parse_gff3(path, say, features=False).records
    if not records:
        raise gd.ArgumentError(
            f"{path} has features and no sequence (there is no ##FASTA). Name the FASTA file of "
            "the genome instead."
        )
    return records


def _fasta(path: Path) -> list[Record]:
    with opened(path) as lines:
        return parse_fasta(path, lines)


def files_beside(path: Path) -> list[Path]:
    """The names under which the genes of a FASTA file may lie beside it."""
    stem = path.name.removesuffix(".gz")
    for suffix in FASTA:
        stem = stem.removesuffix(suffix)
    return [path.parent / f"{stem}{suffix}" for suffix in BESIDE]


def _beside(path: Path, say: Say) -> Path | None:
    """Finds the annotation file that has the name of a FASTA file."""
    found = files_beside(path)
    there = [one for one in found if one.exists() and one != path]
    if not there:
        return None
    others = f"; {', '.join(map(str, there[1:]))} is not read" if there[1:] else ""
    say(f"the genes of {path} are read from {there[0]}{others}")
    return there[0]


def _kind(path: Path) -> Kind:
    """Finds the format of a file by its first lines; raises ArgumentError for an unknown one."""
    with opened(path) as lines:
        head = [(number, line.strip()) for number, line in enumerate(islice(lines, HEADER), 1)]
    head = [(number, text) for number, text in head if text]
    told = [text for _, text in head if not text.startswith(("#", ";"))]
    if head and head[0][1].startswith("##gff-version"):
        return "gff3"
    if told and told[0].startswith(">"):
        return "fasta"
    if (told and _is_feature(told[0])) or (head and not told and head[0][1].startswith("##")):
        return "gff3"
    # Before the first record of a release file lie lines of no fixed form.
    for _, text in head:
        if text.startswith("LOCUS"):
            return "genbank"
        if text.startswith("ID   "):
            return "embl"
    number, text = head[0] if head else (1, "")
    raise gd.ArgumentError(
        f"{path}, line {number}: neither GenBank (LOCUS) nor FASTA (>), EMBL (ID) or GFF3 "
        "(##gff-version); "
        + (f"it begins with {text[:30]!r}." if text else "the file is empty.")
        + " Give the genome in one of these formats."
    )


def _is_feature(text: str) -> bool:
    words = text.split("\t")
    return len(words) == 9 and words[3].isdecimal() and words[4].isdecimal()
