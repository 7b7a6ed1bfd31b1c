"""Layers and stacks of them: frozen descriptions that hold sizes and options, never arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from .._base.checks import choice, finite_float, flag, float_in, layer_size, store
from ..errors import ArgumentError, DTypeError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from .params import Params

__all__ = [
    "Cell",
    "Composite",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "Linear",
    "ParameterSpec",
    "Recurrent",
    "Skip",
    "Stack",
]

SkipKind = Literal["add", "mix"]
RecurrentInit = Literal["orthogonal", "uniform", "identity"]
ChronoSpread = Literal["even", "log"]


@dataclass(frozen=True)
class Cell:
    """What the library must know of a recurrent cell; its mathematics is in csrc/cells.

    name: the core's name. gates: names in the order of the rows of weight_ih and weight_hh.
    functions: what squashes each gate, "" where the layer's nonlinearity does. states: what is
    carried from step to step, h first. memory_gate and input_gate: the gates
    that keep the state and let the new value in, where the cell has them. antisymmetric: whether
    weight_hh is A of the recurrent weights A - A' - diffusion*I.
    """

    name: str
    gates: tuple[str, ...]
    functions: tuple[str, ...]
    states: tuple[str, ...]
    memory_gate: str | None = None
    input_gate: str | None = None
    antisymmetric: bool = False

    def rows(self, gate: str, hidden_size: int) -> slice:
        """Rows of weight_ih, weight_hh and the biases that belong to a gate."""
        index = self.gates.index(gate)
        return slice(index * hidden_size, (index + 1) * hidden_size)


@dataclass(frozen=True)
class ParameterSpec:
    """Name, shape and place of one parameter in the flat buffer."""

    name: str
    shape: tuple[int, ...]
    start: int
    meaning: str

    @property
    def stop(self) -> int:
        return self.start + prod(self.shape)


@dataclass(frozen=True)
class Embedding:
    """Table look-up: integer inputs (T, B) in [0, num_embeddings) become rows of weight [V, E]."""

    num_embeddings: int
    embedding_dim: int

    def __post_init__(self) -> None:
        store(self, "num_embeddings", layer_size("Embedding.num_embeddings", self.num_embeddings))
        store(self, "embedding_dim", layer_size("Embedding.embedding_dim", self.embedding_dim))

    @property
    def parameter_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        shape = (self.num_embeddings, self.embedding_dim)
        return {"weight": (shape, "(num_embeddings, embedding_dim)")}


@dataclass(frozen=True)
class Skip:
    """Skip connection through time from the output `lag` steps ago, on h only.

    kind "add": h_t = cell_t + s*h_(t-lag), s = value, by default 1;
    kind "mix": h_t = (1-a)*cell_t + a*h_(t-lag), a = value in [0, 1], by default 0.5.
    learned: s becomes the parameter skip_scale [H], a becomes sigmoid(skip_logit [H]); value is
    then where they start. Outputs before the first step and before a reset are zero.
    """

    lag: int
    _: KW_ONLY
    kind: SkipKind = "add"
    value: float | None = None
    learned: bool = False

    def __post_init__(self) -> None:
        store(self, "lag", layer_size("Skip.lag", self.lag))
        choice("Skip.kind", self.kind, get_args(SkipKind))
        flag("Skip.learned", self.learned)
        default = 1.0 if self.kind == "add" else 0.5
        value = default if self.value is None else finite_float("Skip.value", self.value)
        if self.kind == "mix":
            inside = 0.0 < value < 1.0 if self.learned else 0.0 <= value <= 1.0
            if not inside:
                border = "strictly between 0 and 1" if self.learned else "in [0, 1]"
                raise ArgumentError(f"Skip.value of kind 'mix' must be {border}; got {value}.")
        store(self, "value", value)


@dataclass(frozen=True)
class Recurrent:
    """Common part of the recurrent layers; cells.py has the layers themselves.

    weight_ih [G*H, I], weight_hh [G*H, H], bias_ih and bias_hh [G*H] as in PyTorch.
    bidirectional: a second direction with parameters of its own (suffix _reverse) reads every
    sequence from its last step to its first; the output is both, [h, h_reverse], 2*H wide.
    skip: a connection through time. residual: the layer's output is h plus its input, which must
    be as wide; recurrence and state see h only.
    zoneout in [0, 1): probability that a unit's h stays what it was before the step, before the
    skip connection acts; without train=True, h is the expectation. Krueger et al. 2017, eq. 4.
    recurrent_dropout in [0, 1): probability that h of a unit counts for nothing in weight_hh @ h,
    the same units at all steps of a call, the others divided by 1 - p; only with train=True, and
    not where a cell uses h itself (the GRU's z*h). Gal and Ghahramani 2016, sec. 4.
    Reference for two directions: Schuster and Paliwal 1997.
    """

    input_size: int
    hidden_size: int
    _: KW_ONLY
    bias: bool = True
    bidirectional: bool = False
    skip: Skip | None = None
    residual: bool = False
    zoneout: float = 0.0
    recurrent_dropout: float = 0.0

    cell: ClassVar[Cell]

    def __post_init__(self) -> None:
        if type(self) is Recurrent:
            raise DTypeError("Recurrent is not a layer; use RNN, LSTM, GRU or AntisymmetricRNN.")
        name = type(self).__name__
        store(self, "input_size", layer_size(f"{name}.input_size", self.input_size))
        store(self, "hidden_size", layer_size(f"{name}.hidden_size", self.hidden_size))
        flag(f"{name}.bias", self.bias)
        flag(f"{name}.bidirectional", self.bidirectional)
        flag(f"{name}.residual", self.residual)
        for option in ("zoneout", "recurrent_dropout"):
            store(self, option, float_in(f"{name}.{option}", getattr(self, option), 0.0, 1.0))
        if self.skip is not None and not isinstance(self.skip, Skip):
            raise DTypeError(f"{name}.skip must be a Skip or None; got {self.skip!r}.")
        if self.residual and self.input_size != self.output_size:
            width = "2*hidden_size" if self.bidirectional else "hidden_size"
            raise ShapeError(
                f"{name} with residual=True must have input_size == {width}; got "
                f"{self.input_size} and {self.output_size}. Put a layer that changes the size "
                "before it, or leave residual out."
            )

    @property
    def output_size(self) -> int:
        """Width of the output: 2*H with two directions, else H."""
        return self.hidden_size * len(self.directions)

    @property
    def directions(self) -> tuple[str, ...]:
        """What the names of each direction's parameters end with."""
        return ("", "_reverse") if self.bidirectional else ("",)

    def gate_function(self, gate: str) -> str:
        """What squashes a gate: "sigmoid", "tanh", "relu" or "identity"."""
        return self.cell.functions[self.cell.gates.index(gate)] or self.core_nonlinearity

    @property
    def core_nonlinearity(self) -> str:
        """The nonlinearity the core is told; only some cells have a choice."""
        return "tanh"

    @property
    def core_step(self) -> float:
        """The step of Euler's method; only the antisymmetric RNN has one."""
        return 0.0

    @property
    def core_diffusion(self) -> float:
        """What is subtracted from the diagonal; only the antisymmetric RNN has it."""
        return 0.0

    @property
    def core_zoneout_cell(self) -> float:
        """The zoneout of the second state; only the LSTM has one."""
        return 0.0

    @property
    def is_random(self) -> bool:
        """Whether a call with train=True draws masks for this layer."""
        return max(self.zoneout, self.core_zoneout_cell, self.recurrent_dropout) > 0.0

    @property
    def lag(self) -> int:
        """Number of past outputs that the state holds, at least 1."""
        return self.skip.lag if self.skip is not None else 1

    @property
    def parameter_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        gates, hidden = len(self.cell.gates), self.hidden_size
        rows, formula = gates * hidden, "H" if gates == 1 else f"{gates}*H"
        order = f" with gates in the order {','.join(self.cell.gates)}" if gates > 1 else ""
        shapes = {
            "weight_ih": ((rows, self.input_size), f"({formula}, I){order}"),
            "weight_hh": ((rows, hidden), f"({formula}, H){order}"),
        }
        specs: dict[str, tuple[tuple[int, ...], str]] = dict(shapes)
        if self.bias:
            specs["bias_ih"] = specs["bias_hh"] = ((rows,), f"({formula},){order}")
        if self.skip is not None and self.skip.learned:
            name = "skip_scale" if self.skip.kind == "add" else "skip_logit"
            specs[name] = ((hidden,), "(H,)")
        return {name + end: spec for end in self.directions for name, spec in specs.items()}


@dataclass(frozen=True)
class Linear:
    """Head: outputs = inputs @ weight.T + bias, with weight [O, H] and bias [O]."""

    in_features: int
    out_features: int
    _: KW_ONLY
    bias: bool = True

    def __post_init__(self) -> None:
        store(self, "in_features", layer_size("Linear.in_features", self.in_features))
        store(self, "out_features", layer_size("Linear.out_features", self.out_features))
        flag("Linear.bias", self.bias)

    @property
    def parameter_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        shape = (self.out_features, self.in_features)
        specs: dict[str, tuple[tuple[int, ...], str]] = {
            "weight": (shape, "(out_features, in_features)")
        }
        if self.bias:
            specs["bias"] = ((self.out_features,), "(out_features,)")
        return specs


@dataclass(frozen=True)
class LayerNorm:
    """Every row to mean 0 and variance 1: (x - mean) / sqrt(var + eps) * weight + bias.

    normalized_shape: the size H of the rows. weight and bias [H] are parameters;
    elementwise_affine=False leaves both out, bias=False the latter.
    Reference: Ba, Kiros, Hinton 2016, sec. 3.1; names and biased variance as torch.nn.LayerNorm.
    """

    normalized_shape: int
    eps: float = 1e-5
    _: KW_ONLY
    elementwise_affine: bool = True
    bias: bool = True

    def __post_init__(self) -> None:
        size = layer_size("LayerNorm.normalized_shape", self.normalized_shape)
        store(self, "normalized_shape", size)
        store(self, "eps", float_in("LayerNorm.eps", self.eps, 0.0, open_low=True))
        flag("LayerNorm.elementwise_affine", self.elementwise_affine)
        flag("LayerNorm.bias", self.bias)

    @property
    def parameter_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        names = ("weight", "bias") if self.bias else ("weight",)
        shape = (self.normalized_shape,)
        return dict.fromkeys(names if self.elementwise_affine else (), (shape, "(H,)"))


@dataclass(frozen=True)
class Dropout:
    """With train=True every value is 0 with probability p in [0, 1), else divided by 1 - p.

    Which, is a function of the call's seed and of place, step, sequence and unit; without
    train=True nothing happens. Reference: Srivastava et al. 2014, scaled as torch.nn.Dropout.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        store(self, "p", float_in("Dropout.p", self.p, 0.0, 1.0))

    @property
    def is_random(self) -> bool:
        """Whether a call with train=True draws masks for this layer."""
        return self.p > 0.0

    @property
    def parameter_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        return {}


Layer = Embedding | Recurrent | Linear | LayerNorm | Dropout


@dataclass(frozen=True, init=False, repr=False)
class Stack:
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

    @property
    def n_parameters(self) -> int:
        """Number of values in the flat buffer."""
        return self.parameter_specs[-1].stop

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
        """Fresh parameters; see gradcore.init.initialise."""
        from ..init import initialise

        return initialise(
            self,
            seed,
            dtype,
            recurrent=recurrent,
            gain=gain,
            forget_bias=forget_bias,
            chrono=chrono,
            chrono_spread=chrono_spread,
        )


class Composite(ABC):
    """What has its parameters in one flat buffer without being a Stack, as implicit.Model.

    Optimizers, groups, clips and constraints take its Params and Grads as those of a Stack.
    """

    @property
    @abstractmethod
    def parameter_specs(self) -> tuple[ParameterSpec, ...]:
        """Every parameter in the order of the flat buffer."""

    @property
    def n_parameters(self) -> int:
        """Number of values in the flat buffer."""
        specs = self.parameter_specs
        return specs[-1].stop if specs else 0

    @abstractmethod
    def layer_of(self, name: str) -> tuple[Layer | None, str]:
        """The layer that a parameter belongs to, if any, and the parameter's name there."""


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
