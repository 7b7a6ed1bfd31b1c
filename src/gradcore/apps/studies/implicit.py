"""A fixed point layer when an eigenvalue of its Jacobian approaches 1.

The layer is z = W z + U x, where W has the eigenvalue 1 - gap, a complex pair, and other
eigenvalues well inside the unit circle. As the gap closes, the gradient grows as 1/gap, iterations
take longer, approximate gradients become wrong and float32 loses digits; FixedPoint.conditioning,
called the gauge here, shows it. Two remedies are tried from a gap of 10^-4: a spectral constraint,
and the Jacobian penalty as the loss.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import implicit
from ..._base.checks import integer
from ..._base.output import write_figure
from ..._net.cells import RNN
from ..._net.stack import Params, Stack
from ...constrain import SpectralNorm
from ...errors import ConditioningWarning, ConvergenceWarning
from ...optim import SGD
from . import Progress

__all__ = ["ImplicitStudy", "Remedy", "run"]

Array = NDArray[np.float64]

SIZE, INPUTS, SAMPLES = 24, 4, 8
GAPS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6)
SOLVERS = ("damped", "anderson", "newton")
MOST = 2_000
BACKWARDS: tuple[tuple[str, implicit.Backward, str], ...] = (
    ("gmres", implicit.Gmres(), "float64"),
    ("gmres in float32", implicit.Gmres(), "float32"),
    ("neumann, 10 terms", implicit.Neumann(10), "float64"),
    ("one step", implicit.OneStep(), "float64"),
)
SICK, LIMIT, RATE, STEPS = 1e-4, 0.95, 0.5, 40


@dataclass(frozen=True, eq=False)
class Remedy:
    """A remedy. amplification (n+1,): by how much the layer magnifies a gradient, before the remedy
    and after each of its n steps.
    """

    name: str
    amplification: Array


@dataclass(frozen=True, eq=False)
class ImplicitStudy:
    """The result of run; arrays are (n,) for n gaps unless noted.

    amplification: |u|/|dz| along the eigenvector. sigma_min, condition, distance: measured by the
    gauge. announced: whether the gauge gave a ConditioningWarning. iterations (3, n): the
    iterations of SOLVERS, -1 if they did not converge. errors (4, n): relative errors of the
    gradients of BACKWARDS.
    """

    seed: int
    gaps: Array
    amplification: Array
    sigma_min: Array
    condition: Array
    distance: Array
    announced: NDArray[np.bool_]
    iterations: NDArray[np.int64]
    errors: Array
    remedies: tuple[Remedy, ...]

    def lines(self) -> list[str]:
        """The numbers as tables for a terminal."""
        lines = [
            "an eigenvalue of J at 1 - gap: factor by which the gradient grows, smallest singular "
            "value of I - J and warning by the gauge, iterations, gradient errors",
            f"{'gap':>8}  {'grows by':>9}  {'sigma_min':>9}  {'warns':>5}  "
            + "  ".join(f"{name:>8}" for name in SOLVERS)
            + "  "
            + "  ".join(f"{name:>17}" for name, _, _ in BACKWARDS),
        ]
        for i, gap in enumerate(self.gaps):
            counts = ["never" if n < 0 else f"{n:,}" for n in self.iterations[:, i]]
            lines.append(
                f"{gap:8.0e}  {self.amplification[i]:9.3g}  {self.sigma_min[i]:9.2e}  "
                f"{'yes' if self.announced[i] else 'no':>5}  "
                + "  ".join(f"{n:>8}" for n in counts)
                + "  "
                + "  ".join(f"{e:17.1e}" for e in self.errors[:, i])
            )
        lines += ["", f"remedies, from a gap of {SICK:g}: the gradient is magnified by"]
        for remedy in self.remedies:
            first, last = remedy.amplification[0], remedy.amplification[-1]
            steps = len(remedy.amplification) - 1
            told = "1 step" if steps == 1 else f"{steps} steps"
            lines.append(f"  {remedy.name}: {first:.3g} before, {last:.3g} after {told}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """All numbers as JSON values."""
        return {
            "study": "implicit",
            "seed": self.seed,
            "gap": self.gaps.tolist(),
            "amplification": self.amplification.tolist(),
            "sigma_min": self.sigma_min.tolist(),
            "condition": self.condition.tolist(),
            "distance": self.distance.tolist(),
            "announced": self.announced.tolist(),
            "iterations": dict(zip(SOLVERS, self.iterations.tolist(), strict=True)),
            "gradient_error": {
                name: row for (name, _, _), row in zip(BACKWARDS, self.errors.tolist(), strict=True)
            },
            "remedies": {r.name: r.amplification.tolist() for r in self.remedies},
        }

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draws gradient growth, gradient errors, iterations and remedies over the gap."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.5, 8.2), layout="constrained")
        ((grow, wrong), (count, cure)) = figure.subplots(2, 2)
        grow.loglog(self.gaps, self.amplification, "o", label="gradient magnified by")
        grow.loglog(self.gaps, 1 / self.gaps, "k:", label="1 / gap")
        grow.loglog(self.gaps, 1 / self.sigma_min, "-", label="conditioning: 1 / sigma_min")
        told = self.gaps[self.announced]
        if len(told):
            border = 10 ** (0.5 * np.log10(told.max() * self.gaps[~self.announced].min()))
            grow.axvspan(self.gaps.min(), border, color="C3", alpha=0.1, label="conditioning warns")
        grow.set(title="The gradient grows as 1 / gap, and a warning comes before")
        for (name, _, _), row in zip(BACKWARDS, self.errors, strict=True):
            wrong.loglog(self.gaps, np.maximum(row, 1e-16), "o-", markersize=3, label=name)
        wrong.set(title="Errors of the backward methods", ylabel="relative error of the gradient")
        for name, row in zip(SOLVERS, self.iterations, strict=True):
            there = row > 0
            count.loglog(self.gaps[there], row[there], "o-", markersize=3, label=name)
        count.set(title=f"Iterations of the solvers (at most {MOST:,})", ylabel="iterations")
        for axis in (grow, wrong, count):
            axis.set_xlabel("gap: 1 - the largest eigenvalue of J")
            axis.invert_xaxis()
        for remedy in self.remedies:
            style = "o-" if len(remedy.amplification) < 5 else "-"
            cure.semilogy(remedy.amplification, style, label=remedy.name)
        cure.set(title=f"Remedies, from a gap of {SICK:g}", xlabel="step")
        cure.set_ylabel("gradient magnified by")
        for axis in (grow, wrong, count, cure):
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(frameon=False, fontsize="small")
        write_figure(path, figure, dpi=130)


def run(
    *,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = lambda what, part: None,
) -> ImplicitStudy:
    """Measures all gaps, then the remedies."""
    rng = np.random.default_rng(integer("seed", seed))
    weights, along = _family(rng)
    x = rng.standard_normal((SAMPLES, INPUTS))
    found = []
    for i, gap in enumerate(GAPS):
        progress(f"gap {gap:g}", 0.8 * i / len(GAPS))
        found.append(_at(weights(gap), along, x, threads))
    progress("remedies", 0.8)
    remedies = (_constrained(weights(SICK), x, threads), _penalised(weights(SICK), x, threads))
    progress("done", 1.0)
    columns = list(zip(*found, strict=True))
    amplification, sigma_min, condition, distance = (np.array(c, float) for c in columns[:4])
    return ImplicitStudy(
        seed,
        np.array(GAPS),
        amplification,
        sigma_min,
        condition,
        distance,
        np.array(columns[4]),
        np.array(columns[5]).T,
        np.array(columns[6]).T,
        remedies,
    )


def _family(rng: np.random.Generator) -> tuple[Callable[[float], Array], Array]:
    """A function from gap to W, and the eigenvector of the eigenvalue 1 - gap.

    The other eigenvalues are a pair 0.4 +- 0.3i and real values within 0.4, in a random orthogonal
    basis.
    """
    frame = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0]
    rest = rng.uniform(-0.4, 0.4, SIZE - 3)

    def of(gap: float) -> Array:
        blocks = np.zeros((SIZE, SIZE))
        blocks[0, 0] = 1.0 - gap
        blocks[1:3, 1:3] = [[0.4, -0.3], [0.3, 0.4]]
        blocks[np.arange(3, SIZE), np.arange(3, SIZE)] = rest
        return np.asarray(frame @ blocks @ frame.T)

    return of, frame[:, 0]


def _layer(weight: Array, dtype: str) -> tuple[implicit.FixedPoint, Params]:
    layer = implicit.FixedPoint(
        Stack(RNN(INPUTS, SIZE, nonlinearity="identity", bias=False)), solver="newton"
    )
    params = layer.init(seed=0, dtype=dtype)
    params["0.weight_hh"] = weight.astype(dtype)
    return layer, params


def _at(weight: Array, along: Array, x: Array, threads: int | None) -> tuple[Any, ...]:
    """All measurements at one gap, for gradients along the eigenvector."""
    layer, params = _layer(weight, "float64")
    dz = along * np.ones((SAMPLES, 1))
    z = np.linalg.solve(np.eye(SIZE) - weight, params["0.weight_ih"] @ x.T).T
    exact = np.linalg.solve((np.eye(SIZE) - weight).T, dz.T)
    truth = exact @ x  # the exact gradient by weight_ih
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        gauge = layer.conditioning(params, x, z, dz, samples=[0], threads=threads)
    announced = any(issubclass(w.category, ConditioningWarning) for w in told)
    iterations, errors = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConditioningWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        for solver in SOLVERS:
            tried = replace(layer, solver=solver, tol=1e-8, max_iter=MOST)
            solved = tried.solve(params, x, threads=threads)
            count = int(solved.iterations.max())
            iterations.append(count if solved.converged.all() else -1)
        for _, backward, dtype in BACKWARDS:
            own, made = _layer(weight, dtype)
            back = replace(own, backward=backward).gradient(
                made, x.astype(dtype), z.astype(dtype), dz, threads=threads
            )
            grads = np.ldexp(back.grads["0.weight_ih"].astype(float), back.grads.exponent)
            errors.append(float(np.linalg.norm(grads - truth) / np.linalg.norm(truth)))
        amplification = float(layer.gradient(params, x, z, dz, threads=threads).amplification[0])
    return (
        amplification,
        float(gauge.sigma_min[0]),
        float(gauge.condition[0]),
        float(gauge.distance[0]),
        announced,
        iterations,
        errors,
    )


def _magnified(layer: implicit.FixedPoint, params: Params, x: Array, threads: int | None) -> float:
    """The largest factor by which the layer magnifies a gradient, 1 / sigma_min."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConditioningWarning)
        z = layer.solve(params, x, threads=threads)
        gauge = layer.conditioning(params, x, z, samples=[0], threads=threads)
    return float(1 / gauge.sigma_min[0])


def _constrained(weight: Array, x: Array, threads: int | None) -> Remedy:
    """The remedy by a constraint, which an optimizer applies as soon as it is made."""
    layer, params = _layer(weight, "float64")
    before = _magnified(layer, params, x, threads)
    SGD(params, 0.0, constraints=[SpectralNorm(LIMIT, weights="*.weight_hh")])
    after = _magnified(layer, params, x, threads)
    return Remedy(f"constrain.SpectralNorm({LIMIT:g})", np.array([before, after]))


def _penalised(weight: Array, x: Array, threads: int | None) -> Remedy:
    """The remedy by the penalty: gradient descent on the Jacobian penalty alone."""
    layer, params = _layer(weight, "float64")
    found = [_magnified(layer, params, x, threads)]
    optimizer = SGD(params, RATE)
    for step in range(STEPS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConditioningWarning)
            z = layer.solve(params, x, threads=threads)
        optimizer.step(layer.penalty(params, x, z, seed=step, threads=threads).grads)
        found.append(_magnified(layer, params, x, threads))
    return Remedy("Jacobian penalty", np.array(found))
