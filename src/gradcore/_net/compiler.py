"""Runs the user's C++ compiler: makes the plug-in of a cell, which it keeps in a cache.

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
from functools import lru_cache
from pathlib import Path

from .. import _core
from .._base.embed import get_include
from .._base.files import replace_file
from ..errors import CompileError

__all__ = ["cache_folder", "compiler", "plugin"]

# The names of compilers that are looked for, in this order, where CXX says none.
NAMES = ("c++", "g++", "clang++")
# So many errors of the compiler are told; the first ones matter.
MOST_ERRORS = 5
TIMEOUT_S = 600
# An error that the compiler found: file, line, text.
_ERROR = re.compile(r"^(?P<file>[^:\n]+):(?P<line>\d+):(?:\d+:)? (?:fatal )?error: (?P<text>.*)$")


def cache_folder() -> Path:
    """The folder of compiled cells: GRADCORE_CACHE, or gradcore in XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("GRADCORE_CACHE"):
        return Path(own) / "cells"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gradcore" / "cells"


def compiler() -> tuple[str, ...]:
    """The command of the C++ compiler: the environment variable CXX, or the first on the PATH.

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
        f"a cell needs a C++ compiler, and none of {', '.join(NAMES)} is on the PATH. Install one "
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


@lru_cache(maxsize=1)
def _headers() -> str:
    """A hash of the headers that a plug-in is compiled with."""
    folder = Path(get_include())
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".h", ".def"}:
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
    flags = _flags(command, level)
    said = "\0".join([source, main, _version(command), *command, *flags, _headers()])
    digest = hashlib.sha256(said.encode()).hexdigest()
    folder = cache_folder()
    made = folder / f"{stem}-{digest[:32]}.so"
    if made.exists():
        return made
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="making-") as name:
            work = Path(name)
            (work / f"{stem}.h").write_text(source, encoding="utf-8")
            (work / "main.cpp").write_text(main, encoding="utf-8")
            include = Path(get_include())
            places = [f"-I{include}", f"-I{include / 'gradcore' / 'source'}"]
            replace_file(
                made,
                lambda path: _run(
                    [*command, *flags, *places, "-o", str(path), "main.cpp"], work, source, stem
                ),
            )
    except OSError as error:
        raise CompileError(
            f"a compiled cell cannot be kept in {folder}: {error.strerror}. Set the environment "
            "variable GRADCORE_CACHE to a folder that can be written to."
        ) from error
    return made


def _run(command: list[str], work: Path, source: str, stem: str) -> None:
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
            f"the compiler was stopped after {TIMEOUT_S} s. Write a simpler cell, or see whether "
            "the machine is busy."
        ) from None
    if run.returncode:
        raise CompileError(_explained(run.stderr, source, stem))


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
