"""`gradcore diagnose` on the nets of every command, and the input that it refuses."""

import json
from typing import get_args

import numpy as np
import pytest

import gradcore as gd

pytest.importorskip("typer", reason="the command line: install gradcore[cli]")
from typer.testing import CliRunner

from gradcore.apps.commands import app
from gradcore.apps.commands.diagnose import LossName
from gradcore.apps.tasks.brackets import check as brackets
from gradcore.apps.tasks.material import material


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return CliRunner().invoke(app, ["diagnose", *map(str, arguments)])

    return call


@pytest.fixture
def net(tmp_path):
    made = gd.Stack(gd.LSTM(3, 8), gd.Linear(8, 2))
    gd.save(tmp_path / "net.safetensors", made, made.init(seed=0))
    return tmp_path / "net.safetensors"


def test_a_net_of_ones_own_with_its_arrays(run, net, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 4, 3)).astype(np.float32)
    y = rng.integers(0, 2, 4)
    np.savez(tmp_path / "data.npz", x=x, y=y, lengths=np.array([300, 200, 300, 100]))
    result = run(
        net, "data.npz", "--loss", "cross_entropy", "--last", "--sequences", 3, "--json", "d.json"
    )
    assert result.exit_code == 1, result.output  # the gradient vanishes, which is a warning
    read = json.loads((tmp_path / "d.json").read_text())
    checkpoint = gd.load(net)
    found = gd.diagnose(
        checkpoint.net,
        checkpoint.params,
        x[:, :3],
        y[:3],
        loss=gd.loss.CrossEntropy(step="last"),
        lengths=np.array([300, 200, 300]),
        sequences=3,
    )
    assert read["findings"] == found.to_dict()["findings"]
    assert found.findings[0].text in result.stdout
    assert found.findings[0].text in (tmp_path / "diagnosis.html").read_text()


def test_without_data_the_input_is_random(run, net):
    result = run(net, "--steps", 200, "--part", "reach", "-q")
    assert result.exit_code == 1
    assert "200 steps, 1 sequence" in result.stdout


def test_a_net_of_brackets_reads_source(run, tmp_path):
    pytest.importorskip("pygments", reason="lexes: install gradcore[data]")
    (tmp_path / "a.py").write_text("x = [(1, 2), {3: 4}]\n" * 30)
    (tmp_path / "b.c").write_text("int f(int a) { return (a); }\n" * 10)
    made = material(brackets.default_checkpoint(), [tmp_path], sequences=2, steps=400)
    assert made.batch.lengths.tolist() == [400, 290]
    # The kinds of bracket that must be closed next, after each character of "x = [(1", all of which
    # is code.
    assert made.batch.y[:7, 0].tolist() == [4, 4, 4, 4, 6, 5, 5]
    result = run(brackets.default_checkpoint(), tmp_path, "--sequences", 2, "-q")
    assert result.exit_code in (0, 1), result.output
    assert "630 steps, 2 sequences" in result.stdout


@pytest.mark.parametrize("per", ["step", "sequence"])
def test_a_net_of_a_table_reads_tables(run, tmp_path, per):
    rng = np.random.default_rng(0)
    rows = ["id,t,a,b,target"]
    for sequence in range(40):
        for t in range(30):
            a, b = rng.standard_normal(2)
            target = sequence % 2 if per == "sequence" else f"{a + b:.3f}"
            rows.append(f"{sequence},{t},{a:.3f},{b:.3f},{target}")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    shared = ["--sequence", "id", "--order", "t", "--target", "target", "--per", per]
    more = ["--updates", "2", "--hidden", "8", "--out", "t.safetensors", "-q"]
    trained = CliRunner().invoke(app, ["train", "csv", "table.csv", *shared, *more])
    assert trained.exit_code == 0, trained.output
    result = run("t.safetensors", "table.csv", "--sequences", 5, "--steps", 25)
    assert result.exit_code in (0, 1), result.output
    assert "25 steps, 5 sequences" in result.stdout
    assert "loss" in result.stdout
    assert "left out" not in result.stdout
    # Without the column of the target there is no loss.
    (tmp_path / "bare.csv").write_text("\n".join(row.rpartition(",")[0] for row in rows) + "\n")
    result = run("t.safetensors", "bare.csv", "--sequences", 5)
    assert "without target" in result.stderr
    assert "left out: gradient: this part needs y and loss." in result.stdout


def test_a_run_of_a_synthetic_task_draws_its_own(run, tmp_path):
    options = [
        "--length",
        "20",
        "--hidden",
        "8",
        "--updates",
        "2",
        "--every",
        "1",
        "--run",
        "r",
        "-q",
    ]
    trained = CliRunner().invoke(app, ["train", "adding", *options])
    assert trained.exit_code == 0, trained.output
    result = run("r", "--sequences", 4)
    assert "held-out sequences of adding, T = 20" in result.stderr
    assert "20 steps, 4 sequences" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.safetensors"], "cannot read nowhere.safetensors"),
        (["."], "holds no run"),
        (["net.safetensors", "bad.npz"], "bad.npz must hold x"),
        (["net.safetensors", "text.npz"], "is not a NumPy file"),
        (["net.safetensors", "a.csv"], "was not trained by a command that reads such files"),
        (["net.safetensors", "--last"], "--last needs --loss"),
        (["net.safetensors", "--part", "all"], "parts must be one of"),
        (["net.safetensors", "--out", "no/where.html"], "is not a folder"),
        (["net.safetensors", "noy.npz", "--loss", "mse"], "loss is given, but not y"),
        (["net.safetensors", "wide.npz"], "x must have shape"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(run, net, tmp_path, arguments, message):
    np.savez(tmp_path / "bad.npz", z=np.zeros(3))
    np.savez(tmp_path / "noy.npz", x=np.zeros((9, 1, 3), np.float32))
    np.savez(tmp_path / "wide.npz", x=np.zeros((9, 1, 4), np.float32))
    (tmp_path / "text.npz").write_text("no array")
    (tmp_path / "a.csv").write_text("a\n1\n")
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_every_loss_that_the_command_names_is_one_of_the_library():
    assert set(get_args(LossName)) == set(gd.loss.LOSSES)


def test_without_data_a_large_net_is_measured_on_fewer_steps(tmp_path):
    """A diagnosis of 512 units on 10,000 steps takes minutes."""
    lengths = []
    for units in (8, 128, 256, 512, 1024):
        net = gd.Stack(gd.LSTM(3, units), gd.Linear(units, 2))
        gd.save(tmp_path / "net.safetensors", net, net.init(seed=0))
        made = material(tmp_path / "net.safetensors")
        lengths.append(len(made.batch.x))
        assert f"{lengths[-1]:,} steps of random input" in made.told
        assert len(material(tmp_path / "net.safetensors", steps=3_000).batch.x) == 3_000
    assert lengths[0] == lengths[1] == 10_000 > lengths[2] > lengths[3] >= lengths[4] == 200


def test_lines_of_progress_have_the_time_that_is_left(run, net):
    result = run(net, "--steps", 50)
    assert "s left)" in result.stderr
