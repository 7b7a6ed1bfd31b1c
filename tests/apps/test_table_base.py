"""The linear forecast that a net stands on, the share of the net, and what is kept of both."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gradcore as gd
from gradcore.apps.settings import Resources
from gradcore.apps.tasks.table import base as bases
from gradcore.apps.tasks.table import dataset, linear, predict, scores, train
from gradcore.apps.tasks.table import plan as plans
from gradcore.apps.tasks.table.bases import combined, fitted, share_of_net
from gradcore.apps.tasks.table.linear import Choice, Lagged, Linear
from gradcore.apps.tasks.table.references import references
from gradcore.apps.tasks.table.roles import Roles
from gradcore.apps.tasks.table.sequences import TEST, VALIDATION
from gradcore.apps.tasks.table.wanted import Wanted

QUICK = {"quiet": True, "resources": Resources(threads=1)}
RNG = np.random.default_rng(0)


def write(path, **columns):
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def load(path, target="y", **roles):
    return dataset.load([path], Roles(target, **roles), Wanted())


def drifting(count=400):
    """A walk whose next step is most of the one before; its level is nowhere twice."""
    rng, steps = np.random.default_rng(7), np.zeros(count)
    for t in range(1, count):
        steps[t] = 0.8 * steps[t - 1] + rng.normal()
    return np.cumsum(steps + 0.3)


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    return load(write(tmp_path_factory.mktemp("walk") / "a.csv", y=drifting()), ahead=1)


# ---- Ridge regression --------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["values", "change by values", "change by changes"])
@pytest.mark.parametrize("penalty", [1e-8, 1e-2, 10.0])
def test_ridge_regression_is_the_one_of_its_definition(form, penalty):
    """Minimises |left - Z w - b|^2 + penalty * sum (spread_j w_j)^2, here by least squares."""
    x = RNG.normal(size=(300, 2)).cumsum(axis=0).astype(np.float32)
    y = RNG.normal(size=300) + x[:, 0]
    rows, begins, lags = np.arange(150), np.zeros(300, dtype=int), 3
    now = Linear(np.array([[0.7, 0.0]]), 0.2)
    sums = Lagged.of(x, y, rows, begins, 4)
    found = linear.fit(sums, [Choice(form, lags, penalty)], now)

    places = np.maximum(rows[:, None] - np.arange(lags), 0)
    z = x[places].astype(float)
    left = y[rows].copy()
    if form != "values":
        left -= 0.7 * x[rows, 0].astype(float) + 0.2
    if form == "change by changes":
        z = z[:, :-1] - z[:, 1:]
    z = z.reshape(len(rows), -1)
    centered = z - z.mean(axis=0)
    spread = np.sqrt((centered**2).sum(axis=0))
    system = np.concatenate([centered, np.diag(np.sqrt(penalty) * spread)])
    right = np.concatenate([left - left.mean(), np.zeros(len(spread))])
    w = np.linalg.lstsq(system, right, rcond=None)[0]
    expected = left.mean() + centered @ w + (y[rows] - left)
    values = found.values(x, rows, begins[rows])
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)
    error = linear.error(sums, found)
    assert error == pytest.approx(np.mean((expected - y[rows]) ** 2), rel=1e-6)


def test_later_rows_choose_form_lags_and_penalty(walk):
    """The next step of the walk is most of the one before, which the last value does not know."""
    found = fitted(walk)
    assert found.ridge.learned.lags > 1
    now, net = found.linears["last value"], found.ridge.learned
    rows = np.flatnonzero(walk.parts == VALIDATION)
    begins = bases.begins_of(walk.groups.starts)[rows]
    y = (walk.y[rows] - walk.schema.target.mean) / walk.schema.target.std
    errors = [np.mean((one.values(walk.x, rows, begins) - y) ** 2) for one in (net, now)]
    assert errors[0] < 0.9 * errors[1]


def test_of_several_choices_the_mean_is_fitted():
    x = RNG.normal(size=(200, 2)).astype(np.float32)
    y = RNG.normal(size=200)
    rows, begins = np.arange(200), np.zeros(200, dtype=int)
    sums = Lagged.of(x, y, rows, begins, 4)
    hows = [Choice("values", 4, 0.1), Choice("values", 1, 1e-3)]
    each = [linear.fit(sums, [how], None).values(x, rows, begins) for how in hows]
    both = linear.fit(sums, hows, None)
    assert both.lags == 4
    np.testing.assert_allclose(both.values(x, rows, begins), np.mean(each, axis=0), rtol=1e-9)


def test_the_last_value_is_the_target_of_the_row_itself(walk):
    now = fitted(walk).linears["last value"]
    values = now.values(walk.x, np.arange(len(walk.x)), np.zeros(len(walk.x), dtype=int))
    target = walk.schema.target
    np.testing.assert_allclose(values * target.std + target.mean, walk.now, rtol=1e-4)


def test_rows_before_a_sequence_are_copies_of_its_first():
    x = np.array([[5.0], [1.0], [2.0], [7.0], [3.0]], dtype=np.float32)
    one = Linear(np.array([[1.0], [10.0], [100.0]]), 0.5)
    begins = np.array([0, 0, 0, 3, 3])
    found = one.values(x, np.arange(5), begins)
    assert found.tolist() == [555.5, 551.5, 512.5, 777.5, 773.5]


def test_values_do_not_depend_on_the_rows_beside_them():
    x = RNG.normal(size=(200, 3)).astype(np.float32)
    one = Linear(RNG.normal(size=(9, 3)), 0.1)
    begins = np.zeros(200, dtype=int)
    whole = one.values(x, np.arange(200), begins)
    for size in (1, 7, 64):
        rows = np.split(np.arange(200), range(size, 200, size))
        parts = [one.values(x, some, begins[some]) for some in rows]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_constant_input_and_alike_inputs_have_finite_weights():
    x = np.ones((100, 3), dtype=np.float32)
    x[:, 1] = x[:, 2] = np.sin(np.arange(100))
    y = x[:, 1].astype(float) * 2
    sums = Lagged.of(x, y, np.arange(100), np.zeros(100, dtype=int), 2)
    found = linear.fit(sums, [Choice("values", 2, 1e-8)], None)
    assert np.isfinite(found.weights).all()
    assert found.values(x, np.arange(100), np.zeros(100, dtype=int)) == pytest.approx(y, abs=1e-4)


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("of", ["a copy", "a sum"])
def test_a_target_that_is_exactly_linear_is_fitted(of, offset, tmp_path):
    """Rounding leaves squared errors below zero there."""
    x = np.arange(200) % 7 + 0.25 + offset
    y = {"a copy": x, "a sum": 3 * x - 0.1}[of]
    data = load(write(tmp_path / "a.csv", t=np.arange(200), x=x, y=y), order="t", features=("x",))
    found = fitted(data).ridge.learned
    rows = np.flatnonzero(data.parts == VALIDATION)
    values = found.values(data.x, rows, bases.begins_of(data.groups.starts)[rows])
    wanted = (data.y[rows] - data.schema.target.mean) / data.schema.target.std
    np.testing.assert_allclose(values, wanted, atol=1e-3)


# ---- The share of the net ----------------------------------------------------------------------


def test_a_net_that_adds_noise_has_no_share():
    left = RNG.normal(size=500)
    assert share_of_net(left, RNG.normal(size=500)) < 0.1
    assert share_of_net(left, np.zeros(500)) == 0.0
    assert share_of_net(left, -left) == 0.0
    assert share_of_net(left, left) == 1.0
    assert share_of_net(left, 3.0 * left) == pytest.approx(1 / 3)


def test_a_gain_within_its_standard_error_is_none():
    """One stretch alone gains, and all others lose a little."""
    left, added = np.zeros(400), np.full(400, 0.1)
    left[:20] = added[:20] = 1.0
    assert share_of_net(left, added) == 0.0
    left[:] = added[:] = 1.0
    assert share_of_net(left, added) == 1.0


def test_net_and_ridge_regression_are_mixed_by_the_share(walk):
    found = fitted(walk)
    base = found.base("last value")
    rows, begins = np.arange(len(walk.x)), np.zeros(len(walk.x), dtype=int)
    out = RNG.normal(size=len(walk.x))
    mixed = combined(base, found.ridge, 0.25)
    by_net = base.linear.values(walk.x, rows, begins) + base.scale * out
    expected = 0.25 * by_net + 0.75 * found.ridge.refitted.values(walk.x, rows, begins)
    values = mixed.linear.values(walk.x, rows, begins) + mixed.scale * out
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-9)
    alone = combined(base, found.ridge, 0.0)
    assert alone.scale == 0.0
    np.testing.assert_allclose(
        alone.linear.values(walk.x, rows, begins),
        found.ridge.refitted.values(walk.x, rows, begins),
        rtol=1e-12,
    )
    # A net on the ridge regression stands on the one of both parts.
    assert combined(found.base("ridge"), found.ridge, 1.0).linear is found.ridge.refitted


# ---- What the net reads ------------------------------------------------------------------------


def test_inputs_far_out_are_drawn_in_and_stay_in_order():
    x = np.array([[-1e6], [-6.0], [-5.0], [0.0], [4.9], [5.0], [50.0], [1e18]], dtype=np.float32)
    found = bases.inputs(x, np.linspace(-1, 1, 8))
    assert found.shape == (8, 2)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[2:6, 0], x[2:6, 0])
    assert (np.diff(found[:, 0]) > 0).all()
    assert np.abs(found).max() < 60


def test_a_few_numbers_far_out_do_not_make_the_others_alike(tmp_path):
    x = RNG.normal(size=300)
    x[::50] *= 1e4
    data = load(write(tmp_path / "a.csv", x=x, y=RNG.normal(size=300)))
    usual = np.abs(data.x[np.arange(300) % 50 > 0, 0])
    assert np.median(usual) > 0.001
    assert np.median(usual) > 5 * np.median(
        np.abs((x - x.mean()) / x.std())[np.arange(300) % 50 > 0]
    )


# ---- Training and what is kept -----------------------------------------------------------------


@pytest.fixture(scope="module")
def bent(tmp_path_factory):
    """A target that is the product of two inputs, and the net that learned it."""
    folder = tmp_path_factory.mktemp("bent")
    a, b = RNG.normal(size=(2, 1_500))
    data = load(write(folder / "a.csv", a=a, b=b, y=a * b + 0.1 * a))
    options = train.Options(**QUICK, cell="gru", hidden=16, lr=1e-2, dropout=0.0)
    return data, train.train(data, options, updates=600), folder


def test_the_net_learns_what_ridge_regression_cannot(bent):
    data, trained, _ = bent
    judged = scores.judge(trained.model, data, TEST)
    others = references(data, judged.places, trained.ridge)
    assert trained.share > 0.8
    assert judged.score.rmse < 0.5 * others["ridge on lags"].rmse
    assert {"mean", "ridge on lags"} <= set(others)
    assert trained.validation.rmse < 0.5 * others["ridge on lags"].rmse


def test_where_all_is_linear_the_ridge_regression_is_kept(walk):
    options = train.Options(**QUICK, hidden=4)
    trained = train.train(walk, options, updates=60)
    judged = scores.judge(trained.model, walk, TEST)
    ridge = references(walk, judged.places, trained.ridge)["ridge on lags"]
    assert judged.score.rmse <= 1.02 * ridge.rmse
    assert (
        judged.score.rmse
        < scores.score(walk.schema.target, judged.truth, walk.now[judged.places]).rmse
    )


def test_what_is_saved_predicts_to_the_same_bits(bent):
    data, trained, folder = bent
    trained.model.save(folder / "net.safetensors")
    again = predict.load_model(folder / "net.safetensors")
    span = [(0, len(data.x))]
    before = np.concatenate([out for _, out in predict.outputs(trained.model, data.x, span)])
    after = np.concatenate([out for _, out in predict.outputs(again, data.x, span)])
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weights": [[1.0]]}, r"weights of shape \(1, 1\); its table has 2 inputs"),
        ({"weights": []}, "weights of shape"),
        ({"weights": "many"}, "its linear forecast is none"),
        ({"weights": [[1.0, 2.0], [1.0]]}, "its linear forecast is none"),
        ({"bias": float("nan")}, "its linear forecast is not finite"),
        ({"bias": None}, "its linear forecast is none"),
        ({"scale": -1.0}, "its net has scale -1.0"),
        ({"scale": "1"}, "its net has scale '1'"),
        (None, "its net has 3 inputs and 1 outputs; its table has 2 and 1"),
        ("base", "its linear forecast is none"),
    ],
    ids=str,
)
def test_a_damaged_base_is_refused(bent, change, told, tmp_path):
    _, trained, _ = bent
    base = trained.model.base.as_json()
    base = {**base, **change} if isinstance(change, dict) else change
    path = tmp_path / "net.safetensors"
    model = trained.model
    gd.save(path, model.net, model.params, table=model.schema.as_json(), base=base)
    with pytest.raises(gd.CheckpointError, match=told):
        predict.load_model(path)


# ---- The plan ----------------------------------------------------------------------------------


def test_both_nets_and_all_bases_are_tried_and_the_best_is_trained(walk, monkeypatch):
    monkeypatch.setattr(train, "_TRIAL_UPDATES", 50)
    said = []
    trained = train.train(walk, train.Options(**QUICK), updates=20, say=said.append)
    tried = [(trial.base, trial.cell, trial.hidden) for trial in trained.plan.trials]
    best = min(trained.plan.trials[:3], key=lambda trial: trial.score)
    assert tried[:3] == [(kind, "gru", 32) for kind in ("ridge", "mean", "last value")]
    assert tried[3:] == [(best.base, "lstm", 64)]
    chosen = min(trained.plan.trials, key=lambda trial: trial.score)
    assert (trained.plan.base, trained.plan.cell) == (chosen.base, chosen.cell)
    assert trained.model.net.recurrent[0].hidden_size == chosen.hidden
    assert said == [
        f"tried 4 nets shortly: {chosen.cell} {chosen.hidden} on {chosen.base} does best"
    ]


def test_a_run_keeps_its_plan_and_goes_on_without_trials(walk, monkeypatch, tmp_path):
    monkeypatch.setattr(train, "_TRIAL_UPDATES", 50)
    run = tmp_path / "run"
    first = train.train(walk, train.Options(**QUICK, run=run), updates=20)
    told = json.loads((run / "plan.json").read_text())
    assert told == {"base": first.plan.base, "cell": first.plan.cell, "hidden": first.plan.hidden}
    monkeypatch.setattr(train, "_planned", None)
    again = train.train(walk, train.Options(**QUICK, run=run, resume=True), updates=40)
    assert (again.plan.base, again.plan.cell) == (first.plan.base, first.plan.cell)
    assert again.steps == 40


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"base": "oracle", "cell": "gru", "hidden": 3}',
        '{"base": null, "cell": "cnn", "hidden": 3}',
        '{"base": null, "cell": "gru", "hidden": true}',
    ],
)
def test_a_damaged_plan_is_refused(text, tmp_path):
    assert plans.kept(tmp_path) is None
    (tmp_path / "last.safetensors").write_bytes(b"")
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(gd.CheckpointError, match=r"plan.json"):
        plans.kept(tmp_path)


def test_time_that_is_up_ends_trials_and_training(walk):
    trained = train.train(walk, train.Options(**QUICK), minutes=1e-9)
    assert trained.stopped == "minutes"
    assert trained.steps == 0
    assert trained.share == 0.0


def test_classes_and_sequences_have_no_base(tmp_path):
    rows = 200
    path = write(
        tmp_path / "a.csv",
        id=np.arange(rows) // 10,
        x=RNG.normal(size=rows),
        y=["ab"[i % 2] for i in range(rows)],
        z=np.arange(rows) // 10 * 1.5,
    )
    for data in (
        load(path, features=("x",)),
        load(path, "z", features=("x",), sequence="id", per="sequence"),
    ):
        assert fitted(data) is None
        trained = train.train(data, train.Options(**QUICK, hidden=3), updates=5)
        assert trained.model.base is None
        assert trained.share == 1.0
        assert trained.plan.trials == ()
        places = np.flatnonzero(data.parts == TEST)
        assert references(data, places, None)
