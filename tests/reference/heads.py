"""Nets with several heads as nets with one Linear, and the sum of the losses of the heads.

The heads lie side by side in the order in which they were given; those without a bias have one of
zeros. Parameters, targets and weights are dicts.
"""

import numpy as np

import gradcore as gd

from . import losses


def joined_net(net):
    """The same net with one Linear for all heads."""
    heads = net.layers[-1]
    width = sum(head.out_features for _, head in heads.heads)
    return gd.Stack(*net.nested[:-1], gd.Linear(heads.in_features, width))


def columns(net):
    """The outputs of each head among those of the joined net."""
    found, start = {}, 0
    for name, head in net.layers[-1].heads:
        found[name] = slice(start, start + head.out_features)
        start += head.out_features
    return found


def joined_params(net, params):
    """Parameters of the joined net."""
    place = len(net.layers) - 1
    heads = net.layers[-1].heads
    own = {name: a for name, a in params.items() if not name.startswith(f"{place}.")}
    biases = [
        params[f"{place}.{name}.bias"] if head.bias else np.zeros(head.out_features)
        for name, head in heads
    ]
    weights = [params[f"{place}.{name}.weight"] for name, _ in heads]
    return own | {
        f"{place}.weight": np.concatenate(weights),
        f"{place}.bias": np.concatenate(biases),
    }


def parted(net, joined):
    """Parameters, or their gradients, of the net with heads from those of the joined net."""
    place = len(net.layers) - 1
    found = {name: a for name, a in joined.items() if not name.startswith(f"{place}.")}
    for name, rows in columns(net).items():
        found[f"{place}.{name}.weight"] = joined[f"{place}.weight"][rows]
        if dict(net.layers[-1].heads)[name].bias:
            found[f"{place}.{name}.bias"] = joined[f"{place}.bias"][rows]
    return found


def weight_of(weight, name):
    return weight.get(name) if isinstance(weight, dict) else weight


def evaluate(net, loss, outputs, y, weight=None, lengths=None):
    """(value, d_outputs, {name: value}) of the joined outputs."""
    d_outputs, values, total = np.zeros_like(outputs), {}, 0.0
    for name, own, scale in loss.entries:
        where = columns(net)[name]
        if y.get(name) is None:
            assert scale == 0.0
            continue
        values[name], slopes = losses.evaluate(
            own, outputs[..., where], y[name], weight_of(weight, name), lengths
        )
        d_outputs[..., where] = scale * slopes
        total = total + scale * values[name]
    return total, d_outputs, values


def gauss_newton(net, loss, outputs, moved, y, weight=None, lengths=None):
    """H times the tangent `moved` of the joined outputs; see losses.gauss_newton."""
    curved = np.zeros_like(outputs)
    for name, own, scale in loss.entries:
        where = columns(net)[name]
        curved[..., where] = scale * losses.gauss_newton(
            own, outputs[..., where], moved[..., where], y[name], weight_of(weight, name), lengths
        )
    return curved
