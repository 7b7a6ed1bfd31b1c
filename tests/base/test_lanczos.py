"""The largest eigenvalues of operators agree with LAPACK and SciPy's eigsh, also for clusters,
given starts and restarts.
"""

import numpy as np
import pytest

from gradcore._base.lanczos import top_eigenpairs


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("n", [1, 5, 19, 90])
def test_the_largest_eigenvalues_of_a_matrix(n, k):
    rng = np.random.default_rng(n)
    matrix = rng.standard_normal((n, n))
    matrix = matrix + matrix.T
    k = min(k, n)
    found = top_eigenpairs(lambda v: matrix @ v, n, k, tol=1e-9, start=None, most=10**4, seed=0)
    want = np.linalg.eigvalsh(matrix)[::-1][:k]
    np.testing.assert_allclose(found.values, want, rtol=1e-9, atol=1e-9)
    off = found.vectors @ matrix - found.values[:, None] * found.vectors
    np.testing.assert_allclose(np.linalg.norm(off, axis=1), found.residuals, atol=1e-9)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(k), atol=1e-10)


def test_clusters_signs_and_starts():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((60, 60)))[0]

    def pairs(values, k=1, **how):
        matrix = turn @ np.diag(values) @ turn.T
        options = {"tol": 1e-8, "start": None, "most": 3000, "seed": 0} | how
        return top_eigenpairs(lambda v: matrix @ v, 60, k, **options)

    close = np.concatenate([[5.0, 4.9995, 4.999], np.linspace(-6, 4, 57)])
    np.testing.assert_allclose(pairs(close, 3).values, [5, 4.9995, 4.999], rtol=1e-9)
    assert pairs(-np.arange(1.0, 61)).values[0] == pytest.approx(-1.0)
    assert pairs(np.zeros(60)).values[0] == 0.0
    spread = np.arange(60.0)
    cold = pairs(spread)
    warm = pairs(spread, start=cold.vectors)
    assert warm.products == 1
    few = pairs(spread, most=4)
    assert few.products == 4
    assert few.values[0] <= 59
    assert few.residuals[0] > 1e-3


@pytest.mark.parametrize("of_each", [False, True])
@pytest.mark.parametrize("k", [1, 4])
def test_against_eigsh(k, of_each):
    """The operator has 2,000 dimensions and is never stored as a matrix."""
    linalg = pytest.importorskip("scipy.sparse.linalg", reason="install gradcore[diagnose]")
    n = 2_000
    values = np.concatenate([np.linspace(-1.0, 1.0, n - 6), [1.01, 1.02, 1.05, 1.3, 2.0, -2.5]])
    mirror = np.random.default_rng(1).standard_normal(n)
    mirror /= np.linalg.norm(mirror)

    def product(v):
        v = v - 2 * mirror * (mirror @ v)
        v = values * v
        return v - 2 * mirror * (mirror @ v)

    operator = linalg.LinearOperator((n, n), matvec=product, dtype=float)
    expected = np.sort(linalg.eigsh(operator, k=k, which="LA", tol=1e-10)[0])[::-1]
    found = top_eigenpairs(product, n, k, tol=1e-6, start=None, most=2_000, seed=0, of_each=of_each)
    assert found.converged
    np.testing.assert_allclose(found.values, expected, rtol=1e-9)
    off = np.array([product(v) for v in found.vectors]) - found.values[:, None] * found.vectors
    np.testing.assert_allclose(np.linalg.norm(off, axis=1), found.residuals, atol=1e-12)


def test_equal_values_are_found_from_as_many_vectors():
    values = np.concatenate([[3.0, 3.0, 3.0], np.linspace(-1, 2, 77)])
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.standard_normal((80, 80)))[0]
    near = turn[:, :3].T + 0.05 * rng.standard_normal((3, 80))
    found = top_eigenpairs(
        lambda v: turn @ (values * (turn.T @ v)), 80, 3, tol=1e-9, start=near, most=500, seed=0
    )
    np.testing.assert_allclose(found.values, 3.0, rtol=1e-12)
    assert found.products < 60
    inside = found.vectors @ turn[:, :3]
    np.testing.assert_allclose(inside @ inside.T, np.eye(3), atol=1e-8)


def test_a_space_that_the_operator_keeps_is_enough():
    """An operator of rank 2 in 50 dimensions: after three products the Krylov space is
    invariant.
    """
    rng = np.random.default_rng(3)
    a = rng.standard_normal((50, 2))
    found = top_eigenpairs(
        lambda v: a @ (a.T @ v), 50, 2, tol=1e-9, start=None, most=50, seed=0, of_each=True
    )
    np.testing.assert_allclose(found.values, np.linalg.svd(a)[1] ** 2, rtol=1e-12)
    assert found.products <= 4
