"""Gradient clipping that also works for gradients beyond the range of their dtype."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from .._base.checks import float_in
from ..errors import DTypeError, NonFiniteError
from . import _beyond
from ._wide import Wide

__all__ = ["clip_grad_norm_", "log10_grad_norm"]

Parameters = nn.Module | Tensor | Iterable[Tensor]


@torch.no_grad()
def clip_grad_norm_(parameters: Parameters, max_norm: float) -> Tensor:
    """Scales all gradients to a global norm of at most max_norm; returns the norm before clipping.

    parameters: a module, a tensor or several tensors.

    If the gradients and their norm are finite, it does the same as torch.nn.utils.clip_grad_norm_.
    If gradients of gradcore's layers left the range of float32, so that .grad is infinite, their
    true values are known with their exponents (docs/decisions/0002): after clipping they have the
    direction of the true gradient, and numbers too small for the dtype are 0. The norm is a tensor
    in the dtype of the gradients, so it is infinite where it leaves their range; log10_grad_norm,
    called before this, tells its size.

    Call it between backward() and the optimizer's step. What is known beyond float32 belongs to the
    gradient that backward() wrote: if .grad was changed or replaced since, it is dropped with a
    warning. Raises ArgumentError if max_norm is not above 0, and NonFiniteError naming a parameter
    whose gradient is not finite for another reason, such as a parameter of a torch layer below a
    gradcore layer through which the gradient overflows; no gradient has changed then.
    Reference: Pascanu, Mikolov, Bengio 2013, section 3.2.
    """
    limit = max_norm
    if limit != math.inf:
        limit = float_in("max_norm", max_norm, 0.0, open_low=True)
    found = _gradients(parameters)
    norm, exponent = _norm(found)
    with np.errstate(over="ignore"):
        plain_norm = float(np.ldexp(norm, exponent))
    first = next(iter(found.values()), None)
    result = torch.tensor(plain_norm) if first is None else torch.tensor(plain_norm).to(first[0])
    if norm == 0.0 or math.isinf(limit):
        return result
    # torch adds 1e-6 to the norm. A norm beyond float64 is limit / norm = share * 2^-exponent.
    if math.isfinite(plain_norm):
        share, exponent = limit / (plain_norm + 1e-6), 0
        if share >= 1.0:
            return result
    else:
        share = limit / norm
    for parameter, (grad, wide) in found.items():
        if wide is not None:
            scaled = Wide.of(wide.values * share, wide.exponent - exponent)
            grad.copy_(scaled.tensor(grad))
            _beyond.forget(parameter)
        elif exponent:
            grad.mul_(float(np.ldexp(share, -exponent)))
        else:
            grad.mul_(share)
    return result


@torch.no_grad()
def log10_grad_norm(parameters: Parameters) -> float:
    """log10 of the global norm of all gradients, also where the norm is beyond their dtype.

    Changes no gradient. -inf if all gradients are 0. Raises NonFiniteError as clip_grad_norm_ does.
    """
    norm, exponent = _norm(_gradients(parameters))
    return -math.inf if norm == 0.0 else math.log10(norm) + exponent * math.log10(2.0)


def _gradients(parameters: Parameters) -> dict[Tensor, tuple[Tensor, Wide | None]]:
    """By parameter: .grad, and its true value where .grad is beyond its dtype."""
    found: dict[Tensor, tuple[Tensor, Wide | None]] = {}
    lost: dict[str, str] = {}
    infinite = ""
    for name, parameter in _named(parameters):
        wide, reason = _beyond.kept(parameter), _beyond.lost_reason(parameter)
        if reason:
            lost[name] = reason
            _beyond.forget(parameter)
        if parameter.grad is None:
            continue
        found[parameter] = parameter.grad, wide
        if wide is None and not infinite and not bool(torch.isfinite(parameter.grad).all()):
            infinite = name
    if lost:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in lost.items())
        warnings.warn(
            "what was known of gradients beyond the range of their dtype is dropped, because it no "
            f"longer belongs to .grad ({reasons}). Call clip_grad_norm_ directly after backward(), "
            "and scale the loss instead of .grad.",
            stacklevel=3,
        )
    if infinite:
        raise NonFiniteError(
            f"the gradient of {infinite} is not finite, and gradcore has no scaled copy of it: "
            "either .grad was changed after backward(), or it lies below a gradcore layer through "
            "which the gradient overflows, or the model gave NaN. Lower the growth of that layer "
            "(gradcore.torch.constrain), or use float64."
        )
    return found


def _named(parameters: Parameters) -> Iterator[tuple[str, Tensor]]:
    if isinstance(parameters, nn.Module):
        yield from parameters.named_parameters()
        return
    several = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for index, parameter in enumerate(several):
        if not isinstance(parameter, Tensor):
            raise DTypeError(
                "parameters must be a torch.nn.Module, a tensor or several tensors; item "
                f"{index} is a {type(parameter).__name__}."
            )
        yield f"parameter {index} of shape {tuple(parameter.shape)}", parameter


def _norm(found: dict[Tensor, tuple[Tensor, Wide | None]]) -> tuple[float, int]:
    """The global norm as m and e of m * 2^e, in float64."""
    parts = [_plain_norm(grad) if wide is None else wide.norm() for grad, wide in found.values()]
    top = max((exponent for norm, exponent in parts if norm), default=0)
    return math.hypot(*(float(np.ldexp(norm, exponent - top)) for norm, exponent in parts)), top


def _plain_norm(grad: Tensor) -> tuple[float, int]:
    """The norm of one finite gradient, whose squares may leave its dtype, as m and e of m * 2^e."""
    if grad.numel() == 0:
        return 0.0, 0
    exponent = math.frexp(float(grad.abs().max()))[1]
    # Two factors, because 2^1074 itself is beyond float64.
    half = -exponent // 2
    scaled = grad.double() * 2.0**half * 2.0 ** (-exponent - half)
    return float(torch.linalg.vector_norm(scaled)), exponent
