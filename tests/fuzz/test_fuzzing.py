"""A few thousand random inputs for every reader and binding; `fuzzing.py` makes millions."""

import random
import re
from collections import Counter

import pytest

pytest.importorskip("Bio", reason="reads GenBank: install gradcore[data]")
pytest.importorskip("pygments", reason="reads source code: install gradcore[data]")
pytest.importorskip("pyarrow", reason="reads Parquet: install gradcore[parquet]")

import fuzz_targets
import fuzzing
import gradcore as gd

CALLS = {"resume": 60, "bindings": 2_000, "core_plan": 2_000}
# Of a hundred changed inputs at least this many are read to the end, and the others are refused for
# this many different reasons: a target whose inputs all fail at the first check would test nothing
# after it.
ACCEPTED, REASONS = 5, 4
# A metrics.jsonl is refused for no text, or for a line that no run writes.
FEWER = {"metrics": 2}
TOLERANT = {name for name in fuzzing.READERS if name.startswith("source")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", fuzzing.TARGETS)
def test_nothing_but_its_own_errors(name):
    assert fuzzing.attack(name, CALLS.get(name, 200), seed=1) == {}


@pytest.mark.parametrize("name", fuzzing.READERS)
def test_an_unchanged_file_is_accepted(name):
    reader = fuzzing.READERS[name]
    for other in fuzzing.READERS.values():  # files of other readers in the same folder
        (fuzz_targets.FOLDER / other.name).parent.mkdir(exist_ok=True)
        (fuzz_targets.FOLDER / other.name).write_bytes(b"x")
    reader(reader.seed())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", fuzzing.TARGETS)
def test_changed_inputs_get_past_the_first_check(name):
    outcomes = Counter(outcome(name, i) for i in range(100))
    assert outcomes["accepted"] >= ACCEPTED, outcomes
    if name not in TOLERANT:
        assert len(outcomes) - 1 >= FEWER.get(name, REASONS), outcomes
        assert max(outcomes[reason] for reason in outcomes if reason != "accepted") <= 60, outcomes


def outcome(name, i):
    """The result for an input: "accepted", or why it was refused, without names and numbers."""
    rng = random.Random(f"{name} {i}")
    try:
        if name in fuzzing.READERS:
            reader = fuzzing.READERS[name]
            reader(reader.change(reader.seed(), rng))
        else:
            fuzzing.CALLS[name](rng)
    except gd.GradcoreError as error:
        return re.sub(r"'[^']*'|\"[^\"]*\"|\d+|/\S+", "", str(error))
    except fuzz_targets.Refused as error:
        return str(error.__cause__)[:40]
    return "accepted"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["checkpoint", "fasta", "gff3_beside", "npy", "bindings"])
def test_hypothesis_finds_nothing(name):
    fuzzing.with_hypothesis(name, 30)


def test_changes_depend_on_the_number_alone():
    for reader in fuzzing.READERS.values():
        if not reader.name.endswith(".npz"):  # zip files contain the time
            seed = reader.seed()
            made = [[reader.change(seed, random.Random(i)) for i in range(5)] for _ in range(2)]
            assert made[0] == made[1]


def test_a_finding_is_one(monkeypatch):
    def bad(rng):
        raise KeyError("x")

    monkeypatch.setitem(fuzzing.CALLS, "layers", bad)
    ((place, found),) = fuzzing.attack("layers", 3, seed=0).items()
    assert place.startswith("KeyError test_fuzzing.py:")
    assert "KeyError" in found
    assert "layers, seed 0, call 0" in found


def test_too_much_time_or_memory_is_a_finding(monkeypatch):
    monkeypatch.setitem(fuzzing.CALLS, "layers", lambda rng: rng.randbytes(10**6))
    monkeypatch.setattr(fuzzing, "SLOW", -1.0)
    monkeypatch.setattr(fuzzing, "MOST_GROWTH", -1)
    assert fuzzing.attack("layers", 3, seed=0).keys() == {"slow", "memory"}


def test_a_crash_is_a_finding_and_the_next_call_comes(monkeypatch, tmp_path):
    # The child process dies in its third call, then in the call after it.
    monkeypatch.setattr(fuzzing, "CHILD", ("-c", DIES))
    found = fuzzing.apart("layers", 5, seed=0)
    assert [text.split(":")[0] for text in found.values()] == [
        "layers, seed 0, call 2",
        "layers, seed 0, call 3",
    ]


DIES = """
import os, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
first = int(given["--first"])
if first < 4:
    open(given["--at"], "wb").write(max(first, 2).to_bytes(8, "little"))
    os.abort()
open(given["--keep"], "w").write("{}")
"""
