"""Sharpness agrees with dense Hessians, limits of optimizers with their own steps; the monitor."""

import json

import numpy as np
import pytest

import gradcore as gd
from gradcore.stability import StabilityMonitor, _sharpness, flow
from gradcore.stability._rules import curvature_decay, curvature_scale

# ---- curvature of nets


def problem(dtype="float64", hidden=5, steps=12):
    net = gd.Stack(gd.RNN(2, hidden), gd.Linear(hidden, 2))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps, 4, 2)).astype(dtype)
    y = rng.standard_normal((steps, 4, 2)).astype(dtype)
    return net, net.init(seed=0, dtype=dtype), x, y


def dense(net, params, x, y):
    eye = np.eye(net.n_parameters, dtype=params.dtype)
    return gd.jacobian.hvp(net, params, x, y, eye, loss="mse").product.astype(np.float64)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sharpness_is_the_top_of_the_dense_hessian(dtype):
    net, params, x, y = problem(dtype)
    told = []
    found = flow.sharpness(
        net, params, x, y, loss="mse", k=3, tol=1e-5, progress=lambda *part: told.append(part)
    )
    h = dense(net, params, x, y)
    want = np.linalg.eigvalsh(0.5 * (h + h.T))[::-1][:3]
    np.testing.assert_allclose(found.values, want, rtol=1e-5)
    assert found.outcome is flow.SearchOutcome.CONVERGED
    assert len(told) == found.products
    few = flow.sharpness(net, params, x, y, loss="mse", max_products=2, tol=1e-9)
    assert few.outcome is flow.SearchOutcome.NOT_CONVERGED
    assert few.values[0] < want[0]


OPTIMIZERS = {
    "sgd": lambda p, **o: gd.optim.SGD(p, 0.1, **o),
    "momentum": lambda p, **o: gd.optim.SGD(p, 0.1, momentum=0.9, **o),
    "dampened": lambda p, **o: gd.optim.SGD(p, 0.1, momentum=0.8, dampening=0.5, **o),
    "nesterov": lambda p, **o: gd.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, **o),
    "rmsprop": lambda p, **o: gd.optim.RMSprop(p, 0.1, alpha=1 - 1e-9, **o),
    "rmsprop, momentum": lambda p, **o: gd.optim.RMSprop(p, 0.1, alpha=1 - 1e-9, momentum=0.7, **o),
    "adagrad": lambda p, **o: gd.optim.Adagrad(p, 0.1, lr_decay=0.01, **o),
    "adam": lambda p, **o: gd.optim.Adam(p, 0.1, betas=(0.9, 1 - 1e-9), **o),
    "adamw": lambda p, **o: gd.optim.AdamW(p, 0.1, betas=(0.8, 1 - 1e-9), weight_decay=0.5, **o),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_preconditioned_hessian_is_that_of_the_next_step(name):
    net, params, x, y = problem()
    groups = [
        gd.optim.Group("0.weight_ih", lr_scale=0.3),
        gd.optim.Group("1.bias", frozen=True),
        gd.optim.Group("0.weight_hh", weight_decay=0.2),
    ]
    optimizer = OPTIMIZERS[name](params, groups=groups)
    for _ in range(3):
        optimizer.step(gd.value_and_grad(net, params, x, y, loss="mse").grads)
    h = dense(net, params, x, y)
    scale, decay = curvature_scale(optimizer), curvature_decay(optimizer)
    frozen = next(s for s in net.parameter_specs if s.name == "1.bias")
    assert (scale[frozen.start : frozen.stop] == 0).all()
    root = np.sqrt(scale)
    whole = root[:, None] * (h + np.diag(decay)) * root
    found = flow.sharpness(net, params, x, y, loss="mse", optimizer=optimizer, tol=1e-7)
    assert found.values[0] == pytest.approx(np.linalg.eigvalsh(whole)[-1], rel=1e-6)
    # The ratio is the sharpness over the limit of the optimizer.
    result = flow.step_stability(net, params, optimizer, x, y, loss="mse", tol=1e-7)
    assert result.ratio == pytest.approx(found.values[0] / result.limit)
    at = flow.step_stability(net, params, optimizer, x, y, loss="mse", lr=result.lr_stable)
    assert at.ratio == pytest.approx(1.0, rel=1e-2)
    assert str(at).startswith(f"lr = {at.lr:.4g} is")


# ---- limits


def on_a_quadratic(optimizer, curvature, steps):
    """Sizes of a parameter p to which the optimizer's own steps on the loss 0.5 * curvature * p^2
    are applied.
    """
    params = optimizer.params
    params.flat[...] = 0.0
    params.flat[0] = 1e-60
    scale = curvature_scale(optimizer)[0]
    sizes = []
    for _ in range(steps):
        grads = gd.Grads(params.net, params.flat * curvature / scale)
        optimizer.step(grads)
        sizes.append(abs(params.flat[0]))
    return np.array(sizes)


def settled(name):
    """An optimizer whose second moments stay constant while gradients are tiny."""
    net = gd.Stack(gd.RNN(1, 1, nonlinearity="identity", bias=False))
    params = net.init(seed=0, dtype="float64")
    optimizer = OPTIMIZERS[name](params)
    if "second_moment" in optimizer.moments:
        optimizer.moments["second_moment"][...] = 0.3
        optimizer.steps = 10**7 if name != "adagrad" else 7
    return optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_stable_up_to_the_limit_and_not_beyond(name):
    optimizer = settled(name)
    limit = flow.curvature_limit(optimizer)

    def radius(curvature):
        return np.abs(np.linalg.eigvals(flow.step_map(optimizer, curvature))).max()

    assert radius(limit) == pytest.approx(1.0, abs=1e-12)
    inside = [radius(part * limit) for part in np.linspace(0, 1, 500)]
    assert max(inside) <= 1 + 1e-12
    assert radius(1.001 * limit) > 1
    # The optimizer's own steps grow or fall at the rate that the linear map predicts.
    for part in (0.9, 1.1):
        own = settled(name)
        growth = radius(part * flow.curvature_limit(own))
        sizes = on_a_quadratic(own, part * flow.curvature_limit(own), 180)
        if name == "adagrad":  # its rate falls in every step
            assert (sizes[5] > sizes[0]) == (part > 1)
            continue
        # Pairs of complex roots oscillate, so the largest of some steps is compared.
        rate = np.log(sizes[160:].max() / sizes[60:80].max()) / 100
        assert np.exp(rate) == pytest.approx(growth, abs=2e-3)


def test_known_limits():
    _, params, _, _ = problem()
    optim = gd.optim
    limit = flow.curvature_limit
    assert limit(optim.SGD(params, 0.1)) == 20
    assert limit(optim.SGD(params, 0.1, momentum=0.9)) == pytest.approx(38)
    assert limit(optim.Adam(params, 1e-3)) == pytest.approx(38_000)  # Cohen et al. 2022
    assert limit(optim.SGD(params, 0.1), lr=0.2) == 10
    assert limit(optim.SGD(params, 0.1), lr=0.0) == np.inf
    assert limit(optim.SGD(params, 0.1, momentum=1.0)) == 0
    with pytest.raises(gd.ArgumentError, match="Lion steps by the sign"):
        limit(optim.Lion(params))
    with pytest.raises(gd.DTypeError, match="optimizer must be"):
        limit(params)


@pytest.mark.parametrize("part", [0.98, 1.02])
@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov"])
def test_the_limit_of_a_real_net(name, part):
    """A student net starts at its teacher: the steps start next to a minimum, along the sharpest
    direction.
    """
    net, params, x, _ = problem()
    y = gd.apply(net, params, x)[0]
    minimum = params.flat.copy()
    optimizer = OPTIMIZERS[name](params)
    found = flow.step_stability(net, params, optimizer, x, y, loss="mse", tol=1e-8)
    optimizer.lr = part * found.lr_stable
    params.flat[...] += 1e-11 * found.sharpness.vectors[0]
    growth = flow.step_stability(net, params, optimizer, x, y, loss="mse", tol=1e-8).growth
    assert (growth > 1) == (part > 1)
    sizes = []
    for _ in range(60):
        optimizer.step(gd.value_and_grad(net, params, x, y, loss="mse").grads)
        sizes.append(abs((params.flat - minimum) @ found.sharpness.vectors[0]))
    rate = (max(sizes[55:]) / max(sizes[25:30])) ** (1 / 30)
    assert rate == pytest.approx(growth, abs=1e-2)


# ---- regions


def test_regions_are_those_of_the_rules():
    rng = np.random.default_rng(0)
    z = rng.uniform(-4, 1, 50) + 1j * rng.uniform(-3, 3, 50)
    _, params, _, _ = problem()
    for rule, optimizer in (
        ("euler", gd.optim.SGD(params, 1.0)),
        ("momentum", gd.optim.SGD(params, 1.0, momentum=0.6)),
        ("nesterov", gd.optim.SGD(params, 1.0, momentum=0.6, nesterov=True)),
    ):
        want = [
            np.abs(np.linalg.eigvals(flow.step_map(optimizer, -one))).max()
            if rule != "euler"
            else abs(1 + one)
            for one in z
        ]
        np.testing.assert_allclose(flow.amplification(rule, z, momentum=0.6), want, atol=1e-12)
    taylor = 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24
    np.testing.assert_allclose(flow.amplification("rk4", z), np.abs(taylor), rtol=1e-12)
    assert flow.amplification("euler", -2.0) == 1.0
    with pytest.raises(gd.ArgumentError, match="rule must be one of"):
        flow.amplification("adam", z)


def test_the_picture_of_the_regions(tmp_path):
    pytest.importorskip("matplotlib", reason="draws: install gradcore[plot]")
    flow.draw_regions(tmp_path / "regions.png")
    assert (tmp_path / "regions.png").stat().st_size > 10_000


# ---- the monitor


class Rising(gd.schedule.Schedule):
    """A learning rate that rises by a tenth per update."""

    kind = "rising"

    def _factor(self, step):
        return 1.1**step


def trainer(monitor, optimizer=None, schedule=None, **options):
    net, params, x, y = problem("float32", hidden=8)
    optimizer = (optimizer or (lambda p: gd.optim.SGD(p, 0.05)))(params)
    made = gd.Trainer(
        net,
        params,
        optimizer,
        loss="mse",
        schedule=schedule,
        stability=monitor,
        quiet=True,
        **options,
    )
    return made, [gd.Batch(x, y)] * 400


def test_it_warns_before_the_loss_explodes(capsys):
    made, batches = trainer(StabilityMonitor(1), schedule=Rising())
    made.quiet = False
    report = made.fit(batches[:40])
    losses = np.array(report.losses)
    exploded = int(np.argmax(losses > 2 * np.minimum.accumulate(losses)))
    assert exploded > 0
    told = capsys.readouterr().err
    assert told.count("times what the curvature of its batch allows") == 1
    warned = next(line["step"] for line in report.watched if (line["stability_ratio"] or 0) > 1)
    assert f"update {warned}: lr" in told
    assert warned < exploded
    # At that point the loss still falls.
    assert np.diff(losses[: warned + 5]).max() < 0


def test_held_at_the_limit_it_does_not(capsys):
    made, batches = trainer(StabilityMonitor(1, lr="stable"), schedule=Rising())
    made.quiet = False
    report = made.fit(batches[:200])
    assert report.losses[-1] < 0.9 * report.losses[0]
    assert np.diff(report.losses).max() < 0.01
    assert "held at" in capsys.readouterr().err
    for line in report.watched[60:]:
        assert line["lr"] == pytest.approx(0.5 * line["lr_stable"], rel=1e-6)
        assert line["stability_ratio"] > 1


def test_training_gets_sharper_until_its_limit():
    """Progressive sharpening of full-batch gradient descent (Cohen et al. 2021, figure 1)."""
    made, batches = trainer(StabilityMonitor(20), lambda p: gd.optim.SGD(p, 0.1))
    report = made.fit(batches)
    ratios = [line["stability_ratio"] for line in report.watched]
    assert ratios[0] < 0.5
    assert 0.9 < np.median(ratios[5:]) < 1.5
    # The loss does not explode there.
    assert report.losses[-1] < report.losses[0]


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("stop", [3, 4, 7])
def test_a_resumed_run_is_the_same(tmp_path, kind, stop):
    def made():
        kinds = {"sgd": lambda p: gd.optim.SGD(p, 3.0), "adam": lambda p: gd.optim.Adam(p, 0.3)}
        return trainer(StabilityMonitor(4, lr="stable"), kinds[kind])

    first, batches = made()
    first.fit(batches, steps=stop, run=tmp_path)
    resumed, batches = made()
    resumed.fit(batches, steps=12, run=tmp_path, resume=True)
    bare, batches = made()
    whole = bare.fit(batches, steps=12)
    np.testing.assert_array_equal(resumed.params.flat, bare.params.flat)
    read = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    read = [line for line in read if "sharpness" in line]
    assert [line["step"] for line in read] == ([1, 4, 8, 12] if kind == "sgd" else [2, 4, 8, 12])
    for got, want in zip(read, whole.watched, strict=True):
        assert got | {"seconds": 0} == want | {"seconds": 0}
    other = trainer(StabilityMonitor(5, lr="stable"))[0]
    with pytest.raises(gd.ArgumentError, match="stability"):
        other.fit(batches, steps=12, run=tmp_path, resume=True)


def test_a_sum_over_batches_is_that_much_sharper():
    net, params, x, y = problem("float64")
    loss = gd.loss.MeanSquaredError(reduction="sum")
    found = []
    for accumulate in (1, 3):
        own = params.copy()
        made = gd.Trainer(
            net,
            own,
            gd.optim.SGD(own, 1e-6),
            loss=loss,
            stability=StabilityMonitor(1, tol=1e-6),
            accumulate=accumulate,
            quiet=True,
        )
        (line,) = made.fit([gd.Batch(x, y)] * accumulate).watched
        found.append(line["sharpness"])
    assert found[1] == pytest.approx(3 * found[0], rel=1e-5)


def test_what_cannot_be_measured_is_said(monkeypatch):
    def refuse(*given, **options):
        raise gd.MemoryBudgetError("no room for that.")

    monkeypatch.setattr(_sharpness, "hvp", refuse)
    made, batches = trainer(StabilityMonitor(2, lr="stable"))
    report = made.fit(batches[:4])
    assert report.steps == 4
    assert [line["step"] for line in report.watched] == [1, 2, 4]
    for line in report.watched:
        assert line["sharpness"] is None
        assert line["stability_missing"] == "no room for that."
        assert line["lr"] == 0.05


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: StabilityMonitor(0), gd.ArgumentError, "every must be"),
        (lambda: StabilityMonitor(lr="fixed"), gd.ArgumentError, "lr must be one of"),
        (lambda: StabilityMonitor(safety=0.0), gd.ArgumentError, "safety must be"),
        (lambda: trainer(1), gd.DTypeError, "stability must be a gradcore.stability"),
        (
            lambda: trainer(StabilityMonitor(), gd.optim.Lion),
            gd.ArgumentError,
            "Lion steps by the sign",
        ),
        (
            lambda: StabilityMonitor().load_state_dict({"told": 1}),
            gd.DTypeError,
            "told must be a bool",
        ),
        (
            lambda: StabilityMonitor().load_state_dict({"told": True, "vector": np.ones(3)}),
            gd.ShapeError,
            "vector must have shape",
        ),
    ],
)
def test_wrong_monitors_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_wrong_questions_are_refused():
    net, params, x, y = problem()
    for how, error, message in (
        ({"k": 0}, gd.ArgumentError, "k must be"),
        ({"k": 10**6}, gd.ArgumentError, "k must be at most the"),
        ({"tol": -1.0}, gd.ArgumentError, "tol must be"),
        ({"start": np.ones(3)}, gd.ShapeError, "start must have shape"),
        ({"optimizer": 3}, gd.DTypeError, "optimizer must be one of gradcore.optim"),
        (
            {"optimizer": gd.optim.Adam(params)},
            gd.ArgumentError,
            "second moments, which it has only after",
        ),
    ):
        with pytest.raises(error, match=message):
            flow.sharpness(net, params, x, y, loss="mse", **how)
    with pytest.raises(gd.ArgumentError, match="made with these params"):
        flow.step_stability(net, params, gd.optim.SGD(params.copy(), 0.1), x, y, loss="mse")

    def function(outputs, t0, t1):
        return 0.0, outputs

    with pytest.raises(gd.DTypeError, match=r"needs a loss of gradcore\.loss"):
        gd.Trainer(
            net, params, gd.optim.SGD(params, 0.1), loss=function, stability=StabilityMonitor()
        )
