"""What the report of the brackets task says, and its picture."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gradcore as gd
from gradcore.apps.tasks.brackets import check, evaluate, horizon, report, train
from gradcore.apps.tasks.brackets.answers import OUTPUTS

COUNTS = {"1-10": 500, "10-100": 300, "100-1k": 60, "1k-10k": 40, "10k+": 0}


def score(*shares):
    by_distance = dict(zip(COUNTS, shares, strict=True))
    known = [(s, COUNTS[n]) for n, s in by_distance.items() if s is not None]
    total = sum(s * n for s, n in known) / sum(n for _, n in known)
    return evaluate.Score(total, by_distance, COUNTS)


def result(validation=(0.99, 0.98, 0.95, 0.95, None), *, hurried=False, reach=(-1.0, -2.5, -4.0)):
    net = gd.Stack(gd.Embedding(128, 2), gd.LSTM(2, 3), gd.Linear(3, OUTPUTS))
    trained = train.Trained(
        net=net,
        params=net.init(seed=0),
        steps=10,
        seconds=5.0,
        characters=1_000,
        longest_sequence=64,
        stages=((64, 1, 10),),
        validation=score(*validation),
        hurried=hurried,
        interrupted=False,
    )
    baselines = {
        "majority": score(0.8, 0.8, 0.7, 0.0, None),
        "stack of 100": score(1.0, 1.0, 0.7, 0.0, None),
    }
    found = evaluate.Evaluation(score(0.99, 0.98, 0.9, 0.8, None), baselines, 7, 5_000, 0.25)
    reached = horizon.Horizon(5_000, np.array([10.0, 100.0, 1_000.0]), np.array(reach))
    return report.Result(trained, found, check.FaultShare(7, 0.5), reached, 0.002, 9.0, 3)


def test_the_first_lines_say_what_no_window_can_do():
    lines = report.table(result()).splitlines()
    # 60 at 0.9 and 40 at 0.8 are 86 of 100; a stack of 100 characters has 60 at 0.7.
    assert lines[0].startswith("100 brackets close one that was opened more than 100 characters")
    assert "right about 86.0% of them" in lines[0]
    assert lines[0].endswith("right about 42.0%.")
    assert lines[1].endswith("10^-2.5 at 100, 10^-4.0 at 1,000.")


def test_reached_goals_are_said():
    text = report.table(result())
    assert "The validation files reached the goals (0.97 at 10-100" in text


@pytest.mark.parametrize("hurried", [False, True])
def test_a_limit_that_shortened_the_training_is_told_of_a_good_net_too(hurried):
    text = " ".join(report.table(result(hurried=hurried)).split())
    assert "reached the goals" in text
    assert ("A limit shortened the training" in text) == hurried


@pytest.mark.parametrize(
    ("hurried", "why"),
    [(True, "a limit shortened the training"), (False, "the net stopped improving")],
)
def test_what_was_not_reached_is_said_with_its_reason(hurried, why):
    text = report.table(result((0.99, 0.961, 0.95, 0.5, None), hurried=hurried))
    assert "have only 0.961 at 10-100, 0.500 at 1k-10k (goals: " in text
    assert f"): {why}." in text


def test_distances_with_few_brackets_miss_no_goal(monkeypatch):
    monkeypatch.setitem(COUNTS, "1k-10k", 19)
    assert result((0.99, 0.98, 0.95, 0.5, None)).trained.missed == {}


def test_the_figures_are_json(tmp_path):
    report.write_json(tmp_path / "figures.json", result(hurried=True))
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["hurried"] is True
    assert figures["least_trust"] == 0.002
    assert figures["gradient_log10"] == {"100": -2.5, "1000": -4.0}
    assert figures["validation"]["accuracy_by_distance"]["10k+"] is None


@pytest.mark.parametrize("reach", [(-1.0, -2.5, -4.0), (-1.0, -np.inf, -np.inf), (-np.inf,) * 3])
def test_a_picture_is_drawn_also_of_a_gradient_that_vanishes(tmp_path, reach):
    pytest.importorskip("matplotlib")
    report.draw(tmp_path / "picture.png", result(reach=reach))
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert report.table(result(reach=reach))


def test_next_steps_name_the_net():
    lines = report.next_steps("runs/my net.safetensors").splitlines()
    assert len(lines) == 4
    assert "--checkpoint 'runs/my net.safetensors'" in lines[1]
    assert "diagnose 'runs/my net.safetensors'" in lines[2]
