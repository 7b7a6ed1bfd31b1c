"""Runs: the contents of a folder, when it is refused, and resuming for every kind of data and
ending.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import gradcore as gd
from gradcore._base import files
from gradcore._training import fit as fit_module
from gradcore._training.checkpoint import read_training
from gradcore._training.runs import RunFolder, read_metrics

NET = gd.Stack(gd.Embedding(5, 4), gd.GRU(4, 7), gd.Linear(7, 5))
RNG = np.random.default_rng(0)
TOKENS = [RNG.integers(0, 5, n) for n in RNG.integers(2, 12, 20)]
NEXT = [np.roll(t, -1) for t in TOKENS]
FILES = ["best.safetensors", "last.safetensors", "metrics.jsonl"]


def source(x=TOKENS, **options):
    options = {"batch_size": 4, "seed": 3, **options}
    return gd.data.Sequences(x, [np.roll(t, -1) for t in x], **options)


def make(net=NET, dtype="float32", optimizer=gd.optim.Adam, lr=0.02, seed=0, **options):
    params = net.init(seed=seed + 1, dtype=dtype)
    groups = options.pop("groups", ())
    made = optimizer(params, lr, clip=options.pop("clip", None), groups=groups)
    average = gd.optim.Average(params, decay=options.pop("decay", 0.9))
    options = {"loss": "cross_entropy", "average": average, "seed": seed, **options}
    return gd.Trainer(net, params, made, threads=1, quiet=True, **options)


def fit(trainer, data, steps, folder, **options):
    options = {"validation": source(seed=9), "every": 4, "save_every": 3, **options}
    return trainer.fit(data, steps=steps, run=folder, **options)


def lines(folder):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(folder)]


def same_runs(one, other):
    """Whether two folders hold the same run, without the times."""
    assert lines(one) == lines(other)
    for name in FILES[:2]:
        assert gd.load(one / name) == gd.load(other / name)
    a, b = (read_training(folder / "last.safetensors") for folder in (one, other))
    assert a.settings == b.settings
    assert a.states.keys() == b.states.keys()
    for part, state in a.states.items():
        assert state.keys() == b.states[part].keys()
        for key, value in state.items():
            np.testing.assert_array_equal(value, b.states[part][key])
    a.place.seconds = b.place.seconds = 0.0
    for place in (a.place, b.place):
        assert place.line is None
    assert a.place == b.place


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 23 updates that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    fit(make(), source(), 23, folder)
    return folder


class Interrupt:
    """A function, such as an evaluation, in whose nth call Ctrl-C is pressed."""

    def __init__(self, call, function=lambda *args: 1.0, number=signal.SIGINT):
        self.call, self.function, self.number, self.calls = call, function, number, 0

    def __call__(self, *args, **options):
        self.calls += 1
        if self.calls == self.call:
            os.kill(os.getpid(), self.number)
        return self.function(*args, **options)


# ---- The folder -------------------------------------------------------------------------------


def test_what_a_folder_holds(whole):
    assert sorted(os.listdir(whole)) == FILES
    last = gd.load(whole / "last.safetensors")
    assert last.net == NET
    assert last.metadata["step"] == 23
    assert [line["step"] for line in lines(whole)] == list(range(1, 24))


def test_a_folder_with_a_run_is_refused_and_nothing_lost(whole, tmp_path):
    before = {name: (whole / name).read_bytes() for name in FILES}
    with pytest.raises(gd.ArgumentError, match=r"already holds a run .*Pass resume=True"):
        fit(make(), source(), 23, whole)
    assert {name: (whole / name).read_bytes() for name in FILES} == before
    for name in FILES:
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("x")
        with pytest.raises(gd.ArgumentError, match="already holds a run"):
            fit(make(), source(), 23, folder)


@pytest.mark.parametrize("name", ["best.safetensors", "metrics.jsonl"])
def test_a_part_of_a_run_cannot_be_resumed(tmp_path, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(gd.ArgumentError, match=r"but no last\.safetensors from which a run"):
        fit(make(), source(), 5, tmp_path, resume=True)
    assert (tmp_path / name).read_text() == "x"


def test_resume_without_a_run_starts_one(tmp_path, whole):
    fit(make(), source(), 23, tmp_path / "a" / "b", resume=True)
    same_runs(tmp_path / "a" / "b", whole)


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    held = RunFolder(tmp_path)
    with pytest.raises(gd.ArgumentError, match="another process trains in"):
        fit(make(), source(), 5, tmp_path)
    held.close()
    fit(make(), source(), 5, tmp_path)


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def unsupported(handle, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    assert fit(make(), source(), 2, tmp_path).steps == 2


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(gd.CheckpointError, match=r"cannot write .*file.*"):
        fit(make(), source(), 5, tmp_path / "file")


def test_files_of_killed_processes_are_cleaned_up(tmp_path):
    for name in (".last.safetensors.abc.tmp", ".best.safetensors.abc.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
    (tmp_path / ".other.abc.tmp").write_text("somebody else's")
    fit(make(), source(), 5, tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".other.abc.tmp", *FILES]


def test_a_full_disk_is_an_error_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    real, calls = files._sync, []

    def full(path, flags):
        calls.append(path)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        real(path, flags)

    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(gd.CheckpointError, match=r"cannot write .*No space left on device"):
        fit(make(), source(), 23, tmp_path, validation=None)
    assert gd.load(tmp_path / "last.safetensors").metadata["step"] == 3
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("call", "write"),
    [
        ("fsync", lambda folder: folder.save_last(None)),  # not reached: the lines come first
        ("fstat", lambda folder: folder.write_line({"step": 2})),
    ],
)
def test_a_disk_that_fails_under_the_lines_is_an_error_of_gradcore(
    call, write, tmp_path, monkeypatch
):
    folder = RunFolder(tmp_path / "run")
    folder.start(0)
    folder.write_line({"step": 1})

    def broken(handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, broken)
    with pytest.raises(gd.CheckpointError, match=r"cannot write .*metrics\.jsonl: Input/output"):
        write(folder)
    monkeypatch.undo()
    folder.close()
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1]


def test_a_line_that_cannot_be_written_leaves_everything_at_one_place(tmp_path, monkeypatch):
    def full(self, line):
        raise gd.CheckpointError("cannot write metrics.jsonl: No space left on device.")

    monkeypatch.setattr(RunFolder, "write_line", full)
    trainer, data = make(), source()
    average = trainer._updater.average
    with pytest.raises(gd.CheckpointError, match="No space left"):
        fit(trainer, data, 9, tmp_path)
    assert (trainer.optimizer.steps, average.updates, data.position) == (1, 1, 1)


def test_a_slow_training_is_saved_by_the_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(fit_module, "SAVE_SECONDS", 0.0)
    seen = []

    def data(epoch):
        for batch in source():
            seen.append(gd.load(tmp_path / "last.safetensors").metadata["step"])
            yield batch

    fit(make(), data, 4, tmp_path, save_every=1_000)
    assert seen == [0, 1, 2, 3]


# ---- Resuming ---------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3, 4, 8, 22])
def test_resumed_after_ctrl_c_in_the_data(tmp_path, whole, steps):
    class Interrupted(gd.data.Sequences):
        def take(self):
            interrupt()
            return super().take()

    interrupt = Interrupt(steps + 1)
    report = fit(make(), Interrupted(TOKENS, NEXT, batch_size=4, seed=3), 23, tmp_path)
    assert report.interrupted
    assert report.steps == steps
    assert len(lines(tmp_path)) == steps
    again = fit(make(), source(), 23, tmp_path, resume=True)
    assert (again.steps, len(again.losses)) == (23, 23 - steps)
    assert not again.interrupted
    same_runs(tmp_path, whole)


@pytest.mark.parametrize("call", [1, 2, 6])
def test_resumed_after_ctrl_c_in_an_evaluation(tmp_path, call):
    """The evaluation is repeated, and its score is written in the line of its update."""
    score = lambda params: float(np.abs(params.flat).sum())  # noqa: E731
    options = {"validation": None, "steps": 23}
    one, other = tmp_path / "one", tmp_path / "other"
    fit(make(), source(), folder=one, evaluate=score, **options)
    report = fit(make(), source(), folder=other, evaluate=Interrupt(call, score), **options)
    assert report.interrupted
    fit(make(), source(), folder=other, evaluate=score, resume=True, **options)
    same_runs(one, other)


def test_ctrl_c_in_an_update_lets_it_be_done(tmp_path, whole):
    trainer = make()
    step = Interrupt(6, trainer.optimizer.step)
    trainer.optimizer.step = step
    report = fit(trainer, source(), 23, tmp_path)
    assert (report.interrupted, report.steps, trainer.optimizer.steps) == (True, 6, 6)
    fit(make(), source(), 23, tmp_path, resume=True)
    same_runs(tmp_path, whole)


def test_sigterm_ends_a_run_like_ctrl_c(tmp_path, whole):
    trainer = make()
    trainer.optimizer.step = Interrupt(6, trainer.optimizer.step, signal.SIGTERM)
    assert fit(trainer, source(), 23, tmp_path).interrupted
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    fit(make(), source(), 23, tmp_path, resume=True)
    same_runs(tmp_path, whole)


def test_a_second_ctrl_c_does_not_stop_the_saving(tmp_path, whole, monkeypatch):
    class Interrupted(gd.data.Sequences):
        def take(self):
            interrupt()
            return super().take()

    def save_last(self, made):
        if made.place.step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        real(self, made)

    interrupt, real = Interrupt(6), RunFolder.save_last
    monkeypatch.setattr(RunFolder, "save_last", save_last)
    report = fit(make(), Interrupted(TOKENS, NEXT, batch_size=4, seed=3), 23, tmp_path)
    assert (report.interrupted, report.steps) == (True, 5)
    assert gd.load(tmp_path / "last.safetensors").metadata["step"] == 5
    monkeypatch.undo()
    fit(make(), source(), 23, tmp_path, resume=True)
    same_runs(tmp_path, whole)


def test_handlers_of_others_are_left_alone(tmp_path):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *args: seen.append(args))
    try:
        trainer = make()
        trainer.optimizer.step = Interrupt(2, trainer.optimizer.step, signal.SIGTERM)
        assert fit(trainer, source(), 4, tmp_path).steps == 4
        assert len(seen) == 1
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_fit_outside_the_main_thread(tmp_path):
    reports = []
    thread = threading.Thread(target=lambda: reports.append(fit(make(), source(), 4, tmp_path)))
    thread.start()
    thread.join()
    assert reports[0].steps == 4


@pytest.mark.skipif(not hasattr(gd, "Dropout"), reason="no random layers in this version")
@pytest.mark.parametrize("steps", [1, 7])
def test_random_layers_draw_the_same_masks_after_a_resumption(tmp_path, steps):
    net = gd.Stack(gd.Embedding(5, 6), gd.Dropout(0.3), gd.LSTM(6, 7, zoneout=0.2), gd.Linear(7, 5))
    one, other = tmp_path / "one", tmp_path / "other"
    tokens = np.arange(300) % 5

    def data():
        return gd.data.Stream(tokens[:-1], tokens[1:], batch_size=2, k1=10, k2=25)

    first = fit(make(net, accumulate=2), data(), 12, one, every=100).losses
    fit(make(net, accumulate=2), data(), steps, other, every=100, validation=None)
    fit(make(net, accumulate=2), data(), 12, other, resume=True, every=100, validation=None)
    assert gd.load(one / "last.safetensors").params == gd.load(other / "last.safetensors").params
    seeded = make(net, seed=3, accumulate=2)
    seeded.params.flat[:] = make(net).params.flat
    assert fit(seeded, data(), 1, tmp_path / "seeded").losses[0] != first[0]


@pytest.mark.parametrize("kind", ["list", "function", "iterator"])
@pytest.mark.parametrize("steps", [2, 5, 6])
def test_iterables_are_resumed_by_skipping(tmp_path, kind, steps):
    batches = [source().batch(0, index) for index in range(5)]

    def data():
        if kind == "iterator":
            return (batches[i % 5] for i in range(13))
        return batches if kind == "list" else lambda epoch: iter(batches)

    one, other = tmp_path / "one", tmp_path / "other"
    assert fit(make(), data(), 13, one).steps == 13
    fit(make(), data(), steps, other, every=100, validation=None)
    fit(make(), data(), 13, other, resume=True, every=100, validation=None)
    assert gd.load(one / "last.safetensors").params == gd.load(other / "last.safetensors").params


def test_data_that_are_too_short_to_be_resumed(tmp_path):
    batches = list(source())
    fit(make(), iter(batches), 5, tmp_path)
    with pytest.raises(gd.CheckpointError, match=r"the data end after 3 batches.*has used 5"):
        fit(make(), iter(batches[:3]), 9, tmp_path, resume=True)


def test_a_finished_run_stays_as_it_is(tmp_path, whole):
    fit(make(), source(), 23, tmp_path)
    report = fit(make(), source(), 23, tmp_path, resume=True)
    assert (report.stopped, report.steps, report.losses) == ("steps", 23, ())
    same_runs(tmp_path, whole)


def test_the_same_trainer_may_go_on_after_ctrl_c(tmp_path, whole):
    trainer, data = make(), source()
    step = trainer.optimizer.step
    trainer.optimizer.step = Interrupt(6, step)
    assert fit(trainer, data, 23, tmp_path).interrupted
    trainer.optimizer.step = step
    assert fit(trainer, data, 23, tmp_path, resume=True).steps == 23
    same_runs(tmp_path, whole)


def test_patience_is_over_after_a_resumption_too(tmp_path):
    scores = iter([1.0, 2.0, 3.0])
    options = {"validation": None, "patience": 2}
    report = fit(make(), source(), 99, tmp_path, evaluate=lambda p: next(scores), **options)
    assert report.stopped == "patience"
    again = fit(make(), source(), 99, tmp_path, evaluate=lambda p: 0.0, resume=True, **options)
    assert (again.stopped, again.losses) == ("patience", ())
    assert again.best == 1.0


def test_epochs_count_from_the_start_of_the_run(tmp_path):
    data = source()
    make().fit(data, epochs=2)
    trainer = make()
    fit(trainer, data, 3, tmp_path)
    assert data.epoch == 2
    report = fit(make(), source(), None, tmp_path, epochs=2, resume=True)
    assert (report.steps, report.stopped) == (10, "epochs")
    assert lines(tmp_path)[-1]["epoch"] == 3


def test_half_lines_and_lines_behind_the_checkpoint_are_cut(tmp_path, whole):
    fit(make(), source(), 8, tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": 3}\n{"step": 10, "lo')
    fit(make(), source(), 23, tmp_path, resume=True)
    same_runs(tmp_path, whole)


OTHERS = [
    ({"net": gd.Stack(gd.Embedding(5, 4), gd.GRU(4, 8), gd.Linear(8, 5))}, {}, "net was"),
    ({"dtype": "float64"}, {"dtype": "float64"}, "dtype was 'float32' and is 'float64'"),
    ({"optimizer": gd.optim.SGD}, {}, r"optimizer\.kind was 'adam' and is 'sgd'"),
    ({"lr": 0.01}, {}, r"optimizer\.lr was 0\.02 and is 0\.01"),
    ({"clip": gd.clip.GlobalNorm(1.0)}, {}, r"optimizer\.clip was 'None' and is 'GlobalNorm"),
    ({"groups": [gd.optim.Group("0.*", lr_scale=2.0)]}, {}, r"optimizer\.groups was \[\] and is"),
    ({"seed": 1}, {}, "seed was 0 and is 1"),
    ({"accumulate": 2}, {}, "accumulate was 1 and is 2"),
    ({"loss": gd.loss.CrossEntropy(ignore_index=2)}, {}, "loss was .CrossEntropy"),
    ({"schedule": gd.schedule.Cosine(9)}, {}, "schedule was None and is .*Cosine"),
    ({"decay": 0.8}, {}, r"average\.decay was 0\.9 and is 0\.8"),
    ({"average": None}, {}, "average was"),
    ({}, {"seed": 4}, r"data\.seed was 3 and is 4"),
    ({}, {"batch_size": 5}, r"data\.batch_size was 4 and is 5"),
    ({}, {"x": TOKENS[:-1]}, r"data\.lengths_crc32 was .*data\.sequences was 20 and is 19"),
    ({}, {"shuffle": False}, r"data\.shuffle was True and is False"),
]


@pytest.mark.parametrize(("parts", "data", "message"), OTHERS)
def test_a_run_with_other_settings_is_refused(tmp_path, whole, parts, data, message):
    before = {name: (whole / name).read_bytes() for name in FILES}
    trainer = make(**parts)
    params = trainer.params.copy()
    with pytest.raises(gd.ArgumentError, match=f"a run with other settings: .*{message}"):
        fit(trainer, source(**data), 30, whole, resume=True, validation=None)
    assert {name: (whole / name).read_bytes() for name in FILES} == before
    assert trainer.params == params
    assert trainer.optimizer.steps == 0


def test_another_kind_of_data_is_refused(tmp_path, whole):
    data = gd.data.Stream(TOKENS[0], NEXT[0], k1=3)
    with pytest.raises(gd.ArgumentError, match=r"data\.source was 'Sequences' and is 'Stream'"):
        fit(make(), data, 30, whole, resume=True)


def test_numbers_out_of_range_name_the_checkpoint_that_is_left(tmp_path):
    def data(epoch):
        for i, batch in enumerate(source()):
            if i == 4:
                trainer.params["1.weight_hh"][0, 0] = np.nan
            yield batch

    trainer = make()
    with pytest.raises(gd.NonFiniteError, match=r"at update 5; .*last\.safetensors .*update 3"):
        fit(trainer, data, 9, tmp_path)
    saved = gd.load(tmp_path / "last.safetensors")
    assert saved.metadata["step"] == 3
    assert np.isfinite(saved.params.flat).all()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_nothing_is_left_of_a_process_that_holds_a_folder(tmp_path):
    """The lock on a folder ends with its process, however that ends."""
    code = (
        "import os, sys, time; from gradcore._training.runs import RunFolder; "
        "folder = RunFolder(sys.argv[1]); print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(gd.ArgumentError, match="another process trains in"):
            fit(make(), source(), 2, tmp_path)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert fit(make(), source(), 2, tmp_path).steps == 2


# ---- Reading metrics --------------------------------------------------------------------------


def test_reading_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(gd.CheckpointError, match=r"holds no run: metrics\.jsonl is not there"):
        read_metrics(tmp_path)
    with pytest.raises(gd.CheckpointError, match=r"cannot read .*metrics\.jsonl: No such file"):
        read_metrics(path)
    path.write_text("a line that has no end")
    with pytest.raises(gd.CheckpointError, match="line 1: a run writes one JSON object"):
        read_metrics(path)
    path.write_text('{"ste')  # the first line of a run that was killed
    assert read_metrics(path) == []
    path.write_text('{"step": 1}\n{"step": 2, "loss"')
    assert read_metrics(tmp_path) == read_metrics(path) == [{"step": 1}]
    for wrong in ("3", "[]", "{}", '{"step": "a"}', "{", "[" * 100_000):
        path.write_text(json.dumps({"step": 1}) + "\n" + wrong + "\n")
        with pytest.raises(
            gd.CheckpointError, match=r"metrics\.jsonl, line 2: a run writes one JSON object"
        ):
            read_metrics(tmp_path)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(gd.CheckpointError, match=r"no metrics\.jsonl of a run, which is text"):
        read_metrics(path)


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit of the sizes of files")
def test_a_full_disk_met_by_the_metrics_is_an_own_error_and_frees_the_folder(tmp_path, whole):
    import resource

    def save_last(self, made):  # the checkpoints would meet the limit first
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        real(self, made)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500, limits[1]))

    limits, real = resource.getrlimit(resource.RLIMIT_FSIZE), RunFolder.save_last
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "save_last", save_last)
        patch.setattr(RunFolder, "save_best", lambda self, params, **metadata: None)
        try:
            with pytest.raises(gd.CheckpointError, match=r"cannot write .*metrics\.jsonl"):
                fit(make(), source(), 23, tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    content = (tmp_path / "metrics.jsonl").read_bytes()
    assert 1_000 < len(content) <= 1_500
    assert content.endswith(b"}\n")  # no part of a line is left
    fit(make(), source(), 23, tmp_path, resume=True)
    assert lines(tmp_path) == lines(whole)


@pytest.mark.parametrize(
    ("run", "error"),
    [
        ("", gd.ArgumentError),
        ("a\0b", gd.ArgumentError),
        (b"x", gd.DTypeError),
        (b"", gd.DTypeError),
        (3, gd.DTypeError),
        (["runs"], gd.DTypeError),
    ],
)
def test_a_run_that_names_no_folder(run, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match="run must"):
        make().fit(source(), steps=1, run=run)
    with pytest.raises(error, match="run must"):
        read_metrics(run)
    assert list(tmp_path.iterdir()) == []
