"""What a fixed point iteration found, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Solution", "SolverOutcome"]


class SolverOutcome(Enum):
    """How an iteration ended; the value says what to do."""

    CONVERGED = "The residual is within the tolerance."
    NOT_CONVERGED = (
        "The residual is above the tolerance after max_iter iterations: raise max_iter, take "
        "solver='newton', start from a nearby solution (start=), or raise tol. If J has an "
        "eigenvalue near 1 or a spectral radius above 1, see FixedPoint.conditioning."
    )
    DIVERGED = (
        "The residual grew a millionfold or stopped being finite: f does not contract here. Damp "
        "(Damped(damping=0.5)), take solver='newton', or hold f to a contraction: "
        "constrain.SpectralNorm for its recurrent weights, or the Jacobian penalty."
    )
    STALLED = (
        "No step along Newton's direction reduces the residual: I - J is nearly singular there, or "
        "f has no fixed point nearby. See FixedPoint.conditioning; begin elsewhere, or in float64."
    )


@dataclass(frozen=True, eq=False)
class Solution:
    """Fixed points of a batch, sample by sample.

    z (N, S): the point of the smallest residual met. residual (N,): |f(z) - z| / (|f(z)| +
    atol / tol), of that z. outcomes: how each sample's iteration ended. iterations (N,): of the
    solver. evaluations (N,): of f, and for Newton's method products with J as well. tol: what the
    residual was to meet.
    """

    z: NDArray[Any]
    residual: NDArray[np.float64]
    outcomes: tuple[SolverOutcome, ...]
    iterations: NDArray[np.int64]
    evaluations: NDArray[np.int64]
    tol: float

    @property
    def converged(self) -> NDArray[np.bool_]:
        """(N,), of each sample."""
        return np.array([outcome is SolverOutcome.CONVERGED for outcome in self.outcomes])

    @property
    def outcome(self) -> SolverOutcome:
        """CONVERGED if all samples have; else that of the sample with the largest residual."""
        wrong = np.flatnonzero(~self.converged)
        if not wrong.size:
            return SolverOutcome.CONVERGED
        return self.outcomes[int(wrong[np.argmax(self.residual[wrong])])]

    @property
    def message(self) -> str:
        """How many samples failed, the worst of them, and what to do."""
        wrong = np.flatnonzero(~self.converged)
        if not wrong.size:
            return (
                f"all {len(self.z)} samples converged in {int(self.iterations.max())} iterations "
                f"or fewer to residuals of {self.residual.max():.1e} or less."
            )
        worst = int(wrong[np.argmax(self.residual[wrong])])
        return (
            f"{wrong.size} of {len(self.z)} samples did not converge; sample {worst} has a "
            f"residual of {self.residual[worst]:.1e} where {self.tol:.1e} was asked, after "
            f"{self.iterations[worst]} iterations. {self.outcomes[worst].value}"
        )
