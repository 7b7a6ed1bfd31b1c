"""Convolutions over time."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, get_args

from .._base.checks import choice, flag, layer_size, store
from ..errors import ShapeError
from .layers import Activation, RowLayer
from .windows import Padding, border, padded_steps, valid_steps

__all__ = ["Conv1d"]


@dataclass(frozen=True)
class Conv1d(RowLayer):
    """A convolution over time, anywhere in a net: activation(bias + sum of weight[..., k] @ tap k).

    weight [out_channels, in_channels / groups, kernel_size] and bias [out_channels] as in
    torch.nn.Conv1d. Tap k of output t is the input of step t*stride - left + k*dilation; inputs
    outside of the sequence, or on the other side of a reset, are zero.
    padding: "causal" puts left = (kernel_size - 1) * dilation zeros in front of each sequence, so
    that no output depends on a later input. "same" has left = (kernel_size - 1) * dilation // 2, as
    PyTorch's at stride 1, and "valid" left = 0 and only outputs all of whose taps lie in the
    sequence: floor((L - (kernel_size - 1) * dilation - 1) / stride) + 1 of L steps. The others have
    ceil(L / stride). Outputs, targets and weights of the net follow (Stack.output_steps), and
    resets must be at multiples of all strides together.
    groups: inputs and outputs are divided into as many runs of channels, and each run of outputs
    reads its own run of inputs only; groups == in_channels gives a depthwise convolution.
    activation: as in Dense.
    As the first layer, causal with stride 1, it also takes integer tokens (T, B) in
    [0, in_channels), with a kernel_size above 1: each tap is then a row of a table, as if tokens
    were rows of zeros with a one.
    At stride 1 with padding="causal", the last (kernel_size - 1) * dilation inputs of each sequence
    are part of the net's state, in a LayerState behind those of the recurrent layers. Other
    convolutions keep their inputs of all steps, and nets with one have no Stepper.
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
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ShapeError(
                f"Conv1d.groups must divide in_channels and out_channels; got {self.groups}, "
                f"{self.in_channels} and {self.out_channels}."
            )
        span = (self.kernel_size - 1) * self.dilation + 1
        layer_size("(Conv1d.kernel_size - 1) * Conv1d.dilation + 1", span)
        layer_size("Conv1d.kernel_size * Conv1d.in_channels", self.kernel_size * self.in_channels)

    @property
    def past(self) -> int:
        """The number of past inputs in the net's state, which the next output depends on."""
        return 0 if self.is_border else (self.kernel_size - 1) * self.dilation

    @property
    def is_border(self) -> bool:
        return self.stride > 1 or (self.padding != "causal" and self.kernel_size > 1)

    def steps_after(self, steps: Any) -> Any:
        if self.padding == "valid":
            return valid_steps(steps, self.kernel_size, self.stride, self.dilation)
        return padded_steps(steps, self.stride)

    @property
    def takes_tokens(self) -> bool:
        return self.kernel_size > 1 and not self.is_border

    def width_after(self, width: int) -> int:
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
        if self.is_border:
            window = border(self.padding, taps, self.stride, self.dilation)
        function = {"kind": "activation", "function": self.activation}
        return (
            *((window,) if taps > 1 or self.is_border else ()),
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
