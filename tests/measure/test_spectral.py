"""Spectral norms, singular values and radii agree with LAPACK, closed forms and statistics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradcore as gd
from gradcore import _core, spectral
from problem import isa

SHAPES = [
    (1, 1),
    (1, 9),
    (3, 7),
    (7, 3),
    (8, 8),
    (16, 17),
    (33, 31),
    (64, 64),
    (97, 15),
    (300, 260),
]


def reference(matrix):
    """The textbook power iteration on A'A in float64, which is slow (Golub and Van Loan 2013,
    7.3.1).
    """
    a = matrix.astype(float)
    v = np.ones(a.shape[1])
    for _ in range(100_000):
        w = a.T @ (a @ v)
        w /= np.linalg.norm(w)
        if np.linalg.norm(w - v) < 1e-13:
            break
        v = w
    return np.linalg.norm(a @ w)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("level", _core.isa_available())
def test_agrees_with_lapack(shape, dtype, level):
    rng = np.random.default_rng(sum(shape))
    stack = rng.standard_normal((3, *shape)).astype(dtype)
    with isa(level):
        found = spectral.spectral_norm(stack)
    exact = np.linalg.svd(stack.astype(float), compute_uv=False)[:, 0]
    np.testing.assert_allclose(found.value, exact, rtol=1e-6)
    assert found.converged
    assert (found.lower <= exact * (1 + 1e-6)).all()
    assert (found.upper >= exact * (1 - 1e-12)).all()
    for a, u, v, value in zip(stack, found.u, found.v, found.value, strict=True):
        assert np.linalg.norm(u) == pytest.approx(1, abs=1e-6)
        assert np.linalg.norm(v) == pytest.approx(1, abs=1e-6)
        assert np.linalg.norm(a @ v - value * u) <= 1e-5 * value
    one = spectral.spectral_norm(stack[1])
    assert isinstance(one.value, float)
    assert one.u.shape == (shape[0],)


def test_agrees_with_the_power_iteration_of_the_book():
    a = np.random.default_rng(0).standard_normal((9, 14))
    assert spectral.spectral_norm(a).value == pytest.approx(reference(a), rel=1e-9)


def test_clustered_and_gapped_spectra_take_few_steps():
    rng = np.random.default_rng(1)
    clustered = rng.standard_normal((2, 400, 400)) / 20
    u, _ = np.linalg.qr(rng.standard_normal((400, 400)))
    gapped = (u * np.r_[3.0, rng.uniform(0, 1, 399)]) @ u.T
    found = spectral.spectral_norm(clustered)
    np.testing.assert_allclose(found.value, np.linalg.norm(clustered, 2, axis=(1, 2)), rtol=1e-9)
    assert (found.steps < 100).all()
    assert spectral.spectral_norm(gapped).steps <= 20


def test_bits_do_not_depend_on_threads():
    stack = np.random.default_rng(2).standard_normal((5, 40, 33)).astype(np.float32)
    one, two = (spectral.spectral_norm(stack, threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one.value, two.value)
    np.testing.assert_array_equal(one.v, two.v)
    other = spectral.spectral_norm(stack, seed=1)
    np.testing.assert_allclose(other.value, one.value, rtol=1e-6)
    assert not np.array_equal(other.v, one.v)


@pytest.mark.parametrize("shape", [(300, 290), (290, 300)])
def test_warm_starts_take_fewer_steps(shape):
    rng = np.random.default_rng(3)
    a = rng.standard_normal(shape)
    cold = spectral.spectral_norm(a)
    moved = a + 1e-4 * rng.standard_normal(shape)
    warm = spectral.spectral_norm(moved, start=cold)
    assert warm.value == pytest.approx(np.linalg.norm(moved, 2), rel=1e-7)
    assert warm.steps < cold.steps / 2
    assert warm.upper == np.inf
    with pytest.raises(gd.ShapeError, match=r"start\.u must have shape"):
        spectral.spectral_norm(np.eye(4), start=cold)


def test_too_few_steps_say_so():
    a = np.random.default_rng(4).standard_normal((270, 270))
    found = spectral.spectral_norm(a, max_steps=3)
    assert not found.converged
    assert found.outcome is spectral.IterationOutcome.NOT_CONVERGED
    assert "raise max_steps" in found.outcome.value
    assert found.steps == 3
    exact = np.linalg.norm(a, 2)
    assert found.lower <= exact <= found.upper


@pytest.mark.parametrize(
    ("matrix", "value"),
    [
        (np.zeros((4, 3)), 0.0),
        (np.full((1, 1), -2.5), 2.5),
        (np.outer(np.arange(1.0, 6), np.ones(4)), np.sqrt(55 * 4)),
        (np.eye(7)[:, :5], 1.0),
        (1e300 * np.eye(3), 1e300),
        (1e-300 * np.eye(3), 1e-300),
        (np.full((3, 3), 1e-310), 3e-310),
        (np.full((3, 3), 1e-40, np.float32), 3e-40),
        (np.full((2, 2), 3e38, np.float32), 6e38),
    ],
)
def test_odd_matrices(matrix, value):
    found = spectral.spectral_norm(matrix)
    assert found.value == pytest.approx(value, rel=1e-4)
    assert found.converged
    assert np.linalg.norm(found.v) == pytest.approx(1, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32), st.floats(-300, 300))
def test_any_matrix(m, n, seed, power):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((m, n)) * rng.integers(0, 2, (m, n))
    found = spectral.spectral_norm(a * 10.0**power)
    exact = np.linalg.norm(a, 2)
    assert found.value / 10.0**power == pytest.approx(exact, rel=1e-6)


def test_the_probable_bound_holds_as_often_as_it_says():
    """With failure = 0.05 and few steps, at most a few of 300 starts may exceed the bound."""
    a = np.diag(np.r_[np.linspace(0.3, 0.999, 299), 1.0])
    above = 0
    for seed in range(300):
        found = spectral.spectral_norm(a, seed=seed, max_steps=20, failure=0.05)
        assert np.isfinite(found.upper)
        above += found.upper < 1
    assert above <= 300 * 0.05 + 3 * np.sqrt(300 * 0.05 * 0.95)
    tight = spectral.spectral_norm(a, max_steps=60, failure=0.05)
    assert 1 <= tight.upper < 1.01
    flat = spectral.spectral_norm(np.diag(np.r_[np.full(299, 0.5), 1.0]))
    assert flat.steps <= 3  # with two different values, the Krylov space is complete
    assert 1 <= flat.upper < 1 + 1e-6


# ---- operators


class Wrapped:
    """Has the attributes of SciPy's LinearOperator."""

    def __init__(self, a):
        self.shape, self.matvec, self.rmatvec = a.shape, a.__matmul__, a.T.__matmul__


@pytest.mark.parametrize("shape", SHAPES)
def test_operators(shape):
    a = np.random.default_rng(5).standard_normal(shape)
    exact = np.linalg.svd(a, compute_uv=False)
    found = spectral.spectral_norm(Wrapped(a))
    assert found.value == pytest.approx(exact[0], rel=1e-6)
    assert found.converged
    assert found.lower <= exact[0] * (1 + 1e-12)
    assert found.upper >= exact[0] * (1 - 1e-12)
    k = min(4, *shape)
    several = spectral.singular_values(spectral.Operator(a.shape, a.__matmul__, a.T.__matmul__), k)
    np.testing.assert_allclose(several, exact[:k], rtol=1e-6)
    again = spectral.spectral_norm(Wrapped(a), start=found)
    assert again.steps <= found.steps


TRIANGLE = np.array([[3.0, 1, 1], [0, 2, 1], [0, 0, 1]])


def rotated(values):
    """A square matrix with these singular values."""
    turn = np.random.default_rng(8).standard_normal((len(values), len(values)))
    return np.linalg.qr(turn)[0] * values


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("a", "k"),
    [
        (np.kron(np.eye(2), TRIANGLE), 4),
        (np.kron(np.eye(3), TRIANGLE), 9),
        (np.kron(np.eye(40), TRIANGLE[:2]), 50),
        (np.eye(50), 5),
        (rotated(np.repeat(np.linspace(2, 1, 80), 5)), 8),  # the iteration restarts
        (rotated(np.repeat([5.0, 3.0, 0.0], 100))[:, :250], 60),
        (np.outer(np.arange(30.0), np.arange(20.0)), 5),
        (np.zeros((4, 5)), 3),
    ],
)
def test_multiple_singular_values_of_operators(a, k, seed):
    op = spectral.Operator(a.shape, a.__matmul__, a.T.__matmul__)
    exact = np.linalg.svd(a, compute_uv=False)[:k]
    found = spectral.singular_values(op, k, seed=seed)
    np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-9 * max(1.0, exact[0]))


def test_singular_values_that_did_not_converge_are_told():
    a = rotated(np.linspace(1, 1 + 1e-9, 200))
    op = spectral.Operator(a.shape, a.__matmul__, lambda u: a.T @ u + 1e-3 * np.roll(u, 1))
    with pytest.warns(gd.ConvergenceWarning, match=r"of the 2 singular values have residuals"):
        spectral.singular_values(op, 2, tol=1e-15)


def test_singular_values_of_arrays():
    a = np.random.default_rng(6).standard_normal((2, 9, 5))
    exact = np.linalg.svd(a, compute_uv=False)
    np.testing.assert_allclose(spectral.singular_values(a, 3), exact[:, :3])
    np.testing.assert_allclose(spectral.singular_values(a[0], 5), exact[0])


# ---- spectral radius


@pytest.mark.parametrize("n", [2, 5, 60])
def test_radius_of_complex_pairs(n):
    rng = np.random.default_rng(n)
    turn = 1.5 * np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    a = np.diag(rng.uniform(-1, 1, n))
    a[:2, :2] = turn
    basis = rng.standard_normal((n, n))
    a = basis @ a @ np.linalg.inv(basis)
    for given_as in (a, Wrapped(a)):
        if n > 24 and given_as is not a:
            pytest.importorskip("scipy")
        found = spectral.spectral_radius(given_as)
        assert found.value == pytest.approx(1.5, rel=1e-8)
        assert found.eigenvalue == pytest.approx(1.5 * np.exp(1j), rel=1e-7)
        assert found.residual < 1e-6


def test_radius_of_a_nilpotent_matrix():
    assert spectral.spectral_radius(np.eye(4, k=1)).value == pytest.approx(0, abs=1e-3)
    assert spectral.spectral_norm(np.eye(4, k=1)).value == pytest.approx(1)


# ---- wrong input


def test_wrong_input_is_refused():
    with pytest.raises(gd.DTypeError, match="W must be float32 or float64; got int64"):
        spectral.spectral_norm(np.eye(3, dtype=np.int64))
    with pytest.raises(
        gd.ShapeError, match=r"W must have shape \(m, n\) or \(N, m, n\), not empty"
    ):
        spectral.spectral_norm(np.zeros((3, 0)))
    bad = np.ones((2, 3, 4))
    bad[1, 2, 3] = np.nan
    with pytest.raises(gd.NonFiniteError, match=r"matrix 1 holds NaN or infinity at \[2, 3\]"):
        spectral.spectral_norm(bad)
    with pytest.raises(gd.ArgumentError, match=r"tol must be in \(0, 1\)"):
        spectral.spectral_norm(np.eye(2), tol=0)
    with pytest.raises(gd.DTypeError, match="tol must be a number; got None"):
        spectral.spectral_norm(np.eye(2), tol=None)
    with pytest.raises(gd.DTypeError, match=r"failure must be a number; got \(1, 2\)"):
        spectral.spectral_norm(np.eye(2), failure=(1, 2))
    with pytest.raises(gd.ArgumentError, match=r"k must be at most min\(m, n\) = 2"):
        spectral.singular_values(np.eye(2), 3)
    with pytest.raises(gd.ShapeError, match="A must be a square matrix"):
        spectral.spectral_radius(np.ones((2, 3)))
    with pytest.raises(gd.NonFiniteError, match="A' A v must have shape"):
        spectral.spectral_norm(spectral.Operator((2, 2), lambda v: v * np.inf, lambda u: u))


def test_can_be_interrupted_and_tells_its_progress():
    seen = []
    stack = np.random.default_rng(7).standard_normal((6, 20, 20))
    spectral.spectral_norm(
        stack, threads=1, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (6, 6)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spectral.spectral_norm(stack, threads=1, progress=stop)


def test_numbers_that_no_machine_integer_holds():
    found = spectral.spectral_norm(
        np.eye(2), max_steps=10**400, threads=2**40, seed=np.int64(-1), tol=np.float32(1e-3)
    )
    assert found.value == pytest.approx(1.0)
