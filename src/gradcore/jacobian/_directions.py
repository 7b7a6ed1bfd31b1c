"""Directions as the core takes them: flat arrays whose first axis counts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _validate
from ..errors import ArgumentError, DTypeError, ShapeError
from ..layers import Stack
from ..params import Grads, Params
from ..state import LayerState, flatten, state_size, unflatten

__all__ = ["arrays_of", "common_count", "flat_states", "states_of", "values_of"]


def arrays_of(
    name: str, value: object, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Directions (K, *shape) of an array, checked."""
    array = _validate.as_array(name, value)
    if array.dtype != dtype:
        raise DTypeError(
            f"{name} must have dtype {dtype}, that of the parameters; got {array.dtype}. "
            f"Convert it with .astype({str(dtype)!r})."
        )
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape or not len(array):
        expected = ", ".join(["K", *map(str, shape)])
        hint = f" For one direction pass {name}[None]." if array.shape == shape else ""
        raise ShapeError(
            f"{name} must have shape ({expected}), directions first; got {array.shape}.{hint}"
        )
    return array


def values_of(name: str, value: object, params: Params) -> NDArray[Any]:
    """Directions (K, n) of the parameters, from an array or a sequence of Params or Grads."""
    if isinstance(value, (Params, Grads)):
        value = [value]
    if not isinstance(value, (list, tuple)):
        return arrays_of(name, value, (params.net.n_parameters,), params.dtype)
    rows = np.empty((len(value), params.net.n_parameters), params.dtype)
    if not len(value):
        raise ShapeError(f"{name} must have at least one direction.")
    for k, item in enumerate(value):
        if not isinstance(item, (Params, Grads)) or item.net != params.net:
            raise DTypeError(
                f"{name}[{k}] must be gradcore.Params or Grads of the net; got "
                f"{type(item).__name__}."
            )
        if item.dtype != params.dtype:
            raise DTypeError(f"{name}[{k}] must have dtype {params.dtype}; got {item.dtype}.")
        if isinstance(item, Grads) and item.exponent:
            raise ArgumentError(
                f"{name}[{k}] is to be multiplied by 2**{item.exponent}; a direction must have "
                "exponent 0. Scale it, and the product, yourself: products are linear."
            )
        rows[k] = item.flat
    return rows


def flat_states(
    name: str, net: Stack, batch: int, dtype: np.dtype[Any], states: Sequence[LayerState]
) -> NDArray[Any]:
    """Directions of a state, LayerState arrays with a leading K, as (K, size)."""
    if not isinstance(states, Sequence) or not all(isinstance(s, LayerState) for s in states):
        raise DTypeError(
            f"{name} must be a tuple with one gradcore.LayerState per recurrent layer, whose "
            f"arrays have a leading axis of directions; got {type(states).__name__}."
        )
    if not states or not isinstance(states[0].h, np.ndarray) or states[0].h.ndim != 3:
        raise ShapeError(f"{name}[0].h must have shape (K, B, H), directions first.")
    count = len(states[0].h)
    try:
        rows = [
            flatten(net, batch, dtype, [_picked(state, k) for state in states])
            for k in range(count)
        ]
    except IndexError:
        raise ShapeError(
            f"{name}: all arrays must have as many directions as {name}[0].h, {count}."
        ) from None
    return np.stack(rows) if rows else np.empty((0, state_size(net, batch)), dtype)


def _picked(state: LayerState, k: int) -> LayerState:
    return LayerState(
        h=state.h[k],
        c=None if state.c is None else state.c[k],
        skip=None if state.skip is None else state.skip[k],
        reverse=None if state.reverse is None else _picked(state.reverse, k),
    )


def states_of(net: Stack, batch: int, flat: NDArray[Any]) -> tuple[LayerState, ...]:
    """The states of flat (K, size), stacked: their arrays have a leading K."""
    singles = [unflatten(net, batch, row) for row in flat]
    return tuple(_stacked(list(layer)) for layer in zip(*singles, strict=True))


def _stacked(states: list[LayerState]) -> LayerState:
    def stack(name: str) -> Any:
        first = getattr(states[0], name)
        return None if first is None else np.stack([getattr(state, name) for state in states])

    reverse = [state.reverse for state in states if state.reverse is not None]
    made = LayerState(stack("h"), stack("c"), stack("skip"))
    return replace(made, reverse=_stacked(reverse)) if reverse else made


def common_count(**directions: NDArray[Any] | None) -> int:
    """K, which all that are given must share."""
    counts = {name: len(array) for name, array in directions.items() if array is not None}
    if not counts:
        raise ArgumentError(f"give at least one of {', '.join(directions)}.")
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ShapeError(f"all must have the same number of directions; {found}.")
    return next(iter(counts.values()))
