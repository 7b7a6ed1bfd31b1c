"""Nets with static inputs and initial states of their own, and random problems for them."""

from dataclasses import dataclass

import numpy as np

import gradcore as gd
from problem import exact, random_lengths
from reference import losses, statics

S = 3
STATIC = {"initial_state": "static", "static_size": S}
LEARNED = {"initial_state": "learned"}
LOSS = gd.loss.MeanSquaredError()

NETS = {
    "behind a dense layer": lambda: gd.Stack(
        gd.Dense(2, 17, "tanh"), gd.StaticInput(S, 17), gd.LSTM(17, 9), gd.Linear(9, 3)
    ),
    "first": lambda: gd.Stack(gd.StaticInput(S, 2), gd.GRU(2, 16), gd.Linear(16, 1)),
    "last": lambda: gd.Stack(gd.RNN(2, 7), gd.StaticInput(S, 7)),
    "before the head": lambda: gd.Stack(gd.GRU(2, 5), gd.StaticInput(S, 5), gd.Linear(5, 2)),
    "in a residual run": lambda: gd.Stack(
        gd.LSTM(2, 8),
        gd.Residual(gd.StaticInput(S, 8), gd.Dense(8, 8, "silu"), gd.StaticInput(S, 8)),
        gd.Residual(gd.StaticInput(S, 8), gd.GRU(8, 8)),
        gd.Linear(8, 2),
    ),
    "both directions": lambda: gd.Stack(
        gd.StaticInput(S, 2),
        gd.GRU(2, 5, bidirectional=True),
        gd.StaticInput(S, 10),
        gd.LSTM(10, 3, bidirectional=True),
        gd.StaticInput(S, 6),
        gd.Linear(6, 2),
    ),
    "learned state": lambda: gd.Stack(gd.LSTM(2, 9, **LEARNED), gd.RNN(9, 4, **LEARNED)),
    "static state": lambda: gd.Stack(gd.LSTM(2, 9, **STATIC), gd.Linear(9, 2)),
    "states with skips": lambda: gd.Stack(
        gd.LSTM(2, 5, skip=gd.Skip(7, value=-0.4), **STATIC),
        gd.GRU(5, 6, skip=gd.Skip(3, kind="mix"), **LEARNED),
        gd.Linear(6, 2),
    ),
    "states of both directions": lambda: gd.Stack(
        gd.LSTM(2, 4, bidirectional=True, skip=gd.Skip(5, kind="mix"), **STATIC),
        gd.GRU(8, 3, bidirectional=True, **LEARNED),
        gd.AntisymmetricRNN(6, 5, **STATIC),
        gd.Linear(5, 2),
    ),
    "all": lambda: gd.Stack(
        gd.StaticInput(S, 2),
        gd.LayerNorm(2, 0.125),
        gd.LSTM(2, 8, skip=gd.Skip(4, kind="mix"), zoneout=0.2, **STATIC),
        gd.Residual(gd.StaticInput(S, 8), gd.GRU(8, 8, **LEARNED), gd.LayerNorm(8)),
        gd.StaticInput(S, 8),
        gd.Dense(8, 5, "gelu"),
        gd.Linear(5, 2),
    ),
}


@dataclass(frozen=True)
class Case:
    """A net with parameters and data in float64, with values that float32 holds exactly."""

    net: gd.Stack
    params: dict
    static: np.ndarray
    x: np.ndarray
    y: np.ndarray
    lengths: np.ndarray | None

    def core(self, dtype="float64"):
        """net, params, x and the keyword arguments static and lengths."""
        params = gd.Params(self.net, np.empty(self.net.n_parameters, dtype))
        for name, array in self.params.items():
            params[name] = array.astype(dtype)
        reads = self.net.static_size is not None
        static = self.static.astype(dtype) if reads else None
        return (self.net, params, self.x.astype(dtype)), {
            "static": static,
            "lengths": self.lengths,
        }

    def by_reference(self, params=None, static=None):
        """The loss, and gradients by params, static, x and state."""
        params = self.params if params is None else params
        static = self.static if static is None else static
        runs = statics.forward(self.net, params, static, self.x, lengths=self.lengths)
        value, slopes = losses.evaluate(LOSS, runs.outputs, self.y, None, self.lengths)
        return value, *statics.backward(self.net, params, static, runs, slopes)


def case_of(name, *, steps=140, batch=5, ragged=True, seed=0):
    net = NETS[name]()
    rng = np.random.default_rng(seed)
    params = {spec.name: exact(rng.uniform(-0.5, 0.5, spec.shape)) for spec in net.parameter_specs}
    for i, layer in enumerate(net.layers):
        if isinstance(layer, gd.LayerNorm):
            params[f"{i}.weight"] = exact(params[f"{i}.weight"] + 1.0)
    return Case(
        net,
        params,
        exact(rng.standard_normal((batch, S))),
        exact(rng.standard_normal((steps, batch, 2))),
        exact(rng.standard_normal((steps, batch, net.output_size))),
        random_lengths(steps, batch, rng) if ragged else None,
    )
