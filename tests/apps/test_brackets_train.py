"""Training of the brackets task: runs that are resumed, nets that are saved, limits."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import pytest

import gradcore as gd

pytest.importorskip("typer")
pytest.importorskip("pygments")

from typer.testing import CliRunner

from gradcore._training.runs import read_metrics
from gradcore.apps import commands
from gradcore.apps.tasks import staged
from gradcore.apps.tasks.brackets import train
from gradcore.apps.tasks.brackets.sources import Path

# ---- Runs


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code").mkdir()
    for i in range(24):
        lines = [f"def f{i}(a, b=[{i}]):", "    # not a ) bracket", "    return {a: (b[0], '(')}"]
        (tmp_path / "code" / f"m{i}.py").write_text("\n".join(lines * 20) + "\n", encoding="utf-8")


def arguments(*more):
    fixed = ("train", "brackets", "code", "--hidden", 8, "--threads", 1, "--quiet")
    return [str(argument) for argument in (*fixed, *more)]


def call(*more):
    return CliRunner().invoke(commands.app, arguments(*more))


CHARACTERS = ("--characters", 300_000)


def outcome(name):
    """Parameters, results and metrics lines of a run, without the times."""
    figures = json.loads(Path(f"{name}.json").read_text(encoding="utf-8"))
    lines = read_metrics(name)
    assert figures.pop("training_seconds") <= figures.pop("seconds")
    for line in lines:
        assert line.pop("seconds") >= 0
    return gd.load(f"{name}.safetensors").params, figures, lines


def named(name, *more):
    return ("--run", name, "--out", f"{name}.safetensors", "--json", f"{name}.json", *more)


def stop_after(updates, monkeypatch):
    """Interrupts the next training before the update that follows the given number of updates."""
    step, count = gd.optim.Adam.step, itertools.count()

    def interrupted(*args, **options):
        if next(count) == updates:
            raise KeyboardInterrupt
        return step(*args, **options)

    monkeypatch.setattr(gd.optim.Adam, "step", interrupted)


KILLED = """
import itertools, os, signal, sys
import gradcore as gd
from gradcore.apps.cli import main
from gradcore.apps.tasks import staged

staged.SAVE_EVERY = 5
updates, sys.argv = int(sys.argv[1]), ["gradcore", *sys.argv[2:]]
step, count = gd.optim.Adam.step, itertools.count()

def killed(*args, **options):
    if next(count) == updates:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*args, **options)

gd.optim.Adam.step = killed
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL there")
def test_killed_and_resumed_it_ends_with_the_same_bits():
    assert call(*CHARACTERS, *named("whole")).exit_code == 0
    reached = []
    for updates in (0, 3, 12, 31, 33):
        script = [sys.executable, "-c", KILLED, str(updates)]
        given = arguments(*CHARACTERS, *named("killed", "--resume"))
        assert subprocess.run([*script, *given], capture_output=True).returncode == -9
        reached.append(gd.load("killed/last.safetensors").metadata["step"])
    assert reached == [0, 0, 10, 40, 70]
    done = call(*CHARACTERS, *named("killed", "--resume"))
    assert done.exit_code == 0, done.stderr
    params, figures, lines = outcome("killed")
    assert len(lines) == figures["steps"] > 75
    assert (params, figures, lines) == outcome("whole")


@pytest.mark.parametrize("updates", [10, 74])
def test_interrupted_and_resumed_it_ends_with_the_same_bits(monkeypatch, updates):
    assert call(*CHARACTERS, *named("whole")).exit_code == 0
    with monkeypatch.context() as patch:
        stop_after(updates, patch)
        stopped = call(*CHARACTERS, *named("stopped"))
    assert stopped.exit_code == 130
    assert "saved to stopped.safetensors" in stopped.stderr
    assert "with --resume" in stopped.stderr
    assert gd.load("stopped/last.safetensors").metadata["step"] == updates
    assert call(*CHARACTERS, *named("stopped", "--resume")).exit_code == 0
    assert outcome("stopped") == outcome("whole")
    # After its end a run has nothing to train, only to evaluate.
    assert call(*CHARACTERS, *named("stopped", "--resume")).exit_code == 0
    assert outcome("stopped") == outcome("whole")


def test_a_run_changes_nothing_about_the_net():
    assert call(*CHARACTERS, *named("run")).exit_code == 0
    assert call(*CHARACTERS, "--out", "plain.safetensors").exit_code == 0
    assert gd.load("run.safetensors").params == gd.load("plain.safetensors").params


def test_by_the_clock_a_run_goes_on(monkeypatch):
    clock = ("--minutes", 0.05)
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        assert call(*clock, *named("run")).exit_code == 130
    before = gd.load("run/last.safetensors").metadata["step"]
    done = call(*clock, *named("run", "--resume"))
    assert done.exit_code == 0, done.stderr
    _, figures, lines = outcome("run")
    assert len(lines) == figures["steps"] > before == 5
    assert figures["longest_sequence"] >= 10_000


def test_the_net_is_saved_now_and_then(monkeypatch):
    monkeypatch.setattr(staged, "SAVE_EVERY", 10)
    saved, save = [], gd.save

    def count(path, net, params, **metadata):
        saved.append(metadata.get("optimizer_steps"))
        save(path, net, params, **metadata)

    monkeypatch.setattr(gd, "save", count)
    assert call(*CHARACTERS).exit_code == 0
    assert saved[:3] == [10, 20, 30]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--resume"], "--resume needs --run FOLDER"),
        (["--run", "run"], "run already holds a training. Continue it with --resume"),
        (["--run", "run", "--resume", "--seed", 1], "data.seed was 0 and is 1"),
        (["--run", "run", "--resume", "--cell", "gru"], "net was Stack"),
        (["--run", "run", "--resume", "--characters", 2_000], "data.limit was '1000 characters'"),
        (["--run", "code/m1.py"], "code/m1.py"),
        (["--run", "junk", "--resume"], "junk/last.safetensors"),
    ],
)
def test_wrong_uses(tmp_path, more, message):
    assert call("--characters", 1_000, "--run", "run", "--out", "first.safetensors").exit_code == 0
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "last.safetensors").write_bytes(b"junk" * 100)
    kept = (tmp_path / "run" / "last.safetensors").read_bytes()
    result = call("--characters", 1_000, *more)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "brackets.safetensors").exists()
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == kept


def test_other_files_are_another_run():
    assert call("--characters", 1_000, "--run", "run").exit_code == 0
    for i in range(24):
        with Path(f"code/m{i}.py").open("a", encoding="utf-8") as file:
            file.write("g()\n")
    result = call("--characters", 1_000, "--run", "run", "--resume")
    assert result.exit_code == 2
    assert "data.files was" in result.stderr


def test_other_texts_of_the_same_sizes_are_another_run():
    assert call(*CHARACTERS, "--run", "run").exit_code == 0
    for i in range(24):
        file = Path(f"code/m{i}.py")
        file.write_text(file.read_text(encoding="utf-8").replace("def", "for"), encoding="utf-8")
    result = call(*CHARACTERS, "--run", "run", "--resume")
    assert result.exit_code == 2
    assert "Continue with the files as they were" in result.stderr


@pytest.mark.parametrize("cell", sorted(train.CELLS))
def test_gates_start_with_long_memories_where_a_cell_has_them(cell):
    net = train.build(train.Options(cell=cell, hidden=8))
    plain = net.init(seed=0)
    assert (train.initial(net, train.Options(cell=cell, hidden=8)) != plain) == (
        cell in ("lstm", "gru")
    )


def test_the_score_is_the_mean_over_distances_with_enough_brackets():
    counts = {"1-10": 500, "10-100": 60, "100-1k": 19, "1k-10k": 0, "10k+": 0}
    shares = {"1-10": 0.9, "10-100": 0.5, "100-1k": 0.0, "1k-10k": None, "10k+": None}
    score = train.evaluate.Score(0.8, shares, counts)
    assert train.mean_by_distance(score) == pytest.approx(0.7)
    few = train.evaluate.Score(0.25, shares, dict.fromkeys(counts, 3))
    assert train.mean_by_distance(few) == 0.25
