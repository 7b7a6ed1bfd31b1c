"""Dates as cells of a table have them, to whole nanoseconds since 1970.

ISO 8601 (year first) is read as it stands. In dates such as 3.2.2024 and 3/2/2024 the day or the
month may come first: points mean day first, as they do wherever they are used; with other signs
some cell must have a number above 12 in one place, or --date-format decides. What was found out is
told in a note.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone

from ....errors import ArgumentError

__all__ = ["DAY_FIRST", "MONTH_FIRST", "Dates", "looks_like_a_date", "nanoseconds"]

DAY_FIRST, MONTH_FIRST = "day-first", "month-first"
_SECOND = 10**9
_DAY = 86_400 * _SECOND
_EPOCH = date(1970, 1, 1).toordinal()
_MONTHS = {
    name: place
    for place, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1
    )
}
_CLOCK = (
    r"(?:(?:\s*[T,]\s*|\s+)(?P<hour>\d{1,2})[:.](?P<minute>\d\d)"
    r"(?:[:.](?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9})\d*)?)?"
    r"\s*(?P<half>[AaPp]\.?[Mm]\.?)?\s*(?P<zone>Z|z|UTC|GMT|[+-]\d\d:?(?:\d\d)?)?)?"
)
_YEAR_FIRST = re.compile(
    rf"(?P<y>\d{{4}})(?P<sign>[-/.])(?P<a>\d{{1,2}})(?P=sign)(?P<b>\d{{1,2}}){_CLOCK}"
)
_YEAR_LAST = re.compile(
    rf"(?P<a>\d{{1,2}})(?P<sign>[-/.])(?P<b>\d{{1,2}})(?P=sign)(?P<y>\d{{4}}|\d\d){_CLOCK}"
)
_NAMED = re.compile(
    rf"(?:[A-Za-z]{{3,9}}\.?,? )?(?:(?P<a>\d{{1,2}})[- .]{{1,2}}(?P<month>[A-Za-z]{{3,9}})|"
    rf"(?P<month2>[A-Za-z]{{3,9}})\.? (?P<a2>\d{{1,2}}),?)[- .,]{{1,2}}(?P<y>\d{{4}}){_CLOCK}"
)
_COMPACT = re.compile(
    r"(?P<y>\d{4})(?P<a>\d\d)(?P<b>\d\d)T(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)?"
    r"(?:[.,](?P<fraction>\d{1,9})\d*)?(?P<half>)(?P<zone>Z|[+-]\d\d:?(?:\d\d)?)?"
)
_WEEK = re.compile(r"(\d{4})-?W(\d\d)(?:-?([1-7]))?")
# Months and quarters, which stand for their first day: 2024-05, 05/2024, 2024Q2.
_MONTH = re.compile(
    r"(?P<y>[12]\d{3})[-/.](?P<m>\d{1,2})|(?P<m2>\d{1,2})[-/.](?P<y2>[12]\d{3})|"
    r"(?P<y3>[12]\d{3})[- ]?[Qq](?P<q>[1-4])"
)
_DIGIT = re.compile(r"\d")
_FINE = re.compile(r"([.,]\d{6})(\d{1,3})(?!\d)")


@dataclass
class Dates:
    """Reads the dates of one column and notes how they are written.

    given: None to find out, or a format of strptime, "day-first" or "month-first". day, month: the
    first cell that can only be read with the day, or the month, first. open: the first cell that
    can be read in both ways. points: whether dates with points occurred. where: FILE:LINE of these
    cells, as far as `found_in` was told.
    """

    given: str | None = None
    day: str | None = None
    month: str | None = None
    open: str | None = None
    points: bool = False
    where: dict[str, str] = field(default_factory=dict)

    def found_in(self, path: object, cells: Sequence[str], lines: Sequence[int]) -> None:
        """Notes the lines of the cells that tell, or do not tell, the day from the month."""
        for text in (self.day, self.month, self.open):
            if text is not None and text not in self.where:
                place = next((i for i, cell in enumerate(cells) if cell.strip() == text), None)
                if place is not None:
                    self.where[text] = f"{path}:{lines[place]}"

    def read(self, cells: Sequence[str]) -> list[int] | int:
        """Nanoseconds since 1970 of cells, or the place of the first cell that is no date.

        Where the day may come first or second and none was given, each cell is read in the way
        that is possible for it, day first if both are: see `way` and `ambiguous` afterwards.
        """
        found = []
        for place, cell in enumerate(cells):
            value = self.one(cell.strip())
            if value is None:
                return place
            found.append(value)
        return found

    def one(self, text: str) -> int | None:
        """Nanoseconds since 1970 of a stripped text, None if it is no date."""
        if self.given is not None and self.given not in (DAY_FIRST, MONTH_FIRST):
            return _by_format(text, self.given)
        match = _YEAR_FIRST.fullmatch(text)
        if match is not None:
            return _moment(int(match["y"]), int(match["a"]), int(match["b"]), match)
        match = _YEAR_LAST.fullmatch(text)
        if match is not None:
            return self._year_last(text, match)
        match = _NAMED.fullmatch(text)
        if match is not None:
            month = _MONTHS.get((match["month"] or match["month2"]).lower()[:3])
            if month is None:
                return None
            return _moment(int(match["y"]), month, int(match["a"] or match["a2"]), match)
        match = _MONTH.fullmatch(text)
        if match is not None:
            month = 3 * int(match["q"]) - 2 if match["q"] else int(match["m"] or match["m2"])
            year = int(match["y"] or match["y2"] or match["y3"])
            return _days(year, month, 1)
        return _other_iso(text)

    def _year_last(self, text: str, match: re.Match[str]) -> int | None:
        first, second = int(match["a"]), int(match["b"])
        self.points |= match["sign"] == "."
        if first > 12:
            self.day = self.day or text
        elif second > 12:
            self.month = self.month or text
        elif first != second:
            self.open = self.open or text
        day_first = self.given == DAY_FIRST or (self.given is None and second <= 12)
        day, month = (first, second) if day_first else (second, first)
        return _moment(_year(match["y"]), month, day, match)

    @property
    def way(self) -> str | None:
        """What the column turned out to have: a format to give the next time, None for ISO."""
        if self.given is not None:
            return self.given
        if self.day is not None or (self.points and self.month is None):
            return DAY_FIRST
        return MONTH_FIRST if self.month is not None else None

    def _cell(self, text: str) -> str:
        """A cell in a message, with its line if that is known."""
        return f"{text!r} ({self.where[text]})" if text in self.where else repr(text)

    def ambiguous(self) -> str | None:
        """What is wrong with dates whose day cannot be told from their month; None if nothing."""
        if self.given is not None:
            return None
        if self.day is not None and self.month is not None:
            return (
                f"holds {self._cell(self.day)}, where the day comes first, and "
                f"{self._cell(self.month)}, where the month does. Write all dates alike, best as "
                "2024-05-31"
            )
        if self.open is None or self.points or self.day is not None or self.month is not None:
            return None
        ways = _told(self.open, DAY_FIRST), _told(self.open, MONTH_FIRST)
        return (
            f"holds {self._cell(self.open)}, which is {ways[0]} if the day comes first and "
            f"{ways[1]} if the month does, and no date there tells. Pass --date-format day-first "
            "or --date-format month-first"
        )


def _told(text: str, way: str) -> str:
    value = Dates(way).one(text)
    assert value is not None
    return date.fromordinal(value // _DAY + _EPOCH).isoformat()


def _year(text: str) -> int:
    year = int(text)
    if len(text) == 4:
        return year
    return year + (2000 if year < 69 else 1900)  # as strptime has it


def _days(year: int, month: int, day: int) -> int | None:
    """The beginning of a day in nanoseconds since 1970; None if there is no such day."""
    try:
        return (date(year, month, day).toordinal() - _EPOCH) * _DAY
    except ValueError:
        return None


def _moment(year: int, month: int, day: int, match: re.Match[str]) -> int | None:
    begin = _days(year, month, day)
    if begin is None or match["hour"] is None:
        return begin
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"] or 0)
    if match["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if match["half"][0] in "Pp" else 0)
    late = hour == 24 and minute == second == 0  # the end of the day, as ISO 8601 allows
    if (hour > 23 and not late) or minute > 59 or second > 59:
        return None
    fraction = int((match["fraction"] or "0").ljust(9, "0"))
    seconds = hour * 3600 + minute * 60 + second - _zone(match["zone"])
    return begin + seconds * _SECOND + fraction


def _zone(text: str | None) -> int:
    """Seconds that a zone is ahead of UTC; those without a zone count as UTC."""
    if text is None or text[0] not in "+-":
        return 0
    digits = text[1:].replace(":", "").ljust(4, "0")
    seconds = int(digits[:2]) * 3600 + int(digits[2:4]) * 60
    return -seconds if text[0] == "-" else seconds


def _other_iso(text: str) -> int | None:
    """Dates without signs but with a time (20240131T1200), and days of weeks (2024-W05-1)."""
    match = _COMPACT.fullmatch(text)
    if match is not None:
        return _moment(int(match["y"]), int(match["a"]), int(match["b"]), match)
    match = _WEEK.fullmatch(text)
    if match is None:
        return None
    try:
        day = date.fromisocalendar(int(match[1]), int(match[2]), int(match[3] or 1))
    except ValueError:
        return None
    return (day.toordinal() - _EPOCH) * _DAY


def _by_format(text: str, form: str) -> int | None:
    """A date in a format of strptime, whose %f may have nine digits here and not only six."""
    below = 0
    if "%f" in form:
        fine = _FINE.search(text)
        if fine is not None:
            below = int(fine[2].ljust(3, "0"))
            text = text[: fine.start(2)] + text[fine.end(2) :]
    try:
        return nanoseconds(datetime.strptime(text, form)) + below
    except ValueError as error:
        if "bad directive" in str(error) or "stray %" in str(error):
            raise ArgumentError(
                "--date-format must be a format of strptime, such as '%d.%m.%Y %H:%M', or "
                f"day-first or month-first; got {form!r}: {error}."
            ) from None
        return None


def nanoseconds(moment: datetime) -> int:
    """Nanoseconds since 1970 in UTC; without a zone it counts as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    since = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return since // timedelta(microseconds=1) * 1_000


def looks_like_a_date(text: str) -> bool:
    """Whether a stripped text can be read as a date in some way."""
    if len(text) > 40 or _DIGIT.search(text) is None:
        return False
    return any(Dates(way).one(text) is not None for way in (DAY_FIRST, MONTH_FIRST))
