"""Training on a table: what it learns, where its scores come from, and predictions."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

import gradcore as gd
from gradcore.apps.settings import Resources
from gradcore.apps.tasks.table import base as bases
from gradcore.apps.tasks.table import batches as batches_module
from gradcore.apps.tasks.table import dataset, job, predict, references, report, scores, train
from gradcore.apps.tasks.table.bases import fitted
from gradcore.apps.tasks.table.read import Wanted
from gradcore.apps.tasks.table.roles import Roles
from gradcore.apps.tasks.table.sequences import TEST, TRAIN, VALIDATION

QUICK = {"resources": Resources(threads=1), "quiet": True}


def write(path, header, rows):
    lines = [",".join(header), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def echo(path, count=40, longest=30, lag=5):
    """Sequences whose target is what x was `lag` rows ago, zero before there is one."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        x = rng.normal(size=int(rng.integers(longest // 2, longest + 1))).round(4)
        y = np.concatenate([np.zeros(lag), x[:-lag]]) * 3.0 + 10.0
        rows += [(f"s{i}", t, a, b) for t, (a, b) in enumerate(zip(x, y, strict=True))]
    return write(path, ["id", "t", "x", "y"], rows)


def made(path, roles, out, updates=30, split=None, **options):
    return job.Job(
        [path],
        roles,
        minutes=None,
        updates=updates,
        split=split,
        out=out,
        options=train.Options(**{**QUICK, "hidden": 8, **options}),
    )


# ---- Learning ----------------------------------------------------------------------------------


def test_a_task_with_memory_is_learned(tmp_path):
    """No guess from the row itself helps: the target is what came five rows ago."""
    path = echo(tmp_path / "echo.csv", count=120)
    out = tmp_path / "net.safetensors"
    roles = Roles("y", features=("x",), sequence="id", order="t")
    result = job.run(made(path, roles, out, updates=700, hidden=24, lr=1e-2))
    net, mean = result.judged.score, result.baselines["mean"]
    assert mean.rmse > 2.0
    assert net.rmse < 0.4 * mean.rmse
    assert net.r2 > 0.8
    assert result.beaten
    assert result.trained.best_step <= result.trained.steps == 700


def test_classes_of_whole_sequences_are_learned(tmp_path):
    """The class is the sign of the first row; all others are noise."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(150):
        x = rng.normal(size=12) * 0.3
        x[0] = 1.0 if i % 2 else -1.0
        rows += [(f"s{i}", value, "up" if i % 2 else "down") for value in x.round(4)]
    path = write(tmp_path / "a.csv", ["id", "x", "y"], rows)
    roles = Roles("y", sequence="id", per="sequence")
    result = job.run(
        made(path, roles, tmp_path / "net.safetensors", updates=250, hidden=16, lr=1e-2)
    )
    assert result.judged.score.accuracy > 0.9
    assert 0.4 < result.baselines["majority"].accuracy < 0.6
    assert result.judged.score.confusion.sum() == (result.data.parts == TEST).sum()
    assert result.judged.score.accuracy == np.mean(result.judged.truth == result.judged.guess)


def test_tokens_are_learned(tmp_path):
    """The target is the token before."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 3, 900)
    before = np.concatenate([[0], tokens[:-1]])
    rows = [("xyz"[a], "pqr"[b]) for a, b in zip(tokens, before, strict=True)]
    path = write(tmp_path / "a.csv", ["token", "y"], rows)
    out = tmp_path / "net.safetensors"
    result = job.run(made(path, Roles("y"), out, updates=200, hidden=16, lr=2e-2))
    assert result.judged.score.accuracy > 0.95
    assert isinstance(predict.load_model(out).net.layers[0], gd.Embedding)


def test_the_same_seed_gives_the_same_net(tmp_path):
    path = echo(tmp_path / "echo.csv")
    roles = Roles("y", sequence="id", order="t")
    flats = []
    for seed in (1, 1, 2):
        out = tmp_path / "net.safetensors"
        job.run(made(path, roles, out, seed=seed))
        flats.append(gd.load(out).params.flat)
    np.testing.assert_array_equal(flats[0], flats[1])
    assert not np.array_equal(flats[0], flats[2])


def test_the_best_net_is_kept(tmp_path):
    # Numbers of the validation part alone choose; a rate this large makes later nets worse.
    path = echo(tmp_path / "echo.csv")
    data = dataset.load([path], Roles("y", sequence="id", order="t"), Wanted())
    trained = train.train(data, train.Options(**QUICK, hidden=8, lr=0.5), updates=300)
    base = fitted(data).base(trained.plan.base)
    alone = scores.judge(replace(trained.model, base=base), data, VALIDATION).score.rmse
    assert alone == pytest.approx(trained.best)
    assert trained.best_step <= trained.steps
    # What is kept is that net and ridge regression together, which is no worse than either.
    assert trained.validation.rmse <= trained.best * (1 + 1e-9)


def test_a_run_goes_on_where_it_stopped(tmp_path):
    path = echo(tmp_path / "echo.csv")
    roles = Roles("y", sequence="id", order="t")
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    job.run(made(path, roles, whole, updates=60, run=tmp_path / "a"))
    job.run(made(path, roles, parts, updates=25, run=tmp_path / "b"))
    job.run(made(path, roles, parts, updates=60, run=tmp_path / "b", resume=True))
    last = [gd.load(tmp_path / run / "last.safetensors").params.flat for run in "ab"]
    np.testing.assert_array_equal(*last)
    assert (tmp_path / "a" / "metrics.jsonl").exists()


def test_limits_and_options_that_cannot_be(tmp_path):
    path = echo(tmp_path / "echo.csv", count=6)
    data = dataset.load([path], Roles("y", sequence="id", order="t"), Wanted())
    with pytest.raises(gd.ArgumentError, match="cell must be one of"):
        train.train(data, train.Options(**QUICK, cell="cnn"), updates=1)
    rows = [(f"s{i}", t + i, "ab"[i % 2]) for i in range(9) for t in range(3)]
    path = write(tmp_path / "a.csv", ["id", "x", "y"], rows)
    data = dataset.load([path], Roles("y", sequence="id", per="sequence"), Wanted())
    with pytest.raises(gd.ArgumentError, match="--window needs a target in every row"):
        train.train(data, train.Options(**QUICK, window=5), updates=1)


# ---- Batches -----------------------------------------------------------------------------------


def batches_of(data, batch=16, window=None):
    return batches_module.source(data, None, batch=batch, window=window, seed=0)


def test_short_sequences_are_learned_whole(tmp_path):
    data = dataset.load(
        [echo(tmp_path / "echo.csv")], Roles("y", sequence="id", order="t"), Wanted()
    )
    batches, longest = batches_of(data)
    assert isinstance(batches, gd.data.Sequences)
    assert longest == batches.lengths.max()
    assert batches.lengths.sum() == (data.parts == TRAIN).sum()


@pytest.mark.parametrize("ahead", [0, 7])
def test_nothing_is_learned_from_what_is_held_out(tmp_path, ahead):
    """Every target of weight 1 that training sees is one of the part to learn from."""
    rows = [(np.sin(t), 1_000.0 + t) for t in range(2_000)]
    path = write(tmp_path / "a.csv", ["x", "y"], rows)
    data = dataset.load([path], Roles("y", ahead=ahead), Wanted())
    batches, window = batches_of(data, batch=4, window=64)
    assert isinstance(batches, gd.data.Stream)
    assert window == 64
    seen = []
    target = data.schema.target
    for batch in batches:
        steps = np.arange(batch.y.shape[0])[:, None]
        counted = np.ones(batch.y.shape[:2], dtype=bool)
        if batch.weight is not None:
            counted &= batch.weight > 0
        if batch.lengths is not None:
            counted &= steps < batch.lengths
        seen.append(batch.y[counted][:, 0])
    learned = np.concatenate(seen).astype(float) * target.std + target.mean
    expected = np.arange(1_000 + ahead, 1_000 + 1_400)
    np.testing.assert_allclose(np.sort(learned), expected, atol=0.01)


def test_long_sequences_are_cut_with_resets(tmp_path):
    rows = [(i, np.sin(t), i + t / 7) for i in range(4) for t in range(6_000)]
    path = write(tmp_path / "a.csv", ["id", "x", "y"], rows)
    data = dataset.load([path], Roles("y", sequence="id"), Wanted(), split="sequence")
    batches, window = batches_of(data, batch=2)
    assert isinstance(batches, gd.data.Stream)
    assert window == 6_000 // 16
    resets = sum(int(batch.reset.sum()) for batch in batches)
    assert resets == 2  # two sequences to learn from


# ---- Scores ------------------------------------------------------------------------------------


def test_scores_of_numbers(tmp_path):
    path = echo(tmp_path / "echo.csv", count=6)
    target = dataset.load([path], Roles("y", sequence="id"), Wanted()).schema.target
    found = scores.score(target, np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 6.0]))
    assert found.rmse == pytest.approx(np.sqrt(3.0))
    assert found.mae == pytest.approx(1.0)
    assert found.r2 == pytest.approx(1.0 - 9.0 / 2.0)
    assert scores.score(target, np.ones(3), np.zeros(3)).r2 is None


def test_scores_of_classes(tmp_path):
    rows = [(t, "abc"[t % 3]) for t in range(60)]
    path = write(tmp_path / "a.csv", ["x", "y"], rows)
    target = dataset.load([path], Roles("y"), Wanted()).schema.target
    truth, guess = np.array([0.0, 0, 1, 1]), np.array([0.0, 1, 1, 1])
    found = scores.score(target, truth, guess)
    assert found.accuracy == 0.75
    # Class 0: 2*1/(2+1), class 1: 2*2/(2+3); class 2 does not occur.
    assert found.f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found.confusion.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]


def test_forecasts_are_compared_with_the_last_value(tmp_path):
    rows = [(np.sin(t), float(t)) for t in range(100)]
    path = write(tmp_path / "a.csv", ["x", "y"], rows)
    data = dataset.load([path], Roles("y", ahead=4), Wanted())
    found = references.references(data, np.flatnonzero(data.parts == TEST), None)
    assert found["last value"].rmse == pytest.approx(4.0)
    assert found["mean"].rmse == pytest.approx(
        np.sqrt(np.mean((np.arange(85, 100) - np.arange(4, 70).mean()) ** 2))
    )
    without = dataset.load([path], Roles("y"), Wanted())
    places = np.flatnonzero(without.parts == TEST)
    assert "last value" not in references.references(without, places, None)


def test_boosting_keeps_to_its_threads(tmp_path, monkeypatch):
    """And one thread boosts a small table, where several would wait for each other."""
    ensemble = pytest.importorskip("sklearn.ensemble")
    threadpoolctl = pytest.importorskip("threadpoolctl")
    kind = ensemble.HistGradientBoostingRegressor
    fit, found = kind.fit, []

    def watched(self, x, y):
        pools = threadpoolctl.threadpool_info()
        found.append({p["num_threads"] for p in pools if p["user_api"] == "openmp"})
        self.max_iter = 2  # three threads on two cores wait for each other
        return fit(self, x, y)

    monkeypatch.setattr(kind, "fit", watched)
    data = dataset.load([echo(tmp_path / "a.csv")], Roles("y", sequence="id", order="t"), Wanted())
    places = np.flatnonzero(data.parts == TEST)
    references.references(data, places, None, threads=3)
    monkeypatch.setattr(references, "_ONE_THREAD", 0)
    references.references(data, places, None, threads=3)
    assert found == [{1}, {3}]


def test_the_measure_of_a_score_is_that_of_the_loss_of_training(tmp_path):
    """judge sums by hand what gradcore.value finds on the same sequence."""
    rows = [(np.sin(t), np.cos(t), "ab"[t * t % 3 > 0]) for t in range(200)]
    path = write(tmp_path / "a.csv", ["x", "number", "label"], rows)
    for name in ("number", "label"):
        data = dataset.load([path], Roles(name, features=("x",)), Wanted())
        net = train.build(data.schema, train.Options(hidden=5))
        params = net.init(seed=0)
        weight = (data.parts == TEST).astype(np.float32)[:, None]
        expected = gd.value(
            net,
            params,
            data.x[:, None],
            batches_module.targets(data.schema, data.y)[:, None],
            loss=train.loss(data.schema),
            weight=weight,
        )
        if name == "number":
            expected = data.schema.target.std * np.sqrt(expected)
        model = predict.Model(net, params, data.schema)
        assert scores.judge(model, data, TEST).score.measure == pytest.approx(expected, rel=1e-5)


# ---- Predictions -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """A net per row, a net per sequence, one on tokens, each with the file it learned from."""
    folder = tmp_path_factory.mktemp("nets")
    path = echo(folder / "echo.csv", count=12)
    rows = [(f"s{i}", t, np.sin(i * t), "abc"[i % 3]) for i in range(12) for t in range(4 + i)]
    labelled = write(folder / "labelled.csv", ["id", "t", "x", "label"], rows)
    tokens = write(
        folder / "tokens.csv", ["token", "y"], [("xyz"[t * t % 3], t % 2) for t in range(90)]
    )
    jobs = {
        "step": (path, Roles("y", features=("x",), sequence="id", order="t")),
        "sequence": (labelled, Roles("label", sequence="id", order="t", per="sequence")),
        "tokens": (tokens, Roles("y")),
    }
    made_nets = {}
    for name, (file, roles) in jobs.items():
        out = folder / f"{name}.safetensors"
        job.run(made(file, roles, out, updates=3))
        made_nets[name] = (predict.load_model(out), file)
    return made_nets


def written(model, path, **options):
    stream = io.StringIO()
    told = predict.write(model, [path], stream, **options)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert told.rows == len(rows)
    return rows


@pytest.mark.parametrize("window", [1, 3, 7, 4_096])
@pytest.mark.parametrize("name", ["step", "sequence", "tokens"])
def test_predictions_do_not_depend_on_the_window(nets, name, window):
    model, path = nets[name]
    options = {"with_probabilities": name != "step"}
    assert written(model, path, window=window, **options) == written(model, path, **options)


def test_predictions_are_those_of_apply(nets):
    model, path = nets["step"]
    rows = written(model, path)
    data = dataset.load([path], Roles("y", features=("x",), sequence="id", order="t"), Wanted())
    target = model.schema.target
    for index, name in enumerate(data.groups.ids):
        x = data.x[data.sequence(index)]
        front = model.base.linear.values(x, np.arange(len(x)), np.zeros(len(x), dtype=int))
        out, _ = gd.apply(model.net, model.params, bases.inputs(x, front)[:, None])
        sum_of_both = front + model.base.scale * out[:, 0, 0].astype(float)
        expected = sum_of_both * target.std + target.mean
        found = [row for row in rows if row["id"] == name]
        assert [int(row["t"]) for row in found] == list(range(len(expected)))
        np.testing.assert_allclose([float(row["prediction"]) for row in found], expected, rtol=1e-5)


def test_one_long_sequence_has_the_bits_of_apply(nets):
    model, _ = nets["step"]
    x = np.random.default_rng(0).normal(size=(500, 1)).astype(np.float32)
    front = model.base.linear.values(x, np.arange(500), np.zeros(500, dtype=int))
    read = bases.inputs(x, front)[:, None]
    out, _ = gd.apply(model.net, model.params, read)
    whole = front + model.base.scale * out[:, 0, 0].astype(float)
    for window in (1, 99, 128, 500):
        parts = list(predict.outputs(model, x, [(0, 500)], window=window))
        np.testing.assert_array_equal(np.concatenate([out for _, out in parts])[:, 0], whole)
        np.testing.assert_array_equal(np.concatenate([rows for rows, _ in parts]), np.arange(500))


def test_predictions_per_sequence(nets):
    model, path = nets["sequence"]
    rows = written(model, path, with_probabilities=True)
    assert [row["id"] for row in rows] == [f"s{i}" for i in range(12)]
    for row in rows:
        shares = {name: float(row[f"p({name})"]) for name in "abc"}
        assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)
        assert row["prediction"] == max(shares, key=shares.__getitem__)


def test_predictions_need_neither_target_nor_order_of_columns(nets, tmp_path):
    model, path = nets["step"]
    with path.open() as file:
        rows = list(csv.DictReader(file))
    fewer = write(
        tmp_path / "a.csv", ["x", "t", "id"], [(r["x"], r["t"], r["id"]) for r in rows[::-1]]
    )
    by_key = {(row["id"], row["t"]): row["prediction"] for row in written(model, path)}
    assert {(r["id"], r["t"]): r["prediction"] for r in written(model, fewer)} == by_key


def test_a_forecast_is_made_for_every_row(tmp_path):
    rows = [(f"2024-01-01T{t // 60:02}:{t % 60:02}:00", t, np.sin(t)) for t in range(60)]
    path = write(tmp_path / "a.csv", ["when", "x", "y"], rows)
    out = tmp_path / "net.safetensors"
    job.run(made(path, Roles("y", order="when", ahead=5), out, updates=2))
    found = written(predict.load_model(out), path)
    after = [f"2024-01-01T01:{t:02}:00" for t in range(5)]
    assert [row["when"] for row in found] == [*(row[0] for row in rows[5:]), *after]


def test_predictions_for_files_that_do_not_fit(nets, tmp_path):
    def fault(name, header, rows, **options):
        path = write(tmp_path / "a.csv", header, rows)
        with pytest.raises(gd.ArgumentError) as caught:
            written(nets[name][0], path, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value).replace(str(path), "FILE")

    full = ["id", "t", "x"]
    assert "the net names the column 'x', which FILE does not have" in fault(
        "step", ["id", "t", "X"], [("a", 1, 2)]
    )
    assert "FILE lacks columns that the net was trained with: id, t; it has x." in fault(
        "step", ["x"], [(1,)]
    )
    message = "FILE:2: column 'x' must hold finite numbers; got 'red'. Correct or empty the cell."
    assert fault("step", full, [("a", 1, "red")]) == message
    assert "FILE:3: column 'x' is missing" in fault("step", full, [("a", 1, 2), ("a", 2, "")])
    assert "sequence 'a' has two rows with t = 1" in fault("step", full, [("a", 1, 2)] * 2)
    message = fault("tokens", ["token"], [("x",), ("w",)])
    assert message.startswith(
        "FILE:3: column 'token' holds 'w', which the net has not seen; it knows x, y"
    )
    assert "--probabilities needs a net that tells classes" in fault(
        "step", full, [("a", 1, 2)], with_probabilities=True
    )


def test_unseen_texts_may_be_read_as_none(nets, tmp_path):
    path = write(tmp_path / "a.csv", ["token"], [("x",), ("w",)])
    stream = io.StringIO()
    told = predict.write(nets["tokens"][0], [path], stream, unseen="none")
    assert told.rows == 2
    assert "1 row with texts that are not among those to learn from, such as 'w'" in told.notes[0]


def test_rows_with_gaps_get_no_prediction_where_they_were_dropped(tmp_path):
    rows = [(t, np.sin(t) if t != 7 else "", t / 3) for t in range(60)]
    path = write(tmp_path / "a.csv", ["t", "x", "y"], rows)
    out = tmp_path / "net.safetensors"
    wanted = made(path, Roles("y", features=("x",), order="t"), out, updates=2)
    job.run(job.Job(**{**vars(wanted), "missing": "drop"}))
    found = written(predict.load_model(out), path)
    assert [int(row["t"]) for row in found] == [t for t in range(60) if t != 7]


def test_checkpoints_of_other_jobs_are_refused(tmp_path, nets):
    model, _ = nets["step"]
    other = tmp_path / "other.safetensors"
    gd.save(other, model.net, model.params)
    with pytest.raises(gd.CheckpointError, match="holds no net for tables"):
        predict.load_model(other)
    wider = gd.Stack(gd.LSTM(2, 3), gd.Linear(3, 1))
    gd.save(other, wider, wider.init(), table=model.schema.as_json())
    with pytest.raises(gd.CheckpointError, match="its net has 2 inputs and 1 outputs; its table"):
        predict.load_model(other)


def test_a_file_of_predictions_is_whole_or_not_there(nets, tmp_path, monkeypatch):
    model, path = nets["step"]
    out = tmp_path / "p.csv"
    with pytest.raises(gd.ArgumentError, match="is one of the files to read"):
        predict.write(model, [path], path)
    predict.write(model, [path], out)
    before = out.read_text()

    def broken(*args, **kwargs):
        yield from ()
        raise gd.NonFiniteError("here")

    monkeypatch.setattr(predict, "outputs", broken)
    with pytest.raises(gd.NonFiniteError):
        predict.write(model, [path], out)
    assert out.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["p.csv"]


# ---- Pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numbers per row", "classes", "numbers per sequence"])
def test_pictures(tmp_path, kind):
    pytest.importorskip("matplotlib")
    rows = [(f"s{i}", t, i / 2, i + t / 9, "ab"[t % 2]) for i in range(9) for t in range(5)]
    path = write(tmp_path / "a.csv", ["id", "x", "each", "y", "c"], rows)
    roles = {
        "numbers per row": Roles("y", features=("x",), sequence="id"),
        "classes": Roles("c", features=("x",), sequence="id"),
        "numbers per sequence": Roles("each", features=("x",), sequence="id", per="sequence"),
    }[kind]
    result = job.run(made(path, roles, tmp_path / "net.safetensors", updates=1))
    report.draw(tmp_path / "a.png", result)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "gradcore" in report.table(result)
