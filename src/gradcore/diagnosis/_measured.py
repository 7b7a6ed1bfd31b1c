"""The numbers that a diagnosis rests on."""

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
    """Where the forward pass left the range of the dtype."""

    layer: int
    step: int
    sequence: int


@dataclass(frozen=True, eq=False)
class Measured:
    """All numbers of a diagnosis; None where a part was not asked for or could not be measured.

    names: of the recurrent layers, such as "1.LSTM". steps, batch: T and B. looked_at: sequences
    that lyapunov, singular_values and amplification were given. loss: its value.
    gradients, sizes: log10 of the norm of each parameter's gradient, and of the parameter, -inf for
    zero; with gradients_complete False, those more than 2**126 below the largest are zero, too, in
    float32. hidden: dL/dh_t of each recurrent layer and direction. reach: of each recurrent layer.
    lags (n,), singular_values (n, b, k): see jacobian.state_singular_values. left_out: why a part
    is missing. overflow: where the forward pass left the range; what needs no loss was then
    measured on the steps before it.
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
