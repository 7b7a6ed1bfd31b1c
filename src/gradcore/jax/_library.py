"""Compiles the custom calls with XLA's header in the installed JAX, and registers them."""

from __future__ import annotations

import threading
from importlib import import_module
from pathlib import Path
from types import ModuleType

import jax

from .. import _core
from .._base.embed import get_include, get_link_args
from .._net.compiler import compiler, library
from ..errors import CompileError

__all__ = ["OLDEST", "target"]

# The oldest JAX whose header and functions these are written for.
OLDEST = "0.5"
CALLS = ("forward", "backward", "tangents", "curvature", "tapes")
FLAGS = ("-O2", "-std=c++20", "-fPIC", "-shared", "-fvisibility=hidden", "-DNDEBUG")

_names: dict[str, str] = {}
_lock = threading.Lock()


def target(call: str) -> str:
    """The name under which XLA knows a custom call; compiles and registers all at first.

    The name has a hash of the code, so that a program that JAX keeps in its cache on a disk never
    meets other code than that for which it was compiled.
    Raises CompileError if there is no compiler, or the headers are not those of a JAX that works.
    """
    with _lock:
        if not _names:
            ffi = _ffi()
            path = _compiled(Path(ffi.include_dir()))
            for name in CALLS:
                known = f"gradcore_{name}_{path.stem.rpartition('-')[2][:16]}"
                capsule = _core.foreign_function(str(path), f"gradcore_{name}")
                ffi.register_ffi_target(known, capsule, platform="cpu")
                _names[name] = known
        return _names[call]


def _ffi() -> ModuleType:
    try:
        return import_module("jax.ffi")
    except ImportError as error:
        raise CompileError(
            f"gradcore.jax needs jax {OLDEST} or later, whose module jax.ffi it uses; installed is "
            f"{jax.__version__}. Run: pip install --upgrade jax"
        ) from error


def _compiled(xla: Path) -> Path:
    include = Path(get_include())
    source = (include / "gradcore" / "xla" / "handlers.cpp").read_text(encoding="utf-8")
    return library(
        {"main.cpp": source},
        "xla",
        compiler("gradcore.jax"),
        [*FLAGS, *get_link_args()],
        [include, xla],
        _explained,
        kind="xla",
    )


def _explained(stderr: str) -> str:
    last = "\n".join(stderr.strip().splitlines()[-12:])
    return (
        f"the custom calls of gradcore.jax cannot be compiled with the headers of jax "
        f"{jax.__version__}. They need jax {OLDEST} or later and a compiler with C++20 (g++ 11, "
        f"clang++ 14). The compiler said:\n{last}"
    )
