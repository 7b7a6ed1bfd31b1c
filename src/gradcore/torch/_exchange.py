"""from_torch and to_torch: nets of gradcore from models of PyTorch, and the other way round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._net import cells, layers
from .._net.compiled import CompiledCell
from .._net.convolution import Conv1d
from .._net.recognise import common_dtype, recognised
from .._net.stack import Params, Stack
from .._net.validate import model
from .._net.windows import Frames, WindowPool
from ..errors import ArgumentError, DTypeError
from . import _modules, _windows
from ._describe import CELLS
from ._layer import Layer
from ._recurrent import Recurrent

__all__ = ["StackModule", "from_torch", "to_torch"]

# Tensors that are the parameters of a layer, by our names.
Tensors = dict[str, Tensor]
# A layer, or a Residual, and the tensors of each layer in it.
Found = tuple[layers.Layer | layers.Residual, list[Tensors]]
# Modules that are the activation function of the Linear in front of them.
_ACTIVATIONS: dict[type[nn.Module], layers.Activation] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Softplus: "softplus",
}
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    # That of torch.nn.functional is the identity above 20.
    "softplus": lambda z: torch.logaddexp(z, z.new_zeros(())),
}


def from_torch(source: nn.Module | Mapping[str, Tensor]) -> tuple[Stack, Params]:
    """What gradcore.from_torch does."""
    if isinstance(source, nn.Module):
        found = _with_dense(list(_walk("", source)))
    elif isinstance(source, Mapping):
        params = recognised({name: _array(name, value) for name, value in source.items()}, True)
        return params.net, params
    else:
        raise DTypeError(
            "from_torch needs a torch.nn.Module or its state dict; got "
            f"{type(source).__name__}. For a file use gradcore.load."
        )
    net = Stack(*(layer for layer, _ in found))
    values = {
        f"{place}.{name}": _array(name, tensor)
        for place, own in enumerate(chain.from_iterable(tensors for _, tensors in found))
        for name, tensor in own.items()
    }
    params = Params(net, np.empty(net.n_parameters, common_dtype(values)))
    for name, array in values.items():
        params[name] = array
    return net, params


def to_torch(net: Stack, params: Params) -> StackModule:
    """What gradcore.to_torch does."""
    model(net, params)
    made = StackModule(net).to(torch.float32 if params.dtype == np.float32 else torch.float64)
    with torch.no_grad():
        for place, own in enumerate(made._tensors()):
            for name, tensor in own.items():
                tensor.copy_(torch.from_numpy(params[f"{place}.{name}"]))
    return made


class StackModule(nn.ModuleList):
    """A net of gradcore made of PyTorch's layers; to_torch makes it.

    Its modules are the layers, by their places in the Stack: those of torch.nn, and those of
    gradcore.torch where there is a skip connection, an AntisymmetricRNN or a compiled cell; a Dense
    is a Linear with its activation function. forward adds what a Residual adds. net: the Stack.
    forward(x, state=None) -> (outputs, state): x (T, B, I), or (T, B) integer tokens; outputs
    (T, B, O), or (B, O) behind a Pool, which takes all T steps of every sequence; a dict of these
    if the net has Heads; state: a list with what each recurrent layer returns and takes, h_n or
    (h_n, c_n). A Conv1d begins each call with zeros before the first step. All sequences have T
    steps: there are no lengths.
    """

    def __init__(self, net: Stack) -> None:
        super().__init__([_module(place, layer) for place, layer in enumerate(net.layers)])
        self.net = net

    def forward(self, x: Tensor, state: Sequence[Any] | None = None) -> tuple[Any, list[Any]]:
        left = [None] * len(self.net.recurrent) if state is None else list(state)
        if len(left) != len(self.net.recurrent):
            raise ArgumentError(
                f"state must have one entry per recurrent layer, {len(self.net.recurrent)}; it has "
                f"{len(left)}."
            )
        after: list[Any] = []
        begun: list[Tensor] = []  # the inputs of the Residuals around the layer
        for place, (layer, module) in enumerate(zip(self.net.layers, self, strict=True)):
            begun += [x] * sum(begin == place for begin, _ in self.net.residuals)
            if isinstance(layer, layers.Recurrent):
                outputs, last = module(x, left[len(after)])
                x = outputs + x if layer.residual else outputs
                after.append(last)
            else:
                x = module(x)
            for _ in range(sum(end == place + 1 for _, end in self.net.residuals)):
                x = x + begun.pop()
        return x, after

    def _tensors(self) -> list[Tensors]:
        return [
            _of_recurrent(module, 0, layer)
            if isinstance(layer, layers.Recurrent)
            else dict(module.named_parameters())
            for layer, module in zip(self.net.layers, self, strict=True)
        ]


class DenseModule(nn.Linear):
    """A gradcore.Dense: a Linear with an activation function behind it."""

    def __init__(self, layer: layers.Dense) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias)
        self.activation = layer.activation

    def forward(self, x: Tensor) -> Tensor:
        return _FUNCTIONS[self.activation](super().forward(x))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation!r}"


class PoolModule(nn.Module):
    """A gradcore.Pool: (T, B, W) becomes (B, W), over all T steps of every sequence."""

    def __init__(self, layer: layers.Pool) -> None:
        super().__init__()
        self.kind = layer.kind
        if layer.kind == "attention":
            self.weight = nn.Parameter(torch.zeros(1, layer.width))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "last":
            return x[-1]
        if self.kind == "mean":
            return x.mean(0)
        if self.kind == "max":
            return x.max(0).values
        shares = (x @ self.weight.T).softmax(0)
        return (shares * x).sum(0)

    def extra_repr(self) -> str:
        return self.kind


class HeadsModule(nn.ModuleDict):
    """gradcore.Heads: a Linear for each name, whose outputs are a dict."""

    def __init__(self, heads: layers.Heads) -> None:
        if wrong := [name for name, _ in heads.heads if hasattr(nn.ModuleDict, name)]:
            raise ArgumentError(
                f"head {wrong[0]!r} has the name of an attribute of torch.nn.ModuleDict. Give it "
                "another name."
            )
        super().__init__(
            {
                name: nn.Linear(head.in_features, head.out_features, bias=head.bias)
                for name, head in heads.heads
            }
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: head(x) for name, head in self.items()}


def _pads(padding: str, span: int) -> tuple[int, int]:
    """The steps that are added before the first and behind the last one."""
    left = {"causal": span, "same": span // 2, "valid": 0}[padding]
    return left, span - left if padding == "same" else 0


class WindowModule(nn.Module):
    """gradcore's MaxPool1d, AvgPool1d and Frames: (T, B, I) becomes (T', B, I), or (T', B, n*I)."""

    def __init__(self, layer: WindowPool | Frames) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer, steps = self.layer, len(x)
        if isinstance(layer, Frames):
            whole = x[: steps // layer.n * layer.n]
            return whole.reshape(-1, layer.n, *x.shape[1:]).transpose(1, 2).flatten(2)
        assert layer.stride is not None
        left, right = _pads(layer.padding, (layer.kernel_size - 1) * layer.dilation)
        taps = torch.arange(layer.kernel_size, device=x.device) * layer.dilation
        starts = torch.arange(layer.steps_after(steps), device=x.device) * layer.stride
        places = starts[:, None] + taps  # of the padded steps
        there = ((places >= left) & (places < left + steps))[:, :, None, None]
        rows = nn.functional.pad(x, (0, 0, 0, 0, left, right))[places]
        if layer.reduction == "max":
            return rows.masked_fill(~there, -torch.inf).max(1).values
        return (rows * there).sum(1) / there.sum(1)

    def extra_repr(self) -> str:
        return repr(self.layer)


class ConvolutionModule(nn.Conv1d):
    """A gradcore.Conv1d: a Conv1d between zeros for the steps that are not there.

    forward(x): (T, B, I), or (T, B) integer tokens, to (T', B, O).
    """

    def __init__(self, layer: Conv1d) -> None:
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            dilation=layer.dilation,
            groups=layer.groups,
            bias=layer.bias,
        )
        self.activation = layer.activation
        self.pads = _pads(layer.padding, (layer.kernel_size - 1) * layer.dilation)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            x = nn.functional.one_hot(x.long(), self.in_channels).to(self.weight.dtype)
        rows = super().forward(nn.functional.pad(x.permute(1, 2, 0), self.pads))
        return _FUNCTIONS[self.activation](rows.permute(2, 0, 1))

    def extra_repr(self) -> str:
        described: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{described}, activation={self.activation!r}"


def _module(place: int, layer: layers.Layer) -> nn.Module:
    """The module of PyTorch that computes a layer."""
    if isinstance(layer, layers.Heads):
        return HeadsModule(layer)
    if isinstance(layer, layers.Embedding):
        return nn.Embedding(layer.num_embeddings, layer.embedding_dim)
    if isinstance(layer, layers.Linear):
        return nn.Linear(layer.in_features, layer.out_features, bias=layer.bias)
    if isinstance(layer, layers.Dense):
        return DenseModule(layer)
    if isinstance(layer, layers.Pool):
        return PoolModule(layer)
    if isinstance(layer, Conv1d):
        return ConvolutionModule(layer)
    if isinstance(layer, (WindowPool, Frames)):
        return WindowModule(layer)
    if isinstance(layer, layers.Dropout):
        return nn.Dropout(layer.p)
    if isinstance(layer, layers.LayerNorm):
        affine = layer.elementwise_affine
        return nn.LayerNorm(
            layer.normalized_shape, layer.eps, affine, **({"bias": layer.bias} if affine else {})
        )
    name = type(layer).__name__
    if isinstance(layer, CompiledCell):
        return Recurrent(replace(layer, residual=False))  # StackModule adds the input
    if not isinstance(layer, layers.Recurrent):
        raise ArgumentError(f"layer {place} ({name}) has no counterpart in PyTorch.")
    if layer.initial_state != "zeros":
        raise ArgumentError(
            f"layer {place} ({name}) has initial_state={layer.initial_state!r}; PyTorch's layers "
            "take their initial state as an argument."
        )
    if layer.is_random:
        raise ArgumentError(
            f"layer {place} ({name}) has zoneout or recurrent_dropout, which PyTorch's layers do "
            "not have."
        )
    options: dict[str, Any] = {"bias": layer.bias, "bidirectional": layer.bidirectional}
    if isinstance(layer, cells.RNN):
        if layer.nonlinearity == "identity":
            raise ArgumentError(f"layer {place} (RNN) has no nonlinearity; PyTorch's has one.")
        options["nonlinearity"] = layer.nonlinearity
    if isinstance(layer, cells.AntisymmetricRNN):
        options |= {"step": layer.step, "diffusion": layer.diffusion}
    ours = layer.skip is not None or isinstance(layer, cells.AntisymmetricRNN)
    kind = getattr(_modules if ours else nn, name, None)
    if kind is None:
        raise ArgumentError(f"layer {place} ({name}) has no counterpart in PyTorch.")
    if ours:
        options["skip"] = layer.skip
    made: nn.Module = kind(layer.input_size, layer.hidden_size, **options)
    return made


@dataclass(frozen=True)
class _Function:
    """An activation function that has been found. shown: how it is called in messages."""

    shown: str
    activation: layers.Activation


def _with_dense(found: list[Found | _Function]) -> list[Found]:
    """What _walk found, with activation functions in the layers before them, and a Dense for each
    Linear that does not end the net.
    """
    made: list[Found] = []
    before: layers.Layer | layers.Residual | None = None  # the item before, if it is a layer
    for place, item in enumerate(found):
        if isinstance(item, _Function):
            layer = before and _windows.with_activation(before, item.activation)
            if layer is None:
                raise ArgumentError(
                    f"{item.shown} must come directly behind a Linear or Conv1d, because "
                    "gradcore's activation functions are those of Dense and Conv1d."
                )
            made[-1] = (layer, made[-1][1])
            before = None
            continue
        before, tensors = item
        last = place == len(found) - 1
        dense = isinstance(before, layers.Linear) and not last
        layer = _windows.with_activation(before, "identity") if dense else before
        assert layer is not None
        made.append((layer, tensors))
    return made


def _walk(name: str, module: nn.Module) -> Iterator[Found | _Function]:
    """The layers and activation functions of a module and of those in it, in order."""
    shown = f"{name} ({type(module).__name__})" if name else type(module).__name__
    if isinstance(module, StackModule):
        tensors = iter(module._tensors())
        for part in module.net.nested:
            yield part, [next(tensors) for _ in range(_count(part))]
    elif isinstance(module, nn.RNNBase):
        yield from _of_layers(shown, module)
    elif isinstance(module, nn.Embedding):
        if module.max_norm is not None:
            raise ArgumentError(f"{shown} has max_norm, which gradcore's Embedding has not.")
        yield layers.Embedding(module.num_embeddings, module.embedding_dim), [_own(module)]
    elif isinstance(module, nn.ModuleDict) and _all_linear(module):
        made = {own: _linear(part) for own, part in module.items()}
        yield layers.Heads(**made), [dict(module.named_parameters())]
    elif isinstance(module, nn.Linear):
        yield _linear(module), [_own(module)]
    elif isinstance(module, nn.LayerNorm):
        if len(module.normalized_shape) != 1:
            raise ArgumentError(
                f"{shown} must normalise the last axis only; its normalized_shape is "
                f"{tuple(module.normalized_shape)}."
            )
        affine, has = module.elementwise_affine, module.bias is not None
        norm = layers.LayerNorm(
            module.normalized_shape[0],
            module.eps,
            elementwise_affine=affine,
            bias=has or not affine,
        )
        yield norm, [_own(module)]
    elif isinstance(module, nn.Conv1d):
        yield _windows.convolution(shown, module), [_own(module)]
    elif isinstance(module, (nn.MaxPool1d, nn.AvgPool1d)):
        yield _windows.pool(shown, module), [{}]
    elif isinstance(module, nn.Dropout):
        yield layers.Dropout(module.p), [{}]
    elif isinstance(module, nn.Identity):
        return
    elif type(module) in _ACTIVATIONS:
        yield _function(shown, module)
    elif module._parameters or not module._modules:
        raise ArgumentError(
            f"{shown} has no counterpart in gradcore. from_torch takes Embedding, RNN, LSTM, GRU, "
            "LayerNorm, Dropout, Linear, Conv1d, MaxPool1d, AvgPool1d and activation functions "
            "behind a Linear or Conv1d, and modules made of them. If it takes no part in "
            "forward, or has no parameters, pass the state dict of the others."
        )
    else:
        for inner, child in module._modules.items():
            if child is not None:
                yield from _walk(f"{name}.{inner}" if name else inner, child)


def _all_linear(module: nn.ModuleDict) -> bool:
    """Whether all of a ModuleDict are Linear, so that it is taken for Heads."""
    return bool(module) and all(type(part) is nn.Linear for part in module.values())


def _linear(module: Any) -> layers.Linear:
    return layers.Linear(module.in_features, module.out_features, bias=module.bias is not None)


def _function(shown: str, module: nn.Module) -> _Function:
    if getattr(module, "approximate", "none") != "none" or getattr(module, "beta", 1) != 1:
        raise ArgumentError(
            f"{shown} is {module}; gradcore has gelu without an approximation, and softplus with "
            "beta=1."
        )
    return _Function(shown, _ACTIVATIONS[type(module)])


def _count(part: layers.Layer | layers.Residual) -> int:
    """The layers in a part of a net."""
    return sum(map(_count, part.layers)) if isinstance(part, layers.Residual) else 1


def _of_layers(shown: str, module: nn.RNNBase) -> Iterator[Found]:
    """The layers of a recurrent module, with Dropout between them."""
    if isinstance(module, Recurrent):
        place = -1
        for own in module.stack().layers:
            if isinstance(own, layers.Recurrent):
                place += 1
                yield own, [_of_recurrent(module, place, own)]
            else:
                yield own, [{}]
        return
    if module.proj_size or module.mode not in CELLS:
        raise ArgumentError(
            f"{shown} has proj_size={module.proj_size}; gradcore has no output projection."
        )
    kind = CELLS[module.mode]
    options: dict[str, Any] = {"bias": module.bias, "bidirectional": module.bidirectional}
    if kind is cells.RNN:
        options["nonlinearity"] = module.mode[4:].lower()
    if isinstance(module, Layer):
        options["skip"] = module.skip
    if isinstance(module, _modules.AntisymmetricRNN):
        options |= {"step": module.step, "diffusion": module.diffusion}
    width = module.input_size
    for place in range(module.num_layers):
        if place and module.dropout:
            yield layers.Dropout(module.dropout), [{}]
        layer = kind(width, module.hidden_size, **options)
        yield layer, [_of_recurrent(module, place, layer)]
        width = layer.output_size


def _of_recurrent(module: nn.Module, place: int, layer: layers.Recurrent) -> dict[str, Tensor]:
    """The tensors of a layer of a recurrent module, by our names."""
    found = {}
    for name in layer.parameter_shapes:
        own, reverse, _ = name.partition("_reverse")
        found[name] = getattr(module, f"{own}_l{place}{reverse}")
    return found


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module._parameters.items() if value is not None}


def _array(name: str, value: object) -> NDArray[Any]:
    """A tensor, or an array, as an array of float32 or float64."""
    if isinstance(value, Tensor):
        if value.dtype not in (torch.float32, torch.float64):
            raise DTypeError(
                f"{name} is {value.dtype}, and gradcore has float32 and float64. Convert the model "
                "with .float() or .double() first."
            )
        value = value.detach().cpu().numpy()
    if not isinstance(value, np.ndarray):
        raise DTypeError(f"{name} must be a tensor; got {type(value).__name__}.")
    return np.ascontiguousarray(value)
