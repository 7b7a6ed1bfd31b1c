"""Stack: a net as a sequence of layers, with its parameters and gradients."""

from __future__ import annotations

from collections.abc import Iterable
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
from .layers import Embedding, Layer, Linear, Recurrent, Residual, RowLayer
from .table import layer_lines, table

__all__ = ["Grads", "Params", "Stack"]


@dataclass(frozen=True, init=False, repr=False)
class Stack(ParameterOwner):
    """A net: an optional Embedding, one or more recurrent layers, an optional Linear.

    Any number of Dense, Conv1d, LayerNorm and Dropout layers may stand before, between and after
    the recurrent layers, and a Residual around any run of these. layers: all of them in a row,
    without the Residuals; residuals: the first layer of each Residual and the one behind its last,
    outer ones first.
    Raises ShapeError if the sizes of neighbours do not fit, and ArgumentError if the layers have
    another order.
    """

    layers: tuple[Layer, ...]
    residuals: tuple[tuple[int, int], ...]

    def __init__(self, *layers: Layer | Residual) -> None:
        flat: list[Layer] = []
        residuals: list[tuple[int, int]] = []
        _flatten(layers, flat, residuals)
        store(self, "layers", tuple(flat))
        store(self, "residuals", tuple(residuals))
        _check_order(self.layers)
        _check_residuals(self.residuals, self.widths)

    @cached_property
    def nested(self) -> tuple[Layer | Residual, ...]:
        """The arguments from which the net was made: Residuals, and the layers outside of them."""
        return _nest(self.layers, self.residuals, 0, len(self.layers))

    def __repr__(self) -> str:
        return f"Stack({', '.join(map(repr, self.nested))})"

    def __str__(self) -> str:
        """A table of the layers: number, description, width of the output, parameters.

        gradcore.summary adds what they cost for sequences of a given length.
        """
        rows = [
            ("", text, "", "")
            if place is None
            else (str(place), text, f"(T, B, {self.widths[place + 1]})", f"{self.sizes[place]:,}")
            for place, text in layer_lines(self.layers, self.residuals)
        ]
        lines = table(("", "layer", "output", "parameters"), rows)
        return f"{lines}\n{self.n_parameters:,} parameters"

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """The width of the rows before each layer, then of the outputs.

        In front of an Embedding it is the number of tokens.
        """
        return _widths(self.layers)

    @cached_property
    def embedding(self) -> Embedding | None:
        """The embedding, if the net has one."""
        first = self.layers[0]
        return first if isinstance(first, Embedding) else None

    @cached_property
    def recurrent_names(self) -> tuple[str, ...]:
        """The place and class of each recurrent layer, such as "1.LSTM"."""
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
        """The width of float inputs; behind an Embedding, of its rows."""
        return self.widths[1 if self.embedding else 0]

    @property
    def vocabulary(self) -> int:
        """The number of different tokens that integer inputs may have."""
        return self.embedding.num_embeddings if self.embedding else self.input_size

    @property
    def output_size(self) -> int:
        """The size O of the outputs: that of the head, or else of the last layer."""
        return self.widths[-1]

    @property
    def n_directions(self) -> int:
        """The number of recurrent layers, where a bidirectional layer counts as two."""
        return sum(len(layer.directions) for layer in self.recurrent)

    @cached_property
    def windows(self) -> tuple[tuple[RowLayer, int], ...]:
        """The layers that keep past rows in the net's state, with the width of these."""
        layers = zip(self.layers, self.widths[:-1], strict=True)
        return tuple(
            (layer, width) for layer, width in layers if isinstance(layer, RowLayer) and layer.past
        )

    @property
    def n_states(self) -> int:
        """The number of states with an exponent each: of all directions, then of `windows`."""
        return self.n_directions + len(self.windows)

    @property
    def bidirectional(self) -> bool:
        """Whether a layer is bidirectional, so that outputs depend on later inputs."""
        return any(layer.bidirectional for layer in self.recurrent)

    @cached_property
    def is_random(self) -> bool:
        """Whether a call with train=True draws random masks and needs a seed."""
        random = (layer for layer in self.layers if isinstance(layer, (Recurrent, RowLayer)))
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

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The number of parameters of each layer."""
        found = [0] * len(self.layers)
        for spec in self.parameter_specs:
            found[int(spec.name.partition(".")[0])] += spec.stop - spec.start
        return tuple(found)

    def layer_of(self, name: str) -> tuple[Layer | None, str]:
        """The layer that a parameter belongs to, and the parameter's name in it."""
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
        """Initial parameters.

        recurrent: the initial value of each gate's block of weight_hh. "orthogonal" and "identity"
        are multiplied by gain, and biases are 0; for an AntisymmetricRNN "orthogonal" means normal
        with deviation gain/sqrt(H). "uniform" draws weight_hh and biases from +-1/sqrt(H), as
        PyTorch does. weight_ih is always uniform in +-1/sqrt(H), Dense layers, convolutions and the
        head in +-1/sqrt(number of inputs of an output), an embedding standard normal, and a
        LayerNorm has weight 1 and bias 0, as in PyTorch. forget_bias: the bias of memory gates, see
        gradcore.init.forget_gate_bias; None leaves it as it is. chrono: the longest time constant
        in steps; it replaces forget_bias. chrono_spread: "even" or "log", see
        gradcore.init.chrono_bias. Raises ArgumentError or DTypeError for a wrong option.
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

        Raises DTypeError if they belong to something else, such as an implicit.Model.
        """
        if not isinstance(self._owner, Stack):
            kind = type(self._owner).__name__
            raise DTypeError(
                f"a gradcore.Stack and its own {type(self).__name__} are needed here; these belong "
                f"to a {kind}. model.parts(params) gives those of each Stack in a Model."
            )
        return self._owner


class Params(_OfStack):
    """Parameters of a net: a mapping from "<place in the Stack>.<name>" to arrays.

    net: the Stack. flat: a 1-D float32 or float64 buffer of net.n_parameters values, which is used
    without a copy. `params[name] = array` copies values into it; `params.flat` is the buffer.
    Raises ShapeError or DTypeError if flat does not fit.
    """


class Grads(_OfStack):
    """Gradients, laid out like the parameters that they belong to.

    The true gradient is `flat * 2**exponent`; the exponent is 0 unless the numbers would leave
    the range of the dtype.
    """

    def __init__(self, net: ParameterOwner, flat: NDArray[Any], exponent: int = 0) -> None:
        super().__init__(net, flat)
        self._exponent = integer("exponent", exponent)

    @property
    def exponent(self) -> int:
        """The exponent: the true gradient is flat * 2**exponent."""
        return self._exponent

    def written(self, exponent: int) -> Grads:
        """Sets the exponent after a call has written new values to flat; returns self."""
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


def _flatten(layers: Iterable[object], flat: list[Any], residuals: list[tuple[int, int]]) -> None:
    """Appends the layers, also those inside Residuals, and where each Residual begins and ends."""
    for layer in layers:
        if not isinstance(layer, Residual):
            flat.append(layer)
            continue
        place, begin = len(residuals), len(flat)
        residuals.append((begin, begin))
        _flatten(layer.layers, flat, residuals)
        residuals[place] = (begin, len(flat))


def _nest(
    layers: tuple[Layer, ...], residuals: tuple[tuple[int, int], ...], start: int, stop: int
) -> tuple[Layer | Residual, ...]:
    """Layers [start, stop) as they were before _flatten; residuals: those inside, outer first."""
    found: list[Layer | Residual] = []
    left = list(residuals)
    at = start
    while at < stop:
        if left and left[0][0] == at:
            begin, end = left.pop(0)
            inside = [span for span in left if span[1] <= end]
            left = left[len(inside) :]
            found.append(Residual(*_nest(layers, tuple(inside), begin, end)))  # type: ignore[arg-type]
            at = end
        else:
            found.append(layers[at])
            at += 1
    return tuple(found)


def _check_order(layers: tuple[object, ...]) -> None:
    shape = (
        "[Embedding], one or more of RNN, LSTM, GRU and AntisymmetricRNN, [Linear], with Dense, "
        "Conv1d, LayerNorm and Dropout anywhere between"
    )
    for index, layer in enumerate(layers):
        if isinstance(layer, (list, tuple)):
            raise DTypeError("Stack takes the layers as arguments; write Stack(*layers).")
        if not isinstance(layer, Layer):
            raise DTypeError(f"Stack must be made of {shape}; argument {index} is {layer!r}.")
        inner = isinstance(layer, (Recurrent, RowLayer))
        first = isinstance(layer, Embedding) and index == 0
        last = isinstance(layer, Linear) and index == len(layers) - 1
        if not (inner or first or last):
            hint = " A Dense may stand anywhere." if isinstance(layer, Linear) else ""
            raise ArgumentError(
                f"Stack must be {shape}, in this order; got {type(layer).__name__} at place "
                f"{index} of {len(layers)}.{hint}"
            )
    if not any(isinstance(layer, Recurrent) for layer in layers):
        raise ArgumentError(f"Stack must be {shape}; got no recurrent layer.")


def _widths(layers: tuple[Layer, ...]) -> tuple[int, ...]:
    """As Stack.widths; raises ShapeError if the sizes of neighbours do not fit."""
    found: list[int | None] = []
    width: int | None = None
    for index, layer in enumerate(layers):
        field = _size_field(layer)
        inputs = getattr(layer, field) if field else width
        if width is not None and inputs != width:
            raise ShapeError(
                f"layer {index} ({type(layer).__name__}) must have {field} {width}, the output "
                f"size of layer {index - 1} ({type(layers[index - 1]).__name__}); got {inputs}."
            )
        found.append(inputs)
        width = _width_after(layer, inputs)
    # Rows in front of the first layer that has a size are as wide as it asks for.
    known = next(value for value in found if value is not None)
    assert width is not None
    return (*(known if value is None else value for value in found), width)


def _size_field(layer: Layer) -> str | None:
    """The name of the field that must equal the output size of the layer before."""
    if isinstance(layer, RowLayer):
        return layer.size_field
    if isinstance(layer, Embedding):
        return "num_embeddings"
    return "input_size" if isinstance(layer, Recurrent) else "in_features"


def _width_after(layer: Layer, width: int | None) -> int | None:
    if isinstance(layer, RowLayer):
        return layer.width_after(width)
    if isinstance(layer, Embedding):
        return layer.embedding_dim
    return layer.output_size if isinstance(layer, Recurrent) else layer.out_features


def _check_residuals(residuals: tuple[tuple[int, int], ...], widths: tuple[int, ...]) -> None:
    for begin, end in residuals:
        if widths[begin] != widths[end]:
            raise ShapeError(
                f"the Residual of layers {begin} to {end - 1} must put out rows as wide as those "
                f"it reads, {widths[begin]}; it puts out {widths[end]}. Let its last layer have "
                "that size, for instance a Dense."
            )
