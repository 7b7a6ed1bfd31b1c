"""Initial values: their distributions, their dependence on seeds, and their errors."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import gradcore as gd
from gradcore._net.householder import orthogonal_factor

NET = gd.Stack(gd.Embedding(31, 16), gd.LSTM(16, 33), gd.GRU(33, 16), gd.Linear(16, 5))


def blocks(params, name, gates):
    return np.split(params[name], gates)


def test_a_seed_decides_everything():
    assert NET.init(seed=5) == NET.init(seed=5)
    assert NET.init(seed=5) != NET.init(seed=6)
    double = NET.init(seed=5, dtype="float64")
    assert double.astype("float32") == NET.init(seed=5)


def test_orthogonal_is_the_default():
    params = NET.init(dtype="float64")
    for block in blocks(params, "1.weight_hh", 4) + blocks(params, "2.weight_hh", 3):
        np.testing.assert_allclose(block @ block.T, np.eye(len(block)), atol=1e-13)
    first, second = blocks(params, "1.weight_hh", 4)[:2]
    assert np.abs(first - second).max() > 0.1


def test_weights_have_the_same_bits_for_every_number_of_blas_threads():
    """LAPACK's QR alone gives other bits from 129 units on, as in the sizes of the issue."""
    code = """
import hashlib, gradcore as gd
for size in (16, 100, 128, 129, 150, 201, 300, 450):
    for dtype in ("float32", "float64"):
        net = gd.Stack(gd.GRU(3, size), gd.Linear(size, 2))
        params = net.init(seed=size, gain=0.9, chrono=50.0, dtype=dtype)
        print(size, dtype, hashlib.sha256(params.flat.tobytes()).hexdigest())
"""
    found = []
    for threads in ("1", "2", "4"):
        limits = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), threads)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **limits, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(done.stdout.splitlines())
    assert len(found[0]) == 16
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 128, 129, 160, 161, 257])
def test_orthogonal_factor_is_that_of_lapack(size):
    matrix = np.random.default_rng(size).standard_normal((size, size))
    q, r = np.linalg.qr(matrix)
    found = orthogonal_factor(matrix)
    np.testing.assert_allclose(found, q * np.where(np.diagonal(r) < 0, -1, 1), atol=1e-12)
    np.testing.assert_allclose(found.T @ found, np.eye(size), atol=1e-13)
    upper = found.T @ matrix
    assert (np.diagonal(upper) >= 0).all()
    np.testing.assert_allclose(np.tril(upper, -1), 0, atol=1e-12 * size)


def test_orthogonal_factor_of_a_matrix_without_full_rank():
    for matrix in (np.zeros((140, 140)), np.ones((140, 140))):
        found = orthogonal_factor(matrix)
        np.testing.assert_allclose(found.T @ found, np.eye(140), atol=1e-13)


def test_orthogonal_is_not_biased_to_one_orientation():
    rng = np.random.default_rng(0)
    traces = [np.trace(gd.init.orthogonal(rng, 3)) for _ in range(2000)]
    # The trace of a uniformly distributed orthogonal matrix has mean 0 and variance 1.
    assert abs(np.mean(traces)) < 5 / np.sqrt(2000)
    assert np.var(traces) == pytest.approx(1.0, abs=0.2)


def test_identity_and_gain():
    params = NET.init(recurrent="identity", gain=0.5)
    for block in blocks(params, "1.weight_hh", 4):
        np.testing.assert_array_equal(block, 0.5 * np.eye(33, dtype=np.float32))
    gained = NET.init(dtype="float64", gain=2.0)
    np.testing.assert_array_equal(
        gained["1.weight_hh"], 2.0 * NET.init(dtype="float64")["1.weight_hh"]
    )


def test_uniform_is_as_pytorch():
    params = NET.init(recurrent="uniform", forget_bias=None)
    for name, bound in (("1.weight_ih", 33), ("1.bias_hh", 33), ("2.weight_hh", 16)):
        values = params[name]
        assert np.abs(values).max() < bound**-0.5
        assert np.abs(values).max() > 0.9 * bound**-0.5
        assert abs(values.mean()) < 0.2 * bound**-0.5
    assert np.abs(params["3.weight"]).max() < 0.25
    assert params["0.weight"].std() == pytest.approx(1.0, abs=0.15)


def test_forget_bias_opens_the_memory_gates_only():
    params = NET.init(forget_bias=2.0)
    lstm = [b[0] for b in blocks(params, "1.bias_ih", 4)]
    gru = [b[0] for b in blocks(params, "2.bias_ih", 3)]
    assert lstm == [0, 2, 0, 0]
    assert gru == [0, 2, 0]
    assert not params["1.bias_hh"].any()
    assert not NET.init(forget_bias=None)["1.bias_ih"].any()


def test_forget_bias_replaces_the_drawn_one():
    params = NET.init(recurrent="uniform", forget_bias=3.0)
    assert (blocks(params, "1.bias_ih", 4)[1] + blocks(params, "1.bias_hh", 4)[1] == 3).all()


def test_chrono_spreads_time_constants():
    params = NET.init(dtype="float64", chrono=1000.0)
    gate_i, gate_f, gate_g, gate_o = blocks(params, "1.bias_ih", 4)
    assert (gate_f >= 0).all()
    assert (gate_f <= np.log(999)).all()
    assert np.ptp(gate_f) > 1
    np.testing.assert_array_equal(gate_i, -gate_f)
    assert not gate_g.any()
    assert not gate_o.any()
    assert (blocks(params, "2.bias_ih", 3)[1] > 0).any()


def test_chrono_spread_in_log_has_as_many_units_on_every_scale():
    net = gd.Stack(gd.LSTM(2, 600))
    for spread, medians in (("even", (440, 560)), ("log", (31.0, 32.2))):
        params = net.init(dtype="float64", chrono=1000.0, chrono_spread=spread)
        gate_i, gate_f, _, _ = blocks(params, "0.bias_ih", 4)
        np.testing.assert_array_equal(gate_i, -gate_f)
        taus = np.exp(gate_f)
        assert 1.0 <= taus.min() < taus.max() <= 999.0
        assert medians[0] < np.median(taus) < medians[1]
        assert (np.diff(gate_f) < 0).any()


def test_learned_skips_start_at_their_value():
    net = gd.Stack(
        gd.RNN(3, 4, skip=gd.Skip(2, value=0.75, learned=True)),
        gd.RNN(4, 4, skip=gd.Skip(2, kind="mix", value=0.25, learned=True)),
    )
    params = net.init(dtype="float64")
    np.testing.assert_array_equal(params["0.skip_scale"], 0.75)
    np.testing.assert_allclose(1 / (1 + np.exp(-params["1.skip_logit"])), 0.25, rtol=1e-15)


def test_nets_without_bias():
    net = gd.Stack(gd.LSTM(3, 4, bias=False))
    assert set(net.init(forget_bias=2.0)) == {"0.weight_ih", "0.weight_hh"}
    assert net.init(chrono=100.0) == net.init()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": -1}, gd.ArgumentError, "seed must not be negative; got -1"),
        ({"seed": 1.0}, gd.DTypeError, r"seed must be an integer; got 1\.0"),
        ({"dtype": "float16"}, gd.DTypeError, "dtype must be 'float32' or 'float64'"),
        ({"dtype": "nonsense"}, gd.DTypeError, "got 'nonsense'"),
        ({"dtype": None}, gd.DTypeError, "got None"),
        ({"recurrent": "zeros"}, gd.ArgumentError, "one of 'orthogonal', 'uniform', 'identity'"),
        ({"gain": np.inf}, gd.ArgumentError, "gain must be finite"),
        ({"forget_bias": "1"}, gd.DTypeError, "forget_bias must be a number"),
        ({"chrono": 2.0}, gd.ArgumentError, "chrono must be > 2; got 2"),
        ({"chrono_spread": "odd"}, gd.ArgumentError, "chrono_spread must be one of 'even', 'log'"),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        NET.init(**options)
