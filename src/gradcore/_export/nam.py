"""Export to the format of Neural Amp Modeler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._base.checks import float_in
from .._net import cells, io
from .._net.layers import Dropout, Linear
from .._net.stack import Params, Stack
from .._net.state import LayerState, flatten, unflatten, zero_state
from ..errors import ArgumentError, DTypeError
from .parts import Float32, bias, checked, refuse_options, refuse_residuals, write_json

__all__ = ["nam"]

# The version of the format that the plug-in has read since 2023.
VERSION = "0.5.4"


def nam(
    path: Path,
    net: Stack,
    params: Params,
    *,
    sample_rate: float = 48_000.0,
    metadata: dict[str, Any] | None = None,
    state: Sequence[LayerState] | None = None,
) -> None:
    """Writes a .nam file; see export.

    The weights are one list: of each layer [weight_ih, weight_hh] by rows, the bias, h and c at the
    start; then those of the head.
    """
    arrays = checked(net, params)
    rate = float_in("sample_rate", sample_rate, 0.0, open_low=True)
    if metadata is not None and not isinstance(metadata, dict):
        raise DTypeError(f"metadata must be a dict of JSON values; got {metadata!r}.")
    io.as_json("metadata", metadata)
    recurrent, head = _parts(net)
    given = zero_state(net, 1, params.dtype) if state is None else state
    start = unflatten(net, 1, flatten(net, 1, params.dtype, given))
    pieces: list[Float32] = []
    for (place, layer), before in zip(recurrent, start, strict=True):
        weights = [arrays[f"{place}.{name}"] for name in ("weight_ih", "weight_hh")]
        both = bias(arrays, place, layer, "bias_ih") + bias(arrays, place, layer, "bias_hh")
        assert before.c is not None
        pieces += [np.hstack(weights), both, before.h, before.c]
    pieces.append(arrays[f"{head}.weight"])
    pieces.append(arrays.get(f"{head}.bias", np.zeros(1, np.float32)))
    flat = np.concatenate([np.asarray(piece, np.float32).ravel() for piece in pieces])
    write_json(
        path,
        {
            "version": VERSION,
            "metadata": metadata or {},
            "architecture": "LSTM",
            "config": {
                "input_size": 1,
                "hidden_size": recurrent[0][1].hidden_size,
                "num_layers": len(recurrent),
            },
            "weights": flat.tolist(),
            "sample_rate": int(rate) if rate == int(rate) else rate,
        },
    )


def _parts(net: Stack) -> tuple[list[tuple[int, cells.LSTM]], int]:
    """The LSTMs by place, and the place of the head; raises ArgumentError for other nets."""
    wanted = "a net of LSTMs of equal width and a Linear with one output, as .nam files hold"
    refuse_residuals(net, "the .nam format")
    recurrent: list[tuple[int, cells.LSTM]] = []
    head = -1
    for place, layer in enumerate(net.layers):
        if isinstance(layer, cells.LSTM):
            refuse_options(place, layer, "the .nam format")
            if layer.bidirectional:
                raise ArgumentError(f"layer {place} is bidirectional; an amp is {wanted}.")
            recurrent.append((place, layer))
        elif isinstance(layer, Linear):
            head = place
        elif not isinstance(layer, Dropout):
            raise ArgumentError(f"net must be {wanted}; layer {place} is {layer!r}.")
    widths = {layer.hidden_size for _, layer in recurrent}
    if head < 0 or net.output_size != 1 or net.input_size != 1 or len(widths) != 1:
        raise ArgumentError(f"net must be {wanted}, with one input; got {net!r}.")
    return recurrent, head
