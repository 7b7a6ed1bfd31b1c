"""gradcore.horizon agrees with the definitions of its quantities."""

import numpy as np
import pytest

import gradcore as gd
from gradcore import horizon

T, B = 700, 2


def setting(dtype="float64", **options):
    net = gd.Stack(gd.GRU(3, 9, skip=gd.Skip(4, value=0.3)), gd.LSTM(9, 8), gd.Linear(8, 4))
    params = net.init(seed=0, dtype=dtype)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((T, B, 3)).astype(dtype)
    return net, params, x, rng.integers(0, 4, (T, B)), rng


@pytest.mark.parametrize("masks", [False, True])
def test_windows_sum_to_the_gradient(masks):
    net, params, x, y, rng = setting()
    given = {}
    if masks:
        given = {
            "lengths": np.array([T, 333]),
            "reset": rng.random((T, B)) < 0.005,
            "weight": rng.random((T, B)),
        }
    found = horizon.window_shares(
        net, params, x, y, loss="cross_entropy", windows=[100, 101, 512], **given
    )
    assert found.borders.tolist() == [0, 100, 101, 512, T]
    assert found.share.sum() == pytest.approx(1, abs=1e-9)
    assert np.isfinite(found.norm_log10).all()
    # By definition, this is the effect of the parameters in one window while all others stay fixed.
    grads = gd.value_and_grad(net, params, x, y, loss="cross_entropy", **given).grads
    direction = grads.flat / np.linalg.norm(grads.flat)
    losses = []
    for sign in (1, -1):
        moved = gd.Params(net, params.flat + sign * 1e-5 * direction)
        losses.append(_loss_with(net, params, moved, x, y, 101, 512, given))
    slope = (losses[0] - losses[1]) / 2e-5
    assert found.share[2] * np.linalg.norm(grads.flat) == pytest.approx(slope, rel=1e-4)


def _loss_with(net, params, moved, x, y, t0, t1, given):
    """The mean loss if steps [t0,t1) run with other parameters."""
    state, total, terms = None, 0.0, 0.0
    loss = gd.loss.CrossEntropy(reduction="sum")
    for a, b, used in ((0, t0, params), (t0, t1, moved), (t1, T, params)):
        part = {}
        weight = given.get("weight", np.ones((T, B)))[a:b]
        there = np.ones((b - a, B), bool)
        if given:
            lengths = np.clip(given["lengths"] - a, 0, b - a)
            part = {"lengths": lengths, "reset": given["reset"][a:b]}
            there = np.arange(b - a)[:, None] < lengths
        total += gd.value(net, used, x[a:b], y[a:b], loss=loss, weight=weight, state=state, **part)
        terms += (weight * there).sum()
        _, state = gd.apply(net, used, x[a:b], state=state, **part)
    return total / terms


def test_loss_of_the_last_step():
    net, params, x, _, _ = setting()
    y, lengths = np.array([1, 2]), np.array([T, 350])
    loss = gd.loss.CrossEntropy(step="last")
    found = horizon.window_shares(net, params, x, y, loss=loss, windows=[300, 400], lengths=lengths)
    assert found.share.sum() == pytest.approx(1, abs=1e-9)
    whole = horizon.window_shares(net, params, x, y, loss=loss, windows=1, lengths=lengths)
    exact = gd.value_and_grad(net, params, x, y, loss=loss, lengths=lengths).grads.norm_log10()
    assert whole.norm_log10[0] == pytest.approx(exact, abs=1e-9)


def test_truncation_is_what_a_stream_would_do():
    net, params, x, y, _ = setting()
    found = horizon.truncation_bias(
        net, params, x, y, loss="cross_entropy", truncations=[10, 100, T]
    )
    exact = gd.value_and_grad(net, params, x, y, loss="cross_entropy").grads.flat
    cut, state = 0, None
    for t in range(0, T, 100):
        r = gd.value_and_grad(
            net, params, x[t : t + 100], y[t : t + 100], loss="cross_entropy", state=state
        )
        cut, state = cut + r.grads.flat / 7, r.state
    error = np.linalg.norm(cut - exact) / np.linalg.norm(exact)
    assert found.error[1] == pytest.approx(error, rel=1e-9)
    cosine = cut @ exact / np.linalg.norm(cut) / np.linalg.norm(exact)
    assert found.cosine[1] == pytest.approx(cosine, rel=1e-9)
    assert found.error[2] == pytest.approx(0, abs=1e-12)
    assert found.error[0] > found.error[1]
    assert found.needed(float(found.error[1])) == 100
    assert found.needed(0.0) is None or found.needed(0.0) == T
    default = horizon.truncation_bias(net, params, x, y, loss="cross_entropy")
    assert default.lengths.tolist() == [16, 32, 64, 128, 256]


@pytest.mark.parametrize(("factor", "fraction"), [(0.99, 0.01), (0.9, 0.1)])
def test_memory_of_a_leak_is_its_logarithm(factor, fraction):
    net = gd.Stack(gd.RNN(1, 4, nonlinearity="identity", bias=False))
    params = net.init(seed=0)
    params["0.weight_hh"][...] = factor * np.eye(4)
    x = np.zeros((2000, 2, 1), np.float32)
    found = horizon.memory_length(net, params, x, fraction=fraction, lengths=np.array([2000, 300]))
    want = int(np.log(fraction) / np.log(factor))
    assert found[0] == pytest.approx(want, abs=1)
    assert found[1] == pytest.approx(min(want, 299), abs=1)


def test_reach_goes_on_where_float32_ends():
    """A chain with a factor of 0.5 loses one power of two in each of 3,000 steps."""
    net = gd.Stack(gd.RNN(1, 4, nonlinearity="identity"))
    params = net.init(seed=0)
    params["0.weight_hh"][...] = 0.5 * np.eye(4)
    x = np.zeros((3000, 2, 1), np.float32)
    told = []
    found = horizon.reach(
        net,
        params,
        x,
        lengths=np.array([3000, 0]),
        probes=3,
        progress=lambda n, m: told.append((n, m)),
    )
    np.testing.assert_allclose(
        found.norm_log10[:, 0] - found.norm_log10[-1, 0], np.arange(-2999, 1) * np.log10(2.0)
    )
    assert np.isneginf(found.norm_log10[:, 1]).all()
    assert told == [(1, 3), (2, 3), (3, 3)]
    np.testing.assert_array_equal(found.memory_length(), [6, 0])  # 2^-6 >= 1 % > 2^-7


def test_a_layer_that_the_outputs_do_not_see_has_no_memory():
    net = gd.Stack(gd.RNN(1, 4), gd.Linear(4, 2))
    params = net.init(seed=0)
    params["1.weight"][...] = 0
    found = horizon.reach(net, params, np.zeros((20, 1, 1), np.float32))
    np.testing.assert_array_equal(found.memory_length(), [0])


def test_shares_of_a_dead_gradient_and_far_windows():
    """With a factor of 0.8, the first window of 5,000 steps has 10^-400 of the gradient."""
    net = gd.Stack(gd.RNN(1, 4, nonlinearity="identity"))
    params = net.init(seed=0)
    params["0.weight_hh"][...] = 0.8 * np.eye(4)
    x = np.ones((5000, 1, 1), np.float32)
    found = horizon.window_shares(
        net,
        params,
        x,
        np.zeros((1, 4), np.float32),
        loss=gd.loss.MeanSquaredError(step="last"),
        windows=5,
    )
    steps = np.diff(found.norm_log10)
    np.testing.assert_allclose(steps, 1000 * -np.log10(0.8), rtol=1e-3)
    assert found.share[-1] == pytest.approx(1)


def test_wrong_questions_are_refused():
    net, params, x, y, _ = setting()
    with pytest.raises(
        gd.ArgumentError, match=r"windows must be a number, or ascending inner borders"
    ):
        horizon.window_shares(net, params, x, y, loss="cross_entropy", windows=[5, 5])
    with pytest.raises(gd.ArgumentError, match=r"object of gradcore\.loss for truncation_bias"):
        horizon.truncation_bias(net, params, x, y, loss=lambda o, a, b: (0.0, o))
    with pytest.raises(gd.ArgumentError, match=r"fraction must be in \(0, 1\)"):
        horizon.memory_length(net, params, x, fraction=1)
    with pytest.raises(gd.ArgumentError, match="truncations must name at least one"):
        horizon.truncation_bias(net, params, x, y, loss="cross_entropy", truncations=[])
