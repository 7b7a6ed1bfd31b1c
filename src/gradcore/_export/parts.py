"""What all exports share: which layers can be expressed, gates in another order, writing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.output import write_text
from .._net.layers import Recurrent
from .._net.stack import Params, Stack
from .._net.structure import dense_weight_hh
from .._net.validate import model
from ..errors import ArgumentError, NonFiniteError

__all__ = ["bias", "checked", "refuse_options", "refuse_residuals", "regated", "write_json"]

Float32 = NDArray[np.float32]


def checked(net: Stack, params: Params) -> dict[str, Float32]:
    """The parameters as float32, with dense recurrent weights.

    Raises NonFiniteError if one is not finite, also as float32.
    """
    model(net, params)
    found = {}
    for name, array in params.items():
        with np.errstate(over="ignore"):
            found[name] = array.astype(np.float32)
        if not np.isfinite(found[name]).all():
            raise NonFiniteError(f"{name} must be finite in float32 to be exported.")
    for layer, name in zip(net.recurrent, net.recurrent_names, strict=True):
        for end in layer.directions:
            own = f"{name.partition('.')[0]}.weight_hh{end}"
            # Other programs have dense recurrent weights only.
            found[own] = dense_weight_hh(layer, found.get(own)).astype(np.float32)
    return found


def refuse_options(place: int, layer: Recurrent, target: str, residual: bool = False) -> None:
    """Raises ArgumentError for options that change what a layer computes when it is used.

    residual: whether the target can add the input to the output.
    """
    name = f"layer {place} ({type(layer).__name__})"
    wrong = {
        "a skip connection through time": layer.skip is not None,
        "zoneout": max(layer.zoneout, layer.core_zoneout_cell) > 0,
        "residual=True": layer.residual and not residual,
        f"initial_state={layer.initial_state!r}": layer.initial_state != "zeros",
    }
    for what, there in wrong.items():
        if there:
            raise ArgumentError(f"{name} has {what}, which {target} cannot express.")


def refuse_residuals(net: Stack, target: str) -> None:
    """Raises ArgumentError if there is a Residual, for targets that run one layer after another."""
    for begin, end in net.residuals:
        raise ArgumentError(
            f"layers {begin} to {end - 1} are in a Residual, which {target} cannot express."
        )


def regated(array: Float32, layer: Recurrent, order: Sequence[str]) -> Float32:
    """Rows of a weight or bias with the gates in another order."""
    return np.concatenate([array[layer.cell.rows(gate, layer.hidden_size)] for gate in order])


def bias(params: dict[str, Float32], place: int, layer: Recurrent, name: str) -> Float32:
    """A bias of a recurrent layer, zeros if it has none."""
    rows = len(layer.cell.gates) * layer.hidden_size
    return params.get(f"{place}.{name}", np.zeros(rows, np.float32))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON; numbers have the digits that make the same float32 again.

    Raises ArgumentError if the file cannot be written.
    """
    text = json.dumps(content, allow_nan=False)
    try:
        write_text(path, text)
    except OSError as error:
        raise ArgumentError(f"cannot write {path}: {error.strerror or error}.") from error
