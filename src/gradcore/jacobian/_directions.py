"""Checks of directions: arrays and states with a leading axis K."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._net import validate
from .._net.stack import Grads, Params, Stack
from .._net.state import LayerState, flatten
from ..errors import ArgumentError, DTypeError, ShapeError

Array = NDArray[Any]


def parameter_directions(name: str, value: object, params: Params) -> Array:
    """Checks an array (K, n_parameters), or makes it from a sequence of K Params or Grads."""
    if isinstance(value, (Params, Grads)):
        raise ShapeError(
            f"{name} must hold K directions; got a single {type(value).__name__}. Pass [{name}] "
            "for one direction."
        )
    if isinstance(value, (list, tuple)):
        return _stacked(name, value, params)
    array = validate.as_array(name, value)
    size = params.flat.size
    if array.ndim != 2 or array.shape[1] != size or not len(array):
        hint = f" Add the axis with {name}[None]." if array.shape == (size,) else ""
        raise ShapeError(
            f"{name} must have shape (K, {size}): K directions with one value per parameter; got "
            f"{array.shape}.{hint}"
        )
    return _of_dtype(name, array, params.dtype)


def input_directions(
    name: str, value: object, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Array:
    """Checks an array (K, *shape), where shape is that of x, of outputs or of static."""
    array = validate.as_array(name, value)
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape or not len(array):
        hint = f" Add the axis with {name}[None]." if array.shape == shape else ""
        raise ShapeError(
            f"{name} must have shape (K, {', '.join(map(str, shape))}), where the axis of the K "
            f"directions comes first; got {array.shape}.{hint}"
        )
    return _of_dtype(name, array, dtype)


def state_directions(
    name: str, net: Stack, batch: int, dtype: np.dtype[Any], state: Sequence[LayerState]
) -> Array:
    """Flat states (K, ...) from a state whose arrays have a leading axis K."""
    if not isinstance(state, Sequence) or not all(isinstance(s, LayerState) for s in state):
        raise DTypeError(
            f"{name} must be a tuple with one gradcore.LayerState per recurrent layer, whose "
            f"arrays have a leading axis K; got {type(state).__name__}."
        )
    counts = {array.shape[0] if array.ndim else 0 for layer in state for array in _arrays(layer)}
    if len(counts) != 1 or 0 in counts:
        raise ShapeError(
            f"all arrays of {name} must have the same leading axis of K >= 1 directions; got "
            f"{sorted(counts)}."
        )
    (count,) = counts
    return flatten(net, batch, dtype, state, name, count)


def count_of(**directions: Array | None) -> int:
    """The number K of directions, which must be the same in all arrays that are not None.

    Raises ArgumentError if all are None, ShapeError if the numbers differ.
    """
    counts = {name: len(array) for name, array in directions.items() if array is not None}
    if not counts:
        raise ArgumentError(f"at least one of {', '.join(directions)} must be given.")
    if len(set(counts.values())) > 1:
        got = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ShapeError(f"all directions must have the same leading axis K; {got}.")
    return next(iter(counts.values()))


def _stacked(name: str, values: Sequence[object], params: Params) -> Array:
    if not values:
        raise ShapeError(f"{name} must have at least one direction; got an empty sequence.")
    rows = []
    for k, item in enumerate(values):
        if not isinstance(item, (Params, Grads)):
            raise DTypeError(
                f"{name}[{k}] must be gradcore.Params or gradcore.Grads; got "
                f"{type(item).__name__}. Pass arrays as one array (K, n_parameters)."
            )
        if item.net != params.net:
            raise ShapeError(
                f"{name}[{k}] must belong to the net of params; it is of {item.net!r}."
            )
        row = _of_dtype(f"{name}[{k}]", item.flat, params.dtype)
        if isinstance(item, Grads) and item.exponent:
            row = np.ldexp(row, item.exponent)
            if not np.isfinite(row).all():
                raise ArgumentError(
                    f"{name}[{k}] times 2**{item.exponent} is beyond the range of {params.dtype}. "
                    "A direction may have any length, so scale it: pass Grads with exponent 0."
                )
        rows.append(row)
    return np.stack(rows)


def _of_dtype(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    if array.dtype != dtype:
        raise DTypeError(
            f"{name} must have dtype {dtype}, that of the parameters; got {array.dtype}. "
            f"Convert it with .astype({str(dtype)!r})."
        )
    return array


def _arrays(layer: LayerState) -> list[Array]:
    found = []
    for part in fields(layer):
        value = getattr(layer, part.name)
        if isinstance(value, LayerState):
            found += _arrays(value)
        elif isinstance(value, np.ndarray):
            found.append(value)
        elif value is not None:
            raise DTypeError(f"a state's {part.name} must be a NumPy array; got {value!r}.")
    return found
