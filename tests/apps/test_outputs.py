"""What the outputs of commands may replace, and what is said before the work."""

import os
import stat
from pathlib import Path

import pytest

import gradcore as gd

pytest.importorskip("typer")

from typer.main import get_command
from typer.testing import CliRunner

from gradcore.apps import commands

TABLE = "t,x,y\n" + "".join(f"{t},{t % 7},{(t % 7) * 2 + 1}\n" for t in range(120))


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text(TABLE)


def call(*arguments):
    return CliRunner().invoke(commands.app, [str(argument) for argument in arguments])


def train(table, *more):
    usual = ("--target", "y", "--order", "t", "--updates", 3, "--hidden", 4, "--threads", 1)
    return call("train", "csv", table, *usual, "--quiet", *more)


@pytest.mark.parametrize("option", ["--out", "--json", "--plot"])
def test_a_table_is_never_replaced(option, tmp_path):
    name = "t.png" if option == "--plot" else "t.csv"
    os.rename("t.csv", name)
    result = train(name, option, name)
    assert result.exit_code == 2
    assert f"cannot write {name}: it is one of the files to read" in result.output
    assert (tmp_path / name).read_text() == TABLE
    assert os.listdir() == [name]


def test_the_usual_picture_replaces_no_table(tmp_path):
    pytest.importorskip("matplotlib")
    os.rename("t.csv", "a.png")
    result = train("a.png", "--out", "a.safetensors")
    assert result.exit_code == 2
    assert "cannot write a.png: it is one of the files to read" in result.output
    assert (tmp_path / "a.png").read_text() == TABLE


def test_what_is_replaced_is_said_and_predictions_replace_neither_net_nor_table():
    assert train("t.csv", "--out", "n.safetensors").exit_code == 0
    before = Path("n.safetensors").read_bytes()
    for name in ("n.safetensors", "t.csv"):
        result = call("predict", "n.safetensors", "t.csv", "--out", name)
        assert result.exit_code == 2
        assert f"cannot write {name}: it is one of the files to read" in result.output
    assert Path("n.safetensors").read_bytes() == before
    result = train("t.csv", "--out", "n.safetensors", "--json", "j.json")
    assert result.exit_code == 0
    assert "gradcore: n.safetensors exists and will be replaced" in result.output
    assert "j.json exists" not in result.output


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_devices_stay_devices():
    result = train("t.csv", "--out", "/dev/null", "--json", "/dev/null", "--plot", "/dev/null")
    assert result.exit_code == 0, result.output
    result = train("t.csv", "--out", "n.safetensors", "--json", "/dev/full")
    assert result.exit_code == 2
    assert "/dev/full: No space left on device" in result.output
    gd.load("n.safetensors")
    for name in ("/dev/null", "/dev/full"):
        assert stat.S_ISCHR(os.stat(name).st_mode)


@pytest.mark.parametrize("option", ["--out", "--json", "--plot"])
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("folder", "is a folder"),
        ("nowhere/a.png", "is not a folder. Create it first"),
        ("a" * 252 + ".png", "name too long"),
        ("/proc/a.png", "cannot write /proc/a.png"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_training(option, name, told):
    os.mkdir("folder")
    result = train("t.csv", option, name)
    assert result.exit_code == 2
    assert told in result.output.lower()[:2000] or told in result.output
    assert sorted(os.listdir()) == ["folder", "t.csv"]


def test_one_file_is_not_two_outputs():
    result = train("t.csv", "--out", "a.json", "--json", "./a.json")
    assert result.exit_code == 2
    assert "a.json is named for two outputs. Name a file for each." in result.output
    assert os.listdir() == ["t.csv"]


def test_files_of_a_run_are_not_replaced_by_other_outputs():
    assert train("t.csv", "--run", "r", "--out", "n.safetensors").exit_code == 0
    for more in (["--out", "r/last.safetensors"], ["--json", "r/metrics.jsonl"]):
        result = train("t.csv", "--run", "r", "--resume", *more)
        assert result.exit_code == 2
        assert "is one of the files to read" in result.output
    result = call("plot", "r", "--out", "r/metrics.jsonl")
    assert result.exit_code == 2
    assert gd.load("r/last.safetensors").net is not None


def test_genes_beside_a_genome_and_sources_in_a_folder_are_not_replaced():
    with open("g.fa", "w") as file:
        file.write(">a\n" + "ACGT" * 50 + "\n")
    with open("g.gff3", "w") as file:
        file.write("##gff-version 3\n")
    result = call("train", "dna", "--train", "g.fa", "--gff", "g.gff3")
    assert result.exit_code == 2
    assert "cannot write g.gff3: it is one of the files to read" in result.output
    os.mkdir("src")
    with open("src/package.json", "w") as file:
        file.write("{}")
    result = call("train", "brackets", "src", "--json", "src/package.json")
    assert result.exit_code == 2
    assert "cannot write src/package.json: it is one of the files to read" in result.output


def every_command(group, *names):
    """(names, command) of every command below a group."""
    for name in group.list_commands(None):
        found = group.get_command(None, name)
        if hasattr(found, "list_commands"):
            yield from every_command(found, *names, name)
        else:
            yield (*names, name), found


OUTPUTS = {"--run", "--out", "--checkpoint", "--json", "--plot", "--gff"}
EMPTY = [
    (*names, option)
    for names, command in every_command(get_command(commands.app))
    for parameter in command.params
    for option in parameter.opts
    if option in OUTPUTS and not getattr(parameter, "is_flag", False)
]


def test_every_training_has_an_option_to_leave_empty():
    trainings = get_command(commands.app).get_command(None, "train").list_commands(None)
    assert {words[1] for words in EMPTY if words[0] == "train"} == set(trainings)


@pytest.mark.parametrize("words", EMPTY, ids=" ".join)
def test_a_name_that_is_empty_is_refused(words, tmp_path):
    """pathlib takes it for the current folder."""
    for given in ([*words, ""], [*words[:-1], f"{words[-1]}="]):
        done = CliRunner().invoke(commands.app, given)
        assert done.exit_code == 2, done.output
        assert f"{words[-1]}" in done.output
        assert "must name a file or a folder; the name is empty" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("words", [("plot",), ("diagnose",), ("check",), ("predict", "net")])
def test_an_input_without_a_name_is_refused(words):
    done = CliRunner().invoke(commands.app, [*words, ""])
    assert done.exit_code == 2
    assert "must name a file or a folder; the name is empty" in done.output
    dot = CliRunner().invoke(commands.app, [*words, "."])
    assert "the name is empty" not in dot.output


def test_a_suffix_that_is_no_picture_is_told_before_the_training():
    pytest.importorskip("matplotlib")
    result = train("t.csv", "--plot", "a.xyz")
    assert result.exit_code == 2
    assert "the format 'xyz' is not supported (supported formats: " in result.output
    assert os.listdir() == ["t.csv"]
