"""Turns recurrent layers of torch.nn inside a model into those of gradcore, keeping all else."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from ..errors import ArgumentError, DTypeError
from ._layer import Layer
from ._modules import GRU, LSTM, RNN

__all__ = ["convert", "layers_of"]

Model = TypeVar("Model", bound=nn.Module)
KINDS: dict[type[nn.RNNBase], type[Layer]] = {nn.RNN: RNN, nn.LSTM: LSTM, nn.GRU: GRU}


def convert(model: Model, *, memory: int | str | None = None) -> Model:
    """Makes every torch.nn.RNN, LSTM and GRU in a model run on gradcore's engine.

    It returns the model and works in place: modules and parameters stay the same objects, so that
    optimizers, hooks and references stay valid, and state dicts have the same keys and shapes.
    memory: the memory budget of each layer.

    Subclasses of torch.nn's layers are left alone, and so are layers that are gradcore's already.
    The model may itself be such a layer. Raises
    ArgumentError naming a layer that cannot be converted (proj_size, dropout=1); nothing has been
    converted then.
    """
    if not isinstance(model, nn.Module):
        raise DTypeError(f"model must be a torch.nn.Module; got {type(model).__name__}.")
    found = [(name, module) for name, module in model.named_modules() if type(module) in KINDS]
    for name, module in found:
        where = f"the layer {name!r}" if name else "the model"
        if getattr(module, "proj_size", 0) or getattr(module, "dropout", 0) == 1:
            raise ArgumentError(
                f"{where} has proj_size={module.proj_size} and dropout={module.dropout}; gradcore "
                "needs proj_size=0, because it has no output projection, and a dropout below 1. "
                "Use a Linear after the layer instead of proj_size."
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
            "the model must have a layer of gradcore.torch; it has none. Call "
            "gradcore.torch.convert(model), which turns layers of torch.nn into such layers."
        )
    return found
