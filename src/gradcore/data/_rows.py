"""Rows of frames and of arrays in files, read when they are needed: one interface for all kinds.

Frames (pandas, polars, pyarrow and others that narwhals knows) are converted a part at a time, and
polars' LazyFrames, HDF5, zarr and xarray are read a part at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._base.packages import needed
from ..errors import ArgumentError, DTypeError

__all__ = ["Rows", "is_rows", "rows_of"]

_FRAMES = ("cudf", "modin", "narwhals", "pandas", "polars", "pyarrow")
_ARRAYS = ("h5py", "xarray", "zarr")


class Rows(ABC):
    """What sources need of an array: its shape, its dtype, and ranges of rows."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @abstractmethod
    def _read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop)."""

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | tuple[slice, NDArray[np.int64]]) -> NDArray[Any]:
        """Rows of a slice without a step, or of them the columns that are numbered."""
        rows = index if isinstance(index, slice) else index[0]
        start, stop, _ = rows.indices(len(self))
        if isinstance(index, slice):
            return self._read(start, stop)
        return self._columns(start, stop, index[1])

    def _columns(self, start: int, stop: int, columns: NDArray[np.int64]) -> NDArray[Any]:
        return self._read(start, stop)[:, columns]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return self._read(0, len(self)).astype(self.dtype if dtype is None else dtype, copy=False)


def is_rows(value: object) -> bool:
    """Whether value is a frame or an array in a file, by its class alone."""
    package = type(value).__module__.partition(".")[0]
    return package in _ARRAYS or (package in _FRAMES and not hasattr(value, "__dlpack__"))


def rows_of(name: str, value: Any) -> Rows:
    """The rows of a frame or of an array in a file.

    Raises DTypeError for what is no table of numbers, ArgumentError for missing values that no
    number stands for, and ImportError if narwhals is needed and missing.
    """
    package = type(value).__module__.partition(".")[0]
    kind = type(value).__name__
    if package in _ARRAYS:
        if not hasattr(value, "dtype"):
            raise DTypeError(
                f"{name} must be one array; got a {package}.{kind}. Take an array out of it by its "
                "name."
            )
        return _ArrayRows(name, value)
    if package == "polars" and kind == "LazyFrame":
        return _LazyFrameRows(name, value)
    return _FrameRows(name, value)


class _ArrayRows(Rows):
    """A dataset of h5py, an array of zarr, or a DataArray of xarray."""

    def __init__(self, name: str, value: Any) -> None:
        self._value = value
        self.shape, self.dtype = tuple(value.shape), np.dtype(value.dtype)
        _check_numbers(name, self.dtype)

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        return np.asarray(self._value[start:stop])

    def _columns(self, start: int, stop: int, columns: NDArray[np.int64]) -> NDArray[Any]:
        # Only xarray takes numbers of columns in any order, and more than once.
        parts = [np.asarray(self._value[start:stop, int(column)]) for column in columns]
        return np.stack(parts, axis=1)


class _FrameRows(Rows):
    """A frame or a series in memory. Missing values of columns of floats are NaN."""

    def __init__(self, name: str, value: object) -> None:
        narwhals = needed("narwhals", "a frame", "narwhals")
        try:
            made = narwhals.from_native(value, eager_only=True, allow_series=True)
        except TypeError as error:
            raise DTypeError(
                f"{name} must be an array, or a frame or series in memory; got "
                f"{type(value).__module__}.{type(value).__name__}: {error}"
            ) from error
        series = isinstance(made, narwhals.Series)
        self._columns_of = [made] if series else [made[column] for column in made.columns]
        if not self._columns_of:
            raise DTypeError(f"{name} must have at least one column.")
        for column in self._columns_of:
            _check_column(name, column, narwhals)
        self.dtype = np.result_type(*(_kind(column) for column in self._columns_of))
        count = len(self._columns_of[0])
        self.shape = (count,) if series else (count, len(self._columns_of))

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        parts = [
            np.asarray(column[start:stop].to_numpy()).astype(self.dtype, copy=False)
            for column in self._columns_of
        ]
        return parts[0] if self.ndim == 1 else np.stack(parts, axis=1)


class _LazyFrameRows(Rows):
    """A LazyFrame of polars, such as scan_parquet gives: each range of rows is a query."""

    def __init__(self, name: str, value: Any) -> None:
        self._name, self._value = name, value
        first = _FrameRows(name, value.head(1).collect())
        polars = needed("polars", "a LazyFrame", "polars")
        count = int(value.select(polars.len()).collect().item())
        self.dtype, self.shape = first.dtype, (count, *first.shape[1:])

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        part = self._value.slice(start, stop - start).collect()
        return _FrameRows(self._name, part)[:].astype(self.dtype, copy=False)


def _check_numbers(name: str, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "fiub":
        raise DTypeError(
            f"{name} must hold numbers; it has dtype {dtype}. Text and categories must be numbered "
            "first, for example with numpy.unique(..., return_inverse=True)."
        )


def _check_column(name: str, column: Any, narwhals: Any) -> None:
    dtype, shown = column.dtype, f"{name} (column {column.name!r})"
    if not (dtype.is_numeric() or dtype == narwhals.Boolean):
        raise DTypeError(
            f"{shown} must hold numbers; it has dtype {dtype}. Text and categories must be "
            "numbered first, and times turned into numbers."
        )
    if dtype.is_decimal():
        raise DTypeError(f"{shown} holds decimals; convert them to floats first.")
    missing = 0 if dtype.is_float() else int(column.null_count())
    if missing:
        raise ArgumentError(
            f"{shown} has {missing} missing values among its {dtype} numbers. Fill them, or "
            "convert the column to floats, where they are NaN."
        )


def _kind(column: Any) -> np.dtype[Any]:
    """The dtype of a column's numbers; missing ones are NaN, so an empty part will not do."""
    return np.asarray(column[:1].to_numpy()).dtype
