"""Gradients through fixed points in three ways, their conditioning, the penalty, and whole
models.
"""

import warnings

import numpy as np
import pytest

import gradcore as gd
from gradcore import implicit
from gradcore.implicit import Bicgstab, FixedPoint, Gmres, Model, Neumann, OneStep
from gradcore.implicit._krylov import bicgstab, gmres
from linear_layers import contraction, linear

EXACT = ["gmres", "bicgstab", Gmres(1e-12, restart=5), Bicgstab(1e-12)]


def layer_of(cell, feedback="state", **options):
    """A layer, float64 parameters and an input."""
    net = gd.Stack(cell)
    if feedback == "output":
        net = gd.Stack(gd.RNN(6 + 4, 8), gd.LayerNorm(8), gd.Linear(8, 6))
    layer = FixedPoint(net, feedback=feedback, max_iter=2_000, tol=1e-13, **options)
    params = layer.init(seed=0, dtype="float64", gain=0.5)
    return layer, params, np.random.default_rng(0).standard_normal((3, 4))


CELLS = {
    "rnn": (gd.RNN(4, 6), "state"),
    "gru": (gd.GRU(4, 6), "state"),
    "lstm": (gd.LSTM(4, 6), "state"),
    "skip": (gd.RNN(4, 6, skip=gd.Skip(2, kind="mix", learned=True)), "state"),
    "antisymmetric": (gd.AntisymmetricRNN(4, 6, step=0.5, diffusion=0.4), "state"),
    "output": (gd.RNN(4, 6), "output"),
}


def dense_jacobian(layer, params, x, z):
    """The Jacobian of the layer's own f by central differences."""
    system = layer._system(params, x, None)
    size, h = layer.size, 1e-6
    columns = []
    for i in range(size):
        v = np.zeros_like(z)
        v[:, i] = h
        columns.append((system.value(z + v) - system.value(z - v)) / (2 * h))
    return np.stack(columns, axis=2)  # (N, S, S)


# ---- three ways


@pytest.mark.parametrize("backward", EXACT, ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_gradients_are_those_of_differences_of_the_solution(name, backward):
    layer, params, x = layer_of(*CELLS[name], backward=backward)
    rng = np.random.default_rng(1)
    dz = rng.standard_normal((3, layer.size))
    z = layer.solve(params, x)
    found = layer.gradient(params, x, z, dz)
    assert found.converged.all()
    assert found.exponent == 0

    def loss(params, x):
        return float((layer.solve(params, x, start=z.z).z * dz).sum())

    # A central difference along one random direction of all parameters and inputs.
    h = 1e-5
    moved, moved_x = rng.standard_normal(params.flat.shape), rng.standard_normal(x.shape)
    ahead, behind = params.copy(), params.copy()
    ahead.flat[...] += h * moved
    behind.flat[...] -= h * moved
    want = (loss(ahead, x + h * moved_x) - loss(behind, x - h * moved_x)) / (2 * h)
    grads = np.ldexp(found.grads.flat, found.grads.exponent)
    got = float(grads @ moved) + float((found.dx * moved_x).sum())
    assert got == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("name", CELLS)
def test_the_adjoint_is_the_dense_solve(name):
    layer, params, x = layer_of(*CELLS[name])
    dz = np.random.default_rng(1).standard_normal((3, layer.size))
    z = layer.solve(params, x).z
    found = layer.gradient(params, x, z, dz)
    j = dense_jacobian(layer, params, x, z)
    eye = np.eye(layer.size)
    want = np.stack([np.linalg.solve((eye - j[n]).T, dz[n]) for n in range(3)])
    np.testing.assert_allclose(found.u, want, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(
        found.amplification,
        np.linalg.norm(want, axis=1) / np.linalg.norm(dz, axis=1),
        rtol=1e-6,
    )
    least = np.linalg.svd(eye - j, compute_uv=False)[:, -1]
    assert (found.smallest >= least * (1 - 1e-6)).all()


@pytest.mark.parametrize("name", CELLS)
def test_products_with_the_jacobian_are_adjoint(name):
    layer, params, x = layer_of(*CELLS[name])
    system = layer._system(params, x, None)
    rng = np.random.default_rng(2)
    z, v, u = rng.standard_normal((3, 3, layer.size))
    left = float((system.tangents(z, v[None])[0] * u).sum())
    right = float((system.cotangents(z, u[None])[0] * v).sum())
    assert left == pytest.approx(right, rel=1e-11)
    np.testing.assert_allclose(
        system.tangents(z, np.stack([v, u]))[1], system.tangents(z, u[None])[0], rtol=1e-12
    )


def test_a_linear_layer_has_the_closed_form():
    a = contraction(9, 0.9)
    layer = FixedPoint(linear(a), max_iter=3_000)
    params = layer.init(dtype="float64")
    rng = np.random.default_rng(0)
    x, dz = rng.standard_normal((2, 4, 9))
    z = layer.solve(params, x)
    found = layer.gradient(params, x, z, dz)
    u = np.linalg.solve((np.eye(9) - a).T, dz.T).T
    np.testing.assert_allclose(found.dx, u, rtol=1e-8)
    np.testing.assert_allclose(found.grads["a"], u.T @ z.z, rtol=1e-8)


def test_in_float32_too():
    layer, params, x = layer_of(*CELLS["gru"])
    dz = np.random.default_rng(1).standard_normal((3, 6))
    exact = layer.gradient(params, x, layer.solve(params, x), dz)
    own = FixedPoint(layer.f, max_iter=500)
    single, x32 = params.astype("float32"), x.astype("float32")
    found = own.gradient(single, x32, own.solve(single, x32), dz.astype("float32"))
    off = np.linalg.norm(found.grads.flat - exact.grads.flat) / np.linalg.norm(exact.grads.flat)
    assert off < 1e-4
    assert found.dx.dtype == np.float32


# ---- cheaper ways


@pytest.mark.parametrize("terms", [0, 1, 5, 20])
def test_cheaper_ways_are_the_series_and_say_how_wrong_they_are(terms):
    a = contraction(8, 0.6)
    rng = np.random.default_rng(0)
    x, dz = rng.standard_normal((2, 4, 8))
    layer = FixedPoint(linear(a), backward=Neumann(terms) if terms else OneStep())
    params = layer.init(dtype="float64")
    found = layer.gradient(params, x, layer.solve(params, x), dz)
    want = sum(dz @ np.linalg.matrix_power(a, k) for k in range(terms + 1))
    np.testing.assert_allclose(found.u, want, atol=1e-12)
    exact = np.linalg.solve((np.eye(8) - a).T, dz.T).T
    error = np.linalg.norm(found.u - exact, axis=1) / np.linalg.norm(found.u, axis=1)
    assert (found.error >= 0.3 * error).all()
    assert (found.error <= 10 * error).all()
    np.testing.assert_array_equal(found.products, terms + 1)


def test_a_series_that_diverges_has_an_infinite_error():
    layer = FixedPoint(linear(np.diag([2.0, 3.0])), solver="newton", backward=Neumann(10))
    params = layer.init(dtype="float64")
    x = np.ones((1, 2))
    found = layer.gradient(params, x, layer.solve(params, x), np.ones((1, 2)))
    assert np.isinf(found.error[0])
    exact = FixedPoint(layer.f, solver="newton").gradient(
        params, x, layer.solve(params, x), np.ones((1, 2))
    )
    np.testing.assert_allclose(exact.u[0], [-1.0, -0.5], rtol=1e-9)


# ---- Krylov solvers


class Dense:
    def __init__(self, a):
        self.a = a

    def __call__(self, v):
        return np.einsum("nij,nj->ni", self.a, v)

    def take(self, rows):
        return Dense(self.a[rows])


@pytest.mark.parametrize("solver", ["gmres", "bicgstab"])
def test_many_systems_at_once(solver):
    rng = np.random.default_rng(0)
    a = np.eye(12) + 0.3 * rng.standard_normal((20, 12, 12)) / np.sqrt(12)
    a[3] = np.eye(12)
    b = rng.standard_normal((20, 12))
    b[5] = 0
    if solver == "gmres":
        found = gmres(Dense(a), b, 1e-11, 200, 12)
    else:
        found = bicgstab(Dense(a), b, 1e-11, 200)
    np.testing.assert_allclose(found.x, np.linalg.solve(a, b[:, :, None])[:, :, 0], atol=1e-9)
    assert (found.residual <= 1e-10).all()
    assert found.products[5] == 0
    assert found.products[3] < found.products[0]
    least = np.linalg.svd(a, compute_uv=False)[:, -1]
    assert (found.smallest >= least * (1 - 1e-9)).all()


def test_scipy_agrees():
    sparse = pytest.importorskip("scipy.sparse.linalg", reason="install gradcore[diagnose]")
    rng = np.random.default_rng(1)
    a = np.eye(40) + 0.5 * rng.standard_normal((40, 40)) / np.sqrt(40)
    b = rng.standard_normal(40)
    theirs, info = sparse.gmres(a, b, rtol=1e-12, restart=40)
    assert info == 0
    found = gmres(Dense(a[None]), b[None], 1e-12, 400, 40)
    np.testing.assert_allclose(found.x[0], theirs, rtol=1e-8, atol=1e-10)


def test_a_singular_system_is_not_called_solved():
    a = np.diag([1.0, 0.0])[None]
    found = gmres(Dense(a), np.array([[1.0, 1.0]]), 1e-10, 50, 10)
    assert found.residual[0] > 0.5
    assert found.smallest[0] < 1e-12


# ---- conditioning


def test_conditioning_is_that_of_the_dense_jacobian():
    layer, params, x = layer_of(*CELLS["lstm"])
    z = layer.solve(params, x)
    dz = np.random.default_rng(1).standard_normal((3, 12))
    found = layer.conditioning(params, x, z, dz)
    j = dense_jacobian(layer, params, x, z.z)
    values = np.linalg.svd(np.eye(12) - j, compute_uv=False)
    np.testing.assert_allclose(found.sigma_min, values[:, -1], rtol=1e-6)
    np.testing.assert_allclose(found.sigma_max, values[:, 0], rtol=1e-6)
    np.testing.assert_allclose(found.condition, values[:, 0] / values[:, -1], rtol=1e-6)
    np.testing.assert_allclose(found.norm, np.linalg.norm(j, 2, axis=(1, 2)), rtol=1e-6)
    eigenvalues = np.linalg.eigvals(j)
    np.testing.assert_allclose(found.spectral_radius, np.abs(eigenvalues).max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.distance, np.abs(1 - eigenvalues).min(axis=1), rtol=1e-5)
    assert found.certain.all()
    assert not found.near.any()
    assert "well conditioned" in found.message
    assert found.remedy == ""
    assert (found.gradient_error < 1e-8).all()
    only = layer.conditioning(params, x, z, dz, samples=[2])
    np.testing.assert_array_equal(only.sigma_min, found.sigma_min[2:])


def test_complex_pairs():
    turn = 0.9 * np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    layer = FixedPoint(linear(turn), max_iter=1_000)
    params = layer.init(dtype="float64")
    x = np.ones((1, 2))
    found = layer.conditioning(params, x, layer.solve(params, x))
    assert found.spectral_radius[0] == pytest.approx(0.9)
    assert found.eigenvalue[0] == pytest.approx(0.9 * np.exp(1j))


def test_above_the_dense_size_by_krylov(monkeypatch):
    pytest.importorskip("scipy", reason="Arnoldi iteration: install gradcore[diagnose]")
    from gradcore.implicit import _conditioning

    layer, params, x = layer_of(*CELLS["gru"])
    z = layer.solve(params, x)
    dense = layer.conditioning(params, x, z)
    monkeypatch.setattr(_conditioning, "DENSE", 2)
    sparse = layer.conditioning(params, x, z)
    for name in ("sigma_min", "sigma_max", "norm", "spectral_radius", "distance"):
        np.testing.assert_allclose(getattr(sparse, name), getattr(dense, name), rtol=1e-3)
    assert sparse.certain.all()


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
def test_an_eigenvalue_near_one_is_announced(gap):
    a = np.diag([1 - gap, 0.3])
    layer = FixedPoint(linear(a), solver="newton")
    params = layer.init(dtype="float64")
    x = np.array([[1.0, 1.0]])
    z = layer.solve(params, x)
    dz = np.array([[1.0, 0.0]])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = layer.gradient(params, x, z, dz)
        gauge = layer.conditioning(params, x, z, dz)
    assert found.amplification[0] == pytest.approx(1 / gap, rel=1e-4)
    assert gauge.sigma_min[0] == pytest.approx(gap, rel=1e-6)
    assert gauge.eigenvalue[0] == pytest.approx(1 - gap)
    if gap < 1e-2:
        assert [w.category for w in told] == [gd.ConditioningWarning] * 2
        assert "I - J is nearly singular" in str(told[0].message)
        assert "SpectralNorm" in str(told[1].message)
        assert gauge.near.all()
    else:
        assert gauge.near.all() == (gap < 0.01)


def test_the_error_that_is_estimated_is_the_error_that_is_there():
    """The estimated error is the true error, after an inaccurate forward solve and after an
    inaccurate backward one.
    """
    layer, params, x = layer_of(*CELLS["rnn"])
    dz = np.random.default_rng(1).standard_normal((3, 6))
    exact = layer.gradient(params, x, layer.solve(params, x), dz)
    loose = FixedPoint(layer.f, tol=1e-2, backward=Neumann(2))
    z = loose.solve(params, x)
    gauge = loose.conditioning(params, x, z, dz)
    own = loose.gradient(params, x, z, dz)
    error = np.linalg.norm(own.u - exact.u, axis=1) / np.linalg.norm(exact.u, axis=1)
    np.testing.assert_allclose(gauge.gradient_error, error, rtol=0.2)
    true = layer.solve(params, x).z
    forward = np.linalg.norm(z.z - true, axis=1) / np.linalg.norm(z.z, axis=1)
    np.testing.assert_allclose(gauge.forward_error, forward, rtol=0.2)


# ---- the penalty


def test_the_penalty_is_the_size_of_the_jacobian_and_its_gradient():
    layer, params, x = layer_of(*CELLS["gru"])
    z = layer.solve(params, x).z
    many = layer.penalty(params, x, z, probes=400)
    j = dense_jacobian(layer, params, x, z)
    assert many.value == pytest.approx(np.mean(np.sum(j**2, axis=(1, 2))) / 6, rel=0.05)
    assert many.norm == pytest.approx(np.sqrt(many.value))
    one = layer.penalty(params, x, z, seed=3)
    rng = np.random.default_rng(4)
    moved, moved_x = rng.standard_normal(params.flat.shape), rng.standard_normal(x.shape)
    h = 1e-5
    values = []
    for sign in (1, -1):
        there = params.copy()
        there.flat[...] += sign * h * moved
        values.append(layer.penalty(there, x + sign * h * moved_x, z, seed=3).value)
    want = (values[0] - values[1]) / (2 * h)
    got = float(one.grads.flat @ moved) + float((one.dx * moved_x).sum())
    assert got == pytest.approx(want, rel=1e-6)


def test_the_penalty_brings_the_jacobian_down():
    layer, params, x = layer_of(*CELLS["rnn"])
    params["0.weight_hh"] = params["0.weight_hh"] * 1.8
    optimizer = gd.optim.SGD(params, 1.0)
    before = layer.conditioning(params, x, layer.solve(params, x)).norm.max()
    for step in range(60):
        z = layer.solve(params, x)
        optimizer.step(layer.penalty(params, x, z, seed=step).grads)
    assert layer.conditioning(params, x, layer.solve(params, x)).norm.max() < 0.8 * before


# ---- models


def model(before=True, **options):
    front = gd.Stack(gd.GRU(3, 5)) if before else None
    made = Model(
        front,
        FixedPoint(gd.Stack(gd.RNN(5 if before else 3, 7)), tol=1e-12, **options),
        gd.Stack(gd.GRU(7, 4), gd.Linear(4, 2)),
    )
    return made, made.init(seed=0, dtype="float64", gain=0.6)


def data(steps=6, batch=3):
    rng = np.random.default_rng(0)
    return rng.standard_normal((steps, batch, 3)), rng.standard_normal((steps, batch, 2))


@pytest.mark.parametrize("lengths", [None, [6, 2, 4]])
@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("before", [True, False])
def test_a_whole_model_has_the_gradient_of_its_loss(before, weight, lengths):
    made, params = model(before)
    x, y = data()
    found = made.value_and_grad(
        params, x, y, loss="mse", lengths=lengths, jacobian_weight=weight, seed=(1, 2)
    )
    fixed = made.parts(params).fixed

    def total(params):
        """The loss plus the penalty with fixed signs, where z moves with the parameters."""
        result = made.value_and_grad(
            params, x, y, loss="mse", lengths=lengths, jacobian_weight=weight, seed=(1, 2)
        )
        return result.loss

    moved = np.random.default_rng(1).standard_normal(params.flat.shape)
    if weight:
        # The penalty's gradient takes z as constant and has its own test; here it must equal what
        # is added.
        plain = made.value_and_grad(params, x, y, loss="mse", lengths=lengths)
        assert found.penalty is not None
        added = made.parts(gd.Params(made, found.grads.flat - plain.grads.flat)).fixed
        np.testing.assert_allclose(added.flat, weight * found.penalty.grads.flat, atol=1e-12)
        assert fixed.owner == made.fixed.f
        return
    h = 1e-6
    ahead, behind = params.copy(), params.copy()
    ahead.flat[...] += h * moved
    behind.flat[...] -= h * moved
    want = (total(ahead) - total(behind)) / (2 * h)
    assert float(found.grads.flat @ moved) == pytest.approx(want, rel=1e-7)
    assert made.value(params, x, y, loss="mse", lengths=lengths) == pytest.approx(found.loss)


def test_what_is_behind_an_end_is_not_solved():
    made, params = model()
    x, _ = data()
    found = made.apply(params, x, lengths=[6, 2, 4])
    assert len(found.inputs) == 12
    assert (found.z[2:, 1] == 0).all()
    assert (found.z[1, 1] != 0).any()


def test_a_model_goes_on_from_its_state():
    made, params = model()
    x, _ = data()
    whole = made.apply(params, x)
    first = made.apply(params, x[:4])
    second = made.apply(params, x[4:], state=first.state)
    np.testing.assert_allclose(second.outputs, whole.outputs[4:], atol=1e-9)
    again = made.apply(params, x, start=whole.z)
    assert (again.solution.iterations == 0).all()


def test_optimizers_clips_groups_and_constraints_take_a_model():
    made, params = model(max_iter=500)
    x, y = data()
    optimizer = gd.optim.AdamW(
        params,
        0.02,
        clip=gd.clip.GlobalNorm(1.0),
        groups=[gd.optim.no_decay(params), gd.optim.Group("before.*", lr_scale=0.5)],
        constraints=[gd.constrain.SpectralNorm(0.5, weights="fixed.*weight_hh")],
    )
    losses = []
    for _ in range(60):
        found = made.value_and_grad(params, x, y, loss="mse")
        report = optimizer.step(found.grads)
        losses.append(found.loss)
    assert set(report.constraints) == {"fixed.0.weight_hh"}
    assert np.linalg.norm(params["fixed.0.weight_hh"], 2) <= 0.5 * (1 + 1e-6)
    assert losses[-1] < 0.6 * losses[0]
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    mean = gd.optim.Accumulator(params)
    mean.add(found.grads, 1.0)
    np.testing.assert_allclose(mean.take().flat, found.grads.flat)


def test_what_a_model_cannot_do_is_refused(tmp_path):
    made, params = model()
    x, y = data()
    with pytest.raises(gd.DTypeError, match=r"gradcore\.Stack and its own Params are needed here"):
        gd.save(tmp_path / "m.safetensors", params.net, params)
    with pytest.raises(gd.ShapeError, match=r"start must have shape \(T, B, S\)"):
        made.apply(params, x, start=np.zeros((2, 3, 7)))
    with pytest.raises(gd.ArgumentError, match="jacobian_weight"):
        made.value_and_grad(params, x, y, loss="mse", jacobian_weight=-1.0)
    with pytest.raises(gd.DTypeError, match="params must be those of the model"):
        made.parts(made.after.init())
    with pytest.raises(gd.ShapeError, match=r"Model\.fixed must read the 5 outputs"):
        Model(gd.Stack(gd.GRU(3, 5)), FixedPoint(gd.Stack(gd.RNN(4, 7))), made.after)
    with pytest.raises(gd.ShapeError, match=r"Model\.after must read S = 7 values"):
        Model(None, FixedPoint(gd.Stack(gd.RNN(4, 7))), gd.Stack(gd.GRU(6, 2)))
    with pytest.raises(gd.ArgumentError, match="a Model takes no static inputs"):
        Model(gd.Stack(gd.StaticInput(2, 3), gd.GRU(3, 4)), made.fixed, made.after)
    with pytest.raises(gd.DTypeError, match=r"Model\.before must be a Stack"):
        Model(3, made.fixed, made.after)
    with pytest.raises(gd.ShapeError, match="x must have shape"):
        made.apply(params, x[0, 0])


def test_a_function_without_an_input_gradient_cannot_be_behind_a_stack():
    own = linear(np.eye(5) / 2)
    deaf = implicit.Function(
        own.value,
        own.jvp,
        lambda z, x, p, u: (u / 2, None, {"a": u.T @ z}),
        5,
        parameters={"a": np.eye(5) / 2},
    )
    made = Model(gd.Stack(gd.GRU(3, 5)), FixedPoint(deaf), gd.Stack(gd.GRU(5, 2)))
    params = made.init(dtype="float64")
    x, y = data()
    with pytest.raises(gd.DTypeError, match="must return the cotangent of x"):
        made.value_and_grad(params, x, y, loss="mse")
