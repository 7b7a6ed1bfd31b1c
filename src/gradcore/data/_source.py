"""The base class of sources: batches by epoch and index, and the place that is reached."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.checks import integer
from .._base.reprs import described
from ..errors import ArgumentError
from ._batch import Batch

__all__ = ["Source", "checksum"]


class Source(ABC):
    """Batches whose content depends on epoch and index alone; derive from it for your own data.

    epoch: the number of passes done. position: the number of batches of this pass taken so far.
    roles: what the numbers stand for, as JSON values of your own, such as the names of columns; a
    resumed run compares them. Iterating gives the rest of the current pass and moves the place
    along: `for batch in source` twice makes two passes.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.position = 0
        self.roles: dict[str, Any] = {}

    @abstractmethod
    def __len__(self) -> int:
        """The number of batches in a pass."""

    @abstractmethod
    def batch(self, epoch: int, index: int) -> Batch:
        """Batch number `index` of pass number `epoch`; it must be the same at every call."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The settings that determine the batches, as JSON values; a resumed run compares them."""

    def contents(self) -> dict[str, str]:
        """A fingerprint of the numbers themselves by role, such as "x" and "y".

        A resumed run compares them. Override it for your own data; without it such a run compares
        only what describe() gives, which is enough for numbers that follow from a seed in it.
        """
        return {}

    def __repr__(self) -> str:
        settings = {k: v for k, v in self.describe().items() if k != "source"}
        return described(self, **settings, epoch=self.epoch, position=self.position)

    @property
    def part(self) -> float:
        """The share of the current pass that is done, in [0, 1), for showing progress."""
        return self.position / len(self)

    @property
    def float_dtype(self) -> np.dtype[Any] | None:
        """The dtype of the floats in batches; None if they hold none or it is not known."""
        return None

    def take(self) -> Batch:
        """Returns the batch at the current place and moves the place to the next batch."""
        taken = self.batch(self.epoch, self.position)
        self.position += 1
        if self.position == len(self):
            self.epoch, self.position = self.epoch + 1, 0
        return taken

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch
        while self.epoch == epoch:
            yield self.take()

    def state_dict(self) -> dict[str, Any]:
        """The place, epoch and position, as JSON values."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Moves to a place that state_dict gave; raises ArgumentError if there is no such place."""
        place = {}
        for name in ("epoch", "position"):
            if name not in state:
                raise ArgumentError(f"the state of a source must have {name!r}; got {state!r}.")
            place[name] = integer(f"{name} of the source", state[name])
        if place["epoch"] < 0 or not 0 <= place["position"] < len(self):
            raise ArgumentError(
                "the place of a source must be an epoch >= 0 and a position in "
                f"0..{len(self) - 1}; got {place['epoch']} and {place['position']}."
            )
        self.epoch, self.position = place["epoch"], place["position"]


def checksum(numbers: NDArray[np.int64]) -> int:
    """The CRC-32 of a list of lengths, by which a resumed run notices other data."""
    return zlib.crc32(np.ascontiguousarray(numbers, dtype="<i8").tobytes())
