"""Callbacks: when they are called, what they see, and that they change nothing."""

from __future__ import annotations

import itertools
import os
import signal

import numpy as np
import pytest

import gradcore as gd
import resume_run
from gradcore._training.runs import read_metrics

NET = gd.Stack(gd.Embedding(4, 6), gd.GRU(6, 12), gd.Linear(12, 4))
RNG = np.random.default_rng(0)
X = [RNG.integers(0, 4, 30) for _ in range(12)]
HELD_OUT = gd.data.Sequences(X[:4], X[:4], batch_size=2, shuffle=False)


def make(*callbacks, **options):
    params = NET.init(seed=1)
    optimizer = gd.optim.Adam(params, lr=0.02, clip=gd.clip.GlobalNorm(1.0))
    return gd.Trainer(
        NET, params, optimizer, loss="cross_entropy", quiet=True, callbacks=callbacks, **options
    )


def data():
    return gd.data.Sequences(X, X, batch_size=4, seed=3)


class Recorder(gd.callbacks.Callback):
    """Notes every call, and raises (or calls) what `at` gives for one of them."""

    def __init__(self, at=None):
        self.calls, self.at = [], at or {}

    def note(self, hook, view):
        self.calls.append((hook, view.steps))
        action = self.at.get((hook, view.steps))
        if isinstance(action, BaseException):
            raise action
        if action is not None:
            action(view)

    def on_update(self, view):
        self.note("update", view)

    def on_evaluation(self, view):
        self.note("evaluation", view)

    def on_checkpoint(self, view):
        self.note("checkpoint", view)

    def on_end(self, view):
        self.note("end", view)


def test_hooks_are_called_in_order(tmp_path):
    seen = Recorder()
    make(seen).fit(data(), steps=3, validation=HELD_OUT, every=2, run=tmp_path, save_every=2)
    assert seen.calls == [
        ("checkpoint", 0),
        ("update", 1),
        ("update", 2),
        ("evaluation", 2),
        ("checkpoint", 2),
        ("update", 3),
        ("evaluation", 3),
        ("checkpoint", 3),
        ("end", 3),
    ]


def test_without_a_folder_there_are_no_checkpoints():
    seen = Recorder()
    make(seen).fit(data(), steps=2)
    assert seen.calls == [("update", 1), ("update", 2), ("end", 2)]


def test_the_view_has_what_the_report_has(tmp_path):
    views, lines = [], []

    class Reader(gd.callbacks.Callback):
        def on_update(self, view):
            lines.append(view.metrics)
            assert view.loss == view.losses[-1] == view.metrics["loss"]
            assert len(view.losses) == view.steps
            assert view.stopped is None

        def on_evaluation(self, view):
            lines[-1] = view.metrics
            assert view.evaluations[-1] == (view.steps, view.score)
            assert view.metrics["score"] == view.score

        def on_end(self, view):
            views.append(view)

    trainer = make(Reader())
    report = trainer.fit(data(), steps=5, validation=HELD_OUT, every=2, run=tmp_path, watch=2)
    (view,) = views
    assert view.steps == report.steps
    assert tuple(view.losses) == report.losses
    assert tuple(view.evaluations) == report.evaluations
    assert (view.best, view.best_step) == (report.best, report.best_step)
    assert view.stopped == report.stopped == "steps"
    assert view.run == report.run == tmp_path
    assert tuple(view.watched) == report.watched
    assert len(view.watched) == 2
    assert view.seconds >= report.seconds
    assert view.error is None
    assert not view.maximise
    assert view.net is NET
    assert view.params == trainer.params
    assert view.settings["optimizer"]["lr"] == 0.02
    assert lines == read_metrics(tmp_path)


def vandalise(view):
    """Tries to change everything that a view gives."""
    view.params.flat[:] = 7.0
    view.metrics["loss"] = -1.0
    view.settings["optimizer"].clear()
    for row in view.watched:
        row["horizon"].clear()
    for name in ("steps", "losses", "loss", "metrics", "params", "best", "stopped"):
        with pytest.raises(AttributeError):
            setattr(view, name, None)
    for values in (view.losses, view.evaluations, view.watched):
        with pytest.raises(TypeError):
            values[0] = None
        assert not hasattr(values, "append")


class Vandal(gd.callbacks.Callback):
    def on_update(self, view):
        vandalise(view)

    def on_evaluation(self, view):
        vandalise(view)

    def on_checkpoint(self, view):
        vandalise(view)

    def on_end(self, view):
        vandalise(view)


def trained(folder, *callbacks, **options):
    """A training in which everything has a state, with the lines of its updates."""
    trainer, source, arguments = resume_run.make()
    trainer.callbacks = callbacks
    report = trainer.fit(source, steps=60, run=folder, watch=25, **arguments, **options)
    lines = read_metrics(folder)
    for line in lines:
        line.pop("seconds")
    return report, lines, trainer.params, gd.load(folder / "best.safetensors")


def test_callbacks_change_no_bits(tmp_path):
    _, lines, params, best = trained(tmp_path / "plain")
    csv = gd.callbacks.CSVLogger(tmp_path / "table.csv")
    _, with_lines, with_params, with_best = trained(tmp_path / "with", Vandal(), csv)
    assert with_lines == lines
    assert with_params == params
    assert with_best == best


@pytest.mark.parametrize("moment", [("update", 17), ("evaluation", 18), ("checkpoint", 20)])
def test_an_exception_is_passed_on_and_the_run_can_be_resumed(tmp_path, moment):
    _, lines, params, _ = trained(tmp_path / "plain")
    failure = RuntimeError("of a callback")
    first, last = Recorder({moment: failure}), Recorder()
    with pytest.raises(RuntimeError) as caught:
        trained(tmp_path / "run", first, last)
    assert caught.value is failure
    assert gd.load(tmp_path / "run/last.safetensors").metadata["step"] == moment[1]
    for seen in (first, last):
        assert seen.calls[-1] == ("end", moment[1])
    _, resumed_lines, resumed, _ = trained(tmp_path / "run", Recorder(), resume=True)
    assert resumed_lines == lines
    assert resumed == params


def test_an_exception_before_the_first_update_leaves_a_run_to_resume(tmp_path):
    failure = ValueError("no space")
    with pytest.raises(ValueError, match="no space"):
        make(Recorder({("checkpoint", 0): failure})).fit(data(), steps=3, run=tmp_path)
    assert make().fit(data(), steps=3, run=tmp_path, resume=True).steps == 3


def test_errors_of_a_callback_that_look_like_those_of_the_net_stay_as_they_are(tmp_path):
    failure = gd.NonFiniteError("mine", 0, 3, 0)
    with pytest.raises(gd.NonFiniteError, match=r"^mine$"):
        make(Recorder({("update", 2): failure})).fit(data(), steps=3, run=tmp_path)
    assert gd.load(tmp_path / "last.safetensors").metadata["step"] == 2


def test_on_end_is_told_of_errors_of_the_data():
    seen, ends = Recorder(), []
    seen.at["end", 2] = lambda view: ends.append((view.stopped, view.error))

    def broken():
        yield from itertools.islice(data(), 2)
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone") as caught:
        make(seen).fit(broken())
    assert ends == [("error", caught.value)]


def test_an_exception_in_on_end_reaches_the_caller_after_all_callbacks_have_ended():
    failing, later = Recorder({("end", 2): RuntimeError("late")}), Recorder()
    with pytest.raises(RuntimeError, match="late"):
        make(failing, later).fit(data(), steps=2)
    assert later.calls[-1] == ("end", 2)


def test_an_exception_in_on_end_does_not_hide_the_one_that_ended_the_fit():
    failing = Recorder({("update", 1): ValueError("early"), ("end", 1): RuntimeError("late")})
    with (
        pytest.warns(RuntimeWarning, match=r"Recorder\.on_end raised RuntimeError\('late'\)"),
        pytest.raises(ValueError, match="early"),
    ):
        make(failing).fit(data(), steps=2)


def interrupt(view):
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("moment", [("update", 17), ("evaluation", 18), ("checkpoint", 20)])
def test_ctrl_c_in_a_callback_is_ctrl_c_in_the_training(tmp_path, moment):
    _, lines, params, _ = trained(tmp_path / "plain")
    seen = Recorder({moment: interrupt})
    report, *_ = trained(tmp_path / "run", seen)
    assert report.interrupted
    assert report.steps == moment[1]
    assert seen.calls[-2:] == [("checkpoint", moment[1]), ("end", moment[1])]
    _, resumed_lines, resumed, _ = trained(tmp_path / "run", resume=True)
    assert resumed_lines == lines
    assert resumed == params


def test_ctrl_c_in_on_end_leaves_that_callback_only():
    first, last = Recorder({("end", 2): interrupt}), Recorder()
    report = make(first, last).fit(data(), steps=2)
    assert report.stopped == "steps"
    assert last.calls[-1] == ("end", 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (gd.callbacks.Callback(), "must be a list"),
        (gd.callbacks.Callback, "must be a list"),
        (7, "must be a list"),
        ([print], r"callbacks\[0\] is <built-in function print>"),
        ([gd.callbacks.Callback(), gd.callbacks.Callback], r"callbacks\[1\].*an instance"),
    ],
)
def test_what_is_no_callback_is_refused(wrong, message):
    params = NET.init()
    with pytest.raises(gd.DTypeError, match=message):
        gd.Trainer(NET, params, gd.optim.SGD(params, 0.1), loss="mse", callbacks=wrong)


def test_a_trainer_shows_its_callbacks():
    trainer = make(gd.callbacks.Callback())
    assert "callbacks=(<gradcore.callbacks" in repr(trainer)
    assert "callbacks" not in repr(make())
