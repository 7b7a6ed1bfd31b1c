"""Measures the machine's limits: multiply-adds per second, bytes per second from each cache."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import _core
from ..._engine.calls import release_memory
from ...info import build_info

__all__ = ["Limits", "Machine", "caches", "measure", "measure_limits"]

# Each limit is the best of REPEATS repetitions of SECONDS seconds: long enough for the CPU's clock
# to rise, and often enough that some repetition is not disturbed by other programs.
REPEATS = 10
SECONDS = 0.02

# Sizes of the first and second cache if the system does not give them; nearly every CPU since 2010
# has at least these.
USUAL_CACHES = (32 * 1024, 256 * 1024)
# The buffer for reads beyond the second cache is this many times as large as that, per thread, so
# that little of it stays in the cache; but at most MOST_BEYOND bytes.
BEYOND = 8
MOST_BEYOND = 256 * 2**20
# The sizes of buffers are multiples of this.
GRANULE = 512


@dataclass(frozen=True)
class Limits:
    """What `threads` threads together can do.

    flops: floating-point operations per second for each dtype, where a multiply-add counts as two.
    read_l1, read_l2, read_beyond: bytes read per second from buffers, one per thread, that fit into
    the first cache, the second, or neither.
    """

    threads: int
    flops: dict[str, float]
    read_l1: float
    read_l2: float
    read_beyond: float

    def drift(self, later: Limits) -> float:
        """The largest relative change of a limit between this and a later measurement."""
        before, after = self._figures(), later._figures()
        return max(abs(b - a) / max(a, b) for a, b in zip(before, after, strict=True))

    def _figures(self) -> tuple[float, ...]:
        return (*self.flops.values(), self.read_l1, self.read_l2, self.read_beyond)


@dataclass(frozen=True)
class Machine:
    """A machine, with its limits for one thread and for all threads that gradcore uses.

    l1_bytes, l2_bytes: the caches of one core; caches_known is False if their sizes are assumed.
    """

    cpu: str
    cores: int
    isa: str
    compiler: str
    gradcore: str
    l1_bytes: int
    l2_bytes: int
    caches_known: bool
    one: Limits
    all: Limits

    @property
    def threads(self) -> int:
        return self.all.threads

    def facts(self) -> dict[str, Any]:
        """The facts as JSON values, in GFLOP/s and GB/s (10^9 bytes), by number of threads."""
        limits = {str(some.threads): some for some in (self.one, self.all)}
        return {
            "cpu": self.cpu,
            "cores": self.cores,
            "threads": self.threads,
            "isa": self.isa,
            "compiler": self.compiler,
            "gradcore": self.gradcore,
            "l1_bytes": self.l1_bytes,
            "l2_bytes": self.l2_bytes,
            "caches_known": self.caches_known,
            "peak_gflops": {
                dtype: {n: some.flops[dtype] / 1e9 for n, some in limits.items()}
                for dtype in self.all.flops
            },
            "read_gbs": {
                place: {n: getattr(some, f"read_{place}") / 1e9 for n, some in limits.items()}
                for place in ("l1", "l2", "beyond")
            },
        }


def measure(
    threads: int,
    *,
    repeats: int = REPEATS,
    seconds: float = SECONDS,
    progress: Callable[[str], None] = lambda line: None,
) -> Machine:
    """Measures the machine at the instruction-set level in use, in about 10 * repeats * seconds.

    Raises ArgumentError for threads outside 1..64, and OutOfMemoryError if there is not enough
    memory for buffers of 8 times the second cache per thread.
    """
    info = build_info()
    found = caches()
    l1, l2 = found or USUAL_CACHES

    def limits(n: int) -> Limits:
        progress(f"measuring the limits of {n} thread{'s' if n > 1 else ''}")
        return measure_limits(n, l1, l2, repeats=repeats, seconds=seconds)

    one = limits(1)
    everything = one if threads == 1 else limits(threads)
    return Machine(
        cpu=_cpu_name(),
        cores=os.cpu_count() or 1,
        isa=info.isa_in_use,
        compiler=info.compiler,
        gradcore=info.version,
        l1_bytes=l1,
        l2_bytes=l2,
        caches_known=found is not None,
        one=one,
        all=everything,
    )


def measure_limits(
    threads: int, l1: int, l2: int, *, repeats: int = REPEATS, seconds: float = SECONDS
) -> Limits:
    """The limits of `threads` threads with caches of l1 and l2 bytes; see measure."""

    def read(size: int) -> float:
        size = max(GRANULE, size // GRANULE * GRANULE)
        return _core.measure_reads(size, threads=threads, repeats=repeats, seconds=seconds)

    flops = {
        dtype: _core.measure_flops(dtype, threads=threads, repeats=repeats, seconds=seconds)
        for dtype in ("float32", "float64")
    }
    # Buffers fill half of a cache; the rest holds the stack and other data.
    found = Limits(
        threads, flops, read(l1 // 2), read(l2 // 2), read(min(MOST_BEYOND, BEYOND * l2))
    )
    release_memory()  # the core would keep the large buffers otherwise
    return found


def caches(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> tuple[int, int] | None:
    """Bytes of a core's first data cache and second cache; None if they are unknown."""
    sizes = dict(_read_caches(root))
    return (sizes[1], sizes[2]) if 1 in sizes and 2 in sizes else None


def _read_caches(root: Path) -> Iterator[tuple[int, int]]:
    for folder in sorted(root.glob("index*")):
        try:
            kind, level, size = (
                (folder / name).read_text().strip() for name in ("type", "level", "size")
            )
        except OSError:
            continue
        match = re.fullmatch(r"(\d+)([KM]?)", size)
        if kind != "Instruction" and match is not None and level.isdigit():
            yield int(level), int(match[1]) * {"": 1, "K": 2**10, "M": 2**20}[match[2]]


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()
