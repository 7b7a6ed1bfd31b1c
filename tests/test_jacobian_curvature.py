"""Hessian-vector and Gauss-Newton products: complex steps of the reference's gradient, symmetry,
definiteness, PyTorch, budgets.
"""

from dataclasses import replace

import numpy as np
import pytest

import gradcore as gd
import tolerances
from gradcore import _core, jacobian
from gradcore._execution import override
from nets import BETWEEN, CELLS, MASKS, SKIPS, stack
from pairwise import covering
from problem import core_arguments, core_targets, error, isa, norm, random_problem
from reference import losses, two_ways
from tangent_case import by_reference, directions, flat_params

BLOCK = _core.block_steps()
LOSSES = {
    "cross entropy": gd.loss.CrossEntropy(),
    "classes": gd.loss.CrossEntropy(reduction="sum", weight=None, ignore_index=1),
    "cross entropy, last": gd.loss.CrossEntropy(step="last"),
    "binary": gd.loss.BinaryCrossEntropy(),
    "binary, sum, last": gd.loss.BinaryCrossEntropy(reduction="sum", step="last"),
    "squares": gd.loss.MeanSquaredError(),
    "squares, last": gd.loss.MeanSquaredError(reduction="sum", step="last"),
}

FACTORS = {
    "cell": list(CELLS),
    "hidden": [1, 7, 8, 16, 17, 33, 64],
    "inputs": [1, 5, 17],
    "batch": [1, 2, 5, 9],
    "steps": [1, 7, BLOCK + 3],
    "layers": [1, 2],
    "skip": [*SKIPS, "lag 20"],
    "residual": [False, True],
    "bidirectional": [(), (0,), (1,), (0, 1)],
    "bias": [True, False],
    "source": ["floats", "tokens", "embedding"],
    "classes": [None, 2, 17],
    "between": list(BETWEEN),
    "masks": list(MASKS),
    "train": [False, True],
    "loss": list(LOSSES),
    "weight": [False, True],
    "lengths": [False, True],
    "reset": [False, True],
    "state": [False, True],
    "dtype": ["float32", "float64"],
    "isa": _core.isa_available(),
    "threads": [1, 2],
}
# A LayerNorm of one or two units leaves nothing but rounding to look at; class 1 must exist.
EXCLUDED = [
    *((("hidden", 1), ("between", between)) for between in ("norm", "plain norm", "all")),
    (("hidden", 1), ("classes", None)),
]
CASES = covering(FACTORS, seed=5, excluded=EXCLUDED)


def label(case):
    return "-".join(str(value) for value in case.values()).replace(" ", "_")


def problem_of(case, seed):
    skips = SKIPS | {"lag 20": gd.Skip(20, kind="add", value=-0.2, learned=True)}
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
    given = {name: case[name] for name in ("weight", "lengths", "reset", "state", "train")}
    tokens = case["source"] == "tokens"
    loss = LOSSES[case["loss"]]
    return random_problem(
        net, loss, case["steps"], case["batch"], seed=seed, tokens=tokens, **given
    )


def gradient(problem, params):
    """The reference's, for parameters that may be complex."""
    p = problem
    trace = two_ways.forward(p.net, params, p.x, state=p.state, mode=p.mode, **p.masks)
    _, d_outputs = losses.evaluate(p.loss, trace.outputs, p.y, p.weight, p.lengths)
    return two_ways.backward(p.net, params, trace, d_outputs).params


def hessian_product(problem, direction):
    """By a complex step, so that no difference is taken (Squire and Trapp 1998)."""
    step = 1e-30
    moved = {name: a + 1j * step * direction[name] for name, a in problem.params.items()}
    return {name: a.imag / step for name, a in gradient(problem, moved).items()}


def gauss_newton(problem, direction):
    """J^T (H (J v)), H J v by a complex step of the loss's gradient at the outputs."""
    p = problem
    trace = two_ways.forward(p.net, p.params, p.x, state=p.state, mode=p.mode, **p.masks)
    (moved,), _ = by_reference(p, ([direction], None, None))
    _, slopes = losses.evaluate(p.loss, trace.outputs + 1e-30j * moved, p.y, p.weight, p.lengths)
    return two_ways.backward(p.net, p.params, trace, slopes.imag / 1e-30).params


def by_core(function, problem, d_params, dtype="float64", **how):
    arguments, keywords = core_arguments(problem, dtype)
    targets = core_targets(problem, dtype)
    v = flat_params(problem, d_params, dtype)
    with override(exact_threads=True):
        return function(*arguments, targets.pop("y"), v, **targets, **keywords, **how)


def products(problem, found):
    """Rows of a product as dicts of doubles."""
    rows = found.product.astype(float)
    return [dict(gd.Params(problem.net, row.copy()).items()) for row in rows]


def assert_agree(got, expected, tolerance):
    assert got.keys() == expected.keys()
    floor = 1e-2 * norm(expected.values())
    off = {name: error(got[name], array, floor) for name, array in expected.items()}
    assert {name: e for name, e in off.items() if not e <= tolerance} == {}


@pytest.mark.parametrize(("seed", "case"), list(enumerate(CASES)), ids=map(label, CASES))
def test_products_of_the_reference(seed, case):
    problem = problem_of(case, seed)
    d_params, _, _ = directions(problem, 1, np.random.default_rng(seed + 1000))
    with isa(case["isa"]):
        how = {"dtype": case["dtype"], "threads": case["threads"], "memory": "full"}
        of_hessian = by_core(jacobian.hvp, problem, d_params, **how)
        of_outputs = by_core(jacobian.gauss_newton_product, problem, d_params, **how)
        arguments, keywords = core_arguments(problem, case["dtype"])
        with override(exact_threads=True, scaling=False):
            ordinary = gd.value_and_grad(
                *arguments, **keywords, **core_targets(problem, case["dtype"]),
                threads=case["threads"],
            )  # fmt: skip
    assert of_hessian.loss == of_outputs.loss == ordinary.loss
    np.testing.assert_array_equal(of_hessian.grads.flat, ordinary.grads.flat)
    tolerance = tolerances.SINGLE if case["dtype"] == "float32" else tolerances.DOUBLE
    if "norm" in case["between"] or case["between"] == "all":
        tolerance *= tolerances.NORM
    (got,) = products(problem, of_hessian)
    assert_agree(got, hessian_product(problem, d_params[0]), tolerance * 2)
    (got,) = products(problem, of_outputs)
    assert_agree(got, gauss_newton(problem, d_params[0]), tolerance * 2)
