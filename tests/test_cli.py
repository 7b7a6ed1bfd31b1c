"""The command: exit codes, messages, and small complete jobs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import gradcore as gd

pytest.importorskip("typer")
pytest.importorskip("pygments")

from typer.testing import CliRunner

from gradcore import _commands
from gradcore.tasks.brackets import check, job


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def call(*arguments):
    return CliRunner().invoke(_commands.app, [str(argument) for argument in arguments])


@pytest.fixture
def code(tmp_path):
    folder = tmp_path / "code"
    folder.mkdir()
    for i in range(24):
        lines = [f"def f{i}(a, b=[{i}]):", "    # not a ) bracket", "    return {a: (b[0], '(')}"]
        (folder / f"m{i}.py").write_text("\n".join(lines * 20) + "\n", encoding="utf-8")
    return folder


def small(code, *more):
    return call(
        *("train", "brackets", code, "--characters", 30_000, "--hidden", 8, "--threads", 1), *more
    )


def test_info():
    plain, as_json = call("info"), call("info", "--json")
    assert plain.exit_code == as_json.exit_code == 0
    facts = json.loads(as_json.stdout)
    assert facts["version"] == gd.__version__
    assert facts["isa_in_use"] in facts["isa_available"]
    assert facts["threads"] >= 1
    assert all(name.replace("_", " ") in plain.stdout for name in facts)


@pytest.mark.parametrize(
    "arguments", [[], ["train"], ["train", "brackets"], ["check"], ["info"], ["bench"]]
)
def test_help(arguments):
    result = call(*arguments, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_the_command_without_typer_names_the_remedy():
    script = (
        "import sys; sys.modules['typer'] = None; from gradcore.cli import main; "
        "sys.argv = ['gradcore', 'info']; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'gradcore[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_train_writes_what_it_says(code, tmp_path):
    result = small(code, "--json", "figures.json", "--seed", 3, "--skip", 5, "--cell", "gru")
    assert result.exit_code == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["task"] == "brackets"
    assert figures["seed"] == 3
    assert figures["characters"] >= 30_000
    assert figures["steps"] == sum(stage["updates"] for stage in figures["stages"])
    assert figures["longest_sequence"] >= 10_000
    assert 0 <= figures["accuracy"] <= 1
    assert sum(figures["count_by_distance"].values()) > 0
    assert set(figures["accuracy_by_distance"]) == set(figures["count_by_distance"])
    assert set(figures["baselines"]) == {"majority", "stack of 100"}
    assert 0 < figures["training_seconds"] <= figures["seconds"]
    for name in figures["count_by_distance"]:
        assert name in result.stdout
    checkpoint = gd.load(tmp_path / "brackets.safetensors")
    assert isinstance(checkpoint.net.recurrent[0], gd.GRU)
    assert checkpoint.net.recurrent[0].skip.lag == 5
    assert checkpoint.metadata["accuracy"] == figures["accuracy"]
    if pytest.importorskip("matplotlib"):
        assert (tmp_path / "brackets.png").read_bytes().startswith(b"\x89PNG")


def test_by_the_clock_every_stage_is_reached(code, tmp_path):
    # So short that the time is over before the last stage: it has its update all the same.
    start = time.monotonic()
    result = call(
        *("train", "brackets", code, "--minutes", 0.05, "--hidden", 4, "--json", "figures.json")
    )
    assert result.exit_code == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert [stage["steps"] for stage in figures["stages"]][-1] >= 10_000
    assert figures["steps"] == sum(stage["updates"] for stage in figures["stages"])
    assert figures["seconds"] <= time.monotonic() - start


def test_the_same_characters_and_seed_give_the_same_net(code, tmp_path):
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        assert small(code, "--out", f"{name}.safetensors", "--seed", seed, "-q").exit_code == 0
    one, two, three = (
        gd.load(tmp_path / f"{name}.safetensors").params.flat for name in ("one", "two", "three")
    )
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, three)


def test_quiet_leaves_the_table_alone(code):
    result = small(code, "--quiet")
    assert result.exit_code == 0
    assert "distance" in result.stdout
    assert "million characters" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no such file or folder: nowhere"),
        (["empty"], "no source file under empty"),
        (["code/m1.py"], "all source files are in one module"),
        (["code", "--out", "nowhere/x.safetensors"], "is not a folder"),
        (["code", "--json", "nowhere/x.json"], "is not a folder"),
        (["code", "--memory", "lots"], "lots"),
        (["code", "--memory", "1kB"], "memory"),
        (["code", "--cell", "transformer"], "transformer"),
        (["code", "--minutes", "0"], "minutes"),
        (["code", "--hidden", "0"], "hidden"),
    ],
)
def test_bad_arguments(code, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    options = [] if "--minutes" in arguments else ["--characters", 1000]
    result = call("train", "brackets", *arguments, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "brackets.safetensors").exists()


def test_unreadable_files_are_counted(code):
    (code / "gone.py").symlink_to(code / "nowhere.py")
    (code / "odd.py").write_text("f(]\n", encoding="utf-8")
    result = small(code)
    assert result.exit_code == 0
    assert "passed over: 1 files that cannot be read" in result.stderr


def test_interrupted_training_saves_and_says_so(code, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(gd.optim.Adam, "step", interrupted)
    result = small(code)
    assert result.exit_code == 130
    assert "interrupted; the net as it is was saved to brackets.safetensors" in result.stderr
    check.load_checkpoint(tmp_path / "brackets.safetensors")


def test_an_interrupt_elsewhere_ends_quietly(code, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(job.sources, "find", interrupted)
    result = small(code)
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is another thing there")
def test_a_real_signal_saves_the_net(code, tmp_path):
    command = [sys.executable, "-m", "gradcore.cli", "train", "brackets", str(code)]
    with subprocess.Popen(
        [*command, "--minutes", "5", "--hidden", "16"], stderr=subprocess.PIPE, text=True
    ) as process:
        # The stage is told before the first update.
        for line in process.stderr:
            if "side by side" in line:
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130
    assert "saved to brackets.safetensors" in rest
    assert "Traceback" not in rest
    check.load_checkpoint(tmp_path / "brackets.safetensors")


def constant_checkpoint(path, answer, outputs=5):
    net = gd.Stack(gd.Embedding(128, 2), gd.LSTM(2, 3), gd.Linear(3, outputs))
    params = net.init(seed=0)
    params.flat[:] = 0
    params["2.bias"][answer] = 1
    gd.save(path, net, params)
    return path


def test_check_exits_like_a_linter(tmp_path):
    (tmp_path / "a.py").write_text("f(1)\n", encoding="utf-8")
    clean = call("check", "a.py", "--checkpoint", constant_checkpoint(tmp_path / "0.st", 0))
    assert (clean.exit_code, clean.stdout) == (0, "")
    found = call("check", "a.py", "--checkpoint", constant_checkpoint(tmp_path / "1.st", 1))
    assert found.exit_code == 1
    assert found.stdout == "a.py:1:5: '(' is never closed\n"


def test_check_tells_unreadable_files_and_goes_on(tmp_path):
    (tmp_path / "a.py").write_text("f(1)\n", encoding="utf-8")
    net = constant_checkpoint(tmp_path / "1.st", 1)
    result = call("check", "gone.py", tmp_path, "a.py", "--checkpoint", net)
    assert result.exit_code == 2
    assert "gone.py: cannot be read: No such file" in result.stderr
    assert f"{tmp_path}: cannot be read: Is a directory" in result.stderr
    assert "a.py:1:5" in result.stdout


def test_check_refuses_checkpoints_it_cannot_use(tmp_path):
    (tmp_path / "a.py").write_text("f(1)\n", encoding="utf-8")
    good = constant_checkpoint(tmp_path / "good.st", 0).read_bytes()
    (tmp_path / "cut.st").write_bytes(good[:-7])
    (tmp_path / "junk.st").write_bytes(b"junk" * 100)
    constant_checkpoint(tmp_path / "other.st", 0, outputs=7)
    for name, message in (
        ("gone.st", "cannot read"),
        ("cut.st", "damaged"),
        ("junk.st", "not a safetensors file"),
        ("other.st", "holds a net for another job: expected 128 tokens and 5 outputs"),
    ):
        result = call("check", "a.py", "--checkpoint", name)
        assert result.exit_code == 2
        assert message in result.stderr
        assert "Traceback" not in result.stderr
