"""What a training records with watch=, and what it says of clipped and failed updates."""

import json

import numpy as np
import pytest

import gradcore as gd
from gradcore import _watch

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


def test_it_records_what_horizon_and_lyapunov_say_of_that_batch(tmp_path, monkeypatch):
    seen = []
    real = _watch.Watch.look

    def look(self, batch, start):
        seen.append((batch, self.updater.params.flat.copy()))
        return real(self, batch, start)

    monkeypatch.setattr(_watch.Watch, "look", look)
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
                trainer.net, params, x, layer=layer, probes=2, lengths=lengths
            )
            assert found[step]["memory_length"][layer] == np.median(own)
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
    """Targets count in steps 60 to 65 alone, and the upper layer's weights are tiny."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 2, 3)).astype(np.float32)
    weight = np.zeros((120, 2), np.float32)
    weight[60:66] = 1
    batch = gd.Batch(x, rng.integers(0, 2, (120, 2)), weight=weight)
    trainer = make(gd.clip.GlobalNorm(1e-6), layers=2)
    trainer.quiet = False
    trainer.params["1.weight_ih"][...] *= 100  # what comes down is large
    trainer.params["0.weight_hh"][...] = 0  # and stays where it arrives
    before = gd.Params(trainer.net, trainer.params.flat.copy())
    trainer.fit([batch] * 5, steps=5, run=tmp_path, watch=2)
    found = lines(tmp_path)
    # At most one of two updates is explained.
    assert [("clip_layer" in line) for line in found] == [True, False, True, False, True]
    grads = gd.value_and_grad(trainer.net, before, x, batch.y, loss=TASK, weight=weight).grads
    sizes = [
        np.sqrt(sum(np.sum(grads[name] ** 2) for name in grads if name.startswith(place)))
        for place in ("0.", "1.")
    ]
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
    net = gd.Stack(gd.RNN(1, 4, nonlinearity="relu"))
    params = net.init(seed=0)
    params["0.weight_hh"][...] = 1.5 * np.eye(4)
    trainer = gd.Trainer(net, params, gd.optim.SGD(params, 0.1), loss="mse", quiet=True)
    batch = gd.Batch(np.ones((400, 2, 1), np.float32), np.zeros((400, 2, 4), np.float32))
    with pytest.raises(gd.NonFiniteError, match=r"\|h\| of 0\.RNN rose from 10\^") as caught:
        trainer.fit([batch], steps=1)
    # It grows by 1.5 per step until float32 ends at 10^38.5.
    assert caught.value.step == pytest.approx(38.5 / np.log10(1.5), abs=6)
    assert "to 10^3" in str(caught.value)


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
    # Resets in every step leave no trajectory.
    rng = np.random.default_rng(0)
    batch = gd.Batch(
        rng.standard_normal((60, 2, 3)).astype(np.float32),
        rng.integers(0, 2, (60, 2)),
        reset=np.ones((60, 2), bool),
    )
    make().fit([batch], steps=1, run=tmp_path / "reset", watch=1)
    (line,) = lines(tmp_path / "reset")
    assert line["lyapunov"] is None
    assert line["memory_length"] == [0.0]


def test_a_look_that_is_interrupted_loses_nothing(tmp_path, monkeypatch):
    def look(self, batch, start):
        raise KeyboardInterrupt

    monkeypatch.setattr(_watch.Watch, "look", look)
    report = make().fit(source(), steps=5, run=tmp_path, watch=2)
    assert report.interrupted
    assert report.steps == 2
    monkeypatch.undo()
    resumed, bare = make(), make()
    resumed.fit(source(), steps=5, run=tmp_path, resume=True, watch=2)
    bare.fit(source(), steps=5)
    np.testing.assert_array_equal(resumed.params.flat, bare.params.flat)


def test_streams_are_looked_at_from_the_state_they_carry(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    make().fit(gd.data.Stream(x, y, k1=100, batch_size=2), steps=4, run=tmp_path, watch=2)
    assert [line.get("lyapunov") is not None for line in lines(tmp_path)] == [False, True] * 2


def test_wrong_options_are_refused(tmp_path):
    with pytest.raises(gd.ArgumentError, match="watch must be"):
        make().fit(source(), steps=2, watch=0)


def test_the_command_records_and_draws(tmp_path, monkeypatch):
    pytest.importorskip("typer", reason="the command line: install gradcore[cli]")
    pytest.importorskip("matplotlib", reason="draws: install gradcore[plot]")
    from typer.testing import CliRunner

    from gradcore._commands import app

    monkeypatch.chdir(tmp_path)
    options = ["--length", "60", "--hidden", "8", "--updates", "6", "--every", "3", "--no-stages"]
    result = CliRunner().invoke(
        app, ["train", "adding", *options, "--watch", "2", "--run", "r", "-q"]
    )
    assert result.exit_code == 0, result.output
    watched = [line for line in lines(tmp_path / "r") if "memory_length" in line]
    assert [line["step"] for line in watched] == [2, 4, 6]
    assert CliRunner().invoke(app, ["plot", "r"]).exit_code == 0
    assert (tmp_path / "r" / "curves.png").stat().st_size > 20_000
    result = CliRunner().invoke(app, ["train", "brackets", "--watch", "5"])
    assert result.exit_code == 2
    assert "--watch needs --run" in result.stderr
