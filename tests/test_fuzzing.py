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


@pytest.mark.filterwarnings("ignore")
def test_the_mutations_reach_both_good_and_bad_inputs():
    """Else the test above would look at nothing but one line of each reader."""
    for name in ("fasta", "gff3", "table", "genbank"):
        run, seed = fuzzing.READERS[name]
        outcomes = set()
        for i in range(200):
            rng = fuzzing.random.Random(i)
            try:
                run(fuzzing.changed(seed(), rng))
                outcomes.add("read")
            except fuzzing.EXPECTED as error:
                outcomes.add(str(error)[-30:])
        assert "read" in outcomes
        assert len(outcomes) > 5, (name, outcomes)


def test_a_finding_is_one(monkeypatch):
    def bad(rng):
        raise KeyError("x")

    monkeypatch.setitem(fuzzing.CALLS, "layers", bad)
    (found,) = fuzzing.attack("layers", 1, seed=0)
    assert "KeyError" in found
    assert "layers, seed 0, call 0" in found
