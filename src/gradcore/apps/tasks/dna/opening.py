"""Genome files as lines of text, plain or gzip, in whatever encoding; other files are refused."""

from __future__ import annotations

import codecs
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import gradcore as gd

from ..packed import is_gzip, open_gzip
from ..piped import content

__all__ = ["opened"]

# What other files begin with, and what to do with them.
REFUSED = {
    b"BZh": "is compressed with bzip2. Decompress it, or compress it with gzip",
    b"\xfd7zXZ\x00": "is compressed with xz. Decompress it, or compress it with gzip",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd. Decompress it, or compress it with gzip",
    b"\x1f\x9d": "is compressed with compress. Decompress it, or compress it with gzip",
    b"PK\x03\x04": "is a zip file. Unpack it and name the file that was in it",
    b"BAM\x01": "is a BAM file of aligned reads. Name the FASTA file of the genome",
    b"\x43\x27\x41\x1a": "is a 2bit file. Convert it to FASTA by twoBitToFa",
    b"\x1a\x41\x27\x43": "is a 2bit file. Convert it to FASTA by twoBitToFa",
    b"<!DOCTYPE": "is a web page. Download the file itself, as GenBank or FASTA",
    b"<html": "is a web page. Download the file itself, as GenBank or FASTA",
    b"<?xml": "is XML. Download the record as GenBank or FASTA",
}
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Bytes that are not UTF-8 are read as Latin-1: old files name people and places in it.
FALLBACK = "gradcore-latin-1"


def _as_latin_1(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error(FALLBACK, _as_latin_1)


@contextmanager
def opened(path: Path) -> Iterator[Iterator[str]]:
    """Yields the lines of a file; raises ArgumentError if it cannot be read or is not text."""
    try:
        with _binary(path) as raw:
            encoding = _encoding(path, raw.peek(4096)[:4096])
            with io.TextIOWrapper(raw, encoding=encoding, errors=FALLBACK) as stream:
                yield iter(stream)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise gd.ArgumentError(f"cannot read {path}: {reason}.") from error


def _binary(path: Path) -> io.BufferedReader:
    """Opens a file for reading its bytes, unpacked."""
    if is_gzip(path):
        # The text layer is made anew, as its encoding depends on the first bytes.
        packed = cast(io.TextIOWrapper, open_gzip(path, "latin-1"))
        return cast(io.BufferedReader, cast(BinaryIO, packed.detach()))
    return content(path).open("rb")


def _encoding(path: Path, head: bytes) -> str:
    """Finds the encoding by the first bytes; raises ArgumentError if they are not text."""
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    for begin, told in REFUSED.items():
        if head.lower().startswith(begin.lower()):
            raise gd.ArgumentError(f"{path} {told}.")
    # Of ASCII text in UTF-16 every other byte is 0.
    odd, even = head[1::2], head[::2]
    if b"\0" in head and len(head) > 3:
        if not any(odd[: len(odd) - 1]):
            return "utf-16-le"
        if not any(even[: len(even) - 1]):
            return "utf-16-be"
        raise gd.ArgumentError(
            f"{path} is not text: it has bytes of value 0. Give GenBank, EMBL, FASTA or GFF3, "
            "plain or compressed with gzip."
        )
    return "utf-8"
