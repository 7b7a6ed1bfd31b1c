"""Several heads in trainings: targets by head in sources, the losses of heads in reports, scores
and logs, full-batch minimization, and measurements.
"""

import csv
import json

import numpy as np
import pytest

import gradcore as gd
from gradcore._training.full_batch import FullBatch, batches_of
from gradcore.callbacks import CSVLogger
from gradcore.callbacks._logger import Logger, numbers

RNG = np.random.default_rng(0)
LENGTHS = [30, 20, 41, 25, 31]
X = [RNG.standard_normal((n, 3)).astype("float32") for n in LENGTHS]
Y = {
    "coding": [RNG.integers(0, 4, n) for n in LENGTHS],
    "site": [RNG.uniform(size=(n, 2)).astype("float32") for n in LENGTHS],
    "end": RNG.standard_normal(5).astype("float32"),
}
Y["site"][2][7:, 0] = np.nan
NET = gd.Stack(
    gd.LSTM(3, 8),
    gd.Heads(coding=gd.Linear(8, 4), site=gd.Linear(8, 2), end=gd.Linear(8, 1)),
)
LOSSES = {
    "coding": gd.loss.CrossEntropy(weight=(1.0, 2.0, 0.5, 1.0)),
    "site": gd.loss.BinaryCrossEntropy(nan="ignore"),
    "end": gd.loss.MeanSquaredError(step="last"),
}
WEIGHTS = {"site": 0.5, "end": 2.0}
LOSS = gd.loss.Heads(LOSSES, weights=WEIGHTS)


def source(batch_size=2, y=Y, dtype="float32", **options):
    return gd.data.Sequences(
        X, y, step={"end": "last"}, batch_size=batch_size, dtype=dtype, **options
    )


def make(loss=LOSS, **options):
    params = NET.init(1)
    optimizer = gd.optim.Adam(params, 1e-2)
    return gd.Trainer(NET, params, optimizer, loss=loss, threads=1, quiet=True, **options)


def whole(dtype="float64", **options):
    """All sequences as one batch."""
    return source(5, shuffle=False, dtype=dtype, **options).batch(0, 0)


# ---- sources


def test_sequences_give_targets_by_head():
    batch = source(5, shuffle=False).batch(0, 0)
    assert {n: y.shape for n, y in batch.y.items()} == {
        "coding": (41, 5),
        "site": (41, 5, 2),
        "end": (5, 1),
    }
    for i, n in enumerate(LENGTHS):
        for name in ("coding", "site"):
            np.testing.assert_array_equal(batch.y[name][:n, i], Y[name][i])
    described = source().describe()
    assert described["step"] == {"coding": "all", "site": "all", "end": "last"}
    assert {"y['coding']", "y['site']", "y['end']"} <= set(source().contents())
    only = gd.data.Sequences(X, {"coding": Y["coding"]}, batch_size=2, step="all")
    assert only.batch(0, 0).y.keys() == {"coding"}


def test_weights_by_head_or_for_all():
    each = [1.0, 2.0, 0.0, 3.0, 0.5]
    batch = whole(weight=each)
    np.testing.assert_array_equal(batch.weight["end"], each)
    np.testing.assert_array_equal(batch.weight["coding"][0], each)
    batch = whole(weight={"coding": [np.full(n, 0.5) for n in LENGTHS]})
    assert batch.weight.keys() == {"coding"}
    found = gd.value_and_grad(
        NET, NET.init(0, "float64"), batch.x, batch.y, loss=LOSS,
        weight=batch.weight, lengths=batch.lengths,
    )  # fmt: skip
    assert found.loss_weights["end"] == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": {}}, "the targets of a head, one or more"),
        ({"y": {1: Y["coding"]}}, "must be a dict by the names of heads"),
        ({"step": {"ende": "last"}}, "step must name heads that have targets.*'ende'"),
        ({"step": {"end": "first"}}, r"step\['end'\] must be one of"),
        (
            {"step": {"end": "last"}, "weight": {"ende": [1.0] * 5}},
            "weight must name heads that have targets",
        ),
        ({}, r"y\['end'\] must have one value per step"),
        ({"y": {"coding": Y["coding"][:4]}}, r"y\['coding'\] must have as many sequences as x"),
    ],
)
def test_what_sources_refuse(change, message):
    options = {"y": Y, "batch_size": 2, **change}
    with pytest.raises(gd.errors.GradcoreError, match=message):
        gd.data.Sequences(X, **options)


def test_streams_give_targets_by_head(tmp_path):
    x = np.concatenate(X)
    y = {n: np.concatenate(Y[n]) for n in ("coding", "site")}
    data = gd.data.Stream(x, y, k1=20, k2=30, batch_size=2)
    batch = data.batch(0, 1)
    assert batch.y["coding"].shape == (len(batch.x), 2)
    assert batch.y["site"].shape == (len(batch.x), 2, 2)
    np.testing.assert_array_equal(batch.y["coding"][:, 0], y["coding"][10:40])
    net = gd.Stack(gd.GRU(3, 6), gd.Heads(coding=gd.Linear(6, 4), site=gd.Linear(6, 2)))
    params = net.init(0)
    loss = {n: LOSSES[n] for n in y}
    trainer = gd.Trainer(net, params, gd.optim.Adam(params, 1e-2), loss=loss, quiet=True)
    report = trainer.fit(data, epochs=4, validation=data, run=tmp_path)
    assert np.allclose(report.losses, np.sum(list(report.head_losses.values()), axis=0))
    assert len(report.head_losses["site"]) == report.steps == 4 * len(data)
    assert report.head_scores[-1][1].keys() == y.keys()
    with pytest.raises(gd.ArgumentError, match="y must have the targets of a head"):
        gd.data.Stream(x, {}, k1=20)
    with pytest.raises(gd.ShapeError, match="y must have one row per step"):
        gd.data.Stream(x, {"coding": y["coding"][1:]}, k1=20)


# ---- Trainer


def test_reports_have_the_loss_of_each_head(tmp_path):
    trainer = make()
    report = trainer.fit(source(), steps=6, validation=source(), every=3, run=tmp_path, watch=4)
    assert set(report.head_losses) == {"coding", "site", "end"}
    weights = {"coding": 1.0, **WEIGHTS}
    for step, total in enumerate(report.losses):
        parts = [weights[n] * own[step] for n, own in report.head_losses.items()]
        assert np.isclose(total, sum(parts), rtol=1e-12)
    assert [step for step, _ in report.head_scores] == [3, 6]
    score, heads = report.evaluations[-1][1], report.head_scores[-1][1]
    assert np.isclose(score, sum(weights[n] * own for n, own in heads.items()), rtol=1e-12)
    batch = whole("float32")
    expected = gd.value_and_grad(
        NET, trainer.params, batch.x, batch.y, loss=LOSS, lengths=batch.lengths, train=False
    )
    assert np.isclose(score, expected.loss, rtol=1e-5)
    for name, own in heads.items():  # of all terms of the head in all batches
        assert np.isclose(own, expected.losses[name], rtol=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[2]["losses"] == {n: own[2] for n, own in report.head_losses.items()}
    assert lines[2]["scores"] == report.head_scores[0][1]
    assert "watch_missing" not in report.watched[0]


def test_a_resumed_run_has_the_same_bits(tmp_path):
    straight = make()
    straight.fit(source(), steps=9, validation=source(), every=3)
    make().fit(source(), steps=5, validation=source(), every=3, run=tmp_path)
    later = make()
    report = later.fit(source(), steps=9, validation=source(), every=3, run=tmp_path, resume=True)
    assert report.steps == 9
    np.testing.assert_array_equal(later.params.flat, straight.params.flat)
    other = gd.loss.Heads(LOSSES, weights={"site": 0.25, "end": 2.0})
    with pytest.raises(gd.ArgumentError, match="loss"):
        make(other).fit(source(), steps=12, validation=source(), run=tmp_path, resume=True)
    changed = {**Y, "end": Y["end"] + 1}
    with pytest.raises(gd.ArgumentError, match=r"y\['end'\]"):
        make().fit(source(y=changed), steps=12, validation=source(), run=tmp_path, resume=True)


def test_batches_are_added_up_only_as_sums():
    with pytest.raises(gd.ArgumentError, match="accumulate must be 1 for losses of several heads"):
        make(accumulate=2)
    sums = {
        "coding": gd.loss.CrossEntropy(reduction="sum"),
        "site": gd.loss.BinaryCrossEntropy(nan="ignore", reduction="sum"),
        "end": gd.loss.MeanSquaredError(step="last", reduction="sum"),
    }
    report = make(gd.loss.Heads(sums), accumulate=3).fit(source(), steps=2)
    batch = whole("float32")
    expected = gd.value_and_grad(
        NET, NET.init(1), batch.x, batch.y, loss=gd.loss.Heads(sums), lengths=batch.lengths
    )
    assert np.isclose(report.losses[0], expected.loss, rtol=1e-5)
    for name, own in expected.losses.items():
        assert np.isclose(report.head_losses[name][0], own, rtol=1e-5)


def test_wrong_heads_are_told_when_a_trainer_is_made():
    with pytest.raises(gd.ArgumentError, match="that of 'end' is missing"):
        make({n: LOSSES[n] for n in ("coding", "site")})
    with pytest.raises(gd.DTypeError, match="loss of the whole sequence"):
        make({**LOSSES, "site": gd.loss.ErrorToSignal()},
             stability=gd.stability.StabilityMonitor(3))  # fmt: skip


def test_logs_have_numbers_by_head(tmp_path):
    seen = []

    class Kept(Logger):
        def _write(self, view, values):
            seen.append(values)

        def _close(self, view):
            pass

    table = CSVLogger(tmp_path / "log.csv")
    trainer = make(callbacks=[Kept(1), table])
    report = trainer.fit(source(), steps=2, validation=source(), every=2)
    assert seen[1]["losses/site"] == report.head_losses["site"][1]
    assert seen[2]["scores/end"] == report.head_scores[0][1]["end"]
    assert seen[2]["score"] == report.evaluations[0][1]
    assert numbers({"losses": {"a": 1.0, "b": float("nan")}}) == {"losses/a": 1.0}
    with (tmp_path / "log.csv").open() as file:
        assert len(list(csv.reader(file))) == 3


def test_a_stability_monitor_measures_the_sum():
    monitor = gd.stability.StabilityMonitor(1)
    report = make(stability=monitor).fit(source(), steps=2)
    assert all(line["sharpness"] is not None for line in report.watched)


# ---- the whole loss at once


@pytest.mark.parametrize("size", [1, 2, 5])
def test_full_batches_are_one_large_batch(size):
    """Each head's mean is over its own terms of all batches, whose numbers differ by head."""
    params = NET.init(1, "float64")
    problem = FullBatch(NET, params, batches_of(source(size, dtype="float64")), LOSS, None, None)
    value, gradient = problem.value_and_grad(params.flat)
    v = RNG.standard_normal(NET.n_parameters)
    batch = whole()
    how = {"loss": LOSS, "lengths": batch.lengths}
    expected = gd.value_and_grad(NET, params, batch.x, batch.y, **how)
    assert np.isclose(value, expected.loss, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected.grads.flat, atol=1e-13)
    product = gd.jacobian.hvp(NET, params, batch.x, batch.y, v[None], **how).product[0]
    np.testing.assert_allclose(problem.product(params.flat, v, "hessian"), product, atol=1e-11)


@pytest.mark.parametrize("method", ["L-BFGS-B", "least-squares"])
def test_minimize(method):
    params = NET.init(1, "float64")
    data = source(dtype="float64")
    report = gd.minimize(
        NET, params, data, loss=LOSS, method=method, steps=8, validation=data, quiet=True
    )
    assert report.losses[-1] < 0.9 * report.losses[0]
    assert np.isclose(report.evaluations[-1][1], report.losses[-1], rtol=1e-9)
    assert report.head_scores[-1][1].keys() == Y.keys()
    given = {**LOSSES, "end": gd.loss.Given()}
    with pytest.raises(gd.ArgumentError, match="Given does not"):
        gd.minimize(NET, params, data, loss=given, quiet=True)


# ---- measurements


def test_windows_add_up_to_the_gradient():
    """Those of means with divisors of their own, one of them at the last step only."""
    params, batch = NET.init(1, "float64"), whole()
    how = {"loss": LOSS, "lengths": batch.lengths}
    shares = gd.horizon.window_shares(NET, params, batch.x, batch.y, windows=5, **how)
    assert np.isclose(shares.share.sum(), 1.0, rtol=1e-12)
    one = gd.horizon.window_shares(NET, params, batch.x, batch.y, windows=1, **how)
    exact = gd.value_and_grad(NET, params, batch.x, batch.y, **how).grads
    assert np.isclose(one.norm_log10[0], exact.norm_log10(), rtol=1e-12)
    weight = {"coding": RNG.uniform(size=(41, 5)), "end": RNG.uniform(size=5)}
    one = gd.horizon.window_shares(NET, params, batch.x, batch.y, windows=1, weight=weight, **how)
    exact = gd.value_and_grad(NET, params, batch.x, batch.y, weight=weight, **how).grads
    assert np.isclose(one.norm_log10[0], exact.norm_log10(), rtol=1e-12)
    loss = {**LOSSES, "end": gd.loss.NashSutcliffe()}
    with pytest.raises(gd.ArgumentError, match="needs a loss whose windows add up"):
        gd.horizon.window_shares(NET, params, batch.x, batch.y, loss=loss)


def test_gradients_of_single_sequences():
    params, batch = NET.init(1, "float64"), whole()
    found = gd.jacobian.per_sample_gradients(
        NET, params, batch.x, batch.y, loss=LOSS, lengths=batch.lengths
    )
    for b, n in enumerate(LENGTHS):
        y = {name: batch.y[name][:n, b : b + 1].copy() for name in ("coding", "site")}
        y["end"] = batch.y["end"][b : b + 1]
        alone = gd.value_and_grad(NET, params, batch.x[:n, b : b + 1].copy(), y, loss=LOSS)
        np.testing.assert_allclose(found[b].flat, alone.grads.flat, atol=1e-14)


def test_diagnose_a_net_with_heads():
    params, batch = NET.init(1, "float64"), whole()
    found = gd.diagnose(NET, params, batch.x, batch.y, loss=LOSS, lengths=batch.lengths)
    expected = gd.value_and_grad(
        NET, params, batch.x, batch.y, loss=LOSS, lengths=batch.lengths
    ).loss
    assert f"loss {expected:.4g}" in str(found)
    assert gd.horizon.memory_length(NET, params, batch.x, lengths=batch.lengths).shape == (5,)
