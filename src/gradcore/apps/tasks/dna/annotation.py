"""The output of a net for a record, and files of it that genome browsers open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from ...._base.output import write_output
from . import genes as finder
from .codes import BACTERIAL, GeneticCode
from .genome import Gene, Record
from .gff3 import PROGRAM
from .labels import classes_by_part, classes_of
from .train import predict

__all__ = ["Annotation", "annotate", "write_gff3"]


@dataclass(frozen=True, eq=False)
class Annotation:
    """A record with the output of a net for it.

    log_p (n, 7): log probabilities of every base's classes. genes: those that are called from them
    by the genetic code `code`. classes (n,): what the genes mean for every base; they are scored.
    """

    record: Record
    log_p: NDArray[np.float32]
    genes: tuple[Gene, ...]
    code: GeneticCode = BACTERIAL

    @property
    def classes(self) -> NDArray[np.int8]:
        return classes_of(self.genes, len(self.record))

    def confidence(self, gene: Gene) -> float:
        """Returns the mean probability of a gene's own classes over its bases, in 0..1."""
        total = 0.0
        for start, stop, own in classes_by_part(gene):
            log_p = self.log_p[start:stop][np.arange(stop - start), own]
            total += float(np.exp(log_p.astype(np.float64)).sum())
        return total / gene.bases


def annotate(
    net: gd.Stack,
    params: gd.Params,
    record: Record,
    *,
    code: GeneticCode = BACTERIAL,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Annotation:
    """Calls the genes of a record by a net of train.train; its own genes are ignored."""
    log_p = predict(
        net, params, record.letters, circular=record.circular, threads=threads, memory=memory
    )
    found = finder.decode(record.letters, log_p, code=code, circular=record.circular)
    return Annotation(record, log_p, tuple(found), code)


def write_gff3(file: Path, annotations: Sequence[Annotation]) -> None:
    """Writes the called genes of all records; the score of a gene is Annotation.confidence.

    A gene over the origin of a circle ends beyond the record's length, as GFF3 specifies. An end
    that is not known, at an edge of the sequence or at unknown bases, is marked as the NCBI marks
    it.
    Reference: the Sequence Ontology's GFF3 specification, version 1.26.
    """

    def write(made: Path) -> None:
        with made.open("w", encoding="utf-8", newline="\n") as out:
            out.writelines(_document(annotations))

    write_output(file, write)


def _document(annotations: Sequence[Annotation]) -> Iterable[str]:
    """The lines of a GFF3 file."""
    yield "##gff-version 3\n"
    for one in annotations:
        name, length = _escaped(one.record.name), len(one.record)
        yield f"##sequence-region {name} 1 {length}\n"
        if one.record.circular:
            words = [name, PROGRAM, "region", "1", str(length), ".", "+", "."]
            yield "\t".join([*words, f"ID={name};Is_circular=true"]) + "\n"
        yield from _lines(one, name)


def _lines(one: Annotation, name: str) -> Iterable[str]:
    for number, gene in enumerate(one.genes, start=1):
        sign = "+" if gene.strand == 1 else "-"
        # Called genes have one part, or two on either side of an origin.
        low = gene.start if gene.strand == 1 else gene.stop
        first, last = low + 1, low + gene.bases
        words = [name, PROGRAM, "CDS", str(first), str(last)]
        words += [f"{one.confidence(gene):.3f}", sign, str(gene.phase)]
        told = [f"ID={name}_{number}", f"transl_table={one.code.number}"]
        low_known, high_known = (gene.start_known, gene.stop_known)[:: gene.strand]
        if not low_known or not high_known:
            told.append("partial=true")
        if not low_known:
            told.append(f"start_range=.,{first}")
        if not high_known:
            told.append(f"end_range={last},.")
        yield "\t".join([*words, ";".join(told)]) + "\n"


def _escaped(name: str) -> str:
    return quote(name, safe=".:^*$@!+_?-|").replace("~", "%7E")
