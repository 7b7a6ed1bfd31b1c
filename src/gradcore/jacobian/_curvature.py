"""Products of the Hessian or the Gauss-Newton matrix with directions in parameter space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._engine.calls import Seed
from .._engine.objective import AnyLoss, objective, resolve
from .._engine.planner import Plan
from .._engine.prepare import Arrays, Progress, Report, prepare
from .._net import validate
from .._net.stack import Grads, Params, Stack
from .._net.state import LayerState
from ..errors import ArgumentError, NonFiniteError
from ..loss import Loss
from ._directions import parameter_directions

__all__ = ["GaussNewton", "Hvp", "gauss_newton_product", "hvp"]


@dataclass(frozen=True, eq=False)
class Hvp:
    """The result of hvp.

    loss: the loss. grads: its gradient. product (K, n_parameters): the Hessian times each
    direction, laid out like the parameters. plan: the plan that the pass for each direction
    followed; arena_bytes: the working memory of the core in bytes.
    """

    loss: float
    grads: Grads
    product: NDArray[Any]
    plan: Plan
    arena_bytes: int


@dataclass(frozen=True, eq=False)
class GaussNewton:
    """The result of gauss_newton_product.

    loss: the loss. product (K, n_parameters): the Gauss-Newton matrix times each direction, laid
    out like the parameters. plan: the plan that the pass for each direction followed; arena_bytes:
    the working memory of the core in bytes.
    """

    loss: float
    product: NDArray[Any]
    plan: Plan
    arena_bytes: int


def hvp(
    net: Stack,
    params: Params,
    x: Any,
    y: Any = None,
    v: NDArray[Any] | Sequence[Params | Grads] | None = None,
    *,
    loss: AnyLoss,
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
) -> Hvp:
    """Hessian of the loss with respect to the parameters, times K directions v.

    v: (K, n_parameters), or a sequence of K Params or Grads. loss: a name or an object of
    gradcore.loss; a Python function is refused, because its Hessian is not known. The other
    arguments are those of gradcore.value_and_grad. The second derivative of relu counts as 0
    everywhere, also at its kink.

    The method is forward over reverse: it computes the tangent of the gradient along v, one
    direction after the other, within the memory budget, and needs about twice the tape of a
    gradient. Adjoints are not rescaled as those of a gradient are: if they overflow the dtype,
    NonFiniteError is raised; if they underflow, they are 0. Results have the same bits for every
    memory budget and number of threads.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    Reference: Pearlmutter 1994; Griewank and Walther 2008, section 5.2.
    """
    work = _Work.checked(
        net, params, x, y, v, loss, weight, lengths, reset, state, static, train, seed
    )
    grads = Grads(net, np.empty_like(params.flat))
    product = np.empty_like(work.directions)
    for direction, row in zip(work.directions, product, strict=True):
        results: Arrays = {"grads": grads.flat, "product": row}
        report, plan = work.run("hessian", direction, results, memory, threads, progress)
        grads.written(report.grads_exponent)
    return Hvp(report.loss, grads, product, plan, report.arena_bytes)


def gauss_newton_product(
    net: Stack,
    params: Params,
    x: Any,
    y: Any = None,
    v: NDArray[Any] | Sequence[Params | Grads] | None = None,
    *,
    loss: AnyLoss,
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
) -> GaussNewton:
    """The Gauss-Newton matrix J^T H J times K directions v.

    J is the Jacobian of the outputs with respect to the parameters, and H the Hessian of the loss
    with respect to the outputs, which is positive semidefinite. For loss.GaussianNLL, whose Hessian
    is not, H is Fisher's matrix; loss.Quantile has none and raises ArgumentError.
    Arguments and memory are those of hvp. The tangent J v is carried forward with the steps and is
    not rescaled; H J v is carried back as a gradient is, with the same scaling.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, and NonFiniteError, also if a
    product leaves the range of the dtype.
    Reference: Schraudolph 2002; Martens 2010.
    """
    work = _Work.checked(
        net, params, x, y, v, loss, weight, lengths, reset, state, static, train, seed
    )
    product = np.empty_like(work.directions)
    for direction, row in zip(work.directions, product, strict=True):
        results: Arrays = {"grads": row}
        report, plan = work.run("gauss_newton", direction, results, memory, threads, progress)
        if report.grads_exponent:
            with np.errstate(over="ignore", under="ignore"):
                np.ldexp(row, report.grads_exponent, out=row)
        if not np.isfinite(row).all():
            raise NonFiniteError(
                f"the Gauss-Newton product is beyond the range of {params.dtype}. Scale the "
                "direction down, or use float64."
            )
    return GaussNewton(report.loss, product, plan, report.arena_bytes)


@dataclass(frozen=True, eq=False)
class _Work:
    """The checked arguments of a curvature product."""

    params: Params
    inputs: validate.Inputs
    mode: validate.Mode
    goal: Any
    directions: NDArray[Any]

    @staticmethod
    def checked(
        net: Stack,
        params: Params,
        x: Any,
        y: Any,
        v: object,
        loss: AnyLoss,
        weight: Any,
        lengths: Any,
        reset: Any,
        state: Sequence[LayerState] | None,
        static: Any,
        train: bool,
        seed: Seed,
    ) -> _Work:
        validate.model(net, params)
        inputs = validate.inputs(net, params.dtype, x, lengths, reset, state, static)
        mode = validate.mode(net, train, seed)
        if not isinstance(resolve(loss), Loss):
            raise ArgumentError(
                "loss must be a name or an object of gradcore.loss: the Hessian of a loss function "
                "is not known. Finite differences of gradcore.value_and_grad along v approximate "
                "the product."
            )
        goal = objective(loss, net, params.dtype, inputs, y, weight)
        if v is None:
            raise ArgumentError(
                "v must be given: it holds the directions that the matrix is multiplied by."
            )
        directions = parameter_directions("v", v, params)
        return _Work(params, inputs, mode, goal, directions)

    def run(
        self,
        curvature: str,
        direction: NDArray[Any],
        results: Arrays,
        memory: int | str | None,
        threads: int | None,
        progress: Progress | None,
    ) -> tuple[Report, Plan]:
        return prepare(
            self.params,
            self.inputs.beside({"t_params": direction}, direction),
            self.mode,
            self.goal,
            results,
            memory,
            threads,
            progress,
            tangents=1,
            curvature=curvature,
        ).run()
