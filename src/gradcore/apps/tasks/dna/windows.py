"""Windows of genomes, of both strands, as a data source for the Trainer."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence

import numpy as np

import gradcore as gd

from ....data._contents import fingerprint
from ..staged import Stage, Staged
from .genome import Record
from .labels import Labels, complement, labels, reverse_labels, tokens

__all__ = ["STAGES", "Windows"]

# Genes are a thousand bases long, and the number of updates decides. After 100 seconds the mean
# Matthews correlation of three validation records was 0.79 with windows of 1,000 x 8, 4,000 x 4 and
# 50,000 x 1, and 0.81 with half the rows; with 1,500 x 16 and 6,000 x 8, beside other work, 0.47.
# Half the rows and a rate of 4e-3 that stayed for 6 of 20 minutes went from a loss of 0.25 to 1.
# The last stage holds dozens of genes, so that states at the edges of windows are rare.
STAGES = (Stage(1_000, 8, 0.3), Stage(4_000, 4, 0.5), Stage(50_000, 1, 0.2))


class Windows(Staged):
    """Windows at random places of random records, by their length, each strand half of the time.

    width: bases per token. bases: steps that end the pass, None: by the clock. label, reverse: the
    labels of a record, and what they are on the other strand. spots: of each record the parts
    (start, stop) that half of the windows hold at least one base of, any of all alike.
    """

    def __init__(
        self,
        records: Sequence[Record],
        stages: Sequence[Stage],
        *,
        width: int,
        seed: int,
        seconds: float = math.inf,
        bases: int | None = None,
        label: Callable[[Record], Labels] = labels,
        reverse: Callable[[Labels], Labels] = reverse_labels,
        spots: Sequence[Sequence[tuple[int, int]]] = (),
        on_stage: Callable[[Stage], None] = lambda stage: None,
    ) -> None:
        checksum = 0
        self._strands = []
        for record in records:
            checksum = zlib.crc32(record.letters.tobytes(), checksum)
            forward = label(record)
            back = reverse(forward)
            other = complement(record.letters)
            self._strands.append(
                (
                    (tokens(record.letters, width), forward.classes, forward.counts),
                    (tokens(other, width), back.classes, back.counts),
                )
            )
        super().__init__(
            stages,
            seconds=seconds,
            limit=bases,
            described={
                "source": "dna",
                "seed": seed,
                "width": width,
                "limit": "clock" if bases is None else f"{bases} bases",
                "records": f"{len(records)} with checksum {checksum:08x}",
            },
            on_stage=on_stage,
        )
        self._seed = seed
        self._ends = np.cumsum([len(record) for record in records])
        self._spots = [(r, *spot) for r, parts in enumerate(spots) for spot in parts]

    def contents(self) -> dict[str, str]:
        """Fingerprints of the bases and of their labels, which follow from the genes."""
        arrays = zip(*(forward for forward, _ in self._strands), strict=True)
        return {
            name: fingerprint(list(array))
            for name, array in zip(("bases", "labels", "weights"), arrays, strict=False)
        }

    def make(self, index: int, stage: int) -> gd.Batch:
        """Draws the windows of a batch; they are shorter than the stage asks where records are."""
        rng = np.random.default_rng((self._seed, stage, index))
        own = self.stages[stage]
        x = np.zeros((own.steps, own.batch), np.uint8)
        y = np.zeros((own.steps, own.batch), np.int8)
        weight = np.zeros((own.steps, own.batch), np.float32)
        lengths = np.zeros(own.batch, np.int64)
        for b in range(own.batch):
            record, low, high = self._range(rng, own.steps)
            strand = int(rng.integers(2))
            seen, classes, counts = self._strands[record][strand]
            length = min(own.steps, len(seen))
            start = int(rng.integers(low, high + 1))
            start = start if strand == 0 else len(seen) - length - start
            x[:length, b] = seen[start : start + length]
            y[:length, b] = classes[start : start + length]
            weight[:length, b] = counts[start : start + length]
            lengths[b] = length
        ragged = bool((lengths < own.steps).any())
        steps = int(lengths.max())
        x, y, weight = x[:steps], y[:steps], weight[:steps]
        return gd.Batch(
            x.astype(np.int64),
            y.astype(np.int64),
            weight=weight,
            lengths=lengths if ragged else None,
        )

    def _range(self, rng: np.random.Generator, steps: int) -> tuple[int, int, int]:
        """A record, and from where to where on its plus strand a window may start."""
        if self._spots and rng.random() < 0.5:
            record, first, stop = self._spots[int(rng.integers(len(self._spots)))]
            last = max(0, len(self._strands[record][0][0]) - steps)
            return record, min(last, max(0, first - steps + 1)), min(last, stop - 1)
        place = int(rng.integers(self._ends[-1]))
        record = int(np.searchsorted(self._ends, place, side="right"))
        return record, 0, max(0, len(self._strands[record][0][0]) - steps)
