"""Jacobian products against the tangents and the backward of the float64 reference, pairwise."""

import numpy as np
import pytest

import gradcore as gd
import test_core_agreement as agreement
import tolerances
from gradcore import jacobian
from gradcore._execution import override
from pairwise import covering
from problem import core_arguments, error, from_core, isa, named
from reference import pipeline

FACTORS = {
    name: agreement.FACTORS[name]
    for name in (
        *("cell", "hidden", "inputs", "batch", "layers", "skip", "residual", "bias", "source"),
        *("classes", "between", "masks", "train", "lengths", "reset", "state", "dtype", "isa"),
        *("threads", "memory"),
    )
} | {
    "steps": [1, 7, 8, 9, 30, 131],
    "directions": [1, 3, 4, 5, 32],
    "wrt": ["params", "x", "state", "all"],
}
CASES = covering(FACTORS, seed=3)


def problem_of(case, seed):
    fixed = {"bidirectional": (), "loss": "squares, sum", "weight": False}
    return agreement.problem_of({**case, **fixed}, seed)


def directions(problem, case, dtype, rng):
    """K directions as the reference takes them, one by one, and as gradcore does."""
    count, net = case["directions"], problem.net
    wrt = case["wrt"]

    def draw(shape):
        return rng.standard_normal(shape).astype(np.float32).astype(float)

    zero = pipeline.zero_state(net, problem.x.shape[1])
    many = []
    for _ in range(count):
        params = {
            name: draw(a.shape) * (wrt in ("params", "all")) for name, a in problem.params.items()
        }
        x = None if problem.tokens else draw(problem.x.shape) * (wrt in ("x", "all"))
        state = [
            pipeline.State(*(draw(a.shape) * (wrt in ("state", "all")) for a in s.arrays()))
            for s in zero
        ]
        many.append((params, x, state))
    return many


def stacked_states(net, states, dtype):
    """K states of the reference as gradcore takes them."""
    layers = []
    for i, layer in enumerate(net.recurrent):
        past = np.stack([s[i].past for s in states]).astype(dtype)
        c = None if states[0][i].c is None else np.stack([s[i].c for s in states]).astype(dtype)
        skip = None if layer.skip is None else past
        layers.append(gd.LayerState(past[:, -1].copy(), c, skip))
    return tuple(layers)


def picked(net, states, k):
    return tuple(
        gd.LayerState(
            s.h[k], None if s.c is None else s.c[k], None if s.skip is None else s.skip[k]
        )
        for s in states
    )


def budget(case, call):
    if case["memory"] == "full":
        return "full"
    try:
        call(1)
    except gd.MemoryBudgetError as refused:
        return refused.smallest
    raise AssertionError


@pytest.mark.parametrize("case", CASES, ids=map(agreement.label, CASES))
def test_tangents_are_those_of_the_reference(case):
    rng = np.random.default_rng(5)
    problem = problem_of(case, 11)
    p, dtype = problem, case["dtype"]
    trace = pipeline.forward(p.net, p.params, p.x, state=p.state, mode=p.mode, **p.masks)
    many = directions(problem, case, dtype, rng)
    (net, params, x), keywords = core_arguments(problem, dtype)
    flat = np.stack([np.concatenate([d[0][name].ravel() for name in params]) for d in many]).astype(
        dtype
    )
    given = {"dparams": flat}
    if not p.tokens:
        given["dx"] = np.stack([d[1] for d in many]).astype(dtype)
    given["dstate"] = stacked_states(net, [d[2] for d in many], dtype)
    if case["wrt"] != "all":
        given = {{"params": "dparams", "x": "dx", "state": "dstate"}[case["wrt"]]: None} and {
            name: value
            for name, value in given.items()
            if name == {"params": "dparams", "x": "dx", "state": "dstate"}[case["wrt"]]
        }
    if not given:
        pytest.skip("tokens have no tangents")

    def call(memory):
        return jacobian.jvp(
            net, params, x, **given, **keywords, memory=memory, threads=case["threads"]
        )

    memory = budget(case, call)
    gd.release_memory()  # what no thread has written yet is zero then, and shows
    with isa(case["isa"]), override(exact_threads=True):
        got = call(memory)
    tolerance = tolerances.SINGLE if dtype == "float32" else tolerances.DOUBLE
    if "norm" in case["between"] or case["between"] == "all":
        tolerance *= tolerances.NORM
    tolerance *= 4
    assert error(got.outputs.astype(float), trace.outputs) <= tolerance
    scale = got.d_outputs_exponent[:, None, None]
    floor = None
    for k, (t_params, t_x, t_state) in enumerate(many):
        want, want_state = pipeline.tangent(p.net, p.params, trace, t_params, t_x, t_state)
        everything = named(want_state) | {"outputs": want}
        floor = max(float(np.linalg.norm(a)) for a in everything.values())
        assert error(np.ldexp(got.d_outputs[k].astype(float), scale), want, floor) <= tolerance
        state = from_core(net, picked(net, got.dstate, k), [got.dstate_exponent] * 99)
        for name, array in named(want_state).items():
            assert error(state[name], array, floor) <= tolerance, name


@pytest.mark.parametrize("case", CASES, ids=map(agreement.label, CASES))
def test_cotangents_are_those_of_the_reference(case):
    rng = np.random.default_rng(6)
    problem = problem_of(case, 12)
    p, dtype, count = problem, case["dtype"], case["directions"]
    trace = pipeline.forward(p.net, p.params, p.x, state=p.state, mode=p.mode, **p.masks)
    (net, params, x), keywords = core_arguments(problem, dtype)
    w = rng.standard_normal((count, *trace.outputs.shape)).astype(np.float32).astype(float)
    wrt = ("state",) if p.tokens else ("x", "state")

    def call(memory):
        return jacobian.vjp(
            net,
            params,
            x,
            d_outputs=w.astype(dtype),
            wrt=wrt,
            **keywords,
            memory=memory,
            threads=case["threads"],
        )

    memory = budget(case, call)
    gd.release_memory()  # what no thread has written yet is zero then, and shows
    with isa(case["isa"]), override(exact_threads=True):
        got = call(memory)
    tolerance = tolerances.SINGLE if dtype == "float32" else tolerances.DOUBLE
    if "norm" in case["between"] or case["between"] == "all":
        tolerance *= tolerances.NORM
    tolerance *= 4
    for k in range(count):
        active = w[k]
        if p.lengths is not None:
            steps = np.arange(w.shape[1])[:, None]
            active = np.where((steps < p.lengths)[..., None], w[k], 0.0)
        want = pipeline.backward(p.net, p.params, trace, active)
        everything = named(want.state) | ({} if want.x is None else {"x": want.x})
        floor = max(float(np.linalg.norm(a)) for a in everything.values())
        if not p.tokens:
            scale = got.dx_exponent[:, None, None]
            assert error(np.ldexp(got.dx[k].astype(float), scale), want.x, floor) <= tolerance
        state = from_core(net, picked(net, got.dstate, k), got.dstate_exponent)
        for name, array in named(want.state).items():
            assert error(state[name], array, floor) <= tolerance, name
