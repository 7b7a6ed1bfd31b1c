"""Constraints in optimizers hold after every step and change nothing else."""

import numpy as np
import pytest

import gradcore as gd
from gradcore import constrain
from gradcore.constrain import _keeper, _matrices


def setting(dtype="float32", gain=1.0):
    net = gd.Stack(gd.LSTM(3, 9), gd.RNN(9, 7), gd.Linear(7, 2))
    return net, net.init(seed=0, dtype=dtype, gain=gain)


def gradient(net, dtype, seed):
    rng = np.random.default_rng(seed)
    return gd.Grads(net, rng.standard_normal(net.n_parameters).astype(dtype))


def norms(array, blocks):
    stack = array.astype(float).reshape(blocks, -1, array.shape[1])
    return np.linalg.svd(stack, compute_uv=False)[:, 0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("per_gate", [False, True])
@pytest.mark.parametrize("how", ["clip", "scale", "reparametrise"])
def test_the_limit_holds_from_the_start_and_after_every_step(how, per_gate, dtype):
    net, params = setting(dtype, gain=2.0)
    limit = 0.8
    optimizer = gd.optim.Adam(
        params, 0.05, constraints=[constrain.SpectralNorm(limit, how=how, per_gate=per_gate)]
    )
    for step in range(12):
        for name, gates in (("0.weight_hh", 4), ("1.weight_hh", 1)):
            blocks = gates if per_gate else 1
            assert norms(params[name], blocks).max() <= limit * (1 + 2e-6)
        report = optimizer.step(gradient(net, dtype, step))
        assert set(report.constraints) == {"0.weight_hh", "1.weight_hh"}
    assert report.constraints["0.weight_hh"].active


@pytest.mark.parametrize("how", ["clip", "scale"])
def test_it_is_the_step_of_the_optimizer_and_then_the_projection(how):
    net, params = setting("float64", gain=0.7)
    free = gd.Params(net, params.flat.copy())
    constraint = constrain.SpectralNorm(0.7001, how=how, weights="1.weight_hh")
    gd.optim.SGD(params, 0.1, constraints=[constraint]).step(gradient(net, "float64", 1))
    gd.optim.SGD(free, 0.1).step(gradient(net, "float64", 1))
    u, s, vt = np.linalg.svd(free["1.weight_hh"])
    assert s[0] > 0.7001
    nearest = u @ np.diag(np.minimum(s, 0.7001)) @ vt
    want = nearest if how == "clip" else free["1.weight_hh"] * 0.7001 / s[0]
    np.testing.assert_allclose(params["1.weight_hh"], want, atol=1e-12)
    for name in params:
        if name != "1.weight_hh":
            np.testing.assert_array_equal(params[name], free[name])


def test_a_limit_far_away_costs_no_norm_and_changes_no_bit(monkeypatch):
    net, params = setting()
    free = gd.Params(net, params.flat.copy())
    bound = gd.optim.Adam(params, 1e-3, constraints=[constrain.SpectralNorm(50.0)])
    bare = gd.optim.Adam(free, 1e-3)
    calls = []
    monkeypatch.setattr(_keeper, "_within", lambda *given: calls.append(1))
    for step in range(30):
        report = bound.step(gradient(net, "float32", step))
        bare.step(gradient(net, "float32", step))
        for name in ("0.weight_hh", "1.weight_hh"):
            assert report.constraints[name].norm >= norms(params[name], 1)[0] * (1 - 1e-6)
    assert calls == []
    np.testing.assert_array_equal(params.flat, free.flat)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("how", ["clip", "scale", "reparametrise"])
def test_weights_changed_from_outside_come_under_the_limit(how, loaded):
    # An upper bound that is not reset after the change would be far above the remaining norm, 0.1.
    net, params = setting(gain=0.1)
    optimizer = gd.optim.Adam(params, 1e-4, constraints=[constrain.SpectralNorm(1.0, how=how)])
    optimizer.step(gradient(net, "float32", 0))
    if loaded:
        optimizer.load_state_dict(optimizer.state_dict())
    outside = np.random.default_rng(1).standard_normal((7, 7)).astype(np.float32)
    assert norms(outside, 1)[0] > 3
    params["1.weight_hh"] = outside
    optimizer.step(gradient(net, "float32", 1))
    got = params["1.weight_hh"]
    assert norms(got, 1)[0] == pytest.approx(1.0, rel=1e-5)
    if how != "clip":
        np.testing.assert_allclose(got, outside / norms(outside, 1)[0], atol=1e-3)


@pytest.mark.parametrize(
    "constraint",
    [
        constrain.SpectralNorm(1.0),
        constrain.SpectralNorm(1.0, how="scale"),
        constrain.SpectralNorm(1.0, how="reparametrise"),
        constrain.Orthogonal(),
    ],
    ids=repr,
)
def test_weights_that_overflow_are_left_to_the_next_pass(constraint):
    net, params = setting()
    optimizer = gd.optim.SGD(params, 3e38, constraints=[constraint])
    grads = gd.Grads(net, np.full(net.n_parameters, 2.0, np.float32))
    report = optimizer.step(grads)
    assert np.isnan(report.constraints["1.weight_hh"].norm)
    assert not report.constraints["1.weight_hh"].active
    with pytest.raises(gd.NonFiniteError):
        gd.apply(net, params, np.ones((4, 1, 3), np.float32))


def test_eigenvalues_leave_no_blas_threads_behind(monkeypatch):
    pool = pytest.importorskip("threadpoolctl", reason="asks BLAS: install gradcore[diagnose]")
    net, params = setting(gain=2.0)
    seen = []
    real = _keeper.clipped

    def spy(w, limit):
        seen.append([p["num_threads"] for p in pool.threadpool_info() if p["user_api"] == "blas"])
        return real(w, limit)

    monkeypatch.setattr(_keeper, "clipped", spy)
    before = pool.threadpool_info()
    optimizer = gd.optim.Adam(params, 0.1, constraints=[constrain.SpectralNorm(1.0)])
    optimizer.step(gradient(net, "float32", 0))
    assert len(seen) > 2
    assert {n for threads in seen for n in threads} == {1}
    assert pool.threadpool_info() == before


@pytest.mark.parametrize("constraint", [gd.constrain.SpectralNorm(0.7), gd.constrain.Orthogonal()])
def test_both_directions_are_constrained_by_default(constraint):
    net = gd.Stack(gd.RNN(2, 5, bidirectional=True), gd.Linear(10, 1))
    params = net.init(seed=0, gain=2.0)
    gd.optim.SGD(params, 0.1, constraints=[constraint])
    for name in ("0.weight_hh", "0.weight_hh_reverse"):
        top = 0.7 if isinstance(constraint, gd.constrain.SpectralNorm) else 1.0
        assert np.linalg.norm(params[name], 2) == pytest.approx(top, rel=1e-4)


def test_the_gradient_through_the_norm_three_ways():
    rng = np.random.default_rng(0)
    v, g, moved = rng.standard_normal((3, 2, 6, 4))
    limit = 0.9

    def w(v):
        return v * _keeper._shrink(_matrices.largest(v), limit)

    through = _keeper._through_norm(v, g, limit, _matrices.top_pair(v))
    # Compares a central difference along a direction, and the dot product of tangent and cotangent.
    step = 1e-6
    tangent = (w(v + step * moved) - w(v - step * moved)) / (2 * step)
    assert np.sum(tangent * g) == pytest.approx(np.sum(through * moved), rel=1e-8)
    # Inside the limit the map is the identity.
    small = v * 0.1
    np.testing.assert_array_equal(
        _keeper._through_norm(small, g, limit, _matrices.top_pair(small)), g
    )


def test_against_the_parametrisation_of_pytorch():
    torch = pytest.importorskip("torch", reason="compares with torch's spectral_norm")
    rng = np.random.default_rng(0)
    v, g = rng.standard_normal((2, 5, 8))
    layer = torch.nn.Linear(8, 5, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(v))
    torch.nn.utils.parametrizations.spectral_norm(layer, n_power_iterations=400)
    weight = layer.weight
    weight.backward(torch.from_numpy(g))
    np.testing.assert_allclose(
        v * _keeper._shrink(_matrices.largest(v[None]), 1.0)[0], weight.detach().numpy(), atol=1e-12
    )
    own = _keeper._through_norm(v[None], g[None], 1.0, _matrices.top_pair(v[None]))[0]
    theirs = layer.parametrizations.weight.original.grad.numpy()
    np.testing.assert_allclose(own, theirs, atol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_orthogonal_weights_stay_so_over_thousands_of_steps(dtype):
    net, params = setting(dtype, gain=1.5)
    optimizer = gd.optim.Adam(params, 0.02, constraints=[constrain.Orthogonal()])
    rng = np.random.default_rng(0)
    many = rng.standard_normal((64, net.n_parameters)).astype(dtype)
    for step in range(3000):
        optimizer.step(gd.Grads(net, many[step % 64]))
    for name, gates in (("0.weight_hh", 4), ("1.weight_hh", 1)):
        blocks = params[name].astype(float).reshape(gates, -1, params[name].shape[1])
        off = blocks @ blocks.transpose(0, 2, 1) - np.eye(blocks.shape[1])
        assert np.abs(off).max() < (1e-6 if dtype == "float32" else 1e-13)


def test_orthogonal_steps_go_downhill_to_a_rotation():
    net = gd.Stack(gd.RNN(2, 6))
    params = net.init(seed=0, dtype="float64")
    rng = np.random.default_rng(3)
    target = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    start = params["0.weight_hh"]
    if np.linalg.det(target) * np.linalg.det(start) < 0:
        target[:, 0] *= -1
    optimizer = gd.optim.SGD(params, 0.2, constraints=[constrain.Orthogonal()])
    losses = []
    for _ in range(400):
        grads = gd.Grads(net, np.zeros(net.n_parameters))
        grads["0.weight_hh"] = params["0.weight_hh"] - target
        losses.append(0.5 * np.sum((params["0.weight_hh"] - target) ** 2))
        optimizer.step(grads)
    assert losses[-1] < 1e-10
    assert np.diff(losses).max() <= 1e-12


@pytest.mark.parametrize("how", ["clip", "scale", "reparametrise", "orthogonal"])
def test_a_saved_optimizer_goes_on_to_the_same_bits(how):
    def make():
        net, params = setting(gain=1.3)
        if how == "orthogonal":
            constraint = constrain.Orthogonal()
        else:
            constraint = constrain.SpectralNorm(1.0, how=how)
        return net, params, gd.optim.Adam(params, 0.03, constraints=[constraint])

    net, params, optimizer = make()
    for step in range(6):
        if step == 3:
            state, kept = optimizer.state_dict(), params.flat.copy()
        optimizer.step(gradient(net, "float32", step))
    _, again, resumed = make()
    again.flat[...] = kept
    resumed.load_state_dict(state)
    for step in range(3, 6):
        resumed.step(gradient(net, "float32", step))
    np.testing.assert_array_equal(again.flat, params.flat)
    # An orthogonal weight needs no state besides itself.
    others = [constrain.SpectralNorm(1.0)] if how == "orthogonal" else []
    other = gd.optim.Adam(again, 0.03, constraints=others)
    with pytest.raises(gd.ArgumentError, match=r"(unknown|missing): constraint\."):
        other.load_state_dict(state)


def test_a_training_is_resumed_with_its_constraints(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 20, 3)).astype(np.float32)
    y = rng.standard_normal((8, 20, 2)).astype(np.float32)

    def make(limit=0.9):
        net, params = setting()
        constraint = constrain.SpectralNorm(limit, how="reparametrise")
        optimizer = gd.optim.Adam(params, 0.03, constraints=[constraint])
        return gd.Trainer(net, params, optimizer, loss="mse", quiet=True)

    data = gd.data.Sequences(list(x), list(y), batch_size=4, seed=0)
    whole, first, second = make(), make(), make()
    whole.fit(data, steps=8)
    data = gd.data.Sequences(list(x), list(y), batch_size=4, seed=0)
    first.fit(data, steps=5, run=tmp_path)
    data = gd.data.Sequences(list(x), list(y), batch_size=4, seed=0)
    second.fit(data, steps=8, run=tmp_path, resume=True)
    np.testing.assert_array_equal(second.params.flat, whole.params.flat)
    with pytest.raises(
        gd.ArgumentError, match=r"optimizer\.constraints was .*0\.9.* and is .*0\.5"
    ):
        make(0.5).fit(data, steps=9, run=tmp_path, resume=True)


def test_a_step_that_fails_has_changed_nothing():
    net, params = setting(gain=2.0)
    constraint = constrain.SpectralNorm(1.0, how="reparametrise")
    optimizer = gd.optim.SGD(params, 0.1, constraints=[constraint])
    before, state = params.flat.copy(), optimizer.state_dict()
    bad = gradient(net, "float32", 0)
    bad["2.bias"] = np.array([np.nan, 0], np.float32)
    with pytest.raises(gd.NonFiniteError, match=r"2\.bias"):
        optimizer.step(bad)
    np.testing.assert_array_equal(params.flat, before)
    np.testing.assert_array_equal(
        optimizer.state_dict()["constraint.0.weight_hh.free"], state["constraint.0.weight_hh.free"]
    )
    kept = gradient(net, "float32", 1)
    copy = kept.flat.copy()
    optimizer.step(kept)
    np.testing.assert_array_equal(kept.flat, copy)  # the caller's gradient is unchanged


def test_what_explodes_does_not_under_a_constraint():
    """Trains a tanh RNN whose weights are too large over 750 steps, without and with the limit."""
    net = gd.Stack(gd.RNN(2, 32), gd.Linear(32, 1))
    x = 0.01 * np.random.default_rng(0).standard_normal((750, 4, 2)).astype(np.float32)
    y = np.ones((4, 1), np.float32)
    loss = gd.loss.MeanSquaredError(step="last")

    def grown(params):
        found = gd.jacobian.hidden_gradients(net, params, x, y, loss=loss, norms_only=True)
        return (found.norm_log10[0] - found.norm_log10[-1]).max()

    free = net.init(seed=0, gain=1.6)
    assert grown(free) > 10
    kept = net.init(seed=0, gain=1.6)
    gd.optim.SGD(kept, 0.1, constraints=[constrain.SpectralNorm(1.0)])
    assert grown(kept) <= constrain.jacobian_bound(net, kept, 749) + 1e-3
    assert constrain.jacobian_bound(net, kept, 749) < 1e-3


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: constrain.SpectralNorm(0.0), gd.ArgumentError, r"SpectralNorm\.limit"),
        (lambda: constrain.SpectralNorm(how="norm"), gd.ArgumentError, r"SpectralNorm\.how"),
        (lambda: constrain.SpectralNorm(weights=[]), gd.ArgumentError, "at least one pattern"),
        (lambda: constrain.Orthogonal(weights=3), gd.DTypeError, r"Orthogonal\.weights"),
    ],
)
def test_wrong_descriptions_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("constraints", "error", "message"),
    [
        (constrain.SpectralNorm(), gd.DTypeError, "constraints must be a list"),
        ([constrain.Constraint()], gd.DTypeError, "constraints must be a list"),
        ([constrain.SpectralNorm(weights="9.*")], gd.ArgumentError, "matches no parameter"),
        ([constrain.SpectralNorm(weights="*.bias")], gd.ArgumentError, "acts on matrices"),
        ([constrain.Orthogonal(weights="2.weight")], gd.ArgumentError, "needs a square matrix"),
        (
            [constrain.SpectralNorm(), constrain.Orthogonal(weights="1.weight_hh")],
            gd.ArgumentError,
            "can have one constraint, and two match",
        ),
    ],
)
def test_what_an_optimizer_cannot_keep_is_refused(constraints, error, message):
    _, params = setting()
    before = params.flat.copy()
    with pytest.raises(error, match=message):
        gd.optim.Adam(params, constraints=constraints)
    if not isinstance(constraints, list) or len(constraints) == 1:
        np.testing.assert_array_equal(params.flat, before)
