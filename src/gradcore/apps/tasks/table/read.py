"""Files to a table: what kind a file is, and several files below each other."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from ....errors import ArgumentError
from . import arrays, csvfile
from .columns import Table, join, unknown_column
from .csvfile import Wanted

__all__ = ["Wanted", "names", "read"]

_SHEETS = (".xls", ".xlsx", ".xlsm", ".ods")
_READERS = {
    "csv": (csvfile.names, csvfile.read),
    "array": (arrays.names_of_array, arrays.read_arrays),
    "parquet": (arrays.names_of_parquet, arrays.read_parquet),
}


def names(
    paths: Sequence[str | os.PathLike[str]], wanted: Wanted | None = None
) -> tuple[list[str], list[str]]:
    """The names of the columns of the first file, and notes.

    Raises ArgumentError for a file that is no table or lacks a column that the first one has.
    """
    files, wanted = _files(paths), wanted or Wanted()
    found, notes = _READERS[_kind(files[0])][0](files[0], wanted)
    for file in files[1:]:
        others, more = _READERS[_kind(file)][0](file, wanted)
        notes += more
        for name in found:
            if name not in others:
                raise unknown_column(name, others, f"{files[0]}", f"{file}")
    return found, notes


def read(paths: Sequence[str | os.PathLike[str]], wanted: Wanted | None = None) -> Table:
    """The wanted columns of one or more files, all rows below each other.

    CSV (also gzipped), .npy, .npz and Parquet, told apart by their first bytes.
    Raises ArgumentError in one line that says where and what to do; OSError.
    """
    wanted = wanted or Wanted()
    tables = [_READERS[_kind(file)][1](file, wanted) for file in _files(paths)]
    for table in tables[1:]:
        for name in tables[0].columns:
            if name not in table.columns:
                files = tables[0].files[0], table.files[0]
                raise unknown_column(name, list(table.columns), *files)
    return join(tables)


def _files(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    if not paths:
        raise ArgumentError("expected a file; got none.")
    files = [Path(path) for path in paths]
    twice = next((file for file in files if files.count(file) > 1), None)
    if twice is not None:
        raise ArgumentError(f"{twice} is named twice. Name each file once.")
    return files


def _kind(path: Path) -> str:
    """What a file is, by its first bytes."""
    try:
        if path.is_dir():
            raise ArgumentError(f"{path} is a folder. Name its files, for instance {path}/*.csv.")
        with path.open("rb") as file:
            start = file.read(6)
    except OSError as error:
        what = "no such file" if error.errno == errno.ENOENT else error.strerror or error
        raise ArgumentError(f"cannot read {path}: {what}.") from error
    except ValueError as error:  # a NUL in the name
        raise ArgumentError(f"cannot read {str(path)!r}: {error}.") from error
    if path.suffix.lower() in _SHEETS:
        raise ArgumentError(f"{path} is a spreadsheet. Save the sheet as CSV and name that file.")
    if not start:
        raise ArgumentError(f"{path} is empty: expected a first line that names the columns.")
    if start[:6] == b"\x93NUMPY" or start[:4] == b"PK\x03\x04":
        return "array"
    return "parquet" if start[:4] == b"PAR1" else "csv"
