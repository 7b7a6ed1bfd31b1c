"""Draws the pictures of a diagnosis with matplotlib, which is imported only when one is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._measured import Measured
from ._verdict import FRACTION, HUGE, TINY, memory_length

__all__ = ["draw"]

COLUMNS = 2
# Curves are drawn with at most so many points, which is more than the pixels of a panel's width.
POINTS = 2_000


def draw(m: Measured) -> Any:
    """A figure with a panel for every part that was measured."""
    from matplotlib.figure import Figure

    panels: list[tuple[str, Callable[[Any, Measured], None]]] = [
        ("hidden", _hidden),
        ("reach", _reach),
        ("singular_values", _singular_values),
        ("lyapunov", _lyapunov),
        ("windows", _windows),
        ("truncation", _truncation),
        ("gates", _gates),
        ("amplification", _amplification),
    ]
    chosen = [panel for name, panel in panels if getattr(m, name) is not None]
    rows = max(1, -(-len(chosen) // COLUMNS))
    figure = Figure(figsize=(10.5, 3.3 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False)
    for axis, panel in zip(axes.flat, chosen, strict=False):
        panel(axis, m)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize="small")
    for axis in axes.flat[len(chosen) :]:
        axis.set_axis_off()
    return figure


def _hidden(axis: Any, m: Measured) -> None:
    assert m.hidden is not None
    axis.set(title="Size of the gradient along the sequence", xlabel="step t")
    axis.set_ylabel("log10 |dL/dh|")
    for layer in m.hidden:
        name = m.names[layer.layer] + (", reverse" if layer.reverse else "")
        _band(axis, np.arange(len(layer.norm_log10)), layer.norm_log10, name)
    _ends_of_float32(axis)


def _reach(axis: Any, m: Measured) -> None:
    assert m.reach is not None
    axis.set(title="How far back the last output's gradient reaches")
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
    axis.set(title="Largest singular values of the state's Jacobian")
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
    axis.set(title="Lyapunov exponents", xlabel="number", ylabel="per step")
    x = np.arange(1, spectrum.exponents.shape[1] + 1)
    for row, error in zip(spectrum.exponents, spectrum.standard_error, strict=True):
        axis.errorbar(x, row, 2 * np.nan_to_num(error), fmt="o", markersize=4, capsize=3)
    axis.axhline(0.0, color="grey", linewidth=0.8)
    axis.set_xticks(x)


def _windows(axis: Any, m: Measured) -> None:
    assert m.windows is not None
    axis.set(title="Where in time the parameters' gradient comes from")
    axis.set(xlabel="step t", ylabel="share of the gradient")
    borders = m.windows.borders
    axis.bar(borders[:-1], m.windows.share, np.diff(borders) * 0.9, align="edge")
    axis.axhline(0.0, color="grey", linewidth=0.8)


def _truncation(axis: Any, m: Measured) -> None:
    assert m.truncation is not None
    axis.set(title="What truncated backpropagation would cost")
    axis.set(xlabel="truncation length K", ylabel="relative error of the gradient")
    shown = m.truncation.error > 0
    axis.plot(m.truncation.lengths[shown], m.truncation.error[shown], "o-", markersize=4)
    axis.axhline(0.01, color="grey", linewidth=0.8, linestyle="--")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(m.truncation.lengths, [f"{k:,}" for k in m.truncation.lengths], fontsize=7)
    axis.minorticks_off()


def _gates(axis: Any, m: Measured) -> None:
    """Draws the time constant of each unit, or saturation if no cell has a memory gate."""
    assert m.gates is not None
    remembers = [
        (name, found)
        for name, found in zip(m.names, m.gates, strict=True)
        if found.time_constant is not None
    ]
    if remembers:
        axis.set(title="Time constants of the memory gates", xlabel="share of the units")
        axis.set(ylabel="steps", yscale="log")
        for name, found in remembers:
            assert found.time_constant is not None
            values = np.sort(found.time_constant)[::-1]
            axis.plot((np.arange(len(values)) + 0.5) / len(values), values, label=name)
        axis.axhline(m.steps, color="grey", linewidth=0.8, linestyle="--")
        return
    axis.set(title="Saturation", xlabel="share of the units", ylabel="share of the steps")
    for name, found in zip(m.names, m.gates, strict=True):
        for gate, share in zip(found.gates, found.saturated, strict=True):
            at = (np.arange(len(share)) + 0.5) / len(share)
            axis.plot(at, np.sort(share)[::-1], label=f"{name} {gate}")


def _amplification(axis: Any, m: Measured) -> None:
    assert m.amplification is not None
    axis.set(title="What single steps can stretch", xlabel="step t")
    axis.set(ylabel="spectral norm of ds_t / ds_(t-1)")
    axis.plot(m.amplification.steps, m.amplification.norm, "o-", markersize=2.5, linewidth=0.8)
    axis.axhline(1.0, color="grey", linewidth=0.8)


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
    for limit, told in ((TINY, "float32 ends"), (HUGE, "float32 ends")):
        if low < limit < high:
            axis.axhline(limit, color="crimson", linewidth=0.9, linestyle="--", label=told)
