"""`gradcore train adding`, `copy` and `mqar` learn, stop, print what they do, keep the run and
resume it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import signal
import subprocess
import sys

import numpy as np
import pytest

import gradcore as gd
from gradcore._training import fit as fit_module
from gradcore._training.runs import RunFolder
from gradcore.apps.settings import Resources
from gradcore.apps.tasks.synthetic import enhancer, recipes, report
from gradcore.apps.tasks.synthetic import job as jobs
from gradcore.apps.tasks.synthetic.adding import Adding
from gradcore.apps.tasks.synthetic.copying import Copying
from gradcore.apps.tasks.synthetic.enhancer import Enhancer
from gradcore.apps.tasks.synthetic.mqar import Mqar
from gradcore.apps.tasks.synthetic.rescue import Rescue

pytest.importorskip("typer")

from typer.testing import CliRunner

from gradcore.apps import commands

SMALL = {
    "adding": ("--length", 8, "--hidden", 16, "--no-stages", "--updates", 1_000),
    "copy": ("--length", 2, "--hidden", 48, "--no-stages", "--updates", 300),
    "mqar": ("--length", 6, "--pairs", 2, "--symbols", 2, "--hidden", 24, "--updates", 1_000),
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(name, *arguments):
    arguments = ["train", name, "--threads", 1, *arguments]
    return CliRunner().invoke(commands.app, [str(argument) for argument in arguments])


def job(task=None, **options):
    task = task or Adding(40)
    changes = {"hidden": 8, "batch": 4, "first": 3, "grow": 2, "every": 4, "updates": 10}
    recipe = dataclasses.replace(recipes.default(task), **changes)
    if "cell" in options:
        recipe = dataclasses.replace(recipe, cell=options.pop("cell"))
    return jobs.Job(task, recipe, resources=Resources(threads=1), **options)


# ---- The command -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_it_learns_and_writes_what_it_says(name, tmp_path):
    result = call(name, *SMALL[name], "--every", 100, "--json", "figures.json", "--seed", 1)
    assert result.exit_code == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["task"] == name
    assert figures["seed"] == 1
    assert figures["updates"] == figures["curve"][-1]["update"]
    assert [point["update"] for point in figures["curve"]] == [
        100 * (i + 1) for i in range(len(figures["curve"]))
    ]
    # The score is far better than guessing, and the task is solved where that takes only a moment.
    assert figures["curve"][-1]["loss"] < 0.9 * figures["baseline"]["loss"]
    assert figures["solved"] == (name != "copy")
    assert f"baseline: {figures['baseline']['formula']}" in result.stdout
    assert figures["criterion"] in result.stdout
    for point in figures["curve"]:
        assert f"{point['update']:>8,} " in result.stdout
    assert ("not solved in 300 updates" in result.stdout) == (name == "copy")
    assert ("\nsolved: held-out" in result.stdout) == (name != "copy")
    run = tmp_path / f"{name}-{figures['length']}"
    assert str(run.name) in result.stderr
    net, params, _ = gd.load(run / "last.safetensors")
    assert net.n_parameters == figures["parameters"]
    task, _, _ = jobs.recorded(run)
    held_out = jobs.Curve(jobs.Job(task, recipes.default(task)), print).held_out
    measured = jobs.measure(task, params, held_out, threads=1)
    assert measured.score == figures["curve"][-1]["score"]
    assert measured.loss == figures["curve"][-1]["loss"]
    assert gd.load(run / "best.safetensors").net == net
    if report.can_draw():
        assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_every_run_has_a_folder_of_its_own(tmp_path):
    for _ in range(3):
        assert call("adding", "--length", 5, "--hidden", 2, "--updates", 1).exit_code == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"adding-5", "adding-5-2", "adding-5-3"}


def test_quiet_leaves_baseline_and_result():
    result = call("adding", "--length", 5, "--hidden", 2, "--updates", 2, "--every", 1, "--quiet")
    assert result.exit_code == 0
    assert "baseline" in result.stdout
    assert "not solved in 2 updates" in result.stdout
    assert f"{1:>8,} " not in result.stdout


@pytest.mark.parametrize("cell", recipes.CELLS)
def test_every_cell_trains(cell, tmp_path):
    result = call("adding", *("--length", 70, "--cell", cell, "--hidden", 4, "--updates", 3))
    assert result.exit_code == 0, result.stderr
    assert f"T = 70, {cell} with 4 units" in result.stdout
    net = gd.load(tmp_path / "adding-70" / "last.safetensors").net
    kinds = {"lstm": gd.LSTM, "gru": gd.GRU, "rnn": gd.RNN, "skip": gd.RNN, "tanh": gd.RNN}
    assert isinstance(net.recurrent[0], kinds[cell])
    assert (net.recurrent[0].skip is not None) == (cell == "skip")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adding", "--length", 1], "length of adding must be at least 2; got 1"),
        (["adding", "--length", 0], "length"),
        (["adding", "--cell", "transformer"], "transformer"),
        (["adding", "--hidden", 0], "hidden"),
        (["adding", "--lr", -1], "lr must be >= 0"),
        (["adding", "--memory", "lots"], "lots"),
        (["adding", "--memory", "1kB"], "memory"),
        (["adding", "--pairs", 3], "pairs"),
        (["adding", "--json", "nowhere/x.json"], "is not a folder"),
        (["adding", "--plot", "nowhere/x.png"], "is not a folder"),
        (["adding", "--resume"], "--resume needs --run FOLDER"),
        (["mqar", "--pairs", 17], "pairs must be at most the number of symbols, 16"),
        (["mqar", "--length", 10], "length of mqar must be at least 3 times the pairs, 12"),
        (["copy", "--seed", -1], "seed"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    limits = ["--updates", 1] + ([] if "--hidden" in arguments else ["--hidden", 2])
    result = call(*arguments, *limits)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("last.safetensors"))


def test_a_folder_with_a_training_is_not_written_over(tmp_path):
    options = ("--length", 5, "--hidden", 2, "--updates", 1, "--run", "kept")
    assert call("adding", *options).exit_code == 0
    before = (tmp_path / "kept" / "last.safetensors").read_bytes()
    again = call("adding", *options)
    assert again.exit_code == 2
    assert "kept already holds a training. Continue it with --resume" in again.stderr
    other = call("copy", "--run", "kept", "--resume")
    assert other.exit_code == 2
    assert "kept holds a training of adding, not of copy" in other.stderr
    changed = call("adding", "--run", "kept", "--resume", "--hidden", 3)
    assert changed.exit_code == 2
    assert "holds a run with other settings" in changed.stderr
    assert (tmp_path / "kept" / "last.safetensors").read_bytes() == before


def test_resume_refuses_what_is_no_training_of_a_task(tmp_path):
    (tmp_path / "odd").mkdir()
    net = gd.Stack(gd.GRU(2, 3), gd.Linear(3, 1))
    params = net.init(seed=0)
    optimizer = gd.optim.Adam(params, 1e-3)
    trainer = gd.Trainer(net, params, optimizer, loss=Adding.loss, quiet=True, threads=1)
    trainer.fit([Adding(5).held_out(2)], run=tmp_path / "odd")
    result = call("adding", "--run", "odd", "--resume")
    assert result.exit_code == 2
    assert (
        "must hold a training of adding, copy, mqar, enhancer, and it holds another"
        in result.stderr
    )


# ---- Resuming ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [Adding(70), Copying(12), Mqar(40, 3, 4)], ids=lambda t: t.name)
def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(task, tmp_path, monkeypatch):
    whole = jobs.run(job(task, run=tmp_path / "whole"))
    assert whole.updates == 10
    cut = job(task, run=tmp_path / "cut")
    real, calls = gd.optim.Adam.step, iter(range(100))

    def step(self, *args, **kwargs):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(gd.optim.Adam, "step", step)
    half = jobs.run(cut)
    assert half.interrupted
    assert half.updates == 5
    seen = []
    resumed = jobs.run(dataclasses.replace(cut, resume=True), seen.append)
    assert not resumed.interrupted
    assert resumed.updates == 10
    np.testing.assert_array_equal(resumed.params.flat, whole.params.flat)
    assert [p.update for p in seen] == [p.update for p in whole.curve] == [4, 8, 10]
    assert [p.measured for p in seen] == [p.measured for p in resumed.curve]
    assert [p.measured for p in seen] == [p.measured for p in whole.curve]
    assert resumed.steps == whole.steps
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(seen))


def test_resume_through_the_command_needs_the_folder_only(tmp_path, monkeypatch):
    options = (*("--length", 70, "--hidden", 6, "--batch", 3, "--seed", 5, "--every", 2),)
    assert call("adding", *options, "--updates", 7, "--run", "whole").exit_code == 0
    real, calls = gd.optim.Adam.step, iter(range(100))

    def step(self, *args, **kwargs):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(gd.optim.Adam, "step", step)
    cut = call("adding", *options, "--updates", 7, "--run", "cut")
    assert cut.exit_code == 130
    assert "interrupted after 3 updates" in cut.stderr
    assert "gradcore train adding --run cut --resume" in cut.stderr
    resumed = call("adding", "--run", "cut", "--resume", "--updates", 7, "--every", 2)
    assert resumed.exit_code == 0, resumed.stderr
    whole, again = (gd.load(tmp_path / name / "last.safetensors") for name in ("whole", "cut"))
    assert again.params == whole.params
    assert "not solved in 7 updates" in resumed.stdout


def test_a_solved_run_is_over(tmp_path):
    options = ("--length", 4, "--hidden", 16, "--no-stages", "--every", 50, "--run", "run")
    done = call("adding", *options)
    assert "\nsolved: held-out" in done.stdout
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    again = call("adding", "--run", "run", "--resume", "--json", "figures.json")
    assert again.exit_code == 0
    assert again.stdout == done.stdout
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before
    assert json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["solved"]


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is another thing there")
def test_a_real_signal_saves_the_training(tmp_path):
    command = [sys.executable, "-m", "gradcore.apps.cli", "train", "mqar", "--run", "kept"]
    options = ["--hidden", "8", "--every", "5", "--threads", "1"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        # The first line of the curve shows that training has begun.
        for line in process.stdout:
            if line.split() and line.split()[0] == "5":
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--run kept --resume" in errors
    assert "Traceback" not in errors
    assert jobs.recorded(tmp_path / "kept")[0] == Mqar(256)


def test_a_damaged_curve_is_told(tmp_path):
    jobs.run(job(run=tmp_path / "run"))
    (tmp_path / "run" / "held_out.jsonl").write_text('{"update": 4}\n', encoding="utf-8")
    with pytest.raises(gd.CheckpointError, match="does not hold evaluations of a run"):
        jobs.run(job(run=tmp_path / "run", resume=True))


# ---- Stages that end when they are passed --------------------------------------------------------


def adaptive(length=110, **options):
    task = Enhancer(length)
    changes = {"hidden": 5, "front": 6, "batch": 3, "every": 4, "updates": 26}
    recipe = dataclasses.replace(recipes.default(task, "lstm"), **changes)
    return jobs.Job(task, recipe, resources=Resources(threads=1), **options)


def test_a_stage_ends_when_it_is_passed_and_earlier_ones_come_back(monkeypatch):
    looks = iter([False, True, True, False, True, True])
    monkeypatch.setattr(Enhancer, "passed", lambda self, measured: next(looks))
    monkeypatch.setattr(jobs, "LOST", -1.0)
    made = adaptive()
    lengths = []
    real = Enhancer.draw

    def draw(self, rng, sequences):
        lengths.append(self.length)
        return real(self, rng, sequences)

    monkeypatch.setattr(Enhancer, "draw", draw)
    result = jobs.run(made)
    assert result.updates == 26
    # The lengths are 32, 48, 72, 108 and 110 from updates 0, 8, 12, 20 and 24 on; every second
    # update has the longest.
    assert lengths[:8] == [32] * 8
    assert lengths[8:12:2] == [48, 48]
    assert lengths[12:20:2] == [72] * 4
    assert lengths[20:24:2] == [108] * 2
    assert lengths[24] == 110
    assert {48, 32} <= set(lengths[13:20:2])
    # The full length is evaluated when a stage has ended, at the full length, and at the end.
    assert [(p.update, p.trained) for p in result.curve] == [
        (4, 32),
        (8, 32),
        (12, 48),
        (20, 72),
        (24, 108),
        (26, 110),
    ]
    assert result.steps == sum(Enhancer(n).steps for n in lengths[:26])


@pytest.mark.parametrize("stops", [4, 8, 12, 13, 14])
def test_a_resumed_run_of_such_stages_has_the_same_bits(stops, tmp_path, monkeypatch):
    monkeypatch.setattr(Enhancer, "passed", lambda self, measured: True)
    whole = jobs.run(adaptive(run=tmp_path / "whole"))
    cut = adaptive(run=tmp_path / "cut")
    real, calls = gd.optim.Adam.step, iter(range(100))

    def step(self, *args, **kwargs):
        if next(calls) == stops:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(gd.optim.Adam, "step", step)
    assert jobs.run(cut).updates == stops
    resumed = jobs.run(dataclasses.replace(cut, resume=True))
    np.testing.assert_array_equal(resumed.params.flat, whole.params.flat)
    assert [p.trained for p in resumed.curve] == [p.trained for p in whole.curve]
    assert resumed.steps == whole.steps
    source = jobs.Sequences(cut.task, cut.recipe, 0)
    with pytest.raises(gd.ArgumentError, match="must have begun and put_back"):
        source.load_state_dict({**source.state_dict(), "begun": "x"})


@pytest.mark.parametrize("stops", [None, 8, 12, 14, 22])
def test_a_net_that_is_lost_is_put_back_and_goes_on_slower(stops, tmp_path, monkeypatch):
    # The stage is passed after 4 updates; from then on every evaluation counts as lost.
    monkeypatch.setattr(jobs, "LOST", 2.0)
    monkeypatch.setattr(Enhancer, "passed", lambda self, measured: self.length == 32)
    rates, real = [], gd.optim.Adam.step
    calls = iter(range(100))

    def step(self, *args, **kwargs):
        if next(calls) == stops:
            raise KeyboardInterrupt
        rates.append(self.lr)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(gd.optim.Adam, "step", step)
    put, kept = [], []
    for name, seen in (("put_back", put), ("keep", kept)):
        own = getattr(Rescue, name)

        def noting(self, level, own=own, seen=seen):
            own(self, level)
            arrays = (self.optimizer.params.flat, *self.optimizer.moments.values())
            seen.append((level, [array.copy() for array in arrays]))

        monkeypatch.setattr(Rescue, name, noting)
    made = adaptive(run=tmp_path / "run")
    result = jobs.run(made)
    if stops is not None:
        assert result.updates == stops
        result = jobs.run(dataclasses.replace(made, resume=True))
    assert result.updates == 26
    assert [level for level, _ in kept] == [0]
    # The evaluations at updates 8, 12, ..., 24 and at the end find the net lost.
    assert [level for level, _ in put] == [0] * 6
    for _, arrays in put:
        for array, wanted in zip(arrays, kept[0][1], strict=True):
            np.testing.assert_array_equal(array, wanted)
    first = made.recipe.lr
    expected = [first] * 8
    for time in range(1, 6):
        expected += [first * 0.7**time] * 4
    np.testing.assert_allclose(rates, expected[:26], rtol=1e-12)
    last = {"params": result.params.flat.tobytes(), "steps": result.steps}
    assert OUTCOMES.setdefault("lost", last) == last


OUTCOMES: dict[str, object] = {}


def test_a_net_that_learns_nothing_starts_anew(monkeypatch):
    monkeypatch.setattr(jobs, "PATIENCE", 8)
    monkeypatch.setattr(Enhancer, "passed", lambda self, measured: False)
    starts, own = [], Rescue.start_anew

    def noting(self, times):
        own(self, times)
        assert all(not moment.any() for moment in self.optimizer.moments.values())
        starts.append((times, self.optimizer.params.flat.copy()))

    monkeypatch.setattr(Rescue, "start_anew", noting)
    jobs.run(adaptive())
    assert [times for times, _ in starts] == [1, 2, 3]
    assert len({flat.tobytes() for _, flat in starts}) == 3


def test_a_run_that_must_go_back_to_a_file_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "LOST", 2.0)
    monkeypatch.setattr(Enhancer, "passed", lambda self, measured: self.length == 32)
    made = adaptive(run=tmp_path / "run")
    jobs.run(dataclasses.replace(made, recipe=dataclasses.replace(made.recipe, updates=6)))
    (tmp_path / "run" / "passed-0.safetensors").unlink()
    with pytest.raises(gd.CheckpointError, match=r"passed-0.safetensors, which the training must"):
        jobs.run(dataclasses.replace(made, resume=True))


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("look", [0, 1, 2, 3])
@pytest.mark.parametrize("before", [False, True])
def test_an_interrupted_evaluation_is_made_again_from_the_same_state(
    lost, look, before, tmp_path, monkeypatch
):
    """Whether it would go on to the next stage or put the net back, and has told its point."""
    if lost:
        monkeypatch.setattr(jobs, "LOST", 2.0)
        monkeypatch.setattr(Enhancer, "passed", lambda self, measured: self.length == 32)
        monkeypatch.setattr(jobs, "_SELDOM", 1)  # every evaluation looks at the full length
    else:
        monkeypatch.setattr(Enhancer, "passed", lambda self, measured: True)
    whole = jobs.run(adaptive(run=tmp_path / "whole"))
    cut = adaptive(run=tmp_path / "cut")
    real, calls = jobs.Curve.look, iter(range(100))

    def looking(self, *given):
        stop = next(calls) == look
        if stop and before:
            raise KeyboardInterrupt
        point = real(self, *given)
        if stop:
            raise KeyboardInterrupt
        return point

    monkeypatch.setattr(jobs.Curve, "look", looking)
    assert jobs.run(cut).interrupted
    resumed = jobs.run(dataclasses.replace(cut, resume=True))
    np.testing.assert_array_equal(resumed.params.flat, whole.params.flat)
    told = [[(p.update, p.loss, p.trained) for p in result.curve] for result in (resumed, whole)]
    assert told[0] == told[1]
    assert resumed.steps == whole.steps


def test_a_timed_save_after_an_evaluation_has_the_stage_that_it_began(tmp_path, monkeypatch):
    monkeypatch.setattr(Enhancer, "passed", lambda self, measured: True)
    monkeypatch.setattr(fit_module, "SAVE_SECONDS", -1.0)
    real, seen = RunFolder.save_last, []

    def save_last(self, made):
        seen.append((made.place.step, made.states["data"]["begun"]))
        real(self, made)

    monkeypatch.setattr(RunFolder, "save_last", save_last)
    jobs.run(adaptive(run=tmp_path / "run"))
    for step, begun in seen:
        assert begun == [n for n in (4, 8, 12, 16) if n <= step]


def test_a_damaged_file_to_go_back_to_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "LOST", 2.0)
    monkeypatch.setattr(Enhancer, "passed", lambda self, measured: self.length == 32)
    made = adaptive(run=tmp_path / "run")
    jobs.run(dataclasses.replace(made, recipe=dataclasses.replace(made.recipe, updates=6)))
    path = tmp_path / "run" / "passed-0.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 16]) + content[-8:])
    with pytest.raises(gd.CheckpointError, match=r"passed-0.safetensors is damaged"):
        jobs.run(dataclasses.replace(made, resume=True))


def test_only_the_layer_on_top_starts_with_time_constants_up_to_the_length():
    made = adaptive(10_000)
    net = recipes.build(made.task, made.recipe)
    params = recipes.initial(net, made.task, made.recipe, 0)
    assert (params["1.bias_ih"][6:12] == 1.0).all()
    assert not params["1.bias_ih"][:6].any()
    assert np.ptp(params["2.bias_ih"][5:10]) > 1.0
    np.testing.assert_array_equal(params["2.bias_ih"][:5], -params["2.bias_ih"][5:10])


def test_the_command_takes_a_genome_to_plant_in(tmp_path):
    text = "".join(np.random.default_rng(0).choice(list("ACGT"), 3_000))
    (tmp_path / "real.fa").write_text(f">one\n{text}\n")
    small = ("--hidden", 4, "--batch", 4, "--updates", 3, "--length", 40, "--run", "kept")
    result = call("enhancer", *small, "--background", "real.fa")
    assert result.exit_code == 0, result.stderr
    assert jobs.recorded(tmp_path / "kept")[0].background == str(tmp_path / "real.fa")
    result = call("enhancer", "--run", "kept", "--resume", "--updates", 5)
    assert result.exit_code == 0, result.stderr
    # Another genome of the same length would give other sequences; genes beside it would not.
    (tmp_path / "real.gff3").write_text("##gff-version 3\nother\tt\tCDS\t1\t9\t.\t+\t0\tID=a\n")
    result = call("enhancer", "--run", "kept", "--resume", "--updates", 6)
    assert result.exit_code == 0, result.stderr
    (tmp_path / "real.fa").write_text(f">one\n{text[::-1]}\n")
    enhancer.background.cache_clear()  # another process would read the file again
    result = call("enhancer", "--run", "kept", "--resume", "--updates", 7)
    assert result.exit_code == 2
    assert "the numbers in background of the data differ" in result.stderr
    result = call("enhancer", "--background", "none.fa")
    assert result.exit_code == 2
    assert "cannot read" in result.stderr
    assert "no such option" in call("adding", "--background", "real.fa").stderr.lower()


# ---- Parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [Adding(30), Copying(9), Mqar(30, 3, 5)], ids=lambda t: t.name)
def test_measured_is_the_loss_of_the_core_whatever_the_parts(task, monkeypatch):
    recipe = job(task).recipe
    net = recipes.build(task, recipe)
    params = recipes.initial(net, task, recipe, seed=3)
    batch = task.held_out(11)
    loss = gd.value(net, params, batch.x, batch.y, loss=task.loss, threads=1)
    one = jobs.measure(task, params, batch, threads=1)
    assert one.loss == pytest.approx(loss, rel=1e-5)
    monkeypatch.setattr(jobs, "_OUTPUTS_AT_ONCE", 3 * task.steps * task.outputs)
    parts = jobs.measure(task, params, batch, threads=1)
    assert parts.loss == pytest.approx(one.loss, rel=1e-6)
    assert parts.score == pytest.approx(one.score, rel=1e-6)


def test_a_net_that_overflows_has_learned_nothing(tmp_path):
    task = Adding(200)
    recipe = dataclasses.replace(job(task, cell="skip").recipe, hidden=4)
    net = recipes.build(task, recipe)
    params = recipes.initial(net, task, recipe, seed=0)
    params["0.weight_hh"][:] = 1e6
    params["0.weight_ih"][:] = 1.0
    measured = jobs.measure(task, params, task.held_out(3), threads=1)
    assert measured == task.overflow
    assert not task.solved(measured)
    assert Copying(3).overflow.score == 0.0
    assert not Copying(3).solved(Copying(3).overflow)
    point = jobs.Point(5, measured.loss, measured.score, 1.0, 64)
    assert report.line(point).split() == ["5", "64", "overflow", "overflow", "1.0"]
    result = dataclasses.replace(jobs.run(job(Adding(4))), curve=(point,))
    report.write_json(tmp_path / "figures.json", result)
    assert "Infinity" not in (tmp_path / "figures.json").read_text(encoding="utf-8")
    assert "MSE overflow" in report.verdict(dataclasses.replace(result, solved=None))
    if report.can_draw():
        report.draw(tmp_path / "curve.png", result)


def test_stages_follow_the_recipe():
    made = job(Adding(100))
    lengths = [made.recipe.stage(made.task, update).length for update in range(9)]
    assert lengths == [32, 32, 32, 64, 64, 100, 100, 100, 100]
    plain = dataclasses.replace(made.recipe, first=0)
    assert {plain.stage(made.task, update).length for update in range(9)} == {100}
    assert jobs.Sequences(made.task, made.recipe, 0).steps(9) == sum(lengths)


def test_the_rate_rises_and_halves_at_the_full_length():
    made = job(Adding(100))
    assert made.recipe.full_at(made.task) == 5
    assert made.recipe.full_at(Adding(32)) == 0
    assert dataclasses.replace(made.recipe, first=0).full_at(made.task) == 0
    recipe = dataclasses.replace(made.recipe, first=300, grow=100, halve=50)
    rate = recipes.Rate(made.task, recipe)
    assert rate.full == recipe.full_at(made.task) == 400
    factors = [rate.factor(update) for update in (0, 50, 100, 400, 450, 500, 10_000)]
    assert factors == pytest.approx([1 / 101, 51 / 101, 1, 1, 0.5, 0.25, 0.05])
    assert recipe.stage(made.task, 399).length == 64
    assert recipe.stage(made.task, 400).length == 100
    steady = recipes.Rate(made.task, dataclasses.replace(recipe, halve=0))
    assert steady.factor(10_000) == 1.0
    without_stages = recipes.Rate(made.task, dataclasses.replace(recipe, first=0))
    assert without_stages.factor(10_000) == 1.0


def test_skip_is_a_leaky_relu_net_with_a_learned_leak():
    task = Adding(500)
    recipe = recipes.default(task, "skip")
    net = recipes.build(task, recipe)
    params = recipes.initial(net, task, recipe, seed=0)
    assert net.recurrent[0].nonlinearity == "relu"
    leak = 1.0 / (1.0 + np.exp(-params["0.skip_logit"].astype(np.float64)))
    np.testing.assert_allclose(leak, recipes.LEAK, rtol=1e-6)
    assert np.linalg.norm(params["0.weight_hh"], 2) == pytest.approx(0.5, rel=1e-5)


def test_rnn_starts_at_the_identity_and_tanh_at_a_rotation():
    task = Adding(500)
    for cell, nonlinearity in (("rnn", "relu"), ("tanh", "tanh")):
        recipe = recipes.default(task, cell)
        net = recipes.build(task, recipe)
        weight = recipes.initial(net, task, recipe, seed=0)["0.weight_hh"]
        assert net.recurrent[0].nonlinearity == nonlinearity
        np.testing.assert_allclose(weight @ weight.T, np.eye(recipe.hidden), atol=1e-5)
        assert np.array_equal(weight, np.eye(recipe.hidden)) == (cell == "rnn")


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gates_start_with_time_constants_up_to_the_length(cell):
    task = Adding(500)
    recipe = dataclasses.replace(recipes.default(task, cell), hidden=400)
    net = recipes.build(task, recipe)
    layer = net.recurrent[0]
    rows = layer.cell.rows(layer.cell.memory_gate, 400)
    bias = recipes.initial(net, task, recipe, seed=0)["0.bias_ih"][rows]
    assert 400 < np.exp(bias.max()) <= 499.1
    plain = recipes.initial(net, task, dataclasses.replace(recipe, chrono=False), seed=0)
    np.testing.assert_array_equal(plain["0.bias_ih"][rows], 1.0)


@pytest.mark.parametrize("name", recipes.TASKS)
@pytest.mark.parametrize("cell", [None, *recipes.CELLS])
def test_there_is_a_recipe_for_every_task_and_cell(name, cell):
    kind = recipes.TASKS[name]
    for length in (kind.usual, 10_000):
        recipe = recipes.default(kind(length), cell)
        assert cell in (None, recipe.cell)
        assert recipe.stage(kind(length), recipe.updates - 1) == kind(length)


def test_a_recipe_of_an_unknown_cell():
    with pytest.raises(
        gd.ArgumentError, match=r"cell must be one of gru, lstm, rnn, skip, tanh; got"
    ):
        recipes.default(Adding(10), "transformer")


@pytest.mark.parametrize("name", ["adding", "copy", "enhancer", "mqar"])
@pytest.mark.parametrize("length", [2**29, 10**13, 10**30])
def test_a_length_that_no_pass_can_have_is_refused_at_once(name, length):
    result = call(name, "--length", length)
    assert result.exit_code == 2
    assert "a sequence has fewer than 536,870,912 steps; got" in result.stderr
