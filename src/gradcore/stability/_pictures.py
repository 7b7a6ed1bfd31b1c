"""Draws symbols with matplotlib, which is imported only when one is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError

__all__ = ["draw_symbol"]

Real = NDArray[np.float64]


def draw_symbol(
    grid: tuple[int, ...], wave_numbers: Real, norm: Real, radius: Real | None, title: str
) -> Any:
    """A figure of |G| over k on a grid of one or two axes; with one axis, radius is drawn too."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = figure.subplots()
    if len(grid) == 1:
        order = np.argsort(wave_numbers[:, 0])
        k = wave_numbers[order, 0]
        axis.plot(k, norm[order], label="|G(k)|")
        if radius is not None:
            axis.plot(k, radius[order], "--", label="spectral radius of G(k)")
        axis.axhline(1.0, color="grey", linewidth=0.8)
        axis.set(xlabel="wave number k, radians per cell", ylabel="amplification")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    elif len(grid) == 2:
        image = np.fft.fftshift(norm.reshape(grid))
        largest = max(float(np.abs(image - 1).max()), 1e-12)
        shown = axis.imshow(
            image,
            extent=(-np.pi, np.pi, np.pi, -np.pi),
            cmap="RdBu_r",
            vmin=1 - largest,
            vmax=1 + largest,
        )
        axis.set(xlabel="k along the second axis", ylabel="k along the first axis")
        figure.colorbar(shown, label="|G(k)|, white where it is 1")
    else:
        raise ArgumentError(f"only one or two axes can be drawn; the grid is {grid}.")
    axis.set_title(title)
    return figure
