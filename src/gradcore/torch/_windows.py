"""Convolutions and pools of PyTorch as layers of gradcore."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from .._net import layers
from .._net.convolution import Conv1d
from .._net.windows import AvgPool1d, MaxPool1d, Padding, WindowPool
from ..errors import ArgumentError

__all__ = ["convolution", "pool", "with_activation"]


def convolution(shown: str, module: nn.Conv1d) -> Conv1d:
    """The Conv1d that computes what the module does."""
    if type(module) is not nn.Conv1d:
        raise ArgumentError(
            f"{shown} derives from torch.nn.Conv1d or is parametrized, and what it does to its "
            "input or weight cannot be seen. Make a gradcore.Conv1d, whose padding is causal by "
            "default, and copy the weight and bias into its parameters."
        )
    if module.padding_mode != "zeros" and any(_ints(module.padding)):
        raise ArgumentError(
            f"{shown} has padding_mode={module.padding_mode!r}; gradcore pads with zeros."
        )
    (kernel_size,), (stride,), (dilation,) = module.kernel_size, module.stride, module.dilation
    span = (kernel_size - 1) * dilation
    padding = module.padding if isinstance(module.padding, str) else int(module.padding[0])
    return Conv1d(
        module.in_channels,
        module.out_channels,
        kernel_size,
        stride,
        dilation,
        module.groups,
        bias=module.bias is not None,
        padding=_padding(shown, padding, span),
    )


def pool(shown: str, module: nn.MaxPool1d | nn.AvgPool1d) -> WindowPool:
    """The pool that computes what the module does."""
    (kernel_size,), (stride,) = _ints(module.kernel_size), _ints(module.stride)
    (padding,) = _ints(module.padding)
    if module.ceil_mode and stride > 1:
        raise ArgumentError(f"{shown} has ceil_mode=True; gradcore leaves such windows out.")
    if isinstance(module, nn.MaxPool1d):
        if module.return_indices:
            raise ArgumentError(f"{shown} has return_indices=True; gradcore returns values only.")
        (dilation,) = _ints(module.dilation)
        span = (kernel_size - 1) * dilation
        return MaxPool1d(kernel_size, stride, dilation, padding=_padding(shown, padding, span))
    if padding and module.count_include_pad:
        raise ArgumentError(
            f"{shown} counts the zeros of its padding in its means; gradcore's AvgPool1d does "
            "not. Use count_include_pad=False."
        )
    return AvgPool1d(kernel_size, stride, padding=_padding(shown, padding, kernel_size - 1))


def with_activation(
    layer: layers.Layer | layers.Residual, activation: layers.Activation
) -> layers.Layer | None:
    """The layer followed by an activation function; None if it is none that has one."""
    if isinstance(layer, layers.Linear):
        return layers.Dense(layer.in_features, layer.out_features, activation, bias=layer.bias)
    if isinstance(layer, Conv1d) and layer.activation == "identity":
        return replace(layer, activation=activation)
    return None


def _ints(value: object) -> tuple[int, ...]:
    """Sizes that PyTorch keeps as an int or as a tuple; of "same" and "valid" there are none."""
    if isinstance(value, str):
        return ()
    return tuple(value) if isinstance(value, tuple) else (value,)  # type: ignore[return-value]


def _padding(shown: str, padding: int | str, span: int) -> Padding:
    """Our name of a padding; span: the steps from the first to the last of a window."""
    if span == 0 and padding in (0, "same", "valid"):
        return "causal"  # a window of one step
    if padding in (0, "valid"):
        return "valid"
    if padding == "same" or 2 * int(padding) == span:
        return "same"
    raise ArgumentError(
        f"{shown} pads {padding} steps on either side of windows that span {span + 1}; gradcore "
        f"has padding='valid' (0 steps), 'same' (half of {span}) and 'causal' ({span} steps in "
        "front and none behind)."
    )
