"""The reference's derivatives agree with complex steps, differences and dot products, and with
PyTorch in double precision.
"""

import itertools
import math

import numpy as np
import pytest

import gradcore as gd
import tolerances
from nets import CELLS, SKIPS
from problem import by_reference, error, named
from reference import losses, pipeline, scaled
from small_problems import LOSSES, problem_for


def direction(problem, rng):
    """A random direction in params, x and state."""
    params = {name: rng.standard_normal(a.shape) for name, a in problem.params.items()}
    x = None if problem.tokens else rng.standard_normal(problem.x.shape)
    state = pipeline.map_states(lambda a: rng.standard_normal(a.shape), problem.state)
    return params, x, state


def moved(problem, along, step):
    params, x, state = along
    return (
        {name: a + step * params[name] for name, a in problem.params.items()},
        problem.x if x is None else problem.x + step * x,
        pipeline.map_states(lambda a, b: a + step * b, problem.state, state),
    )


def run(problem, params, x, state):
    return pipeline.forward(problem.net, params, x, state=state, mode=problem.mode, **problem.masks)


def loss_of(problem, outputs):
    return losses.evaluate(problem.loss, outputs, problem.y, problem.weight, problem.lengths)[0]


def dot(a, b):
    return sum(float(np.vdot(a[name], b[name])) for name in a)


@pytest.mark.parametrize("train", [None, False, True])
@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_directional_derivatives(cell, skip, train):
    problem = problem_for(cell, skip, train=train)
    along = direction(problem, np.random.default_rng(1))
    tiny = 1e-100
    slope = loss_of(problem, run(problem, *moved(problem, along, 1j * tiny)).outputs).imag / tiny
    found = by_reference(problem)
    params, x, state = along
    late = np.arange(len(x))[:, None] >= problem.lengths
    predicted = (
        dot(found.params, params)
        + float(np.vdot(found.x[~late], x[~late]))
        + dot(found.dstate, named(state))
    )
    assert slope != 0
    assert predicted == pytest.approx(slope, rel=tolerances.COMPLEX_STEP)
    assert not found.x[late].any()


@pytest.mark.parametrize("loss", LOSSES)
def test_slopes_of_losses(loss):
    problem = problem_for("lstm", "none", loss=loss, seed=3)
    rng = np.random.default_rng(2)
    outputs = rng.standard_normal((9, 4, 4)) * 3
    along = rng.standard_normal(outputs.shape)
    _, slopes = losses.evaluate(problem.loss, outputs, problem.y, problem.weight, problem.lengths)
    tiny = 1e-100
    value = loss_of(problem, outputs + 1j * tiny * along)
    assert value.imag != 0
    assert np.vdot(slopes, along) == pytest.approx(value.imag / tiny, rel=tolerances.COMPLEX_STEP)


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_central_differences(cell, tokens):
    """Central differences use no complex numbers, and would notice a conjugate in the
    wrong place.
    """
    problem = problem_for(cell, "mix learned", tokens=tokens, seed=4)
    along = direction(problem, np.random.default_rng(5))
    # The truncation error h^2 and the rounding error 1e-16/h balance at h = 1e-5, at about 1e-10 of
    # values near 1. For this seed no kink of relu lies within 1e-5.
    h = 1e-5
    ahead, behind = (
        loss_of(problem, run(problem, *moved(problem, along, s)).outputs) for s in (h, -h)
    )
    found = by_reference(problem)
    predicted = dot(found.params, along[0]) + dot(found.dstate, named(along[2]))
    if along[1] is not None:
        predicted += float(np.vdot(found.x, along[1]))
    assert predicted == pytest.approx((ahead - behind) / (2 * h), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("train", [None, False, True])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("cell", CELLS)
def test_dot_product(cell, skip, tokens, train):
    """Checks <J v, w> = <v, J^T w> with w on the outputs and on the state after the last step."""
    problem = problem_for(cell, skip, tokens=tokens, seed=6, train=train)
    rng = np.random.default_rng(7)
    v = direction(problem, rng)
    trace = run(problem, problem.params, problem.x, problem.state)
    w_out = rng.standard_normal(trace.outputs.shape)
    w_state = pipeline.map_states(lambda a: rng.standard_normal(a.shape), trace.state)
    j_out, j_state = pipeline.tangent(problem.net, problem.params, trace, *v)
    back = pipeline.backward(problem.net, problem.params, trace, w_out, w_state)
    left = float(np.vdot(j_out, w_out)) + dot(named(j_state), named(w_state))
    right = dot(back.params, v[0]) + dot(named(back.state), named(v[2]))
    if back.x is not None:
        right += float(np.vdot(back.x, v[1]))
    scale = math.sqrt(np.vdot(j_out, j_out) * np.vdot(w_out, w_out))
    assert abs(left - right) <= tolerances.DOT_PRODUCT * scale


@pytest.mark.parametrize("train", [None, False, True])
@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_tangents_are_complex_steps(cell, skip, train):
    problem = problem_for(cell, skip, seed=8, train=train)
    along = direction(problem, np.random.default_rng(9))
    trace = run(problem, problem.params, problem.x, problem.state)
    tiny = 1e-100
    stepped = run(problem, *moved(problem, along, 1j * tiny))
    t_outputs, t_state = pipeline.tangent(problem.net, problem.params, trace, *along)
    assert error(t_outputs, stepped.outputs.imag / tiny) <= tolerances.COMPLEX_STEP
    for name, array in named(t_state).items():
        expected = named(stepped.state)[name].imag / tiny
        assert error(array, expected) <= tolerances.COMPLEX_STEP


def test_masks_by_running_sequences_alone():
    """A batch with lengths and resets equals its sequences, cut at the resets, run one at
    a time.
    """
    problem = problem_for("lstm", "add learned", seed=10)
    whole = by_reference(problem)
    for b, length in enumerate(problem.lengths):
        state = pipeline.map_states(lambda a, b=b: a[..., b : b + 1, :], problem.state)
        starts = np.flatnonzero(problem.reset[:length, b])
        cuts = sorted({0, int(length), *starts.tolist()})
        outputs = []
        for start, stop in itertools.pairwise(cuts):
            if problem.reset[start, b]:
                state = pipeline.zero_state(problem.net, 1)
            part = pipeline.forward(
                problem.net, problem.params, problem.x[start:stop, b : b + 1], state=state
            )
            outputs.append(part.outputs[:, 0])
            state = part.state
        alone = np.concatenate([*outputs, np.zeros((9 - length, 4))])
        np.testing.assert_allclose(whole.outputs[:, b], alone, rtol=0, atol=1e-15)
        for name, array in named(state).items():
            np.testing.assert_allclose(
                whole.state[name][..., b, :], array[..., 0, :], rtol=0, atol=1e-15
            )
    assert 0 in problem.lengths
    assert 9 in problem.lengths


def test_padding_is_not_looked_at():
    problem = problem_for("rnn", "none", seed=11)
    late = np.arange(9)[:, None] >= problem.lengths
    assert np.isnan(problem.x[late]).all()
    assert late.any()
    found = by_reference(problem)
    for array in (*found.params.values(), found.x, *found.dstate.values(), found.outputs):
        assert np.isfinite(array).all()
    assert math.isfinite(found.loss)


@pytest.mark.parametrize("skip", SKIPS)
def test_scaled_agrees_where_a_double_is_enough(skip):
    problem = problem_for("lstm", skip, seed=12)
    trace = run(problem, problem.params, problem.x, problem.state)
    _, d_outputs = losses.evaluate(
        problem.loss, trace.outputs, problem.y, problem.weight, problem.lengths
    )
    plain = pipeline.backward(problem.net, problem.params, trace, d_outputs)
    big = scaled.backward(problem.net, problem.params, trace, d_outputs)
    for name, array in plain.params.items():
        got = np.ldexp(big.params.arrays[name], big.params.exponent)
        assert error(got, array) <= tolerances.DOUBLE
    for name, array in named(plain.state).items():
        got = np.ldexp(big.state.arrays[name], big.state.exponent)
        assert error(got, array) <= tolerances.DOUBLE
    for t, step in enumerate(big.x):
        assert error(np.ldexp(step.arrays["x"], step.exponent), plain.x[t]) <= tolerances.DOUBLE


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_scaled_out_of_range(factor):
    """For one linear unit h_t = f h_(t-1), the gradient of h_T with respect to x_0 is f^T."""
    net = gd.Stack(gd.RNN(1, 1, nonlinearity="identity", bias=False))
    params = {"0.weight_ih": np.ones((1, 1)), "0.weight_hh": np.full((1, 1), factor)}
    steps = 5001
    trace = pipeline.forward(net, params, np.zeros((steps, 1, 1)))
    d_outputs = np.zeros((steps, 1, 1))
    d_outputs[-1] = 1.0
    found = scaled.backward(net, params, trace, d_outputs)
    expected = (steps - 1) * math.log10(factor)
    assert found.x[0].norm_log10() == pytest.approx(expected, rel=1e-14)
    assert found.state.norm_log10() == pytest.approx(expected + math.log10(factor), rel=1e-14)
