"""Largest singular values of matrices, stacks of matrices and operators; spectral radii."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._base.blas import single_threaded
from .._base.checks import finite_float, integer, positive_int
from .._base.lanczos import Eigenpairs, top_eigenpairs
from .._engine.prepare import Progress
from .._net import validate
from ..errors import ArgumentError, ConvergenceWarning, DTypeError, NonFiniteError, ShapeError

__all__ = [
    "IterationOutcome",
    "Operator",
    "SpectralNorm",
    "SpectralRadius",
    "singular_values",
    "spectral_norm",
    "spectral_radius",
]

# If the smaller side of a matrix is at most this, a full decomposition gives the upper bound.
DENSE = 256
# The most vectors of the iteration for operators before it restarts from the best.
MOST_VECTORS = 160
Product = Callable[[NDArray[Any]], NDArray[Any]]


class IterationOutcome(Enum):
    """How an iteration ended; the value is a message that says what to do."""

    CONVERGED = "The residual is within the tolerance."
    NOT_CONVERGED = (
        "The residual is above the tolerance: raise max_steps or tol, or start from the vectors "
        "found (start=result). The lower bound is valid all the same."
    )


@dataclass(frozen=True)
class Operator:
    """A linear operator A of shape (m, n), given as two functions.

    matvec(v) returns A v, (n,) to (m,). rmatvec(u) returns A' u, (m,) to (n,).
    """

    shape: tuple[int, int]
    matvec: Product
    rmatvec: Product


@dataclass(frozen=True, eq=False)
class SpectralNorm:
    """Largest singular values: arrays (N,) for a stack, single values for one matrix.

    value: |A v|, which is also the lower bound. u (..., m), v (..., n): unit vectors with
    A v = value * u. residual: |A' u - value v| / value. steps: products with A'A. outcome: how the
    iteration of each matrix ended. lower, upper: bounds of the true value. upper is certain if
    min(m, n) <= 256 (LAPACK); otherwise it holds with probability 1 - failure over the random
    start, and it is infinite after a warm start, which is not random.
    """

    value: NDArray[np.float64] | float
    u: NDArray[Any]
    v: NDArray[Any]
    residual: NDArray[np.float64] | float
    steps: NDArray[np.int32] | int
    outcome: list[IterationOutcome] | IterationOutcome
    lower: NDArray[np.float64] | float
    upper: NDArray[np.float64] | float
    failure: float

    @property
    def converged(self) -> bool:
        """Whether the iterations of all matrices have converged."""
        outcomes = self.outcome if isinstance(self.outcome, list) else [self.outcome]
        return all(outcome is IterationOutcome.CONVERGED for outcome in outcomes)


def spectral_norm(
    W: Any,
    tol: float = 1e-6,
    *,
    start: SpectralNorm | None = None,
    max_steps: int = 1000,
    failure: float = 1e-6,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> SpectralNorm:
    """The largest singular value of a matrix (m, n), a stack (N, m, n), or an operator.

    W: a float32 or float64 array, an Operator, or any object with shape, matvec and rmatvec, such
    as scipy.sparse.linalg.LinearOperator. tol: the iteration stops when
    |A'A v - s^2 v| <= tol * s^2. Then the relative error of s is at most tol / 2, and about tol^2
    if the next singular value is well below s; in float32 tol is at least 1e-6. start: the result
    for similar matrices, whose vectors the iteration starts from. max_steps: the most products with
    A'A. failure: the probability that the upper bound does not hold. seed: seed of the random first
    vectors. threads: the most threads, each of which works on different matrices.

    The method is Lanczos iteration on A'A with full reorthogonalisation, which reads A once per
    step; the bits of results do not depend on threads.
    Raises DTypeError, ShapeError, ArgumentError, NonFiniteError.
    Reference: Golub and Van Loan 2013, sec. 10.1; Kuczynski and Wozniakowski 1992, theorem 4.2:
    after k steps from a random start in n dimensions, the largest eigenvalue is underestimated by a
    relative error above e with a probability of at most 1.648 sqrt(n) exp(-sqrt(e) (2k - 1)).
    """
    tol, failure = _below_one("tol", tol), _below_one("failure", failure)
    max_steps = min(positive_int("max_steps", max_steps), 2**31 - 1)
    seed = integer("seed", seed)
    if start is not None and not isinstance(start, SpectralNorm):
        raise DTypeError(f"start must be a SpectralNorm; got {type(start).__name__}.")
    if not _is_array(W):
        return _of_operator(_operator(W), tol, start, max_steps, failure, seed)
    stack, single = _stack(W)
    count, m, n = stack.shape
    out: dict[str, NDArray[Any]] = {
        "values": np.empty(count),
        "residuals": np.empty(count),
        "left": np.empty((count, m), stack.dtype),
        "right": np.empty((count, n), stack.dtype),
        "steps": np.empty(count, np.int32),
        "converged": np.empty(count, np.int32),
    }
    _core.spectral_norms(
        stack,
        out,
        start_left=None if start is None else _given("u", start.u, (count, m), stack.dtype, single),
        start_right=None
        if start is None
        else _given("v", start.v, (count, n), stack.dtype, single),
        tolerance=tol,
        max_steps=max_steps,
        seed=seed % 2**64,
        threads=validate.threads(threads),
        progress=progress,
    )
    upper = _upper(stack, out, start is None, failure)
    found = SpectralNorm(
        out["values"],
        out["left"],
        out["right"],
        out["residuals"],
        out["steps"],
        [_ended(bool(converged)) for converged in out["converged"]],
        out["values"],
        upper,
        failure,
    )
    return _first_of(found) if single else found


def _ended(converged: bool) -> IterationOutcome:
    return IterationOutcome.CONVERGED if converged else IterationOutcome.NOT_CONVERGED


def _first_of(found: SpectralNorm) -> SpectralNorm:
    """The result for a stack of one matrix as that of a single matrix."""
    value, residual, steps, upper = (
        np.asarray(part).item() for part in (found.value, found.residual, found.steps, found.upper)
    )
    outcomes = found.outcome
    assert isinstance(outcomes, list)
    u, v, failure = found.u[0], found.v[0], found.failure
    return SpectralNorm(value, u, v, residual, steps, outcomes[0], value, upper, failure)


def _upper(
    stack: NDArray[Any], out: dict[str, NDArray[Any]], random: bool, failure: float
) -> NDArray[np.float64]:
    """Upper bounds from the core's results. random: whether it started from random vectors."""
    m, n = stack.shape[1:]
    if min(m, n) <= DENSE:
        # LAPACK's largest singular value has a relative error of a few units of rounding.
        with single_threaded():
            exact = np.linalg.svd(stack.astype(np.float64), compute_uv=False)[:, 0]
        sure = exact * (1 + 8 * max(m, n) ** 0.5 * 2.3e-16)
        return np.asarray(np.maximum(sure, out["values"]))
    above = _above(min(m, n), out["steps"], failure) if random else np.inf
    # A random vector has a component along every singular vector, so an invariant Krylov space
    # (converged == 2) contains the largest singular value.
    rounding = 8 * max(m, n) ** 0.5 * float(np.finfo(stack.dtype).eps)
    whole = (out["converged"] == 2) & random
    upper: NDArray[np.float64] = out["values"] * np.where(whole, 1 + rounding, above)
    return upper


def _above(n: int, steps: NDArray[np.int32], failure: float) -> NDArray[np.float64]:
    """An upper bound of true / found with probability 1 - failure (Kuczynski, Wozniakowski 1992).

    A run that has restarted counts only the steps since the restart, at most MOST_VECTORS, as if
    these had started from a random vector; the true starting vector is better than that.
    """
    k = np.minimum(steps, MOST_VECTORS).astype(np.float64)
    error = (np.log(1.648 * np.sqrt(n) / failure) / (2 * k - 1)) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: NDArray[np.float64] = np.where(error < 1, 1 / np.sqrt(1 - error), np.inf)
    return ratio


def singular_values(W: Any, k: int = 1, *, seed: int = 0, tol: float = 1e-6) -> NDArray[np.float64]:
    """The k largest singular values, descending: (k,) of a matrix or operator, (N, k) of a stack.

    Multiple values appear as often as they are. LAPACK computes those of arrays; those of an
    operator come from a block Lanczos iteration, which starts from k random vectors and ends when
    the residual of each is below tol times its own size. Those with larger residuals after 10 times
    min(m, n) products come with a ConvergenceWarning.
    Raises DTypeError, ShapeError, ArgumentError, NonFiniteError.
    """
    positive_int("k", k)
    if not _is_array(W):
        op = _operator(W)
        if k > min(op.shape):
            raise ArgumentError(f"k must be at most min(m, n) = {min(op.shape)}; got {k}.")
        # From one vector, Lanczos iteration finds one copy of a multiple value.
        first = np.random.default_rng(seed).standard_normal((k, op.shape[1]))
        found = _top(op, tol, first, 10 * min(op.shape) + 100, seed, k)
        if not found.converged:
            warnings.warn(
                f"{np.sum(found.residuals > tol * found.values)} of the {k} singular values have "
                f"residuals above tol = {tol:g}; the largest is "
                f"{np.max(found.residuals / np.maximum(found.values, 1e-300)):.1e}. Raise tol.",
                ConvergenceWarning,
                stacklevel=2,
            )
        # The roots of the eigenvalues of A'A have errors of up to 1e-8 of the largest value.
        images = np.stack([np.asarray(op.matvec(v), np.float64) for v in found.vectors])
        return np.asarray(np.linalg.svd(images, compute_uv=False), np.float64)
    stack, single = _stack(W)
    if k > min(stack.shape[1:]):
        raise ArgumentError(f"k must be at most min(m, n) = {min(stack.shape[1:])}; got {k}.")
    if not np.isfinite(stack).all():
        raise NonFiniteError("W holds NaN or infinity.")
    values = np.linalg.svd(stack, compute_uv=False)[:, :k].astype(np.float64)
    return values[0] if single else values


@dataclass(frozen=True, eq=False)
class SpectralRadius:
    """The largest modulus among the eigenvalues of a square matrix.

    value: that modulus. eigenvalue: an eigenvalue of this modulus; of a complex conjugate pair, the
    one with positive imaginary part. residual: |A x - eigenvalue x| / value for its unit
    eigenvector x; 0 if value is 0.
    """

    value: float
    eigenvalue: complex
    residual: float


def spectral_radius(A: Any) -> SpectralRadius:
    """The spectral radius of a square matrix (n, n), from LAPACK's eigenvalues.

    For an Operator or LinearOperator SciPy's Arnoldi iteration is used (extra `diagnose`).
    Raises DTypeError, ShapeError, ArgumentError, NonFiniteError.
    Reference: Golub and Van Loan 2013, sec. 7.5 and 10.5.
    """
    if not _is_array(A):
        return _radius_of_operator(_operator(A))
    stack, single = _stack(A)
    if not single or stack.shape[1] != stack.shape[2]:
        raise ShapeError(f"A must be a square matrix (n, n); got {np.shape(A)}.")
    matrix = stack[0]
    if not np.isfinite(matrix).all():
        raise NonFiniteError("A holds NaN or infinity.")
    values, vectors = np.linalg.eig(matrix.astype(np.float64))
    return _radius(lambda x: matrix.astype(np.float64) @ x, values, vectors)


def _radius(
    product: Callable[[NDArray[Any]], NDArray[Any]], values: NDArray[Any], vectors: NDArray[Any]
) -> SpectralRadius:
    sizes = np.abs(values)
    largest = float(sizes.max())
    near = np.flatnonzero(sizes >= largest * (1 - 1e-12))
    best = int(near[np.argmax(values[near].imag)])
    eigenvalue, x = complex(values[best]), vectors[:, best]
    off = product(x) - eigenvalue * x
    residual = float(np.linalg.norm(off)) / largest if largest else 0.0
    return SpectralRadius(largest, eigenvalue, residual)


def _radius_of_operator(op: Operator) -> SpectralRadius:
    if op.shape[0] != op.shape[1]:
        raise ShapeError(f"A must be square; got {op.shape}.")
    n = op.shape[0]
    if n <= 3 * 8:  # too small for eigs with k=8: form the matrix, column by column
        matrix = np.stack([op.matvec(column) for column in np.eye(n)], axis=1)
        values, vectors = np.linalg.eig(matrix)
        return _radius(lambda x: matrix @ x, values, vectors)
    try:
        from scipy.sparse.linalg import LinearOperator, eigs
    except ImportError:
        raise ArgumentError(
            "the spectral radius of an operator needs SciPy: pip install 'gradcore[diagnose]'."
        ) from None
    wrapped = LinearOperator(op.shape, matvec=op.matvec, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(n)
    values, vectors = eigs(wrapped, k=8, which="LM", v0=start)

    def product(x: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(op.matvec(x.real.copy()) + 1j * op.matvec(x.imag.copy()))

    return _radius(product, values, vectors)


# ---- inputs


def _below_one(name: str, value: object) -> float:
    number = finite_float(name, value)
    if not 0 < number < 1:
        raise ArgumentError(f"{name} must be in (0, 1); got {number}.")
    return number


def _is_array(value: object) -> bool:
    return not (isinstance(value, Operator) or hasattr(value, "matvec"))


def _operator(value: Any) -> Operator:
    if isinstance(value, Operator):
        op = value
    else:
        op = Operator(tuple(value.shape), value.matvec, value.rmatvec)
    if len(op.shape) != 2 or min(op.shape) < 1:
        raise ShapeError(f"an operator must have shape (m, n); got {op.shape}.")
    return op


def _stack(value: Any) -> tuple[NDArray[Any], bool]:
    """A stack (N, m, n), and whether it was a single matrix."""
    array = validate.as_array("W", value)
    if array.dtype not in (np.float32, np.float64):
        raise DTypeError(f"W must be float32 or float64; got {array.dtype}.")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ShapeError(f"W must have shape (m, n) or (N, m, n), not empty; got {array.shape}.")
    return (array[None] if array.ndim == 2 else array), array.ndim == 2


def _given(
    name: str, value: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any], single: bool
) -> NDArray[Any]:
    array = np.asarray(value)[None] if single else np.asarray(value)
    if array.shape != shape:
        raise ShapeError(
            f"start.{name} must have shape {shape[1:] if single else shape} for these matrices; "
            f"got {np.shape(value)}."
        )
    return np.ascontiguousarray(array, dtype)


# ---- operators


def _of_operator(
    op: Operator,
    tol: float,
    start: SpectralNorm | None,
    max_steps: int,
    failure: float,
    seed: int,
) -> SpectralNorm:
    first = None if start is None else np.asarray(start.v, np.float64)
    if first is not None and first.shape != (op.shape[1],):
        raise ShapeError(
            f"start.v must have shape ({op.shape[1]},) for this operator; got {first.shape}."
        )
    found = _top(op, tol, first, max_steps, seed, 1)
    v, steps = found.vectors[0], found.products
    image = np.asarray(op.matvec(v), np.float64)
    value = float(np.linalg.norm(image))
    u = image / value if value else np.eye(1, op.shape[0])[0]
    off = np.asarray(op.rmatvec(u), np.float64) - value * v
    residual = float(np.linalg.norm(off)) / value if value else 0.0
    upper = np.inf
    if start is None:
        upper = value * float(_above(op.shape[1], np.array([steps], np.int32), failure)[0])
    outcome = _ended(found.converged)
    return SpectralNorm(value, u, v, residual, steps, outcome, value, upper, failure)


def _top(
    op: Operator, tol: float, first: NDArray[Any] | None, max_steps: int, seed: int, k: int
) -> Eigenpairs:
    """The k largest eigenvalues of A'A, each with a residual of at most tol times itself."""
    n = op.shape[1]

    def product(v: NDArray[Any]) -> NDArray[np.float64]:
        w = np.asarray(op.rmatvec(np.asarray(op.matvec(v))), np.float64)
        if w.shape != (n,) or not np.isfinite(w).all():
            raise NonFiniteError(
                f"A' A v must have shape ({n},) and finite values; the operator returned shape "
                f"{w.shape} or values that are not finite."
            )
        return w

    start = None if first is None else np.atleast_2d(first)
    room = max(MOST_VECTORS, 4 * k)
    return top_eigenpairs(
        product, n, k, tol=tol, start=start, most=max_steps, seed=seed, room=room, of_each=True
    )
