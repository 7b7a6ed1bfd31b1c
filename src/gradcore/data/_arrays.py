"""Checks and casts of the arrays that sources are made from; the checks read no array's values."""

from __future__ import annotations

import typing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, DTypeError, ShapeError
from ._rows import is_rows, rows_of

__all__ = ["array_of", "cast", "is_array", "loaded", "table_of"]

# Integer types that value_and_grad takes as they are; others become int64 when a batch is made.
_TAKEN = (np.dtype(np.uint8), np.dtype(np.int32), np.dtype(np.int64))


def is_array(value: object) -> bool:
    """Whether value is one array (NumPy, PyTorch, a frame, ...) rather than a list of arrays."""
    known = isinstance(value, (np.ndarray, memoryview)) or hasattr(value, "__dlpack__")
    return known or is_rows(value)


def array_of(name: str, value: Any) -> NDArray[Any]:
    """value as an array of numbers; an array is not copied, and a memory map stays one.

    Of frames and arrays in files it gives Rows, which sources use as they do arrays.
    """
    if is_rows(value):
        return typing.cast("NDArray[Any]", rows_of(name, value))
    if isinstance(value, np.ma.MaskedArray):
        raise DTypeError(
            f"{name} must not be a masked array, because its mask would be lost. Fill it with "
            "numpy.ma.filled and pass weight=, with 0 where the mask was."
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


def loaded(name: str, value: Any) -> NDArray[Any]:
    """value as an array in memory, for what is small: a number per sequence."""
    return np.asarray(array_of(name, value))


def cast(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A contiguous array with floats as dtype and integers as a type that value_and_grad takes."""
    if array.dtype.kind == "f":
        return np.ascontiguousarray(array, dtype)
    if array.dtype in _TAKEN:
        return np.ascontiguousarray(array)
    return np.ascontiguousarray(array, np.int64)


def check_kind(name: str, first: NDArray[Any], array: NDArray[Any], where: str) -> None:
    """Raises DTypeError if one sequence holds integers and the first floats, or vice versa."""
    if (first.dtype.kind == "f") != (array.dtype.kind == "f"):
        raise DTypeError(
            f"{name} must be all floats or all integers; {where} is {array.dtype}, and the first "
            f"is {first.dtype}."
        )


def trailing(name: str, first: tuple[int, ...], got: tuple[int, ...], where: str) -> None:
    """Raises ShapeError if the axes after time differ from those of the first sequence."""
    if first != got:
        raise ShapeError(
            f"all sequences of {name} must have the same number of columns; after the time axis "
            f"{where} has shape {got}, and the first sequence has {first}."
        )


def not_empty(count: int, what: str) -> None:
    """Raises ArgumentError if count is 0."""
    if count < 1:
        raise ArgumentError(f"{what} must not be empty.")


def table_of(static: Any, count: int, what: str) -> NDArray[Any]:
    """static as floats (count, S), with a row for each sequence, or lane of a stream."""
    table = loaded("static", static)
    if table.dtype.kind not in "fiu":
        raise DTypeError(f"static must hold numbers; got {table.dtype}.")
    if table.ndim != 2 or len(table) != count or not table.shape[1]:
        hint = " Pass static[:, None] for one number each." if table.shape == (count,) else ""
        raise ShapeError(
            f"static must have one row per {what}, shape ({count}, S); got {table.shape}.{hint}"
        )
    wrong = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if wrong.size:
        raise ArgumentError(
            f"static must be finite; that of {what} {wrong[0]} is not: {table[wrong[0]]}."
        )
    return table.astype(np.float64) if table.dtype.kind != "f" else table
