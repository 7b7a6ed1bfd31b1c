"""Initialisers of weights and biases.

Values are drawn in float64, in the order in which parameters lie in the flat buffer, and then
rounded to the dtype, so that float32 and float64 parameters of one seed agree.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .._base.checks import choice, finite_float, float_in
from .convolution import Conv1d
from .flat import FlatArrays
from .householder import orthogonal_factor
from .layers import Dense, Embedding, Heads, Layer, LayerNorm, Linear, Pool, Recurrent
from .static_input import StaticInput

__all__ = [
    "ChronoSpread",
    "RecurrentInit",
    "chrono_bias",
    "forget_gate_bias",
    "initial_values",
    "orthogonal",
    "scaled_identity",
    "uniform",
]

Array = NDArray[np.float64]
RecurrentInit = Literal["orthogonal", "uniform", "identity"]
ChronoSpread = Literal["even", "log"]


def uniform(rng: np.random.Generator, shape: tuple[int, ...], bound: float) -> Array:
    """Values drawn uniformly from [-bound, bound); PyTorch uses bound = 1/sqrt(H)."""
    return rng.uniform(-bound, bound, shape)


def orthogonal(rng: np.random.Generator, size: int, gain: float = 1.0) -> Array:
    """A random orthogonal matrix (size, size) times gain, uniform over the orthogonal group.

    Its bits do not depend on the number of BLAS threads.
    Reference: Saxe, McClelland, Ganguli 2014; Mezzadri 2007, sec. 5, for the signs.
    """
    return gain * orthogonal_factor(rng.standard_normal((size, size)))


def scaled_identity(size: int, scale: float = 1.0) -> Array:
    """The identity (size, size) times scale. Reference: Le, Jaitly, Hinton 2015."""
    return scale * np.eye(size)


def forget_gate_bias(params: FlatArrays, value: float = 1.0) -> None:
    """Sets the bias of each memory gate (LSTM: f, GRU: z) to value, in place.

    A positive value opens the gate, so that an untrained net remembers. Layers without such a gate
    or without biases are not changed. Reference: Gers et al. 2000; Jozefowicz et al. 2015, sec. 4.
    """
    value = finite_float("forget_bias", value)
    for layer, bias_ih, bias_hh in _biases(params):
        gate = layer.cell.memory_gate
        if gate is not None:
            rows = layer.cell.rows(gate, layer.hidden_size)
            bias_ih[rows] = value
            bias_hh[rows] = 0.0


def chrono_bias(
    params: FlatArrays, longest: float, rng: np.random.Generator, spread: ChronoSpread = "even"
) -> None:
    """Sets memory-gate biases to log(U(1, longest-1)) and input-gate biases to their negatives.

    It works in place. Units then forget with time constants of up to about `longest` steps.
    spread="even" draws these uniformly as in the formula, so that nine of ten are longer than a
    tenth of the longest; spread="log" spaces their logarithms evenly over the units, in random
    order, so that every scale has equally many units.
    Raises ArgumentError unless longest > 2, and for another spread.
    Reference: Tallec and Ollivier 2018, eq. 16; in the GRU the gate z keeps the state, as in
    PyTorch. "log" is not from the paper.
    """
    longest = float_in("chrono", longest, 2.0, open_low=True)
    even = choice("chrono_spread", spread, get_args(ChronoSpread)) == "even"
    for layer, bias_ih, bias_hh in _biases(params):
        cell = layer.cell
        if cell.memory_gate is None:
            continue
        size = layer.hidden_size
        memory = (
            np.log(rng.uniform(1.0, longest - 1.0, size))
            if even
            else rng.permutation((np.arange(size) + 0.5) / size * math.log(longest - 1.0))
        )
        gates = ((cell.memory_gate, memory), (cell.input_gate, -memory))
        for gate, values in gates:
            if gate is not None:
                rows = cell.rows(gate, layer.hidden_size)
                bias_ih[rows] = values
                bias_hh[rows] = 0.0


def initial_values(
    rng: np.random.Generator,
    layer: Layer,
    name: str,
    recurrent: RecurrentInit,
    gain: float,
) -> Array | float:
    """The initial value of a parameter of a layer, in float64; the caller rounds it."""
    shape = layer.parameter_shapes[name][0]
    name = name.removesuffix("_reverse")
    if isinstance(layer, Embedding):
        return rng.standard_normal(shape)
    if isinstance(layer, (Linear, Heads, Dense)):
        return uniform(rng, shape, 1.0 / math.sqrt(layer.in_features))
    if isinstance(layer, StaticInput) or (name.startswith("initial_") and len(shape) == 2):
        return uniform(rng, shape, 1.0 / math.sqrt(shape[1]))
    if name.startswith("initial_"):
        return 0.0
    if isinstance(layer, Pool):
        return uniform(rng, shape, 1.0 / math.sqrt(layer.width))
    if isinstance(layer, Conv1d):
        fan_in = layer.in_channels // layer.groups * layer.kernel_size
        return uniform(rng, shape, 1.0 / math.sqrt(fan_in))
    if isinstance(layer, LayerNorm):
        return 1.0 if name == "weight" else 0.0
    assert isinstance(layer, Recurrent)  # Dropout has no parameters
    if name == "weight_hh" and layer.cell.antisymmetric and recurrent == "orthogonal":
        # The deviation is that of Chang et al. 2019, section 4: A - A' has norm of about 3 * gain.
        return gain / math.sqrt(layer.hidden_size) * rng.standard_normal(shape)
    if name == "weight_hh" and recurrent != "uniform":
        if layer.recurrent == "diagonal":
            return gain if recurrent == "identity" else rng.uniform(0.0, gain, shape)
        blocks = [
            orthogonal(rng, shape[1], gain)
            if recurrent == "orthogonal"
            else scaled_identity(shape[1], gain)
            for _ in range(shape[0] // shape[1])
        ]
        return np.concatenate(blocks)
    if name.startswith("bias_") and recurrent != "uniform":
        return 0.0
    if layer.skip is not None and layer.skip.value is not None:
        if name == "skip_scale":
            return layer.skip.value
        if name == "skip_logit":
            return math.log(layer.skip.value / (1.0 - layer.skip.value))
    return uniform(rng, shape, 1.0 / math.sqrt(layer.hidden_size))


def _biases(params: FlatArrays) -> list[tuple[Recurrent, NDArray[Any], NDArray[Any]]]:
    """(layer, bias_ih, bias_hh) for each direction of each recurrent layer that has biases."""
    found = []
    for name in params:
        layer, own = params.owner.layer_of(name)
        if isinstance(layer, Recurrent) and own.startswith("bias_ih"):
            other = name.replace("bias_ih", "bias_hh")
            # Without recurrent weights there is one bias: what would go to the other is lost.
            bias_hh = params[other] if other in params else np.empty_like(params[name])
            found.append((layer, params[name], bias_hh))
    return found
