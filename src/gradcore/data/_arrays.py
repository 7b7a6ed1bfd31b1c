"""Checks and casts of the arrays that sources are made from; nothing large is read here."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, DTypeError, ShapeError

__all__ = ["array_of", "cast", "is_array"]

# Integers that value_and_grad takes as they are; the others are widened when a batch is made.
_TAKEN = (np.dtype(np.uint8), np.dtype(np.int32), np.dtype(np.int64))


def is_array(value: object) -> bool:
    """Whether value is one array rather than a list of them; torch tensors and buffers count."""
    return isinstance(value, (np.ndarray, memoryview)) or hasattr(value, "__dlpack__")


def array_of(name: str, value: Any) -> NDArray[Any]:
    """value as an array of numbers, without a copy where it is one (memory maps stay such)."""
    if isinstance(value, np.ma.MaskedArray):
        raise DTypeError(
            f"{name} is a masked array; its mask would be lost. Fill it and pass weights."
        )
    try:
        if isinstance(value, np.ndarray):
            array = value
        elif hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            array = np.from_dlpack(value)
        else:
            array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise DTypeError(f"{name} must be an array of numbers: {error}.") from error
    if array.dtype.kind not in "fiub":
        raise DTypeError(
            f"{name} must hold numbers; it has dtype {array.dtype}. Text and categories must be "
            "numbered first, for example with numpy.unique(..., return_inverse=True)."
        )
    return array


def cast(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Floats in dtype, integers in a type that value_and_grad takes; always contiguous."""
    if array.dtype.kind == "f":
        return np.ascontiguousarray(array, dtype)
    if array.dtype in _TAKEN:
        return np.ascontiguousarray(array)
    return np.ascontiguousarray(array, np.int64)


def check_kind(name: str, first: NDArray[Any], array: NDArray[Any], where: str) -> None:
    """Integers and floats must not be mixed between sequences."""
    if (first.dtype.kind == "f") != (array.dtype.kind == "f"):
        raise DTypeError(
            f"{name} must be all floats or all integers; {where} is {array.dtype}, and the first "
            f"is {first.dtype}."
        )


def trailing(name: str, first: tuple[int, ...], got: tuple[int, ...], where: str) -> None:
    """The axes behind time must be the same for all sequences."""
    if first != got:
        raise ShapeError(
            f"all sequences of {name} must have the same columns; {where} has {got} behind the "
            f"time axis, the first has {first}."
        )


def not_empty(count: int, what: str) -> None:
    """Refuses none."""
    if count < 1:
        raise ArgumentError(f"{what} must not be empty.")
