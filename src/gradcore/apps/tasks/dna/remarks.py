"""What a reader of files reports to its user: features that it leaves out, and assumptions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

__all__ = ["Remarks", "Say", "listed"]

Say = Callable[[str], None]
# This many lines of one kind are printed one by one; of the others only the number.
MOST = 5


def listed(names: list[str]) -> str:
    """Names in a sentence; of many, the first and how many more."""
    if len(names) <= MOST:
        return ", ".join(names)
    return f"{', '.join(names[:MOST])} and {len(names) - MOST:,} more"


class Remarks:
    """Collects the remarks on one file, so that thousands of a kind become one line."""

    def __init__(self, path: Path, say: Say) -> None:
        self._path, self._say = path, say
        self._counts: Counter[str] = Counter()

    def __call__(self, kind: str, line: int, told: str) -> None:
        """One remark. kind: what more of the same are counted as, such as "features left out"."""
        self._counts[kind] += 1
        if self._counts[kind] <= MOST:
            self._say(f"{self._path}, line {line}: {told}")

    def finish(self) -> None:
        """Reports how many remarks of each kind were left out."""
        for kind, count in self._counts.items():
            if count > MOST:
                self._say(f"{self._path}: {count - MOST:,} more {kind}, {count:,} in all")
