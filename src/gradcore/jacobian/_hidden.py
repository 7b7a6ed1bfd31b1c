"""The gradient of a loss with respect to the outputs of a layer, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.checks import integer
from .._engine.calls import Seed
from .._engine.objective import AnyLoss, objective
from .._engine.prepare import Progress, prepare
from .._net import validate
from .._net.stack import Grads, Params, Stack
from ..errors import ArgumentError

__all__ = ["HiddenGradients", "hidden_gradients"]


@dataclass(frozen=True, eq=False)
class HiddenGradients:
    """The result of hidden_gradients.

    loss and grads: those of gradcore.value_and_grad. dh (T, B, H): the true gradient with respect
    to h_t is dh[t] * 2**exponent[t]; both are None with norms_only. norm_log10 (T, B): log10 of its
    Euclidean norm, -inf for a norm of 0. layer: the number of the recurrent layer, from 0;
    reverse: whether it is the direction of this layer that reads time backward.
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
    loss: AnyLoss,
    layer: int = -1,
    reverse: bool = False,
    norms_only: bool = False,
    weight: Any = None,
    lengths: Any = None,
    reset: Any = None,
    state: Any = None,
    static: Any = None,
    seed: Seed = None,
    train: bool = False,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> HiddenGradients:
    """The total gradient dL/dh_t of the loss by a recurrent layer's output h_t, for every step t.

    It counts all paths: through the layers above and the head at step t, and through later steps of
    this layer. layer: number of the recurrent layer; negative numbers count from the end. reverse:
    take the direction that reads time backward, in a bidirectional layer. norms_only: return only
    the norms, 8 bytes per step and sequence, instead of T*B*H numbers. The other arguments are
    those of gradcore.value_and_grad. A residual connection bypasses h, so the gradient through it
    does not count; at steps t >= lengths[b] the gradient is 0.

    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    Reference: Pascanu, Mikolov, Bengio 2013, eq. 4 (the backward recursion of dL/dh_t).
    """
    validate.model(net, params)
    inputs = validate.inputs(net, params.dtype, x, lengths, reset, state, static)
    batch = inputs.batch
    goal = objective(loss, net, params.dtype, inputs, y, weight)
    which, direction = _direction(net, layer, reverse)
    place = int(net.recurrent_names[which].partition(".")[0])
    steps = net.steps_at(place, inputs.steps)
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
    """The number of the layer from 0, and the core's number for its direction of time."""
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
        raise ArgumentError(
            f"reverse=True needs a bidirectional layer; recurrent layer {which} reads time forward "
            "only."
        )
    return which, sum(len(below.directions) for below in layers[:which]) + bool(reverse)
