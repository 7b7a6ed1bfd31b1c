"""Sharpness: the largest eigenvalues of a loss's Hessian, and whether an optimizer is stable."""

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
from .._engine.objective import AnyLoss
from .._engine.prepare import Progress
from .._net import validate
from .._net.stack import Params, Stack
from .._net.state import LayerState
from ..errors import ArgumentError, DTypeError, NonFiniteError, ShapeError
from ..jacobian import hvp
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
    """The largest eigenvalues of the Hessian of a loss, or of the preconditioned Hessian.

    values (k,), descending; vectors (k, n_parameters), of unit length; residuals (k,),
    |H v - value v|: an eigenvalue lies within this distance of each value. products: the number of
    products with H. outcome: how the search ended.
    """

    values: Array
    vectors: Array
    residuals: Array
    products: int
    outcome: SearchOutcome


@dataclass(frozen=True, eq=False)
class StepStability:
    """The sharpness of a loss compared with the stability limit of an optimizer.

    sharpness: the eigenvalues. limit: the largest stable sharpness at this lr. ratio: sharpness /
    limit; above 1, steps grow along the sharpest direction, each by the factor `growth`. lr_stable:
    the largest stable rate; inf if the curvature is positive in no direction.
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
            f"lr = {self.lr:.4g} {told}: the sharpness is {value:.4g} and the optimizer's limit "
            f"{self.limit:.4g}; rates up to {self.lr_stable:.4g} are stable"
        )


def sharpness(
    net: Stack,
    params: Params,
    x: Any,
    y: Any,
    *,
    loss: AnyLoss,
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
    static: Any = None,
    seed: Seed = None,
    train: bool = False,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Sharpness:
    """The k largest eigenvalues of the Hessian of the loss with respect to the parameters.

    optimizer: if given, the eigenvalues are those of sqrt(S) (H + D) sqrt(S), which curvature_limit
    is about. S is what the optimizer's next step multiplies a gradient by besides lr
    (curvature_scale), and D is coupled weight decay. tol: tolerance of the residuals, relative to
    the largest |value|. start (k', n): first vectors of the iteration, for example those of a
    similar Hessian. frames_seed: seed of the random first vector.

    The other arguments are those of gradcore.jacobian.hvp; each product costs about three
    gradients. The Hessian of a small batch has larger eigenvalues than that of all data.
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
    data: dict[str, Any] = {"weight": weight, "lengths": lengths, "reset": reset}
    begun: dict[str, Any] = {"state": state, "static": static, "seed": seed, "train": train}

    def hessian(direction: NDArray[Any]) -> NDArray[Any]:
        nonlocal told
        found = hvp(
            net,
            params,
            x,
            y,
            direction[None],
            loss=loss,
            **data,
            **begun,
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
    loss: AnyLoss,
    lr: float | None = None,
    **how: Any,
) -> StepStability:
    """Whether the optimizer's next steps are stable on this batch.

    lr: the rate, instead of the optimizer's own, for example that of a schedule.

    The other arguments and errors are those of sharpness. Raises ArgumentError for Lion, and for
    optimizers with second moments, such as Adam, before their first step. Clips and constraints,
    which make steps shorter, are not taken into account.
    """
    limit = curvature_limit(optimizer, lr)
    if optimizer.params is not params:
        raise ArgumentError(
            "optimizer must have been made with these params, but its params are another object."
        )
    found = sharpness(net, params, x, y, loss=loss, optimizer=optimizer, **how)
    return stability_of(found, optimizer, limit, optimizer.lr if lr is None else float(lr))


def stability_of(
    found: Sharpness, optimizer: Optimizer, limit: float, rate: float, *, times: int = 1
) -> StepStability:
    """Compares a sharpness with an optimizer's limit at a rate.

    times: the number of batches whose losses are summed in an update; the sharpness is multiplied
    by it.
    """
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
        raise DTypeError(f"optimizer must be one of gradcore.optim; got {optimizer!r}.")
    if optimizer.params.net != params.net:
        raise ArgumentError("optimizer must belong to this net; it was made for another net.")
    return np.sqrt(curvature_scale(optimizer)), curvature_decay(optimizer)


def _ended(found: Eigenpairs, tolerance: float) -> SearchOutcome:
    scale = float(np.abs(found.values).max())
    whole = found.products >= found.vectors.shape[1]
    met = whole or bool((found.residuals <= tolerance * scale).all())
    return SearchOutcome.CONVERGED if met else SearchOutcome.NOT_CONVERGED


def _preconditioned(
    hessian: Callable[[NDArray[Any]], NDArray[Any]], params: Params, optimizer: Optimizer | None
) -> Callable[[Array], Array]:
    """Makes products with sqrt(S) (H + D) sqrt(S) from products with H."""
    root, decay = _preconditioner(params, optimizer)

    def product(v: Array) -> Array:
        along = root * v
        # The direction is scaled to length 1, because sqrt(S) may leave the range of float32.
        size = float(np.linalg.norm(along))
        if size == 0.0:
            return np.zeros(len(v))
        found = hessian((along / size).astype(params.dtype))
        made: Array = root * (size * found.astype(np.float64) + decay * along)
        if not np.isfinite(made).all():
            raise NonFiniteError(
                "a product with the Hessian is not finite: use float64, or look for NaN in the "
                "parameters."
            )
        return made

    return product


def _start(start: Any, n: int) -> Array:
    first = np.atleast_2d(np.asarray(start, np.float64))
    if first.ndim != 2 or first.shape[1] != n:
        raise ShapeError(f"start must have shape (k, {n}); got {np.shape(start)}.")
    there: Array = first[np.linalg.norm(first, axis=1) > 0]
    return there
