"""Checks of state dicts, which are flat dicts from strings to NumPy arrays or JSON values.

Every method raises ArgumentError, DTypeError or ShapeError naming the owner and the key. Callers
read all values before they change anything, so that an error leaves them unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, DTypeError, ShapeError
from .checks import finite_float, integer

__all__ = ["StateDict", "StateReader"]

StateDict = dict[str, Any]


class StateReader:
    """The state dict of one object; its kind and its keys are checked at the start."""

    def __init__(self, owner: str, state: object, kind: str, keys: Iterable[str]) -> None:
        if not isinstance(state, Mapping):
            raise DTypeError(
                f"the state of {owner} must be a dict, as its state_dict() returns; got "
                f"{type(state).__name__}."
            )
        self._owner = owner
        self._state = state
        self.same("kind", kind)
        expected = {"kind", *keys}
        missing, foreign = sorted(expected - set(state)), sorted(map(str, set(state) - expected))
        if missing or foreign:
            raise ArgumentError(
                f"the state of {owner} must have the keys {', '.join(sorted(expected))}; "
                f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(foreign) or 'none'}."
            )

    def name(self, key: str) -> str:
        """The name of a value in messages."""
        return f"{key!r} in the state of {self._owner}"

    def __getitem__(self, key: str) -> Any:
        if key not in self._state:
            raise ArgumentError(
                f"the state of {self._owner} must have the key {key!r}; it has "
                f"{', '.join(sorted(map(str, self._state))) or 'none'}."
            )
        return self._state[key]

    def same(self, key: str, expected: object) -> None:
        """Checks a value that must equal the object's own, such as its options."""
        if self[key] != expected:
            raise ArgumentError(
                f"{self.name(key)} must be {expected!r}, that of this object; got {self[key]!r}. "
                "Make the object with the options of the one that was saved."
            )

    def integer(self, key: str, low: int = 0) -> int:
        """The value of key, which must be an integer of at least `low`."""
        number = integer(self.name(key), self[key])
        if number < low:
            raise ArgumentError(f"{self.name(key)} must be at least {low}; got {number}.")
        return number

    def number(self, key: str, low: float = -math.inf) -> float:
        """The value of key, which must be a finite number of at least `low`."""
        number = finite_float(self.name(key), self[key])
        if number < low:
            raise ArgumentError(f"{self.name(key)} must be at least {low:g}; got {number:g}.")
        return number

    def array(self, key: str, like: NDArray[Any]) -> NDArray[Any]:
        """The value of key, which must be an array of the shape and dtype of `like`."""
        value = self[key]
        if not isinstance(value, np.ndarray):
            raise DTypeError(f"{self.name(key)} must be a NumPy array; got {type(value).__name__}.")
        if value.shape != like.shape:
            raise ShapeError(f"{self.name(key)} must have shape {like.shape}; got {value.shape}.")
        if value.dtype != like.dtype:
            raise DTypeError(f"{self.name(key)} must have dtype {like.dtype}; got {value.dtype}.")
        return value
