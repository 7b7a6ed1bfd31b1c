"""Products with K cotangents at once agree with the backward pass of the float64 reference, for
pairwise cases.
"""

import numpy as np
import pytest

import agreement
import gradcore as gd
import tolerances
from gradcore import jacobian
from nets import structured
from overriding import override
from pairwise import covering, label
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
}
CASES = covering(FACTORS, seed=3) + covering(structured(FACTORS), seed=4)


def problem_of(case, seed):
    fixed = {"bidirectional": (), "loss": "squares, sum", "weight": False}
    return agreement.problem_of({**case, **fixed}, seed)


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


@pytest.mark.parametrize("case", CASES, ids=map(label, CASES))
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
    gd.release_memory()  # memory that no thread has written is then zero, which shows
    with isa(case["isa"]), override(exact_threads=True):
        got = call(memory)
    tolerance = tolerances.SINGLE if dtype == "float32" else tolerances.DOUBLE
    if "norm" in case["between"] or case["between"] == "all":
        tolerance *= tolerances.NORM
    if case["cell"] == "antisymmetric":
        tolerance *= tolerances.KEPT
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
