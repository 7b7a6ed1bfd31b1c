"""Products of triangular factors: their singular values in logarithms, and the plain product."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["log_singular_values", "scaled_product"]

# The QR iteration ends when no logarithm changes by more than SETTLED in a sweep. Each sweep
# multiplies the off-diagonal elements by the squared ratio of neighbouring singular values.
SETTLED = 1e-7
MOST_SWEEPS = 60

Matrices = NDArray[np.float64]


def scaled_product(factors: list[Matrices]) -> tuple[Matrices, Matrices]:
    """R_n ... R_1 as a plain product [B, K, K] whose largest element is 1, and its natural log [B].

    The factors are [B, K, K + 1], with the log of their scale as Path.back and Path.forth give it.
    """
    product = factors[0][:, :, :-1]
    log = factors[0][:, 0, -1].copy()
    for factor in factors[1:]:
        product = factor[:, :, :-1] @ product
        largest = np.abs(product).max(axis=(1, 2))
        scale = np.where(largest > 0, largest, 1.0)
        product = product / scale[:, None, None]
        log += factor[:, 0, -1] + np.log(scale)
    return product, log


def log_singular_values(factors: list[Matrices]) -> Matrices:
    """Natural logs [B, S] of the singular values of R_n ... R_1, descending."""
    total = sum(factor[:, 0, -1] for factor in factors)
    triangles = [factor[:, :, :-1] for factor in factors]
    before, left = None, np.linalg.svd(scaled_product(factors)[0])[0]
    for _ in range(MOST_SWEEPS):
        # The transposed product is R_1' ... R_n'. Orthogonalised from its right end it becomes
        # Q U_1 ... U_n with upper triangles again, in the opposite order. The first sweep starts
        # from the left singular vectors of the plain product; without them, values that are nearly
        # equal would take many sweeps to get into descending order.
        frame, swept = left if before is None else None, []
        for triangle in reversed(triangles):
            lower = triangle.transpose(0, 2, 1)
            frame, upper = np.linalg.qr(lower if frame is None else lower @ frame)
            swept.append(upper)
        triangles = swept
        with np.errstate(divide="ignore"):
            logs = np.asarray(
                sum(np.log(np.abs(np.einsum("bss->bs", triangle))) for triangle in triangles)
            )
        if before is not None:
            with np.errstate(invalid="ignore"):  # -inf - (-inf) is NaN; such a value is settled
                settled = (logs == before) | (np.abs(logs - before) < SETTLED)
            if settled.all():
                break
        before = logs
    values: NDArray[np.float64] = -np.sort(-(logs + np.asarray(total)[:, None]), axis=1)
    return values
