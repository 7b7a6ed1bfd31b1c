"""Nets with several heads for tests, with data, and their solutions."""

from dataclasses import dataclass
from typing import Any

import numpy as np

import gradcore as gd
from nets import stack
from overriding import override
from problem import exact, random_params, random_target
from reference import heads as reference
from reference import two_ways

# Of each kind of loss one; widths are no multiples of lanes, and head "d" has no bias.
LOSSES = {
    "a": gd.loss.CrossEntropy(weight=(1.0, 0.5, 2.0, 0.25, 1.5, 1.0, 3.0)),
    "b": gd.loss.BinaryCrossEntropy(nan="ignore"),
    "c": gd.loss.MeanSquaredError(step="last"),
    "d": gd.loss.GaussianNLL(nan="ignore"),
    "e": gd.loss.Huber(0.25, reduction="sum"),
    "f": gd.loss.Quantile((0.1, 0.5, 0.95)),
    "g": gd.loss.CrossEntropy(step="last", reduction="sum"),
    "h": gd.loss.NashSutcliffe(),
}
WIDTHS = {"a": 7, "b": 2, "c": 1, "d": 6, "e": 17, "f": 3, "g": 3, "h": 2}
UNBIASED = "dg"
SCALES = {"a": 1.0, "b": 0.5, "c": 2.0, "d": -0.25, "e": 0.01, "f": 1.5, "g": 0.75, "h": 0.5}


@dataclass(frozen=True)
class Call:
    """A net with several heads and its data, in float64 numbers that float32 holds exactly."""

    net: gd.Stack
    params: dict[str, np.ndarray]
    x: np.ndarray
    y: dict[str, np.ndarray]
    loss: gd.loss.Heads
    weight: Any
    lengths: np.ndarray | None
    reset: np.ndarray | None

    def arguments(self, dtype):
        """net, params, x, y and the keyword arguments of value_and_grad."""

        def cast(array):
            return array.astype(dtype) if array.dtype.kind == "f" else array

        params = gd.Params(self.net, np.empty(self.net.n_parameters, dtype))
        for name, array in self.params.items():
            params[name] = array.astype(dtype)
        weight = self.weight
        if isinstance(weight, dict):
            weight = {name: cast(array) for name, array in weight.items()}
        elif weight is not None:
            weight = cast(weight)
        y = {name: cast(array) for name, array in self.y.items()}
        how = {"loss": self.loss, "weight": weight, **self.masks}
        return (self.net, params, cast(self.x), y), how

    @property
    def masks(self):
        return {"lengths": self.lengths, "reset": self.reset}

    def solved_by_reference(self):
        """(loss, losses by head, gradients by name, dx, outputs by head)."""
        joined = reference.joined_params(self.net, self.params)
        whole = reference.joined_net(self.net)
        trace = two_ways.forward(whole, joined, self.x, **self.masks)
        loss, slopes, values = reference.evaluate(
            self.net, self.loss, trace.outputs, self.y, self.weight, self.lengths
        )
        found = two_ways.backward(whole, joined, trace, slopes)
        outputs = {
            name: trace.outputs[..., where] for name, where in reference.columns(self.net).items()
        }
        return loss, values, reference.parted(self.net, found.params), found.x, outputs


def heads_net(names, cell="gru", hidden=12, **options):
    """A net of one recurrent layer or more with the heads of these names."""
    body = stack(cell, 5, hidden, **options)
    width = body.output_size
    made = {n: gd.Linear(width, WIDTHS[n], bias=n not in UNBIASED) for n in names}
    return gd.Stack(*body.nested, gd.Heads(**made))


def heads_call(names, steps, batch, *, seed=0, weight=None, lengths=False, reset=False, **options):
    """weight: None, "all" for one array, or "each" for a dict; the losses that look at the last
    step need the latter.
    """
    rng = np.random.default_rng(seed)
    net = heads_net(names, **options)
    loss = gd.loss.Heads({n: LOSSES[n] for n in names}, weights={n: SCALES[n] for n in names})
    y, weights = {}, {}
    for name in names:
        one = gd.Stack(gd.RNN(1, 1), gd.Linear(1, WIDTHS[name]))
        y[name] = random_target(one, LOSSES[name], steps, batch, rng)
        positions = (batch,) if LOSSES[name].step == "last" else (steps, batch)
        weights[name] = exact(rng.uniform(0.1, 2.0, positions))
    shape = (steps, batch)
    x = (
        rng.integers(net.vocabulary, size=shape)
        if net.embedding
        else exact(rng.standard_normal((*shape, net.input_size)))
    )
    each = {n: w for n, w in weights.items() if n != names[-1]}  # that of one head is missing
    common = exact(rng.uniform(0.1, 2.0, shape))
    return Call(
        net,
        random_params(net, rng),
        x,
        y,
        loss,
        {None: None, "all": common, "each": each}[weight],
        np.array([steps, *rng.integers(steps // 2, steps + 1, batch - 1)]) if lengths else None,
        rng.random(shape) < 4 / steps if reset else None,
    )


def solved(call, dtype="float64", **how):
    arguments, keywords = call.arguments(dtype)
    tokens = arguments[2].dtype.kind in "iu"
    wrt = ("params", "state") if tokens else ("params", "x", "state")
    with override(exact_threads=True):
        return gd.value_and_grad(*arguments, **keywords, wrt=wrt, **how)
