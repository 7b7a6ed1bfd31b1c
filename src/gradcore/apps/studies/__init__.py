"""Experiments about stability, one per file, each of which takes at most two minutes on two cores.

A study is a function run(...) that returns a Result: numbers as text and as JSON, and a picture.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Progress", "Result", "plain"]

# progress(what, part): what is being done, and the share of all work that is done.
Progress = Callable[[str, float], None]


class Result(Protocol):
    """The result of a study."""

    def lines(self) -> list[str]:
        """The numbers as tables, with conclusions, as lines for a terminal."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """All numbers and settings as JSON values."""
        ...

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Saves the picture; the suffix gives the format. It needs matplotlib."""
        ...


def plain(values: NDArray[np.float64]) -> list[float | None]:
    """Numbers as JSON values with ten digits; None if not finite."""
    return [float(f"{v:.10g}") if np.isfinite(v) else None for v in values]
