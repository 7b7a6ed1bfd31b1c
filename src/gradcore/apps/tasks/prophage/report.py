"""What came of the trainings: a table, JSON, and a picture of the chromosomes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...._base.output import write_figure
from ...text import literal
from ..dna.train import Options, Trained
from .scores import BIN, WINDOW

__all__ = ["SCORES", "Judged", "Result", "Track", "as_json", "draw", "lines"]

SCORES = ("net", "smooth", "kmers")


@dataclass(frozen=True, eq=False)
class Track:
    """One record, by bins of BIN bases: whether it lies in a prophage, the net's mean log-odds of
    the bin, those of the WINDOW bases round it, and those of 6-mers there.
    """

    name: str
    truth: NDArray[np.bool_]
    net: NDArray[np.float64]
    smooth: NDArray[np.float64]
    kmers: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Judged:
    """A species held out. net, smooth, kmers: AUROC over the bins of all its records, see Track.
    reach: bases after which the gradient of the last output has fallen to 1 % in the last layer,
    forwards.
    """

    species: str
    tracks: tuple[Track, ...]
    net: float
    smooth: float
    kmers: float
    reach: int
    trained: Trained


@dataclass(frozen=True, eq=False)
class Result:
    """What came of all species. seconds: how long everything took."""

    judged: tuple[Judged, ...]
    options: Options
    seconds: float

    def mean(self, score: str) -> float:
        """Mean AUROC over the species of one of SCORES."""
        return float(np.mean([getattr(one, score) for one in self.judged]))


def lines(result: Result) -> list[str]:
    """The table for a terminal."""
    made = [
        f"AUROC of prophage or not, bins of {BIN:,} bases, each species by a net of the others;",
        f"averaged: over the {WINDOW:,} bases round a bin, as the 6-mers are",
        f"{'species held out':28}  {'bins':>7}  {'in prophages':>12}  {'6-mers':>6}  {'net':>6}  "
        f"{'averaged':>8}  {'gradient reaches':>16}",
    ]
    for one in result.judged:
        truth = np.concatenate([track.truth for track in one.tracks])
        made.append(
            f"{one.species[:28]:28}  {len(truth):7,}  {truth.sum():12,}  {one.kmers:6.3f}  "
            f"{one.net:6.3f}  {one.smooth:8.3f}  {one.reach:16,}"
        )
    made.append(
        f"mean AUROC: 6-mers {result.mean('kmers'):.3f}, net {result.mean('net'):.3f}, averaged "
        f"{result.mean('smooth'):.3f}"
    )
    return made


def as_json(result: Result) -> dict[str, Any]:
    """Returns every figure of a result, ready for JSON."""
    return {
        "task": "prophage",
        "seconds": round(result.seconds, 1),
        "auroc": {score: result.mean(score) for score in SCORES},
        "species": [
            {
                "name": one.species,
                "auroc": {score: getattr(one, score) for score in SCORES},
                "reach": one.reach,
                "updates": one.trained.steps,
                "bases": one.trained.bases,
                "longest_window": one.trained.longest,
            }
            for one in result.judged
        ],
    }


def draw(path: str | os.PathLike[str], result: Result) -> None:
    """The longest record of each species: known regions shaded, scores along it. Needs
    matplotlib.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 1.9 * len(result.judged) + 0.5), layout="constrained")
    axes = figure.subplots(len(result.judged), 1, squeeze=False)[:, 0]
    for axis, one in zip(axes, result.judged, strict=True):
        track = max(one.tracks, key=lambda track: (track.truth.any(), len(track.truth)))
        where = np.arange(len(track.truth)) * BIN / 1e6
        axis.fill_between(
            where,
            0,
            1,
            where=track.truth,
            step="post",
            color="0.85",
            transform=axis.get_xaxis_transform(),
            label="prophage",
        )
        for name, values, colour in (
            ("6-mers", track.kmers, "C1"),
            ("net, averaged", track.smooth, "C0"),
        ):
            spread = values.std() or 1.0
            axis.plot(
                where, (values - values.mean()) / spread, linewidth=0.7, color=colour, label=name
            )
        axis.set(xlim=(0, where[-1] + BIN / 1e6), yticks=[], xlabel="million bases")
        axis.set_title(
            f"{literal(one.species)}, {literal(track.name)}: AUROC of the species "
            f"{one.smooth:.3f}, 6-mers {one.kmers:.3f}",
            fontsize=10,
        )
        axis.spines[["top", "right", "left"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize="small", ncol=3)
    figure.supylabel("score, in standard deviations", fontsize=9)
    write_figure(path, figure, dpi=120)
