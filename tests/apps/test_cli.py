"""Tests of the command: exit codes, messages, and small complete runs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import gradcore as gd
import gradcore._core

pytest.importorskip("typer")
pytest.importorskip("pygments")

import typer
from typer.main import get_command
from typer.testing import CliRunner

from gradcore.apps import commands
from gradcore.apps.commands.options import spread
from gradcore.apps.settings import option
from gradcore.apps.tasks.brackets import check, job
from places import ROOT

# This is the entry point as pip makes it.
STARTS = "import sys; sys.argv[0] = 'gradcore'; from gradcore.apps.cli import main; main()"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def call(*arguments):
    return CliRunner().invoke(commands.app, [str(argument) for argument in arguments])


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


def test_info_of_folders_is_json_too():
    if not (Path(gradcore._core.__file__).parent / "include").is_dir():
        pytest.skip("gradcore is not installed, only on the path")
    found = json.loads(call("info", "--json", "--include-dir", "--cmake-dir").stdout)
    assert found == {"include_dir": gd.get_include(), "cmake_dir": gd.get_cmake_dir()}
    assert call("info", "--include-dir").stdout == f"{gd.get_include()}\n"


def all_commands(command, path=()):
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from all_commands(inner, (*path, name))


COMMANDS = dict(all_commands(get_command(commands.app)))


def test_the_commands_are_those_of_the_documentation():
    page = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    table = " ".join(re.findall(r"`([^`]+)`", page[: page.index("## Exit codes")]))
    for path, command in COMMANDS.items():
        if path and path[0] != "study" and not hasattr(command, "commands"):
            assert path[-1] in table.split(), path


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_is_plain_and_whole(path, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    result = call(*path, "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Usage: gradcore {' '.join(path)}".rstrip())
    assert all(line.isascii() and line.isprintable() for line in result.stdout.splitlines())
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert not re.search(r"[a-z]\.\.\.$", result.stdout, re.MULTILINE), "a sentence is cut"
    for parameter in COMMANDS[path].params:
        assert parameter.help, f"{parameter.name} is not explained"
    commands = getattr(COMMANDS[path], "commands", {})
    told = re.findall(r"^  ([\w-]+)  ", result.stdout, re.MULTILINE)
    assert [name for name in told if name in commands] == sorted(commands)


@dataclass(frozen=True)
class Settings:
    size: int = option(3, "How many.", "--size", min=1)
    names: list[str] | None = option(None, "Which.", metavar="NAME")
    inner: int = 7


@dataclass(frozen=True)
class Others(Settings):
    size: int = 5


def test_a_dataclass_parameter_stands_for_options():
    seen = []

    def command(*, files: list[str], settings: Settings, flag: bool = False) -> None:
        """Stands for a command and does nothing."""
        seen.append((files, settings, flag))

    app = typer.Typer(rich_markup_mode=None)
    app.command()(spread(command))
    arguments = ["a", "b", "--size", "2", "--names", "x", "--names", "y", "--flag"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert CliRunner().invoke(app, ["a"]).exit_code == 0
    assert CliRunner().invoke(app, ["a", "--size", "0"]).exit_code == 2
    assert seen == [(["a", "b"], Settings(2, ["x", "y"]), True), (["a"], Settings(), False)]
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert "How many.  [default: 3; x>=1]" in shown
    assert "inner" not in shown
    command.__annotations__["settings"] = Others
    app = typer.Typer(rich_markup_mode=None)
    app.command()(spread(command))
    assert CliRunner().invoke(app, ["a", "--size", "2"]).exit_code == 2, "it is not offered"
    assert CliRunner().invoke(app, ["a"]).exit_code == 0
    assert seen[-1] == (["a"], Others(), False)


def test_version():
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"gradcore {gd.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Usage: gradcore"),
        (["study"], "Usage: gradcore study"),
        (["nonsense"], "No such command 'nonsense'."),
        (["train", "nonsense"], "No such command 'nonsense'."),
        (["info", "--nope"], "No such option"),
        (["info", "more"], "unexpected extra argument"),
        (["check"], "Missing argument 'FILE'."),
        (["check", "a.py", "--checkpoint", "gone.st"], "cannot read gone.st: no such file.\n"),
        (["annotate", "a.fa"], "Train a net by `gradcore train dna`"),
        (["diagnose", "gone.st"], "cannot read gone.st: no such file.\n"),
        (["train", "adding", "--length", "many"], "Invalid value for '--length'"),
        (["train", "adding", "--length", "1"], "length of adding must be at least 2; got 1."),
        (["train", "adding", "--resume"], "--resume needs --run FOLDER"),
        (["bench", "--hidden", "x"], "separated by commas; got 'x'."),
        (["study", "flow", "--json", "nowhere/x"], "is not a folder. Create it first."),
    ],
)
def test_a_wrong_call_says_what_is_wrong(arguments, message):
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def run(*arguments, **environment):
    """Runs the command in its own process with its output in pipes."""
    kept = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return subprocess.run(
        [sys.executable, "-m", "gradcore.apps.cli", *map(str, arguments)],
        env=kept | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def test_in_a_pipe_there_are_plain_lines_only(code):
    options = ("--characters", 1000, "--hidden", 4, "--threads", 1)
    done = run("train", "brackets", code, *options, FORCE_COLOR="1")
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, done.stderr):
        assert text
        assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_can_be_kept_plain(code, name, value):
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gradcore.apps.cli", "train", "brackets", code]
    options = ["--characters", "1000", "--hidden", "4", "--threads", "1"]
    with subprocess.Popen(
        [*command, *options],
        env=os.environ | {"TERM": "xterm-256color", name: value},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        told = b""
        # Linux reports an error when the other side of a terminal is closed.
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 65536):
                told += chunk
    os.close(ours)
    assert process.returncode == 0
    codes = set(re.findall(rb"\x1b\[[0-9;?]*([a-zA-Z])", told))
    assert b"saved" in told
    assert b"m" not in codes, "colours"
    assert name == "NO_COLOR" or not codes, "control characters"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("gradcore tr", {"train"}),
        ("gradcore train e", {"enhancer"}),
        ("gradcore study ", {"clipping", "flow", "implicit", "skip", "von-neumann"}),
        ("gradcore train brackets --ce", {"--cell"}),
        ("gradcore train brackets --cell l", {"lstm"}),
    ],
)
def test_completion_in_bash(tmp_path, line, offers):
    """Bash sources what `gradcore --show-completion` prints; the test presses Tab after
    the line.
    """
    gradcore = tmp_path / "gradcore"
    gradcore.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{STARTS}" "$@"\n')
    gradcore.chmod(0o755)
    words = " ".join(f"'{word}'" for word in line.split(" "))
    script = f"""
        eval "$(gradcore --show-completion)"
        COMP_WORDS=({words}) COMP_CWORD={len(line.split(" ")) - 1}
        $(complete -p gradcore | sed 's/.*-F \\([^ ]*\\).*/\\1/') gradcore
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert (set(done.stdout.split()), done.stderr) == (offers, "")


def test_completion_is_installed_for_the_shell(tmp_path):
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    call_it = f'"{sys.executable}" -m gradcore.apps.cli --install-completion; echo "$?"'
    done = subprocess.run(
        ["bash", "-c", call_it],
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split()[-1] == "0", done.stderr
    (script,) = (tmp_path / ".bash_completions").iterdir()
    assert str(script) in (tmp_path / ".bashrc").read_text(encoding="utf-8")


def test_the_command_without_typer_names_the_remedy():
    script = (
        "import sys; sys.modules['typer'] = None; from gradcore.apps.cli import main; "
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
    # The time is over before the last stage begins, but that stage still has one update.
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
    assert "interrupted; the current net was saved to brackets.safetensors" in result.stderr
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
    command = [sys.executable, "-m", "gradcore.apps.cli", "train", "brackets", str(code)]
    with subprocess.Popen(
        [*command, "--minutes", "5", "--hidden", "16"], stderr=subprocess.PIPE, text=True
    ) as process:
        # The stage is printed before the first update.
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


def constant_checkpoint(path, answer, outputs=9):
    net = gd.Stack(gd.Embedding(128, 2), gd.LSTM(2, 3), gd.Linear(3, outputs))
    params = net.init(seed=0)
    params.flat[:] = 0
    params["2.bias"][4 + answer if outputs == 9 else answer] = 9
    gd.save(path, net, params)
    return path


def test_check_exits_like_a_linter(tmp_path):
    (tmp_path / "a.py").write_text("f(1\n", encoding="utf-8")
    clean = call("check", "a.py", "--checkpoint", constant_checkpoint(tmp_path / "0.st", 0))
    assert (clean.exit_code, clean.stdout) == (0, "")
    found = call("check", "a.py", "--checkpoint", constant_checkpoint(tmp_path / "1.st", 1))
    assert found.exit_code == 1
    assert found.stdout == "a.py:1:4: '(' is never closed\n"


def test_check_tells_unreadable_files_and_goes_on(tmp_path):
    (tmp_path / "a.py").write_text("f(1\n", encoding="utf-8")
    net = constant_checkpoint(tmp_path / "1.st", 1)
    (tmp_path / "b.py").write_text("f(1\n", encoding="utf-16")
    result = call("check", "gone.py", tmp_path, "b.py", "a.py", "--checkpoint", net)
    assert result.exit_code == 2
    assert "b.py holds zero bytes: it is binary data, or text that is not in UTF-8" in result.stderr
    assert "gone.py: cannot be read: No such file" in result.stderr
    assert f"{tmp_path}: cannot be read: Is a directory" in result.stderr
    assert "a.py:1:4" in result.stdout


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
        ("other.st", "holds a net for another task: expected 128 tokens and 9 outputs"),
    ):
        result = call("check", "a.py", "--checkpoint", name)
        assert result.exit_code == 2
        assert message in result.stderr
        assert "Traceback" not in result.stderr
