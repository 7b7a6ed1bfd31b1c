"""Where other projects find what they compile and link with."""

from __future__ import annotations

from pathlib import Path

from ..errors import InternalError

__all__ = ["get_cmake_dir", "get_include", "get_library_dir", "get_link_args", "get_pkgconfig_dir"]

_PACKAGE = Path(__file__).parents[1]


def get_include() -> str:
    """The folder for -I, so that <gradcore/gradcore.h> and <gradcore/gradcore.hpp> are found."""
    return _there("include")


def get_cmake_dir() -> str:
    """The folder for CMAKE_PREFIX_PATH or gradcore_DIR: find_package(gradcore) then has the target
    gradcore::gradcore.
    """
    return _there("cmake")


def get_pkgconfig_dir() -> str:
    """The folder for PKG_CONFIG_PATH, where gradcore.pc lies."""
    return _there("pkgconfig")


def get_library_dir() -> str:
    """The folder of libgradcore, for -L and for the run path of what is linked with it."""
    return str(_library().parent)


def get_link_args() -> list[str]:
    """What links libgradcore with an extension or program, its run path included; for GCC or Clang.

    The library's name holds the version of its interface, so -lgradcore alone does not find it.
    """
    library = _library()
    return [f"-L{library.parent}", f"-Wl,-rpath,{library.parent}", f"-l:{library.name}"]


def _library() -> Path:
    found = sorted(_PACKAGE.glob("libgradcore.so.*"))
    if not found:
        raise InternalError(f"{_PACKAGE} holds no libgradcore; install gradcore by pip.")
    return found[-1]


def _there(name: str) -> str:
    path = _PACKAGE / name
    if not path.is_dir():
        raise InternalError(f"{path} is not there; install gradcore by pip.")
    return str(path)
