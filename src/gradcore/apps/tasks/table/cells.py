"""Cells of text become numbers, dates and codes: columns at once, slowly only to find a fault.

Numbers are written as in Python and JSON ("-1.5e3"). Decimal commas, thousands separators and
underscores are refused: what they mean depends on who wrote them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime, timezone

import numpy as np
from numpy.typing import NDArray

from .columns import NO_TEXT

MISSING_NUMBERS = frozenset(("", "na", "n/a", "#n/a", "nan", "null", "none", "?"))
MISSING_TEXTS = frozenset(("", "NA", "N/A", "NaN", "nan", "null", "NULL"))
_SHOWN = 40
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}([,' ]\d{3})+(\.\d*)?")
_GROUPED = re.compile(r"[+-]?[\d_]+(\.[\d_]*)?")
_PERCENT = re.compile(r"[+-]?\d+([.,]\d+)?\s*%")


def numbers(cells: Sequence[str]) -> tuple[NDArray[np.float64], list[int]]:
    """Values (n,), NaN where missing or wrong, and the places of cells that are wrong."""
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return _numbers_one_by_one(cells)
    # float takes "1_000"; the search costs a tenth of the conversion.
    if "_" in "".join(cells) or np.isinf(values).any():
        return _numbers_one_by_one(cells)
    return values, []


def _numbers_one_by_one(cells: Sequence[str]) -> tuple[NDArray[np.float64], list[int]]:
    values = np.full(len(cells), math.nan)
    wrong = []
    for place, cell in enumerate(cells):
        value = number(cell)
        if value is None:
            wrong.append(place)
        else:
            values[place] = value
    return values, wrong


def number(cell: str) -> float | None:
    """The finite number that a cell holds, NaN if it is missing, None if it is something else."""
    text = cell.strip()
    if text.lower() in MISSING_NUMBERS:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def hint(cell: str) -> str:
    """What to do about a cell that should have been a number; a sentence or nothing."""
    text = cell.strip()
    if _THOUSANDS.fullmatch(text) and not _DECIMAL_COMMA.fullmatch(text):
        return "Write it without thousands separators."
    if _DECIMAL_COMMA.fullmatch(text):
        return f"Write {text.replace(',', '.')} if it is a decimal comma."
    if "_" in text and _GROUPED.fullmatch(text):
        return f"Write {text.replace('_', '')}, without underscores."
    if _PERCENT.fullmatch(text):
        return "Leave out the percent sign."
    if text.lower().lstrip("+-") in ("inf", "infinity"):
        return "Leave it empty if it is missing."
    return ""


def shown(cell: str) -> str:
    """A cell in a message, cut if long."""
    text = cell.strip()
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")


def order(cells: Sequence[str]) -> tuple[str, NDArray[np.int64] | NDArray[np.float64], int | None]:
    """Cells as something to sort by: ("number" or "date", values (n,), place of the first fault).

    Whole numbers stay whole (nanoseconds since 1970 do not fit a float64); dates are ISO 8601,
    those without a time zone count as UTC, in microseconds since 1970.
    """
    try:
        if "_" not in "".join(cells):
            return "number", np.array(list(map(int, cells)), dtype=np.int64), None
    except (ValueError, OverflowError):
        pass
    values, wrong = numbers(cells)
    faults = {*wrong, *np.flatnonzero(np.isnan(values)).tolist()}
    if not faults:
        return "number", values, None
    dates = np.zeros(len(cells), dtype=np.int64)
    for place, cell in enumerate(cells):
        moment = _microseconds(cell)
        if moment is None:
            # Told as a number if most are numbers, as a date if the first is one.
            return ("date", dates, place) if place else ("number", values, min(faults))
        dates[place] = moment
    return "date", dates, None


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def _microseconds(cell: str) -> int | None:
    text = cell.strip()
    if text.endswith(("Z", "z")):  # Python 3.10 knows no other zone than +00:00
        text = f"{text[:-1]}+00:00"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


class Codes(dict[str, int]):
    """Text to codes, numbered as they come; -1 for missing ones. Looks up as a dict does."""

    def __init__(self, missing: frozenset[str] = MISSING_TEXTS) -> None:
        super().__init__()
        self.texts: dict[str, int] = {}
        self.none = missing

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
