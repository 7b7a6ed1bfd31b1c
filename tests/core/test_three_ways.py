"""The core's gradients agree with differences, with the reference, and by <J v, w> = <v, J^T w>.

The first and the third way need no second implementation of the backward pass: the differences are
of the core's own loss, and J v comes from the reference's tangents, which complex steps have
checked.
"""

from dataclasses import replace

import numpy as np
import pytest

import gradcore as gd
import tolerances
from gradcore import _core
from nets import CELLS, SKIPS, stack
from problem import (
    Problem,
    assert_agree,
    by_core,
    by_reference,
    core_arguments,
    core_targets,
    from_core,
    isa,
    named,
    norm,
    random_problem,
)
from reference import losses, pipeline, two_ways

LEVELS = _core.isa_available()
SETTINGS = [
    (cell, skip, source, both, LEVELS[(i + j + k) % len(LEVELS)], (i + j + 2 * k + len(both)) % 3)
    for i, cell in enumerate(CELLS)
    for j, skip in enumerate(SKIPS)
    for k, source in enumerate(("floats", "tokens", "embedding"))
    for both in ((), (0,), (1,), (0, 1))
    if (i + j + k + sum(both)) % 3 == 0 or (source == "floats" and not both)
]
each_setting = pytest.mark.parametrize(
    ("cell", "skip", "source", "both", "level", "between"), SETTINGS
)
# The choices are no masks and no layers in between; all of them in evaluation; all of them in
# training.
PLAIN, EVALUATED, TRAINED = range(3)


def problem_for(cell, skip, source, both=(), between=PLAIN, *, seed=0, loss=None):
    net = stack(
        cell,
        5,
        17,
        layers=2,
        skip=SKIPS[skip],
        residual=True,
        bidirectional=both,
        vocabulary=7 if source == "embedding" else None,
        classes=4,
        between="nothing" if between == PLAIN else "all",
        masks="none" if between == PLAIN else "all",
        bare_tokens=source == "tokens",
    )
    return random_problem(
        net,
        loss or gd.loss.CrossEntropy(),
        140,
        3,
        seed=seed,
        tokens=source == "tokens",
        weight=True,
        lengths=True,
        reset=True,
        state=True,
        train=between == TRAINED,
    )


def direction(problem, rng):
    """A random direction in params, x and state; it is zero in the padding of x."""
    params = {name: rng.standard_normal(a.shape) for name, a in problem.params.items()}
    x = None
    if not problem.tokens:
        late = np.arange(len(problem.x))[:, None] >= problem.lengths
        x = np.where(late[..., None], 0.0, rng.standard_normal(problem.x.shape))
    state = pipeline.map_states(lambda a: rng.standard_normal(a.shape), problem.state)
    return params, x, state


def moved(problem, along, step):
    params, x, state = along
    return replace(
        problem,
        params={name: a + step * params[name] for name, a in problem.params.items()},
        x=problem.x if x is None else problem.x + step * x,
        state=pipeline.map_states(lambda a, b: a + step * b, problem.state, state),
    )


def inner(found_params, found_x, found_state, along):
    """Inner product of a gradient with a direction."""
    params, x, state = along
    total = sum(np.vdot(found_params[name], v) for name, v in params.items())
    total += sum(np.vdot(found_state[name], v) for name, v in named(state).items())
    return float(total if x is None else total + np.vdot(found_x, x))


def core_value(problem):
    arguments, keywords = core_arguments(problem, "float64")
    return gd.value(*arguments, **keywords, **core_targets(problem, "float64"))


@each_setting
def test_directional_differences(cell, skip, source, both, level, between):
    """Uses five points, so that the truncation error is h^4; relu has kinks and needs a shorter
    step.
    """
    # A LayerNorm brings so many units so close to a kink that one is certain to cross it in this
    # step.
    between = PLAIN if cell == "relu" else between
    problem = problem_for(cell, skip, source, both, between, seed=14 if cell == "relu" else 12)
    along = direction(problem, np.random.default_rng(2))
    along_norm = np.sqrt(inner(along[0], along[1], named(along[2]), along))
    h = (1e-5 if cell == "relu" else 1e-3) / along_norm
    with isa(level):
        f = {s: core_value(moved(problem, along, s * h)) for s in (-2, -1, 1, 2)}
        found = by_core(problem)
    slope = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h)
    predicted = inner(found.params, found.x, found.dstate, along)
    gradient = norm(
        [*found.params.values(), *found.dstate.values(), *([] if found.x is None else [found.x])]
    )
    tolerance = tolerances.DIFFERENCES_KINKED if cell == "relu" else tolerances.DIFFERENCES
    assert abs(slope - predicted) <= tolerance * gradient * along_norm


@each_setting
def test_reference(cell, skip, source, both, level, between):
    problem = problem_for(cell, skip, source, both, between, seed=3)
    with isa(level):
        assert_agree(by_core(problem), by_reference(problem), tolerances.DOUBLE)


@each_setting
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dot_product(cell, skip, source, both, level, between, dtype):
    """J^T w comes from the core, to which a loss function passes w; J v comes from the reference's
    tangents.
    """
    problem = problem_for(cell, skip, source, both, between, seed=4)
    rng = np.random.default_rng(5)
    v = direction(problem, rng)
    trace = two_ways.forward(
        problem.net,
        problem.params,
        problem.x,
        state=problem.state,
        mode=problem.mode,
        **problem.masks,
    )
    j_v, _ = two_ways.tangent(problem.net, problem.params, trace, *v)
    w = rng.standard_normal(j_v.shape).astype(dtype)
    arguments, keywords = core_arguments(problem, dtype)
    wrt = ("params", "state") if problem.tokens else ("params", "x", "state")
    with isa(level):
        r = gd.value_and_grad(
            *arguments, **keywords, loss=lambda outputs, t0, t1: (0.0, w[t0:t1]), wrt=wrt
        )
    state = from_core(problem.net, r.dstate, r.dstate_exponent)
    left, right = float(np.vdot(j_v, w)), inner(r.grads, r.dx, state, v)
    tolerance = tolerances.SINGLE if dtype == "float32" else tolerances.DOT_PRODUCT
    assert abs(left - right) <= tolerance * norm([j_v]) * norm([w.astype(float)])


def test_differences_see_a_wrong_gradient():
    """The comparison of the first test detects an error of one part in 10^6."""
    problem = problem_for("lstm", "none", "floats", seed=6)
    along = direction(problem, np.random.default_rng(7))
    found = by_core(problem)
    right = inner(found.params, found.x, found.dstate, along)
    bent = {name: a * (1 + 1e-6) for name, a in found.params.items()}
    wrong = inner(bent, found.x, found.dstate, along)
    along_norm = np.sqrt(inner(along[0], along[1], named(along[2]), along))
    gradient = norm([*found.params.values(), *found.dstate.values(), found.x])
    assert abs(wrong - right) > tolerances.DIFFERENCES * gradient * along_norm


def test_losses_agree_with_the_reference_at_large_outputs():
    """Logits are +-200, where exp overflows in float32 and 1 - p cancels."""
    rng = np.random.default_rng(8)
    net = gd.Stack(gd.RNN(6, 6, nonlinearity="identity", bias=False))
    params = {"0.weight_ih": np.eye(6), "0.weight_hh": np.zeros((6, 6))}
    x = rng.uniform(-200, 200, (30, 4, 6)).astype(np.float32).astype(float)
    for loss, y in (
        (gd.loss.CrossEntropy(), rng.integers(6, size=(30, 4))),
        (gd.loss.BinaryCrossEntropy(), rng.integers(2, size=(30, 4, 6)).astype(float)),
    ):
        problem = Problem(net, params, x, y, loss)
        value, d_outputs = losses.evaluate(loss, x, y)
        for dtype, tolerance in (("float64", tolerances.DOUBLE), ("float32", tolerances.SINGLE)):
            got = by_core(problem, dtype)
            assert got.loss == pytest.approx(value, rel=tolerance)
            assert norm([got.x - d_outputs]) <= tolerance * norm([d_outputs])
