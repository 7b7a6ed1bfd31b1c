"""Reads .npy and .npz files of any origin without pickles, with clear errors for damaged files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ArgumentError
from .packed import check_unpacked
from .piped import content, kept

__all__ = ["read_arrays"]


@kept()
def read_arrays(path: Path) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """The array of a .npy file, or the arrays of a .npz file by name.

    Raises ArgumentError for files that NumPy cannot load, and OSError if it cannot be opened.
    """
    with content(path).open("rb") as file:
        if not file.read(6).startswith((b"\x93NUMPY", b"PK")):  # np.load would try to unpickle it
            raise ArgumentError(f"{path} is not a NumPy file: it is neither .npy nor .npz.")
        file.seek(0)
        try:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            _check_members(path, loaded.zip)
            return {name: _member(loaded, name) for name in loaded.files}
        except ArgumentError:
            raise
        # For a damaged header NumPy may raise TokenError, SyntaxError, OverflowError, MemoryError
        # and others, also an OSError that has nothing to do with the disk.
        except Exception as error:
            if "allow_pickle" in str(error):
                raise ArgumentError(
                    f"{path} holds Python objects, which gradcore does not load because they could "
                    "run code. Save numbers and strings, for example with arr.astype(float) or "
                    "astype('U')."
                ) from error
            raise ArgumentError(
                f"{path} is not a NumPy file, or is damaged: {_line(error)}."
            ) from error


def _check_members(path: Path, file: zipfile.ZipFile) -> None:
    entries = file.infolist()
    packed = sum(entry.compress_size for entry in entries)
    check_unpacked(path, sum(entry.file_size for entry in entries), packed)


def _member(loaded: Any, name: str) -> NDArray[Any]:
    array = loaded[name]
    if not isinstance(array, np.ndarray):  # NumPy returns bytes for members that are not arrays
        raise ValueError(f"{name} is not an array")
    return array


def _line(error: BaseException) -> str:
    """The first line of an error's message, without a full stop."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
