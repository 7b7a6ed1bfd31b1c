"""What forecasts are called, and the places in the order that they are for."""

from __future__ import annotations

import csv
import io
from datetime import datetime, timedelta

import numpy as np
import pytest

from gradcore.apps.settings import Resources
from gradcore.apps.tasks.table import dataset, predict, train
from gradcore.apps.tasks.table.roles import Roles
from gradcore.apps.tasks.table.wanted import Wanted

HEAT = np.random.default_rng(0).normal(size=200).round(3)


def write(path, **columns):
    lines = [
        ",".join(columns),
        *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True)),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def forecasts(learned, path=None, **roles):
    """The rows that an untrained net of one file predicts for another, and the notes."""
    given = {"order": "t", "missing": "error"} | roles
    missing = given.pop("missing")
    data = dataset.load([learned], Roles("heat", **given), Wanted(), missing=missing)
    options = train.Options(hidden=2, quiet=True, resources=Resources(threads=1))
    net = train.build(data.schema, options)
    stream = io.StringIO()
    model = predict.Model(net, net.init(seed=0), data.schema)
    told = predict.write(model, [path or learned], stream)
    return list(csv.DictReader(io.StringIO(stream.getvalue()))), told.notes


def stamps(learned, path=None, **roles):
    return [row["t"] for row in forecasts(learned, path, **roles)[0]]


def test_a_forecast_is_named_by_its_target_and_how_far_ahead_it_looks(tmp_path):
    path = write(tmp_path / "a.csv", t=range(60), heat=HEAT[:60])
    rows, notes = forecasts(path, ahead=10)
    assert list(rows[0]) == ["t", "heat_ahead_10"]
    assert [row["t"] for row in rows] == [str(t + 10) for t in range(60)]
    assert not [note for note in notes if "is empty" in note]
    times = [f"2024-01-01 {t:02}:00" for t in range(24)] + [
        f"2024-01-02 {t:02}:00" for t in range(9)
    ]
    hourly = write(tmp_path / "b.csv", t=times, heat=HEAT[: len(times)])
    assert list(forecasts(hourly, ahead="3h")[0][0]) == ["t", "heat_ahead_3h"]


def test_a_prediction_of_the_row_itself_keeps_its_name_and_its_stamp(tmp_path):
    path = write(tmp_path / "a.csv", t=range(60), x=HEAT[:60], heat=HEAT[60:120])
    rows, _ = forecasts(path)
    assert list(rows[0]) == ["t", "prediction"]
    assert [row["t"] for row in rows] == [str(t) for t in range(60)]


def test_without_an_order_rows_are_counted(tmp_path):
    path = write(tmp_path / "a.csv", heat=HEAT[:60])
    rows, _ = forecasts(path, order=None, ahead=4)
    assert [row["row"] for row in rows] == [str(t + 4) for t in range(60)]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([f"2024-01-{d + 1:02}" for d in range(30)], ["2024-01-31", "2024-02-01", "2024-02-02"]),
        (
            [f"{1990 + m // 12}-{m % 12 + 1:02}" for m in range(30)],
            ["1992-07-01", "1992-08-01", "1992-09-01"],
        ),
        ([f"{1990 + y}-03-05" for y in range(30)], ["2020-03-05", "2021-03-05", "2022-03-05"]),
        ([0.1 * t for t in range(30)], ["3.0", "3.1", "3.2"]),
        ([5 * t for t in range(30)], ["150", "155", "160"]),
        (
            [(datetime(2024, 1, 1) + timedelta(minutes=7 * t)).isoformat() for t in range(30)],
            ["2024-01-01T03:30:00", "2024-01-01T03:37:00", "2024-01-01T03:44:00"],
        ),
    ],
    ids=["days", "months", "years", "fractions", "whole numbers", "minutes"],
)
def test_beyond_the_end_of_a_file_stamps_follow_from_its_steps(times, expected, tmp_path):
    found = stamps(write(tmp_path / "a.csv", t=times, heat=HEAT[:30]), ahead=3)
    assert found[-3:] == expected
    assert len(set(found)) == 30


def test_the_last_days_of_months_stay_last_days(tmp_path):
    firsts = [datetime(1990 + m // 12, m % 12 + 1, 1) for m in range(1, 41)]
    times = [(first - timedelta(days=1)).date() for first in firsts]
    found = stamps(write(tmp_path / "a.csv", t=times[:30], heat=HEAT[:30]), ahead=10)
    assert found[-10:] == [str(time) for time in times[30:40]]
    assert found[:20] == [str(time) for time in times[10:30]]


def test_a_row_that_is_missing_does_not_move_the_stamps_of_others(tmp_path):
    times = [t for t in range(60) if t not in (20, 21)]
    path = write(tmp_path / "a.csv", t=times, heat=HEAT[:58])
    assert stamps(path, ahead=5) == [str(t + 5) for t in times]
    # Nor does one that --missing drop leaves out.
    heat = ["" if t in (30, 59) else HEAT[t] for t in range(60)]
    path = write(tmp_path / "b.csv", t=range(60), heat=heat)
    assert stamps(path, ahead=5, missing="drop") == [
        str(t + 5) for t in range(60) if t not in (30, 59)
    ]


def test_each_sequence_has_its_own_stamps(tmp_path):
    ids = [name for name in "ab" for _ in range(40)]
    times = [*range(40), *range(100, 140)]
    path = write(tmp_path / "a.csv", id=ids, t=times, heat=HEAT[:80])
    assert stamps(path, sequence="id", ahead=2) == [str(t + 2) for t in times]


def test_a_file_of_one_row_has_the_steps_of_the_training(tmp_path):
    for times, new, expected in (
        ([f"2024-01-{d + 1:02}" for d in range(30)], "2025-03-01", "2025-03-04"),
        ([f"{1990 + m // 12}-{m % 12 + 1:02}" for m in range(30)], "2025-03-31", "2025-06-30"),
        ([0.5 * t for t in range(30)], "7.0", "8.5"),
    ):
        learned = write(tmp_path / "a.csv", t=times, heat=HEAT[:30])
        one = write(tmp_path / "b.csv", t=[new], heat=[0.1])
        assert stamps(learned, one, ahead=3) == [expected]


def test_a_time_ahead_in_irregular_steps_is_added(tmp_path):
    rng = np.random.default_rng(1)
    minutes = np.cumsum(rng.integers(20, 200, size=80))
    times = [datetime(2024, 1, 1) + timedelta(minutes=int(m)) for m in minutes]
    path = write(tmp_path / "a.csv", t=times, heat=HEAT[:80])
    rows, _ = forecasts(path, ahead="3h")
    assert list(rows[0]) == ["t", "heat_ahead_3h"]
    assert [row["t"] for row in rows] == [(t + timedelta(hours=3)).isoformat() for t in times]


def test_where_rows_are_counted_the_stamps_beyond_the_end_are_empty_and_it_is_told(tmp_path):
    rng = np.random.default_rng(1)
    places = np.cumsum(rng.integers(20, 200, size=80)).tolist()
    path = write(tmp_path / "a.csv", t=places, heat=HEAT[:80])
    rows, notes = forecasts(path, ahead=2)
    assert [row["t"] for row in rows] == [*map(str, places[2:]), "", ""]
    assert any(
        note.startswith("t is empty for 2 predictions: the row that lies ahead is not in the files")
        for note in notes
    )


def test_a_place_beyond_the_largest_number_is_empty(tmp_path):
    learned = write(tmp_path / "a.csv", t=range(30), heat=HEAT[:30])
    last = np.iinfo(np.int64).max
    new = write(tmp_path / "b.csv", t=[last - 2, last - 1, last], heat=HEAT[:3])
    assert stamps(learned, new, ahead=2) == [str(last), "", ""]


def test_forecasts_of_classes_are_named_alike(tmp_path):
    path = write(
        tmp_path / "a.csv", t=range(60), heat=["low" if h < 0 else "high" for h in HEAT[:60]]
    )
    rows, _ = forecasts(path, ahead=2)
    assert list(rows[0]) == ["t", "heat_ahead_2"]
    assert {row["heat_ahead_2"] for row in rows} <= {"low", "high"}
