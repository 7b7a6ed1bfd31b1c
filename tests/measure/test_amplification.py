"""Spectral norms of one-step Jacobians along a trajectory."""

import numpy as np
import pytest

import gradcore as gd
from gradcore import amplification


def setting(dtype="float64"):
    net = gd.Stack(gd.LSTM(3, 5), gd.GRU(5, 4, skip=gd.Skip(2, value=0.3)), gd.Linear(4, 2))
    params = net.init(seed=1, dtype=dtype)
    return net, params, np.random.default_rng(0).standard_normal((40, 2, 3)).astype(dtype)


@pytest.mark.parametrize("piece", [1, 10**6])
@pytest.mark.parametrize("layer", [None, 1])
def test_norms_are_those_of_the_matrices(piece, layer, monkeypatch):
    net, params, x = setting()
    monkeypatch.setattr("gradcore._measure.amplification.PIECE", piece)
    told = []
    found = amplification.along(
        net, params, x, points=7, layer=layer, progress=lambda n, m: told.append((n, m))
    )
    assert found.steps.tolist() == [0, 6, 13, 19, 26, 32, 39]
    matrices = gd.jacobian.step_jacobians(net, params, x, found.steps, layer=layer)
    np.testing.assert_allclose(found.norm, np.linalg.norm(matrices, 2, axis=(2, 3)), rtol=1e-6)
    assert told[-1] == (7, 7)


def test_a_linear_chain_is_stretched_alike_in_every_step():
    net = gd.Stack(gd.RNN(1, 9, nonlinearity="identity"))
    params = net.init(seed=0, gain=1.25)
    found = amplification.along(net, params, np.zeros((1000, 1, 1), np.float32), points=20)
    np.testing.assert_allclose(found.norm, 1.25, rtol=1e-5)
    np.testing.assert_allclose(found.log10_bound, np.log10(1.25), rtol=1e-4)


def test_resets_and_ends():
    net, params, x = setting()
    reset = np.zeros((40, 2), bool)
    reset[20, 0] = True
    found = amplification.along(net, params, x, points=40, reset=reset, lengths=np.array([40, 30]))
    assert found.norm[20, 0] == 0
    assert np.isneginf(found.log10_bound[0])
    np.testing.assert_allclose(found.norm[30:, 1], 1)


def test_wrong_questions_are_refused():
    net, params, x = setting()
    with pytest.raises(gd.ArgumentError, match="points must be"):
        amplification.along(net, params, x, points=0)
    with pytest.raises(gd.ArgumentError, match="layer must be one of the net's 2"):
        amplification.along(net, params, x, layer=2)
    both = gd.Stack(gd.GRU(3, 4, bidirectional=True))
    with pytest.raises(gd.ArgumentError, match=r"amplification\.along needs a net whose layers"):
        amplification.along(both, both.init(seed=0, dtype="float64"), x)
