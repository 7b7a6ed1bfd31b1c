"""Checks of gradients: against finite differences of the loss, and between contestants."""

from __future__ import annotations

import numpy as np

from ..._engine.calls import value
from ...errors import GradcoreError
from .contestants import Gradients, net_of
from .problem import Problem

__all__ = ["DisagreementError", "check_differences", "check_same", "norm_error"]

# The largest relative difference allowed between contestants, which sum thousands of steps in
# float32 in different orders.
TOLERANCE = 1e-4

# Differences are computed in float64, so the error is that of the float32 gradients (1e-6) plus
# that of the difference (h^2 times a third derivative). A gradient that is wrong altogether shows:
# along its own direction it is off by 1/sqrt(2) or more of its norm, and along a random direction
# by about 1/sqrt(size) > 1e-3.
DIFFERENCE_STEP = 1e-3
DIFFERENCE_TOLERANCE = 3e-4
DIFFERENCE_STEPS = 300


class DisagreementError(GradcoreError):
    """Two computations of a gradient disagree; nothing was timed."""


def norm_error(got: Gradients, want: Gradients) -> tuple[float, str]:
    """The largest |got - want| / |want| over the arrays, and that array's name.

    The error is infinite for an array that is missing, has another shape, or is not finite.
    """

    def error(name: str) -> float:
        if name not in got or got[name].shape != want[name].shape:
            return np.inf
        difference = float(np.linalg.norm(got[name] - want[name]))
        scale = float(np.linalg.norm(want[name]))
        relative = difference / scale if scale > 0 else (0.0 if difference == 0 else np.inf)
        return relative if np.isfinite(relative) else np.inf

    return max((error(name), name) for name in want)


def check_same(problem: Problem, name: str, got: Gradients, want: Gradients) -> float:
    """The error of a contestant against gradcore; raises DisagreementError above TOLERANCE."""
    error, array = norm_error(got, want)
    if error > TOLERANCE:
        raise DisagreementError(
            f"{problem.row}: gradcore and {name} differ by {error:.1e} of the gradient's norm in "
            f"{array}; expected at most {TOLERANCE:.0e}. Nothing was timed: one of them is wrong, "
            "or they computed different things. Please report it."
        )
    return error


def check_differences(problem: Problem, got: Gradients) -> None:
    """Compares gradients with central differences of the float64 loss, array by array.

    problem: should have at most DIFFERENCE_STEPS steps, or it takes long. The direction in each
    array is the sum of the gradient's own and a random unit vector. Raises DisagreementError.
    """
    net, params = net_of(problem, "float64")
    x, y = problem.x.astype(np.float64), problem.y.astype(np.float64)
    rng = np.random.default_rng(0)
    for name, gradient in got.items():
        array = x if name == "x" else params[f"0.{name}"]
        own, other = gradient.astype(np.float64), rng.standard_normal(gradient.shape)
        size = float(np.linalg.norm(own))
        direction = other / np.linalg.norm(other) + (own / size if size > 0 else 0.0)
        direction /= np.linalg.norm(direction)
        before = array.copy()
        losses = []
        for step in (DIFFERENCE_STEP, -DIFFERENCE_STEP):
            array[...] = before + step * direction
            losses.append(value(net, params, x, y, loss="mse"))
        array[...] = before
        slope = (losses[0] - losses[1]) / (2 * DIFFERENCE_STEP)
        expected = float(np.vdot(own, direction))
        error = abs(slope - expected) / max(size, abs(slope), np.finfo(np.float64).tiny)
        if not error <= DIFFERENCE_TOLERANCE:
            raise DisagreementError(
                f"{problem.row}: along one direction of {name} the slope of the loss is "
                f"{slope:.6g}, and gradcore's gradient gives {expected:.6g}. Nothing was timed. "
                "Please report it."
            )
