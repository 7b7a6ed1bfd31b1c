"""The steps of an order: how far rows lie apart, where there are gaps, what lies ahead of a row.

Positions count the order column's own steps, so that a row that is missing, or was left out, still
takes its place: the target three steps ahead is the one three hours later or it is missing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ....errors import ArgumentError
from .columns import TICKS, Column, Table, counted
from .sequences import Groups

__all__ = ["Horizon", "Steps", "ahead_of", "parse_horizon", "resolve_horizon", "steps_of"]

_DURATIONS = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "min": 60 * 10**9,
    "h": 3_600 * 10**9,
    "d": 86_400 * 10**9,
    "w": 7 * 86_400 * 10**9,
}
_MONTHS = {"mo": 1, "y": 12}
_NAMES = {
    **dict.fromkeys(("sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("mins", "minute", "minutes"), "min"),
    **dict.fromkeys(("hr", "hrs", "hour", "hours"), "h"),
    **dict.fromkeys(("day", "days"), "d"),
    **dict.fromkeys(("week", "weeks"), "w"),
    **dict.fromkeys(("month", "months", "mon"), "mo"),
    **dict.fromkeys(("year", "years", "yr", "a"), "y"),
    "µs": "us",
    "μs": "us",
}
_GIVEN = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-zµμ]*)")
# A step may be so much longer or shorter than the others and still be one, as a share of a step.
_TOLERANCE = 0.25
_REGULAR = 0.9  # the share of steps that must be whole numbers of one
_BREAK = 10**9  # steps between rows that lie on no common grid; no horizon is so long
_LEAST_MONTH = 27 * _DURATIONS["d"]


@dataclass(frozen=True)
class Horizon:
    """How far ahead a target lies.

    steps: so many steps of the order (rows without one). span: nanoseconds, and months: calendar
    months, None if it was given in steps. text: as it was given.
    """

    steps: int = 0
    span: int | None = None
    months: int | None = None
    text: str = ""

    @property
    def timed(self) -> bool:
        """Whether it was given as a time."""
        return self.span is not None or self.months is not None

    def told(self, unit: str, of: str = "") -> str:
        """The horizon as people read it: the time, or a number of units, each of such a length."""
        if self.timed:
            return self.text
        each = f" of {of}" if of else ""
        return f"{counted(self.steps, unit)}{each}"

    def __bool__(self) -> bool:
        return self.steps > 0 or self.timed


def parse_horizon(given: int | str) -> Horizon:
    """What --ahead says: 3 (steps), or a time such as 3h, 15min, 2d or 1mo.

    Raises ArgumentError for anything else.
    """
    text = str(given).strip()
    if text.startswith("-") and text[1:].isdecimal():
        raise ArgumentError(f"ahead must not be negative; got {text}.")
    found = _GIVEN.fullmatch(text)
    if found is None:
        raise _no_horizon(text)
    unit = found[2] if found[2] in _DURATIONS else _NAMES.get(found[2].lower(), found[2])
    if not unit:
        if "." in found[1]:
            raise _no_horizon(text)
        return Horizon(int(found[1]), text=text)
    if unit == "m":
        raise ArgumentError(f"--ahead {text} may be minutes or months: write min or mo.")
    value = float(found[1])
    if unit in _MONTHS and value == int(value) and value:
        return Horizon(months=int(value) * _MONTHS[unit], text=text)
    if unit.lower() in _DURATIONS and value:
        return Horizon(span=round(value * _DURATIONS[unit.lower()]), text=text)
    raise _no_horizon(text)


def _no_horizon(text: str) -> ArgumentError:
    return ArgumentError(
        "--ahead must be a number of steps, such as 3, or a time such as 90s, 15min, 3h, 2d, 1w, "
        f"1mo or 1y; got {text!r}."
    )


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps of a table's order.

    positions: (rows of the table,) of each row in its sequence, in steps. step: what one is, as
    text; "" for rows without an order. span, months: its length in nanoseconds or months, where the
    order is a time; size: its length where the order is a number. irregular: whether there is no
    common step; rows are then counted. vary: whether the steps are not quite alike. times: (rows of
    the table,) nanoseconds, None where the order is no time. notes: what people should know.
    """

    positions: NDArray[np.int64]
    step: str = ""
    span: float | None = None
    months: int | None = None
    size: float | None = None
    irregular: bool = False
    vary: bool = False
    times: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()


def steps_of(table: Table, groups: Groups, order: str | None) -> Steps:
    """The steps of all rows of groups, before any of them is left out."""
    places = np.arange(len(groups.rows)) - np.repeat(groups.starts[:-1], groups.lengths)
    rows = Steps(_by_row(groups, places))
    if order is None:
        return rows
    column = table.columns[order]
    values = column.values[groups.rows]
    inside = np.flatnonzero(np.diff(groups.of_rows) == 0)
    if not len(inside):
        return rows
    gaps = values[inside + 1] - values[inside]
    times = None
    if column.kind == "date":
        per_tick = 10**9 // TICKS[column.unit]
        in_range = np.abs(column.values) < np.iinfo(np.int64).max // per_tick
        times = column.values * per_tick if in_range.all() else None
        gaps = gaps.astype(np.float64) * per_tick
        monthly = _by_month(groups, column, inside, gaps)
        if monthly is not None:
            found = replace(monthly, times=times)
            return replace(found, notes=_about(table, groups, order, inside, found, None))
    gaps = gaps.astype(np.float64)
    step = _common_step(gaps)
    if step is None:
        shown = [_shown(float(f(gaps)), column) for f in (np.min, np.max, np.median)]
        note = (
            f"the steps of {order} are irregular, from {shown[0]} to {shown[1]} (median "
            f"{shown[2]}): there is no common step"
        )
        return replace(
            rows,
            step=shown[2],
            span=float(np.median(gaps)),
            irregular=True,
            times=times,
            notes=(note,),
        )
    ratio = gaps / step
    whole = np.rint(ratio)
    fits = (np.abs(ratio - whole) <= _TOLERANCE) & (whole >= 1)
    counts = np.where(fits, np.minimum(whole, _BREAK), _BREAK).astype(np.int64)
    found = Steps(
        _by_row(groups, _positions(groups, inside, counts)),
        _shown(step, column),
        step if column.kind == "date" else None,
        size=None if column.kind == "date" else step,
        vary=bool(np.abs(ratio - whole).max() > 0.01),
        times=times,
    )
    notes = (*_written_as_dates(order, column), *_about(table, groups, order, inside, found, ratio))
    return replace(found, notes=notes)


def _written_as_dates(order: str, column: Column) -> list[str]:
    """A note if whole numbers such as 20240131 or 202401311200 seem to be dates."""
    if column.kind != "number" or column.values.dtype != np.int64:
        return []
    digits = len(str(int(column.values[0])))
    form = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(digits)
    if form is None:
        return []
    days = column.values // 10 ** (digits - 8)
    month, day, year = days // 100 % 100, days % 100, days // 10_000
    plausible = (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31) & (year > 1800)
    if not (plausible & (year < 2200)).all():
        return []
    return [
        f"{order} holds numbers that look like dates, such as {column.values[0]}: they are counted "
        f"as numbers; pass --date-format {form} if they are dates"
    ]


def _by_row(groups: Groups, values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Values of the places of groups as values of the table's rows."""
    of_rows = np.zeros(int(groups.rows.max(initial=-1)) + 1, dtype=np.int64)
    of_rows[groups.rows] = values
    return of_rows


def _positions(
    groups: Groups, inside: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(n,) positions in each sequence from the steps between neighbours."""
    each = np.zeros(len(groups.rows), dtype=np.int64)
    each[inside + 1] = counts
    total = np.cumsum(each)
    begins: NDArray[np.int64] = total - np.repeat(total[groups.starts[:-1]], groups.lengths)
    return begins


def _common_step(gaps: NDArray[np.float64]) -> float | None:
    """The step that nearly all gaps are whole numbers of; None if there is none."""
    median = float(np.median(gaps))
    if not np.isfinite(median) or median <= 0.0:
        return None
    rounded, counts = np.unique(np.round(gaps / median, 3), return_counts=True)
    most = rounded[int(counts.argmax())]
    often = median
    if counts.max() >= 0.5 * len(gaps):
        often = float(np.median(gaps[np.round(gaps / median, 3) == most]))
    for step, tolerance in ((often, _TOLERANCE), (median, _TOLERANCE), (float(gaps.min()), 0.05)):
        if step <= 0.0:
            continue
        ratio = gaps / step
        whole = np.rint(ratio)
        if ((np.abs(ratio - whole) <= tolerance) & (whole >= 1)).mean() >= _REGULAR and (
            np.count_nonzero(whole == 1) >= 0.1 * len(gaps)
        ):
            return step
    return None


def _by_month(
    groups: Groups, column: Column, inside: NDArray[np.int64], gaps: NDArray[np.float64]
) -> Steps | None:
    """Steps of whole calendar months, whose days are 28 to 31; None if the dates have others."""
    if np.median(gaps) < _LEAST_MONTH:
        return None
    dates = column.values[groups.rows].view(f"datetime64[{column.unit}]")
    day = np.timedelta64(1, "D")
    for shift in (0 * day, day):  # the same day of each month, or the last one
        moved = dates + shift
        months = moved.astype("datetime64[M]")
        rest = moved - months.astype(moved.dtype)
        if len(np.unique(rest)) > 1:
            continue
        numbers = months.astype(np.int64)
        apart = numbers[inside + 1] - numbers[inside]
        values, counts = np.unique(apart, return_counts=True)
        step = int(values[int(counts.argmax())])
        if step < 1:
            return None
        steps = np.where(apart % step == 0, apart // step, _BREAK)
        name = {1: "1 month", 12: "1 year"}.get(step, f"{step} months")
        return Steps(_by_row(groups, _positions(groups, inside, steps)), name, months=step)
    return None


def _about(
    table: Table,
    groups: Groups,
    order: str,
    inside: NDArray[np.int64],
    steps: Steps,
    ratio: NDArray[np.float64] | None,
) -> tuple[str, ...]:
    """Notes about gaps, and about steps that are not quite alike."""
    notes = []
    positions = steps.positions[groups.rows]
    counts = positions[inside + 1] - positions[inside]
    wide = np.flatnonzero(counts > 1)
    if len(wide):
        longest = int(wide[counts[wide].argmax()])
        first = int(groups.rows[inside[wide[0]] + 1])
        lacking = int(np.minimum(counts[wide] - 1, _BREAK)[counts[wide] < _BREAK].sum())
        how = (
            "of no whole number of steps"
            if counts[longest] >= _BREAK
            else f"of {counts[longest]:,} steps"
        )
        notes.append(
            f"{order} has steps of {steps.step} and {counted(len(wide), 'gap')} "
            f"({counted(lacking, 'row')} missing; the longest gap is {how}; the first ends at "
            f"{table.where(first)}); the net reads the rows around a gap as neighbours"
        )
    if ratio is not None:
        single = ratio[counts == 1]
        if len(single) and np.abs(single - 1.0).max() > 0.01:
            notes.append(
                f"{order} has steps of {steps.step} that vary by up to "
                f"{np.abs(single - 1.0).max():.0%}: each counts as one step"
            )
    return tuple(notes)


def _shown(gap: float, column: Column) -> str:
    """A step as text: a time with its unit, or a number."""
    if column.kind != "date":
        return f"{gap:.6g}"
    units = [unit for unit in ("d", "h", "min", "s", "ms", "us") if gap >= _DURATIONS[unit]]
    exact = (u for u in units if gap % _DURATIONS[u] == 0 and gap / _DURATIONS[u] < 1_000)
    unit = next(exact, units[0] if units else "ns")
    return f"{gap / _DURATIONS[unit]:.4g} {unit}"


def resolve_horizon(
    horizon: Horizon, steps: Steps, order: str | None, order_is_time: bool
) -> Horizon:
    """The horizon in steps, if there are any; a time stays one only where steps are irregular.

    Raises ArgumentError for a time without an order that is one, and for parts of a step.
    """
    if not horizon.timed:
        return horizon
    if not order_is_time:
        what = (
            f"the order {order!r} holds numbers: give --ahead in its steps of {steps.step}"
            if order
            else "name the column of the time with --order, or give --ahead in rows"
        )
        raise ArgumentError(f"--ahead {horizon.text} needs an order that is a time; {what}.")
    if steps.months is not None:
        length: float = steps.months
        asked = horizon.months
    else:
        assert steps.span is not None
        length, asked = steps.span, horizon.span
    if asked is None:
        raise ArgumentError(
            f"--ahead {horizon.text} does not fit the steps of {order}, {steps.step}: give it in "
            + ("months, such as 3mo." if steps.months is not None else "days, hours or shorter.")
        )
    if steps.irregular:
        return replace(horizon, steps=max(1, round(asked / length)))
    count = asked / length
    # Steps that vary have a median that is not quite what they are meant to be.
    near = 0.05 * count if steps.vary else 1e-6 * count
    if round(count) < 1 or abs(count - round(count)) > near:
        raise ArgumentError(
            f"--ahead {horizon.text} is {count:.4g} of the steps of {order}, which are "
            f"{steps.step}; expected a whole number of them."
        )
    return replace(horizon, steps=round(count), span=None, months=None)


def ahead_of(groups: Groups, steps: Steps, horizon: Horizon) -> NDArray[np.int64]:
    """(n,) the place of groups.rows that lies ahead of each place, -1 where there is none.

    In the same sequence, exactly so many steps later; for a time in irregular steps the nearest row
    within half a median step.
    """
    if not horizon:
        return np.arange(len(groups.rows))
    if horizon.timed:
        assert steps.times is not None
        assert steps.span is not None
        assert horizon.span is not None
        return _nearest(groups, steps.times[groups.rows], horizon.span, round(steps.span / 2))
    return _nearest(groups, steps.positions[groups.rows], horizon.steps, 0)


def _nearest(
    groups: Groups, values: NDArray[np.int64], ahead: int, tolerance: int
) -> NDArray[np.int64]:
    """(n,) the place in the same sequence whose value is nearest to `ahead` more."""
    begins = np.repeat(groups.starts[:-1], groups.lengths)
    from_start = values - values[begins]
    result = np.full(len(values), -1, dtype=np.int64)
    for start, stop in zip(groups.starts[:-1], groups.starts[1:], strict=True):
        own = from_start[start:stop]
        if not len(own) or own[-1] < ahead - tolerance:
            continue
        right = np.minimum(np.searchsorted(own, own + ahead), len(own) - 1)
        left = np.maximum(right - 1, 0)
        nearer = np.abs(own[left] - own - ahead) < np.abs(own[right] - own - ahead)
        chosen = np.where(nearer, left, right)
        fits = (np.abs(own[chosen] - own - ahead) <= tolerance) & (chosen > np.arange(len(own)))
        result[start:stop] = np.where(fits, chosen + start, -1)
    return result
