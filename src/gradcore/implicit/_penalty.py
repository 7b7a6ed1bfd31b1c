"""The size of J at fixed points as a term of the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.checks import integer
from .._net.stack import Grads, Params
from ._system import System, at_exponent

__all__ = ["JacobianPenalty", "penalty"]

# Step of the central differences: near the cube root of float64's roundings.
STEP = 1e-5


@dataclass(frozen=True, eq=False)
class JacobianPenalty:
    """value: the estimate of mean |J|_F^2 / S. grads, dx (N, ...): its gradients; dx None: tokens.

    norm: its square root, about the root mean square of J's singular values.
    """

    value: float
    grads: Grads
    dx: NDArray[Any] | None

    @property
    def norm(self) -> float:
        """sqrt(value)."""
        return float(np.sqrt(self.value))


def penalty(
    system: System, z: NDArray[np.float64], params: Params, probes: int, seed: int
) -> JacobianPenalty:
    """system, z: in float64. params: give owner and dtype of the gradients.

    |J v|^2 has the gradient 2 w' (dJ) v at w = J v held, and w' J v is the derivative along v of
    w' f, whose gradients vjp gives: their difference between z + h v and z - h v is what is wanted.
    """
    rng = np.random.default_rng(integer("seed", seed))
    count, size = z.shape
    total, flat = 0.0, np.zeros(params.flat.size)
    dx: NDArray[Any] | None = None
    for _ in range(probes):
        v = rng.integers(0, 2, z.shape) * 2.0 - 1.0
        w = system.tangents(z, v[None])[0]
        total += float((w**2).sum()) / (size * count * probes)
        scale = 2.0 / (size * count * probes) / (2 * STEP)
        ahead, ahead_x = system.pull(z + STEP * v, w)
        behind, behind_x = system.pull(z - STEP * v, w)
        flat += scale * (_plain(ahead) - _plain(behind))
        if ahead_x is not None and behind_x is not None:
            part = scale * (ahead_x.astype(np.float64) - behind_x)
            dx = part if dx is None else dx + part
    grads = Grads(params.owner, flat.astype(params.dtype))
    return JacobianPenalty(total, grads, None if dx is None else dx.astype(params.dtype))


def _plain(grads: Grads) -> NDArray[Any]:
    return at_exponent(grads.flat, grads.exponent)
