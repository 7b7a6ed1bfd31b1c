"""Convolutions over time."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, get_args

from .._base.checks import choice, flag, layer_size, store
from ..errors import ArgumentError, ShapeError
from .layers import Activation, RowLayer

__all__ = ["Conv1d"]

Padding = Literal["causal"]


@dataclass(frozen=True)
class Conv1d(RowLayer):
    """A convolution over time, anywhere in a net: activation(bias + sum of weight[..., k] @ tap k).

    weight [out_channels, in_channels / groups, kernel_size] and bias [out_channels] as in
    torch.nn.Conv1d. Tap k of step t is the input (kernel_size - 1 - k) * dilation steps before t;
    inputs before the first step, or before a reset, are zero. This is PyTorch's layer behind
    (kernel_size - 1) * dilation zeros put in front of each sequence, so that outputs have as many
    steps as inputs and none depends on a later input.
    groups: inputs and outputs are divided into as many runs of channels, and each run of outputs
    reads its own run of inputs only; groups == in_channels gives a depthwise convolution.
    activation: as in Dense.
    As the first layer it also takes integer tokens (T, B) in [0, in_channels), with a kernel_size
    above 1: each tap is then a row of a table, as if tokens were rows of zeros with a one.
    The last (kernel_size - 1) * dilation inputs of each sequence are part of the net's state, in a
    LayerState behind those of the recurrent layers.
    Raises ArgumentError for an unknown option, ShapeError if groups does not divide both channels.
    Reference: van den Oord et al. 2016, sec. 2.1.
    """

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    _: KW_ONLY
    padding: Padding = "causal"
    activation: Activation = "identity"

    size_field: ClassVar[str | None] = "in_channels"

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups"):
            store(self, name, layer_size(f"Conv1d.{name}", getattr(self, name)))
        flag("Conv1d.bias", self.bias)
        choice("Conv1d.padding", self.padding, get_args(Padding))
        choice("Conv1d.activation", self.activation, get_args(Activation))
        if self.stride != 1:
            raise ArgumentError(f"Conv1d.stride must be 1; got {self.stride}.")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ShapeError(
                f"Conv1d.groups must divide in_channels and out_channels; got {self.groups}, "
                f"{self.in_channels} and {self.out_channels}."
            )
        layer_size("(Conv1d.kernel_size - 1) * Conv1d.dilation + 1", self.past + 1)
        layer_size("Conv1d.kernel_size * Conv1d.in_channels", self.kernel_size * self.in_channels)

    @property
    def past(self) -> int:
        """The number of past inputs that the next output depends on."""
        return (self.kernel_size - 1) * self.dilation

    @property
    def takes_tokens(self) -> bool:
        return self.kernel_size > 1

    def width_after(self, width: int | None) -> int | None:
        return self.out_channels

    @property
    def core_transforms(self) -> tuple[dict[str, Any], ...]:
        taps, inputs = self.kernel_size, self.in_channels
        product = {
            "kind": "dense",
            "inputs": taps * inputs,
            "outputs": self.out_channels,
            "bias": self.bias,
            "taps": taps,
            "groups": self.groups,
        }
        window = {"kind": "window", "inputs": inputs, "taps": taps, "dilation": self.dilation}
        function = {"kind": "activation", "function": self.activation}
        return (
            *((window,) if taps > 1 else ()),
            product,
            *((function,) if self.activation != "identity" else ()),
        )

    @property
    def parameter_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        shape = (self.out_channels, self.in_channels // self.groups, self.kernel_size)
        specs: dict[str, tuple[tuple[int, ...], str]] = {
            "weight": (shape, "(out_channels, in_channels / groups, kernel_size)")
        }
        if self.bias:
            specs["bias"] = ((self.out_channels,), "(out_channels,)")
        return specs
