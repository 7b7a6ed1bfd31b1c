"""GenBank and EMBL files, read by Biopython; what is not exact is masked or left out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

import gradcore as gd

from .codes import biopython
from .fasta import check_letters
from .genome import Gene, Record
from .locations import LEFT_OUT, Coding, genes_of
from .opening import opened
from .remarks import Remarks, Say

__all__ = ["Kind", "parse_insdc"]

Kind = Literal["genbank", "embl"]
NUMBERS = str.maketrans("", "", "0123456789 \t\r\n")
CDS = re.compile(r"(FT)?\s{1,20}CDS(\s|$)")
LOCUS = re.compile(r"LOCUS\s+(?P<name>.*?)(?P<gap>\s*)(?P<length>\d+)\s*(?P<unit>bp|aa|rc)\b", re.I)


def parse_insdc(path: Path, kind: Kind, say: Say, *, genes: bool) -> list[Record]:
    """Reads the records of a file. genes: whether to read CDS features; else genes are None.

    Errors of Biopython are reported with record and line. Raises ArgumentError.
    """
    biopython(f"{path}: reading GenBank and EMBL files")
    remarks = Remarks(path, say)
    records: list[Record] = []
    with opened(path) as lines, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dates, odd lines, partial codons
        stream = _Stream(path, kind, lines)
        scanner = _scanner(kind, stream, genes)
        try:
            while (entry := scanner.parse(stream)) is not None:
                records.append(_record(path, entry, stream, scanner.coding, genes, remarks))
        except gd.GradcoreError:
            raise
        except Exception as error:  # Biopython raises of every kind
            told = " ".join(str(error).split())[:200]
            raise gd.ArgumentError(
                f"{path}, record {stream.name}, line {stream.at}: Biopython cannot read it as "
                f"{'GenBank' if kind == 'genbank' else 'EMBL'}: {type(error).__name__}: {told}."
            ) from error
    if stream.last != "//":
        raise gd.ArgumentError(
            f"{path}, record {stream.name}, line {stream.at}: the file ends within the record (no "
            "'//'). Download it again."
        )
    remarks.finish()
    return records


class _Stream:
    """The lines of a file, as far as Biopython asks for a text file.

    at: number of the latest line. last: the latest that is not blank. name, locus: of the record
    that they are in, and the number of its first line. length, merged: the length in its LOCUS
    line, and whether name and length are written as one word there. coding: numbers of the lines of
    its feature table that look as if a CDS began there.
    """

    def __init__(self, path: Path, kind: Kind, lines: Iterator[str]) -> None:
        self._path, self._kind, self._lines = path, kind, lines
        self._letters = self._features = False
        self.coding: list[int] = []
        self.at, self.last, self.name, self.locus = 0, "", "1", 0
        self.length: int | None = None
        self.merged = False

    def readline(self) -> str:
        line = next(self._lines, "")
        if not line:
            return line
        self.at += 1
        self.last = line.strip() or self.last
        if self._kind == "genbank" and line.startswith("LOCUS"):
            return self._first_line(line)
        if self._kind == "embl" and line.startswith("ID   "):
            return self._identity(line)
        if line.startswith("//"):
            self._letters = False
        elif self._letters:
            check_letters(self._path, self.name, self.at, line.translate(NUMBERS))
        elif line.startswith(("ORIGIN", "SQ   ")):
            self._letters, self._features = True, False
        elif line.startswith(("FEATURES", "FH ")):
            self._features = True
        elif self._features and CDS.match(line):
            self.coding.append(self.at)
        return line

    def read(self, size: int = -1) -> str:
        return "" if size == 0 else "".join(self)

    def __iter__(self) -> Iterator[str]:
        return iter(self.readline, "")

    def close(self) -> None:
        pass

    def _begin(self, name: str) -> None:
        self.name, self.locus, self.length = name or "?", self.at, None
        self._letters = self._features = False
        self.coding = []

    def _first_line(self, line: str) -> str:
        """Returns a LOCUS line with its fields in place; of others Biopython loses the topology.

        Long names run into the length: which digits are whose is seen when the sequence is known.
        """
        found = LOCUS.match(line)
        words = line.split()
        name = found["name"] if found else (words[1] if len(words) > 1 else "")
        self._begin("_".join(name.split()))
        self.length = int(found["length"]) if found else None
        self.merged = found is not None and bool(name) and not found["gap"]
        if self.merged:
            self.name += str(self.length)
        if found is not None and found["unit"].lower() == "aa":
            raise gd.ArgumentError(
                f"{self._path}, record {self.name}, line {self.at}: this is a protein ('aa' in its "
                "LOCUS line). Give the nucleotide record of the genome."
            )
        topology = "circular" if "circular" in line[len("LOCUS") :].lower().split() else "linear"
        return f"LOCUS       {self.name} {self.length or 0} bp DNA {topology} UNK 01-JAN-1980\n"

    def _identity(self, line: str) -> str:
        """Reads an ID line of EMBL. Raises ArgumentError for a protein."""
        words = line.replace(";", " ").split()
        self._begin(words[1] if len(words) > 1 else "")
        if words[-1].upper().rstrip(".") == "AA":
            raise gd.ArgumentError(
                f"{self._path}, record {self.name}, line {self.at}: this is a protein ('AA' in its "
                "ID line). Give the nucleotide record of the genome."
            )
        return line


def _scanner(kind: Kind, stream: _Stream, genes: bool) -> Any:
    """Returns Biopython's scanner, changed to hand CDS features over as text, with their lines.

    Biopython's own features lose what they cannot read and where it was.
    """
    from Bio.GenBank.Scanner import EmblScanner, GenBankScanner

    base: Any = GenBankScanner if kind == "genbank" else EmblScanner

    class Scanner(base):  # type: ignore[misc]
        coding: list[Coding]

        def parse_features(self, skip: bool = False) -> list[Any]:
            self.coding = []
            super().parse_features(skip=not genes)
            return []

        def parse_feature(self, feature_key: str, lines: list[str]) -> Any:
            if feature_key == "CDS":
                first = stream.at - len(lines)
                try:
                    _, location, words = super().parse_feature(feature_key, lines)
                except Exception as error:  # ValueError, AssertionError, IndexError
                    raise gd.ArgumentError(
                        f"{stream._path}, record {stream.name}, line {first}: Biopython cannot "
                        f"read the CDS {lines[0]}: is a bracket or a quote not closed? Correct the "
                        "feature, or remove it."
                    ) from error
                told: dict[str, str] = {}
                for key, value in words:
                    told.setdefault(key, (value or "").strip('"'))
                self.coding.append(Coding(first, "".join(location.split()), told))
            return feature_key, "", []

    return Scanner()


def _record(
    path: Path, entry: Any, stream: _Stream, coding: list[Coding], genes: bool, remarks: Remarks
) -> Record:
    try:
        letters = str(entry.seq).upper().replace("U", "T").encode("ascii")
    except Exception as error:  # Bio.Seq.UndefinedSequenceError
        letters = b""
        cause: Exception | None = error
    else:
        cause = None
    name = _name(entry, stream, len(letters))
    if not letters:
        raise gd.ArgumentError(
            f"{path}, record {name}, line {stream.locus}: the record has no sequence "
            f"({'ORIGIN' if stream._kind == 'genbank' else 'SQ'}). Download it with its sequence: "
            "at the NCBI as 'GenBank (full)'."
        ) from cause
    if stream.length is not None and not stream.merged and stream.length != len(letters):
        remarks(
            "records of another length",
            stream.locus,
            f"the LOCUS line of {name} states {stream.length:,} bases; the sequence has "
            f"{len(letters):,}. Is the file complete?",
        )
    circular = entry.annotations.get("topology") == "circular"
    made: list[Gene] = []
    if genes:
        known = {name, name.split(".")[0], entry.name}
        for one in coding:
            made += genes_of(path, name, one, known, len(letters), circular, remarks)
        for line in sorted({*stream.coding} - {one.line for one in coding}):
            told = (
                "the CDS here is left out: it has no location, or is not in the columns of its kind"
            )
            remarks(LEFT_OUT, line, told)
    return Record(
        name,
        str(path),
        np.frombuffer(letters, np.uint8),
        tuple(made) if genes else None,
        str(entry.annotations.get("organism", "")),
        circular,
    )


def _name(entry: Any, stream: _Stream, length: int) -> str:
    """Returns the accession with its version if there is one, else the name in the first line."""
    told, name, digits = str(entry.id or ""), stream.name, str(length)
    if re.search(r"\w", told) and not told.startswith("<unknown") and told != name:
        return told
    merged = stream.merged and name.endswith(digits) and name != digits
    return name[: -len(digits)] if merged else name
