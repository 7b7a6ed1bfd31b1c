"""The base class of loggers: which numbers of a line are written, and when."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

from .._base.checks import positive_int
from ._callback import Callback
from ._view import FitView

__all__ = ["Logger", "numbers"]

# Fields with one number for each recurrent layer or exponent.
_LISTS = ("memory_length", "lyapunov", "lyapunov_error")
# Fields with one number for each of several heads.
_BY_NAME = ("losses", "scores")
# The step is the axis over which the others are drawn.
_NOT_LOGGED = ("step", "score")


def numbers(line: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a line of metrics by name.

    "memory_length/0" is that of layer 0, and "losses/site" that of the head "site".
    """
    found = {name: value for name, value in line.items() if name not in _NOT_LOGGED}
    for name in _LISTS:
        values = found.pop(name, None) or ()
        found |= {f"{name}/{place}": value for place, value in enumerate(values)}
    for name in _BY_NAME:
        found |= {f"{name}/{own}": value for own, value in (found.pop(name, None) or {}).items()}
    plain = {n: float(v) for n, v in found.items() if isinstance(v, (bool, int, float))}
    return {name: value for name, value in plain.items() if math.isfinite(value)}


class Logger(Callback):
    """Writes the numbers of every `every`-th update, and all scores."""

    def __init__(self, every: int) -> None:
        self.every = positive_int("every", every)

    @abstractmethod
    def _write(self, view: FitView, values: dict[str, float]) -> None:
        """Writes values for step view.steps; opens the log if it is not open."""

    @abstractmethod
    def _close(self, view: FitView) -> None:
        """Closes the log if it is open; it may be opened again by another fit."""

    def on_update(self, view: FitView) -> None:
        # The lines of measurements are rare, and not left out.
        if view.steps % self.every == 0 or (
            view.watched and view.watched[-1]["step"] == view.steps
        ):
            self._write(view, numbers(view.metrics))

    def on_evaluation(self, view: FitView) -> None:
        assert view.score is not None
        by_head = numbers({"scores": view.metrics.get("scores")})
        self._write(view, {"score": view.score, **by_head})

    def on_end(self, view: FitView) -> None:
        self._close(view)
