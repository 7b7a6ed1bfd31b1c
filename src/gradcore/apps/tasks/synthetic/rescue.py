"""Putting a net back that has lost what it had learned, or has learned nothing from the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import gradcore as gd

from ...._base.files import replace_file
from .recipes import Recipe, initial
from .task import Task

# A net that has passed a stage and is at this or below on it later has lost it.
LOST = 0.6
# Updates after which a net that has not passed the first stage starts anew: of eight seeds those
# that did at all had after 150 to 260, and two had not after 5,000.
PATIENCE = 500
# What the rate is multiplied by each time: the net was lost in steps too large for where it stood.
SLOWER = 0.7


class Rescue:
    """Keeps parameters and moments as they were when each stage was passed.

    run: a folder that keeps them, so that a resumed training can be put back as well.
    """

    def __init__(
        self,
        optimizer: gd.optim.Optimizer,
        average: gd.optim.Average | None,
        task: Task,
        recipe: Recipe,
        seed: int,
        run: Path | None,
    ) -> None:
        self.optimizer, self.average, self.task = optimizer, average, task
        self.recipe, self.seed, self.run = recipe, seed, run
        self._kept: dict[str, NDArray[Any]] = {}

    def keep(self, level: int) -> None:
        """The net has just passed stage number `level`."""
        self._kept = {"params": self.optimizer.params.flat.copy()}
        self._kept |= {name: moment.copy() for name, moment in self.optimizer.moments.items()}
        if self.run is not None:
            self.run.mkdir(parents=True, exist_ok=True)
            replace_file(self._file(level), lambda path: save_file(self._kept, path))

    def put_back(self, level: int) -> None:
        """As after stage number `level`, with a smaller rate. Raises CheckpointError."""
        if not self._kept and self.run is not None:
            try:
                self._kept = load_file(self._file(level))
            except (OSError, SafetensorError) as error:
                raise gd.CheckpointError(
                    f"{self._file(level)}, which the training must go back to: {error}"
                ) from error
        self._set(self._kept)
        self.optimizer.lr *= SLOWER

    def start_anew(self, times: int) -> None:
        """Fresh parameters, others than the `times` starts before, with a smaller rate."""
        fresh = initial(
            self.optimizer.params.net, self.task, self.recipe, self.seed + 10_000 * times
        )
        zeros = {name: np.zeros_like(m) for name, m in self.optimizer.moments.items()}
        self._set({"params": fresh.flat, **zeros})
        self.optimizer.lr *= SLOWER

    def _set(self, kept: dict[str, NDArray[Any]]) -> None:
        np.copyto(self.optimizer.params.flat, kept["params"])
        for name, moment in self.optimizer.moments.items():
            np.copyto(moment, kept[name])
        if self.average is not None:
            self.average.restart()

    def _file(self, level: int) -> Path:
        assert self.run is not None
        return self.run / f"passed-{level}.safetensors"
