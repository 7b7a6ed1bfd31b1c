"""What a training records with watch=, and its explanations of clipped and failed updates."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest

import gradcore as gd
from gradcore._net.state import sequences_of
from gradcore._training import watch

TASK = gd.loss.CrossEntropy()


def make(clip=None, layers=1, **options):
    kinds = [gd.LSTM(3, 8, **options)] + [gd.GRU(8, 8) for _ in range(layers - 1)]
    net = gd.Stack(*kinds, gd.Linear(8, 2))
    params = net.init(seed=0)
    optimizer = gd.optim.Adam(params, 1e-2, clip=clip)
    return gd.Trainer(net, params, optimizer, loss=TASK, quiet=True)


def source(steps=120, sequences=12):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((sequences, steps, 3)).astype(np.float32)
    y = (x.sum(axis=2) > 0).astype(np.int64)
    return gd.data.Sequences(list(x), list(y), batch_size=6, seed=1)


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def untimed(line):
    return {name: value for name, value in line.items() if name != "seconds"}


def told(run):
    """The lines in which a watch recorded something, without the times."""
    return [untimed(line) for line in lines(run) if set(line) & watch.WATCHED]


def norm(grads, place):
    return np.sqrt(sum(np.sum(grads[name] ** 2) for name in grads if name.startswith(place)))


def test_it_records_what_horizon_and_lyapunov_say_of_that_batch(tmp_path, monkeypatch):
    seen = []
    real = watch.Watch.look

    def look(self, batch, start):
        seen.append((batch, self.updater.params.flat.copy()))
        return real(self, batch, start)

    monkeypatch.setattr(watch.Watch, "look", look)
    trainer = make(layers=2)
    trainer.fit(source(), steps=7, run=tmp_path, watch=3)
    found = {line["step"]: line for line in lines(tmp_path)}
    assert [step for step, line in found.items() if "memory_length" in line] == [3, 6]
    for step, (batch, flat) in zip((3, 6), seen, strict=True):
        params = gd.Params(trainer.net, flat)
        x = np.ascontiguousarray(batch.x[:, :4])
        lengths = None if batch.lengths is None else batch.lengths[:4]
        for layer in range(2):
            own = gd.horizon.memory_length(
                trainer.net, params, x, layer=layer, probes=1, lengths=lengths
            )
            assert found[step]["memory_length"][layer] == np.median(own)
            reach = gd.horizon.reach(
                trainer.net, params, x, layer=layer, probes=1, lengths=lengths
            ).norm_log10
            assert found[step]["horizon"]["lags"] == [0, 1, 2, 4, 8, 16, 32, 64]
            for lag, left in zip(
                found[step]["horizon"]["lags"],
                found[step]["horizon"]["norm_log10"][layer],
                strict=True,
            ):
                want = np.median(reach[119 - lag] - reach[119])
                assert left == pytest.approx(want, rel=1e-3, abs=1e-12)
            hidden = gd.jacobian.hidden_gradients(
                trainer.net, params, x, batch.y[:, :4], loss=TASK, layer=layer
            ).norm_log10
            windows = 0.5 * np.log10(np.mean(10 ** (2 * hidden.reshape(20, 24)), axis=1))
            np.testing.assert_allclose(
                found[step]["hidden_gradient_log10"][layer], windows, rtol=1e-3
            )
        assert found[step]["watched_steps"] == [0, 119]
        assert "watch_missing" not in found[step]
        spectrum = gd.lyapunov.spectrum(trainer.net, params, x[:, :1], 2)
        np.testing.assert_allclose(found[step]["lyapunov"], spectrum.exponents[0], rtol=1e-3)
        np.testing.assert_allclose(
            found[step]["lyapunov_error"], spectrum.standard_error[0], rtol=1e-3
        )


def test_watching_changes_no_bit_and_is_resumed(tmp_path):
    bare, watched = make(gd.clip.GlobalNorm(1e-3)), make(gd.clip.GlobalNorm(1e-3))
    bare.fit(source(), steps=8)
    watched.fit(source(), steps=5, run=tmp_path, watch=2)
    resumed = make(gd.clip.GlobalNorm(1e-3))
    resumed.fit(source(), steps=8, run=tmp_path, resume=True, watch=2)
    np.testing.assert_array_equal(resumed.params.flat, bare.params.flat)
    assert ["memory_length" in line for line in lines(tmp_path)] == [False, True] * 4


def test_a_clipped_update_names_its_layer_and_its_window(tmp_path, capsys):
    """Only the targets in steps 60 to 65 count, and the upper layer's weights are tiny."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 2, 3)).astype(np.float32)
    weight = np.zeros((120, 2), np.float32)
    weight[60:66] = 1
    batch = gd.Batch(x, rng.integers(0, 2, (120, 2)), weight=weight)
    trainer = make(gd.clip.GlobalNorm(1e-6), layers=2)
    trainer.quiet = False
    trainer.params["1.weight_ih"][...] *= 100  # the gradient from above is large
    trainer.params["0.weight_hh"][...] = 0  # and does not flow to other steps
    before = gd.Params(trainer.net, trainer.params.flat.copy())
    trainer.fit([batch] * 5, steps=5, run=tmp_path, watch=2)
    found = lines(tmp_path)
    # At most one of two updates is explained.
    assert [("clip_layer" in line) for line in found] == [True, False, True, False, True]
    grads = gd.value_and_grad(trainer.net, before, x, batch.y, loss=TASK, weight=weight).grads
    sizes = [norm(grads, place) for place in ("0.", "1.")]
    assert found[0]["clip_layer"] == ("0.LSTM", "1.GRU")[int(np.argmax(sizes))]
    shares = gd.horizon.window_shares(
        trainer.net, before, x, batch.y, loss=TASK, weight=weight, windows=20
    )
    top = int(shares.share.argmax())
    assert found[0]["clip_window"] == [6 * top, 6 * top + 5]
    assert found[0]["clip_window"] == [60, 65]
    assert found[0]["clip_share"] == pytest.approx(shares.share[top], abs=1e-3)
    told = capsys.readouterr().err
    assert told.count("was clipped") == 1
    assert "from steps 60 to 65" in told


def test_a_forward_pass_that_overflows_tells_what_grew():
    trainer, batch = exploding()
    with pytest.raises(gd.NonFiniteError, match=r"\|h\| of 0\.RNN rose from 10\^") as caught:
        trainer.fit([batch], steps=1)
    # The gradient grows by 1.5 per step until float32 ends at 10^38.5.
    assert caught.value.step == pytest.approx(38.5 / np.log10(1.5), abs=6)
    assert "to 10^3" in str(caught.value)


def exploding(steps=400):
    net = gd.Stack(gd.RNN(1, 4, nonlinearity="relu"))
    params = net.init(seed=0)
    params["0.weight_hh"][...] = 1.5 * np.eye(4)
    trainer = gd.Trainer(net, params, gd.optim.SGD(params, 1e-30), loss="mse", quiet=True)
    x = np.ones((steps, 2, 1), np.float32)
    return trainer, gd.Batch(x, np.zeros((steps, 2, 4), np.float32))


def test_bad_input_is_said_to_be_so():
    trainer, batch = exploding(60)
    batch.x[41, 1] = np.nan
    with pytest.raises(gd.NonFiniteError, match=r"x of sequence 1 is not finite at step 41: check"):
        trainer.fit([batch], steps=1)


def test_nothing_is_told_where_nothing_grew(monkeypatch):
    net = gd.Stack(gd.RNN(1, 4))
    params = net.init(seed=0)
    trainer = gd.Trainer(net, params, gd.optim.SGD(params, 0.1), loss="mse", quiet=True)
    batch = gd.Batch(np.ones((400, 2, 1), np.float32), np.zeros((400, 2, 4), np.float32))
    error = gd.NonFiniteError("here", 0, 390, 0)
    assert watch.grown_before(trainer._updater, batch, None, error) is None


def test_an_evaluation_that_overflows_is_not_explained_by_a_training_batch(tmp_path):
    trainer, batch = exploding()
    short = gd.Batch(batch.x[:20], batch.y[:20])
    with pytest.raises(gd.NonFiniteError) as caught:
        trainer.fit([short], steps=1, every=1, validation=[batch], run=tmp_path)
    assert "rose from" not in str(caught.value)
    assert "This happened in the evaluation after update 1;" in str(caught.value)


def test_an_overflow_is_explained_from_the_state_of_its_own_batch(monkeypatch):
    seen = []
    real = watch.grown_before
    monkeypatch.setattr(
        "gradcore._training.fit.grown_before",
        lambda u, b, start, e: seen.append(start) or real(u, b, start, e),
    )
    trainer, batch = exploding()
    trainer._updater = replace(trainer._updater, accumulate=2)
    first = gd.Batch(batch.x[:30], batch.y[:30], keep=30)
    second = gd.Batch(batch.x, batch.y, continues=True)
    with pytest.raises(gd.NonFiniteError, match=r"\|h\| of 0\.RNN rose from 10\^"):
        trainer.fit([first, second], steps=1)
    (start,) = seen
    want = gd.apply(trainer.net, trainer.params, first.x)[1]
    np.testing.assert_array_equal(start[0].h, want[0].h)


def test_what_cannot_be_measured_is_none(tmp_path):
    net = gd.Stack(gd.GRU(3, 8, bidirectional=True), gd.Linear(16, 2))
    params = net.init(seed=0)
    optimizer = gd.optim.Adam(params, 1e-2, clip=gd.clip.GlobalNorm(1e-6))
    trainer = gd.Trainer(net, params, optimizer, loss=TASK, quiet=True)
    trainer.fit(source(), steps=2, run=tmp_path, watch=1)
    for line in lines(tmp_path):
        assert line["memory_length"][0] >= 0
        assert line["lyapunov"] is None
        assert line["clip_layer"] == "0.GRU"
        assert line["clip_window"] is None
        assert "read time forward" in line["watch_missing"]["lyapunov"]
        assert "read time forward" in line["watch_missing"]["clip_window"]
    # Resets in every step leave no trajectory for Lyapunov exponents.
    rng = np.random.default_rng(0)
    batch = gd.Batch(
        rng.standard_normal((60, 2, 3)).astype(np.float32),
        rng.integers(0, 2, (60, 2)),
        reset=np.ones((60, 2), bool),
    )
    make().fit([batch], steps=1, run=tmp_path / "reset", watch=1)
    (line,) = lines(tmp_path / "reset")
    assert line["lyapunov"] is None
    assert "no 20 steps in a row without a reset" in line["watch_missing"]["lyapunov"]
    assert line["memory_length"] == [0.0]


def test_a_look_that_is_interrupted_loses_nothing(tmp_path, monkeypatch):
    def look(self, batch, start):
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.Watch, "look", look)
    report = make().fit(source(), steps=5, run=tmp_path, watch=2)
    assert report.interrupted
    # The update of the failed measurement was not made, and is measured when it is made.
    assert report.steps == 1
    monkeypatch.undo()
    resumed, bare = make(), make()
    resumed.fit(source(), steps=5, run=tmp_path, resume=True, watch=2)
    whole = bare.fit(source(), steps=5, watch=2)
    np.testing.assert_array_equal(resumed.params.flat, bare.params.flat)
    assert told(tmp_path) == [untimed(line) for line in whole.watched]


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_a_resumed_run_explains_the_same_clips(tmp_path, capsys, stop):
    def trainer():
        made = make(gd.clip.GlobalNorm(1e-4))
        made.quiet = False
        return made

    trainer().fit(source(), steps=stop, run=tmp_path, watch=3)
    trainer().fit(source(), steps=8, run=tmp_path, resume=True, watch=3)
    assert capsys.readouterr().err.count("was clipped") == 1
    whole = trainer().fit(source(), steps=8, watch=3)
    assert [line["step"] for line in whole.watched if "clip_layer" in line] == [1, 4, 7]
    assert told(tmp_path) == [untimed(line) for line in whole.watched]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("clip", [1, 2])
def test_a_signal_while_a_cause_is_sought_does_not_move_its_record(
    number, clip, tmp_path, monkeypatch
):
    real, calls = watch.horizon.window_shares, iter(range(100))

    def window_shares(*given, **options):
        if next(calls) == clip - 1:
            os.kill(os.getpid(), number)
        return real(*given, **options)

    monkeypatch.setattr(watch.horizon, "window_shares", window_shares)
    report = make(gd.clip.GlobalNorm(1e-4)).fit(source(), steps=8, run=tmp_path, watch=3)
    assert report.interrupted
    assert report.steps == 3 * clip - 2
    assert "clip_window" in report.watched[-1]
    make(gd.clip.GlobalNorm(1e-4)).fit(source(), steps=8, run=tmp_path, resume=True, watch=3)
    whole = make(gd.clip.GlobalNorm(1e-4)).fit(source(), steps=8, watch=3)
    assert told(tmp_path) == [untimed(line) for line in whole.watched]


def test_records_are_in_the_report_without_a_run():
    report = make().fit(source(), steps=5, watch=2)
    assert [line["step"] for line in report.watched] == [2, 4]
    assert all(line["memory_length"][0] > 0 for line in report.watched)
    assert make().fit(source(), steps=2).watched == ()


def test_the_last_steps_are_looked_at_from_their_own_state(monkeypatch):
    monkeypatch.setattr(watch, "STEPS", 50)
    monkeypatch.setattr(watch, "EXPONENT_STEPS", 30)
    net = gd.Stack(gd.LSTM(3, 8, skip=gd.Skip(4)), gd.Linear(8, 2))
    params = net.init(seed=0)
    trainer = gd.Trainer(net, params, gd.optim.SGD(params, 0.1), loss=TASK, quiet=True)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 6, 3)).astype(np.float32)
    y = rng.integers(0, 2, (120, 6))
    lengths = np.array([20, 100, 64, 110, 100, 101])
    batch = gd.Batch(x, y, lengths=lengths)
    start = gd.apply(net, params, x[:7])[1]
    watcher = watch.Watch(trainer._updater, 1)
    part = watcher._part(batch, start)
    # The four longest sequences are 1, 3, 4 and 5; the longest ends at step 110.
    assert part.first == 60
    np.testing.assert_array_equal(part.inputs["lengths"], [40, 50, 40, 41])
    np.testing.assert_array_equal(part.inputs["x"], x[60:110, [1, 3, 4, 5]])
    np.testing.assert_array_equal(part.y, y[60:110, [1, 3, 4, 5]])
    chosen = sequences_of(start, [1, 3, 4, 5])
    after = gd.apply(net, params, np.ascontiguousarray(x[:60, [1, 3, 4, 5]]), state=chosen)[1]
    for name in ("h", "c", "skip"):
        np.testing.assert_array_equal(
            getattr(part.inputs["state"][0], name), getattr(after[0], name)
        )
    own, begun = watcher._stretch(part)
    state = begun["state"]
    np.testing.assert_array_equal(own, x[70:100, [1]])
    before = gd.apply(
        net, params, np.ascontiguousarray(x[:70, [1]]), state=sequences_of(start, [1])
    )[1]
    np.testing.assert_allclose(state[0].c, before[0].c, rtol=1e-6)
    assert watcher.look(batch, start)["watched_steps"] == [60, 109]


def test_a_look_that_fails_says_why_and_training_goes_on(monkeypatch):
    def refuse(*given, **options):
        raise gd.MemoryBudgetError("no room for that.")

    monkeypatch.setattr(watch.horizon, "reach", refuse)
    monkeypatch.setattr(watch.horizon, "window_shares", refuse)
    report = make(gd.clip.GlobalNorm(1e-6)).fit(source(), steps=2, watch=1)
    assert report.steps == 2
    for line in report.watched:
        assert line["memory_length"] is line["horizon"] is line["clip_window"] is None
        assert line["lyapunov"] is not None
        assert line["watch_missing"] == {
            "memory_length": "no room for that.",
            "clip_window": "no room for that.",
        }


def test_a_loss_function_is_not_taken_apart():
    def function(outputs, t0, t1):
        return float((outputs**2).sum()), 2 * outputs

    net = gd.Stack(gd.GRU(3, 8))
    params = net.init(seed=0)
    optimizer = gd.optim.SGD(params, 1e-3, clip=gd.clip.GlobalNorm(1e-6))
    trainer = gd.Trainer(net, params, optimizer, loss=function, quiet=True)
    x = np.random.default_rng(0).standard_normal((40, 2, 3)).astype(np.float32)
    (line,) = trainer.fit([gd.Batch(x, None)], steps=1, watch=1).watched
    assert line["memory_length"][0] > 0
    assert line["clip_layer"] == "0.GRU"
    assert line["watch_missing"] == {
        "hidden_gradient_log10": (
            "a Python loss function may not be defined for a part of the steps."
        ),
        "clip_window": "a Python loss function cannot be split into windows.",
    }


def test_frozen_parameters_are_no_cause():
    net = gd.Stack(gd.LSTM(3, 8), gd.GRU(8, 8), gd.Linear(8, 2))
    params = net.init(seed=0)
    params["2.weight"][...] *= 100
    optimizer = gd.optim.Adam(
        params, 1e-2, clip=gd.clip.GlobalNorm(1e-6), groups=[gd.optim.Group("1.*", frozen=True)]
    )
    trainer = gd.Trainer(net, params, optimizer, loss=TASK, quiet=True)
    assert optimizer.trained == tuple(name for name in params if not name.startswith("1."))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 2, 3)).astype(np.float32)
    y = rng.integers(0, 2, (120, 2))
    grads = gd.value_and_grad(net, params, x, y, loss=TASK).grads
    assert norm(grads, "1.") > norm(grads, "0.")
    (line,) = trainer.fit([gd.Batch(x, y)], steps=1, watch=1).watched
    assert line["clip_layer"] == "0.LSTM"


def test_the_parameters_are_copied_where_a_cause_may_be_asked_for():
    watcher = watch.Watch(make()._updater, 3)
    watcher.remember(1, None)
    assert watcher._before is None  # nothing needs it without a clip
    watcher = watch.Watch(make(gd.clip.GlobalNorm(1.0))._updater, 3)
    watcher.remember(5, 3)
    assert watcher._before is None
    watcher.remember(6, 3)
    assert watcher._before is not None


def test_streams_are_looked_at_from_the_state_they_carry(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    make().fit(gd.data.Stream(x, y, k1=100, batch_size=2), steps=4, run=tmp_path, watch=2)
    assert [line.get("lyapunov") is not None for line in lines(tmp_path)] == [False, True] * 2


def test_wrong_options_are_refused(tmp_path):
    with pytest.raises(gd.ArgumentError, match="watch must be"):
        make().fit(source(), steps=2, watch=0)
