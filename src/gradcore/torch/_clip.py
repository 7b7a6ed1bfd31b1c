"""Gradient clipping that also works for gradients beyond the range of their dtype."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from .._base.checks import float_in
from ..errors import NonFiniteError
from ._convert import layers_of

__all__ = ["clip_grad_norm_"]


@torch.no_grad()
def clip_grad_norm_(model: nn.Module, max_norm: float) -> float:
    """Scales all gradients of a model to a global norm of at most max_norm.

    Returns log10 of the norm before clipping. If gradients are finite, it does the same as
    torch.nn.utils.clip_grad_norm_. If gradients of gradcore's layers left the range of float32, so
    that .grad is infinite, the layers still have them with their exponents (docs/decisions/0002):
    after clipping they have the direction of the true gradient, and numbers too small for the dtype
    are 0.

    Call it between backward() and the optimizer's step. Raises ArgumentError if max_norm is not
    above 0, and NonFiniteError naming a parameter whose gradient is not finite for another reason,
    such as a parameter of a torch layer below a gradcore layer through which the gradient
    overflows; no gradient has changed then.
    Reference: Pascanu, Mikolov, Bengio 2013, section 3.2.
    """
    limit = float_in("max_norm", max_norm, 0.0, float("inf"), open_low=True)
    rescued = _rescued(model)
    plain: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.grad is None or parameter in rescued:
            continue
        if not bool(torch.isfinite(parameter.grad).all()):
            raise NonFiniteError(
                f"the gradient of {name} is not finite, and gradcore has no scaled copy of it: "
                "either it lies below a gradcore layer through which the gradient overflows, or "
                "the model gave NaN. Lower the growth of that layer (gradcore.torch.constrain), or "
                "use float64."
            )
        plain.append(parameter.grad)
    # Norms are relative to 2^top, the largest exponent, so that their squares stay in range.
    top = max((exponent for _, exponent in rescued.values()), default=0)
    squares = [
        float(gradient.double().square().sum()) * 2.0 ** (2 * max(exponent - top, -1000))
        for gradient, exponent in [*rescued.values(), *((gradient, 0) for gradient in plain)]
    ]
    norm = float(np.sqrt(sum(squares)))
    if norm == 0.0:
        return -np.inf
    log10 = np.log10(norm) + top * np.log10(2.0)
    if top == 0 and norm <= limit:
        return float(log10)
    for gradient in plain:
        gradient.mul_(limit / norm * 2.0 ** max(-top, -1000))
    for parameter, (gradient, exponent) in rescued.items():
        parameter.grad = gradient * (limit / norm * 2.0 ** max(exponent - top, -1000))
    return float(log10)


def _rescued(model: nn.Module) -> dict[nn.Parameter, tuple[Tensor, int]]:
    """Finite gradients of parameters whose .grad is not, with one exponent per layer."""
    found: dict[nn.Parameter, tuple[Tensor, int]] = {}
    for layer in layers_of(model).values():
        parameters = [getattr(layer, name) for name in layer.parameter_names()]
        grads = [parameter.grad for parameter in parameters]
        if not layer._beyond or all(g is None or bool(torch.isfinite(g).all()) for g in grads):
            continue
        exponent = max(grads.exponent for grads in layer._beyond)
        flat = np.zeros_like(layer._beyond[0].flat)
        for passed in layer._beyond:
            flat += np.ldexp(passed.flat, max(passed.exponent - exponent, -2000))
        layer._beyond.clear()
        pieces = torch.split(torch.from_numpy(flat), [p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            if parameter.grad is not None:
                found[parameter] = piece.reshape(parameter.shape), exponent
    return found
