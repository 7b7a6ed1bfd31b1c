"""Long sequences: 10,000 and 100,000 steps."""

import math

import numpy as np
import pytest

import gradcore as gd
import tolerances
from everything import assert_same
from nets import CELLS, stack
from problem import assert_agree, by_core, by_reference, error, random_problem


@pytest.mark.parametrize("memory", ["full", 500_000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hundred_thousand_steps(dtype, memory):
    """A leaky integrator h_t = f h_(t-1) + w x_t, whose gradients are sums that NumPy can compute.

    The last output is w * sum_k f^k x_(T-1-k); the last 1/(1-f) = 4,096 steps matter.
    """
    steps, f = 100_000, 1 - 2.0**-12
    rng = np.random.default_rng(0)
    x = rng.integers(-8, 9, (steps, 1, 1)) / 8.0
    net = gd.Stack(gd.RNN(1, 1, nonlinearity="identity", bias=False))
    params = gd.Params(net, np.array([0.5, f], dtype))
    loss = gd.loss.MeanSquaredError(step="last")
    y = np.zeros((1, 1), dtype)
    r = gd.value_and_grad(
        net, params, x.astype(dtype), y, loss=loss, wrt=("params", "x", "state"), memory=memory
    )
    if memory != "full":
        assert r.plan.segments > 10
        assert r.arena_bytes <= memory

    k = np.arange(steps)
    powers = f ** k.astype(float)
    backwards = x[::-1, 0, 0]
    output = 0.5 * np.dot(powers, backwards)
    d_output = 2 * output
    d_f = d_output * 0.5 * np.dot(k[1:] * powers[:-1], backwards[1:])
    tolerance = tolerances.DOUBLE_LONG if dtype == "float64" else tolerances.SINGLE_LONG
    assert r.loss == pytest.approx(output**2, rel=tolerance)
    assert r.grads["0.weight_hh"].item() == pytest.approx(d_f, rel=tolerance)
    assert r.grads["0.weight_ih"].item() == pytest.approx(
        d_output * np.dot(powers, backwards), rel=tolerance
    )
    dx = np.ldexp(r.dx[:, 0, 0].astype(float), r.dx_exponent)
    assert error(dx, d_output * 0.5 * powers[::-1]) <= tolerance
    first = math.log10(abs(r.dstate[0].h.item())) + r.dstate_exponent[0] * math.log10(2)
    expected = math.log10(abs(d_output)) + steps * math.log10(f)
    assert first == pytest.approx(expected, abs=tolerances.LOG10_NORM)


def test_hundred_thousand_tokens():
    """A net of ordinary size, in segments and whole, has the same bits and a finite gradient."""
    net = stack("lstm", 4, 16, vocabulary=9, classes=5)
    problem = random_problem(net, gd.loss.CrossEntropy(), 100_000, 1, seed=1)
    params = net.init(seed=2)
    y = problem.y
    whole = gd.value_and_grad(
        net, params, problem.x, y, loss=problem.loss, wrt=("params", "state"), memory="full"
    )
    parts = gd.value_and_grad(
        net, params, problem.x, y, loss=problem.loss, wrt=("params", "state"), memory=2 * 10**6
    )
    assert parts.plan.segments > 10
    assert_same(whole, parts)
    assert math.isfinite(whole.loss)
    assert 0 < whole.grads.norm_log10() + 10 < 20


@pytest.mark.parametrize("cell", CELLS)
def test_single_precision_over_ten_thousand_steps(cell):
    """Compares float32 with float64 for stable weights; the next test checks float64."""
    net = stack(cell, 6, 32, classes=4)
    problem = random_problem(net, gd.loss.CrossEntropy(), 10_000, 2, seed=3, lengths=False)
    assert_agree(by_core(problem, "float32"), by_core(problem), tolerances.SINGLE_LONG)


@pytest.mark.parametrize("cell", ["lstm"])
def test_reference_over_ten_thousand_steps(cell):
    net = stack(cell, 6, 32, classes=4)
    problem = random_problem(net, gd.loss.CrossEntropy(), 10_000, 2, seed=3)
    expected = by_reference(problem)
    assert_agree(by_core(problem), expected, tolerances.DOUBLE_LONG)
    assert_agree(by_core(problem, "float32"), expected, tolerances.SINGLE_LONG)


def test_smallest_plan_of_one_unit():
    """Rows are padded to 128 bytes; when the planner assumed 4 bytes it once asked for 12 MB."""
    net = gd.Stack(gd.RNN(1, 1))
    with pytest.raises(gd.MemoryBudgetError) as refused:
        gd.plan(net, 100_000, 1, loss="mse", tokens=False, memory=1)
    assert refused.value.smallest < 200_000


def test_plan_for_a_hundred_thousand_steps_of_128_units():
    net = stack("lstm", 16, 128, vocabulary=128, classes=5)
    plan = gd.plan(net, 100_000, 8, memory="64MB")
    assert plan.bytes <= 64 * 10**6
    assert plan.segments > 1
    assert gd.plan(net, 100_000, 8, memory="full").bytes > 10 * plan.bytes
