"""Checks of single values: each returns the value in its plain Python type or raises an error."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Collection
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ArgumentError, DTypeError

FloatDType = np.dtype[np.float32] | np.dtype[np.float64]


# The same limit is size_limit in csrc/sequence/network.cpp.
LAYER_SIZE_LIMIT = 2**24


def store(instance: object, name: str, value: object) -> None:
    """Sets a field of a frozen dataclass in its __post_init__."""
    object.__setattr__(instance, name, value)


def integer(name: str, value: Any) -> int:
    """Checks that value is an integer of Python or NumPy; a bool is refused."""
    if isinstance(value, (bool, np.bool_)):
        raise DTypeError(f"{name} must be an integer; got {value!r}.")
    try:
        return operator.index(value)
    except TypeError:
        raise DTypeError(f"{name} must be an integer; got {value!r}.") from None


def positive_int(name: str, value: Any) -> int:
    """Checks that value is an integer of 1 or more."""
    number = integer(name, value)
    if number < 1:
        raise ArgumentError(f"{name} must be at least 1; got {number}.")
    return number


def layer_size(name: str, value: Any) -> int:
    """Checks that value is a size that the core accepts, 1 to 2**24."""
    number = positive_int(name, value)
    if number > LAYER_SIZE_LIMIT:
        raise ArgumentError(f"{name} must be at most 2**24; got {number}.")
    return number


def flag(name: str, value: Any) -> bool:
    """Checks that value is True or False; other truthy or falsy values are refused."""
    if not isinstance(value, (bool, np.bool_)):
        raise DTypeError(f"{name} must be True or False; got {value!r}.")
    return bool(value)


def choice(name: str, value: Any, allowed: Collection[str]) -> str:
    """Checks that value is one of the allowed names."""
    if not isinstance(value, str) or value not in allowed:
        names = ", ".join(repr(item) for item in allowed)
        raise ArgumentError(f"{name} must be one of {names}; got {value!r}.")
    return value


def finite_float(name: str, value: Any) -> float:
    """Checks that value is a number that is neither infinite nor NaN."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise DTypeError(f"{name} must be a number; got {value!r}.")
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 1024 bits
        number = math.inf
    if not math.isfinite(number):
        raise ArgumentError(f"{name} must be finite; got {number}.")
    return number


def float_in(
    name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False
) -> float:
    """Checks that value is a number in [low, high), or in (low, high) with open_low."""
    number = finite_float(name, value)
    if number < low or number >= high or (open_low and number == low):
        sign = ">" if open_low else ">="
        upper = "" if high == math.inf else f" and < {high:g}"
        raise ArgumentError(f"{name} must be {sign} {low:g}{upper}; got {number:g}.")
    return number


def path_like(name: str, value: Any) -> Path:
    """Checks that value is a path as text or os.PathLike, not empty and without zero bytes."""
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else value
    if not isinstance(text, str):
        raise DTypeError(f"{name} must be a path as text or pathlib.Path; got {value!r}.")
    if not text or "\0" in text:
        raise ArgumentError(
            f"{name} must be a path, not empty and without zero bytes; got {text!r}."
        )
    return Path(text)


def float_dtype(name: str, value: DTypeLike) -> np.dtype[Any]:
    """Checks that value names float32 or float64 in the machine's byte order."""
    try:
        dtype = np.dtype(value)
    except TypeError:
        raise DTypeError(f"{name} must be 'float32' or 'float64'; got {value!r}.") from None
    if value is None or dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise DTypeError(f"{name} must be 'float32' or 'float64'; got {value!r}.")
    return dtype
