"""Experiments about stability, one per file; each ends within two minutes on two cores.

A study is a function run(...) that returns its result: the numbers as lines and as JSON, and a
picture.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Progress", "Result", "plain"]

# What is being done, and the part of all work that is done.
Progress = Callable[[str, float], None]


class Result(Protocol):
    """What a study found."""

    def lines(self) -> list[str]:
        """The numbers as a table, and what they say, for a terminal."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """All numbers and the settings they came from, for JSON."""
        ...

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Saves the picture, its format by the suffix. Needs matplotlib."""
        ...


def plain(values: NDArray[np.float64]) -> list[float | None]:
    """Numbers for JSON, to ten digits; None for what is not finite."""
    return [float(f"{v:.10g}") if np.isfinite(v) else None for v in values]
