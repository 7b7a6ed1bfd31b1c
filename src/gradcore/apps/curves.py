"""Draws runs: loss, score, learning rate and gradient norm of one or several, over steps or time.

It needs matplotlib, which is imported only when something is drawn.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._base.output import write_figure
from .._training.runs import read_metrics
from ..errors import ArgumentError, CheckpointError
from .text import literal

__all__ = ["can_draw", "draw"]

# A curve of more points than this is drawn as the mean and range of so many bins, because a picture
# has no more columns.
BINS = 500
# Losses that differ by a larger factor are drawn on a logarithmic axis, where the last halving is
# seen as well as the first.
SPAN = 10.0
LOGARITHMIC = ("loss", "score")
# Sums of larger values overflow, and so do the scales of axes.
_LARGEST = 1e250

X = Literal["step", "seconds"]
Lines = Sequence[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve to draw. mean: smoothed values; low, high: the range of each bin, or the values."""

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(
    path: str | os.PathLike[str],
    runs: Sequence[str | os.PathLike[str]],
    *,
    x: X = "step",
    log: bool | None = None,
) -> list[str]:
    """Saves a picture of runs; the suffix of path gives the format.

    Returns the panels that were to be logarithmic and are linear, as none of their values is
    positive.

    runs: folders that Trainer.fit wrote, or their metrics.jsonl. log: draw loss and score on
    logarithmic axes, or on linear ones; None: the loss on a logarithmic one if it is positive and
    its largest value is more than SPAN times the smallest. Raises CheckpointError for a run that
    cannot be read, ArgumentError if it has no update yet, ImportError without matplotlib, and
    OSError or ValueError for a path that cannot be written.
    """
    read = {name: _checked(run) for name, run in zip(_names(runs), runs, strict=True)}
    for run, lines in zip(runs, read.values(), strict=True):
        if not lines:
            raise ArgumentError(f"{run} has no updates yet; there is nothing to draw.")
    write_figure(path, _figure(read, x, log), dpi=150)
    return [name for name in LOGARITHMIC if log and _is_never_positive(_values(read, name))]


# What lines of metrics may have that is drawn: numbers, and lists of numbers.
_NUMBERS = ("step", "seconds", "loss", "score", "lr", "grad_norm_log10")
_LISTS = ("memory_length", "lyapunov", "lyapunov_error")


def _checked(run: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a run; raises CheckpointError for one that cannot be drawn."""
    lines = read_metrics(run)
    layers = None
    for number, line in enumerate(lines, start=1):
        wrong = next((name for name in _NUMBERS if not _is_number(line.get(name))), None)
        if wrong is None:
            wrong = next((name for name in _LISTS if not _are_numbers(line.get(name))), None)
        if wrong is None and ("lyapunov" in line) != ("lyapunov_error" in line):
            wrong = "lyapunov_error"
        if wrong is None and line.get("memory_length") is not None:
            layers = layers or len(line["memory_length"])
            wrong = None if len(line["memory_length"]) == layers else "memory_length"
        if wrong is None and line.get("seconds") is None:
            wrong = "seconds"
        if wrong is not None:
            shown = f"{line.get(wrong)!r:.60}"
            raise CheckpointError(
                f"{run}, line {number}: {wrong} is {shown}, which no run writes. Move the line or "
                "the file away."
            )
    return lines


def _is_number(value: object) -> bool:
    """Whether a value is a number of the range of floats, or missing."""
    if value is None:
        return True
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    # Infinities and NaN may be losses of a training that failed; they are not drawn.
    return isinstance(value, float) or abs(value) < 2**63


def _are_numbers(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and len(value) > 0 and all(map(_is_number, value))


def smoothed(x: NDArray[np.float64], y: NDArray[np.float64]) -> Curve:
    """A moving mean over about a 25th of the points; beyond BINS points, mean and range of bins."""
    if len(y) > BINS:
        borders = np.linspace(0, len(y), BINS + 1).astype(np.int64)[:-1]
        counts = np.diff(np.append(borders, len(y)))
        low, high = np.minimum.reduceat(y, borders), np.maximum.reduceat(y, borders)
        mean = np.add.reduceat(y, borders) / counts
        return Curve(np.add.reduceat(x, borders) / counts, _moving(mean, 5), low, high)
    return Curve(x, _moving(y, max(1, len(y) // 50)), y, y)


def _moving(y: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """The mean of up to 2*half+1 neighbours; at the ends, of those that exist."""
    sums = np.concatenate([[0.0], np.cumsum(y)])
    index = np.arange(len(y))
    first, stop = np.maximum(index - half, 0), np.minimum(index + half + 1, len(y))
    mean: NDArray[np.float64] = (sums[stop] - sums[first]) / (stop - first)
    return mean


def _figure(runs: Mapping[str, Lines], x: X, log: bool | None) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 6.4), layout="constrained")
    there = {name for lines in runs.values() for line in lines for name in line}
    scored = "score" in there
    panels = ["loss", "score", "lr", "gradient"] if scored else ["loss", "gradient", "lr"]
    panels += ["memory_length", "lyapunov"] if "memory_length" in there else []
    rows = -(-len(panels) // 2)
    figure.set_figheight(3.2 * rows)
    grid = figure.subplots(rows, 2, sharex=True).flat
    axes = dict(zip(panels, grid, strict=False))
    for axis in grid[len(panels) :]:
        axis.set_axis_off()
    axes["loss"].set_ylabel("loss")
    axes["lr"].set_ylabel("learning rate")
    axes["gradient"].set_ylabel("log10 of the gradient's norm")
    if "score" in axes:
        axes["score"].set_ylabel("score")
    if "memory_length" in axes:
        axes["memory_length"].set_ylabel("steps that gradients reach back")
        axes["lyapunov"].set_ylabel("largest Lyapunov exponent")
    handles = []
    for number, (name, lines) in enumerate(runs.items()):
        handles.append(_draw_run(axes, name, lines, x, f"C{number % 10}"))
    logarithmic = {name for name in LOGARITHMIC if log and _values(runs, name).max(initial=0) > 0}
    if log is None and _spans(_values(runs, "loss")):
        logarithmic = {"loss"}
    for panel, axis in axes.items():
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelbottom=True)
        axis.set_xlabel(x)
        if panel in logarithmic:
            axis.set_yscale("log", nonpositive="mask")
    axes["lr"].set_ylim(bottom=0.0)
    axes["lr"].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    if len(runs) == 1:
        figure.suptitle(literal(next(iter(runs))))
    else:
        columns = min(4, len(runs))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _values(runs: Mapping[str, Lines], name: str) -> NDArray[np.float64]:
    """All values of that name that are drawn."""
    found = np.array([_drawn(line.get(name)) for lines in runs.values() for line in lines])
    kept: NDArray[np.float64] = found[~np.isnan(found)]
    return kept


def _spans(losses: NDArray[np.float64]) -> bool:
    """Whether the losses of all runs are positive and differ by more than SPAN."""
    return bool(len(losses) and losses.min() > 0 and losses.max() > SPAN * losses.min())


def _is_never_positive(values: NDArray[np.float64]) -> bool:
    return bool(len(values) and values.max() <= 0)


def _draw_run(axes: Mapping[Any, Any], name: str, lines: Lines, x: X, colour: str) -> Any:
    (handle,) = _draw_noisy(axes["loss"], lines, x, "loss", colour)
    handle.set_label(literal(name))
    _draw_noisy(axes["gradient"], lines, x, "grad_norm_log10", colour)
    clipped = sum(bool(line.get("clipped")) for line in lines) / len(lines)
    if clipped > 0:
        axes["gradient"].plot([], [], color=colour, label=f"clipped in {clipped:.0%} of updates")
        axes["gradient"].legend(frameon=False, fontsize="small")
    axes["lr"].plot(*_columns(lines, x, "lr"), color=colour, linewidth=1.5)
    if "score" in axes:
        # Markers are drawn only if there are few enough to be told apart.
        at, scores = _columns(lines, x, "score")
        marker = "o" if len(at) <= 60 else None
        axes["score"].plot(at, scores, color=colour, marker=marker, markersize=3.5, linewidth=1.5)
    if "memory_length" in axes:
        _draw_watched(axes, lines, x, colour)
    return handle


def _draw_watched(axes: Mapping[Any, Any], lines: Lines, x: X, colour: str) -> None:
    """Draws memory lengths, dotted below the top layer, and exponents with 2 standard errors."""
    seen = [line for line in lines if line.get("memory_length") is not None]
    at = [_drawn(line[x]) for line in seen]
    layers = len(seen[0]["memory_length"]) if seen else 0
    for layer in range(layers):
        style = "-" if layer == layers - 1 else ":"
        values = [_drawn(line["memory_length"][layer]) for line in seen]
        axes["memory_length"].plot(at, values, style, color=colour, marker="o", markersize=3)
    seen = [line for line in lines if (line.get("lyapunov") or [None])[0] is not None]
    axes["lyapunov"].errorbar(
        [_drawn(line[x]) for line in seen],
        [_drawn(line["lyapunov"][0]) for line in seen],
        [2 * abs(_drawn((line["lyapunov_error"] or [0.0])[0] or 0.0)) for line in seen],
        color=colour,
        marker="o",
        markersize=3,
        linewidth=1,
    )
    axes["lyapunov"].axhline(0.0, color="grey", linewidth=0.8)


def _draw_noisy(axis: Any, lines: Lines, x: X, name: str, colour: str) -> Any:
    """Draws the values or their range in pale colour, and the smoothed curve over them."""
    curve = smoothed(*_columns(lines, x, name))
    if curve.low is curve.high:
        axis.plot(curve.x, curve.low, color=colour, alpha=0.25, linewidth=0.8)
    else:
        axis.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
    return axis.plot(curve.x, curve.mean, color=colour, linewidth=1.8)


def _columns(lines: Lines, x: X, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    pairs = [(_drawn(line.get(x)), _drawn(line.get(name))) for line in lines]
    array = np.array(pairs, np.float64).reshape(-1, 2)
    array = array[~np.isnan(array).any(axis=1)]
    return array[:, 0], array[:, 1]


def _drawn(value: float | None) -> float:
    """The value, or NaN for one that is missing or beyond what a picture can show."""
    return float(value) if value is not None and abs(value) < _LARGEST else math.nan


def _names(runs: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The names of the folders, with as many parent folders as needed to distinguish them."""
    folders = [Path(run).absolute() for run in runs]
    folders = [p.parent if p.is_file() else p for p in folders]
    for parts in range(1, max(len(p.parts) for p in folders) + 1):
        names = ["/".join(p.parts[-parts:]) for p in folders]
        if len(set(names)) == len(names):
            return names
    raise ArgumentError("every run must be given only once, but one is given twice.")
