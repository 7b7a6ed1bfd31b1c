"""A logger for TensorBoard."""

from __future__ import annotations

import os
import time
from typing import Any

from .._base.checks import path_like
from .._base.packages import needed
from ._logger import Logger, numbers
from ._view import FitView

__all__ = ["TensorBoardLogger"]


class TensorBoardLogger(Logger):
    """Writes scalars for TensorBoard (`tensorboard --logdir FOLDER`): loss, lr, score and others.

    folder: of the event files, one for each call of fit; give every run its own. every: write the
    metrics of every `every`-th update. After a killed run has been resumed TensorBoard leaves out
    the points that are made again. TensorBoard keeps numbers as float32. Needs the package
    tensorboard; PyTorch and TensorFlow are not needed. Raises ImportError, ArgumentError or
    DTypeError.
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: int = 1) -> None:
        super().__init__(every)
        self.folder = path_like("folder", folder)
        place = "tensorboard.summary.writer.event_file_writer"
        self._writers = needed(place, type(self).__name__, "tensorboard")
        name = "tensorboard.compat.proto"
        self._event = needed(f"{name}.event_pb2", type(self).__name__, "tensorboard")
        self._summary = needed(f"{name}.summary_pb2", type(self).__name__, "tensorboard")
        self._writer: Any = None

    def _write(self, view: FitView, values: dict[str, float]) -> None:
        if self._writer is None:
            self._writer = self._writers.EventFileWriter(str(self.folder))
            # Points of an earlier, killed fit from here on are made again and must not stay. Where
            # an evaluation was missing, those of its update go as well, and are written again.
            again, first = view.metrics, view.steps
            values = numbers(again) | values
            log = self._event.SessionLog(status=self._event.SessionLog.START)
            self._add(first if again else first + 1, session_log=log)
        scalars = [
            self._summary.Summary.Value(tag=name, simple_value=value)
            for name, value in values.items()
        ]
        self._add(view.steps, summary=self._summary.Summary(value=scalars))

    def _add(self, step: int, **content: Any) -> None:
        self._writer.add_event(self._event.Event(step=step, wall_time=time.time(), **content))

    def on_checkpoint(self, view: FitView) -> None:
        """Flushes what has been written."""
        if self._writer is not None:
            self._writer.flush()

    def _close(self, view: FitView) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
