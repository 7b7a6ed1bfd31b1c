"""Exchange with PyTorch, which is imported when one of the functions is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .._net.stack import Params, Stack

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..torch._exchange import StackModule

__all__ = ["from_torch", "to_torch"]


def from_torch(source: nn.Module | Mapping[str, Tensor]) -> tuple[Stack, Params]:
    """The net of a PyTorch model and a copy of its parameters: net, params = gd.from_torch(model).

    source: a module made of Embedding, RNN, LSTM and GRU (of torch.nn or gradcore.torch), Linear,
    LayerNorm, Dropout, Conv1d, MaxPool1d and AvgPool1d, in Sequential or as attributes; a
    ModuleDict of Linear that ends the net becomes Heads. They are taken in the order in which they
    were registered, which must be that in which forward uses them, each once; what else forward
    does cannot be seen, such as zeros that it puts in front of the steps of a Conv1d without
    padding, which is taken for one with padding="valid". A Linear that does not end the net, or
    behind which a ReLU, Tanh, Sigmoid, GELU, SiLU or Softplus is registered, becomes a Dense; such
    a function behind a Conv1d becomes its activation. Or a state dict with names of such modules
    other than convolutions and pools: then activation functions and Dropout are not known; a Linear
    can only be the last, and an RNN is taken for one with tanh. Time is the first axis of
    gradcore's x, also if the model has batch_first or channels first. Raises ArgumentError naming
    the module or tensor that has no counterpart, DTypeError if the tensors are not all float32 or
    all float64, and ShapeError if the sizes of neighbours do not fit.
    """
    from ..torch import _exchange

    return _exchange.from_torch(source)


def to_torch(net: Stack, params: Params) -> StackModule:
    """A PyTorch module that computes the net, with a copy of its parameters; see StackModule.

    Raises ArgumentError for what PyTorch's layers cannot do: zoneout, recurrent_dropout, an RNN
    with nonlinearity="identity", StaticInput, and initial_state other than "zeros".
    """
    from ..torch import _exchange

    return _exchange.to_torch(net, params)
