"""The result of the study as tables, JSON and a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from ...._base.output import write_figure
from ._grid import TASK, Cell
from ._outlier import AT, FACTOR, Contamination
from ._ranks import p_value
from ._ways import CLIPS, OPTIMIZERS

__all__ = ["ClippingStudy"]

LEVEL = 0.05
"""The chance that any difference among an optimizer's clips is called settled but is none."""


@dataclass(frozen=True, eq=False)
class ClippingStudy:
    """The result of the study: cells of the grid, row by row, and the effects of an outlier."""

    updates: int
    seeds: int
    seed: int
    cells: tuple[Cell, ...]
    outliers: tuple[Contamination, ...]

    def cell(self, optimizer: str, clip: str) -> Cell:
        """The cell of an optimizer with a clip."""
        return next(c for c in self.cells if (c.optimizer, c.clip) == (optimizer, clip))

    def disturbed(self, optimizer: str, clip: str) -> int | None:
        """The steps that an outlier disturbs; None for plain SGD, which has no moments."""
        for found in self.outliers:
            if (found.optimizer, found.clip) == (optimizer, clip):
                return found.disturbed
        return None

    def worse(self, optimizer: str) -> dict[str, float]:
        """The p-value with which the optimizer's best clip is better than each other one."""
        cells = sorted((c for c in self.cells if c.optimizer == optimizer), key=lambda c: c.median)
        return {c.clip: p_value(cells[0].loss, c.loss) for c in cells[1:]}

    def lines(self) -> list[str]:
        """A table for each optimizer, with the clip of the smallest median error first.

        Under it stands which of the others it is really better than: with a rank-sum test at
        LEVEL, divided by the number of all pairs of clips. The comparisons with the first alone
        would be too few to divide by, because the same errors decide which clip is the first.
        """
        lines = [
            f"adding problem, T = {TASK.length}, relu RNN from the identity, {self.updates} "
            f"updates, {self.seeds} seeds; always answering 1: {TASK.baseline.loss:.3f}",
            f"disturbed: updates that one gradient of {FACTOR:g} times the size changes by a tenth",
        ]
        for optimizer in OPTIMIZERS:
            lines += [
                "",
                f"{optimizer:14} {'error':>8} {'(least - most)':>17} {'failed':>7} {'lr':>7} "
                f"{'clipped':>8} {'step':>8} {'angle':>6} {'disturbed':>10}",
            ]
            for cell in sorted(
                (c for c in self.cells if c.optimizer == optimizer), key=lambda c: c.median
            ):
                disturbed = self.disturbed(optimizer, cell.clip)
                angle = "-" if np.isnan(cell.angle) else f"{cell.angle:.0f}°"
                spread = f"({_short(cell.loss.min())} - {_short(cell.loss.max())})"
                lines.append(
                    f"  {cell.clip:12} {_short(cell.median):>8} {spread:>17} {cell.failed:7.0%} "
                    f"{cell.lr:7g} {cell.clipped:8.0%} {cell.step:8.1e} {angle:>6} "
                    f"{'-' if disturbed is None else f'{disturbed:,}':>10}"
                )
            lines.append(f"  {self._settled(optimizer)}")
        return lines

    def _settled(self, optimizer: str) -> str:
        worse = self.worse(optimizer)
        sure = [clip for clip, p in worse.items() if p < LEVEL / comb(len(worse) + 1, 2)]
        first = min((c for c in self.cells if c.optimizer == optimizer), key=lambda c: c.median)
        if not sure:
            return f"settled by these seeds: nothing; {first.clip} may be first by chance"
        rest = [clip for clip in worse if clip not in sure]
        open_ = f"; not settled against {', '.join(rest)}" if rest else ""
        return f"settled by these seeds: {first.clip} is better than {', '.join(sure)}{open_}"

    def to_dict(self) -> dict[str, Any]:
        """All numbers as JSON values; infinite losses are None."""
        return {
            "study": "clipping",
            "updates": self.updates,
            "seeds": self.seeds,
            "seed": self.seed,
            "baseline": TASK.baseline.loss,
            "clips": {name: repr(how) for name, how in CLIPS.items()},
            "cells": [
                {
                    "optimizer": c.optimizer,
                    "clip": c.clip,
                    "lr": c.lr,
                    "loss": [_plain(v) for v in c.loss],
                    "p_best_is_better": self.worse(c.optimizer).get(c.clip),
                    "failed": c.failed,
                    "clipped": c.clipped,
                    "step": _plain(c.step),
                    "angle": _plain(c.angle),
                }
                for c in self.cells
            ],
            "outlier": {"factor": FACTOR, "at": AT},
            "outliers": [
                {
                    "optimizer": found.optimizer,
                    "clip": found.clip,
                    "disturbed": found.disturbed,
                    "ratio": [_plain(v) for v in found.ratio[::10]],
                    "theory": None
                    if found.theory is None
                    else [_plain(v) for v in found.theory[::10]],
                }
                for found in self.outliers
            ],
        }

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draws errors by optimizer and clip, seed by seed, and Adam's updates after an outlier."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.5, 4.8), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        self._draw_errors(left)
        self._draw_outlier(right)
        for axis in (left, right):
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, ncols=len(CLIPS), loc="outside lower center")
        write_figure(path, figure, dpi=130)

    def _draw_errors(self, axis: Any) -> None:
        width = 0.84 / len(CLIPS)
        for number, clip in enumerate(CLIPS):
            for column, optimizer in enumerate(OPTIMIZERS):
                x = column + (number - (len(CLIPS) - 1) / 2) * width
                shown = np.minimum(self.cell(optimizer, clip).loss, 1.0)
                axis.scatter(
                    np.full(shown.shape, x), shown, 9, color=f"C{number}", alpha=0.45, linewidth=0
                )
                axis.plot(
                    [x - 0.4 * width, x + 0.4 * width],
                    [np.median(shown)] * 2,
                    color=f"C{number}",
                    linewidth=2.5,
                    label=clip if column == 0 else None,
                )
        axis.axhline(TASK.baseline.loss, color="grey", linewidth=0.8, linestyle="--")
        axis.set(yscale="log", ylabel="held-out error by seed and median, at most 1")
        axis.set_xticks(range(len(OPTIMIZERS)), list(OPTIMIZERS))
        axis.set_title(f"Adding over {TASK.length} steps, {self.updates} updates, own rates")

    def _draw_outlier(self, axis: Any) -> None:
        for number, clip in enumerate(CLIPS):
            found = next(o for o in self.outliers if (o.optimizer, o.clip) == ("Adam", clip))
            steps = np.arange(1, len(found.ratio) + 1)
            axis.plot(steps, found.ratio, color=f"C{number}", linewidth=1.4)
            if found.theory is not None:
                axis.plot(steps, found.theory, "k--", linewidth=0.9, label="formula, no clip")
        axis.set(title=f"Adam after a gradient of {FACTOR:g} times the size", xscale="log")
        axis.set(xlabel="updates from it on", ylabel="|update| over that without it", ylim=(0, 2))
        axis.legend(frameon=False, fontsize="small", loc="upper right")


def _short(value: float) -> str:
    if np.isinf(value):
        return "inf"
    return f"{value:.3g}" if value < 1e3 else f"{value:.0e}"


def _plain(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None
