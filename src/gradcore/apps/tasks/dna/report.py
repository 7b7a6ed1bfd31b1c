"""What came of a training: a table, JSON, and a picture of a genome."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...._base.output import write_figure
from ...text import literal
from .annotation import Annotation
from .genome import Gene
from .labels import Labels
from .scores import GeneScore, Score
from .train import Trained

__all__ = ["Judged", "Result", "as_json", "draw", "lines"]

# Bases of a genome that a picture has room for.
SHOWN = 30_000


@dataclass(frozen=True, eq=False)
class Judged:
    """The scores of one record, all over the same bases.

    part: "validate" or "test". majority: accuracy of the most frequent of non-coding, plus, minus.
    orf: the longest-ORF rule. prodigal: None where pyrodigal is not installed.
    """

    part: str
    annotation: Annotation
    truth: Labels
    net: Score
    genes: GeneScore
    majority: float
    orf: Score
    prodigal: Score | None


@dataclass(frozen=True, eq=False)
class Result:
    """seconds: of everything. synthetic: whether the genomes are generated. code: number of the
    genetic code of most genomes that the net was trained on.
    """

    trained: Trained
    judged: tuple[Judged, ...]
    seconds: float
    synthetic: bool
    code: int

    def mean(self, what: str) -> float | None:
        """Mean Matthews correlation of "net", "orf" or "prodigal" over all judged records."""
        found = [getattr(one, what) for one in self.judged]
        if not found or any(score is None for score in found):
            return None
        return float(np.mean([score.matthews for score in found]))


def lines(result: Result) -> list[str]:
    """The table for a terminal."""
    prodigal = any(one.prodigal is not None for one in result.judged)
    head = (
        f"{'record':24}  {'bases':>9}  {'majority':>8}  {'ORF rule':>15}  {'net':>15}  "
        f"{'stops found':>13}  {'and starts':>10}  {'false':>5}"
    )
    made = [
        "accuracy of non-coding, + and - strand / Matthews correlation coding or not"
        + ("; synthetic genomes, far easier than real ones" if result.synthetic else ""),
        head + (f"  {'Prodigal':>15}" if prodigal else ""),
    ]
    for one in result.judged:
        g = one.genes
        line = (
            f"{one.annotation.record.name[:24]:24}  {one.net.bases:9,}  {one.majority:8.3f}  "
            f"{_pair(one.orf):>15}  {_pair(one.net):>15}  {f'{g.stops} of {g.known}':>13}  "
            f"{g.whole:10}  {g.false:5}"
        )
        made.append(line + (f"  {_pair(one.prodigal):>15}" if prodigal else ""))
    net, orf = result.mean("net"), result.mean("orf")
    if net is not None and orf is not None and len(result.judged) > 1:
        made.append(
            f"mean Matthews correlation: {net:.3f}, ORF rule {orf:.3f} ({net - orf:+.3f})"
            + (f", Prodigal {result.mean('prodigal'):.3f}" if prodigal else "")
        )
    return made


def _pair(score: Score | None) -> str:
    return "" if score is None else f"{score.accuracy:.3f} / {score.matthews:.3f}"


def as_json(result: Result) -> dict[str, Any]:
    """Returns every figure of a result, ready for JSON."""
    trained = result.trained
    return {
        "task": "dna",
        "synthetic": result.synthetic,
        "genetic_code": result.code,
        "seconds": round(result.seconds, 1),
        "training": {
            "updates": trained.steps,
            "bases": trained.bases,
            "seconds": round(trained.seconds, 1),
            "longest_window": trained.longest,
        },
        "mean_matthews": {what: result.mean(what) for what in ("net", "orf", "prodigal")},
        "records": [
            {
                "name": one.annotation.record.name,
                "part": one.part,
                "genetic_code": one.annotation.code.number,
                "net": asdict(one.net),
                "genes": asdict(one.genes),
                "majority": one.majority,
                "orf": asdict(one.orf),
                "prodigal": None if one.prodigal is None else asdict(one.prodigal),
            }
            for one in result.judged
        ],
    }


def draw(path: str | os.PathLike[str], judged: Sequence[Judged]) -> None:
    """Tracks of up to three records: known genes above, called ones below, p(coding). Needs
    matplotlib.
    """
    from matplotlib.figure import Figure

    some = judged[:3]
    figure = Figure(figsize=(13.0, 2.9 * len(some) + 0.4), layout="constrained")
    rows = figure.subplots(2 * len(some), 1, squeeze=False, height_ratios=[3, 2] * len(some))[:, 0]
    for one, track, curve in zip(some, rows[::2], rows[1::2], strict=True):
        record = one.annotation.record
        shown = min(SHOWN, len(record))
        for genes, low, name in (
            (record.genes or (), 2.3, "known"),
            (one.annotation.genes, 0.0, "called"),
        ):
            for gene in genes:
                _arrow(track, gene, low, shown)
            track.text(-0.008 * shown, low + 1.0, name, ha="right", va="center")
        track.set(xlim=(0, shown), ylim=(-0.3, 4.6), yticks=[])
        track.set_title(
            f"{literal(record.name)}, bases 1 to {shown:,}: plus strand above, minus below in each "
            f"pair; pseudogenes hollow. Matthews correlation {one.net.matthews:.3f} (whole record)",
            fontsize=10,
        )
        coding = 1 - np.exp(one.annotation.log_p[:shown, 0])
        curve.plot(np.arange(shown), coding, linewidth=0.5, color="C2")
        out = ~one.truth.counts[:shown]
        curve.fill_between(
            np.arange(shown), 0, 1, where=out, color="0.85", step="mid", label="not scored"
        )
        curve.set(xlim=(0, shown), ylim=(0, 1.02), ylabel="p(coding)", xlabel="base")
        for axis in (track, curve):
            axis.spines[["top", "right"]].set_visible(False)
        track.spines["left"].set_visible(False)
        if out.any():
            curve.legend(frameon=False, fontsize="small", loc="lower right")
    write_figure(path, figure, dpi=120)


def _arrow(axis: Any, gene: Gene, low: float, shown: int) -> None:
    """A gene as an arrow along its strand."""
    for start, stop in gene.parts:
        if start >= shown:
            continue
        plus = gene.strand == 1
        tip = min(200, (stop - start) // 2)
        height = low + (1.1 if plus else 0.1)
        body = (
            [(start, 0), (stop - tip, 0), (stop, 0.4), (stop - tip, 0.8), (start, 0.8)]
            if plus
            else [(stop, 0), (start + tip, 0), (start, 0.4), (start + tip, 0.8), (stop, 0.8)]
        )
        colour = "C0" if plus else "C1"
        axis.fill(
            [x for x, _ in body],
            [height + y for _, y in body],
            facecolor="none" if gene.pseudo else colour,
            edgecolor=colour if gene.pseudo else "white",
            linewidth=0.6,
        )
