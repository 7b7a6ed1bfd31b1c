"""Dates, the steps of an order, what lies ahead of a row, and what is held out."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import numpy as np
import pytest

import gradcore as gd
from gradcore.apps.tasks.table import dataset, job, read
from gradcore.apps.tasks.table.dates import Dates
from gradcore.apps.tasks.table.roles import Roles
from gradcore.apps.tasks.table.sequences import TEST, TRAIN, VALIDATION
from gradcore.apps.tasks.table.steps import parse_horizon
from gradcore.apps.tasks.table.wanted import Wanted

ROWS = 100
X = np.random.default_rng(0).normal(size=4_000).round(3)
BEGIN = datetime(2024, 1, 1)


def write(path, times, x=None, y=None):
    """A table of a time, noise, and a target that is 10 times the number of the row."""
    lines = ["time,x,y"]
    for i, time in enumerate(times):
        cell = X[i] if x is None else x(i)
        lines.append(f"{time},{cell},{10.0 * i if y is None else y(i)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def hours(count=ROWS, step=1.0):
    return [(BEGIN + timedelta(hours=i * step)).isoformat(sep=" ") for i in range(count)]


def load(path, wanted=None, *, roles=None, **options):
    names = ("features", "sequence", "order", "per", "ahead", "text")
    given = {"order": "time", **{n: options.pop(n) for n in names if n in options}}
    return dataset.load([path], roles or Roles("y", **given), wanted or Wanted(), **options)


def fault(path, *args, **options):
    with pytest.raises(gd.ArgumentError) as caught:
        load(path, *args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def horizons(data):
    """How many rows of the file lie between each row and its target."""
    known = ~np.isnan(data.y)
    return set((data.y[known] / 10.0 - data.groups.rows[known]).tolist())


# ---- Gaps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [3, "3", "3h", "180min", "10800 s"])
def test_rows_left_out_make_targets_missing(tmp_path, ahead):
    """The case of the issue: x is empty for rows 40 to 59 of an hourly table."""
    path = write(tmp_path / "a.csv", hours(), x=lambda i: "" if 40 <= i < 60 else X[i])
    data = load(path, ahead=ahead, missing="drop")
    assert horizons(data) == {3.0}
    without = data.groups.rows[np.isnan(data.y)].tolist()
    assert without == [37, 38, 39, 97, 98, 99]
    assert "20 rows with missing values left out" in data.notes
    assert any(
        note.startswith("3 rows without a target: the row 3 steps later is missing or was left")
        for note in data.notes
    )


@pytest.mark.parametrize("order", ["time", None])
def test_places_count_with_and_without_an_order(tmp_path, order):
    path = write(tmp_path / "a.csv", range(ROWS), x=lambda i: "" if i % 10 == 4 else X[i])
    data = load(path, order=order, features=("x",), ahead=2, missing="drop")
    assert horizons(data) == {2.0}
    lost = [i for i in range(98) if i % 10 == 2]
    assert data.groups.rows[np.isnan(data.y)].tolist() == [*lost, 98, 99]


@pytest.mark.parametrize("ahead", [1, 3, 20])
def test_rows_that_the_file_lacks_make_targets_missing(tmp_path, ahead):
    kept = [i for i in range(ROWS) if not 40 <= i < 60]
    times = hours()
    path = write(tmp_path / "a.csv", [times[i] for i in kept], y=lambda i: 10.0 * kept[i])
    data = load(path, ahead=ahead)
    known = ~np.isnan(data.y)
    numbers = np.array(kept)[data.groups.rows[known]]
    np.testing.assert_array_equal(data.y[known], 10.0 * (numbers + ahead))
    assert any(
        note.startswith("time has steps of 1 h and 1 gap (20 rows missing; the longest gap")
        and f"the first ends at {path}:42" in note
        for note in data.notes
    )


def test_a_target_that_is_missing_itself(tmp_path):
    path = write(tmp_path / "a.csv", hours(), y=lambda i: "" if i == 50 else 10.0 * i)
    data = load(path, ahead=3, features=("x",), missing="drop")
    assert horizons(data) == {3.0}
    assert np.isnan(data.y[data.groups.rows == 47]).all()


def test_gaps_are_told_without_a_horizon(tmp_path):
    times = [t for i, t in enumerate(hours()) if i not in (10, 20, 21)]
    notes = load(write(tmp_path / "a.csv", times)).notes
    assert any("time has steps of 1 h and 2 gaps (3 rows missing" in note for note in notes)
    assert not any("gap" in note for note in load(write(tmp_path / "b.csv", hours())).notes)


def test_no_row_has_a_target_so_far_ahead(tmp_path):
    path = write(tmp_path / "a.csv", hours(), x=lambda i: "" if i % 2 else X[i])
    message = fault(path, ahead=1, missing="drop")
    assert "no row has a y --ahead 1: the rows there are missing" in message
    assert horizons(load(path, ahead=2, missing="drop")) == {2.0}


# ---- Steps of other kinds -----------------------------------------------------------------------


def test_irregular_times_are_told_and_rows_counted(tmp_path):
    times = np.cumsum(np.random.default_rng(1).exponential(size=ROWS)).round(4)
    data = load(write(tmp_path / "a.csv", times), ahead=3)
    assert any(note.startswith("the steps of time are irregular, from ") for note in data.notes)
    assert any("--ahead 3 counts rows, since time has no common step" in n for n in data.notes)
    assert horizons(data) == {3.0}


def test_a_time_ahead_in_irregular_steps(tmp_path):
    apart = np.cumsum(np.random.default_rng(1).exponential(size=1_000))
    times = [(BEGIN + timedelta(hours=h)).isoformat() for h in apart]
    data = load(write(tmp_path / "a.csv", times), ahead="3h")
    known = np.flatnonzero(data.later >= 0)
    reached = apart[data.groups.rows[data.later[known]]] - apart[data.groups.rows[known]]
    assert np.abs(reached - 3.0).max() <= np.median(np.diff(apart)) / 2
    assert 0.3 < len(known) / 1_000 < 0.95
    assert any("takes the row that is nearest to it" in note for note in data.notes)


def test_steps_that_vary_a_little_are_steps(tmp_path):
    noise = np.random.default_rng(1).normal(scale=60.0, size=ROWS)
    times = [(BEGIN + timedelta(hours=i, seconds=float(noise[i]))).isoformat() for i in range(ROWS)]
    data = load(write(tmp_path / "a.csv", times), ahead="3h")
    assert horizons(data) == {3.0}
    assert any("that vary by up to" in note for note in data.notes)
    rounded = load(
        write(tmp_path / "b.csv", [f"{i * 0.0016384:.4f}" for i in range(ROWS)]), ahead=3
    )
    assert horizons(rounded) == {3.0}


@pytest.mark.parametrize("ahead", [3, "3mo"])
@pytest.mark.parametrize("end", [False, True])
def test_months_are_steps_though_their_days_differ(tmp_path, ahead, end):
    months = [date(2000 + i // 12, 1 + i % 12, 1) for i in range(ROWS + 1)]
    times = [months[i + 1] - timedelta(days=1) if end else months[i] for i in range(ROWS)]
    kept = [i for i in range(ROWS) if i != 50]
    path = write(tmp_path / "a.csv", [times[i] for i in kept], y=lambda i: 10.0 * kept[i])
    data = load(path, ahead=ahead)
    known = ~np.isnan(data.y)
    np.testing.assert_array_equal(data.y[known], 10.0 * (np.array(kept)[known] + 3))
    assert data.schema.step == "1 month"
    assert "--ahead 3d does not fit the steps of time, 1 month" in fault(path, ahead="3d")


def test_years_are_steps(tmp_path):
    data = load(write(tmp_path / "a.csv", [f"{1900 + i}-07-01" for i in range(ROWS)]), ahead="2y")
    assert data.schema.step == "1 year"
    assert horizons(data) == {2.0}


def test_sequences_have_positions_of_their_own(tmp_path):
    lines = ["id,t,x,y"]
    for k in range(3):
        for i in range(40):
            if (k, i) != (1, 20):
                lines.append(f"s{k},{100 * k + 5 * i},{X[40 * k + i]},{1_000 * k + i + 0.5}")
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines) + "\n")
    data = load(path, sequence="id", order="t", ahead=2)
    assert data.schema.step == "5"
    known = ~np.isnan(data.y)
    assert set((data.y - data.now)[known].tolist()) == {2.0}
    assert int((~known).sum()) == 2 * 3 + 1


@pytest.mark.parametrize(
    ("ahead", "step", "message"),
    [
        ("3h", 2.0, "--ahead 3h is 1.5 of the steps of time, which are 2 h; expected a whole"),
        ("90min", 1.0, "--ahead 90min is 1.5 of the steps of time, which are 1 h"),
        ("10min", 1.0, "--ahead 10min is 0.1667 of the steps of time, which are 1 h"),
        ("1mo", 1.0, "--ahead 1mo does not fit the steps of time, 1 h: give it in days, hours or"),
        ("3m", 1.0, "--ahead 3m may be minutes or months: write min or mo"),
        ("soon", 1.0, "--ahead must be a number of steps, such as 3, or a time such as 90s, 15min"),
        ("1.5", 1.0, "--ahead must be a number of steps"),
        ("0h", 1.0, "--ahead must be a number of steps"),
        ("-3", 1.0, "ahead must not be negative; got -3"),
        ("3 parsecs", 1.0, "--ahead must be a number of steps"),
    ],
)
def test_horizons_that_cannot_be(tmp_path, ahead, step, message):
    assert message in fault(write(tmp_path / "a.csv", hours(step=step)), ahead=ahead)


def test_a_time_ahead_needs_an_order_that_is_a_time(tmp_path):
    path = write(tmp_path / "a.csv", range(0, 200, 2))
    assert "the order 'time' holds numbers: give --ahead in its steps of 2." in fault(
        path, ahead="3h"
    )
    message = fault(path, order=None, features=("x",), ahead="3h")
    assert "name the column of the time with --order, or give --ahead in rows" in message


def test_horizons_are_read():
    assert parse_horizon("3").steps == parse_horizon(3).steps == 3
    assert parse_horizon("1.5h").span == parse_horizon("90 min").span == 5_400 * 10**9
    assert parse_horizon("2 weeks").span == parse_horizon("14d").span
    assert parse_horizon("1y").months == parse_horizon("12mo").months == 12
    assert not parse_horizon("0")


# ---- Rows that are not in order -----------------------------------------------------------------


def test_rows_out_of_order_are_sorted_and_told(tmp_path):
    times = hours()
    back = load(write(tmp_path / "a.csv", times[::-1]), ahead=1)
    assert "the rows run backwards in time: they were sorted by it" in back.notes
    assert horizons(back) == {-1.0}
    times[50], times[51] = times[51], times[50]
    path = write(tmp_path / "b.csv", times)
    notes = load(path).notes
    assert any(n.startswith("1 of 100 rows do not stand in the order of time") for n in notes)
    assert any(f"the first at {path}:52" in note for note in notes)


def test_two_rows_at_one_time_are_named(tmp_path):
    times = hours()
    times[50] = times[49]
    path = write(tmp_path / "a.csv", times)
    assert fault(path).startswith(f"{path}:51 and a.csv:52: sequence '{path}' has two rows with ")


# ---- Dates -------------------------------------------------------------------------------------


def moments(step, form):
    return [f"{BEGIN + i * step:{form}}" for i in range(ROWS)]


SIX = timedelta(hours=6)


@pytest.mark.parametrize(
    ("form", "way"),
    [
        ("%d.%m.%Y %H:%M", "day-first"),
        ("%d.%m.%y %H:%M", "day-first"),
        ("%d/%m/%Y %H:%M:%S", "day-first"),
        ("%d-%m-%Y %H.%M", "day-first"),
        ("%m/%d/%Y %I:%M %p", "month-first"),
        ("%m-%d-%Y %H:%M", "month-first"),
        ("%Y/%m/%d %H:%M", None),
        ("%Y.%m.%dT%H:%M:%S", None),
        ("%d-%b-%Y %H:%M:%S", None),
        ("%d %B %Y %H:%M", None),
        ("%Y-%m-%dT%H:%M:%SZ", None),
        ("%Y-%m-%d %H:%M:%S+02:00", None),
        ("%Y-%m-%d %H:%M:%S+0200", None),
        ("%Y-%m-%dT%H:%M:%S.000", None),
        ("%Y%m%dT%H%M%S", None),
    ],
)
def test_dates_that_can_be_told(tmp_path, form, way):
    """100 times from 1 to 25 January: some day is above 12."""
    data = load(write(tmp_path / "a.csv", moments(SIX, form)), ahead="6h")
    assert data.schema.step == "6 h"
    assert horizons(data) == {1.0}
    assert data.schema.files.date_format == way
    assert any("read with the" in note for note in data.notes) == (way is not None)


@pytest.mark.parametrize(
    ("name", "step"), [("{0}-{1:02}", "1 month"), ("{1}/{0}", "1 month"), ("{0}Q{2}", "3 months")]
)
def test_months_and_quarters_are_dates(tmp_path, name, step):
    every = 3 if "Q" in name else 1
    each = [divmod(i * every, 12) for i in range(ROWS)]
    path = write(tmp_path / "a.csv", [name.format(1950 + y, m + 1, m // 3 + 1) for y, m in each])
    data = load(path, ahead=f"{3 * every}mo")
    assert data.schema.step == step
    assert horizons(data) == {3.0}


@pytest.mark.parametrize("sign", ["/", "-"])
def test_a_day_that_may_be_a_month_is_never_guessed(tmp_path, sign):
    form = f"%d{sign}%m{sign}%Y"
    times = [f"{BEGIN + timedelta(days=i % 12, weeks=0):{form}} {i // 12:02}:00" for i in range(60)]
    path = write(tmp_path / "a.csv", times)
    message = fault(path)
    assert (
        f"holds '02{sign}01{sign}2024 00:00' ({path}:3), which is 2024-01-02 if the day" in message
    )
    assert "and 2024-02-01 if the month does" in message
    assert "Pass --date-format day-first or --date-format month-first" in message
    first = {}
    for way in ("day-first", "month-first", f"{form} %H:%M"):
        table = read.read([path], Wanted(order="time", date_format=way))
        first[way] = table.columns["time"].cell(1)
    assert first["day-first"] == first[f"{form} %H:%M"] == "2024-01-02T00:00:00"
    assert first["month-first"] == "2024-02-01T00:00:00"


def test_points_mean_day_first_and_that_is_told(tmp_path):
    path = write(tmp_path / "a.csv", moments(timedelta(hours=1), "%d.%m.%Y %H:%M"))
    data = load(path)
    assert data.schema.files.date_format == "day-first"
    assert any("read with the day first, as dates with points have it" in n for n in data.notes)
    assert data.schema.step == "1 h"


def test_a_proof_that_comes_late_counts_for_all_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("gradcore.apps.tasks.table.csvfile._CHUNK", 7)
    path = write(tmp_path / "a.csv", moments(timedelta(days=1), "%m/%d/%Y"))
    data = load(path, ahead=1)
    assert data.schema.step == "1 d"
    assert horizons(data) == {1.0}
    one = write(tmp_path / "b.csv", moments(timedelta(days=1), "%m/%d/%Y")[:12])
    both = read.read([one, path], Wanted(order="time"))
    assert both.columns["time"].cells(np.array([1, 13])) == ["2024-01-02"] * 2


def test_dates_that_contradict_each_other(tmp_path):
    times = moments(timedelta(days=1), "%m/%d/%Y")
    times[50] = "31/12/2024"
    message = fault(write(tmp_path / "a.csv", times))
    assert "holds '31/12/2024'" in message
    assert "where the day comes first, and '01/13/2024'" in message


@pytest.mark.parametrize(
    ("form", "given"),
    [
        ("%Y%m%d", "%Y%m%d"),
        ("%Y%m%d%H%M", "%Y%m%d%H%M"),
        ("%d.%m.%Y %Hh", "%d.%m.%Y %Hh"),
        ("%Y-%j", "%Y-%j"),
        ("%d.%m.%Y %H:%M:%S.%f", "%d.%m.%Y %H:%M:%S.%f"),
    ],
)
def test_a_format_of_dates_that_is_given(tmp_path, form, given):
    path = write(tmp_path / "a.csv", moments(timedelta(days=1), form))
    data = load(path, Wanted(date_format=given), ahead="1d")
    assert data.schema.step == "1 d"
    assert horizons(data) == {1.0}


def test_formats_of_dates_that_do_not_fit(tmp_path):
    path = write(tmp_path / "a.csv", hours())
    message = fault(path, Wanted(date_format="%d.%m.%Y"))
    assert message.startswith(f"{path}:2: the order in column 'time' must be a date in every row ")
    assert "(dates of the format '%d.%m.%Y'" in message
    assert "--date-format must be a format of strptime" in fault(path, Wanted(date_format="%Q"))


def test_numbers_that_look_like_dates_are_told(tmp_path):
    data = load(write(tmp_path / "a.csv", moments(timedelta(days=1), "%Y%m%d")))
    assert any("pass --date-format %Y%m%d if they are dates" in note for note in data.notes)
    assert not any("date" in n for n in load(write(tmp_path / "b.csv", range(ROWS))).notes)


@pytest.mark.parametrize("step", [100, 1, 1_000])
def test_stamps_that_lie_nanoseconds_apart(tmp_path, step):
    times = [f"2024-01-01T00:00:00.{i * step:09}" for i in range(ROWS)]
    data = load(write(tmp_path / "a.csv", times), ahead=f"{3 * step}ns")
    assert horizons(data) == {3.0}
    table = read.read([tmp_path / "a.csv"], Wanted(order="time"))
    assert table.columns["time"].unit == ("us" if step == 1_000 else "ns")
    assert table.columns["time"].cell(3).startswith("2024-01-01T00:00:00.00000")


def test_stamps_of_arrays_that_lie_nanoseconds_apart(tmp_path):
    path = tmp_path / "a.npz"
    times = np.datetime64("2024-01-01", "ns") + 100 * np.arange(ROWS)
    np.savez(path, time=times, x=X[:ROWS], y=10.0 * np.arange(ROWS))
    assert horizons(load(path, ahead="300ns")) == {3.0}


def test_old_dates_keep_their_place(tmp_path):
    times = [f"{1400 + i}-05-01" for i in range(ROWS)]
    assert load(write(tmp_path / "a.csv", times)).groups.rows.tolist() == list(range(ROWS))


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("31.12.2023 24:00", "2024-01-01T00:00"),
        ("2023-12-31 24:00:00", "2024-01-01T00:00"),
        ("Sun, 31 Dec 2023 12:30", "2023-12-31T12:30"),
        ("Dec 31, 2023", "2023-12-31"),
        ("12/31/2023 12:00 AM", "2023-12-31T00:00"),
        ("12/31/2023 12:05 p.m.", "2023-12-31T12:05"),
        ("2024-01-01T02:00+02:00", "2024-01-01T00:00"),
        ("2024-W01-1", "2024-01-01"),
        ("2024-W01", "2024-01-01"),
        ("20240131T120000Z", "2024-01-31T12:00"),
        ("20240131T1200+0100", "2024-01-31T11:00"),
        ("2024-05", "2024-05-01"),
        ("5/2024", "2024-05-01"),
        ("2024Q3", "2024-07-01"),
        ("2024-Q1", "2024-01-01"),
    ],
)
def test_single_dates(text, iso):
    expected = np.datetime64(iso, "ns").astype(np.int64)
    assert Dates().one(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2024-13-01",
        "30.02.2024",
        "31/31/2024",
        "1.2",
        "7",
        "13/2024",
        "2024",
        "2024-W60-1",
    ],
)
def test_texts_that_are_no_dates(text):
    assert Dates().one(text) is None


def test_dates_among_features_and_as_a_target(tmp_path):
    path = write(tmp_path / "a.csv", moments(SIX, "%d.%m.%Y %H:%M"))
    message = fault(path, order=None)
    assert message.startswith(f"{path}:2: column 'time' holds dates, which are no feature.")
    assert load(path, order=None, features=("x",)).schema.features[0].name == "x"
    few = write(tmp_path / "b.csv", [f"0{1 + i % 9}.01.2024" for i in range(ROWS)])
    assert "holds dates" in fault(few, order=None)  # nine of them are no categories
    assert load(few, order=None, text=("time",)).schema.features[0].categories[0] == "01.01.2024"
    roles = Roles("time", features=("x",))
    assert ":2: the target 'time' holds dates" in fault(path, roles=roles)


# ---- What is held out ---------------------------------------------------------------------------


def sequences(path, count, length):
    lines = ["id,t,x,y"]
    for k in range(count):
        lines += [f"s{k},{i},{X[k * length + i]},{k + i / 7}" for i in range(length)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("count", "ahead", "split"),
    [
        (3, 2, "time"),  # the case of the issue: one third to learn from
        (3, 0, "time"),
        (9, 0, "time"),
        (10, 0, "sequence"),
        (10, 2, "time"),
        (30, 1, "time"),
    ],
)
def test_few_sequences_or_a_target_ahead_are_split_by_time(tmp_path, count, ahead, split):
    path = sequences(tmp_path / "a.csv", count, 40)
    data = load(path, sequence="id", order="t", features=("x",), ahead=ahead)
    assert data.split == split
    learned = data.size(TRAIN)
    assert learned[0] > 0.5 * count * 40
    assert learned[1] == (count if split == "time" else 6)
    assert data.size(TEST)[1] == (count if split == "time" else 2)
    reason = any("--split sequence holds out whole ones" in note for note in data.notes)
    assert reason == (split == "time")
    told = job.described(data)[-1]
    for name, part in (("to learn from", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        rows, of = data.size(part)
        assert f"{name} {rows:,} rows of {of} sequences" in told


def test_a_split_that_is_asked_for(tmp_path):
    path = sequences(tmp_path / "a.csv", 3, 40)
    data = load(path, sequence="id", order="t", split="sequence", ahead=2)
    assert [data.size(part)[1] for part in (TRAIN, VALIDATION, TEST)] == [1, 1, 1]
    many = sequences(tmp_path / "b.csv", 12, 40)
    assert load(many, sequence="id", order="t", split="time").split == "time"


def test_sequences_too_short_to_be_split_by_time(tmp_path):
    path = sequences(tmp_path / "a.csv", 5, 12)
    data = load(path, sequence="id", order="t")
    assert data.split == "sequence"
    assert any("12 rows at most are too short to be split by time" in n for n in data.notes)


def test_targets_of_sequences_hold_out_whole_ones(tmp_path):
    lines = [
        "id,x,y",
        *(f"s{k},{X[20 * k + i]},{'ab'[k % 2]}" for k in range(6) for i in range(20)),
    ]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines) + "\n")
    data = load(path, sequence="id", order=None, per="sequence")
    assert data.split == "sequence"
    assert "to learn from 2 sequences (40 rows), validation 2 " in job.described(data)[-1]
