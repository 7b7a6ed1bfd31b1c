"""Resuming: a run that was killed at any place, any number of times, ends with the same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

import gradcore as gd
import resume_run
from gradcore._training.runs import read_metrics

KILLS = 50


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run: folder, report, parameters and their average after every update."""
    trainer, data, options = resume_run.make()
    after = {}

    def record(line):
        averaged = trainer._updater.averaged.copy()
        after[trainer.optimizer.steps] = trainer.params.copy(), averaged

    data.tell = record
    folder = tmp_path_factory.mktemp("whole")
    report = trainer.fit(data, steps=resume_run.STEPS, run=folder, **options)
    record("end")
    assert len(after) == resume_run.STEPS + 1
    return folder, report, after


def metrics(folder):
    """The metrics lines without the time that each update took."""
    lines = read_metrics(folder)
    for line in lines:
        assert line.pop("seconds") >= 0
    return lines


def kill_within(folder, moment):
    """Starts the run and kills it some lines, or a part of its start-up, later."""
    child = subprocess.Popen(
        [sys.executable, resume_run.__file__, folder], stdout=subprocess.PIPE, text=True
    )
    last = "nothing"
    try:
        for _ in range(moment.randrange(60) if moment.random() < 0.95 else 0):
            last = child.stdout.readline() or last
        time.sleep(moment.random() * 0.001)
        assert child.poll() is None, f"the run ended by itself after {last!r}"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    return last.strip()


def test_killed_fifty_times(tmp_path, whole):
    folder, report, after = whole
    moment = random.Random(3)
    best_steps = {}
    run = tmp_path / "run"
    seen = []
    moments = {"before write", "after write", "before sync", "after sync"}
    # The kills must be spread over the run; otherwise this test would prove little.
    while len(seen) < KILLS or not moments <= set(seen):
        seen.append(kill_within(run, moment))
        if not (run / "last.safetensors").exists():
            assert not (run / "metrics.jsonl").exists()
            continue
        net, params, metadata = gd.load(run / "last.safetensors")
        assert net == resume_run.NET
        assert params == after[metadata["step"]][0]
        if (run / "best.safetensors").exists():
            best = gd.load(run / "best.safetensors")
            best_steps[best.metadata["step"]] = best.params
        json.loads((run / "metrics.jsonl").read_text().split("\n")[0] or "{}")
    assert any(line.startswith("batch") for line in seen)

    trainer, data, options = resume_run.make()
    resumed = trainer.fit(data, steps=resume_run.STEPS, run=run, resume=True, **options)
    assert 0 < len(resumed.losses) < resume_run.STEPS
    assert resumed.losses == report.losses[-len(resumed.losses) :]
    assert trainer.params == after[resume_run.STEPS][0]
    assert resumed.evaluations == report.evaluations
    assert (resumed.best, resumed.best_step) == (report.best, report.best_step)
    assert metrics(run) == metrics(folder)
    for name in ("last", "best"):
        file, other = gd.load(run / f"{name}.safetensors"), gd.load(folder / f"{name}.safetensors")
        assert file == other
    # Files that were being written have left nothing behind.
    assert sorted(os.listdir(run)) == ["best.safetensors", "last.safetensors", "metrics.jsonl"]
    for step, params in best_steps.items():
        assert any(s == step for s, _ in report.evaluations)
        assert params == after[step][1]
