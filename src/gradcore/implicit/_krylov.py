"""Krylov solvers for many small systems at once, each of which stops at its own residual.

SciPy's gmres and bicgstab solve one system. Called for each sample they take 10 to 66 times as
long, and with the batch as one system all samples share one residual
(docs/decisions/0012-batched-krylov.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["LinearSolution", "Operator", "bicgstab", "gmres", "norms", "over"]

Array = NDArray[np.float64]
Rows = NDArray[np.intp]

# The bytes that Arnoldi vectors may take; samples that do not fit are solved in several parts.
ROOM = 64_000_000
# GMRES has stagnated if a cycle leaves more than this share of the residual.
STAGNATION = 0.9


class Operator(Protocol):
    """N square operators of size S, one per sample."""

    def __call__(self, v: Array) -> Array:
        """Multiplies each operator by its vector: [N, S] to [N, S]."""
        ...

    def take(self, rows: Rows) -> Operator:
        """The operators of the samples `rows`."""
        ...


@dataclass(frozen=True, eq=False)
class LinearSolution:
    """Solutions of A x = b, sample by sample.

    x [N, S]. residual [N]: |b - A x| / |b|, computed from x; 0 where b is 0. products [N]: the
    number of products with A. smallest [N]: an upper bound of the smallest singular value of A from
    the iteration; inf if the iteration gave none.
    """

    x: Array
    residual: Array
    products: NDArray[np.int64]
    smallest: Array


def norms(rows: NDArray[Any]) -> Array:
    """Euclidean norms of the rows, in float64."""
    found: Array = np.linalg.norm(rows.astype(np.float64, copy=False), axis=-1)
    return found


def over(above: Array, below: Array) -> Array:
    """above / below; 0 where above is 0, and inf where only below is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = np.where(above == 0, 0.0, above / below)
    return found


def gmres(
    operator: Operator,
    b: Array,
    tol: Array | float,
    max_products: int,
    restart: int,
) -> LinearSolution:
    """GMRES(restart) from zero until |b - A x| <= tol |b|, or after max_products products with A.

    The smallest singular value of the Hessenberg matrix bounds that of A from above.
    Reference: Saad and Schultz 1986, algorithm 4; each new vector is orthogonalised twice.
    """
    count, size = b.shape
    out = LinearSolution(
        np.zeros_like(b), np.zeros(count), np.zeros(count, np.int64), np.full(count, np.inf)
    )
    limit = np.broadcast_to(np.asarray(tol, np.float64), (count,)) * norms(b)
    steps = max(1, min(restart, size, max_products))
    at_once = max(1, ROOM // (8 * (steps + 1) * size))
    for first in range(0, count, at_once):
        rows = np.arange(first, min(first + at_once, count))
        _gmres(operator.take(rows), b[rows], limit[rows], max_products, steps, out, rows)
    return _finish(operator, b, out)


def _gmres(
    operator: Operator,
    b: Array,
    limit: Array,
    max_products: int,
    steps: int,
    out: LinearSolution,
    rows: Rows,
) -> None:
    left = b.copy()  # the residual
    size = norms(b)
    todo = np.flatnonzero(size > limit)
    while todo.size:
        part = operator.take(todo)
        room = max(1, min(steps, max_products - int(out.products[rows[todo]].min())))
        dx, used, smallest = _cycle(part, left[todo], limit[todo], room)
        place = rows[todo]
        out.x[place] += dx
        out.products[place] += used + 1
        out.smallest[place] = np.minimum(out.smallest[place], smallest)
        left[todo] = b[todo] - part(out.x[place])
        now = norms(left[todo])
        go_on = (now > limit[todo]) & (now < STAGNATION * size[todo])
        go_on &= out.products[place] < max_products
        size[todo] = now
        todo = todo[go_on]


def _cycle(
    operator: Operator, r: Array, limit: Array, steps: int
) -> tuple[Array, NDArray[np.int64], Array]:
    """One cycle of GMRES: corrections of x, products used, smallest singular values, per sample.

    Samples that are done leave the batch only when they are an eighth of it: removing each at once
    would copy the basis of the others, which took longer than the products that it saved.
    """
    count, size = r.shape
    found, used = np.zeros_like(r), np.zeros(count, np.int64)
    smallest = np.full(count, np.inf)
    rows, finished = np.arange(count), np.zeros(count, bool)
    beta = norms(r)
    basis = np.zeros((count, steps + 1, size))
    basis[:, 0] = r / beta[:, None]
    upper = np.zeros((count, steps, steps))  # R of the Hessenberg matrix's QR, column by column
    cosine, sine = np.zeros((count, steps)), np.zeros((count, steps))
    g = np.zeros((count, steps + 1))
    g[:, 0] = beta
    for j in range(steps):
        w = operator(basis[:, j])
        scale = norms(w)
        column = np.zeros((len(rows), j + 2))
        for _ in range(2):
            h = (basis[:, : j + 1] @ w[:, :, None])[:, :, 0]
            w = w - (h[:, None, :] @ basis[:, : j + 1])[:, 0]
            column[:, : j + 1] += h
        beyond = norms(w)
        # If only rounding errors are left of w, the Krylov space already contains the solution.
        full = beyond <= 1e-14 * scale
        column[:, j + 1] = np.where(full, 0.0, beyond)
        basis[:, j + 1] = w / np.where(full, 1.0, beyond)[:, None]
        for i in range(j):
            above, below = column[:, i].copy(), column[:, i + 1].copy()
            column[:, i] = cosine[:, i] * above + sine[:, i] * below
            column[:, i + 1] = cosine[:, i] * below - sine[:, i] * above
        length = np.hypot(column[:, j], column[:, j + 1])
        safe = np.where(length > 0, length, 1.0)
        cosine[:, j] = np.where(length > 0, column[:, j] / safe, 1.0)
        sine[:, j] = column[:, j + 1] / safe
        upper[:, :j, j], upper[:, j, j] = column[:, :j], length
        g[:, j + 1] = -sine[:, j] * g[:, j]
        g[:, j] *= cosine[:, j]
        done = ~finished & ((np.abs(g[:, j + 1]) <= limit) | full | (j + 1 == steps))
        if done.any():
            k = j + 1
            y, least = _triangular(upper[done, :k, :k], g[done, :k])
            found[rows[done]] = (y[:, None, :] @ basis[done, :k])[:, 0]
            used[rows[done]] = k
            smallest[rows[done]] = least
            finished |= done
        if finished.all():
            break
        if 8 * finished.sum() >= len(rows):
            kept = np.flatnonzero(~finished)
            finished = finished[kept]
            operator = operator.take(kept)
            rows, basis, upper = rows[kept], basis[kept], upper[kept]
            cosine, sine, g, limit = cosine[kept], sine[kept], g[kept], limit[kept]
    return found, used, smallest


def _triangular(upper: Array, g: Array) -> tuple[Array, Array]:
    """The least-squares solution y of R y = g, and the smallest singular value of R.

    It uses singular values rather than back substitution, because R is singular if A is.
    """
    u, values, vt = np.linalg.svd(upper)
    kept = values > 1e-15 * values[:, :1]
    inverse = np.where(kept, 1.0 / np.where(kept, values, 1.0), 0.0)
    y = np.einsum("nji,nj->ni", vt, inverse * np.einsum("nij,ni->nj", u, g))
    return y, values[:, -1]


def bicgstab(operator: Operator, b: Array, tol: Array | float, max_products: int) -> LinearSolution:
    """BiCGSTAB from zero, with short recurrences instead of a stored basis; arguments as in gmres.

    If a recurrence breaks down, it restarts from the current residual. The x of the smallest
    residual is returned.
    Reference: van der Vorst 1992, section 3.
    """
    count = len(b)
    out = LinearSolution(
        np.zeros_like(b), np.zeros(count), np.zeros(count, np.int64), np.full(count, np.inf)
    )
    size = norms(b)
    limit = np.broadcast_to(np.asarray(tol, np.float64), (count,)) * size
    rows = np.flatnonzero(size > limit)
    part = operator.take(rows)
    x, r, least = out.x[rows], b[rows].copy(), size[rows]
    shadow, p = r.copy(), r.copy()
    rho = np.einsum("ns,ns->n", shadow, r)
    while rows.size:
        v = part(p)
        alpha = _ratio(rho, np.einsum("ns,ns->n", shadow, v))
        s = r - alpha[:, None] * v
        t = part(s)
        omega = _ratio(np.einsum("ns,ns->n", t, s), np.einsum("ns,ns->n", t, t))
        x = x + alpha[:, None] * p + omega[:, None] * s
        r = s - omega[:, None] * t
        now = norms(r)
        better = now < least
        out.x[rows[better]] = x[better]
        least = np.where(better, now, least)
        out.products[rows] += 2
        after = np.einsum("ns,ns->n", shadow, r)
        # If the shadow residual is nearly orthogonal to the residual, digits are lost: restart.
        broken = np.abs(after) <= 1e-10 * norms(shadow) * now
        broken |= (omega == 0) | (alpha == 0)
        beta = _ratio(after, rho) * _ratio(alpha, omega)
        p = r + beta[:, None] * (p - omega[:, None] * v)
        shadow[broken], p[broken] = r[broken], r[broken]
        rho = np.where(broken, now**2, after)
        gone = ~np.isfinite(now) | (now > 1e8 * size[rows])
        go_on = np.flatnonzero(
            (now > limit[rows]) & ~gone & (out.products[rows] + 2 <= max_products)
        )
        part = part.take(go_on)
        x, r, p, shadow, rho = x[go_on], r[go_on], p[go_on], shadow[go_on], rho[go_on]
        rows, least = rows[go_on], least[go_on]
    return _finish(operator, b, out)


def _ratio(above: Array, below: Array) -> Array:
    """above / below; 0 where below is 0."""
    return np.where(below != 0, above / np.where(below != 0, below, 1.0), 0.0)


def _finish(operator: Operator, b: Array, out: LinearSolution) -> LinearSolution:
    """Adds the true residuals, and |A x| / |x| as another bound of the smallest singular value."""
    image = operator(out.x)
    np.copyto(out.residual, _ratio(norms(b - image), norms(b)))
    length = norms(out.x)
    seen = length > 0
    out.smallest[seen] = np.minimum(out.smallest[seen], norms(image)[seen] / length[seen])
    return out
