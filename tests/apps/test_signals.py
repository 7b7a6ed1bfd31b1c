"""Signals to commands: what was trained is kept, and each end has a word and its own exit code."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

import gradcore as gd

pytest.importorskip("typer")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")

COMMAND = ["-m", "gradcore.apps.cli"]
STARTED = []


@pytest.fixture(autouse=True)
def nothing_goes_on():
    """A command that a failed test has left would take a core from all that follow."""
    yield
    while STARTED:
        STARTED.pop().kill()  # without effect on those that have ended


def start(*arguments, folder):
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


def wait_for(condition, process, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def table(tmp_path):
    rows = "".join(f"{t},{t % 7},{(t % 7) * 2 + 1}\n" for t in range(600))
    (tmp_path / "t.csv").write_text("t,x,y\n" + rows)
    return tmp_path


@pytest.mark.parametrize("gap", [0.0, 0.002, 0.02])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_sigterm_right_after_a_signal_loses_nothing(first, gap, table):
    usual = ("--target", "y", "--order", "t", "--threads", 1, "--minutes", 5, "--run", "r")
    process = start(*COMMAND, "train", "csv", "t.csv", *usual, folder=table)
    run = table / "r"
    metrics = run / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 25, process)
    process.send_signal(first)
    time.sleep(gap)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert "interrupted" in told
    assert gd.load(table / "table.safetensors").metadata["table"]
    assert gd.load(run / "last.safetensors").metadata["step"] > 25


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "interrupted by SIGTERM"), (signal.SIGINT, 130, "interrupted")],
)
@pytest.mark.parametrize("command", ["csv", "dna", "prophage"])
def test_a_signal_while_reading_has_a_word(number, code, word, command, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    options = {"csv": (pipe, "--target", "y"), "dna": ("--train", pipe), "prophage": (pipe, pipe)}
    process = start(*COMMAND, "train", command, *options[command], folder=tmp_path)
    opened = []

    def is_read():
        try:
            opened.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody reads yet
                raise
            return False
        return True

    wait_for(is_read, process)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    os.close(opened[0])
    assert (process.returncode, told.splitlines()[-1]) == (code, f"gradcore: {word}"), told


# Runs the command with a function that judges again and again once it has begun.
JUDGING = """
import sys
from importlib import import_module
from pathlib import Path

from gradcore.apps import cli

module, name = sys.argv[1].rsplit(".", 1)
judging = import_module(module)
honest = getattr(judging, name)

def for_ever(*args, **options):
    Path("judging").touch()
    while True:
        honest(*args, **options)

setattr(judging, name, for_ever)
sys.argv = ["gradcore", *sys.argv[2:]]
cli.main()
"""
TRAININGS = {
    "csv": ("t.csv", "--target", "y", "--order", "t", "--updates", 3),
    "brackets": ("code", "--characters", 40_000),
}
JUDGES = {
    "csv": "gradcore.apps.tasks.table.job.judge",
    "brackets": "gradcore.apps.tasks.brackets.evaluate.evaluate",
}


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "interrupted by SIGTERM"), (signal.SIGINT, 130, "interrupted")],
)
@pytest.mark.parametrize("command", ["csv", "brackets"])
def test_a_signal_while_a_net_is_judged_keeps_the_net(
    command, number, code, word, table, monkeypatch
):
    if command == "brackets":
        pytest.importorskip("pygments", reason="lexes: install gradcore[data]")
    monkeypatch.setenv("GRADCORE_CACHE", str(table / "cache"))
    (table / "code").mkdir()
    for i in range(24):
        lines = f"def f{i}(a, b=[{i}]):\n    return {{a: (b[0], '(')}}\n" * 20
        (table / "code" / f"m{i}.py").write_text(lines, encoding="utf-8")
    words = ("train", command, *TRAININGS[command], "--hidden", 4, "--threads", 1, "--run", "r")
    process = start("-c", JUDGING, JUDGES[command], *words, "--out", "n.safetensors", folder=table)
    wait_for((table / "judging").exists, process)
    process.send_signal(number)
    out, told = process.communicate(timeout=60)
    assert (process.returncode, told.splitlines()[-1]) == (code, f"gradcore: {word}"), told
    assert "Traceback" not in told
    assert out == ""
    kept = gd.load(table / "n.safetensors")
    last = gd.load(table / "r" / "last.safetensors")
    assert kept.net == last.net
    assert last.metadata["step"] >= 1
    if command == "csv":  # the net of the best score is kept, here that of the last update
        assert kept.metadata["table"]
    else:
        assert kept.metadata["task"] == "brackets"
