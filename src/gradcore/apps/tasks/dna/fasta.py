"""FASTA: the names and the letters of sequences; and which letters a sequence may have."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

import gradcore as gd

from .genome import Record

__all__ = ["check_letters", "parse_fasta"]

# IUPAC: bases, then what stands for several of them.
WRONG = re.compile("[^ACGTURYSWKMBDHVNacgturyswkmbdhvn-]")
PROTEIN = frozenset("EFILPQZXJO*efilpqzxjo")


def check_letters(path: Path, name: str, line: int, text: str) -> None:
    """Raises ArgumentError, which names record and line, for a letter that stands for no base."""
    wrong = sorted(set(WRONG.findall(text)))
    if wrong:
        shown = ", ".join(map(repr, wrong[:3]))
        protein = set(wrong) <= PROTEIN
        raise gd.ArgumentError(
            f"{path}, record {name}, line {line}: {shown} in the sequence, where only letters of "
            "the IUPAC alphabet of bases may be."
            + (
                " The letters are those of a protein: give the nucleotide sequence of the genome."
                if protein
                else ""
            )
        )


def parse_fasta(path: Path, lines: Iterable[str], first: int = 1) -> list[Record]:
    """Returns the records of lines in FASTA, the first of which is line `first` of the file.

    A record is called by the first word of its header. U counts as T. Raises ArgumentError, which
    names record and line, for a record without a name or a sequence, for two of one name, and for
    what is no letter of a base.
    """
    records: list[Record] = []
    known: dict[str, int] = {}
    # One buffer, not a list of lines: 33 bytes for each would be many times a file of short ones.
    name, title, letters = "", "", bytearray()
    twice: tuple[str, int, int] | None = None
    for number, line in enumerate(lines, start=first):
        text = line.strip()
        if text.startswith(">"):
            if name:
                records.append(_record(path, title, letters, known[name]))
            title, letters = " ".join(text[1:].split()), bytearray()
            name = title.partition(" ")[0]
            if not name:
                raise gd.ArgumentError(
                    f"{path}, line {number}: a record without a name. Write a name after '>'."
                )
            twice = twice or ((name, known[name], number) if name in known else None)
            known[name] = number
        elif text and not text.startswith(";"):
            if not name:
                raise gd.ArgumentError(
                    f"{path}, line {number}: a sequence without a name. Write '>' and a name "
                    "before it."
                )
            text = text.replace(" ", "")
            check_letters(path, name, number, text)
            letters += text.encode("ascii").upper().replace(b"U", b"T")
    if name:
        records.append(_record(path, title, letters, known[name]))
    if twice is not None:
        raise gd.ArgumentError(
            f"{path}, line {twice[2]}: a second record is called {twice[0]}, as the one in line "
            f"{twice[1]}. Rename one of them: genes belong to records by name."
        )
    return records


def _record(path: Path, title: str, letters: bytearray, line: int) -> Record:
    name = title.partition(" ")[0]
    if not letters:
        raise gd.ArgumentError(
            f"{path}, line {line}, record {name}: it has no sequence. Remove the record, or "
            "complete the file."
        )
    return Record(name, str(path), np.frombuffer(bytes(letters), np.uint8), None, title=title)
