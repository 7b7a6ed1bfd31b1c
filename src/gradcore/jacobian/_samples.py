"""The gradient of each sequence's own loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._engine.calls import value_and_grad
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
    loss: str | Loss,
    weight: Any = None,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Grads]:
    """The gradient of every sequence's loss alone, as B Grads with their exponents.

    The loss of sequence b is what gradcore.value gives for the batch of x[:, b:b+1]; a mean divides
    by its own terms. In evaluation mode, without random masks. One pass per sequence: a batch of B
    takes about as long as B batches of one.

    Arguments as of gradcore.value_and_grad, but a loss function is refused: it sees whole batches.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    """
    validate.model(net, params)
    if not isinstance(loss, (str, Loss)):
        raise ArgumentError("per_sample_gradients needs a named loss or one of gradcore.loss.")
    inputs = validate.inputs(net, params.dtype, x, lengths, reset, state)
    x, y = validate.as_array("x", x), validate.as_array("y", y)
    if y.ndim == 0 or inputs.batch not in y.shape[:2]:
        raise ArgumentError(f"y must have an axis of B = {inputs.batch} sequences; got {y.shape}.")
    results = []
    for b in range(inputs.batch):
        results.append(
            value_and_grad(
                net,
                params,
                _one(x, b, 1),
                _one(y, b, _axis(y, inputs)),
                loss=loss,
                weight=None
                if weight is None
                else _one(np.asarray(weight), b, _axis(weight, inputs)),
                lengths=None if lengths is None else np.asarray(lengths)[b : b + 1],
                reset=None if reset is None else _one(np.asarray(reset), b, 1),
                state=None if state is None else [_of(layer, b) for layer in state],
                train=False,
                memory=memory,
                threads=threads,
            ).grads
        )
        if progress is not None:
            progress(b + 1, inputs.batch)
    return [grads for grads in results if grads is not None]


def _axis(array: Any, inputs: validate.Inputs) -> int:
    """Where the sequences are: losses of the last step have no time axis."""
    shape = np.shape(array)
    return 1 if len(shape) > 1 and shape[:2] == (inputs.steps, inputs.batch) else 0


def _one(array: NDArray[Any], b: int, axis: int) -> NDArray[Any]:
    return np.ascontiguousarray(np.take(array, [b], axis))


def _of(state: LayerState, b: int) -> LayerState:
    return LayerState(
        h=state.h[b : b + 1],
        c=None if state.c is None else state.c[b : b + 1],
        skip=None if state.skip is None else state.skip[:, b : b + 1],
        reverse=None if state.reverse is None else _of(state.reverse, b),
    )
