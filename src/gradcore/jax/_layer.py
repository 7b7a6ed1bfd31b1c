"""The net that a call of rnn runs, from the cell and the names and shapes of its parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jax import numpy as jnp

from .._net.cells import CELLS
from .._net.layers import Recurrent
from .._net.stack import Stack
from ..errors import ArgumentError, DTypeError, ShapeError

__all__ = ["Weights", "weights"]

_PLACE = re.compile(r"weight_hh_l(\d+)")
_NAMED = {kind.cell.name: kind for kind in CELLS}


class Weights:
    """The net of a cell and its parameters, in the order of the core.

    layer: the first of its layers, which differ only in their input size. flat [P]: all parameters.
    """

    def __init__(self, net: Stack, params: Mapping[str, Any]) -> None:
        self.net = net
        self.layer = net.recurrent[0]
        arrays = [params[name] for name in _names(net)]
        _check(net, arrays)
        self.flat = jnp.concatenate([jnp.reshape(array, -1) for array in arrays])

    @property
    def rows(self) -> int:
        """The number of layers times directions."""
        return len(self.net.layers) * len(self.layer.directions)


def weights(cell: str | Recurrent, params: Mapping[str, Any]) -> Weights:
    """Checks the parameters of a cell.

    Raises DTypeError, ShapeError or ArgumentError naming the parameter that is wrong.
    """
    if not isinstance(params, Mapping):
        raise DTypeError(
            "params must be a dict with PyTorch's names, weight_ih_l0, weight_hh_l0, bias_ih_l0, "
            f"bias_hh_l0 and so on; got {type(params).__name__}."
        )
    places = sorted(int(match[1]) for match in map(_PLACE.fullmatch, params) if match)
    if not places or places != list(range(len(places))):
        raise ArgumentError(
            "params must have weight_hh_l0, and weight_hh_l1 and so on for further layers; it has "
            f"{', '.join(map(str, params)) or 'nothing'}."
        )
    layer = _first(cell, params)
    if layer.initial_state == "static":
        raise ArgumentError(
            'initial_state="static" is not possible in gradcore.jax. Compute the initial state '
            "from what does not change, and pass it as initial_state."
        )
    layers = [layer]
    for _ in places[1:]:
        layers.append(replace(layer, input_size=layer.output_size))
    net = Stack(*layers)
    names = _names(net)
    missing, unknown = set(names) - set(params), set(params) - set(names)
    if missing or unknown:
        raise ArgumentError(
            f"params must have exactly {', '.join(names)}. "
            + (f"Missing: {', '.join(sorted(missing))}. " if missing else "")
            + (f"Unknown: {', '.join(sorted(map(str, unknown)))}." if unknown else "")
        )
    return Weights(net, params)


def _first(cell: str | Recurrent, params: Mapping[str, Any]) -> Recurrent:
    if isinstance(cell, Recurrent):
        return cell
    if not isinstance(cell, str) or cell not in _NAMED:
        raise ArgumentError(
            f"cell must be a recurrent layer of gradcore or one of {', '.join(_NAMED)}; got "
            f"{cell!r}."
        )
    if "weight_ih_l0" not in params:
        raise ArgumentError(f"params must have weight_ih_l0; it has {', '.join(map(str, params))}.")
    inputs, hidden = np.shape(params["weight_ih_l0"]), np.shape(params["weight_hh_l0"])
    if len(inputs) != 2 or len(hidden) != 2:
        raise ShapeError(
            f"weight_ih_l0 and weight_hh_l0 must be matrices; got shapes {inputs} and {hidden}."
        )
    return _NAMED[cell](
        inputs[1],
        hidden[1],
        bias="bias_ih_l0" in params,
        bidirectional="weight_ih_l0_reverse" in params,
    )


def _names(net: Stack) -> list[str]:
    """PyTorch's names of the parameters, in the order of the core."""
    found = []
    for place, layer in enumerate(net.recurrent):
        for name in layer.parameter_shapes:
            own, reverse, _ = name.partition("_reverse")
            found.append(f"{own}_l{place}{reverse}")
    return found


def _check(net: Stack, arrays: list[Any]) -> None:
    for name, spec, array in zip(_names(net), net.parameter_specs, arrays, strict=True):
        if np.shape(array) != spec.shape:
            raise ShapeError(
                f"{name} must have shape {spec.meaning} = {spec.shape}; got {np.shape(array)}."
            )
        first = jnp.result_type(arrays[0])
        if jnp.result_type(array) not in (np.float32, np.float64):
            raise DTypeError(
                f"{name} must be float32 or float64; got {jnp.result_type(array)}. Convert it with "
                ".astype(jnp.float32)."
            )
        if jnp.result_type(array) != first:
            raise DTypeError(
                f"all parameters must have one dtype; {name} is {jnp.result_type(array)} and "
                f"{_names(net)[0]} is {first}."
            )
