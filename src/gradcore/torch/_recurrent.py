"""A recurrent layer for PyTorch with any cell of gradcore, also one that its user has written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .._net import io, layers
from .._net.layers import Skip
from .._net.stack import Stack
from .._net.table import short
from ..errors import ArgumentError, DTypeError
from ._layer import Layer

__all__ = ["Recurrent"]


class Recurrent(Layer):
    """A recurrent layer with any cell, with the constructor and parameter names of torch.nn's.

    cell: a layer class of gradcore, such as one that gradcore.cell has made or gradcore.LSTM, with
    input_size and hidden_size as in torch.nn; or one layer of such a class with its options,
    Recurrent(MinimalGated(3, 16, speed=0.5), num_layers=2), which then has sizes, bias,
    bidirectional and skip. The other arguments are torch.nn's, skip and memory those of Layer, and
    further keywords are options of the cell: zoneout, residual, initial_state="learned", numbers of
    its own.

    Parameters are weight_ih_l0, weight_hh_l0, bias_ih_l0 and bias_hh_l0, with a block of H rows for
    each gate of the cell in its order, and what else its layer has, under names with the same
    ending. A cell with several states takes and returns them as a tuple, h first, as torch.nn.LSTM
    does. Initial values are those of Stack.init with recurrent="uniform" and no forget_bias, which
    are torch.nn's, from a seed of PyTorch's generator.
    Raises DTypeError if cell is no layer, ArgumentError for initial_state="static", which needs
    inputs that torch.nn's layers do not have, and for sizes given twice.
    """

    # torch.nn checks the arguments as for an RNN; its parameters are replaced.
    _mode = "RNN_TANH"

    def __init__(
        self,
        cell: type[layers.Recurrent] | layers.Recurrent,
        input_size: int | None = None,
        hidden_size: int | None = None,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        skip: Skip | None = None,
        memory: int | str | None = None,
        **options: Any,
    ) -> None:
        options |= {"bias": bias, "bidirectional": bidirectional, "skip": skip}
        layer = _first(cell, input_size, hidden_size, options)
        super().__init__(
            layer.input_size,
            layer.hidden_size,
            num_layers,
            layer.bias,
            batch_first,
            dropout,
            layer.bidirectional,
            proj_size,
            "meta",
            dtype,
            memory=memory,
        )
        self.mode = type(layer).__name__
        self.layer: layers.Recurrent = layer
        self.skip = layer.skip
        self._own = json.dumps(io.describe(Stack(layer)))
        self._own_parameters(device, dtype)
        self.reset_parameters()

    def _own_parameters(self, device: Any, dtype: Any) -> None:
        """Replaces the parameters of torch.nn.RNN by those of the layers of stack()."""
        for name in list(self._parameters):
            del self._parameters[name]
        self._flat_weights_names, self._all_weights = [], []
        for place, layer in enumerate(self.stack().recurrent):
            for direction in layer.directions:
                names = []
                for name, (shape, _) in layer.parameter_shapes.items():
                    own, reverse, _ = name.partition("_reverse")
                    if reverse == direction:
                        names.append(f"{own}_l{place}{reverse}")
                        made = torch.empty(shape, device=device, dtype=dtype)
                        self.register_parameter(names[-1], nn.Parameter(made))
                self._flat_weights_names += names
                self._all_weights.append(names)
        self._init_flat_weights()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the initial values, see the class."""
        if not self._own:
            return  # the constructor of torch.nn, whose parameters are replaced
        seed = int(torch.randint(2**62, ()))
        start = self.stack().init(seed, "float64", recurrent="uniform", forget_bias=None)
        for name, value in zip(self.parameter_names(), start.values(), strict=True):
            getattr(self, name).copy_(torch.from_numpy(value))

    def flatten_parameters(self) -> None:
        """Does nothing, because cuDNN, whose layout this is, has no such cells."""

    @property
    def _cell_states(self) -> tuple[str, ...]:
        return self.layer.cell.states

    @property
    def _has_masks(self) -> bool:
        return self.layer.is_random or super()._has_masks

    def extra_repr(self) -> str:
        text = f"{short(self.layer)}, num_layers={self.num_layers}"
        text += ", batch_first=True" if self.batch_first else ""
        text += f", dropout={self.dropout}" if self.dropout else ""
        return text if self.memory is None else f"{text}, memory={self.memory!r}"


def _first(
    cell: Any, input_size: Any, hidden_size: Any, options: Mapping[str, Any]
) -> layers.Recurrent:
    """The layer that reads the inputs."""
    if isinstance(cell, type) and issubclass(cell, layers.Recurrent):
        if input_size is None or hidden_size is None:
            raise ArgumentError(
                f"Recurrent needs input_size and hidden_size beside a class: "
                f"Recurrent({cell.__name__}, 3, 16); got {input_size} and {hidden_size}."
            )
        layer: layers.Recurrent = cell(input_size, hidden_size, **options)
    elif isinstance(cell, layers.Recurrent):
        usual = {"bias": True, "bidirectional": False, "skip": None}
        given = {"input_size": input_size, "hidden_size": hidden_size} | {
            name: value for name, value in options.items() if value != usual.get(name)
        }
        twice = [name for name, value in given.items() if value is not None]
        if twice:
            raise ArgumentError(
                f"Recurrent takes {', '.join(twice)} from the layer that it is given, "
                f"{short(cell)}. Set it there, or pass the class of the layer."
            )
        layer = cell
    else:
        raise DTypeError(
            "cell must be a recurrent layer of gradcore or a class of such layers, like those that "
            f"gradcore.cell makes; got {cell!r}."
        )
    if layer.initial_state == "static":
        raise ArgumentError(
            'Recurrent cannot have initial_state="static", because layers of torch.nn have no '
            "static inputs. Compute the state with a torch.nn.Linear, and pass it as hx."
        )
    return layer
