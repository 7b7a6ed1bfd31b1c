"""The gradient of a loss with respect to the outputs of a layer, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.checks import integer
from .._engine.calls import Seed
from .._engine.objective import objective
from .._engine.prepare import Progress, prepare
from .._net import validate
from .._net.stack import Grads, Params, Stack
from ..errors import ArgumentError
from ..loss import Loss, LossFunction

__all__ = ["HiddenGradients", "hidden_gradients"]


@dataclass(frozen=True, eq=False)
class HiddenGradients:
    """What hidden_gradients found.

    loss and grads: as of gradcore.value_and_grad. dh (T, B, H): the true gradient with respect to
    h_t is dh[t] * 2**exponent[t]; None with norms_only. norm_log10 (T, B): log10 of its Euclidean
    norm, -inf for zero. layer: which recurrent layer; reverse: whether its direction that reads
    time backward.
    """

    loss: float
    grads: Grads
    layer: int
    reverse: bool
    dh: NDArray[Any] | None
    exponent: NDArray[np.int32] | None
    norm_log10: NDArray[np.float64]


def hidden_gradients(
    net: Stack,
    params: Params,
    x: Any,
    y: Any = None,
    *,
    loss: str | Loss | LossFunction,
    layer: int = -1,
    reverse: bool = False,
    norms_only: bool = False,
    weight: Any = None,
    lengths: Any = None,
    reset: Any = None,
    state: Any = None,
    seed: Seed = None,
    train: bool = False,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> HiddenGradients:
    """dL/dh_t of a recurrent layer for every step t, by all paths: what the layers above and the
    head send at t, and what comes back through time.

    layer: counts the recurrent layers, from the end if negative. norms_only: keeps the norms, 8
    bytes per step and sequence, instead of T*B*H numbers. Other arguments as of
    gradcore.value_and_grad. A residual connection goes round h and is not counted; steps
    t >= lengths[b] have zero.

    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    Reference: Pascanu, Mikolov, Bengio 2013, eq. 4 (the backward recursion of dL/dh_t).
    """
    validate.model(net, params)
    inputs = validate.inputs(net, params.dtype, x, lengths, reset, state)
    steps, batch = inputs.steps, inputs.batch
    goal = objective(loss, net, params.dtype, steps, batch, y, weight)
    which, direction = _direction(net, layer, reverse)
    hidden = net.recurrent[which].hidden_size
    results: dict[str, NDArray[Any] | None] = {
        "grads": (grads := np.empty(net.n_parameters, params.dtype)),
        "hidden_log2_norm": (log2_norm := np.empty((steps, batch))),
    }
    dh = exponent = None
    if not norms_only:
        dh = results["hidden"] = np.empty((steps, batch, hidden), params.dtype)
        exponent = results["hidden_exponent"] = np.empty(steps, np.int32)
    report, _ = prepare(
        params,
        inputs,
        validate.mode(net, train, seed),
        goal,
        results,
        memory,
        threads,
        progress,
        hidden=direction,
    ).run()
    return HiddenGradients(
        report.loss,
        Grads(net, grads, report.grads_exponent),
        which,
        reverse,
        dh,
        exponent,
        log2_norm * np.log10(2.0),
    )


def _direction(net: Stack, layer: object, reverse: bool) -> tuple[int, int]:
    """The layer counted from 0, and its direction's number in the core."""
    layers: Sequence[Any] = net.recurrent
    which = integer("layer", layer)
    if not layers:
        raise ArgumentError("the net has no recurrent layer, so there is no hidden gradient.")
    if not -len(layers) <= which < len(layers):
        raise ArgumentError(
            f"layer must be in {-len(layers)}..{len(layers) - 1}, one of the net's recurrent "
            f"layers; got {which}."
        )
    which %= len(layers)
    if reverse and not layers[which].bidirectional:
        raise ArgumentError(f"recurrent layer {which} has no direction that reads time backward.")
    return which, sum(len(below.directions) for below in layers[:which]) + bool(reverse)
