"""Gradients of the loss of each sequence of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.named import each, flat
from .._engine.calls import value_and_grad
from .._engine.objective import AnyLoss, resolve
from .._engine.prepare import Progress
from .._net import validate
from .._net.stack import Grads, Params, Stack
from .._net.state import LayerState
from ..errors import ArgumentError
from ..loss import Loss

__all__ = ["per_sample_gradients"]


def per_sample_gradients(
    net: Stack,
    params: Params,
    x: Any,
    y: Any,
    *,
    loss: AnyLoss,
    weight: Any = None,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Grads]:
    """The gradient of each sequence's loss by itself, as B Grads with their exponents.

    The loss of sequence b is what gradcore.value gives for the batch x[:, b:b+1], so a mean divides
    by the number of this sequence's own terms. The net is in evaluation mode, without random masks.
    There is one pass per sequence: a batch of B takes about as long as B batches of one.

    Arguments are those of gradcore.value_and_grad, except that loss must not be a Python function,
    because such a function sees whole batches.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    """
    validate.model(net, params)
    if not isinstance(resolve(loss), Loss):
        raise ArgumentError(
            "loss must be a name or an object of gradcore.loss for per_sample_gradients; got "
            f"{loss!r}."
        )
    inputs = validate.inputs(net, params.dtype, x, lengths, reset, state, static)
    x, y = validate.as_array("x", x), each(y, lambda own: validate.as_array("y", own))
    for own in flat(y):
        if own.ndim == 0 or inputs.batch not in own.shape[:2]:
            raise ArgumentError(
                f"y must have an axis of B = {inputs.batch} sequences; got {own.shape}."
            )

    def sequence(array: Any, b: int) -> NDArray[Any] | None:
        return None if array is None else _one(np.asarray(array), b, _axis(array, inputs))

    results = []
    for b in range(inputs.batch):
        results.append(
            value_and_grad(
                net,
                params,
                _one(x, b, 1),
                each(y, partial(sequence, b=b)),
                loss=loss,
                weight=each(weight, partial(sequence, b=b)),
                lengths=None if lengths is None else np.asarray(lengths)[b : b + 1],
                reset=None if reset is None else _one(np.asarray(reset), b, 1),
                state=None if state is None else [_of(layer, b) for layer in state],
                static=None if static is None else _one(np.asarray(static), b, 0),
                train=False,
                memory=memory,
                threads=threads,
            ).grads
        )
        if progress is not None:
            progress(b + 1, inputs.batch)
    return [grads for grads in results if grads is not None]


def _axis(array: Any, inputs: validate.Inputs) -> int:
    """The axis of the sequences: 1, or 0 in targets of the last step, which have no time axis."""
    shape = np.shape(array)
    return (
        1
        if len(shape) > 1
        and shape[:2]
        in (
            (inputs.steps, inputs.batch),
            (inputs.output_steps, inputs.batch),
        )
        else 0
    )


def _one(array: NDArray[Any], b: int, axis: int) -> NDArray[Any]:
    return np.ascontiguousarray(np.take(array, [b], axis))


def _of(state: LayerState, b: int) -> LayerState:
    return LayerState(
        h=state.h[b : b + 1],
        c=None if state.c is None else state.c[b : b + 1],
        skip=None if state.skip is None else state.skip[:, b : b + 1],
        reverse=None if state.reverse is None else _of(state.reverse, b),
        further=None if state.further is None else state.further[:, b : b + 1],
    )
