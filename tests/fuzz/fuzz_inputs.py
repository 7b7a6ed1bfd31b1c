"""Changes valid files at random; `fuzzing.py` passes the results to the readers."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
from typing import Any

import numpy as np

EDGES = (
    "0",
    "-1",
    "1",
    "2",
    "1e999",
    "nan",
    "inf",
    "-inf",
    "-0",
    "0.5",
    "1e-320",
    "99999999999999",
)
EDGES += tuple(str(n) for n in (2**31, 2**31 - 1, -(2**31), 2**63 - 1, 2**63, -(2**63) - 1, 2**64))
WORDS = (
    *(b"", b"\0", b"\n", b"\r\n", b"\r", b"\t", b",", b";", b'"', b"'", b">", b"//", b"##", b"="),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"..", b"{", b"[", b"}", b"join(", b"complement(", b"CDS"),
    *(b"ORIGIN", b"LOCUS", b"\xe2\x80\xa8", b"%00", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b" " * 9),
    *(b"/*", b"`", b"${", b"\\", b"'''", b"order(", b"9999-12-31", b"1_000", b"1,5"),
    *(edge.encode() for edge in EDGES),
)
NUMBER = re.compile(rb"\d+")
# A deflated stream of one repeated byte has a thousandth of its unpacked size.
BOMB_BYTES = 2_000_000


def changed(data: bytes, rng: random.Random) -> bytes:
    """The data with a few random changes, mostly one or two, so that most of a file stays valid."""
    made = bytearray(data)
    for _ in range(1 + few(rng, 1.0)):
        made = _once(made, rng)
    if rng.random() < 0.05:
        made = bytearray(_encoded(bytes(made), rng))
    return bytes(made)


def few(rng: random.Random, rate: float) -> int:
    """A small number, rarely a larger one."""
    return int(min(rng.expovariate(rate), 50.0))  # can be infinite when hypothesis draws it


def _once(made: bytearray, rng: random.Random) -> bytearray:
    at = rng.randrange(len(made) + 1)
    to = min(len(made), at + few(rng, 0.2))
    match rng.randrange(10):
        case 0 if made:
            made[min(at, len(made) - 1)] ^= 1 << rng.randrange(8)
        case 1:
            made[at:at] = rng.choice(WORDS)
        case 2:
            made[at:to] = rng.choice(WORDS)
        case 3:
            del made[at:to]
        case 4:
            times = 20_000 if rng.random() < 0.005 else rng.choice((1, 2, 50))
            made[at:at] = made[at : min(to, at + 50)] * times
        case 5:
            made[at:to] = bytes(rng.randrange(256) for _ in range(to - at))
        case 6:
            del made[at:]
        case 7 | 8:
            numbers = list(NUMBER.finditer(made))
            if numbers:
                found = rng.choice(numbers)
                made[found.start() : found.end()] = rng.choice(EDGES).encode()
        case _:
            made = bytearray(b"".join(_lines(made.splitlines(keepends=True), rng)))
    return made


def _lines(lines: list[bytearray], rng: random.Random) -> list[bytearray]:
    """Removes, repeats or moves a line of the text."""
    if lines:
        line = lines.pop(rng.randrange(len(lines)))
        for _ in range(rng.randrange(3)):
            lines.insert(rng.randrange(len(lines) + 1), line)
    return lines


def _encoded(data: bytes, rng: random.Random) -> bytes:
    """The same text in another encoding or with other line ends, as other programs write it."""
    match rng.randrange(5):
        case 0:
            return b"\xef\xbb\xbf" + data
        case 1:
            return data.replace(b"\n", b"\r\n")
        case 2:
            return data.replace(b"\n", b"\r")
        case 3:
            return data.decode("latin-1").encode("utf-16")
        case _:
            return gzip.compress(data, 1, mtime=0)


def changed_gzip(packed: bytes, rng: random.Random) -> bytes:
    """Changes gzip data before or after they were packed, or makes several members or a
    decompression bomb.
    """
    plain = gzip.decompress(packed)
    made = gzip.compress(changed(plain, rng), 1, mtime=0)
    kind = rng.random()
    if kind < 0.6:
        return made
    if kind < 0.8:
        return changed(packed, rng)
    if kind < 0.9:
        return made[: rng.randrange(len(made) + 1)]
    if kind < 0.995:
        return packed + rng.choice((made, b"\0" * 9, b"rest", packed[:9]))
    at = rng.randrange(len(plain) + 1)
    filler = rng.choice((b"A", b"\n", b"\0", b"1\n", b",", b">", b'"'))
    return gzip.compress(plain[:at] + filler * (BOMB_BYTES // len(filler)) + plain[at:], 1)


def changed_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Mostly changes one value of the file's JSON header and keeps it valid JSON; else changes any
    byte.
    """
    if rng.random() < 0.3:
        return changed(data, rng)
    length = int.from_bytes(data[:8], "little")
    header, tensors = json.loads(data[8 : 8 + length]), data[8 + length :]
    notes = header["__metadata__"]
    if rng.random() < 0.95:
        # Without a checksum, as other programs write such files, the checks behind it are reached.
        notes.pop("checksum", None)
    for _ in range(1 + few(rng, 1.0)):
        name = rng.choice((*notes, *notes, "tensors"))
        if name == "tensors":
            # The change is a wrong offset or shape, a tensor more or less, or another dtype.
            entry = rng.choice([key for key in header if key != "__metadata__"])
            _changed_tree(header[entry], rng)
        else:
            try:
                tree = json.loads(notes[name])
            except (ValueError, KeyError):
                tree = notes[name]
            notes[name] = json.dumps(_changed_tree(tree, rng)) if tree != "gradcore" else "grad"
    text = json.dumps(header).encode()
    if rng.random() < 0.3:
        tensors = changed(tensors, rng) if rng.random() < 0.5 else tensors[::-1]
    return len(text).to_bytes(8, "little") + text + tensors


def changed_json_lines(data: bytes, rng: random.Random) -> bytes:
    """Mostly changes one value of a line and keeps it valid JSON; else changes any byte."""
    lines = data.splitlines()
    if rng.random() < 0.5 or not lines:
        return changed(data, rng)
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(_changed_tree(json.loads(lines[at]), rng)).encode()
    return b"\n".join(lines) + b"\n"


def _changed_tree(tree: Any, rng: random.Random) -> Any:
    """A JSON value with one change in it."""
    place, key = [tree], 0
    while isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.9:
        place = place[key]
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
    if isinstance(place, dict) and rng.random() < 0.2:
        del place[key]
    elif isinstance(place, list) and place is not tree and rng.random() < 0.2:
        place.insert(key, place[key])
    else:
        place[key] = rng.choice(_VALUES) if rng.random() < 0.9 else _deep(rng)
    return tree if isinstance(tree, (dict, list)) else place[0]


_VALUES: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 0.5, 2**31, 2**53 + 1, 2**63, 10**30, 1e308, float("nan"), float("inf")),
    *(
        None,
        True,
        False,
        "",
        "x",
        "gradcore",
        "LSTM",
        "layer",
        "\ud800",
        "\0",
        [],
        {},
        [[]],
        {"": 0},
    ),
    *([0], [-1, 2], ["F32"], "F64", "I8", "BF16", "1", "2", "9" * 30, "²", {"layer": "GRU"}),
)


def _deep(rng: random.Random) -> Any:
    tree: Any = None
    for _ in range(rng.choice((3, 200, 900))):
        tree = [tree] if rng.random() < 0.5 else {"a": tree}
    return tree


def changed_npy(data: bytes, rng: random.Random) -> bytes:
    """Changes the header of a .npy but keeps the length that it states, so that its content is
    read.
    """
    if rng.random() < 0.4:
        return changed(data, rng)
    length = int.from_bytes(data[8:10], "little")
    header = changed(data[10 : 10 + length], rng)[:60_000]
    if rng.random() < 0.3:
        dtypes = (b"'<U9'", b"'|O'", b"'<M8[D]'", b"'>f4'", b"'|V0'", b"'<c16'", b"'|S3'", b"'<f2'")
        header = re.sub(rb"'[<>|][a-zA-Z]\d+'", lambda _: rng.choice(dtypes), header, count=1)
    return data[:8] + len(header).to_bytes(2, "little") + header + data[10 + length :]


def changed_npz(data: bytes, rng: random.Random) -> bytes:
    """Mostly changes members of the .npz and packs them again; else changes any byte."""
    import zipfile

    if rng.random() < 0.4:
        return changed(data, rng)
    target = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as packed,
        zipfile.ZipFile(target, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as out,
    ):
        for name in packed.namelist():
            made = packed.read(name)
            if rng.random() < 0.5:
                made = changed_npy(made, rng)
            if rng.random() < 0.9:
                out.writestr(
                    name if rng.random() < 0.9 else rng.choice(("x", "y.npy", "../a.npy")), made
                )
    return target.getvalue()


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()
