"""Sharpness: the largest eigenvalues of a loss's Hessian, and what an optimizer makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.checks import float_in, integer, positive_int
from .._base.lanczos import Eigenpairs, top_eigenpairs
from .._engine.calls import Seed
from .._engine.prepare import Progress
from .._net import validate
from .._net.stack import Params, Stack
from .._net.state import LayerState
from ..errors import ArgumentError, DTypeError, NonFiniteError, ShapeError
from ..jacobian import hvp
from ..loss import Loss
from ..optim._optimizer import Optimizer
from ._rules import curvature_decay, curvature_limit, curvature_scale, limit_terms, step_map

__all__ = [
    "SearchOutcome",
    "Sharpness",
    "StepStability",
    "sharpness",
    "stability_of",
    "step_stability",
]

Array = NDArray[np.float64]


class SearchOutcome(Enum):
    """How the search for eigenvalues ended; the value says what to do."""

    CONVERGED = "All residuals are within the tolerance."
    NOT_CONVERGED = (
        "Some residuals are above the tolerance: raise max_products or tol. The largest eigenvalue "
        "is at least the value found."
    )


@dataclass(frozen=True, eq=False)
class Sharpness:
    """The largest eigenvalues of the Hessian of a loss, or of the preconditioned one.

    values (k,), falling; vectors (k, n_parameters), of unit length; residuals (k,), each
    |H v - value v|: there is an eigenvalue within that of each value. products: with H. outcome:
    how it ended.
    """

    values: Array
    vectors: Array
    residuals: Array
    products: int
    outcome: SearchOutcome


@dataclass(frozen=True, eq=False)
class StepStability:
    """The sharpness of a loss against what an optimizer bears.

    limit: the largest stable sharpness at this lr. ratio: sharpness / limit: above 1 the next steps
    grow along the sharpest direction, by `growth` each. lr_stable: the largest stable rate, inf
    where the loss is nowhere convex. sharpness: what was found.
    """

    sharpness: Sharpness
    limit: float
    ratio: float
    growth: float
    lr: float
    lr_stable: float

    def __str__(self) -> str:
        value, told = float(self.sharpness.values[0]), "is stable"
        if self.ratio > 1:
            told = f"is unstable, by a factor of {self.growth:.3g} per step"
        return (
            f"lr = {self.lr:.4g} {told}: sharpness {value:.4g} of {self.limit:.4g} that the "
            f"optimizer bears; up to {self.lr_stable:.4g} is stable"
        )


def sharpness(
    net: Stack,
    params: Params,
    x: Any,
    y: Any,
    *,
    loss: str | Loss,
    k: int = 1,
    optimizer: Optimizer | None = None,
    tol: float = 1e-3,
    max_products: int = 200,
    start: Array | None = None,
    frames_seed: int = 0,
    weight: Any = None,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    seed: Seed = None,
    train: bool = False,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Sharpness:
    """The k largest eigenvalues of the Hessian of the loss with respect to the parameters.

    optimizer: those of sqrt(S) (H + D) sqrt(S) instead, S what its next step multiplies a gradient
    by besides lr (1/P of Adam, lr_scale of groups; frozen parameters do not count) and D coupled
    weight decay: what curvature_limit is about. tol: residual, as a part of the largest |value|.
    start (k', n): vectors of a Hessian nearby. frames_seed: of the random first vector. Other
    arguments as of gradcore.jacobian.hvp; each product costs about three gradients. The Hessian is
    that of these sequences: of a small batch it is larger than that of all data.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    Reference: Lanczos 1950; Pearlmutter 1994.
    """
    validate.model(net, params)
    n, count = net.n_parameters, positive_int("k", k)
    if count > n:
        raise ArgumentError(f"k must be at most the {n} parameters; got {count}.")
    most = positive_int("max_products", max_products)
    tolerance = float_in("tol", tol, 0.0)
    told = 0

    def hessian(direction: NDArray[Any]) -> NDArray[Any]:
        nonlocal told
        found = hvp(
            net,
            params,
            x,
            y,
            direction[None],
            loss=loss,
            weight=weight,
            lengths=lengths,
            reset=reset,
            state=state,
            seed=seed,
            train=train,
            memory=memory,
            threads=threads,
        )
        told += 1
        if progress is not None:
            progress(min(told, most), most)
        product: NDArray[Any] = found.product[0]
        return product

    first = None if start is None else _start(start, n)
    found = top_eigenpairs(
        _preconditioned(hessian, params, optimizer),
        n,
        count,
        tol=tolerance,
        start=first,
        most=most,
        seed=integer("frames_seed", frames_seed),
    )
    outcome = _ended(found, tolerance)
    return Sharpness(found.values, found.vectors, found.residuals, found.products, outcome)


def step_stability(
    net: Stack,
    params: Params,
    optimizer: Optimizer,
    x: Any,
    y: Any,
    *,
    loss: str | Loss,
    lr: float | None = None,
    **how: Any,
) -> StepStability:
    """Whether the optimizer's next steps are stable on this batch.

    lr: instead of the optimizer's, as under a schedule. Other arguments and errors as of sharpness;
    ArgumentError for Lion, and for Adam and others with second moments before their first step.
    What is clipped steps less far, and a constraint projects it: neither is looked at.
    """
    limit = curvature_limit(optimizer, lr)
    if optimizer.params is not params:
        raise ArgumentError("optimizer must have been made with these params.")
    found = sharpness(net, params, x, y, loss=loss, optimizer=optimizer, **how)
    return stability_of(found, optimizer, limit, optimizer.lr if lr is None else float(lr))


def stability_of(
    found: Sharpness, optimizer: Optimizer, limit: float, rate: float, *, times: int = 1
) -> StepStability:
    """What a sharpness means for an optimizer at a rate. times: losses like it that are summed."""
    top = times * float(found.values[0])
    growth = float(np.abs(np.linalg.eigvals(step_map(optimizer, top, rate))).max())
    slope, less = limit_terms(optimizer)
    stable = slope / (top + less) if top + less > 0 else float(np.inf)
    ratio = top / limit if limit > 0 else float(np.inf if top > 0 else 0.0)
    return StepStability(found, limit, ratio, growth, rate, stable)


# ---- parts


def _preconditioner(params: Params, optimizer: Optimizer | None) -> tuple[Array, Array]:
    n = params.flat.size
    if optimizer is None:
        return np.ones(n), np.zeros(n)
    if not isinstance(optimizer, Optimizer):
        raise DTypeError(f"optimizer must be a gradcore.optim one; got {optimizer!r}.")
    if optimizer.params.net != params.net:
        raise ArgumentError("optimizer is one of another net's parameters.")
    return np.sqrt(curvature_scale(optimizer)), curvature_decay(optimizer)


def _ended(found: Eigenpairs, tolerance: float) -> SearchOutcome:
    scale = float(np.abs(found.values).max())
    whole = found.products >= found.vectors.shape[1]
    met = whole or bool((found.residuals <= tolerance * scale).all())
    return SearchOutcome.CONVERGED if met else SearchOutcome.NOT_CONVERGED


def _preconditioned(
    hessian: Callable[[NDArray[Any]], NDArray[Any]], params: Params, optimizer: Optimizer | None
) -> Callable[[Array], Array]:
    """Products with sqrt(S) (H + D) sqrt(S) from those with H."""
    root, decay = _preconditioner(params, optimizer)

    def product(v: Array) -> Array:
        along = root * v
        # float32 has room for directions of length 1 times anything that 1/P may be.
        size = float(np.linalg.norm(along))
        if size == 0.0:
            return np.zeros(len(v))
        found = hessian((along / size).astype(params.dtype))
        made: Array = root * (size * found.astype(np.float64) + decay * along)
        if not np.isfinite(made).all():
            raise NonFiniteError("a product with the Hessian is not finite: use float64.")
        return made

    return product


def _start(start: Any, n: int) -> Array:
    first = np.atleast_2d(np.asarray(start, np.float64))
    if first.ndim != 2 or first.shape[1] != n:
        raise ShapeError(f"start must have shape (k, {n}); got {np.shape(start)}.")
    there: Array = first[np.linalg.norm(first, axis=1) > 0]
    return there
