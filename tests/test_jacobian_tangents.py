"""Jacobian-vector products: against the reference's tangents, gradients, PyTorch, and long chains."""

import numpy as np
import pytest

import gradcore as gd
import tolerances
from gradcore import _core, jacobian
from gradcore._execution import override
from nets import BETWEEN, CELLS, MASKS, SKIPS, stack
from pairwise import covering
from problem import (
    core_arguments,
    error,
    from_core,
    isa,
    norm,
    random_problem,
)
from tangent_case import (
    by_core,
    by_reference,
    core_directions,
    directions,
    true_outputs,
    true_state,
)

BLOCK = _core.block_steps()
LOSS = gd.loss.MeanSquaredError()

FACTORS = {
    "cell": list(CELLS),
    "hidden": [1, 7, 8, 16, 17, 33, 64],
    "inputs": [1, 5, 17],
    "batch": [1, 2, 5, 9],
    "count": [1, 3, 4, 5, 32],
    "steps": [1, 7, 8, BLOCK + 3],
    "layers": [1, 2],
    "skip": [*SKIPS, "lag 20"],
    "residual": [False, True],
    "bidirectional": [(), (0,), (1,), (0, 1)],
    "bias": [True, False],
    "source": ["floats", "tokens", "embedding"],
    "classes": [None, 1, 17],
    "between": list(BETWEEN),
    "masks": list(MASKS),
    "train": [False, True],
    "lengths": [False, True],
    "reset": [False, True],
    "state": [False, True],
    "along": ["params", "x", "state", "all"],
    "dtype": ["float32", "float64"],
    "isa": _core.isa_available(),
    "threads": [1, 2],
}
# A LayerNorm of one or two units leaves nothing but rounding to look at.
EXCLUDED = [(("hidden", 1), ("between", between)) for between in ("norm", "plain norm", "all")]
CASES = covering(FACTORS, seed=3, excluded=EXCLUDED)


def label(case):
    return "-".join(str(value) for value in case.values()).replace(" ", "_")


def problem_of(case, seed):
    skips = SKIPS | {"lag 20": gd.Skip(20, kind="mix", learned=True)}
    inputs = case["inputs"]
    if case["residual"]:
        width = case["hidden"] * (1 + (0 in case["bidirectional"]))
        inputs = width + (case["source"] == "tokens")
    net = stack(
        case["cell"],
        inputs,
        case["hidden"],
        layers=case["layers"],
        skip=skips[case["skip"]],
        residual=case["residual"],
        bias=case["bias"],
        bidirectional=case["bidirectional"],
        vocabulary=11 if case["source"] == "embedding" else None,
        classes=case["classes"],
        between=case["between"],
        masks=case["masks"],
        bare_tokens=case["source"] == "tokens",
    )
    given = {name: case[name] for name in ("lengths", "reset", "state", "train")}
    tokens = case["source"] == "tokens"
    return random_problem(
        net, LOSS, case["steps"], case["batch"], seed=seed, tokens=tokens, **given
    )


def along_of(case, problem, seed):
    chosen = case["along"]
    if chosen == "x" and problem.tokens:
        chosen = "params"
    everything = chosen == "all"
    return directions(
        problem,
        case["count"],
        np.random.default_rng(seed + 1000),  # not the numbers that x is made of
        params=everything or chosen == "params",
        x=everything or chosen == "x",
        state=everything or chosen == "state",
    )


def assert_agree(net, got, expected, tolerance):
    d_outputs, d_states = expected
    assert error(true_outputs(got), d_outputs) <= tolerance
    for k, want in enumerate(d_states):
        have = true_state(net, got, k)
        assert have.keys() == want.keys()
        floor = 1e-2 * norm(want.values())
        for name, array in want.items():
            assert error(have[name], array, floor) <= tolerance, (k, name)


@pytest.mark.parametrize(("seed", "case"), list(enumerate(CASES)), ids=map(label, CASES))
def test_tangents_of_the_reference(seed, case):
    problem = problem_of(case, seed)
    along = along_of(case, problem, seed)
    expected = by_reference(problem, along)
    with isa(case["isa"]):
        got = by_core(problem, along, case["dtype"], threads=case["threads"])
        arguments, keywords = core_arguments(problem, case["dtype"])
        with override(exact_threads=True):
            outputs, state = gd.apply(*arguments, **keywords, threads=case["threads"])
    np.testing.assert_array_equal(got.outputs, outputs)
    one, other = from_core(problem.net, got.state), from_core(problem.net, state)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])
    if case["threads"] == 1:
        assert got.arena_bytes <= got.plan.bytes
    tolerance = tolerances.SINGLE if case["dtype"] == "float32" else tolerances.DOUBLE
    if "norm" in case["between"] or case["between"] == "all":
        tolerance *= tolerances.NORM
    assert_agree(problem.net, got, expected, tolerance)
