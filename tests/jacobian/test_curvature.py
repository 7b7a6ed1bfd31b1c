"""Hessian-vector and Gauss-Newton products: complex steps of the reference's gradient, symmetry,
definiteness, PyTorch, budgets.
"""

import numpy as np
import pytest

import gradcore as gd
import tolerances
from curvature import gauss_newton, hessian_product
from gradcore import _core, jacobian
from nets import BETWEEN, CELLS, MASKS, SKIPS, net_of, pooled, stack, structured
from overriding import override
from pairwise import covering, label
from problem import core_arguments, core_targets, error, isa, norm, random_problem
from tangent_case import directions, flat_params

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
    "steps": [1, 7, 8, 12, BLOCK + 3],
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
# A LayerNorm of one or two units leaves only rounding errors to compare; class 1 must exist.
EXCLUDED = [
    *((("hidden", 1), ("between", between)) for between in ("norm", "plain norm", "all")),
    (("hidden", 1), ("classes", None)),
]
CASES = covering(FACTORS, seed=5, excluded=EXCLUDED)
CASES += covering(pooled(FACTORS), seed=5, excluded=EXCLUDED)
CASES += covering(structured(FACTORS), seed=5, excluded=EXCLUDED)


def problem_of(case, seed):
    skips = SKIPS | {"lag 20": gd.Skip(20, kind="add", value=-0.2, learned=True)}
    given = {name: case[name] for name in ("weight", "lengths", "reset", "state", "train")}
    return random_problem(
        net_of(case, skips),
        LOSSES[case["loss"]],
        case["steps"],
        case["batch"],
        seed=seed,
        tokens=case["source"] == "tokens",
        **given,
    )


def by_core(function, problem, d_params, dtype="float64", **how):
    arguments, keywords = core_arguments(problem, dtype)
    targets = core_targets(problem, dtype)
    v = flat_params(problem, d_params, dtype)
    with override(exact_threads=True):
        return function(*arguments, targets.pop("y"), v, **targets, **keywords, **how)


def products(problem, found):
    """Rows of a product as dicts of float64 arrays."""
    rows = found.product.astype(float)
    return [dict(gd.Params(problem.net, row.copy()).items()) for row in rows]


def assert_agree(got, expected, tolerance, scale=0.0):
    """scale: the size of numbers whose rounding errors reach the product."""
    assert got.keys() == expected.keys()
    floor = max(1e-2 * norm(expected.values()), scale)
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
    for found in (of_hessian, of_outputs):
        assert found.loss == ordinary.loss
        if case["threads"] == 1:  # the planner assumes as many threads as the cost model allows
            assert found.arena_bytes <= found.plan.bytes
    np.testing.assert_array_equal(of_hessian.grads.flat, ordinary.grads.flat)
    tolerance = tolerances.SINGLE if case["dtype"] == "float32" else tolerances.DOUBLE
    if "norm" in case["between"] or case["between"] == "all":
        tolerance *= tolerances.NORM
    if case["between"] == "convolution":
        tolerance *= tolerances.CONVOLUTION
    if case["cell"] == "antisymmetric":
        tolerance *= tolerances.KEPT
    (got,) = products(problem, of_hessian)
    assert_agree(got, hessian_product(problem, d_params[0]), tolerance * 2)
    (got,) = products(problem, of_outputs)
    # Where softmax is saturated its curvature is far below the gradient, and so are the digits of
    # 1 - p that are left.
    scale = norm([ordinary.grads.flat])
    assert_agree(got, gauss_newton(problem, d_params[0]), tolerance * 2, scale)


def test_symmetry_and_definiteness():
    """u . H v = v . H u; the same holds for the Gauss-Newton matrix, which has no negative
    curvature.
    """
    net = stack("lstm", 5, 17, layers=2, skip=SKIPS["mix learned"], classes=4, between="norm")
    problem = random_problem(net, gd.loss.CrossEntropy(), 140, 3, seed=1, lengths=True, reset=True)
    d_params, _, _ = directions(problem, 4, np.random.default_rng(2))
    v = np.array([p.flat for p in flat_params(problem, d_params, "float64")])
    for function in (jacobian.hvp, jacobian.gauss_newton_product):
        table = v @ by_core(function, problem, d_params).product.T
        np.testing.assert_allclose(table, table.T, rtol=0, atol=1e-12 * np.abs(table).max())
    assert np.linalg.eigvalsh((table + table.T) / 2).min() > 0.0


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_against_differences_of_gradients(cell):
    net = stack(cell, 5, 17, layers=2, residual=True, bidirectional=(0,), classes=4)
    problem = random_problem(net, gd.loss.MeanSquaredError(), 60, 3, seed=3, state=True)
    d_params, _, _ = directions(problem, 1, np.random.default_rng(4))
    (got,) = by_core(jacobian.hvp, problem, d_params).product
    (net, params, x), keywords = core_arguments(problem, "float64")
    (v,) = flat_params(problem, d_params, "float64")
    step = 1e-3 / norm([v.flat])
    f = {}
    for s in (-2, -1, 1, 2):
        moved = gd.Params(net, params.flat + s * step * v.flat)
        targets = core_targets(problem, "float64")
        f[s] = gd.value_and_grad(net, moved, x, **targets, **keywords).grads.flat
    slope = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * step)
    assert error(got, slope) <= 20 * tolerances.DIFFERENCES


@pytest.mark.parametrize("function", [jacobian.hvp, jacobian.gauss_newton_product])
@pytest.mark.parametrize("both", [(), (1,)])
def test_the_same_bits_for_all_threads_and_budgets(function, both):
    net = stack(
        "gru", 6, 33, layers=2, skip=SKIPS["add learned"], classes=4, between="norm",
        vocabulary=7, bidirectional=both,
    )  # fmt: skip
    loss = gd.loss.CrossEntropy()
    problem = random_problem(net, loss, 4 * BLOCK + 3, 3, seed=5, lengths=True, reset=True)
    d_params, _, _ = directions(problem, 2, np.random.default_rng(6))
    how = {"dtype": "float32"}
    want = by_core(function, problem, d_params, **how, memory="full")
    with pytest.raises(gd.MemoryBudgetError, match="memory must be at least") as refused:
        by_core(function, problem, d_params, **how, memory=1)
    smallest = refused.value.smallest
    assert smallest < want.plan.bytes
    others = [{"threads": 2, "memory": "full"}, {"threads": 3}]
    others += [{"memory": smallest, "threads": n} for n in (1, 2)]
    for other in others:
        if other.get("memory") == smallest and other["threads"] > 1:
            other["memory"] = 2 * smallest
        got = by_core(function, problem, d_params, **how, **other)
        np.testing.assert_array_equal(got.product, want.product)
        assert got.loss == want.loss
    (one,) = by_core(function, problem, d_params[1:], **how).product
    np.testing.assert_array_equal(one, want.product[1])


def test_a_quadratic_loss_has_a_known_hessian():
    """For y = w x without recurrence, the Hessian of sum (w x - y)^2 by w is 2 sum x x^T per
    output.
    """
    net = gd.Stack(gd.RNN(3, 3, nonlinearity="identity", bias=False), gd.Linear(3, 2, bias=False))
    params = net.init(seed=0, dtype="float64")
    params["0.weight_hh"][:] = 0.0
    params["0.weight_ih"][:] = np.eye(3)
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((9, 2, 3)), rng.standard_normal((9, 2, 2))
    v = gd.Params(net, np.zeros_like(params.flat))
    v["1.weight"][:] = rng.standard_normal((2, 3))
    loss = gd.loss.MeanSquaredError(reduction="sum")
    rows = x.reshape(-1, 3)
    want = 2.0 * v["1.weight"] @ (rows.T @ rows)
    for function in (jacobian.hvp, jacobian.gauss_newton_product):
        found = gd.Params(net, function(net, params, x, y, [v], loss=loss).product[0])
        np.testing.assert_allclose(found["1.weight"], want, rtol=1e-13)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_against_double_backward_of_torch(cell):
    torch = pytest.importorskip("torch", reason="compares with PyTorch's double backward")
    kind = {"rnn": torch.nn.RNNCell, "lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}[cell]
    module = kind(3, 9).double()
    net = gd.Stack({"rnn": gd.RNN, "lstm": gd.LSTM, "gru": gd.GRU}[cell](3, 9))
    params = net.init(seed=0, dtype="float64")
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((20, 2, 3)), rng.standard_normal((20, 2, 9))
    v = gd.Params(net, rng.standard_normal(net.n_parameters))
    weights = dict(module.named_parameters())
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(torch.from_numpy(params[f"0.{name}"].copy()))
    h = torch.zeros(2, 9, dtype=torch.float64)
    state = (h, torch.zeros_like(h)) if cell == "lstm" else h
    total = torch.zeros((), dtype=torch.float64)
    for row, target in zip(torch.from_numpy(x), torch.from_numpy(y), strict=True):
        state = module(row, state)
        h = state[0] if cell == "lstm" else state
        total = total + ((h - target) ** 2).sum()
    tensors = list(weights.values())
    first = torch.autograd.grad(total, tensors, create_graph=True)
    along = [torch.from_numpy(v[f"0.{name}"].copy()) for name in weights]
    dot = sum((g * d).sum() for g, d in zip(first, along, strict=True))
    second = torch.autograd.grad(dot, tensors)
    loss = gd.loss.MeanSquaredError(reduction="sum")
    r = jacobian.hvp(net, params, x, y, [v], loss=loss)
    found = gd.Params(net, r.product[0])
    scale = norm([r.product])
    for name, want in zip(weights, second, strict=True):
        assert norm([found[f"0.{name}"] - want.numpy()]) <= 1e-12 * scale


def exploding(dtype="float32"):
    """All states are zero, and the derivative by their biases is 1.5^400."""
    net = gd.Stack(gd.RNN(1, 8, nonlinearity="identity"), gd.Linear(8, 1))
    params = net.init(seed=0, dtype=dtype)
    params["0.bias_ih"][:] = params["0.bias_hh"][:] = 0.0
    params["0.weight_hh"][:] = 1.5 * np.eye(8)
    x = np.zeros((400, 1, 1), dtype)
    return net, params, x, np.ones((400, 1, 1), dtype)


def test_adjoints_that_overflow_are_an_error():
    net, params, x, y = exploding()
    v = np.ones((1, net.n_parameters), np.float32)
    assert gd.value_and_grad(net, params, x, y, loss="mse").grads.exponent > 0
    with pytest.raises(gd.NonFiniteError, match="overflow"):
        jacobian.hvp(net, params, x, y, v, loss="mse")
    with pytest.raises(gd.NonFiniteError, match=r"Gauss-Newton product leaves|overflow"):
        jacobian.gauss_newton_product(net, params, x, y, v, loss="mse")
    ok = jacobian.hvp(*exploding("float64"), v.astype(float), loss="mse")
    assert np.isfinite(ok.product).all()


@pytest.mark.parametrize("function", [jacobian.hvp, jacobian.gauss_newton_product])
def test_what_cannot_be_multiplied_is_refused(function):
    net, params, x, y = exploding()
    v = np.ones((1, net.n_parameters), np.float32)
    with pytest.raises(gd.ArgumentError, match="the Hessian of a loss function is not known"):
        function(net, params, x, None, v, loss=lambda outputs, t0, t1: (0.0, outputs))
    with pytest.raises(gd.ArgumentError, match="v must be given"):
        function(net, params, x, y, loss="mse")
    with pytest.raises(gd.ShapeError, match=r"v must have shape \(K, \d+\).*Add the axis"):
        function(net, params, x, y, v[0], loss="mse")
    with pytest.raises(gd.DTypeError, match="v must have dtype float32"):
        function(net, params, x, y, v.astype(float), loss="mse")
    with pytest.raises(gd.ArgumentError, match="y must be given"):
        function(net, params, x, None, v, loss="mse")
