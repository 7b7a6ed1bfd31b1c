"""Activation functions of Dense layers: values and slopes at single points, for every level."""

import math

import numpy as np
import pytest

import gradcore as gd
from gradcore import _core, jacobian
from problem import isa

LEVELS = _core.isa_available()
POINTS = np.concatenate(
    [
        [0.0, -0.0, 1e-30, -1e-30, 1e-3, -1e-3, 700.0, -700.0, 1e4, -1e4],
        np.linspace(-40, 40, 8001),
        np.random.default_rng(0).standard_normal(2000),
    ]
)


def exact(name, x):
    """Value and slope at x in float64, without cancellation for negative x."""
    e = math.exp(-abs(x)) if abs(x) < 745 else 0.0
    sigmoid = 1 / (1 + e) if x >= 0 else e / (1 + e)
    below = math.erfc(-x / math.sqrt(2)) / 2
    density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi) if abs(x) < 38 else 0.0
    match name:
        case "relu":
            return max(x, 0.0), float(x > 0)
        case "tanh":
            return math.tanh(x), 1 / math.cosh(x) ** 2 if abs(x) < 300 else 0.0
        case "gelu":
            return x * below, below + x * density
        case "silu":
            return x * sigmoid, sigmoid * (1 + x * sigmoid * e if x >= 0 else 1 + x / (1 + e))
        case "sigmoid":
            return sigmoid, e / (1 + e) ** 2
        case "softplus":
            return max(x, 0.0) + math.log1p(e), sigmoid
    raise ValueError(name)


def by_core(name, x):
    """Values and slopes at the points x (N,): a net of one unit passes them on unchanged."""
    net = gd.Stack(
        gd.RNN(1, 1, nonlinearity="identity", bias=False), gd.Dense(1, 1, name, bias=False)
    )
    params = net.init(dtype=x.dtype)
    params["0.weight_ih"][...] = params["1.weight"][...] = 1.0
    params["0.weight_hh"][...] = 0.0
    points = x[:, None, None]
    found = jacobian.jvp(net, params, points, dx=np.ones((1, *points.shape), x.dtype))
    slopes = np.ldexp(found.d_outputs[0].astype(float), found.d_outputs_exponent[:, None, None])
    back = gd.value_and_grad(
        net, params, points, loss=lambda y, t0, t1: (0.0, np.ones_like(y)), wrt=("x",)
    )
    gradients = np.ldexp(back.dx.astype(float), back.dx_exponent[:, None, None])
    np.testing.assert_allclose(gradients.ravel(), slopes.ravel(), rtol=1e-6, atol=1e-30)
    return found.outputs.ravel().astype(float), slopes.ravel()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "silu", "sigmoid", "softplus"])
def test_values_and_slopes(name, dtype, level):
    """The relative error is some units of the dtype; where the value has faded, some of its
    smallest normal number.
    """
    x = POINTS.astype(dtype)
    with isa(level):
        values, slopes = by_core(name, x)
    want = np.array([exact(name, float(point)) for point in x])
    unit, least = np.finfo(dtype).eps, np.finfo(dtype).tiny
    # exp(-x^2 / 2) multiplies the rounding of x^2 by its size, up to 87 or 708 before it fades.
    wide = 100 if dtype == "float32" else 800
    for got, expected in ((values, want[:, 0]), (slopes, want[:, 1])):
        # A slope is a difference of two terms near its zero.
        bound = wide * unit * np.abs(expected) + 4 * unit * np.minimum(np.abs(x), 1) + 1e4 * least
        wrong = np.abs(got - expected) > bound
        assert not wrong.any(), (x[wrong][:5], got[wrong][:5], expected[wrong][:5])


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "silu", "sigmoid", "softplus"])
def test_nan_does_not_pass_unseen(name):
    net = gd.Stack(gd.Dense(3, 5, name), gd.GRU(5, 4))
    x = np.zeros((9, 2, 3), np.float32)
    x[6, 1, 2] = np.nan
    with pytest.raises(gd.NonFiniteError) as caught:
        gd.apply(net, net.init(), x)
    assert (caught.value.layer, caught.value.step, caught.value.sequence) == (0, 6, 1)
