"""What is told of a table before its score is believed."""

from __future__ import annotations

import numpy as np
import pytest

from gradcore.apps.tasks.table import dataset
from gradcore.apps.tasks.table.roles import Roles
from gradcore.apps.tasks.table.wanted import Wanted

X = np.random.default_rng(0).normal(size=400).round(3)
Y = (20 + 3 * np.sin(np.arange(400) / 5) + X[::-1]).round(2)


def notes(tmp_path, header, line, rows=100, *, target="y", missing="error", **roles):
    path = tmp_path / "a.csv"
    path.write_text(header + "\n" + "".join(f"{line(i)}\n" for i in range(rows)))
    return dataset.load([path], Roles(target, **roles), Wanted(), missing=missing).notes


# ---- Classes -----------------------------------------------------------------------------------


def test_a_class_that_the_test_part_lacks(tmp_path):
    found = notes(tmp_path, "x,y", lambda i: f"{X[i]},{'c' if i < 9 else 'ab'[i % 2]}")
    assert "no row of the test part is of class 'c': the score says nothing about it" in found
    assert "no row for validation is of class 'c': it has no part in choosing the net" in found


@pytest.mark.parametrize(
    ("rare", "parts"),
    [
        ((80,), {"for validation": False, "of the test part": True, "to learn from": True}),
        ((99,), {"for validation": True, "of the test part": False, "to learn from": True}),
        (
            (5, 75, 95),
            dict.fromkeys(("for validation", "of the test part", "to learn from"), False),
        ),
    ],
)
def test_which_parts_lack_a_class(tmp_path, rare, parts):
    found = notes(tmp_path, "x,y", lambda i: f"{X[i]},{'c' if i in rare else 'ab'[i % 2]}")
    for part, lacks in parts.items():
        assert any(f"no row {part} is of class 'c'" in note for note in found) == lacks


def test_a_class_of_sequences_that_the_test_part_lacks(tmp_path):
    def line(i):
        return f"s{i // 4},{X[i]},{'c' if i // 4 == 3 else 'ab'[i // 4 % 2]}"

    found = notes(tmp_path, "id,x,y", line, 80, sequence="id", per="sequence")
    told = [note for note in found if "is of class 'c'" in note]
    assert len(told) == 2
    assert all(note.startswith("no sequence ") for note in told)


# ---- Columns that tell the same -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "same"),
    [
        (lambda i: f"{X[i]},{X[i]}", True),
        (lambda i: f"{X[i]:.3f},{X[i]:.6e}", True),  # written in another way
        (lambda i: f"{X[i] if i % 9 else ''},{X[i] if i % 9 else ''}", True),
        (lambda i: f"{'ab'[i % 2]},{'xy'[i % 2]}", True),  # other words for the same
        (lambda i: f"{X[i]},{X[i] + (i == 50)}", False),
        (lambda i: f"{X[i]},{X[i] if i % 9 else ''}", False),
        (lambda i: f"{'ab'[i % 2]},{'xy'[i % 3 > 0]}", False),
    ],
)
def test_two_columns_of_the_same_content(tmp_path, line, same):
    found = notes(tmp_path, "p,q,y", lambda i: f"{line(i)},{Y[i]}", missing="mean")
    told = [note for note in found if note.startswith("columns p and q ")]
    assert bool(told) == same
    assert all("list --features with one of them alone" in note for note in told)


def test_the_target_of_a_forecast_under_two_names(tmp_path):
    found = notes(tmp_path, "x,copy,y", lambda i: f"{X[i]},{Y[i]},{Y[i]}", ahead=2)
    assert any(note.startswith("columns copy and y have the same content") for note in found)


@pytest.mark.parametrize("cell", ["7", "same", "7.0"])
def test_a_constant_column(tmp_path, cell):
    found = notes(tmp_path, "x,c,y", lambda i: f"{X[i]},{cell},{Y[i]}")
    assert "column c is constant in the rows to learn from; left out" in found


def test_true_and_false_are_categories_and_that_is_told(tmp_path):
    found = notes(tmp_path, "c,x,y", lambda i: f"{X[i] > 0},{X[-i - 1]},{Y[i]}")
    assert found == ("column c holds True, False: read as categories",)


@pytest.mark.parametrize("pair", [("True", "true"), ("on", "ON"), ("low  flow", "Low flow")])
def test_spellings_of_one_text(tmp_path, pair):
    found = notes(tmp_path, "c,x,y", lambda i: f"{pair[i % 2]},{X[i]},{Y[i]}")
    told = f"column c holds {pair[0]!r} and {pair[1]!r}, which count as two categories"
    assert told in found


# ---- The target among the features --------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda i: Y[i], True),
        (lambda i: -3 * Y[i] + 7, True),  # another unit
        (lambda i: round(Y[i] * 1.8 + 32, 1), True),  # rounded
        (lambda i: Y[i] if i % 11 else "", True),
        (lambda i: Y[i] + X[i], False),
        (lambda i: round(Y[i]), False),
        (lambda i: X[i], False),
    ],
)
def test_a_feature_that_is_the_target(tmp_path, other, told):
    found = notes(tmp_path, "x,z,y", lambda i: f"{X[i]},{other(i)},{Y[i]}", missing="mean")
    about = [note for note in found if note.startswith("column z has a correlation of ")]
    assert bool(about) == told
    assert all("is it the target under another name?" in note for note in about)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda c: {"a": 10, "b": 20, "c": 30}[c], True),
        (lambda c: {"a": "A!", "b": "B!", "c": "C!"}[c], True),
        (lambda c: {"a": 1, "b": 1, "c": 2}[c], False),
    ],
)
def test_a_feature_that_tells_the_class(tmp_path, other, told):
    def line(i):
        c = "abc"[i * i % 7 % 3]
        return f"{X[i]},{other(c)},{c}"

    found = notes(tmp_path, "x,z,y", line)
    about = "column z has one value for each class of the target y: is it the target under another"
    assert any(note.startswith(about) for note in found) == told


def test_a_feature_that_knows_the_future(tmp_path):
    found = notes(tmp_path, "x,z,y", lambda i: f"{X[i]},{Y[i + 3]},{Y[i]}", ahead=3)
    assert any(note.startswith("column z has a correlation of 1.0000") for note in found)
    # A slow series is like itself a little later, which is no leak.
    slow = [100 + i / 1_000 + X[i] / 10**6 for i in range(400)]
    found = notes(tmp_path, "x,y", lambda i: f"{X[i]},{slow[i]:.7f}", 400, ahead=1)
    assert not any("correlation" in note for note in found)


def test_an_ordinary_table_has_no_notes(tmp_path):
    assert notes(tmp_path, "x,z,y", lambda i: f"{X[i]},{X[-i - 1]},{Y[i]}") == ()
