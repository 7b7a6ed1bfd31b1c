"""Jacobian-vector products agree with the reference's tangents, gradients and PyTorch; long
chains.
"""

import numpy as np
import pytest

import gradcore as gd
import tolerances
from gradcore import _core, jacobian
from nets import BETWEEN, CELLS, MASKS, SKIPS, net_of, pooled, stack, structured
from overriding import override
from pairwise import covering, label
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
# A LayerNorm of one or two units leaves only rounding errors to compare.
EXCLUDED = [(("hidden", 1), ("between", between)) for between in ("norm", "plain norm", "all")]
CASES = covering(FACTORS, seed=3, excluded=EXCLUDED)
CASES += covering(pooled(FACTORS), seed=3, excluded=EXCLUDED)
CASES += covering(structured(FACTORS), seed=3, excluded=EXCLUDED)


def problem_of(case, seed):
    skips = SKIPS | {"lag 20": gd.Skip(20, kind="mix", learned=True)}
    given = {name: case[name] for name in ("lengths", "reset", "state", "train")}
    return random_problem(
        net_of(case, skips),
        LOSS,
        case["steps"],
        case["batch"],
        seed=seed,
        tokens=case["source"] == "tokens",
        **given,
    )


def along_of(case, problem, seed):
    chosen = case["along"]
    if chosen == "x" and problem.tokens:
        chosen = "params"
    everything = chosen == "all"
    return directions(
        problem,
        case["count"],
        np.random.default_rng(seed + 1000),  # other numbers than those of x
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
        # A tangent that has nearly vanished was multiplied by that many Jacobians, each with a
        # rounding error.
        vanished = norm(want.values()) < 1e-1 * max(norm([d_outputs[k]]), 1.0)
        for name, array in want.items():
            off = error(have[name], array, floor)
            assert off <= tolerance * (20 if vanished else 1), (k, name)


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
    if case["cell"] == "antisymmetric":
        tolerance *= tolerances.KEPT
    assert_agree(problem.net, got, expected, tolerance)


def log10_of(array, exponent):
    return np.log10(float(np.abs(array).max())) + int(exponent) * np.log10(2.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("factor", "steps", "lag"),
    [
        *((1.5, 9000, 0), (0.5, 9000, 0), (1.5, 5000, 20), (0.5, 5000, 20)),
        *((1e7, 300, 0), (1e7, 300, 3), (1e-9, 300, 0)),
    ],
)
def test_tangents_that_leave_the_range_of_the_dtype(factor, steps, lag, dtype):
    """With h' = factor * h tangents reach 1e+2100 and 1e-2709; factors of 1e7 and 1e-9 leave
    float32 within eight steps.
    """
    skip = gd.Skip(lag, kind="mix", value=0.0) if lag else None
    net = gd.Stack(
        gd.RNN(2, 17, nonlinearity="identity", bias=False, skip=skip), gd.Linear(17, 3, bias=False)
    )
    params = net.init(seed=0, dtype=dtype)
    params["0.weight_hh"][:] = np.eye(17) * factor
    params["1.weight"][:] = 1.0
    x = np.zeros((steps, 2, 2), dtype)
    one = np.array([1.0, -0.25, 0.5], dtype)[:, None, None]
    h = np.broadcast_to(one, (3, 2, 17)).copy()
    past = None if skip is None else np.broadcast_to(h[:, None], (3, lag, 2, 17)).copy()
    start = (gd.LayerState(h, None, past),)
    r = jacobian.jvp(net, params, x, dstate=start)
    assert np.isfinite(r.d_outputs).all()
    step = np.log10(np.float64(params["0.weight_hh"][0, 0]))
    got = log10_of(r.dstate[0].h, r.dstate_exponent[0])
    assert got == pytest.approx(steps * step, rel=1e-6)
    for t in (0, 7, 8, 100, steps - 1):
        got = log10_of(r.d_outputs[:, t], r.d_outputs_exponent[t])
        assert got == pytest.approx((t + 1) * step + np.log10(17.0), rel=1e-6, abs=1e-5)
    ratios = r.d_outputs[:, -1, 0, 0] / r.d_outputs[0, -1, 0, 0]
    np.testing.assert_allclose(ratios, one[:, 0, 0], rtol=1e-5)


@pytest.mark.parametrize("count", [1, 4])
def test_steps_that_are_done_again_one_by_one(count):
    """A reset of all sequences makes the tangents vanish within a chunk, so its steps are run again
    one by one; both directions must add the input of the residual.
    """
    net = stack("gru", 16, 8, bidirectional=(0,), residual=True, classes=3)
    problem = random_problem(net, LOSS, 20, 2, seed=11, reset=True)
    problem.reset[[2, 13]] = True
    along = directions(problem, count, np.random.default_rng(12), params=False, x=False)
    got = by_core(problem, along)
    arguments, keywords = core_arguments(problem, "float64")
    np.testing.assert_array_equal(got.outputs, gd.apply(*arguments, **keywords)[0])
    assert_agree(net, got, by_reference(problem, along), tolerances.DOUBLE)


def test_an_input_after_the_tangent_has_vanished_starts_afresh():
    net = gd.Stack(gd.RNN(1, 8, nonlinearity="identity", bias=False))
    params = net.init(seed=0, dtype="float32")
    params["0.weight_hh"][:] = np.eye(8, dtype=np.float32) * 0.5
    params["0.weight_ih"][:] = 1.0
    dx = np.zeros((1, 4000, 2, 1), np.float32)
    dx[0, 0], dx[0, 3000, 1] = 1.0, 2.0
    r = jacobian.jvp(net, params, np.zeros((4000, 2, 1), np.float32), dx=dx)
    assert log10_of(r.d_outputs[:, 2999], r.d_outputs_exponent[2999]) == pytest.approx(
        -2999 * np.log10(2.0)
    )
    np.testing.assert_array_equal(true_outputs(r)[0, 3000:3003, 1, 0], [2.0, 1.0, 0.5])
    assert log10_of(r.dstate[0].h, r.dstate_exponent[0]) == pytest.approx(
        np.log10(2.0) - 999 * np.log10(2.0)
    )


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_against_differences_of_apply(cell):
    """Compares five-point differences of gradcore's own outputs, without the reference."""
    net = stack(cell, 5, 17, layers=2, residual=True, skip=SKIPS["mix learned"], classes=4)
    problem = random_problem(net, LOSS, 60, 3, seed=1, state=True)
    rng = np.random.default_rng(2)
    d_params, d_x, _ = along = directions(problem, 2, rng, state=False)
    got = true_outputs(by_core(problem, along))
    (net, params, x), keywords = core_arguments(problem, "float64")
    for k in range(2):
        step = 1e-3 / np.sqrt(norm(d_params[k].values()) ** 2 + norm([d_x[k]]) ** 2)
        f = {}
        for s in (-2, -1, 1, 2):
            moved = params.copy()
            for name, a in d_params[k].items():
                moved[name] = params[name] + s * step * a
            f[s], _ = gd.apply(net, moved, x + s * step * d_x[k], **keywords)
        slope = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * step)
        assert error(got[k], slope) <= 20 * tolerances.DIFFERENCES


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("both", [(), (0,)])
def test_dot_product_with_a_gradient(both, dtype):
    """Checks <J v, w> = <v, J^T w>, where a loss function passes w to value_and_grad."""
    net = stack("gru", 5, 17, layers=2, skip=SKIPS["add learned"], bidirectional=both, classes=4)
    problem = random_problem(net, LOSS, 140, 3, seed=4, lengths=True, reset=True, state=True)
    rng = np.random.default_rng(5)
    along = directions(problem, 3, rng)
    r = by_core(problem, along, dtype)
    arguments, keywords = core_arguments(problem, dtype)
    w = rng.standard_normal(r.outputs.shape).astype(dtype)
    back = gd.value_and_grad(
        *arguments, **keywords, loss=lambda outputs, t0, t1: (0.0, w[t0:t1]),
        wrt=("params", "x", "state"),
    )  # fmt: skip
    given = core_directions(problem, along, dtype)
    moved = true_outputs(r)
    dx = np.nan_to_num(given["dx"])
    for k in range(3):
        left = float(np.vdot(moved[k], w))
        right = float(np.vdot(given["dparams"][k].flat.astype(float), back.grads.flat))
        right += float(np.vdot(dx[k].astype(float), back.dx))
        for layer, found in zip(given["dstate"], back.dstate, strict=True):
            for a, b in ((layer, found), (layer.reverse, found.reverse)):
                if a is not None:
                    right += float(np.vdot(a.skip[k].astype(float), b.skip))
        tolerance = tolerances.SINGLE if dtype == "float32" else tolerances.DOT_PRODUCT
        assert abs(left - right) <= tolerance * norm([moved[k]]) * norm([w.astype(float)])


@pytest.mark.parametrize("count", [1, 3, 4, 5, 32])
def test_the_same_bits_for_all_threads_and_budgets(count):
    net = stack("lstm", 5, 33, layers=2, skip=SKIPS["mix"], classes=4, between="norm")
    problem = random_problem(net, LOSS, 2 * BLOCK + 3, 3, seed=6, lengths=True)
    along = directions(problem, count, np.random.default_rng(7))
    results = [by_core(problem, along, "float32", threads=n, memory="full") for n in (1, 2, 3)]
    with pytest.raises(gd.MemoryBudgetError, match="memory must be at least") as refused:
        by_core(problem, along, "float32", memory=1)
    smallest = refused.value.smallest
    results.append(by_core(problem, along, "float32", memory=smallest))
    assert results[-1].arena_bytes <= smallest
    for r in results[1:]:
        np.testing.assert_array_equal(r.d_outputs, results[0].d_outputs)
        np.testing.assert_array_equal(r.d_outputs_exponent, results[0].d_outputs_exponent)
        for a, b in zip(r.dstate, results[0].dstate, strict=True):
            np.testing.assert_array_equal(a.skip, b.skip)
            np.testing.assert_array_equal(a.c, b.c)


def test_a_tangent_does_not_depend_on_the_others():
    """A direction has the same bits alone or with others of equal size, in any tile of the
    product.
    """
    net = stack("lstm", 5, 17, classes=4)
    problem = random_problem(net, LOSS, 50, 2, seed=8)
    d_params, d_x, d_state = directions(problem, 7, np.random.default_rng(9))
    whole = by_core(problem, (d_params, d_x, d_state))
    for k in (0, 4, 6):
        part = slice(k, k + 1)
        alone = by_core(problem, (d_params[part], d_x[part], d_state[part]))
        np.testing.assert_array_equal(alone.d_outputs[0], whole.d_outputs[k])


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_against_torch(cell):
    torch = pytest.importorskip("torch", reason="compares with torch.func.jvp")
    kind = {"rnn": torch.nn.RNNCell, "lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}[cell]
    module = kind(3, 9).double()
    net = gd.Stack({"rnn": gd.RNN, "lstm": gd.LSTM, "gru": gd.GRU}[cell](3, 9))
    params = net.init(seed=0, dtype="float64")
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    rng = np.random.default_rng(1)
    x, dx = rng.standard_normal((2, 30, 2, 3))
    direction = gd.Params(net, rng.standard_normal(net.n_parameters))

    def outputs(weights, inputs):
        h = torch.zeros(2, 9, dtype=torch.float64)
        state = (h, torch.zeros_like(h)) if cell == "lstm" else h
        rows = []
        for row in inputs:
            state = torch.func.functional_call(module, weights, (row, state))
            rows.append(state[0] if cell == "lstm" else state)
        return torch.stack(rows)

    at = {name: torch.from_numpy(params[f"0.{name}"].copy()) for name in names}
    along = {name: torch.from_numpy(direction[f"0.{name}"].copy()) for name in names}
    _, want = torch.func.jvp(outputs, (at, torch.from_numpy(x)), (along, torch.from_numpy(dx)))
    r = jacobian.jvp(net, params, x, dparams=[direction], dx=dx[None])
    np.testing.assert_allclose(r.d_outputs[0], want.numpy(), rtol=0, atol=1e-12)


def small():
    net = gd.Stack(gd.LSTM(3, 8), gd.Linear(8, 2))
    return net, net.init(seed=0, dtype="float32"), np.zeros((5, 2, 3), np.float32)


def states(net, count):
    return tuple(
        gd.LayerState(np.stack([s.h] * count), np.stack([s.c] * count))
        for s in gd.zero_state(net, 2)
    )


@pytest.mark.parametrize(
    ("wrong", "kind", "says"),
    [
        ({}, gd.ArgumentError, r"at least one of dparams, dx, dstate, dstatic must be given"),
        ({"dx": np.zeros((5, 2, 3), "f4")}, gd.ShapeError, r"dx must have shape \(K, 5, 2, 3\).*"),
        ({"dx": np.zeros((2, 5, 2, 3))}, gd.DTypeError, r"dx must have dtype float32"),
        ({"dparams": np.zeros(7, "f4")}, gd.ShapeError, r"dparams must have shape \(K, \d+\)"),
        ({"dparams": []}, gd.ShapeError, r"at least one direction"),
        ({"dparams": [3.0]}, gd.DTypeError, r"dparams\[0\] must be gradcore.Params"),
        ({"dstate": 3}, gd.DTypeError, r"dstate must be a tuple"),
    ],
)
def test_wrong_directions_are_refused(wrong, kind, says):
    net, params, x = small()
    with pytest.raises(kind, match=says):
        jacobian.jvp(net, params, x, **wrong)


def test_directions_that_do_not_fit_each_other_are_refused():
    net, params, x = small()
    dx = np.zeros((2, *x.shape), np.float32)
    with pytest.raises(gd.ShapeError, match="same leading axis K; dx has 2, dstate has 3"):
        jacobian.jvp(net, params, x, dx=dx, dstate=states(net, 3))
    bad = (gd.LayerState(np.zeros((2, 2, 7), "f4"), np.zeros((2, 2, 8), "f4")),)
    with pytest.raises(gd.ShapeError, match=r"dstate\[0\].h must have shape"):
        jacobian.jvp(net, params, x, dstate=bad)
    with pytest.raises(gd.ShapeError, match=r"K directions; .* Pass \[dparams\]"):
        jacobian.jvp(net, params, x, dparams=params)
    other = gd.Stack(gd.LSTM(3, 9), gd.Linear(9, 2)).init(seed=0)
    with pytest.raises(gd.ShapeError, match="must belong to the net of params"):
        jacobian.jvp(net, params, x, dparams=[other])


def test_tokens_have_no_tangent():
    net = gd.Stack(gd.Embedding(5, 3), gd.GRU(3, 8))
    params = net.init(seed=0)
    with pytest.raises(gd.ArgumentError, match="integer tokens, which have no tangent"):
        jacobian.jvp(net, params, np.zeros((4, 1), np.int64), dx=np.zeros((1, 4, 1, 3), "f4"))


def test_a_direction_that_is_not_finite_is_named():
    net, params, x = small()
    dx = np.zeros((1, *x.shape), np.float32)
    dx[0, 3] = np.inf
    with pytest.raises(gd.NonFiniteError, match="a tangent overflowed within one step"):
        jacobian.jvp(net, params, x, dx=dx)


def test_threads_wait_for_each_other_where_parts_meet():
    """Repeated: a thread once passed rows of a dense layer on before another had made them."""
    net = stack("rnn", 5, 33, layers=2, bidirectional=(1,), between="dense")
    problem = random_problem(net, LOSS, 3, 2, seed=5)
    along = directions(problem, 5, np.random.default_rng(6))
    alone = by_core(problem, along, "float32", threads=1).d_outputs.tobytes()
    for threads in [2, 3] * 40:
        assert by_core(problem, along, "float32", threads=threads).d_outputs.tobytes() == alone
