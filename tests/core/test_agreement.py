"""gradcore agrees with the float64 reference in values and all gradients, in both precisions.

The cases are a pairwise sample over cells, sizes around the lane widths, skips, masks, losses,
instruction sets, threads and budgets.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradcore as gd
import tolerances
from agreement import FACTORS, problem_of
from nets import CELLS, pooled, stack, structured
from pairwise import covering, label
from problem import (
    assert_agree,
    by_core,
    by_reference,
    core_arguments,
    error,
    errors,
    from_core,
    isa,
    norm,
    random_problem,
)
from reference import losses

CASES = covering(FACTORS, seed=1) + covering(FACTORS, seed=2)
CASES += covering(pooled(FACTORS), seed=8)
CASES += covering(structured(FACTORS), seed=9)


def smallest_budget(problem, dtype, threads):
    """The smallest number of bytes that value_and_grad and apply both accept."""
    try:
        by_core(problem, dtype, memory=1, threads=threads)
    except gd.MemoryBudgetError as refused:
        smallest = refused.smallest
    assert smallest > 1
    return smallest


def check(case, seed):
    problem = problem_of(case, seed)
    expected = by_reference(problem)
    memory = case["memory"]
    with isa(case["isa"]):
        if memory == "smallest":
            memory = smallest_budget(problem, case["dtype"], case["threads"])
        got = by_core(problem, case["dtype"], memory=memory, threads=case["threads"])
    tolerance = tolerances.SINGLE if case["dtype"] == "float32" else tolerances.DOUBLE
    if "norm" in case["between"] or case["between"] == "all":
        tolerance *= tolerances.NORM
    if case["between"] == "convolution":
        tolerance *= tolerances.CONVOLUTION
    if case["hidden"] == 1:
        tolerance *= tolerances.ONE_UNIT
    if case["cell"] == "antisymmetric":
        tolerance *= tolerances.KEPT
    if case["cell"] == "relu" or case.get("pool") == "max":
        tolerance += slack_of_kinks(problem, expected, tolerance)
    assert_agree(got, expected, tolerance)


def slack_of_kinks(problem, expected, rounding, moves=4):
    """How much the reference itself changes when its parameters move by as much as rounding does.

    Where a pre-activation of a relu lies within rounding of 0, its slope is 0 or 1 by chance, and
    the gradient jumps by the whole term; so it does where two steps share a maximum to rounding.
    Where none does, the reference changes by `rounding`.
    """
    rng = np.random.default_rng(0)
    most = 0.0
    for _ in range(moves):
        moved = {
            name: array * (1 + rounding * rng.choice([-1.0, 1.0], array.shape))
            for name, array in problem.params.items()
        }
        most = max(most, *errors(by_reference(replace(problem, params=moved)), expected).values())
    return tolerances.KINK * most


@pytest.mark.parametrize(("seed", "case"), list(enumerate(CASES)), ids=map(label, CASES))
def test_pairs_of_settings(seed, case):
    check(case, seed)


# Combinations of three settings and sizes that no pair suggests.
anything = st.fixed_dictionaries({name: st.sampled_from(v) for name, v in FACTORS.items()})


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(case=anything, seed=st.integers(0, 2**16))
def test_any_settings(case, seed):
    check(case, seed)


def both(problem, **how):
    for dtype, tolerance in (("float64", tolerances.DOUBLE), ("float32", tolerances.SINGLE)):
        assert_agree(by_core(problem, dtype, **how), by_reference(problem), tolerance)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("step", ["all", "last"])
def test_class_weights_and_ignored_targets(step, reduction):
    weight = [0.5, 2.0, 0.0, 1.0, 3.0]
    loss = gd.loss.CrossEntropy(weight=weight, ignore_index=2, step=step, reduction=reduction)
    net = stack("lstm", 6, 9, classes=5)
    problem = random_problem(
        net, loss, 140, 6, seed=1, weight=True, lengths=True, reset=True, state=True
    )
    assert (problem.y == 2).any() or step == "last"
    both(problem)


def test_loss_of_nothing_is_zero():
    net = stack("gru", 3, 8, classes=4)
    loss = gd.loss.CrossEntropy(ignore_index=1)
    problem = random_problem(net, loss, 5, 2, seed=2)
    problem.y[:] = 1
    got = by_core(problem)
    assert got.loss == 0.0
    assert norm(got.params.values()) == 0.0
    both(problem)


def test_one_cell_after_another():
    net = gd.Stack(
        gd.Embedding(13, 7),
        gd.LSTM(7, 17, skip=gd.Skip(3)),
        gd.GRU(17, 9, bias=False),
        gd.RNN(9, 9, residual=True, skip=gd.Skip(2, kind="mix", learned=True)),
        gd.LSTM(9, 33),
        gd.Linear(33, 6),
    )
    problem = random_problem(
        net, gd.loss.CrossEntropy(), 150, 5, seed=3, lengths=True, reset=True, state=True
    )
    both(problem, threads=2)


@pytest.mark.parametrize("cell", CELLS)
def test_large_weights(cell):
    """Gates are saturated, where 1 - tanh(a)^2 would lose all digits if the cell computed it so."""
    net = stack(cell, 5, 16, classes=3)
    problem = random_problem(net, gd.loss.CrossEntropy(), 6, 3, seed=4, gain=12.0, state=True)
    got = by_core(problem)
    assert_agree(got, by_reference(problem), tolerances.DOUBLE_SATURATED)


@pytest.mark.parametrize("cell", CELLS)
def test_mix_that_keeps_nearly_everything(cell):
    """With a = 0.99, docs/decisions/0003 says how much accuracy the gradient of a may lose."""
    net = stack(cell, 5, 9, skip=gd.Skip(2, kind="mix", learned=True), classes=3)
    problem = random_problem(net, gd.loss.CrossEntropy(), 200, 3, seed=9, state=True)
    problem.params["0.skip_logit"][:] = 4.59375
    expected = by_reference(problem)
    assert_agree(by_core(problem), expected, tolerances.DOUBLE_MIX)
    assert_agree(by_core(problem, "float32"), expected, tolerances.SINGLE_MIX)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("memory", ["full", "smallest"])
def test_loss_of_ones_own(memory, dtype):
    """Passes cross-entropy as a function (outputs, t0, t1) -> (loss, d_outputs)."""
    net = stack("lstm", 5, 9, layers=2, classes=4)
    loss = gd.loss.CrossEntropy(reduction="sum")
    problem = random_problem(net, loss, 400, 3, seed=5, lengths=True)
    expected = by_reference(problem)
    seen = []

    def function(outputs, t0, t1):
        seen.append((t0, t1))
        lengths = np.clip(problem.lengths - t0, 0, t1 - t0)
        value, slopes = losses.evaluate(
            loss, outputs.astype(float), problem.y[t0:t1], lengths=lengths
        )
        return float(value), slopes.astype(dtype)

    arguments, keywords = core_arguments(problem, dtype)
    if memory == "smallest":
        with pytest.raises(gd.MemoryBudgetError) as refused:
            gd.value_and_grad(*arguments, **keywords, loss=function, memory=1)
        memory = refused.value.smallest
    r = gd.value_and_grad(*arguments, **keywords, loss=function, memory=memory)
    assert r.arena_bytes <= r.plan.bytes
    assert sorted(seen)[0][0] == 0
    assert max(seen)[1] == 400
    assert len(seen) == (1 if memory == "full" else 4)
    tolerance = tolerances.SINGLE if dtype == "float32" else tolerances.DOUBLE
    assert r.loss == pytest.approx(expected.loss, rel=tolerance)
    for name, array in expected.params.items():
        assert error(r.grads[name].astype(float), array) <= tolerance
    for name, array in from_core(net, r.state).items():
        assert error(array, expected.state[name]) <= tolerance


def test_garbage_in_loss_functions_padding_is_left_out():
    """d_outputs after the end of a sequence is ignored, whatever the function returns there."""
    net = stack("rnn", 3, 8, classes=2)
    problem = random_problem(
        net, gd.loss.MeanSquaredError(reduction="sum"), 20, 4, seed=6, lengths=True
    )
    late = np.arange(20)[:, None] >= problem.lengths

    def function(outputs, t0, t1):
        assert not outputs[late[t0:t1]].any()
        slopes = 2 * (outputs - np.where(late[..., None], 0.0, problem.y)[t0:t1])
        slopes[late[t0:t1]] = 1e9
        return 0.0, slopes

    arguments, keywords = core_arguments(problem, "float64")
    r = gd.value_and_grad(*arguments, **keywords, loss=function)
    for name, array in by_reference(problem).params.items():
        assert error(r.grads[name], array) <= tolerances.DOUBLE


def test_residual_over_bare_tokens_is_refused():
    net = gd.Stack(gd.RNN(7, 7, residual=True), gd.Linear(7, 3))
    problem = random_problem(net, gd.loss.CrossEntropy(), 20, 2, seed=7, tokens=True)
    with pytest.raises(gd.ArgumentError, match=r"residual first layer .* tokens are no such input"):
        by_core(problem)


@pytest.mark.parametrize("tokens", [np.uint8, np.int32, np.int64])
def test_dtypes_of_tokens(tokens):
    net = stack("gru", 19, 8, classes=3)
    problem = random_problem(net, gd.loss.CrossEntropy(), 30, 3, seed=8, tokens=True)
    problem = replace(problem, x=problem.x.astype(tokens))
    both(problem)


def test_gradient_of_a_mix_whose_share_is_nearly_one():
    # The core computes (1-a) (h_(t-k) - cell_t) as h_(t-k) - h_t, which cancels as a approaches 1.
    net = gd.Stack(gd.LSTM(3, 17, skip=gd.Skip(4, kind="mix", learned=True)), gd.Linear(17, 2))
    exact = net.init(seed=3, dtype="float64")
    exact["0.skip_logit"][...] = np.log(0.99 / 0.01)
    rounded = net.init(seed=3, dtype="float32")
    for name, values in rounded.items():
        values[...] = exact[name]
        exact[name][...] = values
    rng = np.random.default_rng(3)
    x = rng.standard_normal((500, 3, 3)).astype(np.float32)
    y = rng.standard_normal((500, 3, 2)).astype(np.float32)
    want = gd.value_and_grad(net, exact, x.astype(float), y.astype(float), loss="mse").grads
    got = gd.value_and_grad(net, rounded, x, y, loss="mse").grads
    error = got["0.skip_logit"] - want["0.skip_logit"]
    assert np.linalg.norm(error) < 1e-5 * np.linalg.norm(want["0.skip_logit"])
