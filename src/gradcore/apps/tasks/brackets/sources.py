"""Finds source files, their languages, and the groups that must not be split between parts."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ....errors import ArgumentError, GradcoreError
from ..piped import content, kept

LANGUAGES = {
    ".py": "python",
    ".pyi": "python",
    ".c": "c",
    ".h": "c++",
    ".hh": "c++",
    ".hpp": "c++",
    ".hxx": "c++",
    ".cc": "c++",
    ".cpp": "c++",
    ".cxx": "c++",
    ".tcc": "c++",
    ".js": "javascript",
    ".mjs": "javascript",
    ".cjs": "javascript",
    ".java": "java",
    ".json": "json",
}
SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
LARGEST_FILE = 1_000_000
# The most bytes of a file that is not one of many but was named.
LARGEST_TEXT = 50_000_000
"""In bytes. Larger files are mostly generated, and one of them would take seconds to lex."""

_LARGEST_GROUP = 0.1
_DEEPEST_GROUP = 4


class SourceError(GradcoreError, ValueError):
    """There is no usable source file where one was expected."""


@dataclass(frozen=True)
class SourceFile:
    """One file. group: the module or folder that it belongs to, which is never split."""

    path: Path
    name: str
    group: str
    language: str
    size: int


@dataclass(frozen=True)
class Sources:
    """Files in an order that does not depend on where they lie; notes: what was skipped."""

    files: tuple[SourceFile, ...]
    notes: tuple[str, ...]


def language_of(path: Path) -> str | None:
    """The language of a file by its name; None if it is not one that can be lexed."""
    if not path.suffix and "c++" in path.parts:
        return "c++"  # headers such as <vector> have no suffix
    return LANGUAGES.get(path.suffix.lower())


def default_roots() -> list[Path]:
    """The standard library and headers of this interpreter, and the system's C and C++ headers."""
    paths = sysconfig.get_paths()
    wanted = [Path(paths["stdlib"]), Path("/usr/include"), Path(paths["include"])]
    return [root for root in wanted if root.is_dir()]


def find(paths: Sequence[str | os.PathLike[str]] = ()) -> Sources:
    """All source files under `paths` (files or folders), or under `default_roots()` without any.

    Folders and files that cannot be read are skipped and counted in `notes`. Raises SourceError if
    a path does not exist or no file is left.
    """
    roots = [Path(path) for path in paths] or default_roots()
    missing = [str(root) for root in roots if not root.exists()]
    if missing:
        raise SourceError(f"no such file or folder: {', '.join(missing)}. Check the path.")
    passed_over: Counter[str] = Counter()
    seen: set[Path] = set()
    found: list[list[SourceFile]] = []
    for root in roots:
        files = []
        for path in _walk(root, passed_over):
            entry = _describe(path, root, passed_over)
            if entry is not None and (resolved := path.resolve()) not in seen:
                seen.add(resolved)
                files.append(entry)
        found.append(_with_groups(files, root))
    notes = tuple(f"{count} {reason}" for reason, count in sorted(passed_over.items()))
    ordered = tuple(_interleaved([sorted(files, key=_position) for files in found]))
    if not ordered:
        where = ", ".join(str(root) for root in roots) or "the default folders"
        kinds = ", ".join(sorted(LANGUAGES))
        what = f" ({'; '.join(notes)})" if notes else ""
        raise SourceError(
            f"there is no source file under {where}{what}. Name a folder with files that end in "
            f"{kinds}."
        )
    return Sources(ordered, notes)


def held_out_groups(
    files: Iterable[SourceFile], share: float = 0.15, salt: str = ""
) -> frozenset[str]:
    """The groups that training never reads, about `share` of all; another salt chooses others.

    The choice depends only on a hash of the group's name, not on the seed or on other groups, so a
    checkpoint can be evaluated on another machine. With two groups or more neither part is empty.
    Raises SourceError if all files are in one group.
    """
    ranks = {group: _hash(salt + group) for group in sorted({file.group for file in files})}
    groups = sorted(ranks, key=ranks.__getitem__)
    if len(groups) < 2:
        raise SourceError(
            f"all source files are in one module ({groups[0] if groups else 'none'}): files to "
            "train on and files to judge by must come from different ones. Name a folder with at "
            "least three files."
        )
    chosen = [group for group in groups if ranks[group] < share * 2**64]
    return frozenset(chosen[: len(groups) - 1] or groups[:1])


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or else Latin-1, with line ends "\\n".

    Raises OSError, and ArgumentError for more than LARGEST_TEXT bytes and for devices.
    """
    with kept(), content(path, LARGEST_TEXT).open("rb") as file:
        raw = file.read(LARGEST_TEXT + 1)
    if len(raw) > LARGEST_TEXT:
        raise ArgumentError(
            f"{path} has more than {LARGEST_TEXT:,} bytes, which is no source code. Name a part "
            "of it."
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _hash(name: str) -> int:
    return int.from_bytes(
        hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big"
    )


def _position(file: SourceFile) -> tuple[int, str]:
    return _hash(file.name), file.name


def _walk(root: Path, passed_over: Counter[str]) -> Iterable[Path]:
    if root.is_file():
        yield root
        return

    def refused(error: OSError) -> None:
        passed_over["folders that cannot be read"] += 1

    for folder, subfolders, names in os.walk(root, onerror=refused):
        subfolders[:] = sorted(
            name for name in subfolders if name not in SKIPPED_FOLDERS and not name.startswith(".")
        )
        for name in sorted(names):
            yield Path(folder, name)


def _describe(path: Path, root: Path, passed_over: Counter[str]) -> SourceFile | None:
    language = language_of(path)
    if language is None:
        if path == root:
            passed_over["files in no known language"] += 1
        return None
    try:
        size = path.stat().st_size
        readable = path.is_file() and os.access(path, os.R_OK)
    except OSError:
        readable = False
    if not readable:
        passed_over["files that cannot be read"] += 1
        return None
    if size > LARGEST_FILE:
        passed_over[f"files over {LARGEST_FILE:,} bytes"] += 1
        return None
    name = path.name if path == root else path.relative_to(root).as_posix()
    return SourceFile(path=path, name=name, group="", language=language, size=size)


def _with_groups(files: list[SourceFile], root: Path) -> list[SourceFile]:
    # A folder with more than a tenth of the text is split one level deeper; otherwise one large
    # folder, such as `test` in CPython's library, could make up a whole part.
    depths = dict.fromkeys((file.name for file in files), 1)
    total = sum(file.size for file in files)
    for depth in range(1, _DEEPEST_GROUP):
        sizes: Counter[str] = Counter()
        for file in files:
            sizes[_group(file.name, depths[file.name])] += file.size
        for file in files:
            if sizes[_group(file.name, depths[file.name])] > _LARGEST_GROUP * total:
                depths[file.name] = depth + 1
    return [replace(file, group=_group(file.name, depths[file.name])) for file in files]


def _group(name: str, depth: int) -> str:
    parts = name.split("/")
    kept = parts[:depth]
    if len(parts) <= depth:
        kept[-1] = kept[-1].split(".")[0] or kept[-1]  # x.c and x.h are one module
    return "/".join(kept)


def _interleaved(lists: list[list[SourceFile]]) -> Iterable[SourceFile]:
    # Roots take turns, so that any beginning of the result has about as many bytes of each root, as
    # long as the root has files left.
    taken = [0] * len(lists)
    positions = [0] * len(lists)
    while True:
        left = [i for i, files in enumerate(lists) if positions[i] < len(files)]
        if not left:
            return
        i = min(left, key=lambda i: (taken[i], i))
        file = lists[i][positions[i]]
        positions[i] += 1
        taken[i] += max(file.size, 1)
        yield file
