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
from .flat import FlatArrays, ParameterOwner, ParameterSpec, restored
from .initial import (
    ChronoSpread,
    RecurrentInit,
    chrono_bias,
    forget_gate_bias,
    initial_values,
)
from .layers import Embedding, Heads, Layer, Linear, Pool, Recurrent, Residual, RowLayer
from .table import layer_lines, table

__all__ = ["Grads", "Params", "Stack"]


@dataclass(frozen=True, init=False, repr=False)
class Stack(ParameterOwner):
    """A net: an optional Embedding, one or more recurrent layers, an optional Linear or Heads.

    Any number of Dense, Conv1d, LayerNorm, Dropout, StaticInput, Frames, MaxPool1d and AvgPool1d
    layers may stand before, between and after the recurrent layers, and a Residual around any run
    of these that leaves the steps as they are. Behind the last of them that reads several steps a
    Pool may make one row per sequence of all steps. layers: all of them in a row, without
    the Residuals; residuals: the first layer of each Residual and the one behind its last, outer
    ones first.
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
        _check_pool(self.layers)
        _check_residuals(self.residuals, self.widths, self.borders)
        _static_size(self.layers)

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
            else (str(place), text, self._shape_after(place), f"{self.sizes[place]:,}")
            for place, text in layer_lines(self.layers, self.residuals)
        ]
        lines = table(("", "layer", "output", "parameters"), rows)
        return f"{lines}\n{self.n_parameters:,} parameters"

    def _shape_after(self, place: int) -> str:
        """The shape of what a layer puts out, with T/n steps where strides make one of n."""
        if self.is_pooled(place):
            return f"(B, {self.widths[place + 1]})"
        strides = prod(
            getattr(layer, "stride", getattr(layer, "n", 1))
            for layer in self.layers[: place + 1]
            if isinstance(layer, RowLayer) and layer.is_border
        )
        return f"(T{f'/{strides}' * (strides > 1)}, B, {self.widths[place + 1]})"

    @cached_property
    def pool(self) -> Pool | None:
        """The pool over the steps of a sequence, if the net has one."""
        return next((layer for layer in self.layers if isinstance(layer, Pool)), None)

    def is_pooled(self, place: int) -> bool:
        """Whether the rows behind a layer are one per sequence."""
        return any(isinstance(layer, Pool) for layer in self.layers[: place + 1])

    def positions(self, steps: int, batch: int) -> tuple[int, ...]:
        """The shape of outputs without their last axis: (T, B), or (B,) behind a Pool.

        Targets, weights and gradients of the outputs have it, too.
        """
        return (steps, batch) if self.pool is None else (batch,)

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
    def head(self) -> Linear | Heads | None:
        """The linear head, or several of them, if the net has one."""
        last = self.layers[-1]
        return last if isinstance(last, (Linear, Heads)) else None

    @property
    def heads(self) -> Heads | None:
        """The Heads, if the net has several: its outputs are then a dict by their names."""
        return self.head if isinstance(self.head, Heads) else None

    def named(self, outputs: NDArray[Any]) -> Any:
        """An array (..., O) of all outputs as calls return it: by head if the net has Heads."""
        return outputs if self.heads is None else self.heads.split(outputs)

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

    @cached_property
    def static_size(self) -> int | None:
        """The number S of static inputs of each sequence; None if no layer reads them."""
        return _static_size(self.layers)

    @cached_property
    def starts_elsewhere(self) -> bool:
        """Whether a layer begins with another state than zeros where a call gives none."""
        return any(layer.initial_state != "zeros" for layer in self.recurrent)

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
    def borders(self) -> tuple[int, ...]:
        """The places of layers that read later steps or change their number, such as pools."""
        return tuple(
            place
            for place, layer in enumerate(self.layers)
            if isinstance(layer, RowLayer) and layer.is_border
        )

    @cached_property
    def windowed(self) -> tuple[int, ...]:
        """Those of `borders` behind which there are steps still: all but a Pool."""
        return tuple(p for p in self.borders if not isinstance(self.layers[p], Pool))

    @property
    def step_by_step(self) -> bool:
        """Whether outputs at a step need no later inputs, and each step has one: no bidirectional
        layer, and none of `borders`.
        """
        return not self.bidirectional and not self.borders

    def output_steps(self, steps: int) -> int:
        """The steps of the outputs, targets and weights of a call whose x has so many steps.

        They are the same unless a layer shortens time, such as Frames, a pool or a stride; 0 if x
        is too short for a window that must lie in it as a whole.
        """
        return int(self.steps_at(len(self.layers), steps))

    def output_lengths(self, lengths: Any) -> NDArray[np.int64]:
        """The steps of the outputs of sequences with these lengths, (B,) integers."""
        array: NDArray[np.int64] = np.asarray(lengths).astype(np.int64)
        return np.asarray(self.steps_at(len(self.layers), array), np.int64)

    def steps_at(self, place: int, steps: Any) -> Any:
        """The steps of the rows that come to layer `place`, for so many steps of x."""
        for layer in self.layers[:place]:
            if isinstance(layer, RowLayer):
                steps = layer.steps_after(steps)
        return steps

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
        return restored, (Grads, self._owner, self._flat, self._exponent)

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
        "[Embedding], one or more of RNN, LSTM, GRU and AntisymmetricRNN, [Linear or Heads], with "
        "Dense, Conv1d, LayerNorm, Dropout, StaticInput, Frames, MaxPool1d and AvgPool1d anywhere "
        "between, and one Pool behind the last layer that reads several steps"
    )
    for index, layer in enumerate(layers):
        if isinstance(layer, (list, tuple)):
            raise DTypeError("Stack takes the layers as arguments; write Stack(*layers).")
        if not isinstance(layer, Layer):
            raise DTypeError(f"Stack must be made of {shape}; argument {index} is {layer!r}.")
        inner = isinstance(layer, (Recurrent, RowLayer))
        first = isinstance(layer, Embedding) and index == 0
        last = isinstance(layer, (Linear, Heads)) and index == len(layers) - 1
        if not (inner or first or last):
            hint = " A Dense may stand anywhere." if isinstance(layer, Linear) else ""
            raise ArgumentError(
                f"Stack must be {shape}, in this order; got {type(layer).__name__} at place "
                f"{index} of {len(layers)}.{hint}"
            )
    if not any(isinstance(layer, Recurrent) for layer in layers):
        raise ArgumentError(f"Stack must be {shape}; got no recurrent layer.")


def _check_pool(layers: tuple[Layer, ...]) -> None:
    places = [place for place, layer in enumerate(layers) if isinstance(layer, Pool)]
    if len(places) > 1:
        raise ArgumentError(
            f"Stack must have one Pool at most, because behind it there is one row per sequence; "
            f"got them at the places {places}."
        )
    for place, layer in enumerate(layers):
        over_time = isinstance(layer, Recurrent) or (
            isinstance(layer, RowLayer) and (layer.is_border or getattr(layer, "past", 0) > 0)
        )
        if places and place > places[0] and over_time:
            raise ArgumentError(
                "Pool must stand behind the last layer that reads several steps, because it leaves "
                f"one row per sequence; got a {type(layer).__name__} at place {place}, behind the "
                f"Pool at place {places[0]}."
            )


def _widths(layers: tuple[Layer, ...]) -> tuple[int, ...]:
    """As Stack.widths; raises ShapeError if the sizes of neighbours do not fit."""
    # Rows in front of the first layer that has a size are as wide as it asks for.
    first = next(place for place, layer in enumerate(layers) if _size_field(layer))
    width: int = getattr(layers[first], _size_field(layers[first]) or "")
    for layer in reversed(layers[:first]):
        assert isinstance(layer, RowLayer)
        width = layer.width_before(width)
    found = [width]
    for index, layer in enumerate(layers):
        field = _size_field(layer)
        inputs = getattr(layer, field) if field else width
        if inputs != width:
            raise ShapeError(
                f"layer {index} ({type(layer).__name__}) must have {field} {width}, the output "
                f"size of layer {index - 1} ({type(layers[index - 1]).__name__}); got {inputs}."
            )
        width = _width_after(layer, width)
        found.append(width)
    return tuple(found)


def _size_field(layer: Layer) -> str | None:
    """The name of the field that must equal the output size of the layer before."""
    if isinstance(layer, RowLayer):
        return layer.size_field
    if isinstance(layer, Embedding):
        return "num_embeddings"
    return "input_size" if isinstance(layer, Recurrent) else "in_features"


def _width_after(layer: Layer, width: int) -> int:
    if isinstance(layer, RowLayer):
        return layer.width_after(width)
    if isinstance(layer, Embedding):
        return layer.embedding_dim
    return layer.output_size if isinstance(layer, Recurrent) else layer.out_features


def _static_size(layers: tuple[Layer, ...]) -> int | None:
    """As Stack.static_size; raises ShapeError if layers read different numbers of static inputs."""
    size = first = None
    for index, layer in enumerate(layers):
        own = getattr(layer, "static_size", None)
        if own is None:
            continue
        if size is not None and own != size:
            raise ShapeError(
                f"layer {index} ({type(layer).__name__}) must have static_size {size}, that of "
                f"layer {first}, because all layers read the same static inputs; got {own}."
            )
        size, first = own, index if first is None else first
    return size


def _check_residuals(
    residuals: tuple[tuple[int, int], ...], widths: tuple[int, ...], borders: tuple[int, ...]
) -> None:
    for begin, end in residuals:
        if any(begin <= place < end for place in borders):
            raise ArgumentError(
                f"the Residual of layers {begin} to {end - 1} must not have Frames, a pool or a "
                "convolution that shortens time or looks ahead, because its input is added step by "
                "step."
            )
        if widths[begin] != widths[end]:
            raise ShapeError(
                f"the Residual of layers {begin} to {end - 1} must put out rows as wide as those "
                f"it reads, {widths[begin]}; it puts out {widths[end]}. Let its last layer have "
                "that size, for instance a Dense."
            )
