"""What a net says of a record, and files of it that genome browsers open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from . import genes as finder
from .labels import classes_of, paint
from .records import Gene, Record
from .train import predict

__all__ = ["Annotation", "annotate", "write_gff3"]


@dataclass(frozen=True, eq=False)
class Annotation:
    """log_p (n, 7): of every base's class. genes: called. classes (n,): of the genes, which are
    scored.
    """

    record: Record
    log_p: NDArray[np.float32]
    genes: tuple[Gene, ...]

    @property
    def classes(self) -> NDArray[np.int8]:
        return classes_of(self.genes, len(self.record))

    def confidence(self, gene: Gene) -> float:
        """Mean probability of a gene's own classes, in 0..1."""
        start, stop = gene.span
        own = np.zeros(stop - start, np.int8)
        paint(gene, own, start)
        log_p = self.log_p[start:stop][np.arange(stop - start), own]
        return float(np.mean(np.exp(log_p.astype(np.float64))))


def annotate(
    net: gd.Stack,
    params: gd.Params,
    record: Record,
    *,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Annotation:
    """The genes of a record, by a net of train.train."""
    log_p = predict(net, params, record.letters, threads=threads, memory=memory)
    return Annotation(record, log_p, tuple(finder.decode(record.letters, log_p)))


def write_gff3(file: Path, annotations: Sequence[Annotation]) -> None:
    """All genes, by record. score: Annotation.confidence.

    Reference: the Sequence Ontology's GFF3 specification, version 1.26.
    """
    with file.open("w", encoding="ascii", newline="\n") as out:
        out.write("##gff-version 3\n")
        for one in annotations:
            name = _escaped(one.record.name)
            out.write(f"##sequence-region {name} 1 {len(one.record)}\n")
            for line in _lines(one, name):
                out.write(line)


def _lines(one: Annotation, name: str) -> Iterable[str]:
    for number, gene in enumerate(one.genes, start=1):
        sign = "+" if gene.strand == 1 else "-"
        for start, stop in gene.parts:
            words = [name, "gradcore", "CDS", str(start + 1), str(stop)]
            words += [f"{one.confidence(gene):.3f}", sign, str(gene.phase)]
            told = f"ID={name}_{number}"
            if not gene.stop_known:
                told += ";partial=true"
            yield "\t".join([*words, told]) + "\n"


def _escaped(name: str) -> str:
    keep = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.:^*$@!+_?-|")
    return "".join(c if c in keep else f"%{ord(c):02X}" for c in name)
