"""The numbers of a diagnosis, from which the verdict is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._net.stack import Stack
from ..amplification import Amplification
from ..gates import GateStatistics
from ..horizon import Reach, TruncationBias, WindowShares
from ..jacobian import HiddenGradients
from ..lyapunov import LyapunovSpectrum

__all__ = ["Measured", "Overflow"]


@dataclass(frozen=True)
class Overflow:
    """The layer, step and sequence where the forward pass left the range of the dtype."""

    layer: int
    step: int
    sequence: int


@dataclass(frozen=True, eq=False)
class Measured:
    """All numbers of a diagnosis; a part that was not asked for or not measurable is None.

    names: the names of the recurrent layers, such as "1.LSTM". steps, batch: T and B. looked_at:
    the numbers of the sequences that lyapunov, singular_values and amplification used. loss: the
    value of the loss. gradients, sizes: log10 of the norm of each parameter's gradient, and of each
    parameter, -inf for a norm of 0. If gradients_complete is False, gradients more than 2**126
    times below the largest (in float32) are 0 as well. hidden: dL/dh_t of each recurrent layer and
    direction of time. reach: one for each recurrent layer. lags (n,), singular_values (n, b, k):
    see jacobian.state_singular_values. left_out: the reason for each part that is missing.
    overflow: where the forward pass left the range of the dtype; parts that need no loss were then
    measured on the steps before. seconds: the time that each part took.
    """

    net: Stack
    dtype: str
    names: tuple[str, ...]
    steps: int
    batch: int
    looked_at: tuple[int, ...]
    loss: float | None
    gradients: dict[str, float] | None
    gradients_complete: bool
    sizes: dict[str, float]
    hidden: tuple[HiddenGradients, ...] | None
    reach: tuple[Reach, ...] | None
    windows: WindowShares | None
    truncation: TruncationBias | None
    lyapunov: LyapunovSpectrum | None
    lags: NDArray[np.int64] | None
    singular_values: NDArray[np.float64] | None
    amplification: Amplification | None
    gates: tuple[GateStatistics, ...] | None
    left_out: dict[str, str]
    overflow: Overflow | None
    seconds: dict[str, float]
