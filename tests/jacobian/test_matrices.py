"""Jacobians of the state as matrices, and the logarithms of their singular values."""

import numpy as np
import pytest

import gradcore as gd
from gradcore import jacobian
from gradcore.jacobian import _krylov, _path


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


def chain(matrix, steps, dtype="float32"):
    """A linear net that multiplies its state by a matrix in every step, and an input of zeros."""
    net = gd.Stack(gd.RNN(1, len(matrix), nonlinearity="identity", bias=False))
    params = net.init(seed=0, dtype=dtype)
    params["0.weight_hh"][...] = matrix
    return net, params, np.zeros((steps, 1, 1), dtype)


def turned(values, seed=0):
    """A matrix with these singular values and random singular vectors, the same on both sides."""
    n = len(values)
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    return (q * values) @ q.T


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "values",
    [
        np.ones(60),
        np.r_[[1.1], np.ones(59)],
        np.r_[np.full(7, 1.02), np.full(53, 1.0)],
        np.linspace(1.0, 0.9, 60),
        np.r_[[1.0, 0.3], np.linspace(0.12, 0.1, 58)],
    ],
    ids=["all equal", "one outside", "seven equal", "dense", "far and dense"],
)
def test_clusters_are_found_with_their_multiplicity(values, dtype):
    net, params, x = chain(turned(values), 12, dtype)
    found = jacobian.state_singular_values(net, params, x, [1, 4, 12], 8)[:, 0]
    for lag, got in zip([1, 4, 12], found, strict=True):
        wanted = lag * np.log10(values[:8])
        np.testing.assert_allclose(got, wanted, atol=1e-3)
        assert (got < wanted + 1e-5 * lag).all()  # lower bounds, up to rounding


def test_values_that_lie_close_take_few_passes(monkeypatch):
    """A subspace iteration was still 8e-3 below after its 20 passes, at 512 units."""
    passes = []
    real = _path.Path.forth
    monkeypatch.setattr(_path.Path, "forth", lambda *a: passes.append(0) or real(*a))
    net = gd.Stack(gd.LSTM(4, 100))
    params = net.init(seed=0)
    x = np.random.default_rng(0).standard_normal((60, 1, 4)).astype(np.float32)
    for lag, most in ((3, 12), (20, 8), (60, 5)):
        passes.clear()
        found = jacobian.state_singular_values(net, params, x[:60], [lag], 8)[0, 0]
        assert len(passes) <= most
        _, state = gd.apply(net, params, x[: 60 - lag]) if lag < 60 else (None, None)
        whole = jacobian.state_jacobian(net, params, x[60 - lag :], state=state)
        exact = np.linalg.svd(np.ldexp(whole.mantissa[0].astype(float), whole.exponent))[1][:8]
        np.testing.assert_allclose(found, np.log10(exact), atol=5e-4)


def test_the_largest_values_have_the_same_bits_for_any_number_of_threads():
    net = gd.Stack(gd.LSTM(3, 40))
    params = net.init(seed=1)
    x = np.random.default_rng(0).standard_normal((90, 2, 3)).astype(np.float32)
    one, two = (
        jacobian.state_singular_values(net, params, x, [5, 90], 4, seed=7, threads=threads)
        for threads in (1, 2)
    )
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("k", [8, None])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_singular_step_does_not_ask_for_a_window_for_every_step(monkeypatch, dtype, k):
    windows = []
    real = _path._orthogonal
    monkeypatch.setattr(_path, "_orthogonal", lambda *a: windows.append(0) or real(*a))
    steps, values = 600, np.r_[np.full(5, 0.9), np.zeros(25)]
    net, params, x = chain(turned(values), steps, dtype)
    found = jacobian.state_singular_values(net, params, x, [steps], k)[0, 0]
    np.testing.assert_allclose(found[:5], steps * np.log10(0.9), atol=2e-3)
    assert (found[5:] < steps * np.log10(0.9) - 6).all()
    assert len(windows) < steps / 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_units_of_a_relu_net_that_are_off_do_not_ask_for_a_window_for_every_step(
    monkeypatch, dtype
):
    windows = []
    real = _path._orthogonal
    monkeypatch.setattr(_path, "_orthogonal", lambda *a: windows.append(0) or real(*a))
    steps = 300
    net = gd.Stack(gd.RNN(1, 24, nonlinearity="relu"))
    params = net.init(seed=1, dtype=dtype)
    x = np.random.default_rng(4).standard_normal((steps, 1, 1)).astype(dtype)
    found = jacobian.state_singular_values(net, params, x, [steps])[0, 0]
    assert len(windows) < steps / 2
    exact = jacobian.state_singular_values(net, params, x, [steps], interval=1)[0, 0]
    np.testing.assert_allclose(found[:4], exact[:4], atol=1e-3)


def test_values_that_do_not_converge_are_told(monkeypatch):
    monkeypatch.setattr(_krylov, "MOST_BLOCKS", 1)
    net, params, x = chain(turned(np.linspace(1.0, 0.5, 60)), 4)
    with pytest.warns(gd.ConvergenceWarning, match="of 8 singular values over a lag of 4 have rel"):
        jacobian.state_singular_values(net, params, x, [4], 8)


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
