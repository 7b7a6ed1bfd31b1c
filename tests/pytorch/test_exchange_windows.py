"""to_torch of layers that shorten time or look ahead: PyTorch computes the same."""

from __future__ import annotations

import numpy as np
import pytest

import gradcore as gd

torch = pytest.importorskip("torch", reason="needs PyTorch")

FRONTS = {
    "same, stride": lambda: gd.Conv1d(3, 6, 4, stride=3, padding="same", activation="tanh"),
    "valid, dilated": lambda: gd.Conv1d(3, 6, 3, dilation=2, padding="valid", groups=3),
    "causal, stride": lambda: gd.Conv1d(3, 6, 5, stride=2),
    "max": lambda: gd.MaxPool1d(3),
    "max, same": lambda: gd.MaxPool1d(4, 2, padding="same"),
    "max, causal, dilated": lambda: gd.MaxPool1d(3, 1, 2, padding="causal"),
    "mean": lambda: gd.AvgPool1d(3, 2),
    "mean, same": lambda: gd.AvgPool1d(5, 1, padding="same"),
    "frames": lambda: gd.Frames(2),
}


@pytest.mark.parametrize("name", FRONTS)
def test_outputs_and_gradients(name):
    front = FRONTS[name]()
    width = front.width_after(3)
    net = gd.Stack(front, gd.GRU(width, 4), gd.Linear(4, 2))
    params = net.init(seed=0, dtype="float64")
    x = np.random.default_rng(0).standard_normal((17, 2, 3))
    module = gd.to_torch(net, params)
    given = torch.from_numpy(x).requires_grad_()
    outputs, _ = module(given)
    expected, _ = gd.apply(net, params, x)
    np.testing.assert_allclose(outputs.detach().numpy(), expected, atol=1e-12)
    slope = np.random.default_rng(1).standard_normal(expected.shape)
    outputs.backward(torch.from_numpy(slope))
    done = gd.forward(net, params, x, wrt=("params", "x")).backward(slope)
    np.testing.assert_allclose(given.grad.numpy(), done.dx, atol=1e-12)
    if "0.weight" in params:
        np.testing.assert_allclose(
            module[0].weight.grad.numpy(), done.grads["0.weight"], atol=1e-11
        )
