"""Runs the user's C++ compiler and keeps the libraries that it makes in a cache.

The plug-in of a cell is made of the cell's source and of headers that the package carries. Files
in the cache are named by a hash of all of these, of the compiler and of its flags.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from .. import _core
from .._base.embed import get_include
from .._base.files import replace_file
from ..errors import CompileError

__all__ = ["cache_folder", "compiler", "library", "plugin"]

# The names of compilers that are looked for, in this order, where CXX says none.
NAMES = ("c++", "g++", "clang++")
# So many errors of the compiler are told; the first ones matter.
MOST_ERRORS = 5
TIMEOUT_S = 600
# An error that the compiler found: file, line, text.
_ERROR = re.compile(r"^(?P<file>[^:\n]+):(?P<line>\d+):(?:\d+:)? (?:fatal )?error: (?P<text>.*)$")


def cache_folder(kind: str = "cells") -> Path:
    """The folder of compiled cells: GRADCORE_CACHE, or gradcore in XDG_CACHE_HOME or ~/.cache.

    kind: what is kept there; the name of the folder.
    """
    if own := os.environ.get("GRADCORE_CACHE"):
        return Path(own) / kind
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gradcore" / kind


def compiler(what: str = "a cell") -> tuple[str, ...]:
    """The command of the C++ compiler: the environment variable CXX, or the first on the PATH.

    what: that which needs it, for the message.

    Raises CompileError if there is none.
    """
    if chosen := os.environ.get("CXX"):
        command = tuple(shlex.split(chosen))
        if command and shutil.which(command[0]):
            return command
        raise CompileError(
            f"the environment variable CXX names the compiler {chosen!r}, which cannot be found. "
            "Correct it, or unset it so that the PATH is searched."
        )
    for name in NAMES:
        if shutil.which(name):
            return (name,)
    raise CompileError(
        f"{what} needs a C++ compiler, and none of {', '.join(NAMES)} is on the PATH. Install one "
        "(apt install g++; conda install gxx), or name it in the environment variable CXX."
    )


@lru_cache(maxsize=8)
def _version(command: tuple[str, ...]) -> str:
    """What the compiler says of its version."""
    try:
        run = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileError(f"the compiler {shlex.join(command)} cannot be run: {error}.") from error
    return run.stdout.partition("\n")[0]


@lru_cache(maxsize=8)
def _headers(folder: Path) -> str:
    """A hash of the headers in a folder that a library is compiled with."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".h", ".def", ".hpp"}:
            total.update(str(path.relative_to(folder)).encode())
            total.update(path.read_bytes())
    return total.hexdigest()


def _flags(command: tuple[str, ...], level: str) -> list[str]:
    """The flags with which the core's own kernels are compiled, and those of a library."""
    flags = [*_core.compile_flags().split(), "-std=c++20", "-fPIC", "-shared"]
    if "clang" in _version(command):
        flags = [flag for flag in flags if not flag.startswith("--param=sccvn")]
    flags += ["-fvisibility=hidden", "-Wno-psabi", f"-DGRADCORE_ISA={level}"]
    return flags if level == "baseline" else [*flags, f"-march=x86-64-{level}"]


def plugin(source: str, main: str, stem: str, level: str) -> Path:
    """The plug-in of a cell, compiled unless the cache has it.

    source: the cell, which `main` includes as "<stem>.h". level: an instruction-set level.
    Raises CompileError with the lines of the source in which the compiler found errors.
    """
    command = compiler()
    include = Path(get_include())
    return library(
        {f"{stem}.h": source, "main.cpp": main},
        stem,
        command,
        _flags(command, level),
        [include, include / "gradcore" / "source"],
        lambda stderr: _explained(stderr, source, stem),
    )


def library(
    files: Mapping[str, str],
    stem: str,
    command: tuple[str, ...],
    flags: Sequence[str],
    headers: Sequence[Path],
    explained: Callable[[str], str],
    kind: str = "cells",
) -> Path:
    """The library that is compiled from main.cpp of `files`, unless the cache has it.

    files: sources by their names. stem: the first part of the library's name. command, flags: of
    the compiler. headers: folders with headers. explained: makes an error message of what the
    compiler said. kind: the folder of the cache.
    Raises CompileError with that message, or if the cache cannot be written to.
    """
    parts = [text for name in sorted(files) for text in (name, files[name])]
    parts += [_version(command), *command, *flags, *map(_headers, headers)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    folder = cache_folder(kind)
    made = folder / f"{stem}-{digest[:32]}.so"
    if made.exists():
        return made
    places = [f"-I{path}" for path in headers]
    # Libraries to link with, among the flags, stand behind the source that needs them.
    links = [flag for flag in flags if flag.startswith(("-l", "-L", "-Wl,"))]
    others = [flag for flag in flags if flag not in links]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="making-") as name:
            work = Path(name)
            for file, text in files.items():
                (work / file).write_text(text, encoding="utf-8")
            replace_file(
                made,
                lambda path: _run(
                    [*command, *others, *places, "-o", str(path), "main.cpp", *links],
                    work,
                    explained,
                ),
            )
    except OSError as error:
        raise CompileError(
            f"a compiled library cannot be kept in {folder}: {error.strerror}. Set the environment "
            "variable GRADCORE_CACHE to a folder that can be written to."
        ) from error
    return made


def _run(command: list[str], work: Path, explained: Callable[[str], str]) -> None:
    try:
        run = subprocess.run(
            command,
            cwd=work,
            env=os.environ | {"LC_ALL": "C"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise CompileError(
            f"the compiler was stopped after {TIMEOUT_S} s. See whether the machine is busy, or "
            "write a simpler cell."
        ) from None
    if run.returncode:
        raise CompileError(explained(run.stderr))


def _explained(stderr: str, source: str, stem: str) -> str:
    """The errors of the compiler, each with its line of the cell."""
    lines = source.splitlines()
    told: list[str] = []
    for said in stderr.splitlines():
        if (match := _ERROR.match(said)) is None:
            continue
        number, text = int(match["line"]), _plain(match["text"])
        if Path(match["file"]).name == f"{stem}.h" and 1 <= number <= len(lines):
            told.append(f"line {number}: {text}\n    {lines[number - 1].strip()}")
        elif "static assertion failed" in text or "static_assert" in text:
            told.append(text.partition(": ")[2] or text)
    told = list(dict.fromkeys(told))[:MOST_ERRORS]
    if not told:
        told = ["\n".join(stderr.strip().splitlines()[-12:])]
    return f"the cell {stem} cannot be compiled:\n" + "\n".join(told)


def _plain(text: str) -> str:
    """An error without the names of types that the user has not written."""
    return re.sub(r"gradcore::\w+::(user::)?", "", text)
