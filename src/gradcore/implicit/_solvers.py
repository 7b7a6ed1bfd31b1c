"""Solvers for z = f(z, x) over a batch, which each sample leaves when its residual is small."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.checks import float_in, integer, positive_int, store
from .._engine.prepare import Progress
from ..errors import ArgumentError, DTypeError
from ._krylov import gmres, norms
from ._solution import Solution, SolverOutcome
from ._system import Linearised, System

__all__ = ["Anderson", "Damped", "NewtonKrylov", "Solver", "solver_of"]

Array = NDArray[Any]

# A sample has diverged if its residual exceeds the norm of f at the start by this factor.
RUNAWAY = 1e6
# Anderson's method goes back to the best point if the residual exceeds the best by this factor.
SETBACK = 10.0
# The number of step lengths 1, 1/2, 1/4, ... that Newton's method tries before it gives up.
HALVINGS = 12


def _damping(name: str, value: object) -> float:
    number = float_in(name, value, 0.0, open_low=True)
    if number > 1.0:
        raise ArgumentError(f"{name} must be at most 1; got {number:g}.")
    return number


@dataclass(frozen=True)
class Solver:
    """Base class of Damped, Anderson and NewtonKrylov."""


@dataclass(frozen=True)
class Damped(Solver):
    """The iteration z <- z + damping (f(z, x) - z), damping in (0, 1]; 1 is the plain iteration.

    It converges if all eigenvalues of (1 - damping) I + damping J lie inside the unit circle, and
    the error falls by the spectral radius of this matrix per iteration. A smaller damping helps if
    eigenvalues of J outside the circle have real parts below 1, never if a real part is 1 or more.
    """

    damping: float = 1.0

    def __post_init__(self) -> None:
        store(self, "damping", _damping("Damped.damping", self.damping))


@dataclass(frozen=True)
class Anderson(Solver):
    """Anderson acceleration: a damped step from the best affine combination of the last iterates.

    history: the number of differences kept. damping: the damping of the step. The least-squares
    problem of each sample is solved by regularised normal equations in float64. If a residual gets
    ten times worse than the best, the sample goes back to its best point and drops its history.
    Reference: Anderson 1965; Walker and Ni 2011, algorithm AA and eq. 2.3.
    """

    history: int = 8
    _: KW_ONLY
    damping: float = 1.0

    def __post_init__(self) -> None:
        store(self, "history", positive_int("Anderson.history", self.history))
        store(self, "damping", _damping("Anderson.damping", self.damping))


@dataclass(frozen=True)
class NewtonKrylov(Solver):
    """Newton's method: GMRES on I - J, and steps halved until they reduce the residual.

    krylov: the most products with J per Newton step. The tolerance of each linear solve follows
    choice 2 of Eisenstat and Walker: the more the last step reduced the residual, the more exactly
    the next is solved. Convergence is quadratic near a solution, even if f is not a contraction.
    Reference: Eisenstat and Walker 1996, eq. 2.6; Knoll and Keyes 2004, section 2.
    """

    krylov: int = 60

    def __post_init__(self) -> None:
        store(self, "krylov", positive_int("NewtonKrylov.krylov", self.krylov))


SOLVERS: dict[str, Solver] = {
    "damped": Damped(),
    "anderson": Anderson(),
    "newton": NewtonKrylov(),
}


def solver_of(value: object) -> Solver:
    """The solver that a name stands for; an object of gradcore.implicit is returned as it is."""
    if isinstance(value, str) and value in SOLVERS:
        return SOLVERS[value]
    if isinstance(value, Solver) and type(value) is not Solver:
        return value
    names = ", ".join(repr(name) for name in SOLVERS)
    raise DTypeError(
        f"solver must be {names}, or an object of gradcore.implicit (Damped, Anderson, "
        f"NewtonKrylov); got {value!r}."
    )


def solve(
    system: System,
    start: Array,
    solver: Solver,
    *,
    tol: float,
    atol: float,
    max_iter: int,
    progress: Progress | None,
) -> Solution:
    """Iterates from start [N, S] to fixed points."""
    integer("max_iter", max_iter)
    track = _Track(system, start, tol, atol)
    if isinstance(solver, NewtonKrylov):
        _newton(track, solver, max_iter, progress)
    elif isinstance(solver, Anderson):
        _mixed(track, solver.history, solver.damping, max_iter, progress)
    else:
        assert isinstance(solver, Damped)
        _mixed(track, 0, solver.damping, max_iter, progress)
    return track.solution()


class _Track:
    """The best point and the residual of each sample, and the samples still in the batch."""

    def __init__(self, system: System, start: Array, tol: float, atol: float) -> None:
        self.tol, self.floor = tol, atol / tol
        count = len(start)
        self.best_z = start.copy()
        self.best_off = np.zeros_like(start)  # f(z) - z at best_z
        self.best = np.full(count, np.inf)  # the norm of best_off
        self.scale = np.full(count, np.nan)  # the norm of f, or of f(z) - z, at the start
        self.residual = np.full(count, np.inf)
        self.outcomes = [SolverOutcome.NOT_CONVERGED] * count
        self.iterations = np.zeros(count, np.int64)
        self.evaluations = np.zeros(count, np.int64)
        self.rows = np.arange(count)
        self.system = system

    def off(self, z: Array) -> tuple[Array, NDArray[np.float64]]:
        """f(z) - z of the samples in the batch, and its norms; records the best points."""
        with np.errstate(over="ignore", invalid="ignore"):
            found = self.system.value(z)
            off = found - z
            size = norms(off)
            length = norms(found)
            residual = size / np.maximum(length + self.floor, np.finfo(float).tiny)
        self.evaluations[self.rows] += 1
        size = np.where(np.isfinite(size) & np.isfinite(residual), size, np.inf)
        rows = self.rows
        unseen = np.isnan(self.scale[rows])
        self.scale[rows] = np.where(unseen, np.maximum(size, length), self.scale[rows])
        better = size < self.best[rows]
        self.best_z[rows[better]], self.best_off[rows[better]] = z[better], off[better]
        self.best[rows[better]] = size[better]
        self.residual[rows[better]] = residual[better]
        return off, size

    def ended(self, size: NDArray[np.float64]) -> NDArray[np.intp]:
        """Removes samples from the batch that are done; returns the positions that stay."""
        rows = self.rows
        done = self.residual[rows] <= self.tol
        gone = ~done & (np.isinf(size) | (size > RUNAWAY * self.scale[rows]))
        for row in rows[done]:
            self.outcomes[row] = SolverOutcome.CONVERGED
        for row in rows[gone]:
            self.outcomes[row] = SolverOutcome.DIVERGED
        return self.keep(~(done | gone))

    def keep(self, staying: NDArray[np.bool_]) -> NDArray[np.intp]:
        places = np.flatnonzero(staying)
        if len(places) < len(self.rows):
            self.rows = self.rows[places]
            self.system = self.system.take(places)
        return places

    def solution(self) -> Solution:
        return Solution(
            self.best_z,
            self.residual,
            tuple(self.outcomes),
            self.iterations,
            self.evaluations,
            self.tol,
        )


def _mixed(
    track: _Track, history: int, damping: float, max_iter: int, progress: Progress | None
) -> None:
    """Runs Anderson's iteration, or the damped one if history is 0."""
    z = track.best_z.copy()
    shape = (len(z), history, z.shape[1])
    # Differences between iterates: moves of z, changes of f(z) - z.
    moves, changes = np.zeros(shape, z.dtype), np.zeros(shape, z.dtype)
    before: tuple[Array, Array] | None = None
    for k in range(max_iter + 1):
        off, size = track.off(z)
        best = track.best[track.rows]
        places = track.ended(size)
        if not places.size or k == max_iter:
            return
        z, off, size, best = z[places], off[places], size[places], best[places]
        track.iterations[track.rows] += 1
        if not history:
            z = z + z.dtype.type(damping) * off
        else:
            moves, changes = moves[places], changes[places]
            if before is not None:
                column = (k - 1) % history
                moves[:, column] = z - before[0][places]
                changes[:, column] = off - before[1][places]
            back = size > SETBACK * best
            if back.any():
                rows = track.rows[back]
                z[back], off[back] = track.best_z[rows], track.best_off[rows]
                moves[back], changes[back] = 0, 0
            before = (z, off)
            z = _mix(z, off, moves, changes, damping)
        if progress is not None:
            progress(k + 1, max_iter)


def _mix(z: Array, off: Array, moves: Array, changes: Array, damping: float) -> Array:
    """z + damping off - (moves + damping changes) gamma, where changes gamma fits off best."""
    wide = changes.astype(np.float64, copy=False)
    gram = np.einsum("nis,njs->nij", wide, wide)
    right = np.einsum("nis,ns->ni", wide, off.astype(np.float64, copy=False))
    length = np.sqrt(np.einsum("nii->ni", gram))
    scale = np.where(length > 0, length, 1.0)
    # Columns have length 1, so eigenvalues of the Gram matrix below the squared rounding error of
    # the dtype are noise; adding this much regularises them.
    noise = max((10 * float(np.finfo(z.dtype).eps)) ** 2, 1e-14)
    gram = gram / (scale[:, :, None] * scale[:, None, :]) + noise * np.eye(gram.shape[1])
    gamma = (np.linalg.solve(gram, (right / scale)[:, :, None])[:, :, 0] / scale).astype(z.dtype)
    step = z.dtype.type(damping)
    mixed: Array = z + step * off - np.einsum("ni,nis->ns", gamma, moves + step * changes)
    return mixed


def _newton(track: _Track, solver: NewtonKrylov, max_iter: int, progress: Progress | None) -> None:
    z = track.best_z.copy()
    off, size = track.off(z)
    forcing = np.full(len(z), 0.1)
    for k in range(max_iter):
        places = track.ended(size)
        if not places.size:
            return
        z, off, size, forcing = z[places], off[places], size[places], forcing[places]
        track.iterations[track.rows] += 1
        operator = Linearised(track.system, z)
        step = gmres(
            operator, off.astype(np.float64), forcing, solver.krylov, min(solver.krylov, 60)
        )
        track.evaluations[track.rows] += step.products
        z, off, now, moved = _line_search(track, z, off, size, step.x.astype(z.dtype))
        forcing = np.clip(0.9 * (now / np.maximum(size, np.finfo(float).tiny)) ** 2, 1e-6, 0.1)
        size = now
        if not moved.all():
            for row in track.rows[~moved]:
                if track.residual[row] > track.tol:
                    track.outcomes[row] = SolverOutcome.STALLED
            # Samples that have converged stay until `ended` marks them as such.
            stay = track.keep(moved | (track.residual[track.rows] <= track.tol))
            z, off, size, forcing = z[stay], off[stay], size[stay], forcing[stay]
        if progress is not None:
            progress(k + 1, max_iter)
    track.ended(size)


def _line_search(
    track: _Track, z: Array, off: Array, size: NDArray[np.float64], step: Array
) -> tuple[Array, Array, NDArray[np.float64], NDArray[np.bool_]]:
    """Takes the longest of the steps 1, 1/2, ... that reduces the residual enough, per sample."""
    z, off, now = z.copy(), off.copy(), size.copy()
    moved = np.zeros(len(z), bool)
    whole = track.system, track.rows
    length = 1.0
    for _ in range(HALVINGS):
        todo = np.flatnonzero(~moved)
        track.system, track.rows = whole[0].take(todo), whole[1][todo]
        tried = z[todo] + z.dtype.type(length) * step[todo]
        found, found_size = track.off(tried)
        good = found_size <= (1 - 1e-4 * length) * size[todo]
        accepted = todo[good]
        z[accepted], off[accepted], now[accepted] = tried[good], found[good], found_size[good]
        moved[accepted] = True
        if moved.all():
            break
        length /= 2
    track.system, track.rows = whole
    return z, off, now, moved
