"""The penalty |J|_F^2 / S at fixed points, estimated by random probes, with its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.checks import integer
from .._net.stack import Grads, Params
from ._system import System, at_exponent

__all__ = ["JacobianPenalty", "penalty"]

# The step of the central differences, near the cube root of float64's rounding error, where the
# sum of rounding and truncation errors is smallest.
STEP = 1e-5


@dataclass(frozen=True, eq=False)
class JacobianPenalty:
    """The estimated mean of |J|_F^2 / S over samples, with its gradients.

    grads: gradient with respect to the parameters. dx (N, ...): gradient with respect to the input,
    None for tokens.
    """

    value: float
    grads: Grads
    dx: NDArray[Any] | None

    @property
    def norm(self) -> float:
        """sqrt(value), about the root mean square of J's singular values."""
        return float(np.sqrt(self.value))


def penalty(
    system: System, z: NDArray[np.float64], params: Params, probes: int, seed: int
) -> JacobianPenalty:
    """Computes the penalty. system, z: in float64. params: gives layout and dtype of the gradients.

    The gradient of |J v|^2 is 2 w' (dJ) v with w = J v held constant. w' J v is the derivative of
    w' f along v, and vjp gives the gradients of w' f; so the difference of these between z + h v
    and z - h v, divided by 2 h, gives w' (dJ) v.
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
