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


class Transposed(torch.nn.Module):
    """A convolution or pool of PyTorch between (T, B, I) and (T', B, O)."""

    def __init__(self, *inner):
        super().__init__()
        self.inner = torch.nn.Sequential(*inner)

    def forward(self, x):
        return self.inner(x.permute(1, 2, 0)).permute(2, 0, 1)


nn = torch.nn
THEIRS = {
    "valid": lambda: [nn.Conv1d(3, 6, 4)],
    "stride": lambda: [nn.Conv1d(3, 6, 5, stride=2, padding=2), nn.ReLU()],
    "same, even": lambda: [nn.Conv1d(3, 6, 4, padding="same", dilation=3)],
    "groups": lambda: [nn.Conv1d(3, 6, 3, padding="valid", groups=3, bias=False), nn.GELU()],
    "one tap": lambda: [nn.Conv1d(3, 5, 1), nn.Tanh()],
    "one tap, stride": lambda: [nn.Conv1d(3, 5, 1, stride=3)],
    "max": lambda: [nn.MaxPool1d(3)],
    "max, padded": lambda: [nn.MaxPool1d(5, 2, padding=2)],
    "max, dilated": lambda: [nn.MaxPool1d(3, 1, dilation=2)],
    "mean": lambda: [nn.AvgPool1d(4, 3)],
    "mean, padded": lambda: [nn.AvgPool1d(3, 1, 1, count_include_pad=False)],
    "several": lambda: [nn.Conv1d(3, 6, 3), nn.SiLU(), nn.MaxPool1d(2), nn.Conv1d(6, 4, 2)],
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", THEIRS)
def test_from_torch(name):
    torch.manual_seed(0)
    front = Transposed(*THEIRS[name]()).double()
    x = torch.randn(19, 2, 3, dtype=torch.float64)
    rows = front(x)
    layer = nn.GRU(rows.shape[2], 4).double()
    net, params = gd.from_torch(nn.Sequential(front, layer))
    np.testing.assert_allclose(
        gd.apply(net, params, x.numpy())[0], layer(rows)[0].detach().numpy(), atol=1e-12
    )


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Conv1d(3, 6, 5, padding=4), "pads 4 steps"),
        (nn.Conv1d(3, 6, 5, padding=2, padding_mode="circular"), "circular"),
        (nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 6, 5)), "parametrized"),
        (nn.MaxPool1d(3, ceil_mode=True), "ceil_mode"),
        (nn.MaxPool1d(3, return_indices=True), "return_indices"),
        (nn.AvgPool1d(3, padding=1), "count_include_pad"),
        (nn.BatchNorm1d(3), "no counterpart"),
    ],
)
def test_what_from_torch_refuses(module, said):
    with pytest.raises(gd.ArgumentError, match=said):
        gd.from_torch(nn.Sequential(module, nn.GRU(6, 2)))
