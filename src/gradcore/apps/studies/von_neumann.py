"""Von Neumann analysis of layers, compared with textbooks and with simulations.

Numerical schemes for heat, advection and waves are layers whose amplification factors and largest
stable steps are known. Four further experiments test predictions by the factors: the growth of each
mode in a deep stack of residual convolutions, before and after its kernel is projected to
|G(k)| <= 1; a nonlinear stack until it saturates; gradients through an RNN with circulant weights,
computed by the core; and zero padding, where perturbations leave the box.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import horizon
from ..._base.checks import integer, positive_int
from ..._base.output import write_figure
from ..._net.cells import RNN
from ..._net.stack import Stack
from ...errors import ArgumentError
from ...stability import von_neumann as vn
from . import Progress, plain

__all__ = ["Scheme", "Waves", "run"]

Array = NDArray[np.float64]

CELLS, CHANNELS, WIDTH, STEP = 64, 3, 3, 0.25
RING, BOX = 32, 64
# For perturbations of this size tanh is linear.
SMALL = 1e-12

HEAT = np.array([1.0, -2.0, 1.0])


def _wave(c: float) -> Array:
    kernel = np.zeros((2, 2, 3))
    kernel[0, 0] = c**2 * HEAT + [0, 2, 0]
    kernel[0, 1, 1], kernel[1, 0, 1] = -1.0, 1.0
    return kernel


def _wave_radius(c: float, k: Array) -> Array:
    a = 1 - 2 * c**2 * np.sin(k / 2) ** 2 + 0j
    found: Array = np.abs(a + np.sqrt(a**2 - 1) * np.array([[1], [-1]])).max(axis=0)
    return found


# Each scheme has its name, its kernel at step c, the spectral radius of G(k) according to
# textbooks, and the largest stable c.
SCHEMES: tuple[
    tuple[str, Callable[[float], Array], Callable[[float, Array], Array], float], ...
] = (
    (
        "heat, centred",
        lambda c: np.array([c, 1 - 2 * c, c]),
        lambda c, k: np.abs(1 - 4 * c * np.sin(k / 2) ** 2),
        0.5,
    ),
    (
        "advection, upwind",
        lambda c: np.array([c, 1 - c, 0.0]),
        lambda c, k: np.sqrt(1 - 4 * c * (1 - c) * np.sin(k / 2) ** 2),
        1.0,
    ),
    (
        "advection, central",
        lambda c: np.array([c / 2, 1.0, -c / 2]),
        lambda c, k: np.sqrt(1 + c**2 * np.sin(k) ** 2),
        0.0,
    ),
    (
        "advection, Lax-Wendroff",
        lambda c: np.array([c * (1 + c) / 2, 1 - c**2, -c * (1 - c) / 2]),
        lambda c, k: np.sqrt(np.maximum(0.0, 1 - 4 * c**2 * (1 - c**2) * np.sin(k / 2) ** 4)),
        1.0,
    ),
    ("waves, leapfrog", _wave, _wave_radius, 1.0),
)


@dataclass(frozen=True, eq=False)
class Scheme:
    """A scheme as a layer. limit: the largest stable step found; known: that of textbooks.

    error: the largest difference of the spectral radius of G(k) from that of textbooks, at half
    the known limit (0.5 if that is 0) and at a tenth above it (1.0). k (M,): the wave numbers.
    below, above (M,): the radii at these two steps.
    """

    name: str
    limit: float
    known: float
    error: float
    k: Array
    below: Array
    above: Array


@dataclass(frozen=True, eq=False)
class Waves:
    """The result of run. Curves are log10 of amplitudes relative to their start.

    predicted, simulated (2, depth+1, cells/2+1): growth of each mode in a residual stack, before
    and after the projection. changed: the relative change of the kernel by the projection.
    nonlinear (depth+1,): growth of the fastest mode in a simulation with tanh from 1e-12.
    ring_predicted, ring_measured: log10 of the growth per step of a gradient through an RNN. box
    (2, depth+1): log10 of the norm of powers of a convolution, periodic and with zeros outside.
    box_radius: its spectral radius with zeros outside.
    """

    depth: int
    seed: int
    schemes: tuple[Scheme, ...]
    predicted: Array
    simulated: Array
    changed: float
    nonlinear: Array
    ring_predicted: float
    ring_measured: float
    box: Array
    box_radius: float

    @property
    def error(self) -> float:
        """The largest |simulated - predicted| over all modes and depths, in log10."""
        return float(np.abs(self.simulated - self.predicted).max())

    def lines(self) -> list[str]:
        """The numbers as tables for a terminal."""
        width = max(len(scheme.name) for scheme in self.schemes)
        lines = [f"{'':{width}}  {'largest step':>12}  {'textbook':>8}  {'error of |G|':>12}"]
        for s in self.schemes:
            lines.append(f"{s.name:{width}}  {s.limit:12.4f}  {s.known:8g}  {s.error:12.1e}")
        free, kept = self.predicted[:, -1].max(axis=1)
        return [
            *lines,
            "",
            f"{self.depth} residual convolutions, {CHANNELS} channels, {CELLS} cells: log10 of the "
            "growth of the fastest mode",
            f"  random kernel: predicted {free:.4f}, simulated {self.simulated[0, -1].max():.4f}; "
            f"with tanh it ends at {self.nonlinear[-1]:.1f}",
            f"  projected to |G(k)| <= 1: predicted {kept:.4f}, simulated "
            f"{self.simulated[1, -1].max():.4f}; the kernel changed by {self.changed:.0%}",
            f"  largest difference of any mode at any depth: {self.error:.1e}",
            f"gradient through an RNN of {RING} units on a ring: log10 per step predicted "
            f"{self.ring_predicted:.6f}, measured {self.ring_measured:.6f}",
            f"zeros outside of {BOX} cells: spectral radius {self.box_radius:.3f}, but the powers "
            f"reach 10^{self.box[1].max():.1f} before they fall, as on the ring",
        ]

    def to_dict(self) -> dict[str, Any]:
        """All numbers as JSON values; -inf becomes None."""
        return {
            "study": "von-neumann",
            "depth": self.depth,
            "seed": self.seed,
            "schemes": [
                {
                    "name": s.name,
                    "limit": s.limit,
                    "textbook": s.known,
                    "error": s.error,
                    "k": plain(s.k),
                    "radius_below": plain(s.below),
                    "radius_above": plain(s.above),
                }
                for s in self.schemes
            ],
            "residual": {
                "predicted_log10": [[plain(row) for row in way] for way in self.predicted],
                "simulated_log10": [[plain(row) for row in way] for way in self.simulated],
                "error": self.error,
                "changed": self.changed,
                "nonlinear_log10": plain(self.nonlinear),
            },
            "ring": {"predicted": self.ring_predicted, "measured": self.ring_measured},
            "box": {
                "ring_log10": plain(self.box[0]),
                "zeros_log10": plain(self.box[1]),
                "spectral_radius": self.box_radius,
            },
        }

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draws factors over k, growth of modes over depth, and the effect of zero padding."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.5, 8.2), layout="constrained")
        ((left, right), (low, box)) = figure.subplots(2, 2)
        for number, s in enumerate(self.schemes):
            left.plot(s.k, s.below, color=f"C{number}", label=s.name)
            left.plot(s.k, s.above, ":", color=f"C{number}")
        left.axhline(1.0, color="grey", linewidth=0.8)
        left.set(title="Schemes as layers: half the limit, and 10 % beyond it dotted")
        left.set(xlabel="wave number k, radians per cell", ylabel="spectral radius of G(k)")
        left.set_ylim(0.0, 2.2)
        left.legend(frameon=False, fontsize="small", ncols=2, loc="upper left")
        depth = np.arange(self.depth + 1)
        for axis, way, title in (
            (right, 0, "Residual convolutions, random kernel"),
            (low, 1, "The same, kernel projected to |G(k)| <= 1"),
        ):
            modes = self.predicted.shape[2]
            for mode in range(0, modes, 4):
                colour = _colour(mode / (modes - 1))
                axis.plot(depth, self.predicted[way, :, mode], color=colour, linewidth=1.2)
                some = depth[:: max(1, self.depth // 12)]
                axis.plot(some, self.simulated[way, some, mode], "o", color=colour, markersize=3)
            axis.plot([], [], "k-", label="G(k) to the power of the depth")
            axis.plot([], [], "ko", markersize=3, label="simulated")
            if way == 0:
                axis.plot(depth, self.nonlinear, "k--", label="with tanh, fastest mode")
            axis.axhline(0.0, color="grey", linewidth=0.8)
            axis.set(title=f"{title}; long waves dark", xlabel="depth")
            axis.set_ylabel("log10 of the mode's growth")
            axis.legend(frameon=False, fontsize="small")
        box.plot(depth, self.box[0], label="periodic: max |G|^depth")
        box.plot(depth, self.box[1], label="zeros outside")
        slope = np.log10(self.box_radius) if self.box_radius > 0 else np.nan
        box.plot(depth, slope * depth, "k:", label="predicted by its eigenvalues")
        box.set(
            title=f"A wind that amplifies, on a ring and in a box of {BOX} cells", xlabel="depth"
        )
        box.set_ylabel("log10 of the largest growth")
        box.legend(frameon=False, fontsize="small")
        for axis in (left, right, low, box):
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        write_figure(path, figure, dpi=130)


def run(
    *,
    depth: int = 200,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = lambda what, part: None,
) -> Waves:
    """Runs all parts with stacks of `depth` layers; raises ArgumentError for less than 10."""
    if positive_int("depth", depth) < 10:
        raise ArgumentError(f"depth must be 10 or more; got {depth}.")
    rng = np.random.default_rng(integer("seed", seed))
    progress("schemes", 0.0)
    schemes = tuple(_scheme(*scheme) for scheme in SCHEMES)
    progress("residual convolutions", 0.4)
    drawn = rng.standard_normal((CHANNELS, CHANNELS, WIDTH)) / np.sqrt(CHANNELS * WIDTH)
    kept = vn.project(drawn, [CELLS], step=STEP)
    predicted, simulated = zip(*(_modes(kernel, depth) for kernel in (drawn, kept)), strict=True)
    progress("a ring of units", 0.7)
    ring_predicted, ring_measured = _ring(depth, rng, threads)
    progress("a box", 0.9)
    box, box_radius = _box(depth)
    progress("done", 1.0)
    return Waves(
        depth,
        seed,
        schemes,
        np.stack(predicted),
        np.stack(simulated),
        float(np.linalg.norm(kept - drawn) / np.linalg.norm(drawn)),
        _nonlinear(drawn, depth),
        ring_predicted,
        ring_measured,
        box,
        box_radius,
    )


def _scheme(
    name: str,
    kernel: Callable[[float], Array],
    known: Callable[[float, Array], Array],
    limit: float,
) -> Scheme:
    def symbol(c: float) -> vn.Symbol:
        return vn.convolution(kernel(c), [CELLS])

    def stable(c: float) -> bool:
        return symbol(c).outcome is not vn.ModeGrowth.UNSTABLE

    low, high = 0.0, 2.0
    while high - low > 1e-9:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if stable(middle) else (low, middle)
    k = symbol(0.0).wave_numbers[:, 0]
    order = np.argsort(k)
    steps = (limit / 2 or 0.5, 1.1 * limit or 1.0)
    radii = [symbol(c).radius for c in steps]
    errors = [np.abs(own - known(c, k)).max() for own, c in zip(radii, steps, strict=True)]
    return Scheme(name, low, limit, float(max(errors)), k[order], radii[0][order], radii[1][order])


def _layer(kernel: Array, image: NDArray[Any]) -> NDArray[Any]:
    """A circular convolution of an image (channels, cells), computed by shifts."""
    half = kernel.shape[2] // 2
    moved = np.stack([np.roll(image, half - j, axis=1) for j in range(kernel.shape[2])])
    return np.asarray(np.einsum("oij,jin->on", kernel, moved))


def _modes(kernel: Array, depth: int) -> tuple[Array, Array]:
    """log10 of the growth of every mode, by its symbol and by a simulation in space.

    Each mode starts along the eigenvector of its largest eigenvalue and is simulated by itself; its
    amplitude is rescaled in every layer.
    """
    symbol = vn.residual(vn.convolution(kernel, [CELLS]), STEP)
    modes = CELLS // 2 + 1
    predicted = np.zeros((depth + 1, modes))
    simulated = np.zeros((depth + 1, modes))
    places = np.arange(CELLS)
    for mode in range(modes):
        values, vectors = np.linalg.eig(symbol.factor[mode])
        start = vectors[:, np.argmax(np.abs(values))]
        amplitude, image = start, np.outer(start, np.exp(2j * np.pi * mode * places / CELLS))
        scales = np.zeros(2)
        for t in range(1, depth + 1):
            amplitude = symbol.factor[mode] @ amplitude
            image = image + STEP * _layer(kernel, image)
            sizes = np.array([np.linalg.norm(amplitude), np.linalg.norm(image) / np.sqrt(CELLS)])
            scales += np.log10(sizes)
            amplitude, image = amplitude / sizes[0], image / sizes[1]
            predicted[t, mode], simulated[t, mode] = scales
    return predicted, simulated


def _nonlinear(kernel: Array, depth: int) -> Array:
    """Growth of the fastest mode in x + step * tanh(conv(x)) from a tiny start to saturation."""
    symbol = vn.residual(vn.convolution(kernel, [CELLS]), STEP)
    mode = int(np.argmax(symbol.radius))
    values, vectors = np.linalg.eig(symbol.factor[mode])
    start = vectors[:, np.argmax(np.abs(values))]
    image = SMALL * np.outer(start, np.exp(1j * symbol.wave_numbers[mode, 0] * np.arange(CELLS)))
    now = image.real
    first, found = np.linalg.norm(now), [0.0]
    for _ in range(depth):
        now = now + STEP * np.tanh(_layer(kernel, now))
        found.append(float(np.log10(np.linalg.norm(now) / first)))
    return np.array(found)


def _ring(depth: int, rng: np.random.Generator, threads: int | None) -> tuple[float, float]:
    """log10 of the growth of a gradient per step, by the largest |G| and measured by the core."""
    net = Stack(RNN(1, RING, nonlinearity="identity"))
    params = net.init(seed=0, dtype="float64")
    first = rng.standard_normal(RING) / np.sqrt(RING)
    params["0.weight_hh"] = np.stack([np.roll(first, i) for i in range(RING)], axis=1)
    # After so many steps only the fastest mode is left.
    steps = 40 * depth
    reach = horizon.reach(net, params, np.zeros((steps, 1, 1)), probes=1, threads=threads)
    logs = reach.norm_log10[:, 0]
    measured = (logs[0] - logs[steps // 2]) / (steps // 2)
    return float(np.log10(vn.recurrent(net, params).radius.max())), float(measured)


def _box(depth: int) -> tuple[Array, float]:
    """Growth of an amplifying shift, periodic and with zeros outside, and its spectral radius.

    On the ring it grows for ever; with zeros outside, perturbations leave the box at last.
    """
    kernel = np.array([0.9, 0.25, 0.0])
    dense = 0.9 * np.eye(BOX, k=-1) + 0.25 * np.eye(BOX)
    ring = vn.convolution(kernel, [BOX]).growth(depth).max(axis=1)
    now, found, scale = np.eye(BOX), [0.0], 0.0
    for _ in range(depth):
        now = dense @ now
        size = float(np.linalg.norm(now, 2))
        scale += np.log10(size)
        now /= size
        found.append(scale)
    return np.stack([ring, np.array(found)]), 0.25


def _colour(part: float) -> tuple[float, float, float]:
    return (0.1 + 0.85 * part, 0.15 + 0.45 * part, 0.55 * (1 - part))
