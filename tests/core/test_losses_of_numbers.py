"""Huber, quantile and Gaussian losses, and targets that are missing: the core against the reference
in values, gradients and curvature products, differences, PyTorch, and the same bits for all budgets
and threads.
"""

from dataclasses import replace

import numpy as np
import pytest

import gradcore as gd
import tolerances
from curvature import gauss_newton, hessian_product
from gradcore import _core, jacobian
from nets import stack
from overriding import override
from pairwise import covering, label
from problem import (
    assert_agree,
    by_core,
    by_reference,
    core_arguments,
    core_targets,
    error,
    isa,
    norm,
    random_problem,
)
from reference import losses
from tangent_case import directions, flat_params

BLOCK = _core.block_steps()
KINDS = {
    "binary": gd.loss.BinaryCrossEntropy(),
    "squares": gd.loss.MeanSquaredError(),
    "huber": gd.loss.Huber(0.25),
    "quantile": gd.loss.Quantile([0.1, 0.5, 0.95]),
    "one quantile": gd.loss.Quantile(0.3),
    "gaussian": gd.loss.GaussianNLL(),
    "full gaussian": gd.loss.GaussianNLL(full=True),
    "nash": gd.loss.NashSutcliffe(),
}
FACTORS = {
    "loss": list(KINDS),
    "reduction": ["mean", "sum"],
    "step": ["all", "last"],
    "nan": ["error", "ignore"],
    "weight": [False, True],
    "lengths": [False, True],
    "targets": [1, 3, 17],
    "steps": [1, 7, BLOCK + 1, 2 * BLOCK + 44],
    "batch": [1, 2, 5],
    "both": [(), (1,)],
    "dtype": ["float32", "float64"],
    "isa": _core.isa_available(),
    "threads": [1, 2, 3],
    "memory": ["full", "smallest"],
}
# The targets of one step have no deviation.
EXCLUDED = [(("loss", "nash"), other) for other in (("step", "last"), ("steps", 1), ("steps", 7))]
CASES = covering(FACTORS, seed=3, excluded=EXCLUDED)


def problem_of(case, seed):
    loss = replace(
        KINDS[case["loss"]], reduction=case["reduction"], step=case["step"], nan=case["nan"]
    )
    classes = case["targets"] * losses.per_target(loss)
    net = stack("lstm", 5, 9, layers=2, bidirectional=case["both"], classes=classes)
    return random_problem(
        net,
        loss,
        case["steps"],
        case["batch"],
        seed=seed,
        weight=case["weight"],
        lengths=case["lengths"],
    )


def smallest_budget(function, *arguments, **keywords):
    with pytest.raises(gd.MemoryBudgetError) as refused:
        function(*arguments, memory=1, **keywords)
    return refused.value.smallest


def tolerance_of(case):
    return tolerances.SINGLE if case["dtype"] == "float32" else tolerances.DOUBLE


@pytest.mark.parametrize(("seed", "case"), list(enumerate(CASES)), ids=map(label, CASES))
def test_values_and_gradients(seed, case):
    problem = problem_of(case, seed)
    how = {"threads": case["threads"]}
    with isa(case["isa"]):
        memory = case["memory"]
        if memory == "smallest":
            memory = smallest_budget(by_core, problem, case["dtype"], **how)
        got = by_core(problem, case["dtype"], memory=memory, **how)
    assert_agree(got, by_reference(problem), tolerance_of(case))


@pytest.mark.parametrize(("seed", "case"), list(enumerate(CASES)), ids=map(label, CASES))
def test_curvature_products(seed, case):
    problem = problem_of(case, seed)
    (d_params,), _, _ = directions(problem, 1, np.random.default_rng(seed + 1000))
    arguments, keywords = core_arguments(problem, case["dtype"])
    targets = core_targets(problem, case["dtype"])
    call = (*arguments, targets.pop("y"), flat_params(problem, [d_params], case["dtype"]))
    keywords |= targets | {"threads": case["threads"]}
    functions = {jacobian.hvp: hessian_product, jacobian.gauss_newton_product: gauss_newton}
    if "quantile" in case["loss"]:
        del functions[jacobian.gauss_newton_product]
    for function, reference in functions.items():
        with isa(case["isa"]), override(exact_threads=True):
            memory = case["memory"]
            if memory == "smallest":
                memory = smallest_budget(function, *call, **keywords)
            found = function(*call, memory=memory, **keywords)
        got = dict(gd.Params(problem.net, found.product[0].astype(float)).items())
        want = reference(problem, d_params)
        floor = 1e-2 * norm(want.values())
        off = {name: error(got[name], array, floor) for name, array in want.items()}
        assert {n: e for n, e in off.items() if not e <= 2 * tolerance_of(case)} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_directional_differences(kind):
    """Five points along the parameters of the core's own loss. The losses' kinks are crossed by few
    terms, and each costs as much as the step squared.
    """
    case = {name: values[-1] for name, values in FACTORS.items()} | {"loss": kind, "step": "all"}
    problem = problem_of(case | {"batch": 2, "steps": 40}, 3)
    (d_params,), _, _ = directions(problem, 1, np.random.default_rng(4), x=False, state=False)
    (net, params, x), keywords = core_arguments(problem, "float64")
    keywords |= core_targets(problem, "float64")
    (along,) = flat_params(problem, [d_params], "float64")
    step = 1e-4 / norm([along.flat])
    f = {}
    for s in (-2, -1, 1, 2):
        moved = gd.Params(net, params.flat + s * step * along.flat)
        f[s] = gd.value(net, moved, x, **keywords)
    slope = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * step)
    grads = gd.value_and_grad(net, params, x, **keywords).grads.flat
    size = norm([grads]) * norm([along.flat])
    kinked = "quantile" in kind or kind == "huber"
    assert abs(slope - grads @ along.flat) <= (1e-4 if kinked else tolerances.DIFFERENCES) * size


@pytest.mark.parametrize("kind", KINDS)
def test_slopes_of_the_reference(kind):
    """A complex step of the reference's value is its gradient; NaN counts for nothing."""
    rng = np.random.default_rng(5)
    loss = replace(KINDS[kind], nan="ignore")
    outputs = 2 * rng.standard_normal((9, 4, 6))
    y = rng.random((9, 4, 6 // losses.per_target(loss)))
    y[rng.random(y.shape) < 0.3] = np.nan
    along = rng.standard_normal(outputs.shape)
    _, slopes = losses.evaluate(loss, outputs, y)
    value, _ = losses.evaluate(loss, outputs + 1e-100j * along, y)
    assert value.imag != 0
    assert np.vdot(slopes, along) == pytest.approx(value.imag * 1e100, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_for_all_threads_and_budgets(kind):
    case = dict(zip(FACTORS, (v[-1] for v in FACTORS.values()), strict=True))
    problem = problem_of(case | {"loss": kind, "step": "all", "steps": 4 * BLOCK + 3}, 6)
    arguments, keywords = core_arguments(problem, "float32")
    keywords |= core_targets(problem, "float32")

    def solve(**how):
        with override(exact_threads=True):
            r = gd.value_and_grad(*arguments, **keywords, **how)
        return r.loss, r.grads.flat.tobytes()

    least = smallest_budget(solve)
    want = solve(memory="full", threads=1)
    for how in ({"threads": 2}, {"threads": 3, "memory": "full"}, {"memory": least}):
        assert solve(**how) == want
    assert gd.value(*arguments, **keywords) == want[0]


def test_without_missing_targets_ignoring_them_changes_no_bit():
    problem = random_problem(
        stack("gru", 5, 9, classes=3), gd.loss.MeanSquaredError(), 150, 3, seed=1
    )
    arguments, keywords = core_arguments(problem, "float32")
    keywords |= core_targets(problem, "float32")
    plain = gd.value_and_grad(*arguments, **keywords)
    keywords["loss"] = gd.loss.MeanSquaredError(nan="ignore")
    ignoring = gd.value_and_grad(*arguments, **keywords)
    assert plain.loss == ignoring.loss
    assert plain.grads == ignoring.grads


@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_by_which_batches_are_averaged(kind):
    """It counts the present targets, whatever the number of outputs of each; or sequences."""
    loss = replace(KINDS[kind], nan="ignore")
    net = stack("gru", 5, 9, classes=3 * losses.per_target(loss))
    problem = random_problem(net, loss, 20, 3, seed=2, weight=True, lengths=True)
    arguments, keywords = core_arguments(problem, "float64")
    found = gd.value_and_grad(*arguments, **keywords, **core_targets(problem, "float64"))
    counts, _ = losses.term_weights(loss, 20, 3, problem.y, problem.weight, problem.lengths)
    counts = counts[..., None] * ~np.isnan(problem.y)
    expected = counts.sum() / 3
    if kind == "nash":  # sequences count, and one of them is empty
        expected = (counts.sum(axis=0) > 0).sum() / 3
        assert expected == 2
    assert found.loss_weight == pytest.approx(expected, rel=1e-14)


# ---- PyTorch


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", ["huber", "gaussian", "full gaussian"])
def test_values_of_torch(kind, reduction):
    torch = pytest.importorskip("torch", reason="compares with PyTorch's losses")
    loss = replace(KINDS[kind], reduction=reduction)
    net = stack("gru", 5, 9, classes=6)
    problem = random_problem(net, loss, 20, 3, seed=3)
    (_, params, x), _ = core_arguments(problem, "float64")
    z = torch.from_numpy(gd.apply(net, params, x)[0])
    y = torch.from_numpy(problem.y)
    if kind == "huber":
        want = torch.nn.HuberLoss(reduction=reduction, delta=loss.delta)(z, y)
    else:
        mean, log_variance = z.reshape(20, 3, 3, 2).unbind(-1)
        function = torch.nn.GaussianNLLLoss(full=loss.full, reduction=reduction)
        want = function(mean, y, log_variance.exp())
    assert gd.value(net, params, x, problem.y, loss=loss) == pytest.approx(want.item(), rel=1e-12)


# ---- extremes and errors

NET = gd.Stack(gd.RNN(2, 2, nonlinearity="identity", bias=False))


def identity(dtype="float64"):
    """Parameters with which the outputs of NET are its inputs."""
    params = gd.Params(NET, np.zeros(NET.n_parameters, dtype))
    params["0.weight_ih"][:] = np.eye(2)
    return params


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["huber", "quantile", "gaussian"])
def test_large_outputs(kind, dtype):
    """Errors of 10^5, and log-variances of +-60."""
    loss = gd.loss.Quantile([0.2, 0.8]) if kind == "quantile" else KINDS[kind]
    rng = np.random.default_rng(4)
    scale = np.array([1e5, 60.0])
    x = (rng.uniform(-1, 1, (30, 4, 2)) * scale).astype(np.float32).astype(dtype)
    y = rng.uniform(-1, 1, (30, 4, 2 // losses.per_target(loss))).astype(dtype)
    r = gd.value_and_grad(NET, identity(dtype), x, y, loss=loss, wrt=("x",))
    value, slopes = losses.evaluate(loss, x.astype(float), y.astype(float))
    tolerance = tolerances.SINGLE if dtype == "float32" else tolerances.DOUBLE
    assert r.loss == pytest.approx(value, rel=tolerance)
    found = np.ldexp(r.dx.astype(float), r.dx_exponent[:, None, None])
    assert norm([found - slopes]) <= tolerance * norm([slopes])


def test_a_term_whose_precision_overflows_names_its_place():
    x, y = np.zeros((5, 3, 2), "f4"), np.ones((5, 3, 1), "f4")
    x[3, 1, 1] = -100.0
    with pytest.raises(gd.NonFiniteError, match="step 3, sequence 1") as caught:
        gd.value_and_grad(NET, identity("float32"), x, y, loss="gaussian_nll")
    assert (caught.value.step, caught.value.sequence) == (3, 1)


def test_at_the_kinks():
    x = np.zeros((1, 1, 2))
    r = gd.value_and_grad(
        NET, identity(), x, np.zeros((1, 1, 1)), loss=gd.loss.Quantile([0.2, 0.8]), wrt=("x",)
    )
    assert r.loss == 0.0
    assert not r.dx.any()
    x[0, 0] = 0.5, -0.5
    loss = gd.loss.Huber(0.5, reduction="sum")
    r = gd.value_and_grad(NET, identity(), x, np.zeros((1, 1, 2)), loss=loss, wrt=("x",))
    assert r.loss == 0.25
    np.testing.assert_array_equal(r.dx[0, 0], [0.5, -0.5])


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mse", "huber"])
@pytest.mark.parametrize("step", ["all", "last"])
def test_a_missing_target_is_an_error_that_names_it_unless_it_is_ignored(loss, step):
    described = replace(gd.loss.LOSSES[loss], step=step)
    x, y = np.zeros((9, 3, 2)), np.zeros((9, 3, 2))
    y[8, 1, 1] = np.nan
    y = y[8] if step == "last" else y
    with pytest.raises(gd.NonFiniteError, match=r'of step 8, sequence 1 is NaN.*nan="ignore"'):
        gd.value(NET, identity(), x, y, loss=described)
    assert np.isfinite(gd.value(NET, identity(), x, y, loss=replace(described, nan="ignore")))
    weight = np.ones(y.shape[:-1])
    weight[..., 1] = 0.0
    assert np.isfinite(gd.value(NET, identity(), x, y, loss=described, weight=weight))


def test_if_all_targets_are_missing_the_loss_is_0():
    y = np.full((9, 3, 2), np.nan)
    loss = gd.loss.MeanSquaredError(nan="ignore")
    r = gd.value_and_grad(NET, identity(), np.ones((9, 3, 2)), y, loss=loss)
    assert (r.loss, r.loss_weight) == (0.0, 0.0)
    assert not r.grads.flat.any()


def test_no_gauss_newton_matrix_of_quantiles():
    x, v = np.zeros((9, 3, 2)), np.ones((1, NET.n_parameters))
    loss = gd.loss.Quantile([0.2, 0.8])
    with pytest.raises(gd.ArgumentError, match="the quantile loss has no Gauss-Newton matrix"):
        jacobian.gauss_newton_product(NET, identity(), x, np.zeros((9, 3, 1)), v, loss=loss)


def test_the_gauss_newton_matrix_of_gaussians_is_semidefinite():
    net = stack("gru", 3, 4, classes=4)
    problem = random_problem(net, gd.loss.GaussianNLL(), 12, 2, seed=5)
    (_, params, x), _ = core_arguments(problem, "float64")
    v = np.eye(net.n_parameters)
    call = (net, params, x, problem.y, v)
    table = jacobian.gauss_newton_product(*call, loss=problem.loss).product
    np.testing.assert_allclose(table, table.T, rtol=0, atol=1e-12 * np.abs(table).max())
    assert np.linalg.eigvalsh((table + table.T) / 2).min() > -1e-12
    hessian = jacobian.hvp(*call, loss=problem.loss).product
    assert np.linalg.eigvalsh((hessian + hessian.T) / 2).min() < -1e-3


def test_nash_sutcliffe_efficiency():
    """0 for outputs equal to y, 1 for the mean; sequences count alike, whatever their lengths."""
    rng = np.random.default_rng(6)
    y = rng.standard_normal((3000, 4, 2)) * [1.0, 1e3] + [0.0, 1e6]
    lengths = np.array([3000, 2500, 7, 0])
    loss = gd.loss.NashSutcliffe()
    how = {"loss": loss, "lengths": lengths}
    assert gd.value(NET, identity(), y, y, **how) == 0.0
    means = np.array([y[:n, b].mean(0) if n else (0, 0) for b, n in enumerate(lengths)])
    at_mean = np.broadcast_to(means, y.shape).copy()
    r = gd.value_and_grad(NET, identity(), at_mean, y, **how)
    assert r.loss == pytest.approx(1.0, rel=1e-9)
    assert r.loss_weight == 3.0
    one = gd.value(NET, identity(), at_mean + 1.0, y, **how)
    want = [((at_mean[:n, b] + 1 - y[:n, b]) ** 2).sum(0) / (n * y[:n, b].var(0))
            for b, n in enumerate(lengths) if n]  # fmt: skip
    assert one == pytest.approx(np.mean(want), rel=1e-9)


def test_targets_that_nash_sutcliffe_cannot_take():
    y = np.random.default_rng(7).standard_normal((9, 3, 2))
    loss = gd.loss.NashSutcliffe()
    y[:, 1, 0] = 0.1
    with pytest.raises(gd.ArgumentError, match=r"y must vary.*y\[:, 1, 0\] is 0.1 at all steps"):
        gd.value(NET, identity(), y, y, loss=loss)
    weight = np.ones((9, 3))
    weight[:, 1] = 0.0
    assert gd.value(NET, identity(), y, y, loss=loss, weight=weight) == 0.0
    weight[0] = -20.0
    total = gd.loss.NashSutcliffe(reduction="sum")
    with pytest.raises(gd.ArgumentError, match="weight must not be negative for NashSutcliffe"):
        gd.value(NET, identity(), y, y, loss=total, weight=weight)
    weight[0] = [1.0, 0.0, 1.0]
    for scale in (1e160, 1e-160):
        with pytest.raises(gd.ArgumentError, match="squares of y must be within the range of flo"):
            gd.value(NET, identity(), y, scale * y, loss=loss, weight=weight)
    y[3, 2, 1] = np.nan
    with pytest.raises(gd.NonFiniteError, match=r"y\[3, 2, 1\] is nan.*nan=\"ignore\"") as caught:
        gd.value(NET, identity(), np.zeros_like(y), y, loss=loss, weight=weight)
    assert (caught.value.step, caught.value.sequence) == (3, 2)
    with pytest.raises(gd.ArgumentError, match="NashSutcliffe must have step 'all'"):
        gd.loss.NashSutcliffe(step="last")
    with pytest.raises(
        gd.ArgumentError, match="window_shares needs a loss whose windows add up to"
    ):
        gd.horizon.window_shares(NET, identity(), y, y, loss=loss, windows=2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gd.loss.Huber(0.0), gd.ArgumentError, "Huber.delta must be > 0; got 0"),
        (lambda: gd.loss.Huber(np.inf), gd.ArgumentError, "Huber.delta must be finite"),
        (lambda: gd.loss.Huber("1"), gd.DTypeError, "Huber.delta must be a number"),
        (lambda: gd.loss.Huber(nan="skip"), gd.ArgumentError, "one of 'error', 'ignore'"),
        (lambda: gd.loss.Quantile(np.array(2.0)), gd.ArgumentError, "must be > 0 and < 1; got 2"),
        (lambda: gd.loss.Quantile(np.ones((2, 2))), gd.DTypeError, r"quantiles\[0\] must be a num"),
        (lambda: gd.loss.Quantile([]), gd.ArgumentError, "one or more numbers between 0 and 1"),
        (lambda: gd.loss.Quantile([0.9, 0.1]), gd.ArgumentError, "in ascending order"),
        (lambda: gd.loss.Quantile([0.5, 0.5]), gd.ArgumentError, "in ascending order"),
        (lambda: gd.loss.Quantile(1.0), gd.ArgumentError, r"quantiles\[0\] must be > 0 and < 1"),
        (lambda: gd.loss.Quantile("0.5"), gd.DTypeError, r"quantiles\[0\] must be a number"),
        (lambda: gd.loss.GaussianNLL(full=1), gd.DTypeError, "full must be True or False"),
    ],
)
def test_wrong_losses(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_one_quantile_may_be_an_array_without_axes():
    assert gd.loss.Quantile(np.array(0.5)) == gd.loss.Quantile(0.5) == gd.loss.Quantile([0.5])


def test_wrong_numbers_of_outputs_and_targets():
    x = np.zeros((9, 3, 2))
    loss = gd.loss.Quantile([0.1, 0.5, 0.9])
    with pytest.raises(gd.ShapeError, match="Quantile needs 3 outputs for each target; the net ha"):
        gd.value(NET, identity(), x, np.zeros((9, 3, 1)), loss=loss)
    with pytest.raises(gd.ShapeError, match=r"shape \(9, 3, 1\), one target per 2 outputs; the ne"):
        gd.value(NET, identity(), x, np.zeros((9, 3, 2)), loss="gaussian_nll")
    with pytest.raises(gd.ShapeError, match="Quantile needs 3 outputs"):
        gd.plan(NET, 9, 3, loss=loss)


def test_plans_count_what_they_need():
    rng = np.random.default_rng(8)
    for kind, loss in KINDS.items():
        if kind in ("quantile", "one quantile"):
            loss = gd.loss.Quantile([0.2, 0.8], nan="ignore")
        planned = gd.plan(NET, 300, 3, dtype="float64", loss=loss)
        y = rng.random((300, 3, 2 // losses.per_target(loss)))
        r = gd.value_and_grad(NET, identity(), np.zeros((300, 3, 2)), y, loss=loss)
        assert r.plan.bytes == planned.bytes
        assert r.arena_bytes <= planned.bytes


def test_texts_of_losses():
    """Checkpoints hold them: those of losses that were there before are as they were."""
    assert repr(gd.loss.MeanSquaredError()) == "MeanSquaredError(reduction='mean', step='all')"
    loss = gd.loss.Quantile([0.2, 0.8], nan="ignore")
    text = "Quantile(reduction='mean', step='all', nan='ignore', quantiles=(0.2, 0.8))"
    assert repr(loss) == text
    assert loss == gd.loss.Quantile(np.array([0.2, 0.8]), nan="ignore")
    assert hash(loss) == hash(gd.loss.Quantile((0.2, 0.8), nan="ignore"))


# ---- where losses are used


@pytest.mark.parametrize("kind", KINDS)
def test_trainings_and_diagnoses_with_missing_targets(kind, tmp_path):
    """The score is the loss over all present targets of the validation data; a run resumes."""
    loss = replace(KINDS[kind], nan="ignore")
    net = stack("gru", 5, 9, classes=2 * losses.per_target(loss))
    problems = [random_problem(net, loss, 130, 2, seed=seed) for seed in (1, 2)]
    batches = [gd.Batch(p.x.astype("f4"), p.y.astype("f4")) for p in problems]

    def trained(steps):
        params = net.init(seed=0)
        trainer = gd.Trainer(net, params, gd.optim.SGD(params, 0.01), loss=loss, quiet=True)
        how = {"validation": batches, "every": 2, "run": tmp_path, "resume": True, "watch": 3}
        return params, trainer.fit(batches, steps=steps, **how)

    trained(2)
    params, report = trained(4)
    x, y = (np.concatenate([getattr(b, name) for b in batches], axis=1) for name in "xy")
    assert report.steps == 4
    assert report.evaluations[-1][1] == pytest.approx(
        gd.value(net, params, x, y, loss=loss), rel=1e-6
    )
    found = gd.diagnose(net, params, x, y, loss=loss, parts=["gradient", "windows", "truncation"])
    assert set(found.measured.left_out) == (set() if loss.adds_up else {"windows", "truncation"})
    want = gd.value_and_grad(net, params, x, y, loss=loss)
    assert found.measured.loss == want.loss
