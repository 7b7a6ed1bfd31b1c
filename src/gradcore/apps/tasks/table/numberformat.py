"""How numbers are written: the decimal sign, separators of thousands, and what stands around them.

A plain number is written as in Python and JSON ("-1.5e3"). Whatever else looks like a number is
never taken for a text without being told: `look` says how it could be read.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

__all__ = ["Look", "NumberFormat", "Style", "look"]

# Between thousands: spaces (plain, unbreakable, thin, narrow), apostrophes, and the sign that is
# not the decimal sign. Every separator of a number must be the same one.
_SPACES = " \u00a0\u2009\u202f"
_MARKS = "'\u2019\u00b4`"
_SIGN = r"[+\-\u2212]?"
_EXPONENT = r"(?:[eE][+-]?\d+)?"
_CURRENCY = (
    r"(?:[$€£¥₹₽₩₺₴₪฿₫¢]|US\$|R\$|C\$|A\$|kr\.?|zł|Kč|Ft|Fr\.?|lei|"
    r"USD|EUR|GBP|JPY|CHF|CNY|RMB|INR|SEK|NOK|DKK|PLN|CZK|HUF|RUB|AUD|CAD|NZD|BRL|MXN|ZAR|TRY|KRW)"
)
_POWER = r"(?:[23²³]|\^-?\d)?"
_UNIT = rf"(?:[°″′\"]|°?[A-Za-zµμΩÅ℃℉]+{_POWER}(?:[/*·.][A-Za-zµμΩ]+{_POWER})*)"


def _grouped(mark: str) -> str:
    """Digits in groups of three, or of two and a last of three as in India; none begins with 0."""
    return rf"(?:[1-9]\d{{0,2}}(?:{mark}\d{{3}})+|[1-9]\d?(?:{mark}\d{{2}})+{mark}\d{{3}})"


def _number(decimal: str, other: str) -> re.Pattern[str]:
    """Numbers with this decimal sign, and with thousands apart or not."""
    point = re.escape(decimal)
    marks = "|".join(_grouped(re.escape(mark)) for mark in (other, *_SPACES, *_MARKS))
    return re.compile(
        rf"({_SIGN})(?:({marks})|(\d*))(?:{point}(\d*))?({_EXPONENT})", re.ASCII | re.IGNORECASE
    )


_PATTERNS = {".": _number(".", ","), ",": _number(",", ".")}
_NOT_DIGITS = re.compile(r"\D", re.ASCII)


@dataclass(frozen=True)
class NumberFormat:
    """The decimal sign, "." or ",", and whether thousands may be apart."""

    decimal: str = "."
    grouped: bool = False

    @property
    def plain(self) -> bool:
        """Whether Python's float reads numbers of this format."""
        return self.decimal == "." and not self.grouped

    def number(self, text: str) -> float | None:
        """The finite number that a stripped text holds, or None."""
        if self.plain:
            try:
                value = float(text)
            except ValueError:
                return None
            return value if math.isfinite(value) and "_" not in text else None
        found = _PATTERNS[self.decimal].fullmatch(text)
        if found is None or (found[2] and not self.grouped):
            return None
        digits = _NOT_DIGITS.sub("", found[2]) if found[2] else found[3]
        if not digits and not found[4]:
            return None
        sign = _hyphened(found[1])
        value = float(f"{sign}{digits or '0'}.{found[4] or '0'}{found[5]}")
        return value if math.isfinite(value) else None


POINT = NumberFormat(".", grouped=True)
COMMA = NumberFormat(",", grouped=True)


class Style(Enum):
    """How a text that is no plain number may be written as one."""

    COMMA = "a decimal comma"
    POINT = "separators between thousands"
    EITHER = "a comma that may be either"
    SPACED = "thousands apart"
    OTHER = "signs or letters around the digits"


@dataclass(frozen=True)
class Look:
    """What a text looks like.

    first, second: its readings, for a message. remedy: what to do about the cells; a sentence.
    """

    style: Style
    first: str
    second: str
    remedy: str
    unit: str = ""


@lru_cache(maxsize=65_536)
def look(text: str) -> Look | None:
    """How a stripped text could be read as a number that is not plain; None if it could not."""
    if not text or len(text) > 60 or not any(map(str.isdigit, text)):
        return None
    return _separated(text) or _decorated(text)


def _hyphened(text: str) -> str:
    return text.replace("\u2212", "-")


def _separated(text: str) -> Look | None:
    point, comma = POINT.number(text), COMMA.number(text)
    if point is None and comma is None:
        return None
    if point is not None and comma is not None:
        if point != comma:
            return Look(
                Style.EITHER,
                f"{_shown(point)} (commas between thousands)",
                f"{_shown(comma)} (a decimal comma)",
                "Pass --decimal . for the first, --decimal , for the second.",
            )
        return Look(
            Style.SPACED,
            f"{_shown(point)} (thousands apart)",
            "a text",
            "Pass --decimal . to read such numbers (--decimal , if decimals have a comma), or "
            "write them without thousands separators.",
        )
    if point is not None and "\u2212" in text and NumberFormat().number(_hyphened(text)) == point:
        return _other(point, "with a minus that is no hyphen", f"Write {_shown(point)}.")
    if point is not None:
        return Look(
            Style.POINT,
            f"{_shown(point)} (separators between thousands)",
            "a text",
            "Pass --decimal . to read such numbers, or write them without thousands separators.",
        )
    assert comma is not None
    what = "a decimal comma" if "," in text else "points between thousands"
    return Look(
        Style.COMMA,
        f"{_shown(comma)} ({what})",
        "a text",
        f"Write {_shown(comma)} if it is {what}.".replace("it is points", "it has points"),
    )


def _inner(text: str) -> float | None:
    """A number in any format of separators."""
    text = text.strip()
    for form in (NumberFormat(), POINT, COMMA):
        value = form.number(text)
        if value is not None:
            return value
    return None


_PERCENT = re.compile(r"(.+?)\s*([%‰])")
_MONEY = re.compile(rf"({_SIGN})\s*{_CURRENCY}\s*(.+)|(.+?)\s*(?:{_CURRENCY}|,-|\.-)")
_HEXADECIMAL = re.compile(r"[+-]?0[xX][0-9a-fA-F]+", re.ASCII)
_FORTRAN = re.compile(r"([+-]?\d*\.?\d*)[dD]([+-]?\d+)|([+-]?\d+\.\d*)([+-]\d{2,3})", re.ASCII)
_LOOSE_EXPONENT = re.compile(r"(.+?)\s*[x×·*]\s*10\s*(?:\^|\*\*)?\s*\(?([+\-\u2212]?\d+)\)?")
_BRACKETS = re.compile(r"\((.+)\)")
_BEHIND = re.compile(r"([^+-].*)([-\u2212])")
_WITH_UNIT = re.compile(
    rf"({_SIGN}[\d.,'\u2019 \u00a0\u202f]*\d(?:[eE][+-]?\d+)?)\s*\[?({_UNIT})\]?"
)
_BOUND = re.compile(r"[<>≤≥~≈±]=?\s*(.+)")
_FLAGGED = re.compile(r"(.+?)\s*[*†‡!?]+")
_CLOCK = re.compile(r"([+-]?\d{1,3}):([0-5]\d)(?::([0-5]\d)([.,]\d+)?)?(?:\s*[AaPp]\.?[Mm]\.?)?")
_DOTTED_CLOCK = re.compile(r"([01]\d|2[0-3])\.([0-5]\d)\.([0-5]\d)")
_UNDERSCORES = re.compile(r"[+-]?\d+(?:_\d+)+(?:\.\d*)?", re.ASCII)
_MONTH_OF_YEAR = re.compile(r"(?:0?[1-9]|1[0-2])/[12]\d{3}")
_FRACTION = re.compile(r"[+-]?(?:\d+ )?\d+\s*[/⁄]\s*\d+")


def _decorated(text: str) -> Look | None:
    """Percent, currency, units, and other ways to write numbers."""
    for reading in (_percent, _money, _computer, _signed, _clock, _fraction, _unit, _qualified):
        found = reading(text)
        if found is not None:
            return found
    return None


def _other(value: float | str, what: str, remedy: str, unit: str = "") -> Look:
    number = _shown(value) if isinstance(value, float) else value
    return Look(Style.OTHER, f"{number} ({what})", "a text", remedy, unit)


def _percent(text: str) -> Look | None:
    found = _PERCENT.fullmatch(text)
    value = _inner(found[1]) if found else None
    if found is None or value is None:
        return None
    return _other(value, f"with a {found[2]} sign", "Leave out the percent sign.", found[2])


def _money(text: str) -> Look | None:
    found = _MONEY.fullmatch(text)
    value = None
    if found is not None:
        value = _inner(found[1] + found[2]) if found[2] is not None else _inner(found[3])
    if value is None:
        return None
    return _other(value, "with a currency", "Leave out the currency.")


def _computer(text: str) -> Look | None:
    """Hexadecimal numbers, exponents as in Fortran or written out, underscores."""
    if _UNDERSCORES.fullmatch(text):
        plain = text.replace("_", "")
        return _other(plain, "underscores between digits", f"Write {plain}, without underscores.")
    if _HEXADECIMAL.fullmatch(text):
        whole = int(text, 16)
        return _other(str(whole), "hexadecimal", f"Write {whole} if it is hexadecimal.")
    found = _FORTRAN.fullmatch(text)
    if found is not None:
        mantissa, power = (found[1], found[2]) if found[2] else (found[3], found[4])
        value = _inner(f"{mantissa}e{power}")
        if value is not None:
            plain = f"{mantissa}E{power}"
            return _other(value, "an exponent as in Fortran", f"Write {plain}.")
    found = _LOOSE_EXPONENT.fullmatch(text)
    if found is not None:
        power = _hyphened(found[2])
        mantissa = _inner(found[1])
        value = None if mantissa is None else _inner(f"{mantissa!r}e{power}")
        if value is not None:
            return _other(value, "a power of ten written out", f"Write {found[1].strip()}e{power}.")
    return None


def _signed(text: str) -> Look | None:
    """Minus signs that stand behind or are brackets."""
    found = _BRACKETS.fullmatch(text)
    value = _inner(found[1]) if found else None
    if value is not None and value >= 0:
        return _other(-value, "brackets for a minus", f"Write {_shown(-value)}.")
    found = _BEHIND.fullmatch(text)
    value = _inner(found[1]) if found else None
    if value is not None:
        return _other(-value, "a minus behind the number", f"Write {_shown(-value)}.")
    return None


def _clock(text: str) -> Look | None:
    found = _CLOCK.fullmatch(text) or _DOTTED_CLOCK.fullmatch(text)
    if found is None:
        return None
    seconds = 3600.0 * int(found[1]) + 60.0 * int(found[2]) + float(found[3] or 0)
    return _other(
        f"{seconds:g} s",
        "a time of day or a duration",
        "Write it as a number, such as seconds, or join it to the date for --order.",
    )


def _fraction(text: str) -> Look | None:
    if not _FRACTION.fullmatch(text) or _MONTH_OF_YEAR.fullmatch(text):
        return None
    return _other(text, "a fraction", "Write it with decimals.")


def _unit(text: str) -> Look | None:
    found = _WITH_UNIT.fullmatch(text)
    value = _inner(found[1]) if found else None
    if found is None or value is None:
        return None
    return _other(value, f"with the unit {found[2]}", "Leave out the unit.", found[2])


def _qualified(text: str) -> Look | None:
    """Limits of detection ("<0.5") and marks behind a number ("12*")."""
    found = _BOUND.fullmatch(text) or _FLAGGED.fullmatch(text)
    value = _inner(found[1]) if found else None
    if value is None:
        return None
    return _other(value, "with a mark", "Leave out the mark, or make the cell empty.")


def _shown(value: float) -> str:
    return f"{value:.15g}"
