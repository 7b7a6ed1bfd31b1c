"""X as people have it: lists of arrays, arrays, strings and frames become a list of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.packages import needed
from ..errors import ArgumentError, DTypeError, ShapeError

__all__ = ["Sequences", "read", "split_rows"]

FORMS = (
    "a list with one array per sequence, of shape (T,) or (T, features); an array (N, T) or "
    "(N, T, features) of N sequences; a list of strings, or of lists of strings; or a frame"
)


@dataclass(frozen=True)
class Sequences:
    """N sequences: items of shape (T_i, features), or lists of strings. rows: the row of a long
    frame that each step came from, (T_i,) per sequence; None for other forms. plain: the items were
    given without an axis of features.
    """

    items: list[Any]
    rows: list[NDArray[np.int64]] | None = None
    plain: bool = False

    def part(self, places: NDArray[np.int64]) -> Sequences:
        """Some of the sequences; what belongs to rows of a frame is left behind."""
        return Sequences([self.items[i] for i in places], None, self.plain)

    @property
    def text(self) -> bool:
        """Whether steps are strings."""
        return isinstance(self.items[0], list)

    @property
    def features(self) -> int:
        """The features of a step; a string counts as one."""
        return 1 if self.text else int(self.items[0].shape[1])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The steps of each sequence, (N,)."""
        return np.array([len(item) for item in self.items], np.int64)


def read(X: Any, column: str | None) -> Sequences:
    """The sequences of X. column: the column of a long frame that names the sequence of a row.

    Raises ArgumentError, ShapeError or DTypeError, each with the number of the sequence.
    """
    if type(X).__module__.startswith("scipy.sparse"):
        raise DTypeError("Sparse input is not supported: pass X.toarray().")
    rows = None
    if _is_frame(X):
        X, rows = _of_frame(X, column)
    elif column is not None:
        raise ArgumentError(
            f"sequence_column={column!r} needs a frame; got {type(X).__name__}. Leave it out, or "
            "pass a frame of pandas, polars or pyarrow."
        )
    items = _of_array(X) if hasattr(X, "__array__") else _listed(X)
    if not items:
        raise ArgumentError("Found array with 0 sample(s): X must have at least one sequence.")
    if any(_is_text(item) for item in items):
        return _texts(items)
    arrays = [_numbers(i, item) for i, item in enumerate(items)]
    width = arrays[0].shape[1]
    for i, array in enumerate(arrays):
        if array.shape[1] != width:
            raise ShapeError(
                f"all sequences must have the same number of features: sequence 0 has {width}, "
                f"sequence {i} has {array.shape[1]}."
            )
    return Sequences(arrays, rows, plain=np.ndim(items[0]) == 1)


def split_rows(values: Any, rows: list[NDArray[np.int64]] | None) -> Any:
    """A column of a long frame as one array per sequence; other values as they are."""
    if rows is None:
        return values
    flat = np.asarray(values)
    if flat.ndim == 0 or len(flat) != sum(len(part) for part in rows):
        return values
    return [flat[part] for part in rows]


def _listed(X: Any) -> list[Any]:
    if isinstance(X, (str, bytes, dict)) or not isinstance(X, Sequence):
        raise DTypeError(f"X must be {FORMS}; got {type(X).__name__}.")
    if X and all(np.ndim(item) == 0 and not isinstance(item, str) for item in X):
        raise ShapeError(_one_axis(len(X)))
    return list(X)


def _of_array(X: Any) -> list[Any]:
    array = np.asarray(X)
    if array.dtype.kind == "O" and array.ndim == 2:  # a nested frame or table: cells are series
        if any(np.ndim(cell) for cell in array.flat):
            return [_side_by_side(i, row) for i, row in enumerate(array)]
    elif array.dtype.kind in "OU" and array.ndim == 1:
        return _listed(array.tolist())
    if array.ndim == 1:
        raise ShapeError(_one_axis(len(array)))
    if array.ndim not in (2, 3):
        raise ShapeError(
            f"Expected 2D or 3D array, got {array.ndim}D array instead: X must be {FORMS}."
        )
    if 0 in array.shape[1:]:
        raise ShapeError(
            f"0 feature(s) (shape={array.shape}) while a minimum of 1 is required: sequences must "
            "have at least one step and one feature."
        )
    return list(array)


def _one_axis(count: int) -> str:
    return (
        f"Expected 2D array, got 1D array instead, of {count} numbers. Reshape your data: X must "
        f"be {FORMS}. One sequence of one feature is [X]."
    )


def _side_by_side(index: int, row: NDArray[Any]) -> NDArray[Any]:
    """The columns of a row of a nested frame, each a series, as (T, columns)."""
    lengths = {np.size(cell) for cell in row}
    if len(lengths) != 1:
        raise ShapeError(
            f"the columns of sequence {index} must have the same number of steps; they have "
            f"{sorted(lengths)}."
        )
    return np.stack([np.asarray(cell).ravel() for cell in row], axis=1)


def _numbers(index: int, item: Any) -> NDArray[np.float64]:
    array = np.asarray(item)
    if array.dtype.kind == "c":
        raise ArgumentError(f"Complex data not supported: sequence {index} has complex numbers.")
    if array.dtype.kind not in "biuf":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            if array.dtype.kind == "O" and array.ndim == 1 and any(map(np.ndim, array)):
                raise ShapeError(
                    f"the steps of sequence {index} must have the same number of features."
                ) from None
            raise DTypeError(f"sequence {index} must hold numbers: {error}.") from None
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or 0 in array.shape:
        raise ShapeError(
            f"sequence {index} must have shape (T,) or (T, features) with at least one step; got "
            f"{np.shape(item)}."
        )
    bad = ~np.isfinite(array)
    if bad.any():
        step, feature = np.argwhere(bad)[0]
        raise ArgumentError(
            f"X must be finite; sequence {index} has {array[step, feature]} at step {step}, "
            f"feature {feature}. NaN and inf do not count as missing values here: fill them, or "
            "leave the steps out."
        )
    return array.astype(np.float64)


def _is_text(item: Any) -> bool:
    """Whether a sequence is a string, whose characters are its steps, or one string per step."""
    if isinstance(item, str):
        return True
    return np.ndim(item) == 1 and len(item) > 0 and all(isinstance(step, str) for step in item)


def _texts(items: list[Any]) -> Sequences:
    for i, item in enumerate(items):
        if not _is_text(item) or len(item) == 0:
            raise DTypeError(
                "if the steps of one sequence are strings or characters, those of all must be; "
                f"sequence {i} is {item!r}."
            )
    return Sequences([[str(step) for step in item] for item in items])


# ---- Frames --------------------------------------------------------------------------------------


def _is_frame(X: Any) -> bool:
    package = type(X).__module__.partition(".")[0]
    return package in ("pandas", "polars", "pyarrow", "modin", "cudf") and hasattr(X, "columns")


def _of_frame(X: Any, column: str | None) -> tuple[Any, list[NDArray[np.int64]] | None]:
    """A long frame cut at its sequences, with their rows; a frame of one row per sequence as it
    is.
    """
    frame = needed("narwhals", "a frame", "narwhals").from_native(X, eager_only=True)
    names = list(frame.columns)
    if column is None:
        # Cells that are series themselves: one row per sequence. Else the columns are steps.
        table = np.empty((len(frame), len(names)), object)
        for place, values in enumerate(frame.iter_columns()):
            for row, cell in enumerate(values.to_list()):
                table[row, place] = cell
        nested = any(np.ndim(cell) for cell in table.flat)
        return (table if nested else frame.to_numpy()), None
    if column not in names:
        raise ArgumentError(
            f"sequence_column={column!r} is not a column of X; it has {', '.join(map(str, names))}."
        )
    others = [name for name in names if name != column]
    if not others:
        raise ShapeError(f"X must have a column of values besides {column!r}.")
    keys = frame.get_column(column).to_list()
    places: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        places.setdefault(key, []).append(row)
    values = np.stack([frame.get_column(name).to_numpy() for name in others], axis=1)
    rows = [np.array(place, np.int64) for place in places.values()]
    return [values[part] for part in rows], rows
