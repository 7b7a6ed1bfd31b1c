"""Adjoints (gradients in the backward pass) carry a scale: gradients of norm 1e+5000 and 1e-5000
keep their direction and size.
"""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import gradcore as gd
import tolerances
from everything import assert_same
from gradcore import _core
from nets import CELLS, SKIPS, stack
from overriding import override
from problem import (
    Problem,
    core_arguments,
    core_params,
    core_targets,
    from_core,
    isa,
    norm,
    random_problem,
)
from reference import losses, pipeline, scaled

LEVELS = _core.isa_available()
LAST = gd.loss.MeanSquaredError(step="last", reduction="sum")
TOLERANCE = {"float32": tolerances.SINGLE_SCALED, "float64": tolerances.DOUBLE_SCALED}


# ---- ordinary nets


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("cell", CELLS)
def test_on_and_off_give_the_same_bits(cell, skip, dtype):
    masks = "all" if skip in ("none", "mix") else "none"
    kinds = {"none": "all", "mix learned": "all", "add": "dense", "add learned": "residual"}
    between = kinds.get(skip, "nothing")
    net = stack(
        cell,
        8,
        17,
        layers=2,
        skip=SKIPS[skip],
        classes=5,
        vocabulary=9,
        between=between,
        masks=masks,
    )
    level = LEVELS[(list(CELLS).index(cell) + list(SKIPS).index(skip)) % len(LEVELS)]
    problem = random_problem(
        net,
        gd.loss.CrossEntropy(),
        300,
        3,
        seed=1,
        lengths=True,
        reset=True,
        state=True,
        train=net.is_random,
    )
    arguments, keywords = core_arguments(problem, dtype)
    keywords |= core_targets(problem, dtype) | {"wrt": ("params", "state")}
    with isa(level), override(scaling=True):
        on = gd.value_and_grad(*arguments, **keywords)
    with isa(level), override(scaling=False):
        off = gd.value_and_grad(*arguments, **keywords)
    assert on.grads.exponent == 0
    assert_same(on, off)


# ---- far outside the range


def distance(got, expected):
    """The distance of two directions by norm; each is a dict of arrays with their own exponents."""
    mine, theirs = unit(got), unit(expected)
    return norm([mine[name] - theirs[name] for name in theirs])


def unit(arrays):
    largest = max(np.abs(a).max() for a in arrays.values())
    assert np.isfinite(largest)
    assert largest > 0
    length = norm([a / largest for a in arrays.values()])
    return {name: a / largest / length for name, a in arrays.items()}


def as_scaled(arrays, exponent):
    return scaled.Scaled({name: a.astype(float) for name, a in arrays.items()}, exponent)


def state_gradient(problem, result):
    """The layers' gradients, scaled to the largest of their exponents."""
    exponents = result.dstate_exponent.tolist()
    arrays = from_core(problem.net, result.dstate)
    common = max(exponents)
    below = {i: max(e - common, -5000) for i, e in enumerate(exponents)}
    return scaled.Scaled(
        {name: np.ldexp(a, below[int(name[0])]) for name, a in arrays.items()}, common
    )


def assert_same_gradient(got, expected, tolerance):
    assert got.arrays.keys() == expected.arrays.keys()
    assert distance(got.arrays, expected.arrays) <= tolerance
    assert abs(got.norm_log10() - expected.norm_log10()) <= tolerances.LOG10_NORM


def impulse(steps, factor, *, hidden=9, batch=2, seed=0):
    """A linear net whose input is nonzero in the first two steps only; the state after them is 0.

    The gradient of the last output has a norm of about factor^steps, all of which flows through the
    first two steps. The weights are small multiples of powers of two, so that the zero is exact.
    """
    rng = np.random.default_rng(seed)
    net = gd.Stack(
        gd.RNN(hidden, hidden, nonlinearity="identity", bias=False),
        gd.Linear(hidden, 3, bias=False),
    )
    recurrent = np.zeros((hidden, hidden))
    recurrent[np.arange(hidden), np.roll(np.arange(hidden), 1)] = factor
    recurrent[0, 0] = factor / 4
    head = rng.integers(-4, 5, (3, hidden)) / 8.0
    x = np.zeros((steps, batch, hidden))
    x[0] = rng.integers(-8, 9, (batch, hidden)) / 8.0
    x[1] = -x[0] @ recurrent.T
    params = {
        "0.weight_ih": np.eye(hidden),
        "0.weight_hh": recurrent,
        "1.weight": head,
    }
    return Problem(net, params, x, np.ones((batch, 3)), LAST)


def expect(problem):
    trace = pipeline.forward(
        problem.net, problem.params, problem.x, state=problem.state, mode=problem.mode
    )
    value, d_outputs = losses.evaluate(problem.loss, trace.outputs, problem.y)
    assert math.isfinite(value)
    return scaled.backward(problem.net, problem.params, trace, d_outputs)


def solve(problem, dtype, **how):
    arguments, keywords = core_arguments(problem, dtype)
    wrt = ("params", "state") if problem.tokens else ("params", "x", "state")
    return gd.value_and_grad(*arguments, **keywords, **core_targets(problem, dtype), wrt=wrt, **how)


@cache
def far(factor, steps):
    problem = impulse(steps, factor)
    return problem, expect(problem)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("factor", "steps"), [(0.5, 17_800), (2.0, 16_700)])
def test_norms_of_ten_to_the_five_thousand(factor, steps, dtype):
    problem, expected = far(factor, steps)
    got = solve(problem, dtype)
    sign = 1 if factor > 1 else -1
    assert sign * expected.params.norm_log10() > 4990
    assert sign * got.grads.norm_log10() > 4990
    assert sign * got.grads.exponent > 16_000
    found = as_scaled(got.grads, got.grads.exponent)
    assert_same_gradient(found, expected.params, TOLERANCE[dtype])
    assert got.grads.norm_log10() == pytest.approx(found.norm_log10(), abs=1e-3)
    assert_same_gradient(state_gradient(problem, got), expected.state, TOLERANCE[dtype])
    for t in (0, 1, 777, steps // 2, steps - 200, steps - 1):
        x = as_scaled({"x": got.dx[t]}, int(got.dx_exponent[t]))
        assert_same_gradient(x, expected.x[t], TOLERANCE[dtype])


def test_every_budget_and_thread_count_gives_the_same_bits():
    problem = impulse(2000, 2.0)
    whole = solve(problem, "float32", memory="full", threads=1)
    with pytest.raises(gd.MemoryBudgetError) as refused:
        solve(problem, "float32", memory=1)
    assert whole.grads.exponent > 1000
    assert_same(whole, solve(problem, "float32", memory=refused.value.smallest))
    with override(exact_threads=True):
        for threads in (2, 3):
            assert_same(whole, solve(problem, "float32", threads=threads))


def at_rest(
    cell, gain, steps, *, layers=1, skip=None, batch=2, seed=0, loss=LAST, hidden=9, **options
):
    """A net at its fixed point 0, without bias, with token columns of zeros and a Jacobian of about
    `gain`.

    The gradients of the tokens' columns and of the initial state have all of the growth.
    """
    net = stack(cell, 5, hidden, layers=layers, skip=skip, bias=True, classes=3, **options)
    return rested(net, gain, steps, batch=batch, seed=seed, loss=loss, hidden=hidden)


def rested(net, gain, steps, *, batch=2, seed=0, loss=LAST, hidden=9):
    rng = np.random.default_rng(seed)
    params = {spec.name: np.zeros(spec.shape) for spec in net.parameter_specs}
    for name, array in params.items():
        if "weight" in name and name != "0.weight_ih":
            array[:] = gain * rng.standard_normal(array.shape) / np.sqrt(hidden)
        elif "skip" in name:
            array[:] = 0.1
    x = rng.integers(5, size=(steps, batch))
    y = np.ones((batch, 3)) if loss.step == "last" else np.ones((steps, batch, 3))
    problem = Problem(net, params, x, y, loss)
    params = core_params(problem, "float32")
    rounded = {name: array.astype(float) for name, array in params.items()}
    return Problem(net, rounded, x, y, loss)


GAINS = {"rnn": 3.0, "relu": 3.0, "identity": 3.0, "lstm": 24.0, "gru": 9.0}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("skip", ["none", "add learned", "mix"])
@pytest.mark.parametrize("cell", ["rnn", "identity", "lstm", "gru"])
def test_explosion(cell, skip, dtype):
    problem = at_rest(cell, GAINS[cell], 1500, layers=2, skip=SKIPS[skip])
    expected, got = expect(problem), solve(problem, dtype)
    assert expected.params.norm_log10() > 310
    found = as_scaled(got.grads, got.grads.exponent)
    assert_same_gradient(found, expected.params, TOLERANCE[dtype])
    assert_same_gradient(state_gradient(problem, got), expected.state, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", ["rnn", "identity", "lstm", "gru"])
def test_explosion_through_norms_and_masks(cell, dtype):
    """Rows of zeros have a deviation of sqrt(eps), so each LayerNorm multiplies the gradient
    further.
    """
    problem = at_rest(
        cell, GAINS[cell], 1500, layers=2, between="all", masks="all", bare_tokens=True
    )
    problem = replace(problem, train=True, seed=(1, 2))
    expected, got = expect(problem), solve(problem, dtype)
    assert expected.params.norm_log10() > 310
    found = as_scaled(got.grads, got.grads.exponent)
    assert_same_gradient(found, expected.params, TOLERANCE[dtype])
    assert_same_gradient(state_gradient(problem, got), expected.state, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", ["rnn", "identity", "lstm", "gru"])
def test_explosion_through_dense_and_residual_layers(cell, dtype):
    """What goes round a run of layers meets what comes through it at another power of two."""
    layer = CELLS[cell]
    net = gd.Stack(
        layer(5, 9),
        gd.Dense(9, 12, "silu"),
        gd.Residual(
            gd.Dense(12, 9, "gelu"),
            layer(9, 9),
            gd.Residual(gd.Dense(9, 9, "tanh")),
            gd.Dense(9, 12),
        ),
        gd.Residual(layer(12, 12)),
        gd.Dense(12, 9, "tanh"),
        gd.Linear(9, 3),
    )
    problem = rested(net, GAINS[cell], 1500)
    expected, got = expect(problem), solve(problem, dtype)
    assert expected.params.norm_log10() > 310
    found = as_scaled(got.grads, got.grads.exponent)
    assert_same_gradient(found, expected.params, TOLERANCE[dtype])
    assert_same_gradient(state_gradient(problem, got), expected.state, TOLERANCE[dtype])
    with override(exact_threads=True):
        assert_same(got, solve(problem, dtype, threads=3, memory="full"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("log10_growth", [0.5, 4.7])
def test_explosion_reaches_the_parameters_of_a_norm(log10_growth, dtype):
    """A weight of 0 keeps the layers above at rest, whatever rows it multiplies."""
    hidden, steps, rng = 9, 400, np.random.default_rng(4)
    net = gd.Stack(
        gd.LayerNorm(hidden), gd.RNN(hidden, hidden, nonlinearity="identity", bias=False)
    )
    growth = 10.0**log10_growth * np.roll(np.eye(hidden), 1, axis=0)
    params = {
        "0.weight": np.zeros(hidden),
        "0.bias": np.zeros(hidden),
        "1.weight_ih": rng.integers(-4, 5, (hidden, hidden)) / 4.0,
        "1.weight_hh": growth.astype(np.float32).astype(float),
    }
    x = rng.integers(-8, 9, (steps, 2, hidden)) / 8.0
    problem = Problem(net, params, x, np.ones((2, hidden)), LAST)
    expected, got = expect(problem), solve(problem, dtype)
    assert expected.params.norm_log10() > 150
    found = as_scaled(got.grads, got.grads.exponent)
    assert_same_gradient(found, expected.params, TOLERANCE[dtype])
    for name in ("0.weight", "0.bias"):
        alone = as_scaled({name: got.grads[name]}, got.grads.exponent)
        assert_same_gradient(
            alone,
            scaled.Scaled({name: expected.params.arrays[name]}, expected.params.exponent),
            TOLERANCE[dtype],
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_vanishing_below_a_loss_at_every_step(cell, dtype):
    """Each loss term that arrives keeps the exponent at 0, so the distant past is lost in the sum,
    as in any sum.
    """
    loss = gd.loss.MeanSquaredError()
    problem = at_rest(cell, 0.3, 600, loss=loss)
    expected, got = expect(problem), solve(problem, dtype)
    assert got.grads.exponent == 0
    found = as_scaled(got.grads, 0)
    assert_same_gradient(found, expected.params, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_vanishing_state(cell, dtype):
    """The loss depends on the last step only: the gradient of the first state is 1e-300 or less."""
    problem = at_rest(cell, 0.3, 2500)
    expected, got = expect(problem), solve(problem, dtype)
    assert expected.state.norm_log10() < -320
    assert_same_gradient(state_gradient(problem, got), expected.state, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lag", [1, 3, 11])
@pytest.mark.parametrize("value", [0.4, 2.0])
def test_only_the_skip_carries(value, lag, dtype):
    """Dead relu units pass on no gradient, so it flows through the skip connection alone."""
    skip = gd.Skip(lag, value=value)
    net = gd.Stack(gd.RNN(3, 3, nonlinearity="relu", bias=False, skip=skip))
    params = {"0.weight_ih": np.eye(3), "0.weight_hh": np.eye(3)}
    steps = 1500 * lag
    problem = Problem(net, params, np.zeros((steps, 1, 3)), np.ones((1, 3)), LAST)
    expected, got = expect(problem), solve(problem, dtype)
    assert abs(expected.state.norm_log10()) > 400
    assert_same_gradient(state_gradient(problem, got), expected.state, TOLERANCE[dtype])


def test_reset_takes_the_scale_along():
    """The gradient of a loss before a reset does not depend on the scale of what grew after the
    reset.
    """
    steps, hidden = 400, 9
    net = gd.Stack(gd.RNN(hidden, hidden, nonlinearity="identity", bias=False))
    rng = np.random.default_rng(3)
    params = {
        "0.weight_ih": np.eye(hidden),
        "0.weight_hh": 2 * np.roll(np.eye(hidden), 1, axis=0),
    }
    weight, reset = np.zeros((steps, 1)), np.zeros((steps, 1), bool)
    weight[[100, steps - 1]] = 1.0
    reset[200] = True
    y = rng.integers(-4, 5, (steps, 1, hidden)) / 2.0
    loss = gd.loss.MeanSquaredError(reduction="sum")
    problem = Problem(net, params, np.zeros((steps, 1, hidden)), y, loss, weight, reset=reset)
    trace = pipeline.forward(net, params, problem.x, reset=reset)
    _, d_outputs = losses.evaluate(loss, trace.outputs, y, weight)
    expected, got = scaled.backward(net, params, trace, d_outputs), solve(problem, "float32")
    for t in (0, 50, 100, 200, 300, steps - 1):
        x = as_scaled({"x": got.dx[t]}, int(got.dx_exponent[t]))
        assert_same_gradient(x, expected.x[t], tolerances.SINGLE_SCALED)
    assert not got.dx[150].any()
    assert_same_gradient(state_gradient(problem, got), expected.state, tolerances.SINGLE_SCALED)


# ---- fast growth


FAST = [3, 4.2, 4.5, 4.7, 4.9, 6, 10]


@pytest.mark.parametrize(
    ("layers", "log10_growth"), [*((n, g) for n in (1, 2) for g in FAST), (1, 18), (1, 28)]
)
@pytest.mark.parametrize("cell", ["rnn", "identity", "lstm", "gru"])
def test_overflow_inside_eight_steps(cell, log10_growth, layers):
    """float32 ends at 1e+38: eight steps with a factor of 1e+5 each leave it between two checks.

    Near a factor of 1e+4.7 the adjoint still fits, but sums over it do not.
    """
    gain = GAINS[cell] / 3.0 * 10.0**log10_growth
    problem = at_rest(cell, gain, 60, layers=layers, batch=17, hidden=33)
    # Only the layers have the growth; the head's weights have an ordinary size.
    head = problem.params[f"{layers}.weight"]
    head[:] = np.sign(head)
    expected, got = expect(problem), solve(problem, "float32")
    assert expected.params.norm_log10() > 50 * log10_growth
    found = as_scaled(got.grads, got.grads.exponent)
    assert_same_gradient(found, expected.params, tolerances.SINGLE_SCALED)
    assert_same_gradient(state_gradient(problem, got), expected.state, tolerances.SINGLE_SCALED)


def test_overflow_in_one_step_is_said():
    problem = at_rest("identity", 1e36, 100, batch=5, hidden=64)
    with pytest.raises(gd.NonFiniteError, match="gradient overflowed within one step") as caught:
        solve(problem, "float32")
    assert caught.value.layer == 0
    assert 0 <= caught.value.step < 100


# ---- what scaling does not cover


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threads", [1, 2])
def test_forward_overflow_names_the_place(level, threads):
    """Sequence 2 of the second layer grows from step 5 on; 8^42 = 2^126 is the last power that
    fits.
    """
    net = gd.Stack(
        gd.RNN(3, 3, nonlinearity="identity", bias=False),
        gd.RNN(3, 3, nonlinearity="identity", bias=False),
    )
    params = net.init(seed=0)
    params["0.weight_ih"][:] = params["1.weight_ih"][:] = np.eye(3)
    params["0.weight_hh"][:] = 0
    params["1.weight_hh"][:] = 8 * np.eye(3)
    x = np.zeros((300, 4, 3), np.float32)
    x[5, 2, 1] = 1.0
    y = np.zeros((300, 4, 3), np.float32)
    first = 5 + 43
    with isa(level), override(exact_threads=True):
        for call in (
            lambda: gd.value_and_grad(net, params, x, y, loss="mse", threads=threads),
            lambda: gd.apply(net, params, x, threads=threads),
        ):
            with pytest.raises(gd.NonFiniteError, match="layer 1, step 48, sequence 2") as caught:
                call()
            assert (caught.value.layer, caught.value.step, caught.value.sequence) == (1, first, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("cell", CELLS)
def test_bad_input_names_the_place(cell, bad):
    net = stack(cell, 4, 9, layers=2, classes=2)
    params = net.init(seed=1)
    x = np.zeros((150, 3, 4), np.float32)
    x[131, 1, 3] = bad
    with pytest.raises(gd.NonFiniteError) as caught:
        gd.value(net, params, x, np.zeros((150, 3), np.int64), loss="cross_entropy")
    assert (caught.value.layer, caught.value.step, caught.value.sequence) == (0, 131, 1)
