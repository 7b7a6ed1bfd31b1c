"""Fixed points: closed forms, every solver, independence of the samples, and what does not
converge.
"""

import pickle
import warnings

import numpy as np
import pytest

import gradcore as gd
from gradcore import implicit
from gradcore.implicit import Anderson, Damped, FixedPoint, Function, NewtonKrylov, SolverOutcome
from linear_layers import contraction, linear

SOLVERS = ["damped", "anderson", "newton", Damped(0.5), Anderson(3, damping=0.7), NewtonKrylov(5)]


def tanh_layer(size=6, inputs=4, gain=0.7, **options):
    layer = FixedPoint(gd.Stack(gd.RNN(inputs, size)), **options)
    params = layer.init(seed=1, dtype="float64", gain=gain)
    x = np.random.default_rng(2).standard_normal((5, inputs))
    return layer, params, x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("size", [1, 3, 17])
def test_a_linear_layer_has_the_closed_form(size, solver, dtype):
    a = contraction(size, 0.8)
    layer = FixedPoint(linear(a), solver=solver, max_iter=300)
    params = layer.init(dtype=dtype)
    x = np.random.default_rng(1).standard_normal((7, size)).astype(dtype)
    found = layer.solve(params, x)
    exact = np.linalg.solve(np.eye(size) - a, x.astype(float).T).T
    tol = 1e-10 if dtype == "float64" else 1e-5
    assert found.converged.all()
    assert found.outcome is SolverOutcome.CONVERGED
    assert found.z.dtype == dtype
    assert (found.residual <= tol).all()
    # |z - exact| <= |f(z) - z| / (1 - 0.8), where 0.8 is the Lipschitz constant.
    off = np.linalg.norm(found.z - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert off.max() <= 12 * tol
    assert "all 7 samples converged" in found.message


@pytest.mark.parametrize("solver", ["damped", "anderson", "newton"])
@pytest.mark.parametrize(
    "cell",
    [
        gd.RNN(4, 6),
        gd.GRU(4, 6),
        gd.LSTM(4, 6),
        gd.RNN(4, 6, skip=gd.Skip(2, kind="mix", value=0.3)),
        gd.AntisymmetricRNN(4, 6, step=0.5, diffusion=0.4),
    ],
    ids=str,
)
def test_a_cell_comes_to_rest(cell, solver):
    """At z, every further step of the core leaves the state as it is."""
    net = gd.Stack(cell)
    layer = FixedPoint(net, solver=solver, max_iter=2_000)
    params = layer.init(seed=0, dtype="float64", gain=0.5)
    x = np.random.default_rng(0).standard_normal((3, 4))
    found = layer.solve(params, x)
    assert found.converged.all()
    steps = np.broadcast_to(x, (3_000, 3, 4)).copy()
    outputs, _ = gd.apply(net, params, steps)
    np.testing.assert_allclose(found.z[:, :6], outputs[-1], atol=1e-8)


def test_a_stack_that_reads_its_own_output():
    net = gd.Stack(gd.RNN(6 + 3, 8), gd.Linear(8, 6))
    layer = FixedPoint(net, feedback="output", max_iter=500)
    assert (layer.size, layer.input_size) == (6, 3)
    params = layer.init(seed=0, dtype="float64", gain=0.3)
    x = np.random.default_rng(0).standard_normal((4, 3))
    z = layer.solve(params, x).z
    outputs, _ = gd.apply(net, params, np.concatenate([z, x], axis=1)[None])
    np.testing.assert_allclose(outputs[0], z, atol=1e-9)


def test_tokens():
    net = gd.Stack(gd.Embedding(5, 3), gd.GRU(3, 4))
    layer = FixedPoint(net, max_iter=500)
    params = layer.init(seed=0, dtype="float64")
    found = layer.solve(params, np.array([0, 3, 3]))
    assert found.converged.all()
    np.testing.assert_allclose(found.z[1], found.z[2], atol=1e-9)


def test_each_sample_stops_on_its_own():
    a = np.diag([0.1, 0.99])
    layer = FixedPoint(linear(a), solver="damped", max_iter=5_000)
    params = layer.init(dtype="float64")
    calls = []
    value = layer.f.value

    def counted(z, x, p):
        calls.append(len(z))
        return value(z, x, p)

    object.__setattr__(layer.f, "value", counted)
    found = layer.solve(params, np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert found.iterations[0] < 15
    assert found.iterations[1] > 1_000
    assert sum(calls) == found.evaluations.sum()
    # Each sample gets the same numbers as alone.
    alone = layer.solve(params, np.array([[0.0, 1.0]]))
    np.testing.assert_array_equal(alone.z[0], found.z[1])


@pytest.mark.parametrize("solver", ["damped", "anderson", "newton"])
def test_a_warm_start_saves_the_iterations(solver):
    layer, params, x = tanh_layer(solver=solver)
    cold = layer.solve(params, x)
    again = layer.solve(params, x, start=cold.z)
    assert (again.iterations == 0).all()
    np.testing.assert_array_equal(again.z, cold.z)
    near = layer.solve(params, x + 1e-6, start=cold.z)
    assert near.iterations.max() < cold.iterations.max()


def test_anderson_takes_fewer_iterations_than_damping_and_newton_fewer_still():
    a = contraction(30, 0.95)
    x = np.random.default_rng(0).standard_normal((4, 30))
    counts = []
    for solver in ("damped", "anderson", "newton"):
        layer = FixedPoint(linear(a), solver=solver, max_iter=3_000)
        counts.append(layer.solve(layer.init(dtype="float64"), x).iterations.max())
    assert counts[2] < counts[1] < counts[0]


def test_newton_solves_where_f_does_not_contract():
    a = np.array([[3.0, 1.0], [0.0, -4.0]])
    layer = FixedPoint(linear(a), solver="newton")
    params = layer.init(dtype="float64")
    x = np.ones((1, 2))
    np.testing.assert_allclose(
        layer.solve(params, x).z[0], np.linalg.solve(np.eye(2) - a, x[0]), rtol=1e-9
    )


# ---- no convergence is never silent


def test_an_iteration_that_diverges_says_so():
    layer = FixedPoint(linear(np.diag([0.5, 3.0])), solver="damped")
    params = layer.init(dtype="float64")
    x = np.array([[1.0, 0.0], [0.0, 1.0]])
    with pytest.warns(gd.ConvergenceWarning, match="1 of 2 samples did not converge; sample 1"):
        found = layer.solve(params, x)
    assert found.outcomes == (SolverOutcome.CONVERGED, SolverOutcome.DIVERGED)
    assert found.outcome is SolverOutcome.DIVERGED
    assert "Damp" in found.message
    np.testing.assert_allclose(found.z[0], [2.0, 0.0], rtol=1e-9)


def test_too_few_iterations_are_told():
    layer = FixedPoint(linear(np.array([[0.999]])), solver="damped", max_iter=5)
    with pytest.warns(gd.ConvergenceWarning, match="after 5 iterations"):
        found = layer.solve(layer.init(dtype="float64"), np.ones((1, 1)))
    assert found.outcome is SolverOutcome.NOT_CONVERGED
    assert not found.converged.any()
    # The best point is kept; atol / tol is 0.01.
    image = found.z[0, 0] * 0.999 + 1
    assert found.residual[0] == pytest.approx((image - found.z[0, 0]) / (image + 0.01), rel=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error", gd.ConvergenceWarning)
        with pytest.raises(gd.ConvergenceWarning):
            layer.solve(layer.init(dtype="float64"), np.ones((1, 1)))


def test_newton_without_a_fixed_point_stalls():
    square = Function(  # z = z + z^2 + 1 has no solution
        lambda z, x, p: z + z**2 + 1 + 0 * x,
        lambda z, x, p, v: (1 + 2 * z) * v,
        lambda z, x, p, u: ((1 + 2 * z) * u, None, {}),
        1,
    )
    layer = FixedPoint(square, solver="newton")
    with pytest.warns(gd.ConvergenceWarning):
        found = layer.solve(
            layer.init(dtype="float64"), np.full((1, 1), 0.3), start=np.full((1, 1), 0.4)
        )
    assert found.outcome in (SolverOutcome.STALLED, SolverOutcome.NOT_CONVERGED)


def test_values_that_are_not_finite_end_a_sample():
    root = Function(
        lambda z, x, p: np.where(x > 0, 0.5 * z + x, z + np.inf),
        lambda z, x, p, v: 0.5 * v,
        lambda z, x, p, u: (0.5 * u, None, {}),
        1,
    )
    layer = FixedPoint(root)
    with pytest.warns(gd.ConvergenceWarning):
        found = layer.solve(layer.init(dtype="float64"), np.array([[1.0], [-1.0]]))
    assert found.outcomes == (SolverOutcome.CONVERGED, SolverOutcome.DIVERGED)
    assert found.z[0] == pytest.approx(2.0)


# ---- wrong input


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FixedPoint(gd.Linear(3, 4)), gd.DTypeError, r"must be a gradcore\.Stack, a cell"),
        (
            lambda: FixedPoint(gd.Stack(gd.GRU(3, 4), gd.Linear(4, 2))),
            gd.ArgumentError,
            "f must not end with a Linear",
        ),
        (
            lambda: FixedPoint(gd.Stack(gd.GRU(3, 4), gd.Dense(4, 4, "tanh"))),
            gd.ArgumentError,
            "f must not end with a Dense",
        ),
        (
            lambda: FixedPoint(gd.Stack(gd.GRU(3, 4, bidirectional=True))),
            gd.ArgumentError,
            "FixedPoint needs a net whose layers all read time forward",
        ),
        (
            lambda: FixedPoint(gd.Stack(gd.StaticInput(2, 3), gd.GRU(3, 4))),
            gd.ArgumentError,
            "f must have no static inputs",
        ),
        (
            lambda: FixedPoint(gd.Stack(gd.GRU(3, 4, initial_state="learned"))),
            gd.ArgumentError,
            "initial_state='zeros'",
        ),
        (
            lambda: FixedPoint(gd.Stack(gd.GRU(3, 4, zoneout=0.1))),
            gd.ArgumentError,
            "no random masks",
        ),
        (
            lambda: FixedPoint(gd.Stack(gd.GRU(3, 4)), feedback="output"),
            gd.ShapeError,
            "at least as wide as its output, 4; it is 3 wide",
        ),
        (
            lambda: FixedPoint(linear(np.eye(2)), feedback="output"),
            gd.ArgumentError,
            "is only for a Stack",
        ),
        (
            lambda: FixedPoint(gd.Stack(gd.Embedding(9, 4), gd.GRU(4, 4)), feedback="output"),
            gd.ArgumentError,
            "cannot start with an Embedding",
        ),
        (
            lambda: FixedPoint(gd.Stack(gd.GRU(3, 4)), solver="broyden"),
            gd.DTypeError,
            "solver must be 'damped', 'anderson', 'newton'",
        ),
        (
            lambda: FixedPoint(gd.Stack(gd.GRU(3, 4)), backward="lu"),
            gd.DTypeError,
            "backward must be 'gmres', 'bicgstab', 'neumann', 'one_step'",
        ),
        (lambda: FixedPoint(gd.Stack(gd.GRU(3, 4)), tol=0.0), gd.ArgumentError, r"FixedPoint\.tol"),
        (
            lambda: FixedPoint(gd.Stack(gd.GRU(3, 4)), max_iter=0),
            gd.ArgumentError,
            r"FixedPoint\.max_iter",
        ),
        (lambda: FixedPoint(linear(np.eye(2))).init("f8"), gd.DTypeError, "seed must be"),
        (lambda: Damped(0.0), gd.ArgumentError, r"Damped\.damping"),
        (lambda: Damped(1.5), gd.ArgumentError, "must be at most 1"),
        (lambda: Anderson(0), gd.ArgumentError, r"Anderson\.history"),
        (lambda: NewtonKrylov(0), gd.ArgumentError, r"NewtonKrylov\.krylov"),
        (lambda: implicit.Neumann(0), gd.ArgumentError, r"Neumann\.terms"),
        (lambda: implicit.Gmres(2.0), gd.ArgumentError, r"Gmres\.tol"),
        (lambda: implicit.Bicgstab(max_products=0), gd.ArgumentError, "max_products"),
        (lambda: Function(1, len, len, 2), gd.DTypeError, r"Function\.value must be a function"),
        (lambda: Function(len, len, len, 0), gd.ArgumentError, r"Function\.size"),
        (
            lambda: Function(len, len, len, 2, parameters={"a": 3.0}),
            gd.DTypeError,
            "must map names to NumPy arrays",
        ),
    ],
)
def test_wrong_layers_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_wrong_arguments_are_refused():
    layer, params, x = tanh_layer()
    other = gd.Stack(gd.RNN(4, 5)).init(dtype="float64")
    for call, error, message in (
        (lambda: layer.solve(other, x), gd.DTypeError, "params must be those of the layer's f"),
        (lambda: layer.solve(params, x[:, :3]), gd.ShapeError, r"x must have shape \(N, 4\)"),
        (lambda: layer.solve(params, x[:0]), gd.ShapeError, "N >= 1"),
        (lambda: layer.solve(params, x.astype("f4")), gd.DTypeError, "x must have dtype float64"),
        (
            lambda: layer.solve(params, x, start=np.zeros((5, 2))),
            gd.ShapeError,
            "start must have shape",
        ),
        (
            lambda: layer.solve(params, x, start=np.full((5, 6), np.nan)),
            gd.ArgumentError,
            "start must be finite",
        ),
        (
            lambda: layer.gradient(params, x, np.zeros((5, 6)), np.zeros((4, 6))),
            gd.ShapeError,
            "dz must have shape",
        ),
        (
            lambda: layer.gradient(params, x, np.zeros((5, 6), "f4"), np.zeros((5, 6))),
            gd.DTypeError,
            "z must have dtype float64",
        ),
        (
            lambda: layer.conditioning(params, x, np.zeros((5, 6)), samples=[7]),
            gd.ArgumentError,
            r"samples must be in 0\.\.N-1 = 0\.\.4",
        ),
        (
            lambda: layer.conditioning(params, x, np.zeros((5, 6)), samples=[0.5]),
            gd.DTypeError,
            "samples must be integer indices",
        ),
        (
            lambda: layer.penalty(params, x, np.zeros((5, 6)), probes=0),
            gd.ArgumentError,
            "probes must be",
        ),
    ):
        with pytest.raises(error, match=message):
            call()


def test_wrong_functions_are_told_when_they_answer():
    def of(value=None, jvp=None, vjp=None):
        own = linear(np.eye(2) / 2)
        made = Function(
            value or own.value, jvp or own.jvp, vjp or own.vjp, 2, parameters={"a": np.eye(2) / 2}
        )
        layer = FixedPoint(made, solver="newton")
        params = layer.init(dtype="float64")
        x = np.ones((3, 2))
        z = layer.solve(params, x)
        return layer.gradient(params, x, z, np.ones((3, 2)))

    of()
    for how, error, message in (
        ({"value": lambda z, x, p: z[0]}, gd.ShapeError, r"Function\.value must return an array"),
        ({"value": lambda z, x, p: z.astype("f4")}, gd.DTypeError, "must return float64"),
        (
            {"jvp": lambda z, x, p, v: v * np.nan},
            gd.NonFiniteError,
            r"Function\.jvp returned a value",
        ),
        ({"vjp": lambda z, x, p, u: u}, gd.DTypeError, "must return"),
        (
            {"vjp": lambda z, x, p, u: (u / 2, u, {})},
            gd.ShapeError,
            "must map every parameter's name",
        ),
        (
            {"vjp": lambda z, x, p, u: (u / 2, u[:1], {"a": u.T @ z})},
            gd.ShapeError,
            "must have the shape of x",
        ),
    ):
        with pytest.raises(error, match=message):
            of(**how)


def test_a_cell_is_a_stack_of_one():
    layer = FixedPoint(gd.GRU(4, 6), tol=1e-3)
    assert layer == FixedPoint(gd.Stack(gd.GRU(4, 6)), tol=1e-3)
    assert layer.size == 6
    x = np.ones((2, 4), np.float32)
    assert layer.solve(layer.init(), x).converged.all()


def test_layers_and_results_can_be_copied():
    layer, params, x = tanh_layer(solver=Anderson(4), backward=implicit.Neumann(3))
    again = pickle.loads(pickle.dumps(layer))
    assert again == layer
    assert repr(again) == repr(layer)
    found = layer.solve(params, x)
    copied = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(copied.z, found.z)
    assert copied.outcomes == found.outcomes
