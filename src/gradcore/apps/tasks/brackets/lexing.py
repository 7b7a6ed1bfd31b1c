"""Lexes source files, to find the brackets that count: those outside strings and comments."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...._base.output import write_bytes
from ....errors import GradcoreError
from . import sources
from .sources import SourceFile

if TYPE_CHECKING:
    from pygments.lexer import Lexer

HIDDEN, CODE, BRACKET = 0, 1, 2
"""The kinds of characters: inside a string or comment, code, and brackets that count."""
OTHER_CHARACTER = 127
"""The token of every character outside ASCII."""

_RULES = 2
"""A part of the cache's keys; raise it when the results of `kinds_of` change."""
# Texts with fewer characters in total are lexed in this process.
_WORTH_A_PROCESS = 500_000
# The limit of processor time for a text: ten times what source code takes, which is a microsecond
# or two per character.
_SECONDS, _SECONDS_PER_CHARACTER = 2.0, 20e-6


class LexingError(GradcoreError, RuntimeError):
    """Lexing is not possible: pygments is missing, or takes too long."""


@dataclass(frozen=True)
class Document:
    """A lexed file: characters [n] uint8 below 128, kinds [n] uint8 (HIDDEN, CODE, BRACKET)."""

    source: SourceFile
    characters: NDArray[np.uint8]
    kinds: NDArray[np.uint8]
    digest: str

    def __len__(self) -> int:
        return len(self.characters)

    @property
    def real(self) -> NDArray[np.uint8]:
        """[n] uint8, nonzero at brackets that count."""
        return real_of(self.kinds)


def real_of(kinds: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[n] uint8, nonzero where kinds [n] are BRACKET."""
    real: NDArray[np.uint8] = (kinds == BRACKET).view(np.uint8)
    return real


def tokens_of(text: str) -> NDArray[np.uint8]:
    """Tokens [n] uint8 of a text: ASCII codes, OTHER_CHARACTER for any other character."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return np.where(codes < 128, codes, OTHER_CHARACTER).astype(np.uint8)


def kinds_of(text: str, language: str) -> NDArray[np.uint8]:
    """The kind of every character of a text, [n] uint8, by pygments' lexer for the language.

    Strings, character literals, comments, regular expressions, preprocessor lines and the literal
    text of f-strings and templates are HIDDEN; the expressions inside f-strings are code.
    Raises LexingError if pygments is missing or takes too long: its rules look ahead, so for text
    that is not source code the time may grow with the square of the length (a minute for 40,000
    empty lines of Java).
    """
    from pygments.token import Comment, Operator, Punctuation, String

    kinds = np.zeros(len(text), dtype=np.uint8)
    latest = time.thread_time() + _SECONDS + _SECONDS_PER_CHARACTER * len(text)
    # pygments recognises a comment in the last line only if the line has an end.
    tokens = _lexer(language).get_tokens_unprocessed(text + "\n")
    for number, (start, token, value) in enumerate(tokens):
        if number % 64 == 0 and time.thread_time() > latest:
            raise LexingError(
                f"pygments takes too long for {len(text):,} characters of {language}; leave the "
                "file out."
            )
        if token in Comment or token in String:
            continue
        stop = start + len(value)
        kinds[start:stop] = CODE
        if token in Punctuation or token in Operator:
            for offset, character in enumerate(value):
                if character in "()[]{}":
                    kinds[start + offset] = BRACKET
    return kinds


def default_cache() -> Path:
    """The folder for lexed files: $GRADCORE_CACHE, or gradcore in the user's cache folder."""
    if chosen := os.environ.get("GRADCORE_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "gradcore"


class LexCache:
    """A cache of kinds on disk, with the text, the language and pygments' version as keys.

    If the folder cannot be written or an entry is damaged, the text is lexed again.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (folder or default_cache()) / "brackets"

    def get(self, text: str, language: str) -> NDArray[np.uint8] | None:
        """The kinds of a text; None if they are not in the cache."""
        try:
            # At most one byte too many is unpacked, so that a damaged entry cannot fill memory.
            unpacking = zlib.decompressobj()
            content = unpacking.decompress(self._path(text, language).read_bytes(), len(text) + 1)
        except (OSError, zlib.error):
            return None
        if len(content) != len(text) or not unpacking.eof:
            return None
        return np.frombuffer(content, dtype=np.uint8)

    def put(self, text: str, language: str, kinds: NDArray[np.uint8]) -> None:
        """Puts the kinds of a text into the cache."""
        path = self._path(text, language)
        # The entry is written to another file and renamed, so no process can read half of it.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, zlib.compress(kinds.tobytes(), 1))

    def _path(self, text: str, language: str) -> Path:
        key = f"{_RULES}:{_pygments_version()}:{language}:{digest_of(text)}"
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / name[2:]


def digest_of(text: str) -> str:
    """The SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def load(
    files: Iterable[SourceFile],
    lex_cache: LexCache,
    *,
    processes: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Document | None]:
    """Yields each file, in order, read and lexed; None if it cannot be read, or lexed in time.

    It works while it is iterated over; several processes work a few files ahead. progress is called
    with the number of characters of each file. Raises LexingError if pygments is missing.
    """
    _pygments_version()
    listed = list(files)
    if sum(file.size for file in listed) < _WORTH_A_PROCESS:
        processes = 1
    with _Helpers(processes) as helpers:
        waiting: deque[_Pending | None] = deque()
        for file in listed:
            pending = _begin(file, lex_cache)
            if pending is not None and pending.kinds is None:
                pending.future = helpers.lex(pending.text, file.language)
            waiting.append(pending)
            if len(waiting) > 4 * processes:
                yield _finish(waiting.popleft(), lex_cache, progress)
        while waiting:
            yield _finish(waiting.popleft(), lex_cache, progress)


@dataclass
class _Pending:
    file: SourceFile
    text: str
    kinds: NDArray[np.uint8] | None
    future: Future[NDArray[np.uint8]] | None = None


def _begin(file: SourceFile, lex_cache: LexCache) -> _Pending | None:
    try:
        text = sources.read_text(file.path)
    except OSError:
        return None
    return _Pending(file, text, lex_cache.get(text, file.language))


def _finish(
    pending: _Pending | None, lex_cache: LexCache, progress: Callable[[int], None] | None
) -> Document | None:
    if pending is None:
        return None
    file, text, kinds = pending.file, pending.text, pending.kinds
    if kinds is None:
        # If a helper process was killed, for example for lack of memory, this process lexes.
        try:
            with contextlib.suppress(BrokenExecutor):
                kinds = None if pending.future is None else pending.future.result()
            if kinds is None:
                kinds = kinds_of(text, file.language)
        except LexingError:
            return None
        lex_cache.put(text, file.language, kinds)
    if progress is not None:
        progress(len(text))
    return Document(file, tokens_of(text), kinds, digest_of(text))


class _Helpers(contextlib.ExitStack):
    """Processes that lex, started when the first text needs one; none if the system refuses."""

    def __init__(self, processes: int) -> None:
        super().__init__()
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None

    def lex(self, text: str, language: str) -> Future[NDArray[np.uint8]] | None:
        """Runs kinds_of in another process; returns None if there is no other process."""
        try:
            if self._pool is None and self._processes > 1:
                self._pool = self.enter_context(_pool(self._processes))
                self.callback(self._pool.shutdown, wait=False, cancel_futures=True)
            return None if self._pool is None else self._pool.submit(kinds_of, text, language)
        except (BrokenExecutor, ImportError, OSError):  # no semaphores, or not enough memory
            self._processes, self._pool = 1, None
            return None


def _pool(processes: int) -> ProcessPoolExecutor:
    # Processes are spawned, because a forked child must not use the thread team of its parent.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, context, initializer=_ignore_interrupts)


def _ignore_interrupts() -> None:
    # Ctrl-C reaches all processes of the group; the parent process handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@cache
def _pygments_version() -> str:
    try:
        import pygments
    except ImportError:
        raise LexingError(
            "finding the brackets that count needs pygments, which is not installed. "
            "Run: pip install 'gradcore[data]'"
        ) from None
    return str(pygments.__version__)


@cache
def _lexer(language: str) -> Lexer:
    _pygments_version()
    from pygments.lexers import get_lexer_by_name

    names = {
        "python": "python3",
        "c": "c",
        "c++": "cpp",
        "javascript": "javascript",
        "java": "java",
        "json": "json",
    }
    if language not in names:
        raise ValueError(f"language must be one of {', '.join(names)}; got {language!r}")
    return get_lexer_by_name(names[language])
