"""What a file is, by its content and not by its name; what is no table is named for what it is."""

from __future__ import annotations

import errno
import gzip
import zipfile
import zlib
from pathlib import Path

from ....errors import ArgumentError
from ..packed import check_gzip
from ..piped import content

__all__ = ["kind"]

_START = 2_048
_SHEETS = (".xls", ".xlsx", ".xlsm", ".ods")
_SHEET = "is a spreadsheet (.xlsx). Save the sheet as CSV and name that file."
_SAVE = "Save the table as CSV and name that file."
_UNPACK = "Unpack it and name the file inside."
# What files begin with that are no table, what they are, and what to do about it.
_BINARY = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a spreadsheet or document of old Office (.xls)", _SAVE),
    (b"%PDF", "a PDF document", _SAVE),
    (b"BZh", "packed with bzip2", _UNPACK),
    (b"\xfd7zXZ\x00", "packed with xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"SQLite format 3", "an SQLite database", "Export the table as CSV and name that file."),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (also MATLAB 7.3 and netCDF 4)", _SAVE),
    (b"CDF\x01", "a netCDF file", _SAVE),
    (b"CDF\x02", "a netCDF file", _SAVE),
    (b"MATLAB 5.0", "a MATLAB file", _SAVE),
    (b"ARROW1", "an Arrow (Feather) file", "Save the table as CSV or Parquet."),
    (b"FEA1", "a Feather file", "Save the table as CSV or Parquet."),
    (b"Obj\x01", "an Avro file", "Save the table as CSV or Parquet."),
    (b"ORC", "an ORC file", "Save the table as CSV or Parquet."),
    (b"\x80\x02", "a Python pickle", "Save the table as CSV, .npz or Parquet."),
    (b"\x80\x03", "a Python pickle", "Save the table as CSV, .npz or Parquet."),
    (b"\x80\x04", "a Python pickle", "Save the table as CSV, .npz or Parquet."),
    (b"\x80\x05", "a Python pickle", "Save the table as CSV, .npz or Parquet."),
    (b"\x89PNG", "a PNG picture", "Name a file that holds a table."),
    (b"\xff\xd8\xff", "a JPEG picture", "Name a file that holds a table."),
    (b"RIFF", "a RIFF file (sound or film)", "Name a file that holds a table."),
    (b"\x7fELF", "a program", "Name a file that holds a table."),
    (b"$FL2", "an SPSS file", _SAVE),
    (b"$FL3", "an SPSS file", _SAVE),
    (b"<stata_dta>", "a Stata file", _SAVE),
    (
        b'"TOB1"',
        "a binary file of a Campbell logger (TOB1)",
        "Convert it to TOA5 with CardConvert.",
    ),
    (
        b'"TOB3"',
        "a binary file of a Campbell logger (TOB3)",
        "Convert it to TOA5 with CardConvert.",
    ),
)
# The same for text; compared in small letters behind leading space.
_TEXT = (
    ("<!doctype html", "a web page (HTML)", "Was it a download that asked to log in? " + _SAVE),
    ("<html", "a web page (HTML)", "Was it a download that asked to log in? " + _SAVE),
    ("<table", "a table in HTML", _SAVE),
    ("<?xml", "an XML file", _SAVE),
    ("<", "an HTML or XML file", _SAVE),
    ("{\\rtf", "an RTF document", _SAVE),
    ("@relation", "an ARFF file (Weka)", _SAVE),
    (
        "version https://git-lfs",
        "a pointer of Git LFS and not the file itself",
        "Run: git lfs pull",
    ),
)


def kind(path: Path) -> str:
    """ "csv", "array" or "parquet".

    Raises ArgumentError for what cannot be read and for what is no table, named for what it is.
    """
    start = _start(path)
    if not start:
        raise ArgumentError(f"{path} is empty: expected a first line that names the columns.")
    if start[:6] == b"\x93NUMPY":
        return "array"
    if start[:4] == b"PAR1":
        return "parquet"
    sheet = start[:2] == b"PK" and path.suffix.lower() in _SHEETS
    if sheet or start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _archive(path)
    if start[:2] == b"\x1f\x8b":
        start = _unpacked_start(path)
        for magic, what in ((b"PAR1", "Parquet"), (b"\x93NUMPY", "NumPy"), (b"PK\x03\x04", "zip")):
            if start.startswith(magic):
                raise ArgumentError(f"{path} is a {what} file packed with gzip. {_UNPACK}")
        if start[257:262] == b"ustar":
            raise ArgumentError(f"{path} is a tar archive. {_UNPACK}")
    _check_binary(path, start)
    _check_text(path, start)
    return "csv"


def _start(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ArgumentError(f"{path} is a folder. Name its files, for instance {path}/*.csv.")
        with content(path).open("rb") as file:
            return file.read(_START)
    except OSError as error:
        what = "no such file" if error.errno == errno.ENOENT else error.strerror or error
        raise ArgumentError(f"cannot read {path}: {what}.") from error
    except ArgumentError:
        raise
    except ValueError as error:  # a NUL in the name
        raise ArgumentError(f"cannot read {str(path)!r}: {error}.") from error


def _unpacked_start(path: Path) -> bytes:
    try:
        check_gzip(path)
        with gzip.open(content(path)) as file:
            return file.read(_START)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ArgumentError(f"{path} is a damaged or truncated gzip file: {error}.") from error


def _archive(path: Path) -> str:
    """What a file that begins as zip files do is; "array" for arrays of NumPy."""
    try:
        with zipfile.ZipFile(content(path)) as file:
            names = file.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        if path.suffix.lower() in _SHEETS:
            raise ArgumentError(f"{path} {_SHEET}") from None
        if path.suffix.lower() in (".npy", ".npz"):
            return "array"  # whose reader tells what is wrong with it
        raise ArgumentError(
            f"{path} begins as a zip archive or a spreadsheet (.xlsx) does, and is damaged. Fetch "
            "or save it once more; a table is to be saved as CSV."
        ) from None
    if names and all(name.endswith(".npy") for name in names):
        return "array"
    if any(name.startswith("xl/") for name in names):
        raise ArgumentError(f"{path} {_SHEET}")
    if "mimetype" in names or any(name.startswith(("word/", "ppt/")) for name in names):
        raise ArgumentError(
            f"{path} is a spreadsheet or document of an office program (such as .ods). Save the "
            "sheet as CSV and name that file."
        )
    inside = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    raise ArgumentError(f"{path} is a zip archive that holds {inside or 'nothing'}. {_UNPACK}")


def _check_binary(path: Path, start: bytes) -> None:
    for magic, what, remedy in _BINARY:
        # A file of text may begin with these letters, but then no byte of it is zero.
        plain = magic.isascii() and magic.decode().isprintable()
        if start.startswith(magic) and (not plain or not _reads_as_a_table(start)):
            raise ArgumentError(f"{path} is {what}, not CSV. {remedy}")


def _reads_as_a_table(start: bytes) -> bool:
    """Whether a start that could be text has a first line with a delimiter, and no zero bytes."""
    line = start.partition(b"\n")[0]
    return b"\0" not in start and not start.startswith(b'"TOB') and any(d in line for d in b",;\t|")


def _check_text(path: Path, start: bytes) -> None:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        start = start[: len(start) // 2 * 2]
        text = start.decode("utf-16", errors="replace")
    else:
        text = start.decode("utf-8-sig", errors="replace")
    text = text.lstrip().lower()
    for begin, what, remedy in _TEXT:
        if text.startswith(begin):
            raise ArgumentError(f"{path} is {what}, not CSV. {remedy}")
    bare = "".join(text[:200].split())
    if bare.startswith(('{"', '[{"', "[[", "{}", "[]")):
        raise ArgumentError(f"{path} is a JSON file, not CSV. {_SAVE}")
