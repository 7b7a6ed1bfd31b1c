"""Lyapunov exponents agree with closed forms, a known map and a flow."""

import numpy as np
import pytest

import gradcore as gd
from gradcore import lyapunov


def linear_net(matrix, dtype="float64"):
    n = len(matrix)
    net = gd.Stack(gd.RNN(1, n, nonlinearity="identity", bias=False))
    params = net.init(seed=0, dtype=dtype)
    params["0.weight_hh"][...] = matrix
    return net, params


def still(steps, batch=1, dtype="float64"):
    return np.zeros((steps, batch, 1), dtype)


def test_linear_nets_have_the_logs_of_their_eigenvalues():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((5, 5)))[0] + 0.2 * rng.standard_normal((5, 5))
    values = np.array([1.3, 0.9, 0.5, 0.2, 0.05])
    net, params = linear_net(basis @ np.diag(values) @ np.linalg.inv(basis))
    found = lyapunov.spectrum(net, params, still(3000))
    np.testing.assert_allclose(found.exponents[0], np.log(values), atol=1e-3)
    assert found.dimension == 5
    # The sums are log 1.3, log 1.17, log 0.585: the Kaplan-Yorke dimension is 2 + log 1.17 / log 2.
    assert found.kaplan_yorke[0] == pytest.approx(2 + np.log(1.17) / np.log(2), abs=1e-2)
    two = lyapunov.spectrum(net, params, still(3000), k=2)
    np.testing.assert_allclose(two.exponents[0], np.log(values[:2]), atol=1e-3)
    assert np.isnan(two.kaplan_yorke[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_orthogonal_nets_have_zeros_and_complex_pairs_count_twice(dtype):
    q, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))
    net, params = linear_net(q, dtype)
    found = lyapunov.spectrum(net, params, still(400, 2, dtype))
    np.testing.assert_allclose(found.exponents, 0, atol=1e-6)
    np.testing.assert_allclose(found.kaplan_yorke, 6, atol=1)
    angle = 0.7
    turn = 0.8 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    net, params = linear_net(turn, dtype)
    found = lyapunov.spectrum(net, params, still(400, 1, dtype))
    np.testing.assert_allclose(found.exponents[0], np.log(0.8), atol=1e-5)


def test_exponents_far_beyond_the_dtype():
    net, params = linear_net(np.diag([30.0, 1.0, 1e-3]), "float32")
    found = lyapunov.spectrum(net, params, still(2000, 1, "float32"))
    np.testing.assert_allclose(found.exponents[0], np.log([30.0, 1.0, 1e-3]), atol=1e-4)
    assert found.interval == 1  # after one step float32 can hardly distinguish the directions


def test_dead_directions_have_minus_infinity():
    net, params = linear_net(np.diag([0.5, 0.0]))
    found = lyapunov.spectrum(net, params, still(100))
    assert found.exponents[0, 0] == pytest.approx(np.log(0.5), abs=1e-6)
    assert found.exponents[0, 1] == -np.inf


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["rank", "rows", "relu"])
def test_a_singular_jacobian_does_not_ask_for_a_window_for_every_step(kind, dtype):
    """The directions that it removes are -inf; those that are left choose the interval."""
    rng = np.random.default_rng(4)
    n, rank = 24, 12
    steps = 600
    if kind == "relu":
        net = gd.Stack(gd.RNN(1, n, nonlinearity="relu"))
        params = net.init(seed=1, dtype=dtype)
        x = rng.standard_normal((steps, 1, 1)).astype(dtype)
    else:
        turned = np.linalg.qr(rng.standard_normal((n, n)))[0] if kind == "rank" else np.eye(n)
        blocks = np.zeros((n, n))
        blocks[:rank, :rank] = np.linalg.qr(rng.standard_normal((rank, rank)))[0] * 0.9
        net, params = linear_net(turned @ blocks @ turned.T, dtype)
        x = still(steps, 1, dtype)
    windows = []
    found = lyapunov.spectrum(net, params, x, progress=lambda done, total: windows.append(done))
    assert len(windows) < steps / 4
    gone = np.isneginf(found.exponents[0])
    if kind != "relu":
        assert gone.sum() == n - rank
        np.testing.assert_allclose(found.exponents[0, :rank], np.log(0.9), atol=1e-4)
    single = lyapunov.spectrum(net, params, x, interval=1)
    both = ~gone & ~np.isneginf(single.exponents[0])
    assert both.sum() >= 4
    np.testing.assert_allclose(
        found.exponents[0, both][:4], single.exponents[0, both][:4], atol=1e-3
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [24, 64])
def test_a_relu_net_has_as_many_exponents_as_it_ever_has_units_on(monkeypatch, n, dtype):
    """The step with the fewest units on is the rank of the product, for generic weights."""
    counts = []
    real = np.linalg.qr
    monkeypatch.setattr(np.linalg, "qr", lambda *a: counts.append(0) or real(*a))
    steps, burn_in = 1000, 100
    net = gd.Stack(gd.RNN(1, n, nonlinearity="relu"))
    params = net.init(seed=1, dtype=dtype)
    x = np.random.default_rng(4).standard_normal((steps, 1, 1)).astype(dtype)
    fewest = int((gd.apply(net, params, x)[0][burn_in:, 0] > 0).sum(axis=1).min())
    counts.clear()
    found = lyapunov.spectrum(net, params, x, burn_in=burn_in)
    assert len(counts) < steps / 6  # one for every step before, and some twice
    finite = np.isfinite(found.exponents[0])
    np.testing.assert_array_equal(finite, np.arange(n) < fewest)
    single = lyapunov.spectrum(net, params, x, burn_in=burn_in, interval=1)
    np.testing.assert_array_equal(np.isfinite(single.exponents[0]), finite)
    np.testing.assert_allclose(
        found.exponents[0, finite], single.exponents[0, finite], atol=1e-3, rtol=5e-3
    )


def test_a_direction_that_saturation_removes_for_a_while_comes_back():
    steps, n = 1000, 2
    net = gd.Stack(gd.RNN(1, n, bias=False))
    params = net.init(seed=0, dtype="float32")
    params["0.weight_hh"][...] = 0.9 * np.eye(n)
    params["0.weight_ih"][...] = [[0.0], [1.0]]
    x = np.zeros((steps, 1, 1), np.float32)
    x[400:460] = 6.6  # the second unit's derivative is about 1e-6, less than rounding leaves
    found = lyapunov.spectrum(net, params, x, burn_in=0)
    h = gd.apply(net, params, x)[0][:, 0, 1].astype(np.float64)
    per_step = np.log(0.9 * (1 - h**2))
    assert (per_step[410:460] < np.log(8 * np.sqrt(n) * np.finfo(np.float32).eps)).all()
    assert found.exponents[0, 0] == pytest.approx(np.log(0.9), abs=5e-3)
    assert found.exponents[0, 1] == pytest.approx(per_step.mean(), rel=0.05)
    assert found.interval > 10


def test_a_singular_map_has_minus_infinity_at_every_interval_of_one_step():
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((3, 3)))[0]
    matrix = turn @ np.diag([0.8, 0.5, 0.0]) @ turn.T
    found = lyapunov.of_map(lambda s: matrix @ s, lambda s, v: matrix @ v, np.ones(3), 200)
    np.testing.assert_allclose(found.exponents[0, :2], np.log([0.8, 0.5]), atol=1e-6)
    assert found.exponents[0, 2] == -np.inf
    # Beyond eps is not below it: such a direction has its value.
    steep = np.diag([1.0, 1e-14])
    found = lyapunov.of_map(lambda s: steep @ s, lambda s, v: steep @ v, np.ones(2), 200)
    assert found.exponents[0, 1] == pytest.approx(np.log(1e-14), rel=1e-6)


def test_random_gaussian_matrices_reach_their_mean_field():
    """For i.i.d. N(0, g^2/n) the eigenvalues fill a disc of radius g, half of whose area lies
    within g / sqrt(2) (Ginibre 1965), so the middle exponent is log(g / sqrt(2)).
    """
    n, gain = 64, 0.9
    matrix = np.random.default_rng(3).standard_normal((n, n)) * gain / np.sqrt(n)
    net, params = linear_net(matrix)
    found = lyapunov.spectrum(net, params, still(800), k=40, threads=1)
    # The edge of the disc is blurred by about n^(-1/2).
    assert found.exponents[0, 0] == pytest.approx(np.log(gain), abs=1.2 / np.sqrt(n))
    assert found.exponents[0, n // 2] == pytest.approx(
        np.log(gain / np.sqrt(2)), abs=1 / np.sqrt(n)
    )
    exact = np.sort(np.log(np.abs(np.linalg.eigvals(matrix))))[::-1]
    np.testing.assert_allclose(found.exponents[0, :32], exact[:32], atol=0.03)


def test_sum_of_exponents_is_the_mean_log_determinant():
    """For any net the sum is the growth of volume, step by step."""
    net = gd.Stack(gd.LSTM(3, 6))
    params = net.init(seed=2, dtype="float64")
    x = np.random.default_rng(2).standard_normal((300, 2, 3))
    found = lyapunov.spectrum(net, params, x, burn_in=0)
    steps = gd.jacobian.step_jacobians(net, params, x, range(300))
    volume = np.linalg.slogdet(steps)[1].mean(axis=0)
    np.testing.assert_allclose(found.exponents.sum(axis=1), volume, rtol=1e-6)
    assert (found.standard_error[:, 0] > 0).all()


def lorenz(dt=0.01):
    """One Runge-Kutta step of Lorenz 1963, and its derivative by the chain rule over the stages."""

    def field(s):
        x, y, z = s
        return np.array([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    def slope(s, v):
        x, y, z = s
        return np.array([[-10, 10, 0], [28 - z, -1, -x], [y, x, -8 / 3]]) @ v

    def stages(s):
        k1 = field(s)
        k2 = field(s + dt / 2 * k1)
        k3 = field(s + dt / 2 * k2)
        return k1, k2, k3, field(s + dt * k3)

    def step(s):
        k1, k2, k3, k4 = stages(s)
        return s + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    def tangent(s, v):
        k1, k2, k3, _ = stages(s)
        v1 = slope(s, v)
        v2 = slope(s + dt / 2 * k1, v + dt / 2 * v1)
        v3 = slope(s + dt / 2 * k2, v + dt / 2 * v2)
        v4 = slope(s + dt * k3, v + dt * v3)
        return v + dt / 6 * (v1 + 2 * v2 + 2 * v3 + v4)

    return step, tangent


def test_lorenz_63():
    """The exponents are 0.9056, 0 and -14.572 per unit of time, the dimension 2.062 (Sprott
    2003).
    """
    step, tangent = lorenz()
    found = lyapunov.of_map(step, tangent, [1.0, 1.0, 20.0], 60_000, interval=10)
    rates, errors = found.exponents[0] / 0.01, found.standard_error[0] / 0.01
    assert abs(rates[0] - 0.9056) < max(4 * errors[0], 0.01)
    assert errors[0] < 0.02
    assert abs(rates[1]) < 0.01
    assert rates[2] == pytest.approx(-14.572, abs=0.03)
    assert found.kaplan_yorke[0] == pytest.approx(2.062, abs=2e-3)


def test_wrong_questions_are_refused():
    net, params = linear_net(np.eye(3))
    with pytest.raises(gd.ArgumentError, match="k must be at most S = 3"):
        lyapunov.spectrum(net, params, still(10), k=4)
    with pytest.raises(gd.ArgumentError, match=r"burn_in must be in 0\.\.T-1 = 0\.\.9"):
        lyapunov.spectrum(net, params, still(10), burn_in=10)
    with pytest.raises(gd.NonFiniteError, match="not finite at step 2") as raised:
        lyapunov.of_map(lambda s: np.where(s > 500, np.nan, 9 * s), lambda s, v: 9 * v, [9.0], 10)
    assert raised.value.step == 2
    both = gd.Stack(gd.GRU(1, 3, bidirectional=True))
    with pytest.raises(gd.ArgumentError, match=r"lyapunov.spectrum needs a net whose layers"):
        lyapunov.spectrum(both, both.init(seed=0, dtype="float64"), still(10))
