"""The effect of a skip connection through time on gradients: theory and measurement.

A chain that multiplies its state by a in every step multiplies gradients over T steps by a^T. A
connection of strength s to the output k steps ago adds paths of only T/k hops. In a linear chain
h_t = a h_(t-1) + s h_(t-k) the gradient over a lag is the sum over all paths,
g_t = a g_(t-1) + s g_(t-k) with g_0 = 1, and its growth per step is the largest root of
r^k = a r^(k-1) + s. With a = 0 and k = 2 it is s^(T/2): the skip halves the path. For nets of real
cells there is no such formula, and the measurement is compared with the prediction of the largest
Lyapunov exponent.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import horizon, lyapunov
from ..._base.checks import integer, positive_int
from ..._base.output import write_figure
from ..._net.cells import GRU, LSTM, RNN
from ..._net.layers import Skip
from ..._net.skip_paths import path_sum
from ..._net.stack import Stack
from ...errors import ArgumentError
from . import Progress, plain

__all__ = ["Cell", "Chain", "SkipStudy", "run"]

Array = NDArray[np.float64]

# Each chain is (a, kind, lag, strength). 0.4^10,000 is 10^-3979, far beyond float32 and float64.
CHAINS: tuple[tuple[float, str | None, int, float], ...] = (
    (0.95, None, 1, 0.0),
    (0.4, None, 1, 0.0),
    (0.0, "add", 2, 0.95),
    (0.5, "add", 2, 0.45),
    (0.4, "add", 8, 0.5),
    (0.95, "mix", 64, 0.5),
)
CELLS = {"RNN, tanh": RNN, "LSTM": LSTM, "GRU": GRU}
HIDDEN, INPUTS, LAG, STRENGTH = 64, 4, 64, 0.1


@dataclass(frozen=True, eq=False)
class Chain:
    """A linear chain. theory, measured (T,): log10 of the gradient over each lag, -inf for 0."""

    title: str
    theory: Array
    measured: Array

    @property
    def error(self) -> float:
        """The largest |measured - theory| / max(1, |theory|) over all lags."""
        there = np.isfinite(self.theory)
        if not np.array_equal(there, np.isfinite(self.measured)):
            return np.inf
        off = np.abs(self.measured[there] - self.theory[there])
        return float((off / np.maximum(1.0, np.abs(self.theory[there]))).max())


@dataclass(frozen=True, eq=False)
class Cell:
    """A net of one layer. measured (T,): log10 of the gradient at each lag relative to lag 0.

    exponent: its largest Lyapunov exponent, with standard_error. memory: the steps until the
    gradient is down to 1 %.
    """

    title: str
    measured: Array
    exponent: float
    standard_error: float
    memory: int

    @property
    def predicted(self) -> float:
        """log10 of the gradient at the largest lag as the exponent predicts it."""
        return self.exponent * (len(self.measured) - 1) / float(np.log(10.0))


@dataclass(frozen=True, eq=False)
class SkipStudy:
    """The result of run."""

    length: int
    seed: int
    chains: tuple[Chain, ...]
    cells: tuple[Cell, ...]

    def lines(self) -> list[str]:
        """The numbers as two tables for a terminal."""
        last = self.length - 1
        titles = [chain.title for chain in self.chains] + [cell.title for cell in self.cells]
        width = max(map(len, titles))
        lines = [
            f"linear chains: log10 of the gradient over {last:,} steps",
            f"{'':{width}}  {'theory':>12}  {'measured':>12}  {'largest error of any lag':>24}",
        ]
        for chain in self.chains:
            at = int(np.flatnonzero(np.isfinite(chain.theory))[-1])
            lines.append(
                f"{chain.title:{width}}  {chain.theory[at]:12.4f}  {chain.measured[at]:12.4f}  "
                f"{chain.error:24.1e}"
            )
        lines += [
            "",
            f"nets of {HIDDEN} units as initialised, on noise: the same over {last:,} steps",
            f"{'':{width}}  {'by exponent':>12}  {'measured':>12}  {'1 % after':>24}",
        ]
        for cell in self.cells:
            lines.append(
                f"{cell.title:{width}}  {cell.predicted:12.1f}  {cell.measured[-1]:12.1f}  "
                f"{cell.memory:24,}"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """All curves as JSON values; -inf becomes None."""
        return {
            "study": "skip",
            "length": self.length,
            "seed": self.seed,
            "chains": [
                {
                    "title": chain.title,
                    "theory_log10": plain(chain.theory),
                    "measured_log10": plain(chain.measured),
                    "error": chain.error,
                }
                for chain in self.chains
            ],
            "cells": [
                {
                    "title": cell.title,
                    "measured_log10": plain(cell.measured),
                    "exponent": cell.exponent,
                    "standard_error": cell.standard_error,
                    "predicted_log10": cell.predicted,
                    "memory_length": cell.memory,
                }
                for cell in self.cells
            ],
        }

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draws chains and nets as curves over the lag."""
        write_figure(path, self.figure(), dpi=130)

    def figure(self) -> Any:
        """The picture: the size of gradients on a logarithmic axis, so that a rate is a slope.

        The chain that vanishes fastest leaves the panel, or the others would be one line on top.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.0, 5.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        floor = 1.15 * sorted(_end(chain.theory) for chain in self.chains)[1]
        for number, chain in enumerate(self.chains):
            at = _drawn(chain.theory)
            end, colour = _end(chain.theory), f"C{number}"
            label = chain.title if end > floor else f"{chain.title}, down to {_power(end)}"
            left.plot(at, chain.measured[at], color=colour, linewidth=3, alpha=0.4, label=label)
            left.plot(at, chain.theory[at], "--", color=colour, linewidth=1)
        left.set(title="Linear chains: measured, and theory dashed", ylim=(floor, -0.05 * floor))
        for number, cell in enumerate(self.cells):
            at = _drawn(cell.measured)
            style = {"color": f"C{number // 2}", "linestyle": "-" if number % 2 else ":"}
            right.plot(at, cell.measured[at], label=cell.title, **style)
        right.set(title=f"Nets of {HIDDEN} units as initialised")
        for axis in (left, right):
            axis.set(xlabel="steps back", ylabel="size of the gradient, 1 at lag 0")
            axis.xaxis.set_major_formatter(lambda lag, _: f"{lag:,.0f}")
            # The numbers are logarithms already: 10^-3979 is no float64.
            axis.yaxis.set_major_formatter(lambda log10, _: _power(log10))
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(
                frameon=False,
                fontsize="small",
                ncols=2,
                loc="upper center",
                bbox_to_anchor=(0.5, -0.14),
            )
        return figure


def _end(log10: Array) -> float:
    """The value at the largest lag that has a gradient."""
    return float(log10[np.isfinite(log10)][-1])


def _drawn(log10: Array) -> NDArray[np.int64]:
    """The lags to draw: those with a gradient, about 1,000 of them."""
    at = np.flatnonzero(np.isfinite(log10))
    return at[:: max(1, len(at) // 1000)]


def _power(log10: float) -> str:
    return f"$10^{{{log10:.0f}}}$" if round(log10) else "1"


def run(
    *,
    length: int = 10_000,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = lambda what, part: None,
) -> SkipStudy:
    """Measures gradients over all lags below `length`, in linear chains and nets of real cells.

    Raises ArgumentError for a length below 200, which is too short for the skip of lag 64.
    """
    if positive_int("length", length) < 200:
        raise ArgumentError(f"length must be 200 or more; got {length}.")
    seed = integer("seed", seed)
    total = len(CHAINS) + 2 * len(CELLS)
    chains: list[Chain] = []
    for a, kind, lag, strength in CHAINS:
        progress(f"chain {len(chains) + 1}", len(chains) / total)
        chains.append(_chain(a, kind, lag, strength, length, threads))
    cells: list[Cell] = []
    x = np.random.default_rng(seed).standard_normal((length, 1, INPUTS)).astype(np.float32)
    for name, kind_of in CELLS.items():
        for skip in (None, Skip(LAG, kind="mix", value=STRENGTH)):
            title = name if skip is None else f"{name}, mix, lag {LAG}, {STRENGTH:g}"
            progress(title, (len(chains) + len(cells)) / total)
            net = Stack(kind_of(INPUTS, HIDDEN, skip=skip))
            cells.append(_cell(title, net, x, seed, threads))
    progress("done", 1.0)
    return SkipStudy(length, seed, tuple(chains), tuple(cells))


def _chain(
    a: float, kind: str | None, lag: int, strength: float, length: int, threads: int | None
) -> Chain:
    title = f"a = {a:g}" if kind is None else f"a = {a:g}, {kind}, lag {lag}, {strength:g}"
    skip = None
    if kind == "add":
        skip = Skip(lag, kind="add", value=strength)
    elif kind == "mix":
        skip = Skip(lag, kind="mix", value=strength)
    net = Stack(RNN(1, 4, nonlinearity="identity", skip=skip))
    params = net.init(seed=0)
    params["0.weight_hh"][...] = a * np.eye(4)
    reach = horizon.reach(
        net, params, np.zeros((length, 1, 1), np.float32), probes=1, threads=threads
    )
    measured = (reach.norm_log10 - reach.norm_log10[-1])[::-1, 0]
    # The theory uses the values as the net has them, rounded to float32.
    single, hop = float(np.float32(a)), float(np.float32(strength))
    if kind == "mix":
        single *= 1.0 - hop
    return Chain(title, path_sum(single, lag, hop, length), measured)


def _cell(title: str, net: Stack, x: NDArray[Any], seed: int, threads: int | None) -> Cell:
    params = net.init(seed=seed)
    reach = horizon.reach(net, params, x, seed=seed, threads=threads)
    spectrum = lyapunov.spectrum(net, params, x, 1, frames_seed=seed, threads=threads)
    return Cell(
        title,
        (reach.norm_log10 - reach.norm_log10[-1])[::-1, 0],
        float(spectrum.exponents[0, 0]),
        float(spectrum.standard_error[0, 0]),
        int(reach.memory_length()[0]),
    )
