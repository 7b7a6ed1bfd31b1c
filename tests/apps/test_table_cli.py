"""`gradcore train csv` and `gradcore predict`: exit codes, messages, and small complete jobs."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

import gradcore as gd

pytest.importorskip("typer")

from typer.testing import CliRunner

from gradcore.apps import commands


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(*arguments):
    return CliRunner().invoke(commands.app, [str(argument) for argument in arguments])


@pytest.fixture
def log(tmp_path):
    """Ten machines; heat follows load, the state is hot where heat is."""
    rng = np.random.default_rng(0)
    lines = ["machine,minute,load,mode,heat,state,verdict"]
    for i in range(10):
        heat = 20.0
        for t in range(30):
            load = rng.normal()
            heat += 0.3 * (20 + 5 * load - heat)
            state, mode = ("hot" if heat > 20 else "cold"), ("eco" if load < 0 else "boost")
            verdict = "good" if i % 2 else "bad"
            lines.append(f"m{i},{t},{load + i % 2:.4f},{mode},{heat:.4f},{state},{verdict}")
    path = tmp_path / "log.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def train(path, *more, target="heat"):
    options = ("--updates", 25, "--hidden", 6, "--threads", 1)
    keys = ("--sequence", "machine", "--order", "minute")
    return call("train", "csv", path, "--target", target, *keys, *options, *more)


@pytest.mark.parametrize("arguments", [["train", "csv"], ["predict"]])
def test_help(arguments):
    result = call(*arguments, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_from_a_file_to_predictions(log, tmp_path):
    result = train(log, "--features", "load,mode", "--json", "figures.json")
    assert result.exit_code == 0, result.stderr
    for text in ("gradcore", "mean", "RMSE", "R2", "25 updates"):
        assert text in result.stdout
    for text in (
        "300 rows in 10 sequences of 30 to 30 (median 30)",
        "features: load, mode (2 texts)",
        "target: heat (a number, mean ",
        "to learn from 180 rows of 6 sequences, validation 60 rows of 2 sequences, test 60 rows of "
        "2 sequences (sequences drawn by seed)",
        "saved table.safetensors, figures.json, table.png",
    ):
        assert text in result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["task"] == "table"
    assert figures["steps"] == 25
    assert figures["test"]["rmse"] > 0
    assert figures["baselines"]["mean"]["rmse"] > 0
    assert gd.load("table.safetensors").metadata["result"] == figures

    result = call("predict", "table.safetensors", log, "--out", "p.csv")
    assert result.exit_code == 0, result.stderr
    assert "saved 300 predictions to p.csv" in result.stderr
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert list(rows[0]) == ["machine", "minute", "prediction"]
    assert [row["machine"] for row in rows[::30]] == [f"m{i}" for i in range(10)]
    printed = call("predict", "table.safetensors", log)
    assert printed.stdout == (tmp_path / "p.csv").read_text()


def test_classes_with_probabilities(log, tmp_path):
    more = ("--features", "load", "--per", "sequence", "--quiet", "--out", "v.safetensors")
    result = train(log, *more, target="verdict")
    assert result.exit_code == 0, result.stderr
    assert "accuracy" in result.stdout
    assert "Judged on 2 sequences (60 rows) that the net has not learned from" in result.stdout
    result = call("predict", "v.safetensors", log, "--probabilities", "-q")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0] == "machine,prediction,p(bad),p(good)"
    assert len(result.stdout.splitlines()) == 11


def test_a_forecast(log):
    result = train(log, "--ahead", 3, "--features", "heat,load")
    assert result.exit_code == 0, result.stderr
    assert "last value" in result.stdout
    assert "target: heat, 3 steps of 1 ahead" in result.stderr


def test_a_run_is_kept_and_resumed(log, tmp_path):
    assert train(log, "--features", "load", "--run", "run").exit_code == 0
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    again = train(log, "--features", "load", "--run", "run")
    assert again.exit_code == 2
    assert "Traceback" not in again.stderr
    resumed = train(log, "--features", "load", "--run", "run", "--resume", "--updates", 40)
    assert resumed.exit_code == 0, resumed.stderr
    assert "40 updates" in resumed.stdout


# Later options win: these name columns of a file without names.
UNNAMED = ("--target", "a", "--features", "b", "--sequence", "c", "--order", "d")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "Heat"], "Did you mean 'heat'?"),
        (["--features", "load,speed"], "--features names the column 'speed', which log.csv does"),
        (["--features", "load,,mode"], "--features must be names with commas between them"),
        (["--features", "load,load"], "--features names 'load' twice"),
        (["--features", "heat"], "--features names the target 'heat'"),
        (["--delimiter", ";;"], "--delimiter must be one character, tab or space; got ';;'"),
        (["--delimiter", "tab"], "--target names the column 'heat', which log.csv does not have"),
        (
            ["--columns", "a,b,c,d", *UNNAMED],
            "log.csv:1: expected 4 fields, as the header has; got 7",
        ),
        (["--resume"], "--resume needs --run"),
        (["--window", 5, "--per", "sequence", "--target", "verdict"], "--window needs a target in"),
        (["--out", "nowhere/x.safetensors"], "is not a folder"),
        (["--cell", "transformer"], "transformer"),
        (["--memory", "1kB"], "memory"),
        (["--lr", "-1"], "lr"),
    ],
)
def test_bad_arguments(log, tmp_path, arguments, message):
    features = [] if "--features" in arguments else ["--features", "load"]
    result = train(log.name, *features, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "table.safetensors").exists()


def test_files_of_no_use(log, tmp_path):
    for name, text, message in (
        ("empty.csv", "", "empty.csv is empty: expected a first line that names the columns"),
        ("short.csv", "x,heat\n1,2\n3\n", "short.csv:3: expected 2 fields"),
        ("word.csv", "x,heat\n1,2\n3,1_000\n", "word.csv:3: column 'heat' must hold finite num"),
    ):
        (tmp_path / name).write_text(text)
        result = call("train", "csv", name, "--target", "heat")
        assert result.exit_code == 2
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
    result = call("train", "csv", "gone.csv", "--target", "heat")
    assert (result.exit_code, result.stderr) == (
        2,
        "gradcore: cannot read gone.csv: no such file.\n",
    )


def test_predict_refuses_what_it_cannot_use(log, tmp_path):
    assert train(log, "--features", "load,mode", "-q").exit_code == 0
    (tmp_path / "junk.st").write_bytes(b"junk" * 100)
    other = log.read_text().replace("eco", "turbo")
    (tmp_path / "other.csv").write_text(other)
    for arguments, message in (
        (["gone.st", log], "cannot read"),
        (["junk.st", log], "not a safetensors file"),
        (["table.safetensors", "other.csv"], "column 'mode' holds 'turbo', which the net has not"),
        (["table.safetensors", log, "--probabilities"], "needs a net that tells classes"),
        (["table.safetensors", log, "--out", log], "is one of the files to read"),
        (["table.safetensors", log, "--out", "nowhere/p.csv"], "is not a folder"),
    ):
        result = call("predict", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
        assert "Traceback" not in result.stderr
    result = call("predict", "table.safetensors", "other.csv", "--unseen", "none")
    assert result.exit_code == 0
    assert "read as none of them" in result.stderr


def test_interrupted_training_saves_and_says_so(log, tmp_path, monkeypatch):
    step, calls = gd.optim.Adam.step, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) > 30:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    monkeypatch.setattr(gd.optim.Adam, "step", interrupted)
    result = train(log, "--features", "load", "--updates", 100)
    assert result.exit_code == 130
    assert "interrupted; the best net so far was saved to table.safetensors" in result.stderr
    assert call("predict", "table.safetensors", log, "-q").exit_code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell pipe")
def test_a_reader_that_stops_early_is_no_fault(log):
    assert train(log, "--features", "load", "-q").exit_code == 0
    # More than a pipe holds, so that writing fails for certain once the reader is gone.
    rows = log.read_text().splitlines(keepends=True)
    copies = (row.replace(",", f"-{n},", 1) for n in range(40) for row in rows[1:])
    log.write_text(rows[0] + "".join(copies))
    with subprocess.Popen(
        [sys.executable, "-m", "gradcore.apps.cli", "predict", "table.safetensors", str(log)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "machine,minute,prediction\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) != 0
