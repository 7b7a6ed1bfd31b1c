"""Trainings by shares of the time or of the steps: windows, learning rate and average."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import gradcore as gd
from gradcore.apps.tasks import staged
from gradcore.apps.tasks.staged import Stage

STAGES = (Stage(8, 2, 0.5), Stage(32, 1, 0.25), Stage(64, 1, 0.25))


class Windows(staged.Staged):
    """Windows of the number of the batch."""

    def __init__(self, stages=STAGES, *, seed=3, described=None, **limits):
        super().__init__(stages, described={"seed": seed, **(described or {})}, **limits)
        self.seed = seed

    def make(self, index, stage):
        own = self.stages[stage]
        rng = np.random.default_rng((self.seed, index))
        return gd.Batch(rng.integers(0, 4, (own.steps, own.batch)), None)


def make(**options):
    return Windows(**options)


def rest(source):
    return [b.x for b in source]


# ---- Windows


def test_by_characters_every_stage_has_its_share():
    numbers, stages = [], []
    source = make(limit=640, on_stage=stages.append)
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
    source = make(limit=1)
    assert len(rest(source)) == 2
    assert source.counts == [1, 0, 1]


def test_windows_go_on_at_any_place_with_the_same_bits():
    whole = rest(make(limit=640))
    for place in (0, 1, 19, 20, 24, 27):
        first, second = make(limit=640), make(limit=640)
        for _ in range(place):
            first.take()
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        np.testing.assert_equal(rest(second), whole[place:])
    other = rest(make(limit=640, seed=4))
    assert not all(np.array_equal(a, b) for a, b in zip(whole, other, strict=True))


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
    source = make(limit=640)
    source.take()
    before = source.state_dict()
    with pytest.raises(gd.GradcoreError, match=r"counts|place|epoch"):
        source.load_state_dict({**before, **change})
    after = source.state_dict()
    assert {**after, "seconds": 0.0} == {**before, "seconds": 0.0}


# ---- Rate and mean


def test_the_rate_falls_with_the_part_that_is_used():
    source = make(limit=640)
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
    source = make(limit=640)
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
