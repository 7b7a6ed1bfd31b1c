"""Cells of text become numbers, places in an order, and codes: whole columns at once.

Cell by cell only where a cell is not what the others are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .columns import NO_TEXT, Column, date_column
from .dates import DAY_FIRST, MONTH_FIRST, Dates
from .numberformat import NumberFormat, look

MISSING_NUMBERS = frozenset(
    (
        *("", "na", "n/a", "#n/a", "#n/a n/a", "#na", "<na>", "nan", "-nan", "+nan", "null"),
        *("none", "?", "1.#qnan", "-1.#qnan", "1.#ind", "-1.#ind"),
    )
)
MISSING_TEXTS = frozenset(("", "NA", "N/A", "NaN", "nan", "null", "NULL"))
_SHOWN = 40


class Numbers:
    """Reads cells as numbers of one format.

    missing: further texts that stand for a missing value.
    """

    def __init__(self, form: NumberFormat, missing: Sequence[str] = ()) -> None:
        self.form = form
        self.missing = MISSING_NUMBERS | {text.strip().lower() for text in missing}

    def read(self, cells: Sequence[str]) -> tuple[NDArray[np.float64], list[int]]:
        """Values (n,), NaN where missing or wrong, and the places of cells that are wrong."""
        if self.form.decimal == ",":
            return self._one_by_one(cells)
        try:
            values = np.fromiter(map(float, cells), np.float64, len(cells))
        except ValueError:
            return self._one_by_one(cells)
        # float takes "1_000"; the search costs a tenth of the conversion.
        if "_" in "".join(cells) or np.isinf(values).any():
            return self._one_by_one(cells)
        return values, []

    def _one_by_one(self, cells: Sequence[str]) -> tuple[NDArray[np.float64], list[int]]:
        values = np.full(len(cells), math.nan)
        wrong = []
        for place, cell in enumerate(cells):
            value = self.one(cell)
            if value is None:
                wrong.append(place)
            else:
                values[place] = value
        return values, wrong

    def one(self, cell: str) -> float | None:
        """The finite number of a cell, NaN if it is missing, None if it is something else."""
        text = cell.strip()
        if text.lower() in self.missing:
            return math.nan
        return self.form.number(text)


def hint(cell: str) -> str:
    """What to do about a cell that should have been a number; a sentence or nothing."""
    text = cell.strip()
    if text.lower().lstrip("+-") in ("inf", "infinity"):
        return "Leave it empty if it is missing."
    found = look(text)
    return "" if found is None else found.remedy


def shown(cell: str) -> str:
    """A cell in a message, cut if long."""
    text = cell.strip()
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")


class Places:
    """Reads cells as something to sort by: whole numbers, numbers or dates, none of them missing.

    Whole numbers stay whole (nanoseconds since 1970 do not fit a float64). kind: "number" or "date"
    once the first cells were read.
    """

    def __init__(self, form: NumberFormat, dates: Dates) -> None:
        self.numbers, self.dates = Numbers(form), dates
        self.kind: str | None = None
        self._numbers: list[NDArray[np.int64] | NDArray[np.float64]] = []
        self._dates: list[int] = []

    def add(self, cells: Sequence[str]) -> int | None:
        """Takes cells; the place of the first one that does not fit, None if all do."""
        fault = None
        if self.kind != "date" and self.dates.given in (None, DAY_FIRST, MONTH_FIRST):
            values, fault = self._as_numbers(cells)
            if fault is None:
                self._numbers.append(values)
                self.kind = "number"
                return None
            if self.kind == "number":
                return fault
        found = self.dates.read(cells)
        if isinstance(found, int):
            # Told as a number if nothing says that it should be a date: no cell, and no format.
            if fault is not None and found == 0:
                return fault
            self.kind = "date"
            return found
        self.kind = "date"
        self._dates += found
        return None

    def _as_numbers(
        self, cells: Sequence[str]
    ) -> tuple[NDArray[np.int64] | NDArray[np.float64], int | None]:
        try:
            if "_" not in "".join(cells):
                return np.array(list(map(int, cells)), dtype=np.int64), None
        except (ValueError, OverflowError):
            pass
        values, wrong = self.numbers.read(cells)
        faults = {*wrong, *np.flatnonzero(np.isnan(values)).tolist()}
        return values, min(faults, default=None)

    def column(self) -> Column:
        """All that was taken. Raises OverflowError for dates that no column can hold."""
        if self.kind == "date":
            return date_column(self._dates)
        return Column("number", np.concatenate(self._numbers))


class Codes(dict[str, int]):
    """Text to codes, numbered as they come; -1 for missing ones. Looks up as a dict does."""

    def __init__(self, missing: Sequence[str] = ()) -> None:
        super().__init__()
        self.texts: dict[str, int] = {}
        self.none = MISSING_TEXTS | {text.strip() for text in missing}

    def __missing__(self, cell: str) -> int:
        text = cell.strip()
        code = NO_TEXT
        if text not in self.none:
            code = self.texts.setdefault(text, len(self.texts))
        self[cell] = code
        return code

    def encode(self, cells: Sequence[str]) -> NDArray[np.int32]:
        """Codes (n,) of cells."""
        return np.fromiter(map(self.__getitem__, cells), np.int32, len(cells))
