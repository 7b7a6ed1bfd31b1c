"""Solves (I - J)' u = g for the gradient of a fixed point, to a tolerance or approximately."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray

from .._base.checks import float_in, positive_int, store
from ..errors import DTypeError
from ._krylov import bicgstab, gmres, norms, over
from ._system import Linearised

__all__ = ["Adjoint", "Backward", "Bicgstab", "Gmres", "Neumann", "OneStep", "backward_of"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Backward:
    """Base class of Gmres, Bicgstab, Neumann and OneStep, the methods of the backward pass."""


def _check_tol(name: str, backward: Gmres | Bicgstab) -> None:
    if backward.tol is not None:
        store(backward, "tol", float_in(name, backward.tol, 0.0, 1.0, open_low=True))


@dataclass(frozen=True)
class Gmres(Backward):
    """Solves the linear system of the implicit function theorem by GMRES, to a residual of tol.

    tol: relative tolerance; None means 1e-5 in float32 and 1e-10 in float64. max_products: the most
    products with J' per sample. restart: the number of vectors kept. If restart >= S, the size of
    z, the solution is exact after S products for any eigenvalues.
    Reference: Saad and Schultz 1986; Bai, Kolter, Koltun 2019, theorem 1.
    """

    tol: float | None = None
    _: KW_ONLY
    max_products: int = 300
    restart: int = 60

    def __post_init__(self) -> None:
        _check_tol("Gmres.tol", self)
        for name in ("max_products", "restart"):
            store(self, name, positive_int(f"Gmres.{name}", getattr(self, name)))


@dataclass(frozen=True)
class Bicgstab(Backward):
    """Solves the same system by BiCGSTAB, with seven vectors of memory instead of restart + 1.

    Each iteration needs two products with J'. tol and max_products are those of Gmres.

    Reference: van der Vorst 1992.
    """

    tol: float | None = None
    _: KW_ONLY
    max_products: int = 300

    def __post_init__(self) -> None:
        _check_tol("Bicgstab.tol", self)
        store(self, "max_products", positive_int("Bicgstab.max_products", self.max_products))


@dataclass(frozen=True)
class Neumann(Backward):
    """The sum of (J')^k g for k up to `terms`, as if the last `terms` steps were unrolled.

    The series converges if the spectral radius of J is below 1, and each term reduces the error by
    about this factor.
    Reference: Lorraine, Vicol, Duvenaud 2020, section 3.1, for implicit gradients.
    """

    terms: int = 10

    def __post_init__(self) -> None:
        store(self, "terms", positive_int("Neumann.terms", self.terms))


@dataclass(frozen=True)
class OneStep(Backward):
    """Takes u = g, the gradient of a single step of f, as if J were 0 (Jacobian-free backprop).

    It is a descent direction if f is a contraction and well conditioned; Gradient.error estimates
    its error.
    Reference: Fung et al. 2022, theorem 3.1.
    """


BACKWARDS: dict[str, Backward] = {
    "gmres": Gmres(),
    "bicgstab": Bicgstab(),
    "neumann": Neumann(),
    "one_step": OneStep(),
}


def backward_of(value: object) -> Backward:
    """The method that a name stands for; an object of gradcore.implicit is returned as it is."""
    if isinstance(value, str) and value in BACKWARDS:
        return BACKWARDS[value]
    if isinstance(value, Backward) and type(value) is not Backward:
        return value
    names = ", ".join(repr(name) for name in BACKWARDS)
    raise DTypeError(
        f"backward must be {names}, or an object of gradcore.implicit (Gmres, Bicgstab, Neumann, "
        f"OneStep); got {value!r}."
    )


@dataclass(frozen=True, eq=False)
class Adjoint:
    """The adjoint u [N, S]; the other fields have one value per sample.

    residual: |g - (I - J)' u| / |g|. products: the number of products with J'. smallest: an upper
    bound of the smallest singular value of I - J. error: an estimate of |u - exact| / |u|; inf if
    the Neumann series does not converge. met: whether the solve met its tolerance; True for Neumann
    and OneStep, which have none.
    """

    u: Array
    residual: Array
    products: NDArray[np.int64]
    smallest: Array
    error: Array
    met: NDArray[np.bool_]


def solve_adjoint(operator: Linearised, g: Array, backward: Backward) -> Adjoint:
    """Solves with operator (I - J)' and right-hand side g [N, S]."""
    if isinstance(backward, (Gmres, Bicgstab)):
        return _krylov(operator, g, backward)
    return _series(operator, g, backward.terms if isinstance(backward, Neumann) else 0)


def _krylov(operator: Linearised, g: Array, backward: Gmres | Bicgstab) -> Adjoint:
    tol = backward.tol
    if tol is None:
        tol = 1e-5 if operator.system.dtype == np.float32 else 1e-10
    if isinstance(backward, Gmres):
        found = gmres(operator, g, tol, backward.max_products, backward.restart)
    else:
        found = bicgstab(operator, g, tol, backward.max_products)
    # |u - exact| = |(I - J)'^-1 r| <= |r| / smallest.
    error = over(found.residual * norms(g), found.smallest * norms(found.x))
    # The residual that the iteration tracks met tol; the true one may be up to twice as large
    # because of rounding.
    met = found.residual <= 2 * tol
    return Adjoint(found.x, found.residual, found.products, found.smallest, error, met)


def _series(operator: Linearised, g: Array, terms: int) -> Adjoint:
    system, z = operator.system, operator.z
    total, term = g.copy(), g
    for _ in range(terms):
        term = system.cotangents(z, term[None])[0]
        total = total + term
    # The rest of the series starts with the next term, which is also the residual of u.
    beyond = system.cotangents(z, term[None])[0]
    last, after = norms(term), norms(beyond)
    ratio = over(after, last)
    tail = np.where(ratio < 1, after / np.where(ratio < 1, 1 - ratio, 1.0), np.inf)
    length = norms(total)
    smallest = np.where(length > 0, norms(g - beyond) / np.where(length > 0, length, 1.0), np.inf)
    count = len(g)
    return Adjoint(
        total,
        over(after, norms(g)),
        np.full(count, terms + 1, np.int64),
        smallest,
        over(tail, length),
        np.ones(count, bool),
    )
