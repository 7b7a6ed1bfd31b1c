"""Formats of numbers and markers of missing values: read, or refused with both readings."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import gradcore as gd
from gradcore.apps.tasks.table import dataset, read
from gradcore.apps.tasks.table.numberformat import COMMA, POINT, NumberFormat, look
from gradcore.apps.tasks.table.oddities import far_values
from gradcore.apps.tasks.table.roles import Roles
from gradcore.apps.tasks.table.wanted import Format, SkipRows, Wanted, format_from_json

ROWS = 100
X = np.random.default_rng(0).normal(size=ROWS).round(3)


def write(path, header, line, rows=ROWS):
    path.write_text(header + "\n" + "".join(f"{line(i)}\n" for i in range(rows)), encoding="utf-8")
    return path


def comma(value, decimals=1):
    return f"{value:.{decimals}f}".replace(".", ",")


def load(path, target="y", wanted=None, **options):
    names = ("features", "sequence", "order", "per", "ahead", "text")
    roles = Roles(target, **{name: options.pop(name) for name in names if name in options})
    return dataset.load([path], roles, wanted or Wanted(), **options)


def fault(path, *args, **options):
    with pytest.raises(gd.ArgumentError) as caught:
        load(path, *args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- Decimal commas ----------------------------------------------------------------------------


def test_decimal_commas_are_recognised_and_told(tmp_path):
    path = write(tmp_path / "a.csv", "t;x;y", lambda i: f"{i};{comma(i + 0.5)};{comma(20 + i)}")
    data = load(path)
    assert data.schema.target.kind == "number"
    np.testing.assert_array_equal(data.y, 20.0 + np.arange(ROWS))
    x = data.schema.features[1]
    np.testing.assert_allclose(data.x[:, 1] * x.std + x.mean, np.arange(ROWS) + 0.5, rtol=1e-5)
    assert any(
        note.startswith(f"{path}:2: decimal commas: '0,5' in column x is read as 0.5")
        for note in data.notes
    )
    assert data.schema.files.decimal == ","


@pytest.mark.parametrize(
    ("mark", "name"), [(".", "points"), (" ", "spaces"), ("\u00a0", "nbsp"), ("'", "apostrophes")]
)
def test_decimal_commas_with_thousands_apart(tmp_path, mark, name):
    path = write(
        tmp_path / "a.csv",
        "x;y",
        lambda i: f"{comma(X[i])};{1 + i % 9}{mark}{100 + i}{mark}000,{i % 10}5",
    )
    y = load(path).y
    np.testing.assert_allclose(y[:2], [1_100_000.05, 2_101_000.15])
    assert len(np.unique(y)) == ROWS


def test_one_decimal_comma_among_whole_numbers(tmp_path):
    path = write(tmp_path / "a.csv", "x;y", lambda i: f"{i % 7};{'3,25' if i == 5 else i}")
    np.testing.assert_array_equal(load(path).y[4:7], [4.0, 3.25, 6.0])


def test_decimal_commas_in_quotes_between_commas(tmp_path):
    path = write(tmp_path / "a.csv", "x,y", lambda i: f'{i % 7},"{comma(i + 0.25, 2)}"')
    np.testing.assert_array_equal(load(path).y, np.arange(ROWS) + 0.25)


def test_a_file_without_names_and_with_decimal_commas(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("".join(f"{i};{comma(i + 0.5)};{comma(20 + i)}\n" for i in range(ROWS)))
    data = load(path, wanted=Wanted(header=("t", "x", "y")))
    np.testing.assert_array_equal(data.y, 20.0 + np.arange(ROWS))


def test_an_order_with_decimal_commas(tmp_path):
    path = write(tmp_path / "a.csv", "t;x;y", lambda i: f"{comma(i / 2)};{i % 7};{i}")
    data = load(path, order="t", ahead=1)
    np.testing.assert_array_equal(data.y[:-1], np.arange(1, ROWS))
    assert data.schema.step == "0.5"


def test_decimal_overrides(tmp_path):
    path = write(tmp_path / "a.csv", "x;y", lambda i: f"{i % 7};{comma(20 + i)}")
    message = fault(path, wanted=Wanted(decimal="."))
    assert message.startswith(f"{path}:2: column 'y' must hold finite numbers; got '20,0'. ")
    assert "It reads as 20 (a decimal comma) or as a text (100 of 100 cells are so)" in message
    thousands = write(tmp_path / "b.csv", "x;y", lambda i: f"{i % 7};{1 + i % 9},{100 + i}")
    assert load(thousands, wanted=Wanted(decimal=".")).y[0] == 1100.0
    assert load(thousands, wanted=Wanted(decimal=",")).y[0] == 1.1
    with pytest.raises(gd.ArgumentError, match="--decimal must be a point or a comma; got ';'"):
        Wanted(decimal=";")


def test_texts_with_commas_stay_texts_if_told_so(tmp_path):
    path = write(tmp_path / "a.csv", "x;y", lambda i: f"{X[i]};{i % 2},{i % 3}")
    assert load(path, text=("y",)).schema.target.classes[0] == "0,0"


def test_points_and_commas_contradict_each_other(tmp_path):
    path = write(tmp_path / "a.csv", "x;y", lambda i: f"{i + 0.5};{comma(i + 0.5)}")
    message = fault(path)
    assert message.startswith(f"{path}:2: column 'x' must hold finite numbers; got '0.5'. It has a")
    assert "'0,5' in column 'y' (a.csv:2) has a decimal comma" in message


def test_one_comma_among_points_is_a_fault_of_its_cell(tmp_path):
    path = write(tmp_path / "a.csv", "x;y", lambda i: f"{X[i]};{'7,5' if i == 7 else i + 0.5}")
    message = fault(path)
    assert message.startswith(f"{path}:9: column 'y' must hold finite numbers; got '7,5'. It reads")
    assert "Others have points, such as '0.5' in line 2. Write 7.5 if it is a decimal" in message


def test_points_alone_beside_decimal_commas_have_two_readings(tmp_path):
    path = write(tmp_path / "a.csv", "x;y", lambda i: f"{comma(X[i])};{1 + i % 9}.{100 + i}")
    message = fault(path)
    assert message.startswith(f"{path}:2: column 'y' holds '1.100', which is 1100 (points between ")
    assert "or 1.100 (a decimal point); column 'x' has decimal commas" in message
    data = load(path, wanted=Wanted(decimal=","))
    assert data.y[0] == 1100.0
    assert any("'1.100' is read as 1100" in note for note in data.notes)


def test_an_order_of_points_alone_beside_decimal_commas(tmp_path):
    path = write(tmp_path / "a.csv", "t;x;y", lambda i: f"1.{100 + i};{comma(X[i])};{i}")
    assert fault(path, order="t").startswith(f"{path}:2: column 't' holds '1.100', which is 1100")
    assert load(path, order="t", wanted=Wanted(decimal=",")).schema.step == "1"


def test_lists_with_commas_are_texts_if_told_so(tmp_path):
    path = write(tmp_path / "a.csv", "c;x;y", lambda i: f"{i % 3},{i % 2};{X[i]:.3f};{i / 8:.3f}")
    assert "or pass --text c if those are names" in fault(path)
    assert load(path, text=("c",)).y[1] == 0.125


def test_files_with_different_decimal_signs(tmp_path):
    one = write(tmp_path / "a.csv", "x;y", lambda i: f"{i % 7};{comma(i + 0.5)}")
    two = write(tmp_path / "b.csv", "x;y", lambda i: f"{i % 7};{i + 0.5}")
    with pytest.raises(gd.ArgumentError, match=r"b.csv:2: column 'y' .* got '0.5'. It has a deci"):
        read.read([one, two])
    whole = write(tmp_path / "c.csv", "x;y", lambda i: f"{i % 7};{i}")
    table = read.read([one, whole])
    assert table.columns["y"].values[0] == 0.5
    assert table.format.decimal == ","


# ---- Other formats are never categories ---------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "reading"),
    [
        ("1,234.5", "1234.5 (separators between thousands)"),
        ("1,234,567", "1234567 (separators between thousands)"),
        ("1,23,456", "123456 (separators between thousands)"),
        ("1'234.5", "1234.5 (separators between thousands)"),
        ("1\u2019234.5", "1234.5 (separators between thousands)"),
        ("1 234", "1234 (thousands apart)"),
        ("1\u202f234", "1234 (thousands apart)"),
        ("1 234.5", "1234.5 (separators between thousands)"),
        ("1,234", "1234 (commas between thousands) or as 1.234 (a decimal comma)"),
        ("12.5%", "12.5 (with a % sign)"),
        ("12,5 %", "12.5 (with a % sign)"),
        ("3‰", "3 (with a ‰ sign)"),
        ("$12.50", "12.5 (with a currency)"),
        ("-$1,200", "-1200 (with a currency)"),
        ("12.50 EUR", "12.5 (with a currency)"),
        ("€ 5", "5 (with a currency)"),
        ("3 mm", "3 (with the unit mm)"),
        ("21.5°C", "21.5 (with the unit °C)"),
        ("5kg/m3", "5 (with the unit kg/m3)"),
        ("0x1F", "31 (hexadecimal)"),
        ("1.5D+03", "1500 (an exponent as in Fortran)"),
        ("1.5-103", "1.5e-103 (an exponent as in Fortran)"),
        ("1.5 x 10^3", "1500 (a power of ten written out)"),
        ("(12.5)", "-12.5 (brackets for a minus)"),
        ("12.5-", "-12.5 (a minus behind the number)"),
        ("\u221212.5", "-12.5 (with a minus that is no hyphen)"),
        ("1_000", "1000 (underscores between digits)"),
        ("12:30", "45000 s (a time of day or a duration)"),
        ("1/2", "1/2 (a fraction)"),
        ("<0.5", "0.5 (with a mark)"),
        ("12*", "12 (with a mark)"),
    ],
)
@pytest.mark.parametrize("share", [1, 2, 20])
def test_a_column_in_another_format_is_refused_with_its_readings(tmp_path, cell, reading, share):
    """Whether all cells are written so, half of them, or a twentieth."""
    path = write(tmp_path / "a.csv", "x;y", lambda i: f"{X[i]};{cell if i % share == 0 else i}")
    message = fault(path)
    assert message.startswith(f"{path}:2: column 'y' must hold finite numbers; got {cell!r}. ")
    assert f"It reads as {reading}" in message
    assert "Or pass --text y if these are names." in message
    if share > 1:
        assert load(path, text=("y",)).schema.target.kind == "class"


@pytest.mark.parametrize("cell", ["1e5", "+1.5E-03", "7", ".5", "5.", " 3 ", "1e-300"])
def test_plain_numbers(tmp_path, cell):
    path = write(tmp_path / "a.csv", "x;y", lambda i: f"{X[i]};{cell if i % 2 else i}")
    assert load(path).y[1] == float(cell)


def test_true_and_false_are_two_classes_and_not_a_format(tmp_path):
    path = write(tmp_path / "a.csv", "x,y", lambda i: f"{X[i]},{X[i] > 0}")
    assert load(path).schema.target.classes == ("False", "True")
    path = write(tmp_path / "b.csv", "x,y", lambda i: f"{X[i]},{'True' if i == 3 else i % 50}")
    assert f"{path}:5: column 'y' must hold finite numbers; got 'True'" in fault(path)


@pytest.mark.parametrize(
    "cells", [["A0", "B1", "C2"], ["1st", "2nd", "3rd", "4th"], ["x-1", "x-2"], ["10W40", "5W30"]]
)
def test_names_with_digits_are_categories(tmp_path, cells):
    path = write(tmp_path / "a.csv", "c,x,y", lambda i: f"{cells[i % len(cells)]},{X[i]},{i / 7}")
    assert load(path).schema.features[0].categories == tuple(sorted(cells))


def test_what_is_read_back(tmp_path):
    assert POINT.number("1,234.5") == 1234.5
    assert POINT.number("12,34.5") is None
    assert COMMA.number("1.234,5") == COMMA.number("1 234,5") == 1234.5
    assert COMMA.number("1.234 567,5") is None  # two kinds of separators
    assert COMMA.number("0.5") is None
    assert NumberFormat().number("1,5") is None
    assert POINT.number("0,126") is None  # no group begins with a zero: only a decimal comma
    assert COMMA.number("0,126") == 0.126
    assert look("word") is None
    assert look("") is None


# ---- Missing values ----------------------------------------------------------------------------


@pytest.mark.parametrize("marker", [-999, -200, 9999, 1e20, -9999, -32768])
def test_a_value_far_outside_that_occurs_often_is_told(tmp_path, marker):
    path = write(tmp_path / "a.csv", "x,y", lambda i: f"{X[i]},{marker if i % 9 == 0 else 20 + i}")
    told = f"column y is {marker:.15g} in 12 of 100 rows, and between 21 and 118 in the others"
    assert any(told in note for note in load(path).notes)
    feature = write(
        tmp_path / "b.csv", "x,y", lambda i: f"{marker if i % 9 == 0 else X[i]},{i / 7}"
    )
    assert any(f"column x is {marker:.15g} in 12" in note for note in load(feature).notes)
    marked = Wanted(missing_values=(str(marker),))
    data = load(path, wanted=marked, missing="drop")
    assert len(data.y) == 88
    assert data.y.min() == 21
    assert not any("in the others" in note for note in data.notes)
    assert f"{path}:2: column 'y' is missing (of 100 rows: y in 12)" in fault(path, wanted=marked)


def far(values):
    columns = {"y": read.arrays.Column("number", np.array(values, dtype=float))}
    table = read.Table(columns, ("f",), (0,), None)
    return [float(note.split(" is ")[1].split(" in ")[0]) for note in far_values(table, ["y"])]


def test_which_values_lie_far_outside():
    usual = list(range(50))
    assert far(usual * 2) == []
    assert far([*usual, -999, -999, -999]) == [-999]
    assert far([*usual, -999, -999]) == []  # not often
    assert set(far([*usual, *[-999] * 3, *[9999] * 4])) == {-999, 9999}
    assert set(far([*usual, *[-998] * 3, *[-999] * 3])) == {-998, -999}
    assert far([1000.0 + v for v in usual] + [0.0] * 5) == [0.0]
    assert far([16 + 14 * v for v in range(90)] + [-200] * 10) == [-200]  # wide, but a usual mark
    assert far([0.0] * 60 + [math.exp(v / 8) for v in range(50)]) == []  # rain: zero is a value
    assert far([0, 1] * 50) == []
    assert far([0, 1, 2] * 30 + [-999] * 5) == [-999]


def test_several_missing_values_and_texts(tmp_path):
    def line(i):
        y = {0: "-999", 1: "ND", 2: "-999.0"}.get(i % 9, 20 + i)
        return f"{'-' if i % 10 == 3 else 'ab'[i % 2]},{X[i]},{y}"

    path = write(tmp_path / "a.csv", "c,x,y", line)
    data = load(path, wanted=Wanted(missing_values=("-999", "ND", "-")), missing="mean")
    assert int(np.isnan(data.y).sum()) == sum(i % 9 in (0, 1, 2) for i in range(ROWS))
    assert data.schema.features[0].categories == ("a", "b")


@pytest.mark.parametrize("missing", ["drop", "last"])
def test_missing_values_among_classes_that_are_numbers(tmp_path, missing):
    path = write(tmp_path / "a.csv", "x,y", lambda i: f"{X[i]},{-999 if i % 9 == 0 else i % 3}")
    assert load(path).schema.target.classes == ("-999", "0", "1", "2")
    data = load(path, wanted=Wanted(missing_values=("-999",)), missing=missing)
    assert data.schema.target.classes == ("0", "1", "2")
    assert int(np.isnan(data.y).sum()) == (0 if missing == "drop" else 12)


def test_missing_values_of_arrays(tmp_path):
    path = tmp_path / "a.npz"
    y = np.where(np.arange(ROWS) % 9 == 0, -999, np.arange(ROWS))
    np.savez(path, x=X, c=np.array(["a", "none", "b", "a"] * 25), y=y)
    table = read.read([path], Wanted(missing_values=("-999", "none")))
    assert int(table.columns["y"].missing().sum()) == 12
    assert table.columns["c"].texts == ("a", "b")


@pytest.mark.parametrize("marker", ["ND", "-", "missing", "***"])
def test_a_text_that_fills_a_column_of_numbers(tmp_path, marker):
    """Two thirds of the cells are no numbers: that makes no categories of the others."""
    path = write(tmp_path / "a.csv", "x,y", lambda i: f"{X[i]},{marker if i % 3 else i * 0.5}")
    message = fault(path)
    assert message.startswith(f"{path}:3: column 'y' holds 34 numbers (34 different ones) and 66 ")
    assert f"times {marker!r}. Pass --missing-value" in message
    wanted = Wanted(missing_values=(marker,))
    assert load(path, wanted=wanted, missing="drop").y[1] == 1.5
    few = write(tmp_path / "b.csv", "x,y", lambda i: f"{X[i]},{marker if i % 9 == 0 else i * 0.5}")
    assert f"It occurs 12 times: pass --missing-value {marker}" in fault(few).replace("'", "")


def test_an_order_with_a_missing_value(tmp_path):
    path = write(tmp_path / "a.csv", "t,x,y", lambda i: f"{-999 if i == 50 else i},{X[i]},{i / 7}")
    message = fault(path, order="t", wanted=Wanted(missing_values=("-999",)))
    assert message.startswith(f"{path}:52: the order in column 't' must be a number in every row")
    assert "it is missing" in message


# ---- The format in a checkpoint -----------------------------------------------------------------


def test_a_format_survives_json():
    for form in (
        Format(),
        Format(
            delimiter=";",
            encoding="cp1252",
            header=("a", "b"),
            decimal=",",
            missing_values=("-999", "ND"),
            skip_rows=SkipRows(2, (5, 6)),
            header_row=4,
            comment="%",
            date_format="%d.%m.%Y",
        ),
    ):
        assert format_from_json(json.loads(json.dumps(form.as_json()))) == form


def test_what_is_told_goes_over_what_was_stored():
    stored = Format(decimal=",", missing_values=("-999",), header_row=3)
    both = Wanted(decimal=".", missing_values=("ND",), order="t").over(stored)
    assert both.format == Format(decimal=".", missing_values=("-999", "ND"), header_row=3)
    assert both.order == "t"
