"""What the cells of columns look like, and what is decided from it: numbers or text, decimal sign.

A column is a column of numbers if half of its cells or more are numbers in any format. Of these
formats only plain numbers and decimal commas are read unasked; a column in another one is refused
with its readings, so that no number becomes a category because of the way it is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ....errors import ArgumentError
from . import cells
from .numberformat import COMMA, Look, NumberFormat, Style, look

__all__ = ["Survey", "decimal_comma", "markers", "refused", "two_readings"]

_UNITS = 3  # different ones in a column of numbers with units
_MOST_MARKERS = 3
_FEW_NUMBERS = 10
_DISTINCT = 5_000


@dataclass
class Survey:
    """The cells of one column of one file.

    present: cells that are not missing. points: those with a decimal point among them. wrong: those
    that the format does not read; styles and units: what these look like. first: the first cell of
    each style and its line, with None as the style for texts. commas, point_groups: with decimal
    commas, cells that have one, and the first that has points alone. first_line: of the first row.
    """

    path: Path
    name: str
    present: int = 0
    points: int = 0
    wrong: int = 0
    commas: int = 0
    styles: Counter[Style | None] = field(default_factory=Counter)
    units: Counter[str] = field(default_factory=Counter)
    first: dict[Style | None, tuple[int, str]] = field(default_factory=dict)
    first_fault: tuple[int, str] | None = None
    first_point: tuple[int, str] | None = None
    point_groups: tuple[int, str] | None = None
    texts: Counter[str] = field(default_factory=Counter)
    first_line: int = 0

    def add(
        self,
        chunk: Sequence[str],
        values: NDArray[np.float64],
        wrong: Sequence[int],
        lines: NDArray[np.int64],
        form: NumberFormat,
    ) -> None:
        """Counts a chunk of cells: their values, and the places of those that are wrong."""
        self.first_line = self.first_line or int(lines[0])
        self.present += len(chunk) - int(np.isnan(values).sum()) + len(wrong)
        if form.decimal == ",":
            self.add_commas(chunk, lines)
        elif "." in (joined := "".join(chunk)):
            self.points += joined.count(".")
            if self.first_point is None:
                place = next(i for i, cell in enumerate(chunk) if "." in cell)
                self.first_point = int(lines[place]), chunk[place]
        if wrong and self.first_fault is None:
            self.first_fault = int(lines[wrong[0]]), chunk[wrong[0]]
        self.wrong += len(wrong)
        for place in wrong:
            self._add_wrong(chunk[place].strip(), int(lines[place]))

    def add_commas(self, chunk: Sequence[str], lines: NDArray[np.int64]) -> None:
        """Counts cells with decimal commas, and finds the first that has points alone."""
        for place, cell in enumerate(chunk):
            if "," in cell:
                self.commas += 1
            elif "." in cell and self.point_groups is None and COMMA.number(cell.strip()):
                self.point_groups = int(lines[place]), cell

    def _add_wrong(self, text: str, line: int) -> None:
        found = look(text)
        style = None if found is None else found.style
        self.styles[style] += 1
        self.first.setdefault(style, (line, text))
        if found is not None and found.unit:
            self.units[found.unit] += 1
        if style is None and (text in self.texts or len(self.texts) < _DISTINCT):
            self.texts[text] += 1

    @property
    def numbers(self) -> int:
        """Cells that are numbers in some format; those with many different units are names."""
        units = sum(self.units.values())
        few = sum(count for _, count in self.units.most_common(_UNITS))
        named = units if few < 0.9 * units else 0
        return self.present - self.styles[None] - named

    @property
    def holds_numbers(self) -> bool:
        """Whether this is a column of numbers, in whatever format."""
        return 2 * self.numbers >= self.present


def decimal_comma(surveys: Collection[Survey]) -> Survey | None:
    """The first column with decimal commas if the files have them, None if they have points.

    A comma among ten times as many points is a fault in its cell, which is told where it is read.
    """
    found = [one for one in surveys if one.holds_numbers and one.styles[Style.COMMA]]
    commas = sum(one.styles[Style.COMMA] for one in found)
    points = sum(one.points for one in surveys if one.holds_numbers)
    return found[0] if found and 10 * commas >= points else None


def two_readings(survey: Survey, comma: Survey | None) -> ArgumentError | None:
    """The error for a column with points alone in files with decimal commas; None if it is none.

    comma: a column that has decimal commas.
    """
    if survey.point_groups is None or survey.commas or comma is None:
        return None
    line, cell = survey.point_groups
    text = cell.strip()
    other = comma.first[Style.COMMA]
    return ArgumentError(
        f"{survey.path}:{line}: column {survey.name!r} holds {text!r}, which is "
        f"{COMMA.number(text):.15g} (points between thousands) or {text} (a decimal point); column "
        f"{comma.name!r} has decimal commas ({other[1]!r}, {comma.path.name}:{other[0]}). Pass "
        "--decimal , if the whole table has decimal commas; otherwise write all numbers alike, or "
        f"pass --text {comma.name} if those are names."
    )


def refused(
    survey: Survey, form: NumberFormat, comma: Survey | None, *, strict: bool
) -> ArgumentError:
    """The error for a column of numbers with cells that its format does not read.

    comma: a column with decimal commas, if these were recognised. strict: whether the column must
    hold numbers, so that it cannot be read as text.
    """
    style, (line, cell) = _worst(survey)
    text = cell.strip()
    told = f"{survey.path}:{line}: column {survey.name!r} must hold finite numbers; got "
    told += f"{cells.shown(cell)}."
    names = "" if strict else f" Or pass --text {survey.name} if these are names."
    found = look(text)
    if form.decimal == "," and NumberFormat().number(text) is not None:
        return ArgumentError(f"{told} {_point_among_commas(text, comma)}")
    if found is None:
        return ArgumentError(f"{told} {_about_text(survey, text, line, strict)}")
    assert style is not None
    count = f" ({survey.styles[style]:,} of {survey.present:,} cells are so)"
    return ArgumentError(
        f"{told} It reads as {found.first} or as {found.second}{count}. "
        f"{_remedy(survey, found)}{names}"
    )


def markers(name: str, where: str, texts: Counter[str]) -> ArgumentError | None:
    """The error for a column of many numbers and a few texts that fill the rest, or None.

    Such texts stand for missing values more often than not. where: FILE:LINE of the first of them.
    """
    numbers = NumberFormat()
    others = [text for text in texts if numbers.number(text) is None and look(text) is None]
    count = len(texts) - len(others)
    if not 1 <= len(others) <= _MOST_MARKERS or count <= _FEW_NUMBERS:
        return None
    text = max(others, key=texts.__getitem__)
    rest = sum(n for other, n in texts.items() if other not in others)
    return ArgumentError(
        f"{where}: column {name!r} holds {rest:,} numbers ({count:,} different ones) and "
        f"{texts[text]:,} times {text!r}. Pass --missing-value {_quoted(text)} if it stands for a "
        f"missing value, or --text {name} to read all as categories."
    )


def _worst(survey: Survey) -> tuple[Style | None, tuple[int, str]]:
    """The style to tell: that of the first fault, or of an unusual format in most cells."""
    assert survey.first_fault is not None
    looks = {style: n for style, n in survey.styles.items() if style is not None}
    if looks:
        style = max(looks, key=looks.__getitem__)
        if 2 * looks[style] >= survey.present:
            return style, survey.first[style]
    found = look(survey.first_fault[1].strip())
    return (None if found is None else found.style), survey.first_fault


def _point_among_commas(text: str, comma: Survey | None) -> str:
    if comma is None:
        return (
            "With --decimal , (or a net that was trained so) points stand between thousands alone. "
            "Pass --decimal . if this file has decimal points."
        )
    line, cell = comma.first[Style.COMMA]
    return (
        f"It has a decimal point, and {cell!r} in column {comma.name!r} ({comma.path.name}:{line}) "
        f"has a decimal comma. Write all numbers alike (--decimal . or --decimal , tells where the "
        f"others are), or pass --text {comma.name} if those are names."
    )


def _remedy(survey: Survey, found: Look) -> str:
    if found.style is Style.COMMA and survey.first_point is not None:
        line, cell = survey.first_point
        return f"Others have points, such as {cells.shown(cell)} in line {line}. {found.remedy}"
    return found.remedy


def _about_text(survey: Survey, text: str, line: int, strict: bool) -> str:
    """What to do about a cell that looks like no number at all."""
    known = cells.hint(text)
    if known:
        return known
    times = survey.texts[text]
    if text == survey.name:
        return f"Line {line} repeats the names: leave it out, or pass --skip-rows {line}-{line}."
    names = "" if strict else f", or add --text {survey.name} if these are names"
    if times > 1:
        return (
            f"It occurs {times:,} times: pass --missing-value {_quoted(text)} if it stands for a "
            f"missing value{names}."
        )
    if survey.first_line == line and survey.present > 1:
        return (
            f"If line {line} holds no values, such as units, pass --skip-rows {line}-{line}; "
            f"otherwise correct or empty the cell{names}."
        )
    return f"Correct or empty the cell{names}."


def _quoted(text: str) -> str:
    return text if text.isalnum() else f"'{text}'"
