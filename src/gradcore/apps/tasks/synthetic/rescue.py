"""Restores a net that has lost what it had learned, and restarts one that learns nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

import gradcore as gd

from ...._base.output import write_output
from ...._net.checksum import CHECKSUM, checksum
from ...._net.io import check_undamaged, open_checkpoint
from .recipes import Recipe, initial
from .task import Task

# A net has lost a stage that it had passed if its score on it is this or lower.
LOST = 0.6
# A net that has not passed the first stage after so many updates starts again with new parameters:
# of eight seeds six passed it after 150 to 260 updates, and two had not after 5,000.
PATIENCE = 500
# The rate is multiplied by this at each restoration, because too large steps caused the loss.
SLOWER = 0.7


class Rescue:
    """Keeps the parameters and moments of the time when each stage was passed.

    run: a folder in which they are kept as well, so that a resumed training can be restored.
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
        """Keeps the net, which has just passed stage number `level`."""
        self._kept = {"params": self.optimizer.params.flat.copy()}
        self._kept |= {name: moment.copy() for name, moment in self.optimizer.moments.items()}
        if self.run is not None:
            self.run.mkdir(parents=True, exist_ok=True)
            header = {CHECKSUM: checksum(sorted(self._kept.items()), {})}
            write_output(self._file(level), lambda path: save_file(self._kept, path, header))

    def put_back(self, level: int) -> None:
        """Restores the net of stage number `level`, with a smaller rate; raises CheckpointError."""
        if not self._kept and self.run is not None:
            if not self._file(level).exists():
                raise gd.CheckpointError(
                    f"cannot read {self._file(level)}, which the training must go back to: no such "
                    "file."
                )
            with open_checkpoint(self._file(level)) as file:
                check_undamaged(self._file(level), file)
                self._kept = {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        self._set(self._kept)
        self.optimizer.lr *= SLOWER

    def start_anew(self, times: int) -> None:
        """Starts again with new parameters and a smaller rate; times: the starts before this."""
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
