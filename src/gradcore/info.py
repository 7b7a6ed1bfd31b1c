"""Facts about this build of gradcore and the machine it runs on."""

from __future__ import annotations

from dataclasses import dataclass

from . import _core

__all__ = ["VERSION", "BuildInfo", "build_info"]

VERSION = _core.version()


@dataclass(frozen=True)
class BuildInfo:
    """How gradcore was built and what it uses here.

    flags: compiler flags of the kernels, without the -march of an instruction-set level.
    isa_available: the instruction-set levels that are compiled in and that this CPU can run;
    isa_in_use: the one that calls take, which is the highest unless the environment variable
    GRADCORE_MAX_ISA caps it. openmp_runtime: path of the loaded OpenMP library, "" if unknown.
    threads: the number of threads of a call that does not name one.
    """

    version: str
    compiler: str
    flags: str
    isa_available: tuple[str, ...]
    isa_in_use: str
    openmp_runtime: str
    threads: int


def build_info() -> BuildInfo:
    """The facts of this build on this machine; isa_in_use and threads are the current ones."""
    return BuildInfo(
        version=VERSION,
        compiler=_core.compiler(),
        flags=_core.compile_flags(),
        isa_available=tuple(_core.isa_available()),
        isa_in_use=_core.isa_in_use(),
        openmp_runtime=_core.openmp_runtime(),
        threads=_core.default_threads(),
    )
