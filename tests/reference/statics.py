"""Nets with static inputs or initial states of their own, one sequence after the other.

For one sequence a StaticInput is a Dense layer with the identity as its weight and W @ static as
its bias, and the initial state is a given one. Gradients of W, of static and of the parameters of
the initial state follow from those of the bias and of that state. Evaluation only: random masks
depend on the number of the sequence. Parameters and static may be complex.
"""

from dataclasses import dataclass

import numpy as np

import gradcore as gd

from . import two_ways


@dataclass
class Runs:
    """The runs of all sequences. single: the net that each of them runs through."""

    single: gd.Stack
    traces: list
    outputs: np.ndarray  # [T, B, O]
    starts: list  # flat lists of reference states, one per sequence


def places(net):
    return [i for i, layer in enumerate(net.layers) if isinstance(layer, gd.StaticInput)]


def single(net):
    """The net of one sequence; Dense layers take the places of StaticInput layers."""

    def changed(layer):
        if isinstance(layer, gd.Residual):
            return gd.Residual(*map(changed, layer.layers))
        if isinstance(layer, gd.StaticInput):
            return gd.Dense(layer.features, layer.features)
        return layer

    return gd.Stack(*map(changed, net.nested))


def of_sequence(net, params, static_b):
    """The parameters of the net of one sequence."""
    made = {name: a for name, a in params.items() if "initial_" not in name}
    for i in places(net):
        made[f"{i}.bias"] = params[f"{i}.weight"] @ static_b
        made[f"{i}.weight"] = np.eye(net.layers[i].features, dtype=made[f"{i}.bias"].dtype)
    return made


def directions(net):
    """(place, layer, suffix) of every layer and direction, in the order of states."""
    for i, layer in enumerate(net.layers):
        if isinstance(layer, gd.Recurrent):
            for end in layer.directions:
                yield i, layer, end


def start(net, params, static_b):
    """The initial state of one sequence."""
    states = two_ways.zero_state(net, 1)
    for (i, layer, end), state in zip(directions(net), states, strict=True):
        if layer.initial_state == "zeros":
            continue
        h, c = (first(params, i, name + end, static_b) for name in ("h", "c"))
        state.past = np.broadcast_to(h, state.past.shape).copy()
        state.c = None if state.c is None else c[None].copy()
    return states


def first(params, place, name, static_b):
    """Of one state, named h, c, h_reverse or c_reverse; None if there is none."""
    own, _, end = name.partition("_")
    end = f"_{end}" if end else ""
    if f"{place}.initial_{own}{end}" not in params:
        return None
    found = params[f"{place}.initial_{own}{end}"]
    weight = params.get(f"{place}.initial_{own}_weight{end}")
    return found if weight is None else found + weight @ static_b


def forward(net, params, static, x, *, lengths=None, state=None):
    """state: one list of reference states per sequence, in place of those that the net makes."""
    run = single(net)
    traces, starts = [], []
    for b in range(x.shape[1]):
        begin = start(net, params, static[b]) if state is None else state[b]
        one = None if lengths is None else lengths[b : b + 1]
        mine = of_sequence(net, params, static[b])
        traces.append(two_ways.forward(run, mine, x[:, b : b + 1], lengths=one, state=begin))
        starts.append(begin)
    return Runs(run, traces, np.concatenate([t.outputs for t in traces], axis=1), starts)


def backward(net, params, static, runs, d_outputs, *, given=False):
    """Gradients: params by name, static [B, S], states per sequence; given: the caller's state."""
    total = {name: np.zeros(a.shape, np.result_type(a, static)) for name, a in params.items()}
    d_static = np.zeros(static.shape, np.result_type(static, *params.values()))
    d_states, d_x = [], []
    for b, trace in enumerate(runs.traces):
        mine = of_sequence(net, params, static[b])
        found = two_ways.backward(runs.single, mine, trace, d_outputs[:, b : b + 1])
        d_states.append(found.state)
        d_x.append(found.x)
        for name, a in found.params.items():
            if int(name.split(".")[0]) not in places(net):
                total[name] = total[name] + a
        for i in places(net):
            d_bias = found.params[f"{i}.bias"]
            total[f"{i}.weight"] += np.outer(d_bias, static[b])
            d_static[b] += params[f"{i}.weight"].T @ d_bias
        for (i, layer, end), d in zip(directions(net), found.state, strict=True):
            if given or layer.initial_state == "zeros":
                continue
            for own, array in (("h", d.past.sum(axis=(0, 1))), ("c", d.c)):
                if array is None:
                    continue
                share = array.reshape(-1)
                total[f"{i}.initial_{own}{end}"] += share
                weight = f"{i}.initial_{own}_weight{end}"
                if weight in params:
                    total[weight] += np.outer(share, static[b])
                    d_static[b] += params[weight].T @ share
    return total, d_static, np.concatenate(d_x, axis=1), d_states


def tangent(net, params, static, runs, t_params, t_static):
    """The outputs' tangents [T, B, O]."""
    made = []
    for b, trace in enumerate(runs.traces):
        moved = of_sequence(net, t_params, static[b])
        begin = start(net, t_params, static[b])
        still = start(net, params, np.zeros_like(static[b]))
        by_static = start(net, params, t_static[b])
        for state, one, other in zip(begin, by_static, still, strict=True):
            state.past = state.past + one.past - other.past
            state.c = None if state.c is None else state.c + one.c - other.c
        for i in places(net):
            moved[f"{i}.weight"] = np.zeros_like(moved[f"{i}.weight"])
            moved[f"{i}.bias"] = moved[f"{i}.bias"] + params[f"{i}.weight"] @ t_static[b]
        mine = of_sequence(net, params, static[b])
        made.append(two_ways.tangent(runs.single, mine, trace, moved, None, begin)[0])
    return np.concatenate(made, axis=1)
