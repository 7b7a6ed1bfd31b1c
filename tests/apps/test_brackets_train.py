"""Training of the brackets task: windows by stages, learning rate and average by part of the
training, and runs that are resumed.
"""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest

import gradcore as gd

pytest.importorskip("typer")
pytest.importorskip("pygments")

from typer.testing import CliRunner

from gradcore._training.runs import read_metrics
from gradcore.apps import commands
from gradcore.apps.tasks import staged
from gradcore.apps.tasks.brackets import lexing, train
from gradcore.apps.tasks.brackets.sources import Path, SourceFile
from gradcore.apps.tasks.brackets.windows import Stage, Windows

STAGES = (Stage(8, 2, 0.5, 0.1), Stage(32, 1, 0.25, 0.1), Stage(64, 1, 0.25, 0.2))


def document(text, name="a.py"):
    file = SourceFile(Path(name), name, name, "python", len(text))
    kinds = np.array([lexing.BRACKET if c in "()[]{}" else lexing.CODE for c in text], np.uint8)
    return lexing.Document(file, lexing.tokens_of(text), kinds, lexing.digest_of(text))


DOCUMENTS = (document("f(a,\n b[1])\nx = {\n 1: (2),\n}\nz()\n" * 9), document("g([])\n" * 7))


def make(**options):
    return Windows(DOCUMENTS, STAGES, **({"seed": 3} | options))


def rest(source):
    return [(b.x, b.y, b.weight, b.reset) for b in source]


# ---- Windows


def test_by_characters_every_stage_has_its_share():
    numbers, stages = [], []
    source = make(characters=640, on_stage=stages.append)
    source.on_batch = numbers.append
    parts = []
    while source.epoch == 0:
        shape = source.take().x.shape
        assert shape == (stages[-1].steps, stages[-1].batch)
        parts.append(source.part)
    # 320 characters are read with 16 per batch, 160 with 32 and 160 with 64; the batch that reaches
    # 640 is the last.
    assert source.counts == [20, 5, 3]
    assert stages == list(STAGES)
    assert numbers == list(range(28))
    assert source.read == 672
    assert parts == [
        pytest.approx(read / 640)
        for read in (*range(0, 320, 16), *range(320, 480, 32), *range(480, 640, 64))
    ]


def test_the_last_stage_has_a_batch_however_few_the_characters():
    source = make(characters=1)
    assert len(rest(source)) == 2
    assert source.counts == [1, 0, 1]


def test_windows_go_on_at_any_place_with_the_same_bits():
    whole = rest(make(characters=640))
    for place in (0, 1, 19, 20, 24, 27):
        first, second = make(characters=640), make(characters=640)
        for _ in range(place):
            first.take()
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        np.testing.assert_equal(rest(second), whole[place:])
    other = rest(make(characters=640, seed=4))
    assert not all(np.array_equal(a[0], b[0]) for a, b in zip(whole, other, strict=True))


class Clock:
    """Replaces time.monotonic on a machine on which every update takes a given time."""

    def __init__(self, monkeypatch):
        self.now = 1_000.0
        monkeypatch.setattr(staged.time, "monotonic", lambda: self.now)

    def train(self, source, updates, seconds=1.0):
        for _ in range(updates):
            source.take()
            self.now += seconds


def test_by_the_clock_every_stage_has_its_share(monkeypatch):
    clock = Clock(monkeypatch)
    source = make(seconds=16)
    while source.epoch == 0:
        clock.train(source, 1)
    assert source.counts == [8, 4, 4]
    assert clock.now == 1_016


def test_by_the_clock_a_resumed_training_has_the_time_that_is_left(monkeypatch):
    clock = Clock(monkeypatch)
    first = make(seconds=16)
    clock.train(first, 9)
    state = json.loads(json.dumps(first.state_dict()))
    clock.now += 500
    second = make(seconds=16)
    clock.now += 2  # time until the training begins
    second.load_state_dict(state)
    while second.epoch == 0:
        clock.train(second, 1)
    assert second.counts == [8, 4, 4]


def test_by_the_clock_the_last_stage_comes_even_too_late(monkeypatch):
    clock = Clock(monkeypatch)
    source = make(seconds=16)
    while source.epoch == 0:
        clock.train(source, 1, seconds=40.0)
    assert source.counts == [1, 0, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"counts": [1, 2]},
        {"counts": [1, 2, -3]},
        {"counts": None},
        {"seconds": -1.0},
        {"seconds": math.nan},
        {"seconds": None},
        {"position": -1},
        {"epoch": None},
    ],
)
def test_states_that_cannot_be_are_refused(change):
    source = make(characters=640)
    source.take()
    before = source.state_dict()
    with pytest.raises(gd.GradcoreError, match=r"counts|place|epoch"):
        source.load_state_dict({**before, **change})
    after = source.state_dict()
    assert {**after, "seconds": 0.0} == {**before, "seconds": 0.0}


def test_what_must_be_the_same_is_described():
    described = [
        source.describe()
        for source in (
            make(characters=640),
            make(characters=641),
            make(characters=640, seed=4),
            make(seconds=4.0, described={"minutes": 1.0}),
            make(seconds=4.0, described={"minutes": 2.0}),
            Windows(DOCUMENTS[::-1], STAGES, seed=3, characters=640),
            Windows(DOCUMENTS, STAGES[1:], seed=3, characters=640),
        )
    ]
    assert described[0] == make(characters=640).describe()
    assert all(one != other for one, other in itertools.combinations(described, 2))
    # How many seconds are left for training depends on how long reading took.
    assert make(seconds=4.0).describe() == make(seconds=5.0).describe()


# ---- Rate and mean


def test_the_rate_falls_with_the_part_that_is_used():
    source = make(characters=640)
    schedule = staged.Falling(0.5, 0.1, source)
    factors = []
    while source.epoch == 0:
        source.take()
        factors.append(schedule.factor(len(factors)))
    assert factors[:21] == [1.0] * 21
    assert factors[25] == pytest.approx(0.1 + 0.9 * 0.5)  # at 480 of 640
    assert factors[27] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 0.9)))  # at 608


def test_the_mean_is_that_of_the_last_share():
    params = gd.Stack(gd.Embedding(4, 3), gd.LSTM(3, 4), gd.Linear(4, 2)).init(seed=0)
    source = make(characters=640)
    average = staged.LastShare(params, 0.25, source)
    late = []
    while source.epoch == 0:
        source.take()
        params.flat[:] += np.float32(0.1)
        average.update()
        if source.part >= 0.75:
            late.append(params.flat.astype(np.float64))
        else:
            assert average.params == params
    assert len(late) == 3
    np.testing.assert_array_equal(average.params.flat, np.mean(late, axis=0).astype(np.float32))


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
    other = call("--minutes", 0.1, *named("run", "--resume"))
    assert other.exit_code == 2
    assert "data.minutes was 0.05 and is 0.1" in other.stderr
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


def test_a_limit_is_needed():
    with pytest.raises(gd.ArgumentError, match="needs a limit"):
        train.train(None, train.Options())
