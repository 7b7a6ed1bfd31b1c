"""Nets that begin with convolutions, pools or frames are diagnosed behind these."""

from __future__ import annotations

import numpy as np
import pytest

import gradcore as gd


def net_and_data(both=False):
    net = gd.Stack(
        gd.Conv1d(2, 6, 5, stride=2, padding="same", activation="relu"),
        gd.Residual(gd.LayerNorm(6), gd.Dense(6, 6, "tanh")),
        gd.MaxPool1d(2),
        gd.GRU(6, 5, bidirectional=both),
        gd.Linear(10 if both else 5, 3),
    )
    random = np.random.default_rng(0)
    x = random.standard_normal((160, 3, 2))
    steps = net.output_steps(160)
    return net, net.init(seed=0, dtype="float64"), x, random.integers(0, 3, (steps, 3))


def test_what_is_measured_is_the_net_behind_the_front_end():
    net, params, x, y = net_and_data()
    lengths = np.array([160, 90, 7])
    found = gd.diagnose(net, params, x, y, loss="cross_entropy", lengths=lengths)
    whole = gd.value_and_grad(net, params, x, y, loss="cross_entropy", lengths=lengths)
    assert found.measured.loss == pytest.approx(whole.loss, rel=1e-12)
    assert found.measured.steps == net.output_steps(160) == 40
    for name, size in found.measured.gradients.items():
        place, _, field = name.partition(".")
        same = whole.grads[f"{int(place) + 4}.{field}"]
        assert size == pytest.approx(np.log10(np.linalg.norm(same)), rel=1e-10), name
    assert set(found.measured.left_out) == {"front end"}
    assert "its layer 0 is layer 4 of the whole net" in str(found)
    assert "40 of 160" in found.measured.left_out["front end"]


def test_resets_of_the_steps_in_front():
    net, params, x, y = net_and_data()
    reset = np.zeros((160, 3), bool)
    reset[[40, 80], 1] = True
    found = gd.diagnose(net, params, x, y, loss="cross_entropy", reset=reset, parts=["gradient"])
    whole = gd.value_and_grad(net, params, x, y, loss="cross_entropy", reset=reset)
    assert found.measured.loss == pytest.approx(whole.loss, rel=1e-12)


def test_an_embedding_and_both_directions():
    net = gd.Stack(
        gd.Embedding(7, 4), gd.Frames(3), gd.GRU(12, 5, bidirectional=True), gd.Linear(10, 2)
    )
    random = np.random.default_rng(1)
    x, y = random.integers(0, 7, (60, 2)), random.integers(0, 2, (20, 2))
    params = net.init(seed=0)
    found = gd.diagnose(net, params, x, y, loss="cross_entropy")
    assert found.measured.steps == 20
    assert "lyapunov" in found.measured.left_out


def test_recurrent_layers_on_both_sides_are_refused():
    net = gd.Stack(gd.GRU(2, 4), gd.AvgPool1d(4), gd.GRU(4, 4), gd.Linear(4, 1))
    params = net.init(seed=0)
    with pytest.raises(gd.ArgumentError, match=r"layer 1 \(AvgPool1d\).*stands behind layer 0"):
        gd.diagnose(net, params, np.zeros((40, 1, 2), np.float32))
    net, params, x, _ = net_and_data()
    with pytest.raises(gd.ArgumentError, match="state must be None"):
        gd.diagnose(net, params, x, state=gd.zero_state(net, 3, dtype="float64"))
