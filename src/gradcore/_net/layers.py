"""Layers: frozen dataclasses that describe sizes and options and have no arrays."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from .._base.checks import choice, finite_float, flag, float_in, layer_size, store
from ..errors import ArgumentError, DTypeError, ShapeError
from .heads import Heads, Linear, affine_shapes

__all__ = [
    "Activation",
    "Cell",
    "Dense",
    "Dropout",
    "Embedding",
    "Heads",
    "Layer",
    "LayerNorm",
    "Linear",
    "Pool",
    "PoolKind",
    "Recurrent",
    "Residual",
    "RowLayer",
    "Skip",
]

SkipKind = Literal["add", "mix"]
InitialState = Literal["zeros", "learned", "static"]
RecurrentWeights = Literal["dense", "diagonal", "blocks", "none"]
PoolKind = Literal["last", "mean", "max", "attention"]
Activation = Literal["identity", "relu", "tanh", "gelu", "silu", "sigmoid", "softplus"]


@dataclass(frozen=True)
class Cell:
    """The facts about a recurrent cell that Python needs; its equations are in csrc/cells.

    name: the core's name of the cell. gates: names of the gates in the order of the rows of
    weight_ih and weight_hh. functions: the activation function of each gate; "" means the layer's
    nonlinearity. states: the arrays carried from step to step, h first. memory_gate, input_gate:
    the gate that keeps the state and the gate that lets new values in, None if the cell has no such
    gate. antisymmetric: whether weight_hh is A of the recurrent matrix A - A' - diffusion*I.
    tells_gates: whether the activations of its gates can be had.
    """

    name: str
    gates: tuple[str, ...]
    functions: tuple[str, ...]
    states: tuple[str, ...]
    memory_gate: str | None = None
    input_gate: str | None = None
    antisymmetric: bool = False
    tells_gates: bool = True

    def rows(self, gate: str, hidden_size: int) -> slice:
        """The rows of weight_ih, weight_hh and the biases that belong to a gate."""
        index = self.gates.index(gate)
        return slice(index * hidden_size, (index + 1) * hidden_size)


@dataclass(frozen=True)
class Embedding:
    """Turns integer inputs (T, B) in [0, V) into rows of weight [V, E].

    V is num_embeddings and E embedding_dim.
    """

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
    """A skip connection through time: it adds the output h of `lag` steps ago to the cell's h.

    kind "add": h_t = cell_t + s*h_(t-lag) with s = value, by default 1.
    kind "mix": h_t = (1-a)*cell_t + a*h_(t-lag) with a = value in [0, 1], by default 0.5.
    learned: s is the parameter skip_scale [H], or a is sigmoid(skip_logit [H]); value is then the
    initial value of s or a. Outputs before the first step and before a reset count as zero.
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
    """Base class of the recurrent layers, which are in cells.py.

    Parameters are weight_ih [G*H, I], weight_hh [G*H, H], bias_ih and bias_hh [G*H] as in PyTorch,
    with I = input_size, H = hidden_size and G gates.
    recurrent: which units of h weight_hh lets a unit read. "dense": all, weight_hh [G*H, H].
    "diagonal": itself, weight_hh [G*H] (Li et al. 2018). "blocks": those of its own of `blocks`
    runs of equal length, which are called heads where Beck et al. 2024 use them; weight_hh
    [G*H, H/blocks] multiplies the units of the row's own block. "none": no unit; there is neither
    weight_hh nor bias_hh, and the cell sees 0 in their place (Feng et al. 2024). Diagonal and none
    need no product in the time loop, blocks a smaller one.
    bidirectional: a second direction with its own parameters (suffix _reverse) reads every sequence
    from its last step to its first; the output is [h, h_reverse], 2*H wide.
    skip: a connection through time. residual: the layer's output is h plus its input, which must
    have the same width; the recurrence and the state use h only.
    zoneout in [0, 1): the probability that h of a unit keeps its value of the step before; it acts
    before the skip connection. Without train=True, h is the expectation. Krueger et al. 2017, eq.
    4.
    recurrent_dropout in [0, 1): the probability p that h of a unit is replaced by 0 in
    weight_hh @ h, for the same units at all steps of a call; the other units are divided by 1 - p.
    It acts only with train=True, and not where a cell uses h itself (z*h in the GRU). Gal and
    Ghahramani 2016, sec. 4. Reference for two directions: Schuster and Paliwal 1997.
    initial_state: the state before the first step where the call gives none. "zeros"; "learned": a
    parameter for each state, initial_h [H] and for an LSTM initial_c [H], the same for all
    sequences; "static": of sequence b it is initial_h_weight @ static[b] + initial_h, with
    initial_h_weight [H, S], and the same for c. static_size is S. All past outputs that a skip
    connection reaches back to begin as the same initial h. The parameters are zero at first, the
    weights uniform in +-1/sqrt(S).
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
    initial_state: InitialState = "zeros"
    static_size: int | None = None
    recurrent: RecurrentWeights = "dense"
    blocks: int | None = None

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
        choice(f"{name}.initial_state", self.initial_state, get_args(InitialState))
        if (self.initial_state == "static") != (self.static_size is not None):
            raise ArgumentError(
                f"{name}.static_size must be the number of static inputs with "
                'initial_state="static", and only then; got '
                f"static_size={self.static_size!r} and initial_state={self.initial_state!r}."
            )
        if self.static_size is not None:
            store(self, "static_size", layer_size(f"{name}.static_size", self.static_size))
        self._check_recurrent(name)
        if self.residual and self.input_size != self.output_size:
            width = "2*hidden_size" if self.bidirectional else "hidden_size"
            raise ShapeError(
                f"{name} with residual=True must have input_size == {width}; got "
                f"{self.input_size} and {self.output_size}. Put a layer without residual that "
                "changes the size before it, or leave residual out."
            )

    def _check_recurrent(self, name: str) -> None:
        choice(f"{name}.recurrent", self.recurrent, get_args(RecurrentWeights))
        if (self.recurrent == "blocks") != (self.blocks is not None):
            raise ArgumentError(
                f'{name}.blocks must be the number of blocks with recurrent="blocks", and only '
                f"then; got blocks={self.blocks!r} and recurrent={self.recurrent!r}."
            )
        if self.blocks is not None:
            store(self, "blocks", layer_size(f"{name}.blocks", self.blocks))
            if self.hidden_size % self.blocks:
                raise ShapeError(
                    f"{name}.blocks must divide hidden_size; got {self.blocks} and "
                    f"{self.hidden_size}."
                )

    @property
    def output_size(self) -> int:
        """The width of the output: 2*H if bidirectional, else H."""
        return self.hidden_size * len(self.directions)

    @property
    def head_size(self) -> int:
        """The number of units of h that weight_hh lets a unit read."""
        blocks = {"dense": 1, "diagonal": self.hidden_size}.get(self.recurrent, self.blocks)
        return 0 if blocks is None else self.hidden_size // blocks

    @property
    def directions(self) -> tuple[str, ...]:
        """The suffix of the parameter names of each direction."""
        return ("", "_reverse") if self.bidirectional else ("",)

    def gate_function(self, gate: str) -> str:
        """The activation function of a gate: "sigmoid", "tanh", "relu" or "identity"."""
        return self.cell.functions[self.cell.gates.index(gate)] or self.core_nonlinearity

    @property
    def core_nonlinearity(self) -> str:
        """The nonlinearity that is passed to the core; only some cells have a choice."""
        return "tanh"

    @property
    def core_step(self) -> float:
        """The step of Euler's method, which only the antisymmetric RNN has; 0 otherwise."""
        return 0.0

    @property
    def core_diffusion(self) -> float:
        """The diffusion, which the antisymmetric RNN subtracts from the diagonal; 0 otherwise."""
        return 0.0

    @property
    def core_zoneout_cell(self) -> float:
        """The zoneout of the second state, which only cells with two states have; 0 otherwise."""
        return 0.0

    @property
    def core_options(self) -> tuple[float, ...]:
        """The options of a compiled cell, in their order."""
        return ()

    def make_ready(self, dtype: np.dtype[Any]) -> None:
        """Has the core know the cell in this dtype, which only compiled cells need."""

    @property
    def is_random(self) -> bool:
        """Whether a call with train=True draws masks for this layer."""
        return max(self.zoneout, self.core_zoneout_cell, self.recurrent_dropout) > 0.0

    @property
    def lag(self) -> int:
        """The number of past outputs in the state, at least 1."""
        return self.skip.lag if self.skip is not None else 1

    @property
    def parameter_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        gates, hidden = len(self.cell.gates), self.hidden_size
        rows, formula = gates * hidden, "H" if gates == 1 else f"{gates}*H"
        order = f" with gates in the order {','.join(self.cell.gates)}" if gates > 1 else ""
        specs: dict[str, tuple[tuple[int, ...], str]] = {
            "weight_ih": ((rows, self.input_size), f"({formula}, I){order}")
        }
        if self.recurrent == "diagonal":
            specs["weight_hh"] = ((rows,), f"({formula},){order}")
        elif self.recurrent == "blocks":
            specs["weight_hh"] = ((rows, self.head_size), f"({formula}, H/blocks){order}")
        elif self.recurrent == "dense":
            specs["weight_hh"] = ((rows, hidden), f"({formula}, H){order}")
        biases = () if not self.bias else ("bias_ih", "bias_hh")
        for bias in biases[:1] if self.recurrent == "none" else biases:
            specs[bias] = ((rows,), f"({formula},){order}")
        if self.skip is not None and self.skip.learned:
            name = "skip_scale" if self.skip.kind == "add" else "skip_logit"
            specs[name] = ((hidden,), "(H,)")
        if self.initial_state != "zeros":
            specs |= {f"initial_{state}": ((hidden,), "(H,)") for state in self.cell.states}
        if self.static_size is not None:
            for state in self.cell.states:
                specs[f"initial_{state}_weight"] = ((hidden, self.static_size), "(H, static_size)")
        return {name + end: spec for end in self.directions for name, spec in specs.items()}


@dataclass(frozen=True)
class RowLayer:
    """Base class of the layers that act on each row: any number may stand around recurrent layers.

    size_field: the name of the field that must equal the width of the rows; None: any width.
    """

    size_field: ClassVar[str | None] = None

    def width_after(self, width: int) -> int:
        """The width of the rows that it puts out for rows of this width."""
        return width

    def width_before(self, width: int) -> int:
        """The width of the rows that it makes rows of this width of, if it has no size_field."""
        return width

    @property
    def is_border(self) -> bool:
        """Whether it reads later steps or changes their number: a part of the net begins there."""
        return False

    def steps_after(self, steps: Any) -> Any:
        """The steps that it puts out for so many steps, an integer or an array."""
        return steps

    @property
    def past(self) -> int:
        """The number of past rows that it reads, which are part of the net's state."""
        return 0

    @property
    def takes_tokens(self) -> bool:
        """Whether it may come first in a net whose inputs are integer tokens."""
        return False

    @property
    def core_transforms(self) -> tuple[dict[str, Any], ...]:
        """What the core runs for this layer, one after the other, as options of its Transform."""
        raise NotImplementedError

    @property
    def is_random(self) -> bool:
        """Whether a call with train=True draws masks for this layer."""
        return False

    @property
    def parameter_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        return {}


@dataclass(frozen=True)
class Dense(RowLayer):
    """A layer without recurrence, anywhere in a net: activation(inputs @ weight.T + bias).

    weight [O, I] and bias [O] with I = in_features and O = out_features, as torch.nn.Linear.
    activation: "identity", "relu", "tanh", "sigmoid", "gelu", "silu" or "softplus". gelu(x) is
    x * P(X <= x) for a standard normal X: the exact form, PyTorch's default, not the one with tanh.
    silu(x) is x * sigmoid(x). softplus(x) is log(1 + exp(x)) for every x, while PyTorch returns x
    above 20.
    Rows are computed again on the way back, so that no array over all steps is kept.
    Raises ArgumentError for another activation or sizes that are not positive.
    Reference: Hendrycks and Gimpel 2016 (gelu); Elfwing, Uchibe, Doya 2018 (silu).
    """

    in_features: int
    out_features: int
    activation: Activation = "identity"
    _: KW_ONLY
    bias: bool = True

    size_field: ClassVar[str | None] = "in_features"

    def __post_init__(self) -> None:
        store(self, "in_features", layer_size("Dense.in_features", self.in_features))
        store(self, "out_features", layer_size("Dense.out_features", self.out_features))
        choice("Dense.activation", self.activation, get_args(Activation))
        flag("Dense.bias", self.bias)

    def width_after(self, width: int) -> int:
        return self.out_features

    @property
    def core_transforms(self) -> tuple[dict[str, Any], ...]:
        product = {
            "kind": "dense",
            "inputs": self.in_features,
            "outputs": self.out_features,
            "bias": self.bias,
        }
        if self.activation == "identity":
            return (product,)
        return product, {"kind": "activation", "function": self.activation}

    @property
    def parameter_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        return affine_shapes(self.in_features, self.out_features, self.bias)


@dataclass(frozen=True)
class LayerNorm(RowLayer):
    """Normalises each row to mean 0 and variance 1: (x - mean) / sqrt(var + eps) * weight + bias.

    normalized_shape: the size H of the rows. weight and bias [H] are parameters;
    elementwise_affine=False leaves both out, and bias=False leaves bias out.
    Reference: Ba, Kiros, Hinton 2016, sec. 3.1; names and the biased variance are those of
    torch.nn.LayerNorm.
    """

    normalized_shape: int
    eps: float = 1e-5
    _: KW_ONLY
    elementwise_affine: bool = True
    bias: bool = True

    size_field: ClassVar[str | None] = "normalized_shape"

    def __post_init__(self) -> None:
        size = layer_size("LayerNorm.normalized_shape", self.normalized_shape)
        store(self, "normalized_shape", size)
        store(self, "eps", float_in("LayerNorm.eps", self.eps, 0.0, open_low=True))
        flag("LayerNorm.elementwise_affine", self.elementwise_affine)
        flag("LayerNorm.bias", self.bias)

    def width_after(self, width: int) -> int:
        return self.normalized_shape

    @property
    def core_transforms(self) -> tuple[dict[str, Any], ...]:
        affine = self.elementwise_affine
        options = {"affine": affine, "bias": affine and self.bias, "eps": self.eps}
        return ({"kind": "layer_norm", **options},)

    @property
    def parameter_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        names = ("weight", "bias") if self.bias else ("weight",)
        shape = (self.normalized_shape,)
        return dict.fromkeys(names if self.elementwise_affine else (), (shape, "(H,)"))


@dataclass(frozen=True)
class Dropout(RowLayer):
    """Sets each value to 0 with probability p in [0, 1) and divides the others by 1 - p.

    It acts only with train=True. Which values become 0 depends only on the seed of the call, the
    layer's place, the step, the sequence and the unit.
    Reference: Srivastava et al. 2014, scaled as in torch.nn.Dropout.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        store(self, "p", float_in("Dropout.p", self.p, 0.0, 1.0))

    @property
    def core_transforms(self) -> tuple[dict[str, Any], ...]:
        return ({"kind": "dropout", "p": self.p},)

    @property
    def is_random(self) -> bool:
        return self.p > 0.0


@dataclass(frozen=True)
class Pool(RowLayer):
    """One row per sequence from the rows of all its steps: what follows has no time axis.

    kind: "last": the row of the last step, lengths[b]-1. "mean": the mean over the steps t <
    lengths[b]. "max": the maximum of each unit; its gradient goes to the first step that has it.
    "attention": the sum of a_t h_t with a = softmax over t of weight @ h_t, where weight [1, W] is
    a parameter; a bias would change nothing. width: the size W of the rows. Of a sequence of length
    0 the row is zero, and it counts for nothing in the loss.

    It stands once in a net, behind the last recurrent layer, and outside of Residuals. Outputs of
    the net are (B, O), targets (B,) or (B, O), weights (B,). Sums over steps are kept in float64
    while the steps go by, so that no array over all steps is made; only between a bidirectional
    layer and what needs both directions of a step (attention, or a layer in front of the pool)
    there is one. Calls with `reset` are refused, because a sequence that is cut has no single row.
    Raises ArgumentError for another kind or a size that is not positive.
    Reference: Raffel and Ellis 2016, eq. 1, 2 (attention over the steps of a sequence); Milakov and
    Gimelshein 2018, algorithm 3 (softmax in one pass).
    """

    kind: PoolKind
    width: int

    size_field: ClassVar[str | None] = "width"

    def __post_init__(self) -> None:
        choice("Pool.kind", self.kind, get_args(PoolKind))
        store(self, "width", layer_size("Pool.width", self.width))

    @property
    def is_border(self) -> bool:
        return True

    def width_after(self, width: int) -> int:
        return self.width

    def steps_after(self, steps: Any) -> Any:
        return np.minimum(steps, 1)

    @property
    def core_transforms(self) -> tuple[dict[str, Any], ...]:
        return ({"kind": "pool", "function": self.kind},)

    @property
    def parameter_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        return {"weight": ((1, self.width), "(1, W)")} if self.kind == "attention" else {}


Layer = Embedding | Recurrent | Linear | Heads | RowLayer


@dataclass(frozen=True, init=False)
class Residual:
    """A residual connection around a run of layers: x + layers(x).

    layers: recurrent layers with one direction, Dense, Conv1d, LayerNorm, Dropout, StaticInput or
    further Residuals, of which the last puts out rows as wide as the first reads. A Stack counts
    the layers inside one by one: in Stack(Embedding(9, 8), Residual(LayerNorm(8), LSTM(8, 8))) the
    LSTM is layer 2.
    Resets and zoneout act on the states of the layers inside, not on x.
    Raises DTypeError for something else than such a layer, ArgumentError for a bidirectional layer,
    which reads all steps before it puts out the first: its own option residual=True adds its input.
    Reference: He, Zhang, Ren, Sun 2016, eq. 1.
    """

    layers: tuple[Recurrent | RowLayer | Residual, ...]

    def __init__(self, *layers: Recurrent | RowLayer | Residual) -> None:
        if not layers:
            raise ArgumentError("Residual must have at least one layer; got none.")
        for index, layer in enumerate(layers):
            if not isinstance(layer, (Recurrent, RowLayer, Residual)):
                raise DTypeError(
                    "Residual must be made of RNN, LSTM, GRU, AntisymmetricRNN, Dense, Conv1d, "
                    f"LayerNorm, Dropout, StaticInput and Residual; argument {index} is {layer!r}."
                )
            if isinstance(layer, Pool):
                raise ArgumentError(
                    "Residual must not have a Pool, which makes one row of all steps; argument "
                    f"{index} is {layer!r}. Put it behind the Residual."
                )
            if isinstance(layer, Recurrent) and layer.bidirectional:
                raise ArgumentError(
                    "Residual must have layers with one direction, because a bidirectional layer "
                    f"reads all steps before it puts out the first; argument {index} is a "
                    f"bidirectional {type(layer).__name__}. Its option residual=True adds its "
                    "input to its output."
                )
        store(self, "layers", layers)

    def __repr__(self) -> str:
        return f"Residual({', '.join(map(repr, self.layers))})"
