"""The folders and flags with which other projects compile and link against gradcore."""

from __future__ import annotations

from pathlib import Path

from .. import _core
from ..errors import InternalError

__all__ = ["get_cmake_dir", "get_include", "get_library_dir", "get_link_args", "get_pkgconfig_dir"]

# What the build made lies together. In an editable install that is site-packages; this file lies
# among the sources there.
_PACKAGE = Path(_core.__file__).parent


def get_include() -> str:
    """The include folder (-I), in which <gradcore/gradcore.h> and <gradcore/gradcore.hpp> lie."""
    return _there("include")


def get_cmake_dir() -> str:
    """The folder for CMAKE_PREFIX_PATH or gradcore_DIR.

    find_package(gradcore) then defines the target gradcore::gradcore.
    """
    return _there("cmake")


def get_pkgconfig_dir() -> str:
    """The folder for PKG_CONFIG_PATH, in which gradcore.pc lies."""
    return _there("pkgconfig")


def get_library_dir() -> str:
    """The folder of libgradcore, for -L and for the run path of programs that use it."""
    return str(_library().parent)


def get_link_args() -> list[str]:
    """Linker flags for an extension or program that uses libgradcore, for GCC and Clang.

    They include the run path. The library's file name contains the version of its interface, so
    -lgradcore alone would not find it.
    """
    library = _library()
    return [f"-L{library.parent}", f"-Wl,-rpath,{library.parent}", f"-l:{library.name}"]


def _library() -> Path:
    found = sorted(_PACKAGE.glob("libgradcore.so.*"))
    if not found:
        raise InternalError(f"{_PACKAGE} has no libgradcore; install gradcore with pip.")
    return found[-1]


def _there(name: str) -> str:
    path = _PACKAGE / name
    if not path.is_dir():
        raise InternalError(f"{path} does not exist; install gradcore with pip.")
    return str(path)
