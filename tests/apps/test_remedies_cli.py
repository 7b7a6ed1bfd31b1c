"""Every remedy in the words of the command line works as it is written."""

import re
import shlex

import numpy as np
import pytest

import gradcore as gd
from gradcore.diagnosis._remedies import REMEDIES

pytest.importorskip("typer", reason="needs the command line: install gradcore[cli]")

from typer.testing import CliRunner

from gradcore.apps import commands

NUMBERS = {"lag": 20, "steps": 300, "gain": 2.0, "cut": 8, "width": 8}


def pieces(front):
    """The options between backticks in the remedies of a front end."""
    texts = " ".join(texts[front].format(**NUMBERS) for texts in REMEDIES.values())
    return sorted(set(re.findall("`([^`]+)`", texts)))


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    wave = np.sin(np.arange(400) / 7)
    path.write_text("a,b\n" + "\n".join(f"{v:.4f},{2 * v:.4f}" for v in wave))
    return path


@pytest.mark.parametrize("piece", pieces("csv"))
def test_remedies_of_train_csv(piece, table, tmp_path):
    out = tmp_path / "net.safetensors"
    arguments = ["train", "csv", table, "--target", "b", "--updates", 2, "--hidden", 8]
    arguments += ["--out", out, *shlex.split(piece)]
    done = CliRunner().invoke(commands.app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    layer = gd.load(out).net.recurrent[0]
    assert layer.skip is None or layer.skip.lag == 20
    assert (layer.skip is not None) == ("--skip" in piece)


@pytest.mark.parametrize("command", ["brackets", "dna", "prophage"])
def test_remedies_of_other_trainings(command):
    told = (
        CliRunner()
        .invoke(commands.app, ["train", command, "--help"], env={"COLUMNS": "200"})
        .output
    )
    for piece in pieces("command"):
        for word in shlex.split(piece):
            assert word in told or word.replace(".", "").isdigit(), f"train {command}: no {word}"


def test_a_chrono_without_gates_is_refused(table):
    arguments = ["train", "csv", str(table), "--target", "b", "--updates", "2"]
    done = CliRunner().invoke(commands.app, [*arguments, "--cell", "rnn", "--chrono", "50"])
    assert done.exit_code == 2
    assert "needs memory gates" in done.output
