"""The result of a fixed point iteration, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Solution", "SolverOutcome"]


class SolverOutcome(Enum):
    """How the iteration of a sample ended; the value is a message that says what to do."""

    CONVERGED = "The residual is within the tolerance."
    NOT_CONVERGED = (
        "The residual is above the tolerance after max_iter iterations: raise max_iter, use "
        "solver='newton', start from a nearby solution (start=), or raise tol. "
        "FixedPoint.conditioning shows whether J has an eigenvalue near 1 or a spectral radius "
        "above 1."
    )
    DIVERGED = (
        "The residual grew a millionfold or stopped being finite: f is not a contraction here. Use "
        "Damped(damping=0.5) or solver='newton', or keep f a contraction with "
        "constrain.SpectralNorm for its recurrent weights or the Jacobian penalty."
    )
    STALLED = (
        "No step along Newton's direction reduces the residual: I - J is nearly singular there, or "
        "f has no fixed point nearby. See FixedPoint.conditioning; use another start or float64."
    )


@dataclass(frozen=True, eq=False)
class Solution:
    """The fixed points of a batch of N samples.

    z (N, S): the point with the smallest residual among the iterates. residual (N,):
    |f(z) - z| / (|f(z)| + atol / tol) at that z. outcomes: how the iteration of each sample ended.
    iterations (N,): iterations of the solver. evaluations (N,): evaluations of f, plus products
    with J in Newton's method. tol: the tolerance of the residual.
    """

    z: NDArray[Any]
    residual: NDArray[np.float64]
    outcomes: tuple[SolverOutcome, ...]
    iterations: NDArray[np.int64]
    evaluations: NDArray[np.int64]
    tol: float

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Whether each sample has converged, (N,)."""
        return np.array([outcome is SolverOutcome.CONVERGED for outcome in self.outcomes])

    @property
    def outcome(self) -> SolverOutcome:
        """CONVERGED if all samples have, else the outcome of the one with the largest residual."""
        wrong = np.flatnonzero(~self.converged)
        if not wrong.size:
            return SolverOutcome.CONVERGED
        return self.outcomes[int(wrong[np.argmax(self.residual[wrong])])]

    @property
    def message(self) -> str:
        """A sentence with the number of samples that failed, the worst of them, and what to do."""
        wrong = np.flatnonzero(~self.converged)
        if not wrong.size:
            return (
                f"all {len(self.z)} samples converged in {int(self.iterations.max())} iterations "
                f"or fewer to residuals of {self.residual.max():.1e} or less."
            )
        worst = int(wrong[np.argmax(self.residual[wrong])])
        return (
            f"{wrong.size} of {len(self.z)} samples did not converge; sample {worst} has a "
            f"residual of {self.residual[worst]:.1e}, and the tolerance is {self.tol:.1e}, after "
            f"{self.iterations[worst]} iterations. {self.outcomes[worst].value}"
        )
