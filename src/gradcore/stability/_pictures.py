"""Pictures of stability. Need matplotlib, which is loaded when something is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError

if TYPE_CHECKING:
    from .von_neumann import Symbol

__all__ = ["curve", "draw_regions", "draw_symbol", "regions"]


def draw_symbol(symbol: Symbol, title: str) -> Any:
    """A figure of |G| over k."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = figure.subplots()
    if len(symbol.grid) == 1:
        k, norm = curve(symbol)
        axis.plot(k, norm, label="|G(k)|")
        if symbol.factor.shape[1] == symbol.factor.shape[2] > 1:
            axis.plot(k, curve(symbol, radius=True)[1], "--", label="spectral radius of G(k)")
        axis.axhline(1.0, color="grey", linewidth=0.8)
        axis.set(xlabel="wave number k, radians per cell", ylabel="amplification")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    elif len(symbol.grid) == 2:
        image = np.fft.fftshift(symbol.norm.reshape(symbol.grid))
        largest = max(float(np.abs(image - 1).max()), 1e-12)
        shown = axis.imshow(
            image,
            extent=(-np.pi, np.pi, np.pi, -np.pi),
            cmap="RdBu_r",
            vmin=1 - largest,
            vmax=1 + largest,
        )
        axis.set(xlabel="k along the second axis", ylabel="k along the first axis")
        figure.colorbar(shown, label="|G(k)|, white where nothing grows or falls")
    else:
        raise ArgumentError(f"only one or two axes can be drawn; the grid is {symbol.grid}.")
    axis.set_title(title)
    return figure


def curve(symbol: Symbol, *, radius: bool = False) -> tuple[Any, Any]:
    """k and |G(k)| on a line, by rising k."""
    order = np.argsort(symbol.wave_numbers[:, 0])
    return symbol.wave_numbers[order, 0], (symbol.radius if radius else symbol.norm)[order]


def draw_regions(momentum: float) -> Any:
    """A figure of the stability regions of four rules."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    regions(figure.subplots(), momentum)
    return figure


def regions(axis: Any, momentum: float) -> None:
    """Borders of the regions where u' = lambda u does not grow, over z = step * lambda."""
    from .flow import Rule, amplification

    right, left, top = 1.0, -4.4, 3.2
    re, im = np.meshgrid(np.linspace(left, right, 541), np.linspace(-top, top, 641))
    rules: tuple[tuple[Rule, str], ...] = (
        ("euler", "Euler: gradient descent"),
        ("momentum", f"momentum {momentum:g}"),
        ("nesterov", f"Nesterov {momentum:g}"),
        ("rk4", "Runge-Kutta 4"),
    )
    for number, (rule, name) in enumerate(rules):
        growth = amplification(rule, re + 1j * im, momentum=momentum)
        axis.contourf(re, im, growth, levels=[0.0, 1.0], colors=[f"C{number}"], alpha=0.12)
        axis.contour(re, im, growth, levels=[1.0], colors=[f"C{number}"], linewidths=1.5)
        axis.plot([], [], color=f"C{number}", label=name)
    axis.axhline(0.0, color="grey", linewidth=0.8)
    axis.axvline(0.0, color="grey", linewidth=0.8)
    axis.set(xlabel="Re z = -lr * curvature", ylabel="Im z", aspect="equal")
    axis.set_title("Stable inside")
    axis.legend(frameon=False, fontsize="small", loc="upper left")
