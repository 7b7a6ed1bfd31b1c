"""Options that several commands share: constraints, the monitor of stability, and what is
recorded.
"""

import numpy as np
import pytest

import gradcore as gd

pytest.importorskip("typer", reason="the command line: install gradcore[cli]")
from typer.testing import CliRunner

from gradcore._training.runs import read_metrics
from gradcore.apps.commands import app


def test_commands_train_under_constraints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--length", "30", "--hidden", "8", "--every", "5", "--cell", "tanh", "--run", "r"]
    how = ["--constrain", "spectral", "--limit", "0.5", "--updates", "10", "-q"]
    result = CliRunner().invoke(app, ["train", "adding", *options, *how])
    assert result.exit_code == 0, result.output
    checkpoint = gd.load(tmp_path / "r" / "last.safetensors")
    assert np.linalg.norm(checkpoint.params["0.weight_hh"], 2) <= 0.5 * (1 + 2e-6)
    # The folder of the run holds the options with which it began.
    result = CliRunner().invoke(
        app, ["train", "adding", "--run", "r", "--resume", "--updates", "15", "-q"]
    )
    assert result.exit_code == 0, result.output
    checkpoint = gd.load(tmp_path / "r" / "last.safetensors")
    assert checkpoint.metadata["step"] == 15
    assert np.linalg.norm(checkpoint.params["0.weight_hh"], 2) <= 0.5 * (1 + 2e-6)
    result = CliRunner().invoke(app, ["train", "copy", "--constrain", "spectral", "--limit", "0"])
    assert result.exit_code == 2
    assert "SpectralNorm.limit" in result.stderr


def test_commands_take_the_monitor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--length", "40", "--hidden", "8", "--updates", "6", "--every", "3", "--no-stages"]
    for run, own, steps in (
        ("a", ["--stability", "3"], [2, 3, 6]),
        ("b", ["--stable-lr"], [2, 5]),
        ("c", [], []),
    ):
        result = CliRunner().invoke(app, ["train", "adding", *options, *own, "--run", run, "-q"])
        assert result.exit_code == 0, result.output
        read = read_metrics(tmp_path / run)
        assert [line["step"] for line in read if line.get("sharpness")] == steps


def test_the_command_records_and_draws(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="draws: install gradcore[plot]")
    monkeypatch.chdir(tmp_path)
    options = ["--length", "60", "--hidden", "8", "--updates", "6", "--every", "3", "--no-stages"]
    result = CliRunner().invoke(
        app, ["train", "adding", *options, "--watch", "2", "--run", "r", "-q"]
    )
    assert result.exit_code == 0, result.output
    watched = [line for line in read_metrics(tmp_path / "r") if "memory_length" in line]
    assert [line["step"] for line in watched] == [2, 4, 6]
    assert CliRunner().invoke(app, ["plot", "r"]).exit_code == 0
    assert (tmp_path / "r" / "curves.png").stat().st_size > 20_000
    result = CliRunner().invoke(app, ["train", "brackets", "--watch", "5"])
    assert result.exit_code == 2
    assert "--watch needs --run" in result.stderr
