"""Training windows that grow by the scores of the net, and texts that are lexed while it trains."""

from __future__ import annotations

import itertools
import json
import math
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import gradcore as gd
from gradcore.apps.tasks import staged
from gradcore.apps.tasks.brackets import lexing, windows
from gradcore.apps.tasks.brackets.sources import Path, SourceError, SourceFile
from gradcore.apps.tasks.brackets.supply import Supply
from gradcore.apps.tasks.brackets.windows import Progress, Stage, Windows

LEARN = (Stage(8, 2, 0.1), Stage(16, 2, 0.1))
SETTLE = (Stage(16, 2, 0.1), Stage(64, 1, 0.2))
OWN = Progress(good=0.9, patience=2, least=0.01, settle=1.0, settle_least=640)


def document(text, name="a.py"):
    file = SourceFile(Path(name), name, name, "python", len(text))
    kinds = np.array([lexing.BRACKET if c in "()[]{}" else lexing.CODE for c in text], np.uint8)
    return lexing.Document(file, lexing.tokens_of(text), kinds, lexing.digest_of(text))


DOCUMENTS = [document(f"f(a,\n b[{i}])\nx = {{\n {i}: (2),\n}}\nz()\n" * 9) for i in range(30)]


def make(documents=DOCUMENTS, **options):
    corpus = SimpleNamespace(train=Supply(iter(documents)), described="30 files")
    settings = {"seed": 3, "learn": LEARN, "settle": SETTLE, "progress": OWN}
    return Windows(corpus, **(settings | options))


def shapes(source, most=10_000):
    """The shapes of the batches that are left, with how often each comes in a row."""
    taken = []
    while source.epoch == 0 and len(taken) < most:
        taken.append(source.take().x.shape)
    return [(shape, len(list(group))) for shape, group in itertools.groupby(taken)]


def take(source, count):
    for _ in range(count):
        source.take()


def test_a_good_score_ends_a_stage():
    source = make()
    assert shapes(source, 5) == [((8, 2), 5)]
    source.scored(0.95)
    assert shapes(source, 4) == [((16, 2), 4)]
    source.scored(0.5)  # not good enough
    assert shapes(source, 1) == [((16, 2), 1)]
    assert source.part == 0
    source.scored(0.9)
    # 240 characters were read, so settling takes the least, 640: half in each stage.
    assert shapes(source) == [((16, 2), 10), ((64, 1), 5)]
    assert source.counts == [5, 5, 10, 5]
    assert not source.hurried


def test_a_stage_ends_when_scores_do_not_become_better():
    source = make()
    take(source, 1)
    for score in (0.1, 0.2, 0.3, 0.305, 0.3):
        assert shapes(source, 1)[0][0] == (8, 2)
        source.scored(score)
    assert shapes(source, 1)[0][0] == (16, 2)
    for score in (0.1, 0.1, 0.1):  # the scores of the stage before do not count
        assert source.part == 0
        assert shapes(source, 1)[0][0] == (16, 2)
        source.scored(score)
    assert source.take().x.shape == (16, 2)
    assert source.take().x.shape == (16, 2)
    assert source.part > 0


def test_one_bad_score_ends_nothing():
    source = make()
    take(source, 1)
    for score in (0.2, 0.1, 0.3, 0.2, 0.4, 0.3, 0.5):
        source.scored(score)
    assert shapes(source, 1) == [((8, 2), 1)]


def test_settling_is_as_long_as_what_was_read_before_asks_for():
    source = make(progress=Progress(0.9, 2, 0.01, settle=2.0, settle_least=1))
    take(source, 50)
    source.scored(1.0)
    take(source, 10)
    source.scored(1.0)
    read = source.read
    assert shapes(source) == [((16, 2), 35), ((64, 1), 18)]
    assert 2 * read <= source.read - read < 2 * read + 64


def test_a_limit_in_characters_shortens_the_training():
    source = make(characters=1_700, progress=Progress(settle_least=10**9))
    assert shapes(source) == [((8, 2), 43), ((16, 2), 16), ((64, 1), 8)]
    assert source.hurried
    assert 1_700 <= source.read < 1_764


def test_a_limit_that_is_far_changes_nothing():
    def whole(**limits):
        source = make(**limits)
        take(source, 5)
        source.scored(1.0)
        take(source, 5)
        source.scored(1.0)
        return shapes(source), source.hurried

    assert whole() == whole(characters=10**6) == whole(seconds=10**6)


def test_the_last_stage_has_a_batch_however_few_the_characters():
    source = make(characters=1)
    assert [shape for shape, _ in shapes(source)][-1] == (64, 1)
    assert source.hurried


class Clock:
    """Replaces time.monotonic on a machine on which every update takes a second."""

    def __init__(self, monkeypatch):
        self.now = 1_000.0
        monkeypatch.setattr(staged.time, "monotonic", lambda: self.now)

    def train(self, source, updates=10**6):
        taken = []
        while source.epoch == 0 and len(taken) < updates:
            taken.append(source.take().x.shape)
            self.now += 1
        return [(shape, len(list(group))) for shape, group in itertools.groupby(taken)]


def test_by_the_clock_the_rate_has_fallen_at_the_limit(monkeypatch):
    clock = Clock(monkeypatch)
    source = make(seconds=32, progress=Progress(settle_least=10**9))
    assert clock.train(source) == [((8, 2), 13), ((16, 2), 11), ((64, 1), 8)]
    assert clock.now == 1_032
    assert source.hurried


def test_a_clock_that_does_not_shorten_the_training_changes_no_part(monkeypatch):
    def parts(seconds, pace):
        clock = Clock(monkeypatch)
        source, found = make(seconds=seconds), []
        while source.epoch == 0:
            source.take()
            found.append(source.part)
            clock.now += pace
            if source.position in (5, 12):
                clock.now += 3 * pace  # the time of a score
                source.scored(1.0)
        return found

    assert parts(100.0, 1.0) == parts(100.0, 0.01) == parts(math.inf, 1.0)
    assert parts(30.0, 1.0) != parts(math.inf, 1.0)


def test_by_the_clock_a_resumed_training_has_the_time_that_is_left(monkeypatch):
    clock = Clock(monkeypatch)
    first = make(seconds=32, progress=Progress(settle_least=10**9))
    clock.train(first, 9)
    state = json.loads(json.dumps(first.state_dict()))
    clock.now += 500
    second = make(seconds=32, progress=Progress(settle_least=10**9))
    clock.now += 2  # time until the training begins
    second.load_state_dict(state)
    assert clock.train(second) == [((8, 2), 4), ((16, 2), 11), ((64, 1), 8)]


def test_windows_go_on_at_any_place_with_the_same_bits():
    def told(source):
        """All that is left, with good scores after the batches 5 and 12."""
        left = []
        while source.epoch == 0:
            b = source.take()
            left.append((b.x, b.y, b.weight, b.reset))
            if source.position in (5, 12):
                source.scored(1.0)
        return left

    whole = told(make())
    for place in (0, 1, 4, 5, 11, 12, 20):
        first, second = make(), make()
        for _ in range(place):
            first.take()
            if first.position in (5, 12):
                first.scored(1.0)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        np.testing.assert_equal(told(second), whole[place:])
    # A source that has gone on can be put back as well.
    second.load_state_dict(json.loads(json.dumps(make().state_dict())))
    np.testing.assert_equal(told(second), whole)


def test_more_texts_are_drawn_from_the_more_was_read(monkeypatch):
    monkeypatch.setattr(windows, "_FIRST", 400)
    monkeypatch.setattr(windows, "_GROW", 300)
    monkeypatch.setattr(windows, "_SHARE", 1.0)
    source = make()
    sizes = []
    for _ in range(60):
        source.take()
        sizes.append(source.state_dict()["documents"][0])
    assert sizes[0] == math.ceil(400 / len(DOCUMENTS[0]))
    assert sizes == sorted(sizes)
    assert sizes[-1] == math.ceil((400 + 300 * (59 * 16 // 300)) / len(DOCUMENTS[0]))


def test_other_texts_are_refused():
    source = make()
    take(source, 3)
    with pytest.raises(gd.ArgumentError, match="Continue with the files as they were"):
        make(DOCUMENTS[::-1]).load_state_dict(source.state_dict())
    with pytest.raises(gd.ArgumentError, match="Continue with the files as they were"):
        make(DOCUMENTS[:-1]).load_state_dict(source.state_dict())


@pytest.mark.parametrize(
    "change",
    [
        {"counts": [1, 2]},
        {"reached": 3},
        {"reached": None},
        {"scores": [None]},
        {"settling": [1, 2]},
        {"settling": [1, 2, -1]},
        {"cut": 1},
        {"documents": ["1", 2]},
    ],
)
def test_states_that_cannot_be_are_refused(change):
    source = make()
    source.take()
    before = source.state_dict()
    with pytest.raises(gd.GradcoreError, match="the state of windows must have"):
        source.load_state_dict({**before, **change})
    after = source.state_dict()
    assert {**after, "seconds": 0.0} == {**before, "seconds": 0.0}


def test_what_must_be_the_same_is_described():
    described = [
        make(**options).describe()
        for options in ({}, {"characters": 641}, {"seed": 4}, {"learn": LEARN[1:]})
    ]
    assert described[0] == make(seconds=4.0).describe() == make().describe()
    assert all(one != other for one, other in itertools.combinations(described, 2))


# ---- Supply


def test_a_supply_gives_the_same_however_far_lexing_has_come():
    gate = threading.Event()

    def slow():
        yield from DOCUMENTS[:4]
        gate.wait(10)
        yield from DOCUMENTS[4:]

    with Supply(slow()) as supply:
        size = len(DOCUMENTS[0])
        first = supply.first(3 * size)
        assert first == DOCUMENTS[:3]
        assert supply.first(3 * size + 1) == DOCUMENTS[:4]
        gate.set()
        assert supply.first(10**9) == DOCUMENTS
        assert supply.first(3 * size) == first


def test_a_supply_is_not_read_much_farther_than_asked(monkeypatch):
    monkeypatch.setattr(sys.modules[Supply.__module__], "_AHEAD", 1_000)
    read = []

    def counted():
        for one in DOCUMENTS:
            read.append(one)
            yield one

    with Supply(counted()) as supply:
        supply.first(1)
    assert 1 <= len(read) * len(DOCUMENTS[0]) <= 1_000 + 2 * len(DOCUMENTS[0])


def test_errors_of_lexing_reach_the_training():
    def broken():
        yield DOCUMENTS[0]
        raise lexing.LexingError("no pygments")

    with Supply(broken()) as supply, pytest.raises(lexing.LexingError, match="no pygments"):
        supply.first(10**6)
    with Supply(iter(())) as supply, pytest.raises(SourceError, match="no document to train on"):
        supply.first(1)


def test_closing_a_supply_ends_what_lexes():
    closed = []

    def endless():
        try:
            while True:
                yield DOCUMENTS[0]
        finally:
            closed.append(True)

    supply = Supply(endless())
    supply.first(10)
    supply.close()
    assert closed == [True]
