"""Singular values of the Jacobian of the state over many steps, in logarithms."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.blas import single_threaded
from .._base.checks import integer, positive_int
from .._engine.prepare import Progress
from .._net import validate
from .._net.stack import Params, Stack
from .._net.state import LayerState, state_size
from ..errors import ArgumentError, ConvergenceWarning
from ._factors import log_singular_values
from ._krylov import TOLERANCE, leading
from ._path import Matrices, Path
from ._ranges import Ranges, before_pool, one_way

__all__ = ["state_singular_values"]

# The leading k values come from blocks of k + SPARE directions.
SPARE = 8


def state_singular_values(
    net: Stack,
    params: Params,
    x: Any,
    lags: Sequence[int],
    k: int | None = None,
    *,
    interval: int | None = None,
    seed: int = 0,
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    lengths: Any = None,
    reset: Any = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """log10 of the singular values of d state_T / d state_(T-lag), (len(lags), B, k), descending.

    k: the number of values to compute, from the largest; None computes all S, the size of one
    sequence's state. For all S, cotangents are carried back from the end and orthogonalised every
    `interval` steps (None: as often as their measured growth requires, at most every 64 steps). The
    product of the triangular factors is never formed, so values of 1e+5000 and 1e-5000 can stand
    side by side; a value of 0 gives -inf. The error of a logarithm is about the dtype's rounding
    error times the number of factors; values below 1e-16 of the largest that agree with a neighbour
    within a few percent may be off by a part of their difference. The factors take
    lag/interval * B * S * S * 8 bytes, and the time grows with S^3.

    With k, blocks of k + 8 random directions (seed) are carried forward and back between T-lag and
    T until at most 1 % of each left singular vector lies outside the space of the pass before, so
    that a singular value lies within about 1 % (0.004 in log10) of each value. The values are lower
    bounds; the error is of the square of that part, and those of nets with 128 to 512 units were at
    most 1.3e-4 too low in log10. Values of a multiplicity up to k + 8 are found as often as they
    are. Directions of which a step leaves less than rounding errors have values of that size. Time
    grows with S * k, memory with S * k times the number of blocks, at most 10. A ConvergenceWarning
    tells of larger parts.

    The net is in evaluation mode. Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError,
    NonFiniteError.
    Reference: Oliveira and Stewart 2000, "Exponential splittings of products of matrices" (the QR
    iteration on the factors); Benettin et al. 1980 for the orthogonalisation; Golub, Luk and
    Overton 1981 (block Lanczos iteration).
    """
    validate.model(net, params)
    one_way(net, "state_singular_values")
    net, params = before_pool(net, params)
    ranges = Ranges(net, params.dtype, x, lengths, reset, static)
    wanted = [integer("lags", lag) for lag in lags]
    if not wanted or any(not 0 <= lag <= ranges.steps for lag in wanted):
        raise ArgumentError(f"lags must be in 0..T = 0..{ranges.steps}; got {wanted}.")
    size = state_size(net, 1)
    count = size if k is None else positive_int("k", k)
    if count > size:
        raise ArgumentError(
            f"k must be at most S = {size}, the size of one sequence's state; got {count}."
        )
    fixed = None if interval is None else positive_int("interval", interval)
    rng = np.random.default_rng(integer("seed", seed))
    lengths_of = sorted(set(wanted) - {0})
    # A pass follows every decomposition.
    with single_threaded():
        path = Path(net, params, ranges, state, ranges.steps - max(wanted), fixed, memory, threads)
        if count + SPARE < size:
            logs = _leading(path, lengths_of, count, rng, progress)
        else:
            logs = _all(path, lengths_of, progress)
    logs[0] = np.zeros((ranges.batch, size))
    found: Matrices = np.stack([logs[lag][:, :count] for lag in wanted]) / np.log(10.0)
    return found


def _all(path: Path, lags: Sequence[int], progress: Progress | None) -> dict[int, Matrices]:
    """Natural logs of all singular values by lag, from one pass back with S directions."""
    size, end = state_size(path.net, 1), path.ranges.steps
    frames = np.broadcast_to(np.eye(size), (path.ranges.batch, size, size)).copy()
    factors: list[Matrices] = []
    logs = {}
    for lag in lags:
        begin = path.ranges.steps - lag

        def tell(t: int) -> None:
            if progress is not None:
                progress(path.ranges.steps - t, lags[-1])

        frames = path.back(frames, end, begin, factors, tell)
        end = begin
        logs[lag] = log_singular_values(factors)
    return logs


def _leading(
    path: Path,
    lags: Sequence[int],
    count: int,
    rng: np.random.Generator,
    progress: Progress | None,
) -> dict[int, Matrices]:
    """Natural logs of the `count` largest singular values by lag."""
    size, end, batch = state_size(path.net, 1), path.ranges.steps, path.ranges.batch
    logs = {}
    for number, lag in enumerate(lags):
        frames = np.linalg.qr(rng.standard_normal((batch, size, count + SPARE)))[0]
        found = leading(path, end - lag, end, count, frames)
        if not found.converged:
            warnings.warn(
                f"{int((found.residuals > TOLERANCE).sum())} of {found.residuals.size} singular "
                f"values over a lag of {lag} have relative residuals above {TOLERANCE:g}, of up to "
                f"{found.residuals.max():.1e}. Choose another k, or compute all with k=None.",
                ConvergenceWarning,
                stacklevel=3,
            )
        logs[lag] = found.logs
        if progress is not None:
            progress(number + 1, len(lags))
    return logs
