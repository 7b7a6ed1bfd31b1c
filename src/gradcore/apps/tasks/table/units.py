"""Whether a text is a unit, as lines of units below the names of columns have them."""

from __future__ import annotations

import re

__all__ = ["is_unit"]

_PREFIX = r"(?:da|[yzafpnuµμmcdhkKMGTPEZY])?"
_BASE = (
    r"(?:m|g|s|A|K|mol|cd|Hz|N|Pa|J|W|C|V|F|Ohm|ohm|Ω|S|Wb|T|H|lm|lx|Bq|Gy|Sv|kat|L|l|eV|bar|t|VA|"
    r"var|Wh|Ah|sec|min|h|hr|hrs|hour|hours|d|day|days|wk|mo|yr|year|years|rad|sr|deg|degree|degrees|"
    r"degC|degF|deg_C|deg_F|Deg_C|Deg_F|DegC|DegF|Celsius|Fahrenheit|Kelvin|meters?|metres?|"
    r"meters/second|Volts?|volts?|Amps?|amps?|Watts?|in|inch|inches|ft|feet|yd|mi|mile|miles|nmi|"
    r"acres?|gal|lb|lbs|oz|psi|atm|mmHg|inHg|torr|Torr|cal|BTU|hp|rpm|RPM|bpm|kn|kt|kts|knots?|mph|"
    r"kph|kmh|ppm|ppb|ppt|ppmv|ppbv|NTU|FNU|PSU|psu|pH|dB|dBm|dBA|ha|cfs|gpm|EUR|USD|GBP|CHF|DU|"
    r"seconds?|minutes?|counts?|count|cts|samples?|steps?|vol|wt|RH|rh)"
)
_TERM = rf"(?:{_PREFIX}{_BASE}(?:\^?[-+]?\d|[²³⁻¹]+|\*\*-?\d)?)"
_COMPOUND = re.compile(rf"(?:\d+\s?)?{_TERM}(?:\s?[/·*.\s]\s?\(?{_TERM}\)?)*|1/{_TERM}|/{_TERM}")
_SIGNS = re.compile(r"[°º]\s?[CFKc]?|℃|℉|[%‰]|%\s?\w{1,4}|[$€£¥]|°\s?\w+|[′″]|[A-Za-z/]*/?[°%]")
_WORDS = frozenset(
    (
        *("-", "--", "[]", "()", "unitless", "none", "dimensionless", "n/a", "na", "rn", "ts"),
        *("smp", "avg", "min", "max", "tot", "std", "med", "wvc", "text", "string", "str", "int"),
        *("integer", "float", "double", "real", "number", "numeric", "bool", "boolean", "date"),
        *("time", "datetime", "timestamp", "utc", "gmt", "local", "cet", "cest", "est", "pst"),
        *("yyyy-mm-dd", "hh:mm", "hh:mm:ss", "yyyy-mm-dd hh:mm", "yyyy-mm-dd hh:mm:ss", "iso8601"),
        *("dd.mm.yyyy", "dd/mm/yyyy", "mm/dd/yyyy", "dd.mm.yyyy hh:mm", "units", "unit", "percent"),
    )
)
_BRACKETS = re.compile(r"\[(.*)\]|\((.*)\)")


def is_unit(text: str) -> bool:
    """Whether a stripped text is a unit, a kind of value, or either in brackets."""
    if len(text) > 30:
        return False
    bracketed = _BRACKETS.fullmatch(text)
    if bracketed is not None:
        return True
    if text.lower() in _WORDS:
        return True
    return _COMPOUND.fullmatch(text) is not None or _SIGNS.fullmatch(text) is not None
