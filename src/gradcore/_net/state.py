"""The state that a net carries from step to step, and the flat array that the core uses for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._base.checks import float_dtype, positive_int
from ..errors import ArgumentError, DTypeError, ShapeError
from .stack import Stack

__all__ = ["LayerState", "zero_state"]


@dataclass(frozen=True, eq=False)
class LayerState:
    """The state of one recurrent layer after a step, or the gradient with respect to it.

    h [B, H]: the output. c [B, H]: the second state of a cell that has one, as an LSTM has, else
    None. further [n, B, H]: the n states behind c of a cell with more than two, in their order,
    else None. skip [k, B, H]: the last k outputs, oldest first, for a layer with Skip(lag=k),
    otherwise None; skip[-1] equals h.
    A causal Conv1d has such a state as well, behind those of all recurrent layers: skip [k, B, I]
    holds its last k = (kernel_size - 1) * dilation inputs and h the last of them; inputs that are
    tokens are rows of zeros with a one at the token.
    reverse: for a bidirectional layer, the state of the direction that reads time backward. In a
    final state this is the state after step 0; in an initial state, that before it reads each
    sequence's last step.
    """

    h: NDArray[Any]
    c: NDArray[Any] | None = None
    skip: NDArray[Any] | None = None
    reverse: LayerState | None = None
    further: NDArray[Any] | None = None


def zero_state(net: Stack, batch: int, dtype: DTypeLike = "float32") -> tuple[LayerState, ...]:
    """The state before the first step, all zeros: one LayerState per recurrent layer, then one per
    causal Conv1d with a kernel_size above 1.
    """
    batch = positive_int("batch", batch)
    return unflatten(net, batch, np.zeros(state_size(net, batch), float_dtype("dtype", dtype)))


@dataclass(frozen=True)
class StateShape:
    """What a recurrent layer or a convolution carries from step to step.

    kind: the class of the layer. lag: rows of past outputs, or of past inputs, of `width` elements.
    extra: rows besides those. skip: whether LayerState shows all past rows. directions: of time.
    """

    kind: str
    lag: int
    width: int
    extra: int
    skip: bool
    directions: int


@lru_cache(maxsize=64)
def state_shapes(net: Stack) -> tuple[StateShape, ...]:
    """Of each LayerState of the net: of the recurrent layers, then of the convolutions."""
    recurrent = (
        StateShape(
            type(layer).__name__,
            layer.lag,
            layer.hidden_size,
            len(layer.cell.states) - 1,
            layer.skip is not None,
            len(layer.directions),
        )
        for layer in net.recurrent
    )
    windows = (
        StateShape(type(layer).__name__, layer.past, width, 0, True, 1)
        for layer, width in net.windows
    )
    return (*recurrent, *windows)


def state_size(net: Stack, batch: int) -> int:
    """The number of values in the flat state.

    It has, for each layer and direction, the last outputs [k, B, H], then c [B, H] and further
    [n, B, H] if there are such; then the last inputs [k, B, I] of each convolution.
    """
    found = spans(net, batch)
    return found[-1].stop if found else 0


@lru_cache(maxsize=256)
def spans(net: Stack, batch: int) -> tuple[slice, ...]:
    """The slice of each direction of each recurrent layer, and of each convolution, in the flat
    state.
    """
    found, start = [], 0
    for shape in state_shapes(net):
        size = (shape.lag + shape.extra) * batch * shape.width
        for _ in range(shape.directions):
            found.append(slice(start, start + size))
            start += size
    return tuple(found)


def state_rows(net: Stack, batch: int) -> NDArray[np.intp]:
    """Index of element s of sequence b in the flat state of the batch, [B, S]."""
    flat = np.arange(state_size(net, batch))
    widths = [shape.width for shape in state_shapes(net) for _ in range(shape.directions)]
    parts = []
    for width, span in zip(widths, spans(net, batch), strict=True):
        block = flat[span].reshape(-1, batch, width)
        parts.append(block.transpose(1, 0, 2).reshape(batch, -1))
    return np.concatenate(parts, axis=1)


def at_one_exponent(
    net: Stack, batch: int, flat: NDArray[Any], exponents: NDArray[np.int32]
) -> int:
    """Scales flat states (..., size) in place to one exponent, the largest, which it returns.

    exponents: one per layer and direction, then per convolution.
    """
    common = int(exponents.max())
    for span, exponent in zip(spans(net, batch), exponents, strict=True):
        np.ldexp(flat[..., span], int(exponent) - common, out=flat[..., span])
    return common


def unflatten(net: Stack, batch: int, flat: NDArray[Any]) -> tuple[LayerState, ...]:
    """The state as LayerStates that are views of the flat state, or states (..., size)."""
    layers, start = [], 0
    places = spans(net, batch)
    for shape in state_shapes(net):
        made: LayerState | None = None
        stop = start + shape.directions
        for place in reversed(places[start:stop]):
            block = flat[..., place].reshape(*flat.shape[:-1], -1, batch, shape.width)
            past = block[..., : shape.lag, :, :]
            made = LayerState(
                h=past[..., -1, :, :],
                c=block[..., shape.lag, :, :] if shape.extra else None,
                skip=past if shape.skip else None,
                reverse=made,
                further=block[..., shape.lag + 1 :, :, :] if shape.extra > 1 else None,
            )
        assert made is not None
        layers.append(made)
        start = stop
    return tuple(layers)


def sequences_of(state: Sequence[LayerState], chosen: Sequence[int]) -> tuple[LayerState, ...]:
    """The state of the chosen sequences of a batch."""
    index = list(chosen)
    return tuple(
        LayerState(
            layer.h[index],
            None if layer.c is None else layer.c[index],
            None if layer.skip is None else np.ascontiguousarray(layer.skip[:, index]),
            None if layer.reverse is None else sequences_of([layer.reverse], index)[0],
            None if layer.further is None else np.ascontiguousarray(layer.further[:, index]),
        )
        for layer in state
    )


def clear_sequences(
    state: Sequence[LayerState],
    chosen: NDArray[np.bool_],
    start: Sequence[LayerState] | None = None,
) -> None:
    """Sets the state of the chosen sequences, (B,) flags, to that of start, or zero, in place."""
    begin: Sequence[LayerState | None] = [None] * len(state) if start is None else start
    for layer, first in zip(state, begin, strict=True):
        for name in ("h", "c", "skip", "further"):
            array = getattr(layer, name)
            if array is not None:
                new = 0.0 if first is None else getattr(first, name)[..., chosen, :]
                array[..., chosen, :] = new
        if layer.reverse is not None:
            again = None if first is None or first.reverse is None else [first.reverse]
            clear_sequences([layer.reverse], chosen, again)


def flatten(
    net: Stack,
    batch: int,
    dtype: np.dtype[Any],
    state: Sequence[LayerState],
    name: str = "state",
    count: int | None = None,
) -> NDArray[Any]:
    """Checks a state and copies it into a flat array.

    count: the length of an additional first axis that all arrays have, and the flat array then.
    Raises ShapeError, DTypeError or ArgumentError naming the layer and the array.
    """
    if not isinstance(state, Sequence) or not all(isinstance(s, LayerState) for s in state):
        raise DTypeError(
            f"{name} must be a tuple with one gradcore.LayerState per recurrent layer, as calls "
            f"return it; got {type(state).__name__}."
        )
    shapes = state_shapes(net)
    if len(state) != len(shapes):
        windows = f", then one per Conv1d, {len(net.windows)}" if net.windows else ""
        raise ShapeError(
            f"{name} must have one LayerState per recurrent layer, {len(net.recurrent)} of them"
            f"{windows}; got {len(state)}."
        )
    size = state_size(net, batch)
    flat = np.empty(size if count is None else (count, size), dtype)
    for index, (shape, source, target) in enumerate(
        zip(shapes, state, unflatten(net, batch, flat), strict=True)
    ):
        _copy_layer(f"{name}[{index}]", shape, source, target)
    return flat


def _copy_layer(where: str, shape: StateShape, source: LayerState, target: LayerState) -> None:
    _copy(f"{where}.h", source.h, target.h)
    kind = shape.kind
    if (source.c is None) != (target.c is None):
        need = "must be None" if target.c is None else "must be an array (B, H)"
        raise ArgumentError(f"{where}.c {need} for this {kind} layer.")
    if (source.skip is None) != (target.skip is None):
        need = "must be None" if target.skip is None else f"must be an array ({shape.lag}, B, H)"
        raise ArgumentError(f"{where}.skip {need} for this {kind} layer.")
    if (source.further is None) != (target.further is None):
        count = shape.extra - 1
        need = "must be None" if target.further is None else f"must be an array ({count}, B, H)"
        raise ArgumentError(f"{where}.further {need} for this {kind} layer.")
    if (source.reverse is None) != (target.reverse is None):
        need = "must be None" if target.reverse is None else "must be a gradcore.LayerState"
        raise ArgumentError(f"{where}.reverse {need} for this {kind} layer.")
    if source.reverse is not None and target.reverse is not None:
        _copy_layer(f"{where}.reverse", shape, source.reverse, target.reverse)
    if source.c is not None and target.c is not None:
        _copy(f"{where}.c", source.c, target.c)
    if source.further is not None and target.further is not None:
        _copy(f"{where}.further", source.further, target.further)
    if source.skip is not None and target.skip is not None:
        _copy(f"{where}.skip", source.skip, target.skip)
        if not np.array_equal(source.skip[..., -1, :, :], source.h, equal_nan=True):
            raise ArgumentError(
                f"{where}.skip[-1] and {where}.h must be equal: both are the last row. "
                "Change both when editing a state."
            )


def _copy(name: str, source: object, target: NDArray[Any]) -> None:
    if not isinstance(source, np.ndarray):
        raise DTypeError(f"{name} must be a NumPy array; got {type(source).__name__}.")
    if source.shape != target.shape:
        raise ShapeError(f"{name} must have shape {target.shape}; got {source.shape}.")
    if source.dtype != target.dtype:
        raise DTypeError(
            f"{name} must have dtype {target.dtype}, that of the parameters; got {source.dtype}."
        )
    np.copyto(target, source)
