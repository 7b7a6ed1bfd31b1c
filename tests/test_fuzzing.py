"""A few thousand random inputs for every reader and for the core; `fuzzing.py` runs millions."""

import pytest

pytest.importorskip("Bio", reason="reads GenBank: install gradcore[data]")
pytest.importorskip("pygments", reason="reads source code: install gradcore[data]")

import fuzzing

CALLS = {"source": 30, "checkpoint": 150, "training": 150}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", fuzzing.TARGETS)
def test_nothing_but_its_own_errors(name):
    assert fuzzing.attack(name, CALLS.get(name, 300), seed=1) == []


def test_a_finding_is_one(monkeypatch):
    def bad(rng):
        raise KeyError("x")

    monkeypatch.setitem(fuzzing.CALLS, "layers", bad)
    (found,) = fuzzing.attack("layers", 1, seed=0)
    assert "KeyError" in found
    assert "layers, seed 0, call 0" in found
