"""How long does a pass of exact BPTT take in memory, with a budget, and over ragged sequences?

extra_info has microseconds per step of all sequences together and the fraction of the bound; the
times of the table are seconds per pass. The answer is checked before it is timed.
"""

import numpy as np
import pytest

import gradcore as gd
from gradcore.apps import bench
from gradcore.apps.bench import agreement, contestants

ROWS = bench.grid(["LSTM", "GRU", "RNN"], [32, 128], [1, 8], [5_000])


def with_rates(machine, benchmark, row):
    us = benchmark.stats.stats.min / row.steps * 1e6
    bound = bench.bound_us(machine, gates=row.gates, inputs=16, hidden=row.hidden, batch=row.batch)
    benchmark.extra_info.update(us_per_step=us, bound_us=bound, fraction=bound / us)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_forward_and_backward(benchmark, timed, machine, row):
    problem = bench.Problem.random(row)
    short = problem.first(agreement.DIFFERENCE_STEPS)
    agreement.check_differences(short, contestants.gradcore(short, machine.threads)())
    timed(contestants.gradcore(problem, machine.threads))
    with_rates(machine, benchmark, row)


@pytest.mark.parametrize("memory", ["full", "64MB", "16MB"])
def test_budgets(benchmark, timed, machine, memory):
    """One long sequence; every budget must give the same bits."""
    (row,) = bench.grid(["LSTM"], [128], [8], [20_000])
    problem = bench.Problem.random(row)
    net, params = contestants.net_of(problem)

    def gradient(memory):
        return gd.value_and_grad(net, params, problem.x, problem.y, loss="mse", memory=memory)

    np.testing.assert_array_equal(gradient(memory).grads.flat, gradient(None).grads.flat)
    timed(lambda: gradient(memory), budget=memory)
    with_rates(machine, benchmark, row)


@pytest.mark.parametrize("ragged", [False, True], ids=["padded", "ragged"])
def test_ragged_batch(benchmark, timed, machine, ragged):
    """Lengths are uniform in 1..T; the same arrays with all T steps are timed for comparison."""
    (row,) = bench.grid(["LSTM"], [128], [8], [5_000])
    problem = bench.Problem.random(row)
    net, params = contestants.net_of(problem)
    lengths = np.random.default_rng(0).integers(1, row.steps + 1, row.batch) if ragged else None

    def gradient(x=problem.x):
        return gd.value_and_grad(net, params, x, problem.y, loss="mse", lengths=lengths)

    if ragged:  # steps after the lengths do not count
        other = problem.x.copy()
        other[np.arange(row.steps)[:, None] >= lengths] = 7.0
        np.testing.assert_array_equal(gradient().grads.flat, gradient(other).grads.flat)
    timed(gradient)
    with_rates(machine, benchmark, row)
