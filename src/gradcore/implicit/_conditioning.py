"""Measures how close to singular I - J is at fixed points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import spectral
from .._base.blas import single_threaded
from .._base.checks import integer
from .._engine.prepare import Progress
from ._adjoint import Backward, solve_adjoint
from ._krylov import Operator, gmres, norms, over
from ._system import Linearised, System

__all__ = ["NEAR", "Conditioning", "condition"]

Array = NDArray[np.float64]

# I - J counts as nearly singular if a singular value, or the distance of an eigenvalue of J from 1,
# is below this: the layer then magnifies gradients a hundredfold.
NEAR = 0.01
# Up to this size S the Jacobians are formed as matrices: the core carries 256 directions at once.
DENSE = 256
# The bytes that Jacobian matrices may take at a time.
ROOM = 64_000_000
# Relative tolerances of the linear solves and of the Lanczos iteration behind the estimates.
SOLVE_TOL = 1e-10
LANCZOS_TOL = 1e-4


@dataclass(frozen=True, eq=False)
class Conditioning:
    """The conditioning of I - J at n samples; arrays are (n,), in float64.

    samples: their indices. sigma_min, sigma_max: the smallest and largest singular value of I - J.
    norm: the largest singular value of J; if it is below 1, f is a contraction there.
    spectral_radius: the largest modulus of an eigenvalue of J. eigenvalue: the eigenvalue of J
    nearest to 1, complex. amplification: |u| / |dz| of the adjoint. forward_residual:
    |f(z) - z| / |z|. forward_error: an estimate of |z - exact| / |z| by one Newton step.
    backward_residual: |dz - (I - J)' u| / |dz| for the u that the layer computes, in its own dtype,
    method and tolerance. gradient_error: an estimate of |u - exact| / |exact| for this u; the exact
    one is approximated by a precise solve at the point that the Newton step gives. certain: whether
    all solves behind the estimates met their tolerance; if not, sigma_min is an upper bound.
    """

    samples: NDArray[np.intp]
    sigma_min: Array
    sigma_max: Array
    norm: Array
    spectral_radius: Array
    eigenvalue: NDArray[np.complex128]
    amplification: Array
    forward_residual: Array
    forward_error: Array
    backward_residual: Array
    gradient_error: Array
    certain: NDArray[np.bool_]

    @property
    def condition(self) -> Array:
        """Condition numbers of I - J, (n,); inf if it is singular."""
        with np.errstate(divide="ignore"):
            found: Array = self.sigma_max / self.sigma_min
        return found

    @property
    def distance(self) -> Array:
        """|1 - eigenvalue|, the distance from 1 of the eigenvalue of J nearest to it, (n,)."""
        return np.abs(1 - self.eigenvalue)

    @property
    def near(self) -> NDArray[np.bool_]:
        """Whether sigma_min or distance is below 0.01, (n,)."""
        return (self.sigma_min < NEAR) | (self.distance < NEAR)

    @property
    def message(self) -> str:
        """Sentences about the worst sample, with its numbers."""
        i = int(np.argmin(self.sigma_min))
        value = self.eigenvalue[i]
        shown = f"{value.real:.6g}" if value.imag == 0 else f"{value:.4g}"
        verdict = "well conditioned"
        if self.near.any():
            verdict = "nearly singular"
        elif self.condition[i] > 1 / NEAR:
            verdict = "badly conditioned"
        return (
            f"I - J is {verdict}: worst in sample {self.samples[i]}, smallest singular value "
            f"{'at most ' if not self.certain[i] else ''}{self.sigma_min[i]:.2e}, condition number "
            f"{self.condition[i]:.1e}; the eigenvalue of J nearest to 1 is {shown}, its spectral "
            f"radius {self.spectral_radius[i]:.4g}. Gradients are magnified by "
            f"{self.amplification[i]:.2e}, with an estimated relative error of "
            f"{self.gradient_error[i]:.1e}."
        )

    @property
    def remedy(self) -> str:
        """What to do; empty if nothing needs to be done."""
        found = []
        if self.near.any():
            found.append(
                "Keep eigenvalues of J away from 1: give the optimizer "
                "constrain.SpectralNorm(0.95) for recurrent weights (with tanh it bounds |J|), or "
                "add FixedPoint.penalty to the loss. Until then clip gradients, and solve in "
                "float64 with a smaller tol."
            )
        elif (self.condition > 1 / NEAR).any():
            found.append(
                "J is far from normal: divide tol by the condition number, and keep |J| small with "
                "constrain.SpectralNorm or FixedPoint.penalty."
            )
        if (self.spectral_radius >= 1).any():
            found.append(
                "The spectral radius of J is 1 or more: the plain iteration does not converge here "
                "and backward='neumann' diverges. solver='newton' and backward='gmres' are not "
                "affected."
            )
        if (self.gradient_error > 0.1).any():
            found.append(
                "The gradient has an error of more than a tenth: lower tol of the layer and of its "
                "backward, or use backward='gmres' instead of 'neumann' or 'one_step'."
            )
        return " ".join(found)


def condition(
    system: System,
    exact: System,
    z: NDArray[Any],
    dz: Array,
    backward: Backward,
    samples: NDArray[np.intp],
    seed: int,
    progress: Progress | None,
) -> Conditioning:
    """Measures the conditioning at z. system: the layer in its own dtype; exact: in float64."""
    integer("seed", seed)
    size = z.shape[1]
    own = solve_adjoint(Linearised(system, z, transposed=True), dz, backward)
    wide = z.astype(np.float64)
    off = exact.value(wide) - wide
    restart, most = min(size, 200), 10 * size + 100
    correction = gmres(Linearised(exact, wide), off, SOLVE_TOL, most, restart)
    there = wide + correction.x
    precise = gmres(Linearised(exact, there, transposed=True), dz, SOLVE_TOL, most, restart)
    parts = _dense(exact, wide, progress) if size <= DENSE else _sparse(exact, wide, seed, progress)
    sigma_min, sigma_max, norm, radius, eigenvalue, certain = parts
    met = np.maximum(correction.residual, precise.residual) <= 10 * SOLVE_TOL
    return Conditioning(
        samples,
        sigma_min,
        sigma_max,
        norm,
        radius,
        eigenvalue,
        over(norms(precise.x), norms(dz)),
        over(norms(off), norms(wide)),
        over(norms(correction.x), norms(wide)),
        own.residual,
        over(norms(own.u - precise.x), norms(precise.x)),
        certain & met,
    )


_Parts = tuple[Array, Array, Array, Array, NDArray[np.complex128], NDArray[np.bool_]]


def _dense(system: System, z: Array, progress: Progress | None) -> _Parts:
    """Singular values and eigenvalues by LAPACK, from Jacobians formed as matrices."""
    count, size = z.shape
    low, high, norm, radius = (np.empty(count) for _ in range(4))
    nearest = np.empty(count, np.complex128)
    at_once = max(1, ROOM // (8 * size * size))
    for first in range(0, count, at_once):
        rows = np.arange(first, min(first + at_once, count))
        units = np.broadcast_to(np.eye(size)[:, None, :], (size, len(rows), size))
        jacobians = system.take(rows).tangents(z[rows], units).transpose(1, 2, 0)
        with single_threaded():
            values = np.linalg.svd(np.eye(size) - jacobians, compute_uv=False)
            eigenvalues = np.linalg.eigvals(jacobians).astype(np.complex128)
            norm[rows] = np.linalg.svd(jacobians, compute_uv=False)[:, 0]
        low[rows], high[rows] = values[:, -1], values[:, 0]
        radius[rows] = np.abs(eigenvalues).max(axis=1)
        place = np.argmin(np.abs(1 - eigenvalues), axis=1)
        nearest[rows] = eigenvalues[np.arange(len(rows)), place]
        if progress is not None:
            progress(int(rows[-1]) + 1, count)
    # Of a complex conjugate pair, the eigenvalue with the positive imaginary part is returned.
    return low, high, norm, radius, nearest.real + 1j * np.abs(nearest.imag), np.ones(count, bool)


def _sparse(system: System, z: Array, seed: int, progress: Progress | None) -> _Parts:
    """Singular values and eigenvalues by Krylov methods, sample by sample."""
    count = len(z)
    parts = np.empty((4, count))
    nearest, certain = np.empty(count, np.complex128), np.empty(count, bool)
    for i in range(count):
        rows = np.array([i])
        parts[:, i], nearest[i], certain[i] = _outer(system.take(rows), z[rows], seed)
        if progress is not None:
            progress(i + 1, count)
    low, high, norm, radius = parts
    return low, high, norm, radius, nearest, certain


def _outer(system: System, z: Array, seed: int) -> tuple[list[float], complex, bool]:
    """[sigma_min, sigma_max, norm, spectral radius]; the eigenvalue nearest to 1; whether certain.

    The smallest values of I - J are found as the largest of its inverse, which GMRES applies.
    """
    size = z.shape[1]
    forward, back = Linearised(system, z), Linearised(system, z, transposed=True)
    residuals: list[float] = []

    def inverse(operator: Operator, v: Array) -> Array:
        found = gmres(operator, v[None], SOLVE_TOL, 10 * size, 200)
        residuals.append(float(found.residual[0]))
        solved: Array = found.x[0]
        return solved

    shape = (size, size)
    whole = spectral.Operator(shape, lambda v: forward(v[None])[0], lambda v: back(v[None])[0])
    jacobian = spectral.Operator(
        shape, lambda v: v - forward(v[None])[0], lambda v: v - back(v[None])[0]
    )
    inverted = spectral.Operator(shape, lambda v: inverse(forward, v), lambda v: inverse(back, v))
    high, low, norm = (
        spectral.spectral_norm(operator, LANCZOS_TOL, seed=seed)
        for operator in (whole, inverted, jacobian)
    )
    radius = spectral.spectral_radius(jacobian).value
    nearest = 1 - 1 / spectral.spectral_radius(inverted).eigenvalue
    certain = high.converged and low.converged and norm.converged and max(residuals) <= 1e-6
    found = [1 / float(low.value), float(high.value), float(norm.value), radius]
    return found, complex(nearest.real, abs(nearest.imag)), certain
