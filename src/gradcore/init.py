"""Initial values of parameters, for long memories first.

Values are drawn in float64 in the order of the flat buffer and then rounded, so that float32 and
float64 parameters of one seed agree.
"""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ._base.checks import choice, finite_float, float_dtype, float_in, integer
from ._net.layers import (
    ChronoSpread,
    Embedding,
    Layer,
    LayerNorm,
    Linear,
    Recurrent,
    RecurrentInit,
    Stack,
)
from ._net.params import Params
from .errors import ArgumentError

__all__ = [
    "chrono_bias",
    "forget_gate_bias",
    "initialise",
    "orthogonal",
    "scaled_identity",
    "uniform",
]

Array = NDArray[np.float64]


def uniform(rng: np.random.Generator, shape: tuple[int, ...], bound: float) -> Array:
    """Values drawn evenly from [-bound, bound); PyTorch takes bound = 1/sqrt(H)."""
    return rng.uniform(-bound, bound, shape)


def orthogonal(rng: np.random.Generator, size: int, gain: float = 1.0) -> Array:
    """A random orthogonal matrix (size, size) times gain, uniform over the orthogonal group.

    Reference: Saxe, McClelland, Ganguli 2014; Mezzadri 2007, sec. 5, for the signs.
    """
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    result: Array = q * (gain * np.where(np.diagonal(r) < 0.0, -1.0, 1.0))
    return result


def scaled_identity(size: int, scale: float = 1.0) -> Array:
    """The identity (size, size) times scale. Reference: Le, Jaitly, Hinton 2015."""
    return scale * np.eye(size)


def forget_gate_bias(params: Params, value: float = 1.0) -> None:
    """Sets the bias of each memory gate (LSTM: f, GRU: z) to value, in place.

    A positive value opens the gate, so that a fresh net remembers. Layers without such a gate or
    without biases stay as they are. Reference: Gers et al. 2000; Jozefowicz et al. 2015, sec. 4.
    """
    value = finite_float("forget_bias", value)
    for layer, bias_ih, bias_hh in _biases(params):
        gate = layer.cell.memory_gate
        if gate is not None:
            rows = layer.cell.rows(gate, layer.hidden_size)
            bias_ih[rows] = value
            bias_hh[rows] = 0.0


def chrono_bias(
    params: Params, longest: float, rng: np.random.Generator, spread: ChronoSpread = "even"
) -> None:
    """Sets memory-gate biases to log(U(1, longest-1)), input-gate biases to their negatives.

    Units then forget with time constants spread up to about `longest` steps; in place. spread:
    "even" as said, so that nine of ten are longer than a tenth of the longest; "log": logarithms
    are evenly spaced over the units, in random order, so that every scale has as many of them.
    Raises ArgumentError unless longest > 2, and for another spread.
    Reference: Tallec and Ollivier 2018, eq. 16; for the GRU the gate z, which keeps the state here.
    "log" is ours.
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


def initialise(
    net: Stack,
    seed: int = 0,
    dtype: DTypeLike = "float32",
    *,
    recurrent: RecurrentInit = "orthogonal",
    gain: float = 1.0,
    forget_bias: float | None = 1.0,
    chrono: float | None = None,
    chrono_spread: ChronoSpread = "even",
) -> Params:
    """Fresh parameters of a net.

    recurrent: how each gate's block of weight_hh starts: "orthogonal" (an AntisymmetricRNN's normal
    with a deviation of 1/sqrt(H)) and "identity" times gain, with zero biases, or "uniform" in
    +-1/sqrt(H) with biases drawn alike, as in PyTorch. weight_ih is always uniform in +-1/sqrt(H),
    the head in +-1/sqrt(in_features), an embedding standard normal, a LayerNorm 1 and 0, as in
    PyTorch. forget_bias: see forget_gate_bias(); None
    leaves the biases alone. chrono: the longest time constant in steps, replaces forget_bias;
    chrono_spread: "even" or "log"; see chrono_bias().
    Raises ArgumentError or DTypeError for a wrong option.
    """
    choice("recurrent", recurrent, get_args(RecurrentInit))
    choice("chrono_spread", chrono_spread, get_args(ChronoSpread))
    gain = finite_float("gain", gain)
    number = integer("seed", seed)
    if number < 0:
        raise ArgumentError(f"seed must not be negative; got {number}.")
    rng = np.random.Generator(np.random.PCG64(number))
    params = Params(net, np.zeros(net.n_parameters, float_dtype("dtype", dtype)))
    for index, layer in enumerate(net.layers):
        for name in layer.parameter_shapes:
            params[f"{index}.{name}"][...] = _draw(rng, layer, name, recurrent, gain)
    if chrono is not None:
        chrono_bias(params, chrono, rng, chrono_spread)
    elif forget_bias is not None:
        forget_gate_bias(params, forget_bias)
    return params


def _draw(
    rng: np.random.Generator,
    layer: Layer,
    name: str,
    recurrent: RecurrentInit,
    gain: float,
) -> Array | float:
    shape = layer.parameter_shapes[name][0]
    name = name.removesuffix("_reverse")
    if isinstance(layer, Embedding):
        return rng.standard_normal(shape)
    if isinstance(layer, Linear):
        return uniform(rng, shape, 1.0 / math.sqrt(layer.in_features))
    if isinstance(layer, LayerNorm):
        return 1.0 if name == "weight" else 0.0
    assert isinstance(layer, Recurrent)  # Dropout has no parameters
    if name == "weight_hh" and layer.cell.antisymmetric and recurrent == "orthogonal":
        # Of the size of Chang et al. 2019, section 4: A - A' then has a norm of about 3 * gain.
        return gain / math.sqrt(layer.hidden_size) * rng.standard_normal(shape)
    if name == "weight_hh" and recurrent != "uniform":
        size = layer.hidden_size
        blocks = [
            orthogonal(rng, size, gain)
            if recurrent == "orthogonal"
            else scaled_identity(size, gain)
            for _ in layer.cell.gates
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


def _biases(params: Params) -> list[tuple[Recurrent, NDArray[Any], NDArray[Any]]]:
    return [
        (layer, params[f"{index}.bias_ih{end}"], params[f"{index}.bias_hh{end}"])
        for index, layer in enumerate(params.net.layers)
        if isinstance(layer, Recurrent) and layer.bias
        for end in layer.directions
    ]
