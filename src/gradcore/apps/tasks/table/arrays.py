"""Tables that are arrays already: .npy, .npz, and Parquet through pyarrow. Never pickles."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import ArgumentError
from .. import numpyfile
from ..piped import content
from . import cells
from .columns import NO_DATE, Column, Table
from .dates import Dates
from .numberformat import NumberFormat
from .wanted import Wanted


def names_of_array(path: Path, wanted: Wanted) -> tuple[list[str], list[str]]:
    """The names of the columns of an .npy or .npz file, and notes."""
    return list(_arrays(path, wanted)), []


def read_arrays(path: Path, wanted: Wanted) -> Table:
    """The wanted columns of an .npy file (structured or 2-D) or .npz file (an array per column).

    Raises ArgumentError for arrays that are no columns; OSError.
    """
    return _table(path, _arrays(path, wanted), wanted)


def names_of_parquet(path: Path, wanted: Wanted) -> tuple[list[str], list[str]]:
    """The names of the columns of a Parquet file, and notes."""
    return list(_parquet(path).schema_arrow.names), []


def read_parquet(path: Path, wanted: Wanted) -> Table:
    """The wanted columns of a Parquet file. Raises ArgumentError without pyarrow; OSError."""
    file = _parquet(path)
    found = [n for n in file.schema_arrow.names if wanted.names is None or n in wanted.names]

    try:
        table = file.read(columns=found)
        made = {name: _from_arrow(f"{path}: column {name!r}", table[name]) for name in found}
    except ArgumentError:
        raise
    except Exception as error:  # Arrow's own kinds, OSError, UnicodeDecodeError, KeyError
        raise ArgumentError(f"{path} cannot be read as Parquet: {_line(error)}.") from error
    return _table(path, made, wanted)


def _arrays(path: Path, wanted: Wanted) -> dict[str, NDArray[Any]]:
    """One 1-D array per column."""
    loaded = numpyfile.read_arrays(path)
    if isinstance(loaded, dict):
        return {name: _one_axis(path, name, array) for name, array in loaded.items()}
    if loaded.dtype.names:
        return {n: _one_axis(path, n, loaded[n]) for n in loaded.dtype.names}
    if loaded.ndim not in (1, 2):
        raise ArgumentError(
            f"{path} must hold a table, (rows, columns); its array has shape {loaded.shape}. Give "
            "one row per time step with a column that tells the sequences apart."
        )
    table = loaded.reshape(len(loaded), -1) if len(loaded) else loaded.reshape(0, 1)
    header = wanted.header or tuple(f"c{i}" for i in range(table.shape[1]))
    if len(header) != table.shape[1]:
        raise ArgumentError(
            f"--columns must name each of the {table.shape[1]} columns of {path}; it has "
            f"{len(header)} names."
        )
    return dict(zip(header, table.T, strict=True))


def _one_axis(path: Path, name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ArgumentError(
            f"{path}: {name!r} must be a column, an array of one axis; it has shape "
            f"{array.shape}. Save each column under a name of its own."
        )
    return array


def _table(path: Path, arrays: dict[str, NDArray[Any]], wanted: Wanted) -> Table:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        least, most = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
        raise ArgumentError(
            f"{path}: all columns must be of one length; {least!r} has {lengths[least]:,} rows and "
            f"{most!r} has {lengths[most]:,}."
        )
    if not lengths or not max(lengths.values()):
        raise ArgumentError(f"{path} is empty: expected one row per time step.")
    made = {
        name: _column(str(path), name, array, wanted)
        for name, array in arrays.items()
        if wanted.names is None or name in wanted.names
    }
    return Table(made, (str(path),), (0,), None)


def _column(path: str, name: str, array: NDArray[Any], wanted: Wanted) -> Column:
    kind = array.dtype.kind
    if kind not in "biufUSMO":
        raise ArgumentError(
            f"{path}: column {name!r} must hold numbers, texts or dates; its dtype is "
            f"{array.dtype}."
        )
    if name == wanted.order:
        return _order(path, name, array, wanted)
    if kind == "M":
        return _dates(array)
    if kind in "USO":
        if name in wanted.number:
            raise ArgumentError(
                f"{path}: column {name!r} must hold numbers; it holds texts ({array.dtype})."
            )
        return _texts(path, name, array, wanted)
    if name in wanted.text:
        return _texts(path, name, array.astype(str), wanted)
    values = array.astype(np.float64)
    if np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise ArgumentError(
            f"{path} row {row}: column {name!r} must hold finite numbers; got {values[row]}. "
            "Make it NaN if it is missing."
        )
    return Column("number", values)


def _dates(array: NDArray[Any]) -> Column:
    """Dates in microseconds where that loses nothing, else in nanoseconds."""
    if np.datetime_data(array.dtype)[0] in ("ns", "ps", "fs", "as"):
        values = array.astype("datetime64[ns]").view(np.int64)
        if (values[values != NO_DATE] % 1_000).any():
            return Column("date", values, unit="ns")
    return Column("date", array.astype("datetime64[us]").view(np.int64))


def _order(path: str, name: str, array: NDArray[Any], wanted: Wanted) -> Column:
    if array.dtype.kind in "USO":
        return _order_of_texts(path, name, _decoded(path, name, array), wanted)
    if array.dtype.kind == "M":
        made = _dates(array)
    elif array.dtype.kind in "biu":
        made = Column("number", array.astype(np.int64))
    else:
        made = Column("number", array.astype(np.float64))
    faults = made.missing() if made.kind == "date" else ~np.isfinite(made.values)
    if faults.any():
        row = int(np.flatnonzero(faults)[0])
        raise ArgumentError(
            f"{path} row {row}: the order in column {name!r} must be there in every row; it is "
            f"{array[row]}."
        )
    return made


def _order_of_texts(path: str, name: str, texts: list[str], wanted: Wanted) -> Column:
    dates = Dates(wanted.date_format)
    places = cells.Places(NumberFormat(wanted.decimal or ".", wanted.decimal is not None), dates)
    place = places.add(texts)
    if place is not None:
        raise ArgumentError(
            f"{path} row {place}: the order in column {name!r} must be a number or an ISO date "
            f"in every row; it is {cells.shown(texts[place])}."
        )
    fault = dates.ambiguous()
    if fault is not None:
        raise ArgumentError(f"{path}: the order in column {name!r} {fault}.")
    if dates.given is None and dates.way is not None:
        places = cells.Places(places.numbers.form, Dates(dates.way))
        places.add(texts)
    return places.column()


def _texts(path: str, name: str, array: NDArray[Any], wanted: Wanted) -> Column:
    codes = cells.Codes(wanted.missing_values)
    return Column("text", codes.encode(_decoded(path, name, array)), tuple(codes.texts))


def _decoded(path: str, name: str, array: NDArray[Any]) -> list[str]:
    if array.dtype.kind == "U" and _highest(array) > sys.maxunicode:
        raise ArgumentError(f"{path}: column {name!r} holds numbers that are no characters.")
    if array.dtype.kind != "S":
        return list(map(str, array.tolist()))
    try:
        return [cell.decode() for cell in array.tolist()]
    except UnicodeDecodeError as error:
        raise ArgumentError(
            f"{path}: column {name!r} holds bytes that are no UTF-8 text: {error}."
        ) from error


def _highest(array: NDArray[Any]) -> int:
    """The largest number that stands for a character in an array of texts."""
    if not array.dtype.itemsize:
        return 0
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return int(plain.view(np.uint32).max(initial=0))


def _parquet(path: Path) -> Any:
    if find_spec("pyarrow") is None:
        raise ArgumentError(
            f"{path} is a Parquet file, which needs pyarrow. Run: pip install 'gradcore[parquet]'"
        )
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(content(path))
    except Exception as error:  # as above
        raise ArgumentError(f"{path} cannot be read as Parquet: {_line(error)}.") from error


def _from_arrow(where: str, column: Any) -> NDArray[Any]:
    """A NumPy array of numbers, dates or str objects; nulls become NaN, NaT or ''."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        zone = getattr(kind, "tz", None)  # kept by Arrow as UTC beside the name of the zone
        unit = "ns" if getattr(kind, "unit", "") == "ns" else "us"
        column = column.cast(pa.timestamp(unit, tz=zone), safe=False)
        if zone is not None:
            column = column.cast(pa.timestamp(unit))
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        # Objects, not fixed-width strings, which take the longest text's room in every row.
        return np.array(["" if text is None else text for text in column.to_pylist()], dtype=object)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ArgumentError(f"{where} must hold numbers, texts or dates; it holds {kind}.")
    if column.null_count and not pa.types.is_timestamp(column.type):
        column = column.cast(pa.float64())
    return np.asarray(column.to_numpy())


def _line(error: BaseException) -> str:
    """An error of a library in one line, without its full stop."""
    lines: Sequence[str] = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
