"""Stability regions: the z = step * lambda for which a step on u' = lambda u does not grow."""

from __future__ import annotations

import os
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .._base.checks import choice, float_in
from .._base.output import write_figure

__all__ = ["amplification", "draw_regions", "outline_regions"]

Array = NDArray[np.float64]
Rule = Literal["euler", "momentum", "nesterov", "rk4"]


def amplification(rule: Rule, z: Any, *, momentum: float = 0.9) -> Array:
    """Growth per step on u' = lambda u for complex z = step * lambda; the step is stable up to 1.

    rule: "euler", which is gradient descent, |1 + z|; "momentum" or "nesterov", with the given
    momentum (z = -lr * curvature); "rk4", the classical Runge-Kutta method. Returns the shape of z.
    Reference: Hairer and Wanner 1996, section IV.2, for one-step methods.
    """
    choice("rule", rule, get_args(Rule))
    values = np.asarray(z, complex)
    m = float_in("momentum", momentum, 0.0, 1.0)
    if rule in ("euler", "rk4"):
        further = values / 2 * (1 + values / 3 * (1 + values / 4)) if rule == "rk4" else 0.0
        return np.asarray(np.abs(1 + values * (1 + further)))
    if rule == "momentum":
        trace, det = 1 + m + values, m + 0 * values
    else:
        trace, det = 1 + m + (1 + m) * values, m * (1 + values)
    root = np.sqrt(trace**2 - 4 * det)
    found: Array = np.maximum(np.abs(trace + root), np.abs(trace - root)) / 2
    return found


def draw_regions(path: str | os.PathLike[str], *, momentum: float = 0.9) -> None:
    """Saves a picture of the four stability regions; needs matplotlib."""
    momentum = float_in("momentum", momentum, 0.0, 1.0)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    outline_regions(figure.subplots(), momentum)
    write_figure(path, figure, dpi=130)


def outline_regions(axis: Any, momentum: float) -> None:
    """Draws the borders of the four stability regions over z = step * lambda."""
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
