"""The description of a layer in plain values, which is what a PyTorch operator can take."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from .._net import cells, io
from .._net.layers import Dropout, Recurrent, Skip
from .._net.stack import Stack

__all__ = ["Description"]

CELLS: dict[str, type[Recurrent]] = {
    "LSTM": cells.LSTM,
    "GRU": cells.GRU,
    "RNN_TANH": cells.RNN,
    "RNN_RELU": cells.RNN,
    "ANTISYMMETRIC": cells.AntisymmetricRNN,
}


class Description(NamedTuple):
    """A layer in plain values.

    mode: torch.nn's name of the cell, "LSTM", "GRU", "RNN_TANH" or "RNN_RELU", or "ANTISYMMETRIC",
    the only one with step and diffusion. skip_kind: "" if there is no skip connection. own: the
    first layer as JSON, as in files, if it has a cell of another kind; mode is then its name.
    """

    mode: str
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    bidirectional: bool
    dropout: float
    skip_kind: str
    skip_lag: int
    skip_value: float
    skip_learned: bool
    step: float
    diffusion: float
    own: str

    def stack(self) -> Stack:
        """The net that computes the layer; made once per description and then cached."""
        return _stack(self)

    @property
    def width(self) -> int:
        """The number of outputs per step."""
        return self.hidden_size * (2 if self.bidirectional else 1)

    def state_size(self, batch: int) -> int:
        """The number of values in the flat state."""
        layer = self.stack().recurrent[0]
        planes = layer.lag + len(layer.cell.states) - 1
        return self.num_layers * planes * batch * self.width


@lru_cache(maxsize=64)
def _stack(description: Description) -> Stack:
    first = _first(description)
    layers: list[Any] = [first]
    for _ in range(1, description.num_layers):
        if description.dropout:
            layers.append(Dropout(description.dropout))
        layers.append(replace(first, input_size=description.width))
    return Stack(*layers)


def _first(description: Description) -> Recurrent:
    """The layer that reads the inputs; the others differ in their input_size only."""
    if description.own:
        # A cell with a source must be known in this process: nothing is compiled here.
        return io.build(json.loads(description.own)).recurrent[0]
    mode = description.mode
    options: dict[str, Any] = {
        "bias": description.bias,
        "bidirectional": description.bidirectional,
    }
    if description.skip_kind:
        options["skip"] = Skip(
            description.skip_lag,
            kind=description.skip_kind,  # type: ignore[arg-type]
            value=description.skip_value,
            learned=description.skip_learned,
        )
    if mode.startswith("RNN"):
        options["nonlinearity"] = mode[4:].lower()
    elif mode == "ANTISYMMETRIC":
        options |= {"step": description.step, "diffusion": description.diffusion}
    return CELLS[mode](description.input_size, description.hidden_size, **options)
