"""Draws the pictures of a diagnosis with matplotlib, which is imported only when one is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._measured import Measured
from ._verdict import FRACTION, HUGE, TINY, memory_length

__all__ = ["Panel", "draw", "draw_panel", "panels"]

COLUMNS = 2
# Curves are drawn with at most so many points, which is more than the pixels of a panel's width.
POINTS = 2_000


@dataclass(frozen=True)
class Panel:
    """One picture of a diagnosis. caption: what is drawn and what its lines mean, in sentences."""

    title: str
    caption: str
    draw: Callable[[Any, Measured], None]


def panels(m: Measured) -> list[Panel]:
    """A panel for every part that was measured."""
    found = {
        "hidden": Panel(
            "Size of the gradient along the sequence",
            "The norm of dL/dh at each step: a line for the median over the sequences, a band for "
            "their range. A curve that falls towards the left belongs to a gradient that vanishes "
            "on its way back; beyond a dashed red line float32 has no numbers of that size.",
            _hidden,
        ),
        "reach": Panel(
            "How far back the last output's gradient reaches",
            "The gradient of the last output by the state so many steps earlier, divided by that "
            "at lag 0. The dashed line is 1 %, and the dotted line marks where it is reached.",
            _reach,
        ),
        "singular_values": Panel(
            "Largest singular values of the state's Jacobian",
            "How much the last steps together stretch perturbations of the state, by the number of "
            "these steps: a curve for each of the most stretched directions, 8 at most. Curves far "
            "below the first show that few directions carry the gradient.",
            _singular_values,
        ),
        "lyapunov": Panel(
            "Lyapunov exponents",
            "The rates at which perturbations grow (above 0) or fade (below 0) over the whole "
            "sequence, largest first. The bars are two standard errors long on each side.",
            _lyapunov,
        ),
        "windows": Panel(
            "Where in time the parameters' gradient comes from",
            "The share of each window of steps in the gradient by the parameters. A negative share "
            "points against the sum.",
            _windows,
        ),
        "truncation": Panel(
            "What truncated backpropagation would cost",
            "The relative error of the gradient if backpropagation stopped after K steps. The "
            "dashed line is an error of 1 %.",
            _truncation,
        ),
        "gates": _panel_of_gates(m),
        "amplification": Panel(
            "What single steps can stretch",
            "The most that one step can stretch any perturbation of the state. The grey line is 1, "
            "where nothing is stretched; the Lyapunov exponents tell what many steps do together.",
            _amplification,
        ),
    }
    return [panel for part, panel in found.items() if getattr(m, part) is not None]


def draw(m: Measured) -> Any:
    """A figure with a panel for every part that was measured."""
    from matplotlib.figure import Figure

    chosen = panels(m)
    rows = max(1, -(-len(chosen) // COLUMNS))
    figure = Figure(figsize=(10.5, 3.3 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False)
    for axis, panel in zip(axes.flat, chosen, strict=False):
        _fill(axis, panel, m)
        axis.set_title(panel.title)
    for axis in axes.flat[len(chosen) :]:
        axis.set_axis_off()
    return figure


def draw_panel(panel: Panel, m: Measured) -> Any:
    """A figure of one panel, small enough to be read on a telephone. Its title is not in it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 3.0), layout="constrained")
    _fill(figure.subplots(), panel, m)
    return figure


def _fill(axis: Any, panel: Panel, m: Measured) -> None:
    panel.draw(axis, m)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize="small")


def _hidden(axis: Any, m: Measured) -> None:
    assert m.hidden is not None
    axis.set(ylabel="log10 |dL/dh|")
    _along_the_sequence(axis)
    for layer in m.hidden:
        name = m.names[layer.layer] + (", reverse" if layer.reverse else "")
        _band(axis, np.arange(len(layer.norm_log10)), layer.norm_log10, name)
    _ends_of_float32(axis)


def _reach(axis: Any, m: Measured) -> None:
    assert m.reach is not None
    axis.set(xlabel="steps back", ylabel="log10, against lag 0")
    for name, reach in zip(m.names, m.reach, strict=True):
        # The number is that of the verdict; the curve is that of a longest sequence near it.
        length = memory_length(reach)
        longest = np.flatnonzero(reach.ends == reach.ends.max())
        b = int(longest[np.abs(reach.memory_length(FRACTION)[longest] - length).argmin()])
        end = int(reach.ends[b])
        logs = reach.norm_log10[:end, b][::-1]
        x, _, _, mean = _thinned(np.arange(1, end + 1), (logs - logs[0])[:, None], True)
        falls = length < end - 1
        told = f"1 % after {length:,}" if falls else "never below 1 %"
        (line,) = axis.plot(x, mean, label=f"{name}: {told}")
        if falls:
            axis.axvline(length + 1, color=line.get_color(), linewidth=0.8, linestyle=":")
    axis.axhline(np.log10(FRACTION), color="grey", linewidth=0.8, linestyle="--")
    axis.set_xscale("log")


def _singular_values(axis: Any, m: Measured) -> None:
    assert m.singular_values is not None
    assert m.lags is not None
    axis.set(xlabel="steps T - t", ylabel="log10 of those of ds_T / ds_t")
    count = m.singular_values.shape[2]
    for k in range(count):
        label = {0: "largest", count - 1: f"number {count}"}.get(k)
        shade = 1 - 0.8 * k / max(1, count - 1)
        axis.plot(
            m.lags,
            m.singular_values[:, 0, k],
            "o-",
            color="C0",
            alpha=shade,
            markersize=3.5,
            label=label,
        )
    axis.set_xscale("log")


def _lyapunov(axis: Any, m: Measured) -> None:
    assert m.lyapunov is not None
    spectrum = m.lyapunov
    axis.set(xlabel="number", ylabel="per step")
    x = np.arange(1, spectrum.exponents.shape[1] + 1)
    for row, error in zip(spectrum.exponents, spectrum.standard_error, strict=True):
        axis.errorbar(x, row, 2 * np.nan_to_num(error), fmt="o", markersize=4, capsize=3)
    axis.axhline(0.0, color="grey", linewidth=0.8)
    axis.set_xticks(x)


def _windows(axis: Any, m: Measured) -> None:
    assert m.windows is not None
    axis.set(ylabel="share of the gradient")
    _along_the_sequence(axis)
    borders = m.windows.borders
    axis.bar(borders[:-1], m.windows.share, np.diff(borders) * 0.9, align="edge")
    axis.axhline(0.0, color="grey", linewidth=0.8)


def _truncation(axis: Any, m: Measured) -> None:
    assert m.truncation is not None
    axis.set(xlabel="truncation length K", ylabel="relative error of the gradient")
    shown = m.truncation.error > 0
    axis.plot(m.truncation.lengths[shown], m.truncation.error[shown], "o-", markersize=4)
    axis.axhline(0.01, color="grey", linewidth=0.8, linestyle="--")
    axis.set_xscale("log")
    axis.set_yscale("log")
    # Every length has a tick, and so many of them a number that the numbers have room.
    every = -(-len(m.truncation.lengths) // 6)
    told = [f"{k:,}" if i % every == 0 else "" for i, k in enumerate(m.truncation.lengths)]
    axis.set_xticks(m.truncation.lengths, told)
    axis.minorticks_off()


def _panel_of_gates(m: Measured) -> Panel:
    """Time constants of the units, or saturation if no cell has a memory gate."""
    if any(found.time_constant is not None for found in m.gates or ()):
        return Panel(
            "Time constants of the memory gates",
            "For how many steps the units remember, longest first: after so many steps 1/e of a "
            "unit's state is left. The dashed line is the length of the sequence.",
            _time_constants,
        )
    return Panel(
        "Saturation",
        "In which share of the steps each unit is saturated, so that hardly any gradient passes "
        "through it, most saturated units first.",
        _saturation,
    )


def _time_constants(axis: Any, m: Measured) -> None:
    assert m.gates is not None
    axis.set(xlabel="share of the units", ylabel="steps", yscale="log")
    for name, found in zip(m.names, m.gates, strict=True):
        if found.time_constant is not None:
            values = np.sort(found.time_constant)[::-1]
            axis.plot((np.arange(len(values)) + 0.5) / len(values), values, label=name)
    axis.axhline(m.steps, color="grey", linewidth=0.8, linestyle="--")


def _saturation(axis: Any, m: Measured) -> None:
    assert m.gates is not None
    axis.set(xlabel="share of the units", ylabel="share of the steps")
    for name, found in zip(m.names, m.gates, strict=True):
        for gate, share in zip(found.gates, found.saturated, strict=True):
            at = (np.arange(len(share)) + 0.5) / len(share)
            axis.plot(at, np.sort(share)[::-1], label=f"{name} {gate}")


def _amplification(axis: Any, m: Measured) -> None:
    assert m.amplification is not None
    axis.set(ylabel="spectral norm of ds_t / ds_(t-1)")
    _along_the_sequence(axis)
    axis.plot(m.amplification.steps, m.amplification.norm, "o-", markersize=2.5, linewidth=0.8)
    axis.axhline(1.0, color="grey", linewidth=0.8)


def _along_the_sequence(axis: Any) -> None:
    """Makes the lower axis one of steps, with few numbers, since large ones are wide."""
    axis.set_xlabel("step t")
    axis.locator_params(axis="x", nbins=5, integer=True)
    axis.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")


def _band(axis: Any, x: NDArray[Any], logs: NDArray[np.float64], label: str) -> None:
    """Draws the median over sequences as a line and their range as a band."""
    at, low, high, middle = _thinned(x, logs, False)
    (line,) = axis.plot(at, middle, linewidth=1.2, label=label)
    axis.fill_between(at, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def _thinned(x: NDArray[Any], logs: NDArray[np.float64], even_in_log: bool) -> tuple[Any, ...]:
    """Place, minimum, maximum and median of (n, B) values in each of at most POINTS bins."""
    n = len(x)
    if even_in_log:
        borders = np.unique(np.geomspace(1, n, min(n, POINTS)).astype(np.int64)) - 1
    else:
        borders = np.unique(np.linspace(0, n, min(n, POINTS), endpoint=False).astype(np.int64))
    finite = np.where(np.isfinite(logs), logs, np.nan)
    rows = []
    for start, stop in zip(borders, [*borders[1:], n], strict=True):
        values = finite[start:stop]
        values = values[np.isfinite(values)]
        if len(values):
            rows.append((x[start], values.min(), values.max(), np.median(values)))
    return tuple(np.array(rows, np.float64).reshape(-1, 4).T)


def _ends_of_float32(axis: Any) -> None:
    low, high = axis.get_ylim()
    limits = [limit for limit in (TINY, HUGE) if low < limit < high]
    for number, limit in enumerate(limits):
        label = "float32 ends" if number == 0 else None
        axis.axhline(limit, color="crimson", linewidth=0.9, linestyle="--", label=label)
