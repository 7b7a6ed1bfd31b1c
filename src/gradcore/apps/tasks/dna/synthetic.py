"""Synthetic genomes, so that the job always runs: codons of a biased usage, starts, stops, both
strands, operons. They are far easier than real ones.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from .codes import BACTERIAL
from .genome import Gene, Record
from .labels import complement

__all__ = ["genome", "genomes"]

LETTERS = np.frombuffer(b"ACGT", np.uint8)
# What stands 6 to 9 bases before a start (Shine and Dalgarno 1974).
RIBOSOME = np.frombuffer(b"AGGAGG", np.uint8)


def genome(name: str, length: int, seed: int) -> Record:
    """Makes a genome of about `length` bases, a function of name, length and seed.

    Its GC content is drawn from 0.35 to 0.65; sense codons have a usage of their own (Dirichlet,
    0.35 per codon), genes 90 to 3,000 bases, 85 % of bases are coding; neighbours are mostly on
    one strand.
    """
    rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
    gc = float(rng.uniform(0.35, 0.65))
    base = np.array([1 - gc, gc, gc, 1 - gc]) / 2
    sense = np.array([c for c in range(64) if c not in BACTERIAL.stops])
    usage = rng.dirichlet(np.full(len(sense), 0.35))
    parts: list[NDArray[np.uint8]] = []
    genes: list[Gene] = []
    at, strand = 0, 1
    while at < length:
        gap = int(rng.exponential(150)) + 12
        between = rng.choice(4, gap, p=base)
        if rng.random() < 0.15:
            strand = -strand
        codons = int(np.clip(rng.lognormal(5.6, 0.6), 30, 1_000))
        body = rng.choice(sense, codons, p=usage)
        body[0] = rng.choice(BACTERIAL.starts, p=(0.85, 0.1, 0.05))
        body = np.append(body, rng.choice(BACTERIAL.stops, p=(0.6, 0.15, 0.25)))
        coding = LETTERS[np.stack([body // 16, body // 4 % 4, body % 4], axis=1).ravel()]
        spacer = int(rng.integers(6, 10))
        lead = np.concatenate([RIBOSOME, LETTERS[rng.choice(4, spacer, p=base)]])
        piece = np.concatenate([lead, coding])
        start = at + gap + (len(lead) if strand == 1 else 0)
        parts += [LETTERS[between], piece if strand == 1 else complement(piece)]
        genes.append(Gene(((start, start + len(coding)),), strand))
        at += gap + len(piece)
    return Record(name, "synthetic", np.concatenate(parts), tuple(genes))


def genomes(count: int, length: int, seed: int, kind: str) -> list[Record]:
    """Makes several genomes, named by their kind."""
    return [genome(f"{kind}-{i + 1}", length, seed) for i in range(count)]
