"""FitView: what callbacks see of a fit."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

from .._base.reprs import described
from .._net.stack import Params, Stack

__all__ = ["FitView"]

T = TypeVar("T")


class _Fit(Protocol):
    """What a view reads: the fit of a Trainer while it runs."""

    place: Any
    losses: list[float]
    watched: list[dict[str, Any]]
    metrics: dict[str, Any]
    settings: dict[str, Any]
    folder: Any
    updater: Any
    maximise: bool
    stopped: Any
    error: BaseException | None

    def seconds(self) -> float: ...


class FitView:
    """A fit as its callbacks see it: the fields of FitReport, and more, at this moment.

    It cannot change the training: what it gives is a number, read-only, or a copy.
    """

    def __init__(self, fit: _Fit) -> None:
        self._fit = fit

    def __repr__(self) -> str:
        return described(
            self,
            steps=self.steps,
            loss=self.loss,
            best=self.best,
            stopped=self.stopped,
            run=None if self.run is None else str(self.run),
        )

    @property
    def steps(self) -> int:
        """The updates made, including those before the run was resumed."""
        return int(self._fit.place.step)

    @property
    def seconds(self) -> float:
        """The time spent, including that before the run was resumed."""
        return self._fit.seconds()

    @property
    def loss(self) -> float | None:
        """The loss of the last update of this call of fit; None before it."""
        return self._fit.losses[-1] if self._fit.losses else None

    @property
    def losses(self) -> Sequence[float]:
        """The losses of this call of fit, one per update; it grows as the training goes on."""
        return _ReadOnly(self._fit.losses)

    @property
    def evaluations(self) -> Sequence[tuple[int, float]]:
        """(step, score) pairs, the last one last; it grows as the training goes on."""
        return _ReadOnly(self._fit.place.evaluations)

    @property
    def score(self) -> float | None:
        """The last score; None before there is one."""
        return self.evaluations[-1][1] if self.evaluations else None

    @property
    def best(self) -> float | None:
        """The best score so far."""
        score: float | None = self._fit.place.best
        return score

    @property
    def best_step(self) -> int | None:
        """The step of the best score."""
        step: int | None = self._fit.place.best_step
        return step

    @property
    def maximise(self) -> bool:
        """Whether higher scores are better."""
        return self._fit.maximise

    @property
    def stopped(self) -> str | None:
        """None until on_end; then what FitReport.stopped has, or "error" if an exception ends it.

        It is "error" also for exceptions of callbacks, such as the one that prunes a trial.
        """
        stopped: str | None = self._fit.stopped
        return stopped

    @property
    def error(self) -> BaseException | None:
        """The exception that ends the fit, in on_end."""
        return self._fit.error

    @property
    def run(self) -> Path | None:
        """The folder of the run, if there is one."""
        folder = self._fit.folder
        return None if folder is None else Path(folder.folder)

    @property
    def metrics(self) -> dict[str, Any]:
        """A copy of the last update's line of metrics.jsonl, also where there is no folder.

        It is empty before the first update of a run, and may be after resuming one. "score" is
        there after an evaluation of this update.
        """
        return copy.deepcopy(self._fit.metrics)

    @property
    def watched(self) -> Sequence[dict[str, Any]]:
        """Copies of the lines of updates at which watch or a StabilityMonitor measured."""
        return _ReadOnly(self._fit.watched)

    @property
    def net(self) -> Stack:
        """The net."""
        net: Stack = self._fit.updater.net
        return net

    @property
    def params(self) -> Params:
        """A copy of the parameters after the last update; each call copies."""
        params: Params = self._fit.updater.params
        return params.copy()

    @property
    def settings(self) -> dict[str, Any]:
        """A copy of the settings that a resumed run compares, as JSON values, and the net's."""
        return {"net": repr(self.net), **copy.deepcopy(self._fit.settings)}


class _ReadOnly(Sequence[T]):
    """A list that grows elsewhere and cannot be changed here; items that could be are copied."""

    def __init__(self, items: list[T]) -> None:
        self._items = items

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        return copy.deepcopy(self._items[index])

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(self._items)
