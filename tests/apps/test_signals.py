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

COMMAND = [sys.executable, "-m", "gradcore.apps.cli"]


def start(*arguments, folder):
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


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
    process = start("train", "csv", "t.csv", *usual, folder=table)
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
    process = start("train", command, *options[command], folder=tmp_path)
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
