"""Trainer: how it changes parameters and files, when it stops, and how Ctrl-C ends it."""

from __future__ import annotations

import itertools
import os
import signal

import numpy as np
import pytest

import gradcore as gd
from gradcore._base import progress
from gradcore._training import updates

NET = gd.Stack(gd.Embedding(4, 6), gd.GRU(6, 12), gd.Linear(12, 4))


def batches():
    """Tokens to be repeated one step later, which is learned within some dozens of steps."""
    rng = np.random.default_rng(0)
    while True:
        x = rng.integers(0, 4, (20, 8))
        yield gd.Batch(x, np.roll(x, 1, axis=0), lengths=[20] * 8)


def make(**options):
    params = NET.init(seed=1)
    optimizer = gd.optim.Adam(params, lr=0.02, clip=gd.clip.GlobalNorm(1.0))
    options = {"loss": "cross_entropy", "quiet": True, **options}
    return gd.Trainer(NET, params, optimizer, **options), params


def test_it_learns_and_reports():
    trainer, _ = make()
    report = trainer.fit(batches(), steps=60)
    assert report.steps == len(report.losses) == 60
    assert report.losses[0] == pytest.approx(np.log(4), rel=0.2)
    assert report.losses[-1] < 0.6 * report.losses[0]
    assert not report.interrupted
    assert report.best is None
    assert report.seconds > 0


def test_it_is_the_plain_loop():
    trainer, params = make()
    trainer.fit(batches(), steps=5)
    other = NET.init(seed=1)
    optimizer = gd.optim.Adam(other, lr=0.02, clip=gd.clip.GlobalNorm(1.0))
    for batch in itertools.islice(batches(), 5):
        result = gd.value_and_grad(
            NET, other, batch.x, batch.y, loss="cross_entropy", lengths=batch.lengths
        )
        optimizer.step(result.grads)
    assert params == other


def test_it_stops_when_batches_end_or_time_is_up():
    trainer, _ = make()
    assert trainer.fit(itertools.islice(batches(), 3)).steps == 3
    assert trainer.fit(batches(), minutes=0).steps == 0
    report = trainer.fit(batches(), minutes=0.2 / 60)
    assert report.steps > 0
    assert report.seconds < 5


def test_evaluation_and_best_checkpoint(tmp_path):
    trainer, params = make()
    scores = iter([3.0, 1.0, 2.0, 5.0])
    seen = []

    def evaluate(given):
        assert given is params
        seen.append(params.copy())
        return next(scores)

    report = trainer.fit(batches(), steps=7, evaluate=evaluate, every=2, run=tmp_path)
    assert report.evaluations == ((2, 3.0), (4, 1.0), (6, 2.0), (7, 5.0))
    assert report.best == 1.0
    assert report.best_step == 4
    last, best = gd.load(tmp_path / "last.safetensors"), gd.load(tmp_path / "best.safetensors")
    assert last.params == params
    assert best.params == seen[1]
    assert best.metadata == {"step": 4, "score": 1.0}
    assert last.metadata == {"step": 7, "score": 5.0}


def test_maximise(tmp_path):
    trainer, _ = make()
    scores = iter([3.0, 5.0, 4.0])
    report = trainer.fit(
        batches(),
        steps=3,
        every=1,
        evaluate=lambda params: next(scores),
        maximise=True,
        run=tmp_path,
    )
    assert report.best == 5.0
    assert gd.load(tmp_path / "best.safetensors").metadata["score"] == 5.0


@pytest.mark.parametrize("where", ["batches", "evaluate", "step"])
def test_ctrl_c_saves_and_returns(tmp_path, monkeypatch, where):
    trainer, params = make()

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)

    def data():
        for i, batch in enumerate(batches()):
            if where == "batches" and i == 3:
                interrupt()
            yield batch

    if where == "step":
        real, calls = updates.value_and_grad, itertools.count()

        def value_and_grad(*args, **options):
            progress = (lambda done, total: interrupt()) if next(calls) == 3 else None
            return real(*args, **options, progress=progress)

        monkeypatch.setattr(updates, "value_and_grad", value_and_grad)

    def evaluate(given):
        if where == "evaluate":
            interrupt()
        return 1.0

    report = trainer.fit(data(), steps=10, evaluate=evaluate, every=3, run=tmp_path)
    assert report.interrupted
    assert report.steps == 3
    assert trainer.optimizer.steps == 3
    saved = gd.load(tmp_path / "last.safetensors")
    assert saved.params == params
    assert saved.metadata["step"] == 3


def test_other_exceptions_pass_through():
    trainer, _ = make()

    def broken():
        yield next(batches())
        raise RuntimeError("no more data")

    with pytest.raises(RuntimeError, match="no more data"):
        trainer.fit(broken())


def test_plain_progress(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.0)
    trainer, _ = make(quiet=False)
    trainer.fit(batches(), steps=2, evaluate=lambda params: 0.25, every=1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("step 2  loss 1.")
    assert "score 0.25 (best 0.25)" in lines[1]


def test_rich_progress(monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    trainer, _ = make(quiet=False)
    trainer.fit(batches(), steps=2)
    assert "step 2  loss 1." in capsys.readouterr().err


def test_a_terminal_without_rich_gets_plain_lines(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    trainer, _ = make(quiet=False)
    assert trainer.fit(batches(), steps=1).steps == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, gd.ArgumentError, "steps must be at least 1"),
        ({"minutes": -1}, gd.ArgumentError, "minutes must be >= 0"),
        ({"steps": 1, "every": 0}, gd.ArgumentError, "every must be at least 1"),
        (
            {"steps": 1, "evaluate": lambda params: np.nan},
            gd.ArgumentError,
            "the score of evaluate must be finite",
        ),
        (
            {"steps": 1, "evaluate": lambda params: None},
            gd.DTypeError,
            "the score of evaluate must",
        ),
    ],
)
def test_wrong_fits(options, error, message):
    trainer, _ = make()
    with pytest.raises(error, match=message):
        trainer.fit(batches(), **options)


def test_wrong_parts():
    trainer, params = make()
    with pytest.raises(gd.DTypeError, match=r"data must yield gradcore\.Batch; got tuple"):
        trainer.fit([(1, 2)])
    with pytest.raises(gd.ArgumentError, match="optimizer must have been made with the params"):
        gd.Trainer(NET, params, gd.optim.SGD(params.copy(), 0.1), loss="mse")
    with pytest.raises(gd.DTypeError, match=r"optimizer must be one of gradcore\.optim"):
        gd.Trainer(NET, params, "adam", loss="mse")
