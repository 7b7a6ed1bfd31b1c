"""Every remedy in the words of the command line works as it is written."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import gradcore as gd
from gradcore.diagnosis._remedies import REMEDIES

pytest.importorskip("typer", reason="needs the command line: install gradcore[cli]")

from typer.testing import CliRunner

from gradcore.apps import commands
from gradcore.apps.tasks.dna import synthetic
from gradcore.apps.tasks.material import material
from gradcore.apps.tasks.staged import Stage

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


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A function that trains a small net by a command with options; returns the file of the net."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADCORE_CACHE", str(tmp_path / "cache"))
    short = (Stage(400, 2, 0.5), Stage(1_000, 1, 0.5))
    monkeypatch.setattr("gradcore.apps.tasks.prophage.job.STAGES", short)

    def call(command, piece):
        files, out = FILES[command]()
        words = ["train", command, *files, "--hidden", "8", "-q", *shlex.split(piece)]
        done = CliRunner().invoke(commands.app, words)
        assert done.exit_code == 0, done.output
        return out

    return call


def source_code():
    Path("code").mkdir()
    for i in range(24):
        text = f"def f{i}(a, b=[{i}]):\n    # not a ) bracket\n    return {{a: (b[0], '(')}}\n"
        Path(f"code/m{i}.py").write_text(text * 20, encoding="utf-8")
    return ["code", "--characters", "60000", "--out", "net.safetensors"], "net.safetensors"


def genomes(length=6_000):
    """Two genomes in which every third gene is one of a phage."""
    for name, seed in (("a", 1), ("b", 2)):
        made = synthetic.genome(name, length, seed)
        Path(f"{name}.fa").write_text(f">{name}\n{made.letters.tobytes().decode()}\n")
        rows = ["##gff-version 3"]
        for i, gene in enumerate(made.genes):
            begin, end = gene.span
            phage = ";is_phage=1" * (i % 3 == 0)
            strand = "+" if gene.strand > 0 else "-"
            rows.append(f"{name}\tt\tCDS\t{begin + 1}\t{end}\t.\t{strand}\t0\tID=c{i}{phage}")
        Path(f"{name}.gff3").write_text("\n".join(rows) + "\n")


def genes():
    genomes()
    files = ["--train", "a.fa", "--test", "b.fa", "--layers", "1", "--bases", "6000"]
    return [*files, "--out", "net.safetensors"], "net.safetensors"


def prophages():
    genomes(30_000)
    files = ["a.fa", "b.fa", "--species", "b.fa", "--layers", "1", "--bases", "3000"]
    return [*files, "--out", "net.safetensors"], "net-b_fa.safetensors"


def sequences(length):
    def made():
        options = ["--length", length, "--updates", "2", "--every", "2", "--batch", "2"]
        return [*options, "--run", "run"], "run/last.safetensors"

    return made


FILES = {
    "brackets": source_code,
    "dna": genes,
    "prophage": prophages,
    "adding": sequences("20"),
    "copy": sequences("10"),
    "mqar": sequences("64"),
}
OF_COMMANDS = [
    (command, piece) for command in ("brackets", "dna", "prophage") for piece in pieces("command")
]
OF_TASKS = [(command, piece) for command in ("adding", "copy", "mqar") for piece in pieces("task")]


@pytest.mark.parametrize(("command", "piece"), OF_COMMANDS + OF_TASKS)
def test_remedies_of_other_trainings(command, piece, trained):
    if command in ("dna", "prophage", "brackets"):
        pytest.importorskip("pygments", reason="lexes: install gradcore[data]")
    path = Path(trained(command, piece))
    net, params, _ = gd.load(path)
    layer, options = net.recurrent[-1], shlex.split(piece)
    if "--skip" in options:
        assert layer.skip.lag == 20
    if "--cell" in options:
        wanted = options[options.index("--cell") + 1]
        assert (layer.skip is not None) == (wanted == "skip")
        assert wanted == "skip" or isinstance(layer, gd.LSTM)
    if "--constrain" in options:
        weights = [params[name] for name in params if "weight_hh" in name]
        assert max(np.linalg.norm(weight, 2) for weight in weights) <= 1.0 + 1e-4


@pytest.mark.parametrize(("command", "front"), [("adding", "task"), ("dna", "command")])
def test_a_diagnosis_is_worded_for_the_command_that_trained_the_net(command, front, trained):
    path = Path(trained(command, ""))
    assert material(path).front == front
    assert material(path, steps=5).front == front  # random input
    done = CliRunner().invoke(commands.app, ["diagnose", str(path), "--part", "reach", "-q"])
    assert done.exit_code in (0, 1), done.output
    assert "gd." not in done.output
    assert "net.init" not in done.output


def test_a_chrono_without_gates_is_refused(table):
    arguments = ["train", "csv", str(table), "--target", "b", "--updates", "2"]
    done = CliRunner().invoke(commands.app, [*arguments, "--cell", "rnn", "--chrono", "50"])
    assert done.exit_code == 2
    assert "needs memory gates" in done.output
