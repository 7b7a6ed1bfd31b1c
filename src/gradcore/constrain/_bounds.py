"""Bounds on the product of T Jacobians: proved from the weights, or measured on a trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import amplification
from .._base.checks import positive_int
from .._engine.prepare import Progress
from .._net import validate
from .._net.cells import RNN, AntisymmetricRNN
from .._net.skip_paths import path_sum, skip_strengths
from .._net.stack import Params, Stack
from .._net.state import LayerState
from .._net.structure import dense_weight_hh
from ..errors import ArgumentError
from ._matrices import largest

__all__ = ["jacobian_bound", "trajectory_bound"]

# The relative rounding error that a norm computed in float64 may have, with room to spare; the
# bound is raised by it so that it stays a bound.
MARGIN = 1e-9


def jacobian_bound(net: Stack, params: Params, steps: int, *, layer: int = 0) -> float:
    """log10 of a proved bound on the spectral norm of dh_T / dh_0 over `steps` steps of an RNN.

    layer: number of the recurrent layer, which must be an RNN or AntisymmetricRNN; h is its own
    output.

    The bound covers all paths through time, which all lie within the layer: layers above do not act
    back on it, and layers below do not depend on it. tanh, relu and the identity have slopes of at
    most 1, so a step multiplies by at most r = |W_hh|, and with zoneout z in evaluation mode by at
    most z + (1-z) r. Hence the bound is r^T. With a skip connection of lag k and strength s it is
    the sum over all paths, g_t = r g_(t-1) + s g_(t-k), where kind "mix" has (1-s) r in place of r.
    If s is learned, the largest |s| is taken, but the smallest s in (1-s) r. The bound holds for
    every input and state.

    An AntisymmetricRNN has J = I + e D (S - c I) with S = A - A', D diagonal in [0, 1], and e and c
    its step and diffusion. |J x|^2 = |x|^2 + 2 e x'D(S - c I)x + e^2 |D(S - c I)x|^2. The symmetric
    part of D S is (D S - S D)/2, whose norm is at most |S|/2 because that of D - I/2 is at most
    1/2; -c x'D x is not positive; and |S - c I|^2 = |S|^2 + c^2. So
    r = sqrt(1 + e |S| + e^2 (|S|^2 + c^2)). The bound's logarithm grows by about e |S|/2 per step,
    which is far more than the true norm does as long as the units do not saturate.
    Raises ArgumentError for other cells: see trajectory_bound.
    Reference: Pascanu, Mikolov, Bengio 2013, section 2 and eq. 7, for the chain of Jacobians.
    """
    validate.model(net, params)
    count = positive_int("steps", steps)
    which = validate.recurrent_index(net, layer)
    own = net.recurrent[which]
    name = net.recurrent_names[which]
    if not isinstance(own, (RNN, AntisymmetricRNN)) or own.bidirectional:
        raise ArgumentError(
            f"jacobian_bound is proved for RNN and AntisymmetricRNN layers that read time forward "
            f"only; {name} is not one of these. Use constrain.trajectory_bound."
        )
    place = name.partition(".")[0]
    weight = dense_weight_hh(own, params.get(f"{place}.weight_hh")).astype(np.float64)
    step = _step_bound(own, weight)
    step = own.zoneout + (1 - own.zoneout) * step
    if own.skip is None:
        return count * float(np.log10(step)) if step > 0 else -np.inf
    strengths = skip_strengths(own.skip, params, place)
    if own.skip.kind == "mix":
        step *= 1 - float(strengths.min())
    most = float(np.abs(strengths).max())
    return float(path_sum(step, own.skip.lag, most, count + 1)[-1])


def _step_bound(layer: RNN | AntisymmetricRNN, weight: NDArray[np.float64]) -> float:
    """The largest factor by which one step of the cell can stretch a perturbation of h."""
    if isinstance(layer, RNN):
        return float(largest(weight[None])[0]) * (1 + MARGIN)
    turn = float(largest((weight - weight.T)[None])[0])
    step = layer.step
    square = 1 + step * turn + step**2 * (turn**2 + layer.diffusion**2)
    return float(np.sqrt(square)) * (1 + MARGIN)


def trajectory_bound(
    net: Stack,
    params: Params,
    x: Any,
    *,
    points: int = 100,
    layer: int | None = None,
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    lengths: Any = None,
    reset: Any = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """log10 of the product of the norms of a trajectory's one-step Jacobians, (B,), for any cell.

    If points >= T, it bounds the norm of the product of the T Jacobians for this input; with fewer
    points, which are spread evenly over the steps, it is an estimate of that bound. It says nothing
    about other inputs. Arguments and exceptions are those of gradcore.amplification.along.
    """
    found = amplification.along(
        net,
        params,
        x,
        points=points,
        layer=layer,
        state=state,
        static=static,
        lengths=lengths,
        reset=reset,
        memory=memory,
        threads=threads,
        progress=progress,
    )
    bound: NDArray[np.float64] = found.log10_bound * len(x)
    return bound
