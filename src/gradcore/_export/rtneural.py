"""Export to RTNeural's JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .._net import cells
from .._net.layers import Dense, Dropout, Linear
from .._net.stack import Params, Stack
from ..errors import ArgumentError
from .parts import Float32, bias, checked, refuse_options, refuse_residuals, regated, write_json

__all__ = ["rtneural"]

# Activations of a dense layer by our names; the loader of RTNeural reads them behind the layer.
_ACTIVATIONS = {"identity": "", "tanh": "tanh", "relu": "relu", "sigmoid": "sigmoid"}


def rtneural(path: Path, net: Stack, params: Params) -> None:
    """Writes JSON for RTNeural; see export.

    The layout is that of Keras: matrices (in, gates*out), LSTM gates i, f, g, o with one bias, GRU
    gates z, r, n with two.
    """
    arrays = checked(net, params)
    refuse_residuals(net, "RTNeural")
    layers = [
        _layer(place, layer, arrays)
        for place, layer in enumerate(net.layers)
        if not isinstance(layer, Dropout)
    ]
    write_json(path, {"in_shape": [None, None, net.input_size], "layers": layers})


def _layer(place: int, layer: Any, arrays: dict[str, Float32]) -> dict[str, Any]:
    if isinstance(layer, (Linear, Dense)):
        function = layer.activation if isinstance(layer, Dense) else "identity"
        if function not in _ACTIVATIONS:
            raise ArgumentError(
                f"layer {place} (Dense) has activation {function!r}; RTNeural has "
                f"{', '.join(_ACTIVATIONS)}."
            )
        weight = arrays[f"{place}.weight"].T
        added = arrays[f"{place}.bias"].tolist() if layer.bias else [0.0] * layer.out_features
        both = [weight.tolist(), added]
        return _described("dense", layer.out_features, both, _ACTIVATIONS[function])
    if not isinstance(layer, (cells.LSTM, cells.GRU)):
        raise ArgumentError(
            f"layer {place} ({type(layer).__name__}) cannot be exported: RTNeural has LSTM, GRU "
            "and Dense."
        )
    if layer.bidirectional:
        raise ArgumentError(f"layer {place} is bidirectional, which RTNeural cannot express.")
    refuse_options(place, layer, "RTNeural")
    order = "ifgo" if isinstance(layer, cells.LSTM) else "zrn"
    kernel, recurrent = (
        regated(arrays[f"{place}.{name}"], layer, order).T.tolist()
        for name in ("weight_ih", "weight_hh")
    )
    own, other = (
        regated(bias(arrays, place, layer, name), layer, order) for name in ("bias_ih", "bias_hh")
    )
    if isinstance(layer, cells.LSTM):
        return _described("lstm", layer.hidden_size, [kernel, recurrent, (own + other).tolist()])
    both = [own.tolist(), other.tolist()]
    return _described("gru", layer.hidden_size, [kernel, recurrent, both])


def _described(kind: str, size: int, weights: list[Any], activation: str = "") -> dict[str, Any]:
    shape = [None, None, size]
    return {"type": kind, "activation": activation, "shape": shape, "weights": weights}
