"""Turns recurrent layers of torch.nn inside a model into those of gradcore, and back."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from ..errors import ArgumentError, DTypeError
from ._layer import Layer
from ._modules import GRU, LSTM, RNN

__all__ = ["convert", "layers_of", "revert"]

Model = TypeVar("Model", bound=nn.Module)
KINDS: dict[type[nn.RNNBase], type[Layer]] = {nn.RNN: RNN, nn.LSTM: LSTM, nn.GRU: GRU}


def convert(model: Model, *, memory: int | str | None = None) -> Model:
    """Makes every torch.nn.RNN, LSTM and GRU in a model run on gradcore's engine.

    It returns the model and works in place: modules and parameters stay the same objects, so that
    optimizers, hooks and references stay valid, and state dicts have the same keys and shapes.
    Layers with parametrizations (torch.nn.utils.parametrize) keep these.
    memory: the memory budget of each layer.

    The model may itself be such a layer. A warning names what it leaves alone: subclasses of
    torch.nn's layers, whose methods it does not know, layers with proj_size, RNNCell, LSTMCell and
    GRUCell; and it says if it finds nothing. Afterwards isinstance(layer, torch.nn.LSTM) is False,
    and isinstance(layer, torch.nn.RNNBase) True: code that initialises or freezes layers by their
    class passes over converted layers without a word, so let it run before. revert() undoes it.
    """
    model = _checked(model)
    names = {id(module): name for name, module in model.named_modules()}
    left, done = [], 0
    for module in list(model.modules()):
        kind = KINDS.get(_class_of(module))
        if kind is not None and not getattr(module, "proj_size", 0):
            _change_class(module, kind)
            module._become(None, memory)  # type: ignore[operator]
            done += 1
        elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)) and not isinstance(module, Layer):
            left.append(f"{names[id(module)] or 'the model'!r} ({_why_left(module)})")
    if left:
        warnings.warn(
            f"convert left alone: {', '.join(left)}. It turns torch.nn.RNN, LSTM and GRU "
            "themselves into layers of gradcore.torch.",
            stacklevel=2,
        )
    elif not done and not any(isinstance(module, Layer) for module in model.modules()):
        warnings.warn("convert found no torch.nn.RNN, LSTM or GRU in the model.", stacklevel=2)
    return model


def revert(model: Model) -> Model:
    """Puts torch.nn's layers back in place of those of gradcore.torch, with the same weights.

    It returns the model and works in place, as convert() does, and also takes models that were
    built with gradcore.torch. Use it for what needs torch.nn's own classes: torch.jit.script,
    quantization, other devices and dtypes, third derivatives. convert() turns them again.

    Raises ArgumentError naming a layer that torch.nn does not have (one with a skip connection, an
    AntisymmetricRNN, a subclass of gradcore's layers); nothing has been reverted then.
    """
    model = _checked(model)
    found = [(name, one) for name, one in model.named_modules() if isinstance(one, Layer)]
    for name, layer in found:
        origin = layer._origin
        if layer.skip is not None or origin is None or KINDS.get(origin) is not _class_of(layer):
            raise ArgumentError(
                f"revert needs layers that torch.nn has; {name or 'the model'!r} is {layer!r}, "
                "which is a subclass, an AntisymmetricRNN, or has a skip connection."
            )
    for _, layer in found:
        assert layer._origin is not None
        _change_class(layer, layer._origin)
        for own in ("skip", "memory", "_overflow", "_seen"):
            del layer.__dict__[own]
        layer._init_flat_weights()
    return model


def _checked(model: Model) -> Model:
    if not isinstance(model, nn.Module):
        raise DTypeError(f"model must be a torch.nn.Module; got {type(model).__name__}.")
    return model


def _class_of(module: nn.Module) -> Any:
    """The class of a module without that which parametrizations have derived from it."""
    kind = type(module)
    return kind.__bases__[0] if parametrize.is_parametrized(module) else kind


def _change_class(module: nn.Module, kind: type[nn.RNNBase]) -> None:
    if not parametrize.is_parametrized(module):
        module.__class__ = kind
        return
    # A module with parametrizations has a class of its own, which has a property for each tensor.
    apart = ("__dict__", "__doc__", "__module__", "__weakref__")
    own = {name: item for name, item in vars(type(module)).items() if name not in apart}
    module.__class__ = type(f"Parametrized{kind.__name__}", (kind,), own)


def _why_left(module: Any) -> str:
    kind = _class_of(module)
    if isinstance(module, nn.RNNCellBase):
        return f"a {kind.__name__}, which runs one step at a time"
    if kind in KINDS:
        return f"proj_size={module.proj_size}, and gradcore has no output projection"
    base = next((b.__name__ for b in kind.__mro__ if b in KINDS), "RNNBase")
    return f"{kind.__name__}, a subclass of torch.nn.{base}"


def layers_of(model: nn.Module) -> dict[str, Layer]:
    """The layers of gradcore.torch in a model, by name.

    Raises ArgumentError if there is none.
    """
    _checked(model)
    found = {name: module for name, module in model.named_modules() if isinstance(module, Layer)}
    if not found:
        raise ArgumentError(
            "the model must have a layer of gradcore.torch; it has none. Call "
            "gradcore.torch.convert(model), which turns layers of torch.nn into such layers."
        )
    return found
