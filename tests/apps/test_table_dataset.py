"""From a table to what a net learns from: roles, sequences, parts, scales, and their faults."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gradcore as gd
from gradcore.apps.tasks.table import dataset, schema
from gradcore.apps.tasks.table.read import Wanted
from gradcore.apps.tasks.table.roles import Roles
from gradcore.apps.tasks.table.sequences import TEST, TRAIN, UNUSED, VALIDATION


def write(path, header, rows):
    lines = [",".join(header), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def load(path, target="y", header=None, **options):
    names = ("features", "sequence", "order", "per", "ahead", "text")
    roles = Roles(target, **{name: options.pop(name) for name in names if name in options})
    return dataset.load([path], roles, Wanted(header=header), **options)


def fault(path, *args, **options):
    with pytest.raises(gd.ArgumentError) as caught:
        load(path, *args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def many(tmp_path):
    """Eight sequences of 5 to 12 rows, shuffled; x tells sequence and place."""
    rows = [
        (f"s{i}", t, 100 * i + t, i + 0.5 * t, "AB"[i % 2]) for i in range(8) for t in range(5 + i)
    ]
    np.random.default_rng(0).shuffle(rows)
    return write(tmp_path / "many.csv", ["id", "t", "x", "y", "label"], rows)


@pytest.fixture
def single(tmp_path):
    """One sequence of 100 rows."""
    rows = [(t, np.sin(t), 3.0 * t) for t in range(100)]
    return write(tmp_path / "single.csv", ["t", "x", "y"], rows)


# ---- Roles -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "Y"}, "--target names the column 'Y', which"),
        ({"target": "Y"}, "its columns are id, t, x, y, label. Did you mean 'y'?"),
        ({"target": "lable"}, "Did you mean 'label'?"),
        ({"features": ("x", "zz")}, "--features names the column 'zz', which"),
        ({"sequence": "ID"}, "--sequence names the column 'ID', which"),
        ({"order": "time"}, "--order names the column 'time', which"),
        ({"text": ("q",)}, "--text names the column 'q', which"),
        ({"features": ("x", "y")}, "--features names the target 'y'"),
        ({"features": ("x", "id"), "sequence": "id"}, "--features names 'id', which is the seq"),
        ({"features": ("x", "t"), "order": "t"}, "--features names 't', which is the order"),
        ({"sequence": "y"}, "--target and --sequence name the same column, 'y'"),
        ({"order": "id", "sequence": "id"}, "--sequence and --order name the same column, 'id'"),
        ({"ahead": -1}, "ahead must not be negative; got -1"),
        ({"ahead": 2, "per": "sequence"}, "--ahead needs a target in every row"),
        ({"per": "row"}, "per must be one of 'step', 'sequence'; got 'row'"),
        ({"missing": "guess"}, "missing must be one of"),
    ],
)
def test_roles_that_do_not_fit(many, options, message):
    assert message in fault(many, **options)


def test_features_are_all_other_columns_by_default(many):
    data = load(many, sequence="id", order="t")
    assert [feature.name for feature in data.schema.features] == ["x", "label"]
    ahead = load(many, sequence="id", order="t", ahead=2)
    assert [feature.name for feature in ahead.schema.features] == ["x", "y", "label"]
    assert any("y up to now is a feature too" in note for note in ahead.notes)


def test_a_file_with_nothing_to_learn_from(tmp_path):
    path = write(tmp_path / "a.csv", ["y"], [(i,) for i in range(30)])
    assert "has no column left to learn from" in fault(path)


# ---- Sequences ---------------------------------------------------------------------------------


def test_rows_are_grouped_and_sorted(many):
    data = load(many, sequence="id", order="t")
    assert data.groups.lengths.tolist() == [5 + int(name[1:]) for name in data.groups.ids]
    x = data.schema.features[0]
    for index, name in enumerate(data.groups.ids):
        values = data.x[data.sequence(index), 0] * x.std + x.mean
        first = 100 * int(name[1:])
        np.testing.assert_allclose(values, first + np.arange(len(values)), atol=1e-3)


def test_without_an_order_rows_stay_as_they_are(tmp_path):
    rows = [("a" if t % 2 else "b", t, t % 7) for t in range(40)]
    path = write(tmp_path / "a.csv", ["id", "x", "y"], rows)
    data = load(path, sequence="id", split="time", classify=False)
    assert data.groups.ids == ("b", "a")
    assert data.groups.rows.tolist() == [*range(0, 40, 2), *range(1, 40, 2)]


def test_order_by_date(tmp_path):
    rows = [(f"2024-01-{30 - t:02}", t, 2.5 * t) for t in range(30)]
    path = write(tmp_path / "a.csv", ["day", "x", "y"], rows)
    assert load(path, order="day").groups.rows.tolist() == list(range(29, -1, -1))


def test_two_rows_at_one_place(tmp_path):
    rows = [("a", 1, 0, 0.5), ("b", 2, 1, 1.5), ("b", 1, 2, 2.5), ("b", 2, 3, 3.5)]
    path = write(tmp_path / "a.csv", ["id", "t", "x", "y"], rows)
    message = fault(path, sequence="id", order="t")
    assert message.startswith(
        f"{path}:3 and a.csv:5: sequence 'b' has two rows with t = 2. Expected a different place"
    )


def test_a_row_without_a_sequence(tmp_path):
    path = write(tmp_path / "a.csv", ["id", "x", "y"], [("a", 1, 2), ("", 2, 3)])
    assert fault(path, sequence="id").startswith(
        f"{path}:3: column 'id' must name the sequence of every row; it is missing here."
    )


def test_several_files_are_several_sequences(tmp_path):
    paths = [
        write(tmp_path / f"{i}.csv", ["x", "y"], [(t, i + t / 3) for t in range(6)])
        for i in range(4)
    ]
    data = dataset.load(paths, Roles("y"), Wanted())
    assert data.groups.ids == tuple(map(str, paths))
    assert data.split == "sequence"


@pytest.fixture
def small(tmp_path):
    """Nine rows: each its own sequence by "id", three by "third", two by "half"."""
    rows = [(f"n{i}", i // 3, i // 5, i, i / 7, "ab"[i // 3 % 2]) for i in range(9)]
    return write(tmp_path / "small.csv", ["id", "third", "half", "x", "y", "label"], rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence": "id"}, "of 2 rows or more; the longest of 9 has 1. Is 'id' the right --seq"),
        ({"sequence": "third", "ahead": 5}, "7 rows or more (--ahead 5 needs 7); the longest of 3"),
        ({}, "--split time needs a sequence of at least 20 rows; the longest has 9"),
        (
            {"split": "sequence"},
            "at least 3 sequences, to learn from some and be judged on others;",
        ),
        ({"split": "sequence"}, "got 1. Name the column that tells the sequences of a file apart"),
        (
            {"sequence": "half", "split": "sequence"},
            "got 2. Use --split time to hold out the last rows of each",
        ),
        ({"sequence": "half"}, "of at least 20 rows; the longest has 5. Give more rows."),
        ({"per": "sequence", "target": "half"}, "must have one half; sequence"),
        ({"per": "sequence", "target": "label", "sequence": "half"}, "must have one label"),
        (
            {"per": "sequence", "target": "label", "sequence": "third", "split": "time"},
            "--split ti",
        ),
    ],
)
def test_too_little_to_part(small, options, message):
    assert message in fault(small, features=("x",), **options)


def test_two_sequences_with_a_target_each(tmp_path):
    rows = [(i // 5, i, "ab"[i // 5]) for i in range(10)]
    path = write(tmp_path / "a.csv", ["id", "x", "y"], rows)
    assert "got 2. Is 'id' the right --sequence?" in fault(path, sequence="id", per="sequence")


def test_short_sequences_are_left_out_and_told(tmp_path):
    rows = [(f"s{i}", t, t + i / 3) for i in range(5) for t in range(1 if i == 2 else 4)]
    path = write(tmp_path / "a.csv", ["id", "x", "y"], rows)
    data = load(path, sequence="id")
    assert "s2" not in data.groups.ids
    assert "1 sequence shorter than 2 rows left out, such as 's2'" in data.notes


# ---- Parts -------------------------------------------------------------------------------------


def test_whole_sequences_are_held_out(many):
    data = load(many, sequence="id", order="t")
    assert data.split == "sequence"
    for index in range(8):
        assert len(set(data.parts[data.sequence(index)].tolist())) == 1
    assert set(data.parts.tolist()) == {TRAIN, VALIDATION, TEST}
    again = load(many, sequence="id", order="t")
    np.testing.assert_array_equal(data.parts, again.parts)
    others = [load(many, sequence="id", order="t", seed=seed).parts for seed in range(1, 5)]
    assert any(not np.array_equal(data.parts, other) for other in others)


def test_every_class_is_in_every_part(tmp_path):
    rows = [(f"s{i}", t, "rare" if i % 10 == 0 else "common") for i in range(40) for t in range(3)]
    path = write(tmp_path / "a.csv", ["id", "x", "y"], rows)
    for seed in range(5):
        data = load(path, sequence="id", per="sequence", seed=seed)
        for part in (TRAIN, VALIDATION, TEST):
            assert set(data.y[data.parts == part].tolist()) == {0.0, 1.0}


def test_one_long_sequence_is_parted_by_time(single):
    data = load(single, order="t")
    assert data.split == "time"
    expected = [TRAIN] * 70 + [VALIDATION] * 15 + [TEST] * 15
    assert data.parts.tolist() == expected


def test_a_forecast_belongs_to_the_part_of_its_target(single):
    data = load(single, order="t", ahead=10)
    assert data.parts.tolist() == ([TRAIN] * 60 + [VALIDATION] * 15 + [TEST] * 15 + [UNUSED] * 10)
    np.testing.assert_array_equal(data.y[:90], 3.0 * np.arange(10, 100))
    assert np.isnan(data.y[90:]).all()


def test_a_forecast_never_looks_into_the_next_sequence(many):
    data = load(many, sequence="id", order="t", ahead=2)
    for index in range(8):
        rows = data.sequence(index)
        np.testing.assert_array_equal(data.y[rows][:-2], data.now[rows][2:])
        assert np.isnan(data.y[rows][-2:]).all()


# ---- Scales ------------------------------------------------------------------------------------


def test_scales_come_from_the_rows_to_learn_from(many, single):
    for data in (load(many, sequence="id", order="t"), load(single, order="t")):
        of_rows = data.parts == TRAIN
        x = data.x[:, 0].astype(float)
        np.testing.assert_allclose(x[of_rows].mean(), 0.0, atol=1e-6)
        np.testing.assert_allclose(x[of_rows].std(), 1.0, rtol=1e-6)
        np.testing.assert_allclose(data.schema.target.mean, data.y[of_rows].mean())
        np.testing.assert_allclose(data.schema.target.std, data.y[of_rows].std())
        assert abs(x.mean()) > 1e-3  # or the test would not tell the two apart


def test_categories_come_from_the_rows_to_learn_from(tmp_path):
    rows = [(("early", "old")[t % 2] if t < 70 else "late", t, t / 3) for t in range(100)]
    path = write(tmp_path / "a.csv", ["when", "x", "y"], rows)
    data = load(path)
    when = data.schema.features[0]
    assert when.categories == ("early", "old")
    np.testing.assert_array_equal(data.x[[0, 1, 80], :2], [[1, 0], [0, 1], [0, 0]])
    assert any("30 rows with texts that are not among those to learn" in n for n in data.notes)


def test_constant_features_are_left_out(tmp_path):
    # Constant where it is learned from, whatever comes later.
    rows = [(t, 5, "same", 1 if t < 70 else 2, t / 3) for t in range(100)]
    path = write(tmp_path / "a.csv", ["x", "c", "s", "late", "y"], rows)
    data = load(path)
    assert [feature.name for feature in data.schema.features] == ["x"]
    assert sum("is constant in the rows to learn from; left out" in n for n in data.notes) == 3
    assert "every feature is constant" in fault(path, features=("c", "s"))


def test_a_text_alone_is_read_as_tokens(tmp_path):
    rows = [("ACGT"[t * t % 4] if t < 99 else "N", t % 3) for t in range(100)]
    path = write(tmp_path / "a.csv", ["base", "y"], rows)
    data = load(path)
    assert data.schema.tokens
    assert data.x.dtype == np.int32
    categories = data.schema.features[0].categories
    assert [categories[code] for code in data.x[:4]] == [row[0] for row in rows[:4]]
    assert data.x[99] == len(categories) == data.schema.width - 1


def test_too_many_texts(tmp_path):
    rows = [(f"name of {t:03}", t, t / 3) for t in range(500)]
    path = write(tmp_path / "a.csv", ["who", "x", "y"], rows)
    assert "column 'who' holds 350 different texts, such as 'name of 000'" in fault(path)


def test_dates_are_no_feature(tmp_path):
    rows = [(f"2024-01-01T{t // 60:02}:{t % 60:02}", t, t / 3) for t in range(100)]
    path = write(tmp_path / "a.csv", ["when", "x", "y"], rows)
    assert "column 'when' holds dates, which are no feature. Name it with --order" in fault(path)


def test_numbers_out_of_all_proportion(tmp_path):
    rows = [(t, t / 3) for t in range(100)]
    path = write(tmp_path / "a.csv", ["x", "y"], [*rows[:90], ("1e30", 1.0), *rows[91:]])
    assert fault(path).startswith(f"{path}:92: column 'x' is 1e+30, which is out of all proportion")
    path = write(tmp_path / "a.csv", ["x", "y"], [("1e300", 1.0), *rows[1:]])
    assert "column 'x' holds numbers too large to standardise, up to 1e+300" in fault(path)


# ---- Targets -----------------------------------------------------------------------------------


def target_of(tmp_path, values, **options):
    rows = [(np.sin(t), value) for t, value in enumerate(values)]
    return load(write(tmp_path / "a.csv", ["x", "y"], rows), **options).schema.target


def test_the_kind_of_a_target(tmp_path):
    assert target_of(tmp_path, [t % 3 for t in range(50)]).classes == ("0", "1", "2")
    assert target_of(tmp_path, [t % 3 for t in range(50)], classify=False).kind == "number"
    assert target_of(tmp_path, [t / 2 for t in range(50)]).kind == "number"
    assert target_of(tmp_path, [t % 12 for t in range(50)]).kind == "number"
    assert target_of(tmp_path, [t % 12 for t in range(50)], classify=True).classes[10:] == (
        "10",
        "11",
    )
    assert target_of(tmp_path, [t % 2 / 2 for t in range(50)], classify=True).classes == (
        "0",
        "0.5",
    )
    assert target_of(tmp_path, ["no", "yes"] * 20).classes == ("no", "yes")


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([7] * 50, {}, "the target 'y' is '7' in every row: there is nothing to learn"),
        ([7.5] * 50, {}, "the target 'y' is 7.5 in all rows to learn from"),
        ([7.5] * 70 + [1, 2] * 15, {"classify": False}, "is 7.5 in all rows to learn from"),
        (["a"] * 70 + ["b"] * 30, {}, "the rows to learn from are all of class 'a'"),
        ([""] * 50, {}, "column 'y' is missing (of 50 rows: y in 50)"),
        ([""] * 50, {"missing": "mean"}, "the target 'y' is missing in every row"),
        (["a", "b"] * 50, {"classify": False}, ":2: the target 'y' must be a number with --regr"),
        ([t / 7 for t in range(1200)], {"classify": True}, "has 1,200 classes, such as '0'"),
    ],
)
def test_targets_that_cannot_be_learned(tmp_path, values, options, message):
    path = write(tmp_path / "a.csv", ["x", "y"], [(np.sin(t), y) for t, y in enumerate(values)])
    assert message in fault(path, **options)


def test_a_class_that_only_the_test_has(tmp_path):
    rows = [(np.sin(t), "ab"[t % 2] if t < 90 else "c") for t in range(100)]
    data = load(write(tmp_path / "a.csv", ["x", "y"], rows))
    assert "no row to learn from is of class 'c': the net cannot know it" in data.notes


def test_one_target_per_sequence(tmp_path):
    # Told in one row only, and not at all for one sequence.
    rows = [
        (f"s{i}", t, f"c{i % 2}" if t == 1 and i != 5 else "") for i in range(9) for t in range(3)
    ]
    path = write(tmp_path / "a.csv", ["id", "x", "y"], rows)
    data = load(path, sequence="id", per="sequence")
    assert "s5" not in data.groups.ids
    assert "1 sequence without any y left out" in data.notes
    assert data.y.tolist() == [int(name[1:]) % 2 for name in data.groups.ids]
    assert len(data.x) == 24


def test_two_targets_for_one_sequence(tmp_path):
    rows = [(f"s{i}", t, "ab"[i == 3 and t == 2]) for i in range(6) for t in range(4)]
    path = write(tmp_path / "a.csv", ["id", "x", "y"], rows)
    assert (
        f"the rows of a sequence must have one y; sequence 's3' has 'a' ({path}:14) and 'b' "
        "(a.csv:16). Use --per step"
    ) in fault(path, sequence="id", per="sequence")


# ---- Missing values ----------------------------------------------------------------------------


@pytest.fixture
def gaps(tmp_path):
    rows = [(t, 2.0 * t + 1, t / 3) for t in range(40)]
    rows[0], rows[10], rows[11], rows[30] = (0, "", 0.0), (10, "", 3.0), (11, "", 4.0), (30, 61, "")
    return write(tmp_path / "gaps.csv", ["t", "x", "y"], rows)


def test_missing_values_are_told(gaps):
    assert fault(gaps, features=("x",)) == (
        f"{gaps}:2: column 'x' is missing (of 40 rows: x in 3, y in 1). Fill it in, or pass "
        "--missing drop (leave such rows out), zero, mean (of the rows learned from) or last (the "
        "value of the row before)."
    )


@pytest.mark.parametrize("missing", ["zero", "mean", "last"])
def test_missing_values_are_filled(gaps, missing):
    data = load(gaps, features=("x",), missing=missing)
    x = data.schema.features[0]
    raw = data.x[[0, 10, 11], 0] * x.std + x.mean
    expected = {
        "zero": [0.0, 0.0, 0.0],
        "mean": [x.mean] * 3,
        "last": [x.mean, 19.0, 19.0],
    }[missing]
    np.testing.assert_allclose(raw, expected, rtol=1e-5, atol=1e-5)
    learned = [2.0 * t + 1 for t in range(28) if t not in (0, 10, 11)]
    np.testing.assert_allclose(x.mean, np.mean(learned))
    # A target is never made up.
    assert data.parts[30] == UNUSED


def test_rows_with_missing_values_are_dropped(gaps):
    data = load(gaps, features=("x",), missing="drop")
    assert len(data.x) == 36
    assert "4 rows with missing values left out" in data.notes


def test_the_last_value_stays_in_its_sequence(tmp_path):
    rows = [
        (f"s{i}", "" if t == 0 and i == 1 else i + t, "" if t == 2 else "pq"[t % 2], t / 3)
        for i in range(4)
        for t in range(4)
    ]
    path = write(tmp_path / "a.csv", ["id", "x", "c", "y"], rows)
    data = load(path, sequence="id", missing="last", classify=False)
    c = data.schema.features[1]
    np.testing.assert_allclose(data.x[4, 0], 0.0)  # the mean, not the value of s0
    assert c.categories == ("p", "q")
    np.testing.assert_array_equal(data.x[2, 1:], data.x[1, 1:])


# ---- The schema in a checkpoint ----------------------------------------------------------------


def test_a_schema_survives_json(many, single):
    for data in (
        load(many, sequence="id", order="t"),
        load(many, target="label", sequence="id", per="sequence", missing="last"),
        load(single, order="t", ahead=3),
    ):
        value = json.loads(json.dumps(data.schema.as_json()))
        assert schema.from_json(value, "net") == data.schema


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: None, "holds no net for tables"),
        (lambda v: {**v, "format": 1}, "has table format 1; this gradcore reads 3"),
        (lambda v: {**v, "features": []}, "no features"),
        (lambda v: {**v, "features": [1]}, "Feature is no object"),
        (lambda v: {**v, "features": [{"name": 1, "kind": "number"}]}, "names must be texts"),
        (lambda v: {**v, "features": [{"name": "a", "kind": "image"}]}, "feature a is 'image'"),
        (lambda v: {**v, "features": [{"name": "a", "kind": "number", "std": 0}]}, "deviation 0"),
        (lambda v: {**v, "features": [{"name": "a", "kind": "number", "mean": "x"}]}, "wrong"),
        (lambda v: {**v, "features": [{"name": "a", "kind": "text", "categories": 3}]}, "no list"),
        (lambda v: {**v, "target": {**v["target"], "ahead": -1}}, "ahead is -1"),
        (lambda v: {**v, "target": {**v["target"], "kind": "class"}}, "fewer than two classes"),
        (lambda v: {**v, "target": {**v["target"], "extra": 1}}, "Target has extra"),
        (lambda v: {**v, "missing": "guess"}, "missing is 'guess'"),
        (lambda v: {**v, "sequence": 3}, "3 is no name of a column"),
        (lambda v: {**v, "files": 3}, "the format of files is no object"),
        (lambda v: {**v, "files": {"decimal": ";"}}, "--decimal must be a point or a comma"),
        (lambda v: {**v, "files": {"header_row": "x"}}, "header_row is no whole number"),
        (lambda v: {**v, "target": {**v["target"], "lead": 3}}, "lead is no text"),
        (lambda v: {k: e for k, e in v.items() if k != "order"}, "'order'"),
    ],
)
def test_a_damaged_schema_is_told(single, change, message):
    value = json.loads(json.dumps(load(single, order="t").schema.as_json()))
    with pytest.raises(gd.CheckpointError, match=r"net (holds|has|is damaged)") as caught:
        schema.from_json(change(value), "net")
    assert message in str(caught.value)


def test_groups_without_rows(many):
    groups = load(many, sequence="id", order="t").groups
    left_out = groups.of_rows == 1
    less = groups.without(left_out)
    assert less.lengths[1] == 0
    assert less.ids == groups.ids
    kept = less.keep(less.lengths > 0)
    assert kept.lengths.tolist() == np.delete(groups.lengths, 1).tolist()
    np.testing.assert_array_equal(kept.rows, less.rows)
