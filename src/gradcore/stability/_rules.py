"""Optimizers on a quadratic loss: the largest stable curvature, and the preconditioner.

On the loss 0.5 * curvature * p^2 with constant second moments, a step of each rule here is a linear
map of a parameter and its momentum. The eigenvalues of the map are the roots of a quadratic
polynomial whose coefficients are linear in the curvature. As the curvature rises from 0, the first
root to leave the unit circle leaves it at -1, so the limit is where the polynomial is 0 at -1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, DTypeError
from ..optim import SGD, Adagrad, Adam, AdamW, RMSprop
from ..optim._optimizer import Optimizer

__all__ = ["curvature_decay", "curvature_limit", "curvature_scale", "limit_terms", "step_map"]

Array = NDArray[np.float64]


def curvature_limit(optimizer: Optimizer, lr: float | None = None) -> float:
    """The largest preconditioned curvature at which steps of this rate are stable.

    lr: the rate, instead of the optimizer's own.

    The limits are: gradient descent 2/lr; with momentum m and dampening d 2(1+m)/((1-d) lr);
    Nesterov 2(1+m)/((1+2m) lr); RMSprop 2(1+m)/lr; Adagrad 2/lr; Adam 2(1+beta1)/((1-beta1) lr);
    AdamW with decay w (1+beta1)(2 - lr w)/((1-beta1) lr). For lr = 0 the limit is inf. They hold
    for steps without clipping and constraints.
    Raises ArgumentError for Lion, whose steps have the same size for every gradient.
    Reference: Polyak 1964; Cohen et al. 2021, section 2 and appendix B; Cohen et al. 2022, eq. 3.
    """
    slope, less = limit_terms(optimizer)
    rate = optimizer.lr if lr is None else float(lr)
    return max(0.0, slope / rate - less) if rate > 0 else float(np.inf)


def limit_terms(optimizer: Optimizer) -> tuple[float, float]:
    """(a, b) of curvature_limit = a / lr - b, with the same errors."""
    _check(optimizer)
    options = optimizer._options
    if isinstance(optimizer, Adam):
        beta = float(options["beta1"])
        ratio = (1 + beta) / (1 - beta)
        return 2 * ratio, ratio * optimizer.weight_decay if isinstance(optimizer, AdamW) else 0.0
    momentum = float(options.get("momentum", 0.0))
    if momentum >= 1.0:
        return 0.0, 0.0  # the momentum buffer grows at any curvature
    if options.get("nesterov"):
        return 2 * (1 + momentum) / (1 + 2 * momentum), 0.0
    free = 1.0 - float(options.get("dampening", 0.0)) if momentum > 0 else 1.0
    slower = 1 + optimizer.steps * float(options.get("lr_decay", 0.0))  # Adagrad
    return 2 * (1 + momentum) * slower / free if free > 0 else float(np.inf), 0.0


def step_map(
    optimizer: Optimizer, curvature: complex, lr: float | None = None
) -> NDArray[np.complex128]:
    """The linear map of (parameter, momentum) in a step at this preconditioned curvature, (2, 2).

    The largest modulus of its eigenvalues is the growth per step. Errors as in curvature_limit.
    """
    _check(optimizer)
    options = optimizer._options
    rate = optimizer.lr if lr is None else float(lr)
    rate /= 1 + optimizer.steps * float(options.get("lr_decay", 0.0))  # Adagrad
    if isinstance(optimizer, Adam):
        beta = float(options["beta1"])
        keep = 1 - rate * (optimizer.weight_decay if isinstance(optimizer, AdamW) else 0.0)
        gain = (1 - beta) * curvature
        return np.array([[keep - rate * gain, -rate * beta], [gain, beta]], complex)
    m = float(options.get("momentum", 0.0))
    gain = curvature * (1.0 - float(options.get("dampening", 0.0)) if m > 0 else 1.0)
    if options.get("nesterov"):
        first = [1 - rate * (1 + m) * curvature, -rate * m**2]
        return np.array([first, [curvature, m]], complex)
    return np.array([[1 - rate * gain, -rate * m], [gain, m]], complex)


def curvature_scale(optimizer: Optimizer) -> Array:
    """The preconditioner S: curvature is multiplied by it before comparison with the limit.

    (n_parameters,) float64. It is 1 for gradient descent, and otherwise 1/P, where P is the root of
    the second moments plus eps, as in the next step (bias corrected for Adam); both are multiplied
    by lr_scale of the groups. It is 0 for frozen parameters.
    Raises ArgumentError if the optimizer has second moments and has not made a step yet.
    """
    scale = np.zeros(optimizer.params.flat.size)
    for offset, length, _, lr_scale, _, _ in optimizer._layout.segments(optimizer.weight_decay):
        scale[offset : offset + length] = lr_scale
    second = optimizer.moments.get("second_moment")
    if second is None:
        return scale
    if optimizer.steps == 0:
        raise ArgumentError(
            f"{type(optimizer).__name__} divides by second moments, which it has only after its "
            "first step: measure after that."
        )
    options, steps = optimizer._options, optimizer.steps
    root = second.astype(np.float64)
    if isinstance(optimizer, Adam):
        root = np.sqrt(root / (1 - float(options["beta2"]) ** steps)) + float(options["eps"])
        return scale / (root * (1 - float(options["beta1"]) ** steps))
    if options.get("centered"):
        root = np.maximum(root - optimizer.moments["first_moment"].astype(np.float64) ** 2, 0.0)
    bottom = np.sqrt(root) + float(options["eps"])
    # With eps 0 the rule makes no step either where there has been no gradient.
    return np.divide(scale, bottom, out=np.zeros_like(scale), where=bottom > 0)


def curvature_decay(optimizer: Optimizer) -> Array:
    """The curvature that coupled weight decay adds, (n_parameters,)."""
    decay = np.zeros(optimizer.params.flat.size)
    if not isinstance(optimizer, AdamW):
        for offset, length, _, _, own, _ in optimizer._layout.segments(optimizer.weight_decay):
            decay[offset : offset + length] = own
    return decay


def _check(optimizer: Optimizer) -> None:
    if not isinstance(optimizer, Optimizer):
        raise DTypeError(f"optimizer must be one of gradcore.optim; got {optimizer!r}.")
    if not isinstance(optimizer, (SGD, Adam, RMSprop, Adagrad)):
        raise ArgumentError(
            f"{type(optimizer).__name__} steps by the sign of the gradient, equally far whatever "
            "the curvature, so there is no stability limit. Lower lr when the loss stops falling."
        )
