"""Ready callbacks: what they write is what metrics.jsonl has, also after a kill and a resume."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

import gradcore as gd
from gradcore._training.runs import read_metrics
from gradcore.callbacks._logger import numbers
from imports import imported

NET = gd.Stack(gd.GRU(1, 4), gd.Linear(4, 1))
X = [np.sin(np.arange(40) * step / 9).astype("float32") for step in range(1, 9)]
HELD_OUT = gd.data.Sequences(X[:2], X[:2], batch_size=2, shuffle=False)


def fit(*callbacks, steps=6, seed=1, **options):
    params = NET.init(seed=seed)
    optimizer = gd.optim.Adam(params, lr=0.02, clip=gd.clip.GlobalNorm(0.1))
    trainer = gd.Trainer(NET, params, optimizer, loss="mse", quiet=True, callbacks=callbacks)
    data = gd.data.Sequences(X, X, batch_size=4, seed=3)
    return trainer.fit(data, steps=steps, every=2, **{"validation": HELD_OUT, **options})


class Failure(gd.callbacks.Callback):
    """Ends the fit at a step by an exception, before (or after) other callbacks see it."""

    def __init__(self, step, error):
        self.step, self.error = step, error

    def on_update(self, view):
        if view.steps == self.step:
            raise self.error


def series(lines, name):
    """(step, value) of a field where it is a number."""
    return [(line["step"], line[name]) for line in lines if line.get(name) is not None]


def close(found, expected):
    """Whether (step, value) pairs agree in float32."""
    assert [step for step, _ in found] == [step for step, _ in expected]
    np.testing.assert_allclose([v for _, v in found], [v for _, v in expected], rtol=1e-6)


def test_numbers_of_a_line():
    line = {"step": 3, "loss": 0.5, "clipped": True, "grad_norm_log10": None, "score": 2.0}
    watched = {"memory_length": [4.0, None], "watched_steps": [0, 9], "clip_layer": "0.GRU"}
    assert numbers(line | watched | {"lr": float("inf")}) == {
        "loss": 0.5,
        "clipped": 1.0,
        "memory_length/0": 4.0,
    }


def test_packages_are_imported_when_a_logger_is_made():
    found = imported("import gradcore as gd; gd.callbacks.CSVLogger")
    assert found & {"tensorboard", "wandb", "mlflow", "optuna"} == set()


@pytest.mark.parametrize(
    ("name", "package", "arguments"),
    [
        ("TensorBoardLogger", "tensorboard", "'logs'"),
        ("WandbLogger", "wandb", ""),
        ("MLFlowLogger", "mlflow", ""),
        ("OptunaPruning", "optuna", "None"),
    ],
)
def test_a_package_that_is_missing_is_named(name, package, arguments):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "import gradcore as gd\n"
        f"try: gd.callbacks.{name}({arguments})\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"{name} needs {package}" in done.stdout
    assert f"Run: pip install {package}" in done.stdout


# ---- CSV


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def as_table(lines):
    names = ("step", "epoch", "loss", "lr", "grad_norm_log10", "clipped", "update_ratio")
    return [
        {n: "" if line.get(n) is None else str(line[n]) for n in (*names, "seconds", "score")}
        for line in lines
    ]


def test_csv_has_the_lines_of_metrics(tmp_path):
    path = tmp_path / "table.csv"
    fit(gd.callbacks.CSVLogger(path), run=tmp_path / "run")
    assert table(path) == as_table(read_metrics(tmp_path / "run"))
    assert [row["step"] for row in table(path) if row["score"]] == ["2", "4", "6"]


def test_csv_goes_on_after_a_failure_and_after_a_kill(tmp_path):
    path, run = tmp_path / "table.csv", tmp_path / "run"
    with pytest.raises(OSError, match="gone"):
        fit(gd.callbacks.CSVLogger(path), Failure(4, OSError("gone")), run=run)
    assert [row["step"] for row in table(path)] == ["1", "2", "3", "4"]
    assert table(path)[-1]["score"] == ""  # it had not been evaluated
    with path.open("a") as file:
        file.write("5,0,0.1\n6,0,")  # of updates after the checkpoint, the last one in part
    fit(gd.callbacks.CSVLogger(path), run=run, resume=True)
    assert table(path) == as_table(read_metrics(run))


def test_csv_of_a_new_training_replaces_that_of_an_earlier_one(tmp_path):
    logger = gd.callbacks.CSVLogger(tmp_path / "table.csv", every=3)
    fit(logger, steps=7)
    assert [row["step"] for row in table(logger.path)] == ["2", "3", "4", "6", "7"]
    fit(logger, steps=3)
    assert [row["step"] for row in table(logger.path)] == ["2", "3"]


def test_csv_of_a_run_that_is_complete_stays(tmp_path):
    path, run = tmp_path / "table.csv", tmp_path / "run"
    fit(gd.callbacks.CSVLogger(path), run=run)
    before = path.read_bytes()
    fit(gd.callbacks.CSVLogger(path), run=run, resume=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "no line"])
def test_csv_leaves_other_files_alone(tmp_path, content):
    path = tmp_path / "mine.csv"
    path.write_text(content)
    with pytest.raises(gd.ArgumentError, match=r"mine\.csv is not a table that CSVLogger"):
        gd.callbacks.CSVLogger(path)
    assert path.read_text() == content


def test_csv_says_before_the_work_that_it_cannot_be_written(tmp_path):
    with pytest.raises(gd.ArgumentError, match="not a folder"):
        gd.callbacks.CSVLogger(tmp_path / "nowhere" / "a.csv")
    with pytest.raises(gd.ArgumentError, match="it is a folder"):
        gd.callbacks.CSVLogger(tmp_path)
    with pytest.raises(gd.DTypeError, match="path must be a path"):
        gd.callbacks.CSVLogger(3)
    with pytest.raises(gd.ArgumentError, match="every must be at least 1"):
        gd.callbacks.CSVLogger(tmp_path / "a.csv", every=0)


# ---- TensorBoard


def scalars(folder):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs tensorboard: install gradcore[test]",
    )
    read = accumulator.EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }


def test_tensorboard_reads_what_was_logged(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard: install gradcore[test]")
    logger = gd.callbacks.TensorBoardLogger(tmp_path / "logs")
    fit(logger, run=tmp_path / "run", watch=3)
    lines, found = read_metrics(tmp_path / "run"), scalars(tmp_path / "logs")
    for name in ("loss", "lr", "grad_norm_log10", "clipped", "update_ratio", "score", "epoch"):
        close(found[name], series(lines, name))
    lengths = [(line["step"], line["memory_length"][0]) for line in lines if "lyapunov" in line]
    close(found["memory_length/0"], lengths)


def test_tensorboard_leaves_out_what_is_made_again(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard: install gradcore[test]")
    logs, run = tmp_path / "logs", tmp_path / "run"
    with pytest.raises(OSError, match="gone"):
        fit(Failure(4, OSError("gone")), run=run)
    fit(gd.callbacks.TensorBoardLogger(logs), steps=6)  # as if it had got further and been killed
    fit(gd.callbacks.TensorBoardLogger(logs), run=run, resume=True)
    found, lines = scalars(logs), read_metrics(run)
    for name in ("loss", "score"):
        close(found[name], series(lines, name))


def test_tensorboard_keeps_the_losses_of_a_run_that_gets_its_scores_later(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard: install gradcore[test]")
    logs, run = tmp_path / "logs", tmp_path / "run"
    fit(gd.callbacks.TensorBoardLogger(logs), run=run, steps=4, validation=None)
    fit(gd.callbacks.TensorBoardLogger(logs), run=run, resume=True)
    found = scalars(logs)
    close(found["loss"], series(read_metrics(run), "loss"))
    assert [step for step, _ in found["score"]] == [4, 6]


def test_tensorboard_every(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard: install gradcore[test]")
    report = fit(gd.callbacks.TensorBoardLogger(tmp_path, every=3), watch=4)
    found = scalars(tmp_path)
    watched = {line["step"] for line in report.watched}  # they are not left out
    assert 4 in watched
    assert 2 not in watched
    assert {step for step, _ in found["loss"]} == watched | {3, 6}
    assert [step for step, _ in found["score"]] == [2, 4, 6]


# ---- Optuna


def study(**options):
    optuna = pytest.importorskip("optuna", reason="needs optuna: install gradcore[test]")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna, optuna.create_study(**options)


def test_optuna_prunes_and_the_run_is_saved(tmp_path):
    optuna, made = study(pruner=None)
    made.pruner = optuna.pruners.ThresholdPruner(upper=0.0)
    folders = iter([tmp_path / "first"])

    def objective(trial):
        return fit(gd.callbacks.OptunaPruning(trial), run=next(folders)).best

    made.optimize(objective, n_trials=1)
    (trial,) = made.trials
    assert trial.state == optuna.trial.TrialState.PRUNED
    assert list(trial.intermediate_values) == [2]
    assert gd.load(tmp_path / "first/last.safetensors").metadata["step"] == 2


def test_optuna_keeps_trials_that_are_good_and_prunes_worse_ones():
    optuna, made = study()
    made.pruner = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0)
    seeds = {}

    def objective(trial):
        seeds[trial.number] = trial.suggest_int("seed", 0, 20)
        return fit(gd.callbacks.OptunaPruning(trial), seed=seeds[trial.number]).best

    made.enqueue_trial({"seed": 1})
    made.enqueue_trial({"seed": 1})  # as good as the median: it is not pruned
    made.optimize(objective, n_trials=2)
    report = fit(seed=1)
    for trial in made.trials:
        assert trial.state == optuna.trial.TrialState.COMPLETE
        assert list(trial.intermediate_values.items()) == list(report.evaluations)
        assert trial.value == report.best


def test_optuna_needs_the_direction_of_the_score():
    _, made = study(direction="maximize")
    with pytest.raises(gd.ArgumentError, match="direction='minimize' with maximise=False"):
        made.optimize(lambda trial: fit(gd.callbacks.OptunaPruning(trial)).best, n_trials=1)


def test_optuna_needs_scores():
    optuna, made = study()
    params = NET.init()
    trainer = gd.Trainer(
        NET,
        params,
        gd.optim.SGD(params, 0.1),
        loss="mse",
        quiet=True,
        callbacks=[gd.callbacks.OptunaPruning(optuna.trial.create_trial(value=1.0))],
    )
    with pytest.raises(gd.ArgumentError, match="needs scores"):
        trainer.fit(gd.data.Sequences(X, X, batch_size=4), steps=1)
    assert made.trials == []


def test_optuna_takes_trials_only():
    study()
    with pytest.raises(gd.DTypeError, match="trial must be a trial of Optuna; got int"):
        gd.callbacks.OptunaPruning(3)


# ---- MLflow


@pytest.fixture
def mlflow(monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return pytest.importorskip("mlflow", reason="needs mlflow: install mlflow-skinny")


def history(client, run_id, name):
    return [(m.step, m.value) for m in client.get_metric_history(run_id, name)]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_mlflow_has_params_and_metrics(tmp_path, mlflow):
    uri = (tmp_path / "mlruns").as_uri()
    logger = gd.callbacks.MLFlowLogger("walks", "first", tracking_uri=uri, tags={"by": "me"})
    fit(logger, run=tmp_path / "run")
    client = mlflow.MlflowClient(tracking_uri=uri)
    run = client.get_run(logger.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first"
    assert run.data.tags["by"] == "me"
    assert float(run.data.params["optimizer.lr"]) == 0.02
    assert run.data.params["net"] == repr(NET)
    assert client.get_experiment_by_name("walks") is not None
    lines = read_metrics(tmp_path / "run")
    for name in ("loss", "score", "lr", "clipped"):
        assert history(client, logger.run_id, name) == series(lines, name)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_mlflow_goes_on_with_a_run_that_failed(tmp_path, mlflow):
    uri = (tmp_path / "mlruns").as_uri()
    logger = gd.callbacks.MLFlowLogger(tracking_uri=uri)
    with pytest.raises(OSError, match="gone"):
        fit(logger, Failure(3, OSError("gone")), run=tmp_path / "run")
    client = mlflow.MlflowClient(tracking_uri=uri)
    assert client.get_run(logger.run_id).info.status == "FAILED"
    again = gd.callbacks.MLFlowLogger(tracking_uri=uri, run_id=logger.run_id)
    fit(again, run=tmp_path / "run", resume=True)
    assert client.get_run(logger.run_id).info.status == "FINISHED"
    lines = read_metrics(tmp_path / "run")
    assert history(client, logger.run_id, "loss") == series(lines, "loss")


# ---- Weights & Biases


@pytest.fixture
def wandb(monkeypatch):
    module = pytest.importorskip("wandb", reason="needs wandb: install it to run this test")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return module


def stored(path):
    """The records in the log of an offline run, a file in the log format of LevelDB."""
    from wandb.proto import wandb_internal_pb2 as proto

    content, place, parts = path.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while place + 7 <= len(content):
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + length]
        if kind in (1, 4):  # a whole record, or the last part of one
            record = proto.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""
        place += 7 + length
        if 2**15 - place % 2**15 < 7:  # the rest of a block in which no header has room
            place += 2**15 - place % 2**15


def records(folder):
    """The history, config and exit code of an offline run."""
    import wandb

    wandb.teardown()  # waits until its service has written everything
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    rows, config, exit_code = [], {}, None
    for record in stored(path):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            items = record.history.item
            rows.append({(i.key or i.nested_key[0]): json.loads(i.value_json) for i in items})
        elif kind in ("run", "config"):
            made = record.run.config if kind == "run" else record.config
            config |= {i.key: json.loads(i.value_json) for i in made.update}
        elif kind == "exit":
            exit_code = record.exit.exit_code
    return rows, config, exit_code


def test_wandb_has_config_and_history(tmp_path, wandb):
    fit(gd.callbacks.WandbLogger(project="walks", dir=str(tmp_path)), run=tmp_path / "run")
    rows, config, exit_code = records(tmp_path)
    lines = read_metrics(tmp_path / "run")
    for name in ("loss", "score", "lr"):
        assert series(rows, name) == series(lines, name)
    assert config["optimizer"]["lr"] == 0.02
    assert exit_code == 0


def test_wandb_run_of_an_exception_has_failed(tmp_path, wandb):
    with pytest.raises(OSError, match="gone"):
        fit(gd.callbacks.WandbLogger(dir=str(tmp_path)), Failure(3, OSError("gone")))
    rows, _, exit_code = records(tmp_path)
    assert [step for step, _ in series(rows, "loss")] == [1, 2, 3]
    assert exit_code == 1


def test_wandb_run_of_the_user_stays_open(tmp_path, wandb):
    with wandb.init(dir=str(tmp_path)) as run:
        fit(gd.callbacks.WandbLogger(run=run, every=2))
        run.log({"mine": 1.0})
    rows, _, _ = records(tmp_path)
    assert [step for step, _ in series(rows, "loss")] == [2, 4, 6]
    assert rows[-1]["mine"] == 1.0


def test_wandb_options_have_no_use_with_a_run(wandb):
    with pytest.raises(gd.ArgumentError, match="project"):
        gd.callbacks.WandbLogger(run=object(), project="walks")
