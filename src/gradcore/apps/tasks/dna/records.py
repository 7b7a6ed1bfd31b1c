"""Genome files: GenBank, FASTA, FASTA with GFF3 beside it, plain or gzip; with their genes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from ..packed import is_gzip, open_gzip

__all__ = ["Gene", "Record", "read", "read_gff3"]

FASTA = (".fa", ".fasta", ".fna", ".ffn", ".seq")
GFF3 = (".gff", ".gff3")
# IUPAC: bases, then what stands for several of them.
LETTERS = frozenset(b"ACGTURYSWKMBDHVN-acgturyswkmbdhvn")


@dataclass(frozen=True)
class Gene:
    """A coding sequence. parts: (start, stop) in bases from 0, stop excluded, in the order in which
    they are read: of strand -1 the last part on the plus strand comes first. phase: bases of the
    first part before its first whole codon. pseudo: it no longer codes. start_known, stop_known:
    whether the ends are exact. phage: marked as one of a prophage.
    """

    parts: tuple[tuple[int, int], ...]
    strand: int
    phase: int = 0
    pseudo: bool = False
    start_known: bool = True
    stop_known: bool = True
    phage: bool = False

    @property
    def span(self) -> tuple[int, int]:
        """First base and the one behind the last."""
        return min(a for a, _ in self.parts), max(b for _, b in self.parts)


@dataclass(frozen=True, eq=False)
class Record:
    """One sequence of a file. letters (n,): upper case ASCII. genes: None where none were read.
    organism: as a GenBank file names it, else empty.
    """

    name: str
    source: str
    letters: NDArray[np.uint8]
    genes: tuple[Gene, ...] | None
    organism: str = ""

    def __len__(self) -> int:
        return len(self.letters)


def read(path: str | Path, *, annotation: str | Path | None = None) -> list[Record]:
    """The records of a GenBank or FASTA file, plain or gzip.

    annotation: a GFF3 (or GenBank) file with the genes of a FASTA file; without it, NAME.gff3 or
    NAME.gff beside NAME.fa is taken if it is there. A GenBank file that has no genes gives empty
    ones, a FASTA file alone None. U counts as T; what is not an IUPAC letter is an error.
    Raises ArgumentError naming file, record and line.
    """
    path = Path(path)
    with _opened(path) as lines:
        first = next(lines, "")
    if first.startswith("LOCUS"):
        records = _genbank(path)
    elif first.startswith(">"):
        records = _fasta(path)
    else:
        raise gd.ArgumentError(
            f"{path}, line 1: neither GenBank (LOCUS) nor FASTA (>); it begins with {first[:30]!r}."
        )
    if not records:
        raise gd.ArgumentError(f"{path} holds no sequence.")
    beside = Path(annotation) if annotation is not None else _beside(path, records)
    if beside is None:
        return records
    if beside.name.removesuffix(".gz").endswith(GFF3):
        found = read_gff3(beside)
    else:
        found = {record.name: record.genes or () for record in read(beside)}
    return [_with(record, found, beside) for record in records]


def _with(record: Record, found: dict[str, Sequence[Gene]], source: Path) -> Record:
    names = [record.name, record.name.split(".")[0]]
    genes = next((found[name] for name in names if name in found), None)
    if genes is None:
        if len(found) != 1:
            raise gd.ArgumentError(
                f"{source} has no genes of {record.name}, a record of {record.source}; it has "
                f"those of {', '.join(list(found)[:5]) or 'none'}."
            )
        (genes,) = found.values()
    for gene in genes:
        if gene.span[1] > len(record):
            raise gd.ArgumentError(
                f"{source}: a gene at {gene.span[0] + 1}..{gene.span[1]} ends behind "
                f"{record.name}, which has {len(record):,} bases."
            )
    return replace(record, genes=tuple(genes))


def _beside(path: Path, records: list[Record]) -> Path | None:
    if any(record.genes is not None for record in records):
        return None
    stem = path.name.removesuffix(".gz")
    for suffix in FASTA:
        stem = stem.removesuffix(suffix)
    for suffix in (".gff3", ".gff", ".gff3.gz", ".gff.gz"):
        if (path.parent / f"{stem}{suffix}").exists():
            return path.parent / f"{stem}{suffix}"
    return None


# ---- files


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a file. Raises ArgumentError for one that cannot be read."""
    try:
        stream: IO[str]
        with (
            open_gzip(path, "latin-1") if is_gzip(path) else path.open(encoding="latin-1")
        ) as stream:
            yield iter(stream)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise gd.ArgumentError(f"cannot read {path}: {reason}.") from error


def _letters(path: Path, name: str, line: int, text: str) -> bytes:
    raw = text.encode("latin-1").upper().replace(b"U", b"T")
    wrong = set(raw) - LETTERS
    if wrong:
        shown = ", ".join(repr(chr(c)) for c in sorted(wrong)[:3])
        raise gd.ArgumentError(
            f"{path}, record {name}, line {line}: {shown} in the sequence, where only letters of "
            "the IUPAC alphabet of bases may be."
        )
    return raw


def _record(path: Path, name: str, found: bytes, genes: Any, organism: str = "") -> Record:
    letters = np.frombuffer(found, np.uint8)
    if not len(letters):
        raise gd.ArgumentError(f"{path}, record {name}: it has no sequence.")
    return Record(name, str(path), letters, genes, organism)


def _fasta(path: Path) -> list[Record]:
    records: list[Record] = []
    # One buffer, not a list of lines: 33 bytes for each would be many times a file of short ones.
    name, letters = "", bytearray()
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            text = line.strip()
            if text.startswith(">"):
                if name:
                    records.append(_record(path, name, bytes(letters), None))
                words = text[1:].split()
                if not words:
                    raise gd.ArgumentError(f"{path}, line {number}: a record without a name.")
                name, letters = words[0], bytearray()
            elif text and not text.startswith(";"):
                letters += _letters(path, name, number, text.replace(" ", ""))
    records.append(_record(path, name, bytes(letters), None))
    return records


def _genbank(path: Path) -> list[Record]:
    """By Biopython; what it makes of a broken file is told with record and line."""
    try:
        from Bio import SeqIO
        from Bio.SeqFeature import ExactPosition
    except ImportError as error:
        raise ImportError(
            "GenBank files need Biopython. Run: pip install 'gradcore[data]'"
        ) from error
    import warnings

    records: list[Record] = []
    at, name, last = 0, "1", ""

    def counted(lines: Iterator[str]) -> Iterator[str]:
        nonlocal at, name, last
        for line in lines:
            at += 1
            last = line.strip() or last
            if line.startswith("LOCUS"):
                name = [*line.split(), "?"][1]
            yield line

    with _opened(path) as lines, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dates, odd lines, partial codons
        stream = counted(lines)
        try:
            for entry in SeqIO.parse(_Lines(stream), "genbank"):  # type: ignore[no-untyped-call]
                sequence = _sequence(path, entry, at)
                genes = [
                    gene
                    for feature in entry.features
                    if feature.type == "CDS"
                    for gene in _gene(path, entry, feature, len(sequence), ExactPosition)
                ]
                organism = str(entry.annotations.get("organism", ""))
                name_of = entry.id or entry.name
                records.append(_record(path, name_of, sequence, tuple(genes), organism))
        except gd.ArgumentError:
            raise
        except Exception as error:  # Biopython raises of every kind
            raise gd.ArgumentError(
                f"{path}, record {name}, line {at}: not GenBank as Biopython reads it: "
                f"{type(error).__name__}: {error}."
            ) from error
    if last != "//":
        raise gd.ArgumentError(
            f"{path}, record {name}, line {at}: the file ends within the record (no '//')."
        )
    return records


class _Lines:
    """A text file, as far as Biopython asks for one."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines

    def readline(self) -> str:
        return next(self._lines, "")

    def read(self, size: int = -1) -> str:
        return "" if size == 0 else "".join(self._lines)

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def close(self) -> None:
        pass


def _sequence(path: Path, entry: Any, line: int) -> bytes:
    try:
        text = str(entry.seq)
    except Exception as error:  # Bio.Seq.UndefinedSequenceError
        raise gd.ArgumentError(
            f"{path}, record {entry.name}, line {line}: the record has no sequence (ORIGIN)."
        ) from error
    return _letters(path, entry.name, line, text)


def _gene(path: Path, entry: Any, feature: Any, length: int, exact: Any) -> Iterator[Gene]:
    """The gene of a CDS feature; none where it is read across the end of a circle."""
    parts = [(int(p.start), int(p.end)) for p in feature.location.parts]
    strands = {p.strand for p in feature.location.parts}
    if any(not 0 <= a < b <= length for a, b in parts):
        raise gd.ArgumentError(
            f"{path}, record {entry.name}: the CDS at {feature.location} is not within the "
            f"{length:,} bases of the record."
        )
    strand = strands.pop() if len(strands) == 1 else None
    if strand not in (1, -1):
        # Read from both strands (trans-splicing): what it codes is known, in which frame is not.
        for a, b in parts:
            yield Gene(((a, b),), 1, pseudo=True)
        return
    words = feature.qualifiers
    start, stop = feature.location.start, feature.location.end
    known = isinstance(start, exact), isinstance(stop, exact)
    if strand == -1:
        known = known[::-1]
    phase = (words.get("codon_start") or ["1"])[0]
    yield Gene(
        tuple(parts),
        strand,
        phase=int(phase) - 1 if phase in ("1", "2", "3") else 0,
        pseudo="pseudo" in words or "pseudogene" in words,
        start_known=known[0],
        stop_known=known[1],
        phage="is_phage" in words,
    )


def read_gff3(path: str | Path) -> dict[str, Sequence[Gene]]:
    """CDS of a GFF3 file by sequence; lines of one ID are parts of one gene.

    Raises ArgumentError naming file and line.
    Reference: the Sequence Ontology's GFF3 specification, version 1.26.
    """
    path = Path(path)
    pieces: dict[tuple[str, str], list[tuple[int, int, int, str, bool, bool]]] = {}
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            text = line.rstrip("\n")
            if text.startswith("##FASTA"):
                break
            if not text.strip() or text.startswith("#"):
                continue
            words = text.split("\t")
            if len(words) != 9:
                raise gd.ArgumentError(
                    f"{path}, line {number}: GFF3 has 9 columns, separated by tabs; got "
                    f"{len(words)}."
                )
            if words[2] != "CDS":
                continue
            name = unquote(words[0])
            pairs = [pair.split("=", 1) for pair in words[8].split(";") if "=" in pair]
            told = {key.strip(): unquote(value) for key, value in pairs}
            if words[6] not in ("+", "-"):
                raise gd.ArgumentError(
                    f"{path}, record {name}, line {number}: the strand of a CDS must be + or -; "
                    f"got {words[6]!r}."
                )
            try:
                first, last = int(words[3]), int(words[4])
                phase = 0 if words[7] == "." else int(words[7])
            except ValueError:
                first, last, phase = 0, 0, 0
            if not 1 <= first <= last or phase not in (0, 1, 2):
                raise gd.ArgumentError(
                    f"{path}, record {name}, line {number}: start, end and phase must be numbers, "
                    f"1 <= start <= end and phase 0 to 2; got {words[3]}, {words[4]}, {words[7]}."
                )
            key = told.get("ID") or f"line {number}"
            pseudo = told.get("pseudo", "").lower() == "true" or "pseudogene" in told
            phage = "is_phage" in told
            part = (first - 1, last, phase, words[6], pseudo, phage)
            pieces.setdefault((name, key), []).append(part)
    found: dict[str, list[Gene]] = {}
    for (name, _), parts in pieces.items():
        strand = 1 if parts[0][3] == "+" else -1
        ordered = sorted(parts, reverse=strand == -1)
        gene = Gene(
            tuple((a, b) for a, b, *_ in ordered),
            strand,
            phase=ordered[0][2],
            pseudo=any(part[4] for part in parts),
            phage=any(part[5] for part in parts),
        )
        found.setdefault(name, []).append(gene)
    return dict(found)
