"""How far gradients reach in nets whose layers shorten time."""

from __future__ import annotations

import numpy as np

import gradcore as gd


def test_steps_are_those_of_the_layer():
    """Behind a front end, reach is that of the net behind it with what comes to it as x."""
    net = gd.Stack(gd.Conv1d(2, 4, 5, stride=2, padding="same"), gd.GRU(4, 5), gd.Linear(5, 3))
    params = net.init(seed=0, dtype="float64")
    x = np.random.default_rng(0).standard_normal((51, 3, 2))
    lengths = np.array([51, 20, 3])
    found = gd.horizon.reach(net, params, x, lengths=lengths)
    assert found.ends.tolist() == [26, 10, 2]
    front = gd.Stack(net.layers[0], gd.RNN(4, 4, bias=False, nonlinearity="identity"))
    own = front.init(seed=0, dtype="float64")
    for name in ("0.weight", "0.bias"):
        own[name] = params[name]
    own["1.weight_ih"], own["1.weight_hh"] = np.eye(4), np.zeros((4, 4))
    rows, _ = gd.apply(front, own, x, lengths=lengths)
    rest = gd.Stack(*net.layers[1:])
    kept = gd.Params(rest, params.flat[-rest.n_parameters :].copy())
    alone = gd.horizon.reach(rest, kept, rows, lengths=found.ends)
    np.testing.assert_allclose(found.norm_log10, alone.norm_log10, atol=1e-9)
    assert (found.memory_length() == alone.memory_length()).all()


def test_a_layer_in_front_of_a_stride_has_its_own_steps():
    net = gd.Stack(gd.GRU(2, 4), gd.AvgPool1d(4), gd.RNN(4, 3), gd.Linear(3, 1))
    params = net.init(seed=0)
    x = np.random.default_rng(0).standard_normal((40, 2, 2)).astype("float32")
    first = gd.horizon.reach(net, params, x, layer=0)
    assert first.norm_log10.shape == (40, 2)
    assert first.ends.tolist() == [40, 40]
    assert np.isfinite(first.norm_log10[36:]).all()
    assert gd.horizon.reach(net, params, x, layer=1).norm_log10.shape == (10, 2)
