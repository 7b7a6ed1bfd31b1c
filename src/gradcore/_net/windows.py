"""Layers whose rows are made of several steps: frames and pools."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, get_args

from .._base.checks import choice, layer_size, store
from ..errors import ShapeError
from .layers import RowLayer

__all__ = ["AvgPool1d", "Frames", "MaxPool1d", "Padding", "border", "padded_steps", "valid_steps"]

Padding = Literal["causal", "same", "valid"]


def padded_steps(steps: Any, stride: int) -> Any:
    """ceil(steps / stride): the steps behind a window whose ends are padded; also of arrays."""
    return -(-steps // stride)


def valid_steps(steps: Any, kernel_size: int, stride: int, dilation: int) -> Any:
    """The windows that lie in a sequence as a whole, 0 if it is too short; also for arrays."""
    windows = (steps - (kernel_size - 1) * dilation - 1) // stride + 1
    return windows * (windows > 0)


def border(
    padding: Padding, taps: int, stride: int, dilation: int, reduction: str = "none"
) -> dict[str, Any]:
    """A window of steps that begins a part of the net, as the core takes it."""
    span = (taps - 1) * dilation
    return {
        "kind": "border",
        "reduction": reduction,
        "inside": padding == "valid",
        "taps": taps,
        "stride": stride,
        "dilation": dilation,
        "left": {"causal": span, "same": span // 2, "valid": 0}[padding],
    }


@dataclass(frozen=True)
class Frames(RowLayer):
    """Joins n steps to one of n times the features: (T, B, I) becomes (T // n, B, n*I).

    Feature k*I + i of a frame is feature i of its step k. Steps that fill no whole frame at the end
    of a sequence are left out, so that a sequence of L steps has L // n frames. Outputs, targets
    and weights have the steps of the frames (Stack.output_steps), and resets must lie between
    frames.
    """

    n: int

    def __post_init__(self) -> None:
        store(self, "n", layer_size("Frames.n", self.n))

    @property
    def is_border(self) -> bool:
        return True

    def width_after(self, width: int) -> int:
        return self.n * width

    def width_before(self, width: int) -> int:
        if width % self.n:
            raise ShapeError(
                f"the layer behind Frames({self.n}) must read rows of a multiple of {self.n} "
                f"features, because {self.n} steps are joined; it reads {width}."
            )
        return width // self.n

    def steps_after(self, steps: Any) -> Any:
        return valid_steps(steps, self.n, self.n, 1)

    @property
    def core_transforms(self) -> tuple[dict[str, Any], ...]:
        return (border("valid", self.n, self.n, 1),)


@dataclass(frozen=True)
class WindowPool(RowLayer):
    """Base class of the pools over windows of steps."""

    kernel_size: int
    stride: int | None = None
    dilation: int = 1
    _: KW_ONLY
    padding: Padding = "valid"

    reduction: ClassVar[str]

    def __post_init__(self) -> None:
        name = type(self).__name__
        store(self, "kernel_size", layer_size(f"{name}.kernel_size", self.kernel_size))
        stride = self.kernel_size if self.stride is None else self.stride
        store(self, "stride", layer_size(f"{name}.stride", stride))
        store(self, "dilation", layer_size(f"{name}.dilation", self.dilation))
        choice(f"{name}.padding", self.padding, get_args(Padding))

    @property
    def is_border(self) -> bool:
        return True

    def steps_after(self, steps: Any) -> Any:
        assert self.stride is not None
        if self.padding == "valid":
            return valid_steps(steps, self.kernel_size, self.stride, self.dilation)
        return padded_steps(steps, self.stride)

    @property
    def core_transforms(self) -> tuple[dict[str, Any], ...]:
        assert self.stride is not None
        return (border(self.padding, self.kernel_size, self.stride, self.dilation, self.reduction),)


@dataclass(frozen=True)
class MaxPool1d(WindowPool):
    """The largest value of each feature over windows of kernel_size steps, as torch.nn.MaxPool1d.

    Window t begins at step t*stride (valid), or lies around it (same: (kernel_size-1)*dilation // 2
    steps before it), or ends there (causal); stride is kernel_size by default. The gradient goes to
    the first of equal largest values. A sequence of L steps has floor((L - (kernel_size-1)*dilation
    - 1) / stride) + 1 windows if padding is "valid", else ceil(L / stride); steps before its first
    or behind its last one do not count. Outputs, targets and weights have the steps of the windows
    (Stack.output_steps).
    """

    reduction: ClassVar[str] = "max"


@dataclass(frozen=True)
class AvgPool1d(WindowPool):
    """The mean of each feature over windows of kernel_size steps, as torch.nn.AvgPool1d.

    Windows and steps are those of MaxPool1d. The mean is over the steps of the sequence alone
    (PyTorch's count_include_pad=False), so that padding does not draw it to zero.
    """

    reduction: ClassVar[str] = "mean"
