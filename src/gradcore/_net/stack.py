"""Stacks of layers, with their parameters and gradients as views of one flat buffer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._base.checks import choice, finite_float, float_dtype, integer, store
from .._base.scaled import log10_norm
from ..errors import ArgumentError, DTypeError, ShapeError
from .flat import FlatArrays, ParameterOwner, ParameterSpec
from .initial import (
    ChronoSpread,
    RecurrentInit,
    chrono_bias,
    forget_gate_bias,
    initial_values,
)
from .layers import Dropout, Embedding, Layer, LayerNorm, Linear, Recurrent

__all__ = ["Grads", "Params", "Stack"]


@dataclass(frozen=True, init=False, repr=False)
class Stack(ParameterOwner):
    """A net: [Embedding], one or more recurrent layers, [Linear], each fitting the next.

    LayerNorm and Dropout may stand anywhere between these and before or behind the recurrent
    layers, in any number.
    Raises ShapeError where sizes do not fit and ArgumentError where the order is another.
    """

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer) -> None:
        store(self, "layers", layers)
        _check_order(layers)
        _check_sizes(layers)

    def __repr__(self) -> str:
        return f"Stack({', '.join(map(repr, self.layers))})"

    @cached_property
    def embedding(self) -> Embedding | None:
        """The embedding, if the net has one."""
        first = self.layers[0]
        return first if isinstance(first, Embedding) else None

    @cached_property
    def recurrent_names(self) -> tuple[str, ...]:
        """Place and kind of each recurrent layer, such as "1.LSTM"."""
        return tuple(
            f"{place}.{type(layer).__name__}"
            for place, layer in enumerate(self.layers)
            if isinstance(layer, Recurrent)
        )

    @cached_property
    def recurrent(self) -> tuple[Recurrent, ...]:
        """The recurrent layers, in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, Recurrent))

    @cached_property
    def head(self) -> Linear | None:
        """The linear head, if the net has one."""
        last = self.layers[-1]
        return last if isinstance(last, Linear) else None

    @property
    def input_size(self) -> int:
        """Size of the input of the first recurrent layer."""
        return self.recurrent[0].input_size

    @property
    def vocabulary(self) -> int:
        """Number of tokens that integer inputs may name."""
        return self.embedding.num_embeddings if self.embedding else self.input_size

    @property
    def output_size(self) -> int:
        """Size O of the outputs: the head's, or that of the last recurrent layer."""
        return self.head.out_features if self.head else self.recurrent[-1].output_size

    @property
    def n_directions(self) -> int:
        """Number of the layers' directions: a bidirectional layer counts as two."""
        return sum(len(layer.directions) for layer in self.recurrent)

    @property
    def bidirectional(self) -> bool:
        """Whether a layer reads both ways, so that an output depends on later inputs."""
        return any(layer.bidirectional for layer in self.recurrent)

    @cached_property
    def is_random(self) -> bool:
        """Whether a call with train=True draws random masks and needs a seed."""
        random = (layer for layer in self.layers if isinstance(layer, (Recurrent, Dropout)))
        return any(layer.is_random for layer in random)

    @cached_property
    def parameter_specs(self) -> tuple[ParameterSpec, ...]:
        """Every parameter in the order of the flat buffer."""
        specs, start = [], 0
        for index, layer in enumerate(self.layers):
            for name, (shape, meaning) in layer.parameter_shapes.items():
                specs.append(ParameterSpec(f"{index}.{name}", shape, start, meaning))
                start += prod(shape)
        return tuple(specs)

    def layer_of(self, name: str) -> tuple[Layer | None, str]:
        """The layer that a parameter belongs to, and the parameter's name there."""
        place, _, own = name.partition(".")
        return self.layers[int(place)], own

    def init(
        self,
        seed: int = 0,
        dtype: DTypeLike = "float32",
        *,
        recurrent: RecurrentInit = "orthogonal",
        gain: float = 1.0,
        forget_bias: float | None = 1.0,
        chrono: float | None = None,
        chrono_spread: ChronoSpread = "even",
    ) -> Params:
        """Fresh parameters.

        recurrent: how each gate's block of weight_hh starts: "orthogonal" (an AntisymmetricRNN's
        normal with a deviation of 1/sqrt(H)) and "identity" times gain, with zero biases, or
        "uniform" in +-1/sqrt(H) with biases drawn alike, as in PyTorch. weight_ih is always uniform
        in +-1/sqrt(H), the head in +-1/sqrt(in_features), an embedding standard normal, a LayerNorm
        1 and 0, as in PyTorch. forget_bias: see gradcore.init.forget_gate_bias; None leaves the
        biases alone. chrono: the longest time constant in steps, replaces forget_bias;
        chrono_spread: "even" or "log"; see gradcore.init.chrono_bias.
        Raises ArgumentError or DTypeError for a wrong option.
        """
        choice("recurrent", recurrent, get_args(RecurrentInit))
        choice("chrono_spread", chrono_spread, get_args(ChronoSpread))
        gain = finite_float("gain", gain)
        number = integer("seed", seed)
        if number < 0:
            raise ArgumentError(f"seed must not be negative; got {number}.")
        rng = np.random.Generator(np.random.PCG64(number))
        params = Params(self, np.zeros(self.n_parameters, float_dtype("dtype", dtype)))
        for index, layer in enumerate(self.layers):
            for name in layer.parameter_shapes:
                params[f"{index}.{name}"][...] = initial_values(rng, layer, name, recurrent, gain)
        if chrono is not None:
            chrono_bias(params, chrono, rng, chrono_spread)
        elif forget_bias is not None:
            forget_gate_bias(params, forget_bias)
        return params


class _OfStack(FlatArrays):
    """Arrays laid out like the parameters of a net."""

    @property
    def net(self) -> Stack:
        """The Stack whose parameters these are.

        Raises DTypeError if they are of something else, as an implicit.Model.
        """
        if not isinstance(self._owner, Stack):
            kind = type(self._owner).__name__
            raise DTypeError(
                f"a gradcore.Stack and its own {type(self).__name__} are needed here; these are of "
                f"a {kind}. Those of each Stack in a Model are model.parts(params)."
            )
        return self._owner


class Params(_OfStack):
    """Parameters of a net: a mapping from "<place in the Stack>.<name>" to arrays.

    net: the Stack. flat: 1-D float32 or float64 buffer of net.n_parameters values, kept and not
    copied. `params[name] = array` copies values in; `params.flat` is the whole.
    Raises ShapeError or DTypeError if flat does not fit.
    """


class Grads(_OfStack):
    """Gradients, laid out like the parameters they belong to.

    The true gradient is `flat * 2**exponent`; the exponent is 0 unless the numbers would leave
    the range of the dtype.
    """

    def __init__(self, net: ParameterOwner, flat: NDArray[Any], exponent: int = 0) -> None:
        super().__init__(net, flat)
        self._exponent = integer("exponent", exponent)

    @property
    def exponent(self) -> int:
        """Power of two that all values are to be multiplied by."""
        return self._exponent

    def written(self, exponent: int) -> Grads:
        """These gradients after a call has written new values with their exponent."""
        self._exponent = exponent
        return self

    def norm_log10(self) -> float:
        """log10 of the Euclidean norm of the true gradient; -inf for a zero gradient."""
        return float(log10_norm(self._flat, self._exponent))

    def _like(self, flat: NDArray[Any]) -> Grads:
        return Grads(self._owner, flat, self._exponent)

    def __eq__(self, other: object) -> bool:
        same = super().__eq__(other)
        if same is True and isinstance(other, Grads):
            return self._exponent == other._exponent
        return same

    def __reduce__(self) -> tuple[Any, ...]:
        return Grads, (self._owner, self._flat, self._exponent)

    def __repr__(self) -> str:
        return f"{super().__repr__()}\n  times 2**{self._exponent}"


def _check_order(layers: tuple[object, ...]) -> None:
    shape = (
        "[Embedding], one or more of RNN, LSTM, GRU and AntisymmetricRNN, [Linear], with LayerNorm "
        "and Dropout anywhere between"
    )
    for index, layer in enumerate(layers):
        if isinstance(layer, (list, tuple)):
            raise DTypeError("Stack takes the layers as arguments; write Stack(*layers).")
        if not isinstance(layer, Layer):
            raise DTypeError(f"Stack must be made of {shape}; argument {index} is {layer!r}.")
        inner = isinstance(layer, (Recurrent, LayerNorm, Dropout))
        first = isinstance(layer, Embedding) and index == 0
        last = isinstance(layer, Linear) and index == len(layers) - 1
        if not (inner or first or last):
            raise ArgumentError(
                f"Stack must be {shape} in this order; got {type(layer).__name__} at place {index} "
                f"of {len(layers)}."
            )
    if not any(isinstance(layer, Recurrent) for layer in layers):
        raise ArgumentError(f"Stack must be {shape}; got no recurrent layer.")


def _check_sizes(layers: tuple[Layer, ...]) -> None:
    width: int | None = None
    for index, layer in enumerate(layers):
        if isinstance(layer, Embedding):
            width = layer.embedding_dim
            continue
        if isinstance(layer, Dropout):
            continue
        field = _size_field(layer)
        inputs = getattr(layer, field)
        if width is not None and inputs != width:
            raise ShapeError(
                f"layer {index} ({type(layer).__name__}) must have {field} {width}, the size of "
                f"what layer {index - 1} ({type(layers[index - 1]).__name__}) puts out; "
                f"got {inputs}."
            )
        if isinstance(layer, LayerNorm):
            width = layer.normalized_shape
        else:
            width = layer.output_size if isinstance(layer, Recurrent) else layer.out_features


def _size_field(layer: Recurrent | Linear | LayerNorm) -> str:
    """Name of the size that must be that of what comes before."""
    if isinstance(layer, LayerNorm):
        return "normalized_shape"
    return "input_size" if isinstance(layer, Recurrent) else "in_features"
