"""Curves: which are drawn, how they are smoothed, and `gradcore plot`."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import gradcore as gd
from gradcore.apps import curves

pytest.importorskip("typer")
pytest.importorskip("matplotlib")

from typer.testing import CliRunner

from gradcore.apps import commands


def write(folder, steps=50, scored=True, clipped=False, **last):
    """Writes a run's metrics as Trainer.fit does."""
    folder.mkdir(parents=True)
    lines = []
    for step in range(1, steps + 1):
        line = {
            "step": step,
            "epoch": 0,
            "loss": 1.0 / step,
            "lr": 0.1,
            "grad_norm_log10": None if step == 3 else -math.log10(step),
            "clipped": clipped and step % 4 == 0,
            "update_ratio": 1e-3,
            "seconds": 0.5 * step,
        }
        lines.append(line | ({"score": 2.0 / step} if scored and step % 10 == 0 else {}))
    lines[-1].update(last)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def call(*arguments):
    return CliRunner().invoke(commands.app, ["plot", *map(str, arguments)])


def figure_of(runs, x="step", log=None):
    names = curves._names(runs)
    return curves._figure(
        {name: curves.read_metrics(run) for name, run in zip(names, runs, strict=True)}, x, log
    )


def panels(figure):
    return {axis.get_ylabel(): axis for axis in figure.axes if axis.get_ylabel()}


def test_panels_and_their_curves(tmp_path):
    run = write(tmp_path / "a", clipped=True)
    figure = figure_of([run])
    axes = panels(figure)
    assert list(axes) == ["loss", "score", "learning rate", "log10 of the gradient's norm"]
    raw, smooth = axes["loss"].lines
    np.testing.assert_array_equal(raw.get_xdata(), np.arange(1, 51))
    np.testing.assert_array_equal(raw.get_ydata(), 1.0 / np.arange(1, 51))
    assert np.var(np.diff(smooth.get_ydata())) < np.var(np.diff(raw.get_ydata()))
    (score,) = axes["score"].lines
    np.testing.assert_array_equal(score.get_xdata(), [10, 20, 30, 40, 50])
    gradient = axes["log10 of the gradient's norm"]
    assert len(gradient.lines[0].get_xdata()) == 49  # a zero gradient has no logarithm
    assert gradient.get_legend().get_texts()[0].get_text() == "clipped in 24% of updates"
    assert figure.get_suptitle() == "a"
    seconds = panels(figure_of([run], x="seconds"))["loss"].lines[0].get_xdata()
    np.testing.assert_array_equal(seconds, 0.5 * np.arange(1, 51))


@pytest.mark.parametrize(
    ("last", "scale"),
    [({}, "log"), ({"loss": 0.0}, "linear"), ({"loss": -1.0}, "linear"), ({"loss": None}, "log")],
)
def test_the_loss_has_a_logarithmic_axis_if_it_is_positive_and_falls_far(last, scale, tmp_path):
    run = write(tmp_path / "a", **last)  # from 1 to 1/50
    axes = panels(figure_of([run]))
    assert (axes["loss"].get_yscale(), axes["score"].get_yscale()) == (scale, "linear")
    near = panels(figure_of([write(tmp_path / "b", 9)]))
    assert near["loss"].get_yscale() == "linear"
    for log, name in ((True, "log"), (False, "linear")):
        axes = panels(figure_of([run], log=log))
        assert (axes["loss"].get_yscale(), axes["score"].get_yscale()) == (name, name)
    for option, picture in (("--log", "a.svg"), ("--linear", "b.svg")):
        assert call(run, option, "--out", tmp_path / picture).exit_code == 0
    assert (tmp_path / "a.svg").read_text() != (tmp_path / "b.svg").read_text()


def test_a_logarithmic_axis_that_cannot_be_is_told(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": t, "seconds": t, "loss": -t, "score": 1.0} for t in (1, 2, 3)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    result = call(path, "--log", "--out", tmp_path / "a.svg")
    assert result.exit_code == 0
    assert "the loss is on a linear axis, because none of its values is positive" in result.stderr
    assert "score" not in result.stderr
    axes = panels(figure_of([path], log=True))
    assert [axes[name].get_yscale() for name in ("loss", "score")] == ["linear", "log"]
    assert "linear" not in call(path, "--out", tmp_path / "b.svg").stderr


def test_a_net_is_drawn_as_its_run_or_what_to_do_is_said(tmp_path):
    run = write(tmp_path / "a")
    net = gd.Stack(gd.RNN(1, 2))
    for name in ("last.safetensors", "best.safetensors", "net.safetensors"):
        gd.save(run / name, net, net.init(seed=0))
    assert call(run / "best.safetensors").exit_code == 0
    assert (run / "curves.png").is_file()
    gd.save(tmp_path / "best.safetensors", net, net.init(seed=0))
    for alone in (run / "net.safetensors", tmp_path / "best.safetensors"):
        result = call(alone)
        assert result.exit_code == 2
        assert "is a net, which holds no curves. Name the folder of its run" in result.stderr
        assert f"gradcore diagnose {alone}" in result.stderr.replace("\n", " ")


def test_without_scores_there_is_no_panel_for_them(tmp_path):
    assert "score" not in panels(figure_of([write(tmp_path / "a", scored=False)]))


def test_several_runs_lie_over_one_another(tmp_path):
    runs = [write(tmp_path / "x" / "a"), write(tmp_path / "y" / "a"), write(tmp_path / "b", 9)]
    figure = figure_of(runs)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "x/a",
        "y/a",
        f"{tmp_path.name}/b",
    ]
    colours = {line.get_color() for line in panels(figure)["loss"].lines}
    assert colours == {"C0", "C1", "C2"}


def test_long_runs_are_drawn_as_mean_and_range():
    y = np.random.default_rng(0).normal(size=12_345)
    x = np.arange(12_345.0)
    curve = curves.smoothed(x, y)
    assert len(curve.x) == len(curve.mean) == len(curve.low) == curves.BINS
    assert curve.low.min() == y.min()
    assert curve.high.max() == y.max()
    assert (curve.low < curve.high).all()
    assert curve.mean.std() < 0.1
    assert curve.mean.mean() == pytest.approx(y.mean(), abs=0.01)


@pytest.mark.parametrize("count", [0, 1, 2, 49, 50, 499, 500, 501, 1_499])
def test_smoothing_keeps_constants_and_sizes(count):
    curve = curves.smoothed(np.arange(float(count)), np.full(count, 2.5))
    assert len(curve.x) == len(curve.mean) == min(count, curves.BINS)
    np.testing.assert_allclose(curve.mean, 2.5)


def test_the_command_writes_a_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [write(tmp_path / "a"), write(tmp_path / "b", 700)]
    assert call(runs[0]).exit_code == 0
    assert (runs[0] / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert call(*runs, "--x", "seconds", "--log").exit_code == 0
    assert (tmp_path / "curves.png").is_file()
    assert call(runs[1] / "metrics.jsonl", "--out", "b.svg").exit_code == 0
    assert "<svg" in (tmp_path / "b.svg").read_text()


def test_a_real_run_can_be_drawn_while_it_goes_on(tmp_path):
    net = gd.Stack(gd.Embedding(3, 2), gd.GRU(2, 3), gd.Linear(3, 3))
    params = net.init(seed=0)
    trainer = gd.Trainer(
        net, params, gd.optim.Adam(params), loss="cross_entropy", threads=1, quiet=True
    )
    tokens = np.arange(60) % 3

    def look(params):
        assert call(tmp_path, "--out", tmp_path / "now.png").exit_code == 0
        return 1.0

    data = gd.data.Stream(tokens[:-1], tokens[1:], k1=5)
    trainer.fit(data, steps=8, evaluate=look, every=4, run=tmp_path)
    assert (tmp_path / "now.png").is_file()


def test_errors_of_the_command(tmp_path, monkeypatch):
    run = write(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.jsonl").touch()
    for arguments, message in [
        ([tmp_path / "none"], "cannot read"),
        ([tmp_path / "empty"], "has no updates yet"),
        ([run, run], "one is given twice"),
        ([run, "--out", tmp_path / "no" / "a.png"], "is not a folder"),
        ([run, "--out", tmp_path / "a.xyz"], "xyz"),
    ]:
        result = call(*arguments)
        assert result.exit_code == 2
        assert message in result.stderr
    monkeypatch.setattr(curves, "find_spec", lambda name: None)
    result = call(run)
    assert result.exit_code == 2
    assert "plot needs matplotlib. Run: pip install 'gradcore[plot]'" in result.stderr


HOSTILE = [
    {"step": 10**400},
    {"loss": 10**400},
    {"loss": "high"},
    {"lr": True},
    {"score": [1.0]},
    {"seconds": None},
    {"memory_length": 3},
    {"memory_length": []},
    {"memory_length": [1.0, "x"]},
    {"memory_length": {"a": 1}},
    {"lyapunov": [0.1]},
    {"lyapunov": [[0.1]], "lyapunov_error": [0.1]},
    {"grad_norm_log10": {}},
]


@pytest.mark.parametrize("change", HOSTILE, ids=str)
def test_a_line_that_no_run_writes_is_named(change, tmp_path):
    run = write(tmp_path / "a")
    path = run / "metrics.jsonl"
    kept = path.read_text().splitlines()
    line = {"memory_length": [3.0, 4.0], **json.loads(kept[4]), **change}
    kept[4] = json.dumps(line)
    path.write_text("\n".join(kept) + "\n")
    result = call(run, "--out", tmp_path / "a.png")
    assert result.exit_code == 2
    assert f"{run}, line 5: {next(iter(change))}" in " ".join(result.output.split()).replace(
        "lyapunov_error is", "lyapunov is"
    )
    assert not (tmp_path / "a.png").exists()


def test_layers_that_change_their_number_are_named(tmp_path):
    run = write(tmp_path / "a")
    path = run / "metrics.jsonl"
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    kept[1]["memory_length"], kept[3]["memory_length"] = [1.0, 2.0], [1.0]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    result = call(run, "--out", tmp_path / "a.png")
    assert result.exit_code == 2
    assert "line 4: memory_length is [1.0]" in result.output


@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324, float("inf"), float("nan"), 2**62])
@pytest.mark.parametrize("name", ["loss", "score", "lr", "seconds", "grad_norm_log10", "lyapunov"])
@pytest.mark.parametrize("log", [(), ("--log",)])
def test_extreme_numbers_are_left_out_or_drawn(name, value, log, tmp_path):
    run = write(tmp_path / "a")
    path = run / "metrics.jsonl"
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    if name == "lyapunov":
        kept[3] |= {"memory_length": [value], "lyapunov": [value], "lyapunov_error": [value]}
    else:
        kept[3][name] = value
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    result = call(run, "--out", tmp_path / "a.png", *log)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.png").stat().st_size > 10_000
