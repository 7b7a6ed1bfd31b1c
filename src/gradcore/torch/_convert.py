"""Layers of torch.nn inside a model become gradcore's, weights and all else kept."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from ..errors import ArgumentError, DTypeError
from ._modules import GRU, LSTM, RNN, Layer

__all__ = ["convert", "layers_of"]

Model = TypeVar("Model", bound=nn.Module)
KINDS: dict[type[nn.RNNBase], type[Layer]] = {nn.RNN: RNN, nn.LSTM: LSTM, nn.GRU: GRU}


def convert(model: Model, *, memory: int | str | None = None) -> Model:
    """The same model, in which every torch.nn.RNN, LSTM and GRU runs on gradcore's engine.

    In place: modules and parameters stay the objects that they are, so that optimizers, hooks and
    references go on; state dicts are the same. memory: the budget of each layer. Subclasses of
    torch.nn's layers are left alone. A model that is itself such a layer is converted too.
    Raises ArgumentError naming a layer that cannot be (proj_size, dropout=1), before any is.
    """
    if not isinstance(model, nn.Module):
        raise DTypeError(f"model must be a torch.nn.Module; got {type(model).__name__}.")
    found = [(name, module) for name, module in model.named_modules() if type(module) in KINDS]
    for name, module in found:
        where = f"the layer {name!r}" if name else "the model"
        if getattr(module, "proj_size", 0) or getattr(module, "dropout", 0) == 1:
            raise ArgumentError(
                f"{where} has proj_size={module.proj_size} and dropout={module.dropout}; gradcore "
                "has no output projection, and drops out less than all."
            )
    for _, module in found:
        _become(module, KINDS[type(module)], memory)
    return model


def _become(module: Any, kind: type[Layer], memory: int | str | None) -> None:
    module.__class__ = kind
    module._become(None, memory)


def layers_of(model: nn.Module) -> dict[str, Layer]:
    """The layers of gradcore.torch in a model, by name.

    Raises ArgumentError if there is none.
    """
    if not isinstance(model, nn.Module):
        raise DTypeError(f"model must be a torch.nn.Module; got {type(model).__name__}.")
    found = {name: module for name, module in model.named_modules() if isinstance(module, Layer)}
    if not found:
        raise ArgumentError(
            "the model must have a layer of gradcore.torch; it has none. gradcore.torch.convert "
            "makes those of torch.nn such layers."
        )
    return found
