"""`gradcore train csv` and `gradcore predict`: exit codes, messages, and small complete jobs."""

from __future__ import annotations

import csv
import json
import shlex
import subprocess
import sys
from datetime import datetime, timedelta

import numpy as np
import pytest

import gradcore as gd

pytest.importorskip("typer")

from typer.testing import CliRunner

from gradcore.apps import commands
from gradcore.apps.tasks.table import train as training
from gradcore.apps.tasks.table.plan import Plan


@pytest.fixture(autouse=True)
def no_trials(monkeypatch):
    """Nets are not tried first, so that what is trained first is what is kept."""

    def planned(data, found, options, minutes, say):
        return Plan(
            None if found is None else "ridge", options.cell or "lstm", options.hidden or 64
        )

    monkeypatch.setattr(training, "_planned", planned)


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


def test_a_limit_that_ends_a_training_is_told(log):
    patient = ("--features", "load", "--patience", 10**6)
    assert "more --updates may help" in train(log, *patient).stdout
    timed = train(log, *patient, "--updates", 10**8, "--minutes", 0.01)
    assert (
        "reached its limit before the score had stopped improving: more --minutes" in timed.stdout
    )
    done = train(log, "--features", "load", "--patience", 1, "--updates", 10**8)
    assert "may help" not in done.stdout


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
    assert "interrupted after 30 updates; the best score on the validation part so far: RMSE" in (
        result.stderr
    )
    assert "to continue" not in result.stderr  # as no folder has the training
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


# ---- What predict takes over from the training --------------------------------------------------


def quick(path, *more):
    options = ("--updates", 2, "--hidden", 3, "--threads", 1, "--seed", 1)
    result = call("train", "csv", path, "--target", "y", *options, *more)
    assert result.exit_code == 0, result.stderr
    return result


def predicted(path, *more):
    result = call("predict", "table.safetensors", path, *more)
    assert result.exit_code == 0, result.stderr
    return result.stdout.splitlines()[1:], result.stderr


def hourly(count, first=0, form="%Y-%m-%d %H:%M"):
    return [
        (datetime(2024, 1, 1) + timedelta(hours=first + i)).strftime(form) for i in range(count)
    ]


NOISE = np.random.default_rng(0).normal(size=400).round(2)


def of_european_files(path, count, first=0, head=""):
    """Decimal commas, -999, days first, a title, and columns without names."""
    lines = [f"{head};Zeit;x;y;"]
    for i, time in enumerate(hourly(count, first, "%d/%m/%Y %H:%M")):
        x = "-999" if i % 9 == 0 else f"{NOISE[i]}".replace(".", ",")
        lines.append(f"{i};{time};{x};{NOISE[-i - 1] * 2:.2f};".replace(".", ","))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_predict_reads_new_files_as_the_training_did(tmp_path):
    path = of_european_files(tmp_path / "a.csv", 400)
    marks = ("--missing-value", -999, "--missing", "mean")
    told = quick(path, "--order", "Zeit", "--ahead", "2h", *marks).stderr
    for text in (
        "decimal commas: '",
        "dates such as '13/01/2024 00:00' are read with the day first",
        "column c0 has no name and a number of its own in each row: left out",
        "column c4 has no name and no values: left out",
        "features: x, y",
        "target: y, 2h ahead",
        "test 60 rows of 1 sequence (the last rows of each held out)",
    ):
        assert text in told
    # 48 hours from 1 March on: no day is above 12, and without the training that would be refused.
    new = of_european_files(tmp_path / "b.csv", 48, 60 * 24)
    lines, told = predicted(new)
    assert lines[0].startswith("2024-03-01T02:00:00,")
    assert lines[24].startswith("2024-03-02T02:00:00,")
    assert (
        "read as the files of the training were: --decimal , --date-format day-first "
        "--missing-value -999"
    ) in told
    # The same table written in another way, said so, has the same predictions.
    other = tmp_path / "c.csv"
    rows = [line.split(";")[1:4] for line in new.read_text().splitlines()]
    times = ["Zeit", *hourly(48, 60 * 24)]
    other.write_text(
        "".join(
            f"{time},{row[1].replace(',', '.').replace('-999', '')},{row[2].replace(',', '.')}\n"
            for time, row in zip(times, rows, strict=True)
        )
    )
    assert predicted(other, "--decimal", ".")[0] == lines
    refused = call("predict", "table.safetensors", other)
    assert refused.exit_code == 2
    assert "Pass --decimal . if this file has decimal points." in refused.stderr


def test_predict_skips_the_lines_that_the_training_skipped(tmp_path):
    def table(path, count):
        body = "".join(f"{NOISE[i]},{NOISE[-i - 1]}\n" for i in range(count))
        path.write_text(f"Station 7\nunit 3\n% a remark\nx,y\nfoo,bar\n% another\n{body}")
        return path

    refused = call("train", "csv", table(tmp_path / "a.csv", 60), "--target", "y")
    assert refused.exit_code == 2
    assert "a.csv:1: the file begins with 'Station 7'" in refused.stderr
    assert "pass --header-row 4" in refused.stderr
    quick("a.csv", "--header-row", 4, "--skip-rows", "5-5", "--comment", "%")
    assert len(predicted(table(tmp_path / "b.csv", 7))[0]) == 7


def test_predict_names_the_columns_as_the_training_did(tmp_path):
    body = "".join(f"{NOISE[i]},{NOISE[-i - 1]}\n" for i in range(60))
    (tmp_path / "a.csv").write_text(body)
    quick("a.csv", "--columns", "x,y")
    lines, told = predicted("a.csv")
    assert len(lines) == 60
    assert "read as the files of the training were: --columns x,y" in told


def test_predict_tells_other_steps_than_those_of_the_training(tmp_path):
    def table(name, times):
        rows = (f"{t},{NOISE[i]},{NOISE[-i - 1]}" for i, t in enumerate(times))
        (tmp_path / name).write_text("\n".join(["t,x,y", *rows]) + "\n")

    table("a.csv", hourly(60))
    quick("a.csv", "--order", "t", "--ahead", "3h")
    table("b.csv", hourly(120)[::2])
    assert "the steps of t are 2 h here and were 1 h in training" in predicted("b.csv")[1]
    assert "steps" not in predicted("a.csv")[1]


def test_a_percentage_is_refused_in_new_files_too(tmp_path):
    body = "".join(f"{NOISE[i]},{NOISE[-i - 1]}\n" for i in range(60))
    (tmp_path / "a.csv").write_text(f"x,y\n{body}")
    quick("a.csv")
    (tmp_path / "b.csv").write_text("x\n50%\n40%\n")
    result = call("predict", "table.safetensors", "b.csv")
    assert result.exit_code == 2
    assert "b.csv:2: column 'x' must hold finite numbers; got '50%'. It reads as 50 (with a %" in (
        result.stderr
    )
    assert "--text" not in result.stderr  # the net has learned numbers


def test_three_sequences_are_split_by_time_and_it_is_told(tmp_path):
    lines = ["id,t,x,y"]
    lines += [f"s{k},{i},{NOISE[40 * k + i]},{NOISE[-i - 1]}" for k in range(3) for i in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    keys = ("--sequence", "id", "--order", "t", "--ahead", 2, "--json", "j.json")
    result = quick("a.csv", *keys)
    assert "there are fewer than 10 sequences: the last rows of each sequence are held out" in (
        result.stderr
    )
    assert "to learn from 78 rows of 3 sequences, validation 18 rows of 3 seq" in result.stderr
    assert "Judged on 18 rows of 3 sequences that the net has not learned from" in result.stdout
    figures = json.loads((tmp_path / "j.json").read_text())
    assert figures["parts"]["train"] == {"rows": 78, "sequences": 3}


def test_bad_options_of_files_are_named(log):
    for option, value, message in (
        ("--decimal", "x", "--decimal must be a point or a comma; got 'x'"),
        ("--skip-rows", "many", "--skip-rows must be a number of lines at the start"),
        ("--header-row", "0", "header-row"),
        ("--comment", " ", "--comment must be a sign"),
        ("--ahead", "soon", "--ahead must be a number of steps"),
        ("--date-format", "%Q", "--date-format must be a format of strptime"),
    ):
        result = train(log, "--features", "load", option, value)
        assert result.exit_code == 2, option
        assert message in result.stderr
        assert "Traceback" not in result.stderr


# ---- A training that goes on with its folder alone ----------------------------------------------


@pytest.fixture
def cut(log, tmp_path, monkeypatch):
    """A training that Ctrl-C has ended after 30 updates, and what it said."""

    def made(*options):
        step, calls = gd.optim.Adam.step, []

        def interrupted(*args, **kwargs):
            calls.append(1)
            if len(calls) > 30:
                raise KeyboardInterrupt
            return step(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(gd.optim.Adam, "step", interrupted)
            result = train(log, "--features", "load", "--updates", 60, *options)
        assert result.exit_code == 130, result.output
        return result

    return made


def test_the_command_that_is_told_goes_on_to_the_same_bits(log, tmp_path, monkeypatch, cut):
    whole = train(log, "--features", "load", "--updates", 60, "--out", "whole", "--json", "w.json")
    assert whole.exit_code == 0
    told = cut("--run", "a run", "--out", "cut", "--json", "c.json").stderr
    command = next(line for line in told.splitlines() if "to continue: " in line)
    words = shlex.split(command.partition("to continue: ")[2])
    assert words == ["gradcore", "train", "csv", "--run", "a run", "--resume"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    words[4] = "../a run"
    result = call(*words[1:])
    assert result.exit_code == 0, result.output
    assert gd.load(tmp_path / "cut").params == gd.load(tmp_path / "whole").params
    scores = [json.loads((tmp_path / name).read_text())["test"] for name in ("c.json", "w.json")]
    assert scores[0] == scores[1]


def test_options_that_are_given_come_before_recorded_ones(tmp_path, cut):
    cut("--run", "run", "--quiet")
    result = call("train", "csv", "--run", "run", "--resume", "--updates", 40, "--out", "other")
    assert result.exit_code == 0, result.output
    assert "for 40 updates" in result.stdout
    assert (tmp_path / "other").exists()


def test_a_training_of_classes_tells_its_cross_entropy_and_a_fresh_one_nothing(
    log, cut, monkeypatch
):
    assert "so far: cross-entropy " in cut("--target", "state").stderr

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(gd.optim.Adam, "step", interrupted)
    result = train(log, "--features", "load")
    assert result.exit_code == 130
    assert "interrupted after 0 updates, before the first look at the validation" in result.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (None, "has no settings.json, which says what it was trained on"),
        ("[1, 2", "cannot read run/settings.json"),
        ("[1, 2]", "has no settings of gradcore train csv"),
        ({"command": "train dna"}, "has no settings of gradcore train csv"),
        ({"files": [3]}, "it lacks the files or the target"),
        ({"target": None}, "it lacks the files or the target"),
        ({"options": {"hidden": "six"}}, "hidden is 'six'"),
        ({"options": {"cell": "cnn"}}, "cell is 'cnn'"),
        ({"table": {"updates": True}}, "updates is True"),
        ({"table": {"unheard": 1}}, "table are not the options of this version"),
        ({"writing": 7}, "writing are not the options of this version"),
        ({"files": ["/gone.csv"]}, "cannot read /gone.csv: no such file"),
        ({"files": ["/dev/fd/63"]}, "came through /dev/fd/63, which is not kept"),
    ],
    ids=str,
)
def test_wrong_settings_of_a_run(change, told, tmp_path, cut):
    cut("--run", "run", "--quiet")
    path = tmp_path / "run" / "settings.json"
    if change is None:
        path.unlink()
    elif isinstance(change, str):
        path.write_text(change)
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    result = call("train", "csv", "--run", "run", "--resume")
    assert result.exit_code == 2
    assert told in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("options", [[], ["log.csv"], ["--target", "heat"], ["--run", "run"]])
def test_without_a_table_or_a_target_nothing_can_be_trained(options, log):
    result = call("train", "csv", *options)
    assert result.exit_code == 2
    assert "name the files of the table and the column to learn" in result.stderr


def test_settings_of_another_training_are_not_replaced(log, tmp_path):
    assert train(log, "--features", "load", "--run", "run").exit_code == 0
    before = (tmp_path / "run" / "settings.json").read_text()
    assert train(log, "--features", "load,mode", "--run", "run").exit_code == 2
    assert (tmp_path / "run" / "settings.json").read_text() == before
