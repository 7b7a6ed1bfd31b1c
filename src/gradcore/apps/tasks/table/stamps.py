"""The places in the order that predictions are for: those of the rows, or later ones."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....errors import ArgumentError
from . import sequences
from .columns import NO_DATE, TICKS, Column, Table, counted
from .schema import Schema
from .steps import Steps, ahead_of, parse_horizon, steps_of

__all__ = ["Stamps", "stamps"]

_MOST = np.iinfo(np.int64).max
_DIGITS = 12  # so many are kept of a number that is no whole one: 0.1 + 0.2 is 0.3


@dataclass(frozen=True, eq=False)
class Stamps:
    """What the order is at the time of each row's prediction.

    column: (rows of the table,) of the order's kind. known: (rows of the table,) where it is known.
    order: the name of that column.
    """

    column: Column
    known: NDArray[np.bool_]
    order: str

    def cells(self, rows: NDArray[np.int64]) -> list[str]:
        """Rows as text, "" where it is not known."""
        cells = self.column.cells(rows)
        if self.known[rows].all():
            return cells
        return [cell if known else "" for cell, known in zip(cells, self.known[rows], strict=True)]

    def notes(self, rows: NDArray[np.int64]) -> list[str]:
        """A note if the time of some of these rows' predictions is not known."""
        lacking = int((~self.known[rows]).sum())
        if not lacking:
            return []
        return [
            f"{self.order} is empty for {counted(lacking, 'prediction')}: the row that lies ahead "
            "is not in the files, and its place does not follow from the steps of the others"
        ]


def stamps(table: Table, schema: Schema) -> Stamps:
    """The stamps of all rows of a table with an order.

    A row that lies ahead has its own; where the files end before it, or lack it, the stamp follows
    from the steps of the order, and from those of the training if the files have too few rows.
    """
    assert schema.order is not None
    column, horizon = table.columns[schema.order], schema.target.horizon
    if not horizon:
        return Stamps(column, np.ones(len(column.values), dtype=np.bool_), schema.order)
    if horizon.timed:
        later = _months_later if horizon.months is not None else _later
        values, known = later(column, float(horizon.months or horizon.span or 0))
        return _stamps(column, values, known, schema.order)
    groups = sequences.group(table, schema.sequence, schema.order)
    steps = steps_of(table, groups, schema.order)
    values, known = _by_steps(column, steps, horizon.steps, schema.step)
    places = ahead_of(groups, steps, horizon)
    there = places >= 0
    rows, ahead = groups.rows[there], groups.rows[places[there]]
    values = values.copy()
    values[rows], known[rows] = column.values[ahead], True
    return _stamps(column, values, known, schema.order)


def _stamps(
    column: Column, values: NDArray[np.int64], known: NDArray[np.bool_], order: str
) -> Stamps:
    fill = NO_DATE if column.kind == "date" else 0
    return Stamps(
        Column(column.kind, np.where(known, values, fill), unit=column.unit), known, order
    )


def _by_steps(
    column: Column, steps: Steps, count: int, trained: str
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Each value `count` steps later; trained: the step of the training, as text."""
    months, span, size = steps.months, steps.span, steps.size
    if not steps.step and trained:
        months, span, size = _lengths(trained)
    length = span if column.kind == "date" else size
    if months is not None and not steps.irregular:
        return _months_later(column, float(months * count))
    if length is not None and not steps.irregular:
        return _later(column, count * length)
    return column.values, np.zeros(len(column.values), dtype=np.bool_)


def _lengths(step: str) -> tuple[int | None, float | None, float | None]:
    """The step of a training in months, in nanoseconds or as a number, two of them None."""
    with suppress(ValueError):
        return None, None, float(step)
    with suppress(ArgumentError):
        found = parse_horizon(step)
        return found.months, found.span, None
    return None, None, None


def _later(column: Column, length: float) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Each value plus a length: nanoseconds for dates, otherwise the order's own numbers."""
    values = column.values
    if column.kind == "date":
        length = round(length / (10**9 // TICKS[column.unit]))
    elif values.dtype != np.int64 or length != int(length):
        later = values + length
        exact = [float(f"{value:.{_DIGITS}g}") for value in later.tolist()]
        return np.array(exact), np.isfinite(later)
    known = (values != NO_DATE) & (values <= _MOST - int(length))
    return np.where(known, values, 0) + int(length), known


def _months_later(column: Column, months: float) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Each date so many calendar months later; the last days of months stay last days."""
    kind = f"datetime64[{column.unit}]"
    known = column.values != NO_DATE
    dates = np.where(known, column.values, 0).astype(np.int64).view(kind)
    day = np.timedelta64(1, "D")
    ends = bool(known.any()) and all(
        (date + day).astype("datetime64[M]") > date.astype("datetime64[M]")
        for date in np.unique(dates[known].astype("datetime64[D]"))
    )
    moved = dates + day if ends else dates
    first = moved.astype("datetime64[M]")
    target = first + np.timedelta64(int(months), "M")
    rest = moved - first.astype(kind)
    # A month that has no such day ends on its last one.
    longest = (target + 1).astype(kind) - target.astype(kind) - day + rest % day
    later = target.astype(kind) + np.minimum(rest, longest) - (day if ends else 0 * day)
    return later.astype(kind).view(np.int64), known
