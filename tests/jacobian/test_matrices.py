"""Jacobians of the state as matrices, and the logarithms of their singular values."""

import numpy as np
import pytest

import gradcore as gd
from gradcore import jacobian


def setting(steps=40, dtype="float64"):
    net = gd.Stack(gd.LSTM(3, 5), gd.GRU(5, 4, skip=gd.Skip(2, value=0.3)), gd.Linear(4, 2))
    params = net.init(seed=1, dtype=dtype)
    return net, params, np.random.default_rng(0).standard_normal((steps, 2, 3)).astype(dtype)


SIZE = 5 + 5 + 2 * 4


def test_a_step_is_what_differences_say():
    net, params, x = setting()
    _, before = gd.apply(net, params, x[:7])
    got = jacobian.step_jacobians(net, params, x, [7])[0]
    assert got.shape == (2, SIZE, SIZE)
    # Column 3 belongs to h[3] of the LSTM, of both sequences at once.
    moved = []
    for sign in (1, -1):
        h = before[0].h.copy()
        h[:, 3] += sign * 1e-6
        state = (gd.LayerState(h, before[0].c), before[1])
        _, after = gd.apply(net, params, x[7:8], state=state)
        rows = [after[0].h, after[0].c, after[1].skip[0], after[1].skip[1]]
        moved.append(np.concatenate(rows, axis=1))
    np.testing.assert_allclose(got[:, :, 3], (moved[0] - moved[1]) / 2e-6, atol=1e-9)


def test_many_steps_are_the_product_of_single_ones():
    net, params, x = setting()
    product = np.eye(SIZE)
    for step in jacobian.step_jacobians(net, params, x, range(len(x))):
        product = step @ product
    whole = jacobian.state_jacobian(net, params, x)
    np.testing.assert_allclose(np.ldexp(whole.mantissa, whole.exponent), product, atol=1e-14)
    np.testing.assert_allclose(whole.log10_norm(), np.log10(np.linalg.norm(product, axis=(1, 2))))


def test_steps_that_are_reset_or_past_the_end():
    net, params, x = setting()
    reset = np.zeros((40, 2), bool)
    reset[5, 0] = True
    got = jacobian.step_jacobians(net, params, x, [20, 5], reset=reset, lengths=[40, 10])
    np.testing.assert_array_equal(got[0, 1], np.eye(SIZE))
    assert not got[1, 0].any()
    assert got[1, 1].any()


def test_one_layer_is_its_block():
    net, params, x = setting()
    whole = jacobian.step_jacobians(net, params, x, [3, 9])
    np.testing.assert_array_equal(
        jacobian.step_jacobians(net, params, x, [3, 9], layer=0), whole[:, :, :10, :10]
    )
    np.testing.assert_array_equal(
        jacobian.step_jacobians(net, params, x, [3, 9], layer=-1), whole[:, :, 10:, 10:]
    )


def test_singular_values_are_those_of_exact_arithmetic():
    mp = pytest.importorskip("mpmath")
    net, params, x = setting()
    lags = [0, 3, 25]
    got = jacobian.state_singular_values(net, params, x, lags)
    steps = jacobian.step_jacobians(net, params, x, range(len(x)))
    with mp.workdps(150):
        for lag, found in zip(lags, got, strict=True):
            product = mp.eye(SIZE)
            for step in steps[len(x) - lag :]:
                product = mp.matrix(step[1].tolist()) * product
            exact = mp.svd_r(product, compute_uv=False)
            # A skip connection over two steps makes some singular values zero.
            want = [float(mp.log10(value)) if value > 1e-140 else -np.inf for value in exact]
            large = np.isfinite(want)
            np.testing.assert_allclose(found[1][large], np.array(want)[large], atol=1e-4)


@pytest.mark.parametrize("interval", [None, 7])
@pytest.mark.parametrize(("low", "high"), [(0.5, 2.0), (0.9, 1.0)])
def test_singular_values_of_a_linear_net_reach_any_size(low, high, interval):
    """For a symmetric matrix, the singular values of its powers are powers of its own."""
    net = gd.Stack(gd.RNN(1, 4, nonlinearity="identity", bias=False))
    params = net.init(seed=0)
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))
    sizes = np.array([high, (high * low) ** 0.5, low, low**2])
    params["0.weight_hh"][...] = q @ np.diag(sizes) @ q.T
    x = np.zeros((900, 1, 1), np.float32)
    found = jacobian.state_singular_values(net, params, x, [900], interval=interval)
    np.testing.assert_allclose(found[0, 0], 900 * np.log10(sizes), atol=4e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_largest_singular_values_are_the_first_of_all(dtype):
    net = gd.Stack(gd.LSTM(3, 16), gd.GRU(16, 9, skip=gd.Skip(2, value=0.3)), gd.Linear(9, 2))
    params = net.init(seed=1, dtype=dtype)
    x = np.random.default_rng(0).standard_normal((300, 2, 3)).astype(dtype)
    reset = np.zeros((300, 2), bool)
    reset[80, 1] = True
    lags = [1, 3, 0, 30, 250]
    exact = jacobian.state_singular_values(net, params, x, lags, reset=reset)[..., :3]
    found = jacobian.state_singular_values(net, params, x, lags, 3, reset=reset)
    finite = np.isfinite(exact)
    assert (finite == np.isfinite(found)).all()  # none after the reset
    assert not finite[-1, 1].any()
    # These are lower bounds, up to the rounding of the factors.
    off = exact[finite] - found[finite]
    assert off.min() > (-1e-9 if dtype == "float64" else -1e-4)
    assert off.max() < 2e-3


def test_wrong_questions_are_refused():
    net, params, x = setting()
    with pytest.raises(gd.ArgumentError, match=r"k must be at most S = 18"):
        jacobian.state_singular_values(net, params, x, [3], 19)
    with pytest.raises(gd.ArgumentError, match=r"steps must be in 0\.\.T-1 = 0\.\.39"):
        jacobian.step_jacobians(net, params, x, [40])
    with pytest.raises(gd.ArgumentError, match=r"lags must be in 0\.\.T = 0\.\.40"):
        jacobian.state_singular_values(net, params, x, [41])
    with pytest.raises(gd.ArgumentError, match="layer must be one of the net's 2"):
        jacobian.step_jacobians(net, params, x, [0], layer=2)
    both = gd.Stack(gd.GRU(3, 4, bidirectional=True))
    with pytest.raises(gd.ArgumentError, match="state_jacobian needs a net whose layers all read"):
        jacobian.state_jacobian(both, both.init(seed=0, dtype="float64"), x)
