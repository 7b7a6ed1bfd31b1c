"""Moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .._base.checks import float_in, integer
from .._base.reprs import Abbreviated, described
from .._base.state_reader import StateDict, StateReader
from .._net.stack import Params
from ..errors import ArgumentError, DTypeError

__all__ = ["Average"]


class Average:
    """Average of the parameters over the steps of training.

    params: the parameters that the optimizer updates; they are not copied. decay: the average a
    becomes decay*a + (1-decay)*p after every step; None makes it the plain mean over all steps.
    start: the first `start` updates are not averaged; until then the average equals the parameters.

    The average is kept in float64, so that small contributions are not lost to rounding, and takes
    8 bytes per parameter.

    Call update() after each step of the optimizer; evaluate within swapped(), or with .params.
    Raises ArgumentError or DTypeError for a wrong option.
    Reference: Polyak and Juditsky 1992; it does the same as torch.optim.swa_utils.AveragedModel.
    """

    def __init__(self, params: Params, decay: float | None = 0.999, start: int = 0) -> None:
        if not isinstance(params, Params):
            raise DTypeError(f"params must be gradcore.Params; got {type(params).__name__}.")
        self.decay = None if decay is None else float_in("decay", decay, 0.0, 1.0)
        self.start = integer("start", start)
        if self.start < 0:
            raise ArgumentError(f"start must be at least 0; got {self.start}.")
        self._source = params
        self._average = params.flat.astype(np.float64)
        self._rounded = params.copy()
        self._updates = 0
        self._swapped = False

    def __repr__(self) -> str:
        values = Abbreviated(f"{self._source.flat.size:,} values")
        return described(
            self, params=values, decay=self.decay, start=self.start, updates=self._updates
        )

    @property
    def updates(self) -> int:
        """How often update() was called since the last restart(), or since the start."""
        return self._updates

    @property
    def params(self) -> Params:
        """The averaged parameters, rounded to the dtype of the net; the same object every time."""
        np.copyto(self._rounded.flat, self._average, casting="same_kind")
        return self._rounded

    def update(self) -> None:
        """Adds the current parameters to the average.

        Raises ArgumentError within swapped(), where the parameters are the average itself.
        """
        self._not_swapped("update()")
        counted = self._updates - self.start  # the updates averaged before this one
        self._updates += 1
        if counted <= 0:
            np.copyto(self._average, self._source.flat)
            return
        change = self._source.flat - self._average
        change *= 1.0 / (counted + 1) if self.decay is None else 1.0 - self.decay
        self._average += change

    def restart(self) -> None:
        """Discards the average: the next update() counts as the first."""
        self._updates = 0

    @contextmanager
    def swapped(self) -> Iterator[Params]:
        """Puts the average into the parameters during a with block, then their own values back.

        They are put back after an error as well. Take no optimizer steps within the block.
        Raises ArgumentError if used within itself.
        """
        self._not_swapped("swapped()")
        own = self._source.flat.copy()
        self._swapped = True
        try:
            np.copyto(self._source.flat, self._average, casting="same_kind")
            yield self._source
        finally:
            np.copyto(self._source.flat, own)
            self._swapped = False

    def state_dict(self) -> StateDict:
        """The average and its number of updates."""
        return {"kind": "average", "updates": self._updates, "average": self._average.copy()}

    def load_state_dict(self, state: StateDict) -> None:
        """Continues from a state dict; decay and start stay those of this object.

        Raises ArgumentError, DTypeError or ShapeError naming the key, and changes nothing then.
        """
        self._not_swapped("load_state_dict()")
        read = StateReader("Average", state, "average", ("updates", "average"))
        updates, average = read.integer("updates"), read.array("average", self._average)
        self._updates = updates
        np.copyto(self._average, average)

    def _not_swapped(self, what: str) -> None:
        if self._swapped:
            raise ArgumentError(
                f"{what} must not be called within Average.swapped(), where the parameters are the "
                "average; leave the block first."
            )
