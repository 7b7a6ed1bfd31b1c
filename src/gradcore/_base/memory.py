"""Memory budgets: what the user asks for, and what the machine or container has left."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..errors import ArgumentError, DTypeError
from .checks import integer

__all__ = ["available_bytes", "budget_bytes", "empty", "format_bytes"]

# From this size in bytes on, results lie in memory regions that the core keeps between calls: the
# first access to 80 MB of fresh pages took as long as a pass over a GRU (H = 256, B = 8). For
# smaller arrays np.empty reuses memory by itself.
LARGE = 2**20
DEFAULT_BUDGET = 256 * 10**6
UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", re.IGNORECASE)
# No machine has so many bytes, and the core counts in 64 bits.
MOST = 2**63
# A cgroup without a limit has the limit "max" (v2) or a number near 2**63 (v1).
UNLIMITED = 2**60

_last_look: tuple[float, int | None] | None = None


def budget_bytes(memory: int | str | None) -> int | None:
    """The bytes that a `memory` argument stands for; None for "full", which has no limit.

    memory=None means 256 MB, or a quarter of the available memory if that is less; "64MB" means
    64 * 10**6 bytes. Raises ArgumentError or DTypeError.
    """
    if memory is None:
        return _default_budget()
    if isinstance(memory, str):
        return None if memory == "full" else _parse(memory)
    try:
        number = integer("memory", memory)
    except DTypeError:
        raise DTypeError(_expected(memory)) from None
    if not 1 <= number < MOST:
        raise ArgumentError(_expected(memory))
    return number


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An uninitialised array for a result; a large one reuses memory of earlier results."""
    if np.prod(shape, dtype=np.int64) * dtype.itemsize < LARGE:
        return np.empty(shape, dtype)
    return _core.empty(shape, dtype)


def format_bytes(number: int) -> str:
    """A number of bytes as text such as "64.1 MB", in powers of ten.

    It is rounded up, so that the text of a smallest budget can be passed as memory=.
    """
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= factor:
            tenths = -(-number * 10 // factor)
            return f"{tenths / 10:.1f} {unit}"
    return f"{number} B"


def available_bytes(root: Path = Path("/")) -> int | None:
    """The bytes that this process may still use before the machine or its cgroups run out.

    It is the minimum of MemAvailable and, for every cgroup (v2 and v1) from the process's own
    upwards, limit - usage + reclaimable file cache; None if the system gives no such numbers.
    """
    found = [*_from_meminfo(root), *_from_cgroups(root)]
    return max(0, min(found)) if found else None


def _default_budget() -> int:
    # Reading the cgroup files takes 0.1 ms, as much as a short call; the answer may be 1 s old.
    global _last_look
    now = time.monotonic()
    if _last_look is None or now - _last_look[0] > 1.0:
        _last_look = (now, available_bytes())
    left = _last_look[1]
    return DEFAULT_BUDGET if left is None else min(DEFAULT_BUDGET, left // 4)


def _parse(memory: str) -> int:
    match = AMOUNT.fullmatch(memory)
    factor = UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ArgumentError(_expected(memory))
    amount = float(match[1]) * factor
    if not 1 <= amount < MOST:
        raise ArgumentError(_expected(memory))
    return int(amount)


def _expected(memory: object) -> str:
    # Python does not write integers of more than 4,300 digits.
    if isinstance(memory, int) and abs(memory) >= MOST:
        shown = f"an integer of {memory.bit_length()} bits"
    else:
        shown = repr(memory)
    if len(shown) > 60:
        shown = f"{shown[:40]}... ({len(shown):,} characters)"
    return (
        "memory must be None, 'full', a positive number of bytes below 2**63, or an amount such as "
        f"'64MB' or '1.5GB'; got {shown}."
    )


def _from_meminfo(root: Path) -> Iterator[int]:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _from_cgroups(root: Path) -> Iterator[int]:
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
            yield from _walk(root / "sys/fs/cgroup", path, *names)
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _walk(root / "sys/fs/cgroup/memory", path, *names)


def _walk(mount: Path, path: str, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    # In a container the path may name directories of the host, which do not exist here; then only
    # the mount itself has the files.
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        folder = mount.joinpath(*parts[:depth])
        most, used = _number(folder / limit), _number(folder / usage)
        if most is not None and used is not None and most < UNLIMITED:
            yield most - used + _statistic(folder / "memory.stat", reclaimable)


def _statistic(path: Path, name: str) -> int:
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
