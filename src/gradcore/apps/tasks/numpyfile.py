"""Arrays from .npy and .npz files of any origin: never pickles; what is damaged is told."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ArgumentError
from .packed import check_unpacked

__all__ = ["read_arrays"]


def read_arrays(path: Path) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """The array of a .npy file, the arrays of a .npz file by name.

    Raises ArgumentError for whatever NumPy cannot load; OSError if the file cannot be opened.
    """
    with path.open("rb") as file:
        if not file.read(6).startswith((b"\x93NUMPY", b"PK")):  # np.load takes it for a pickle
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
        # Of a damaged header NumPy raises whatever its parts do: TokenError, SyntaxError,
        # OverflowError, MemoryError, and OSError that has nothing to do with the disk.
        except Exception as error:
            if "allow_pickle" in str(error):
                raise ArgumentError(
                    f"{path} holds Python objects, which gradcore does not load: they could run "
                    "code. Save numbers and strings, for instance with arr.astype(float) or "
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
    if not isinstance(array, np.ndarray):  # NumPy hands out the bytes of what is no array
        raise ValueError(f"{name} is no array")
    return array


def _line(error: BaseException) -> str:
    """An error in one line, without its full stop."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
