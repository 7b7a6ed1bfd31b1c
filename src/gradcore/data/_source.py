"""Sources: batches at places, and the place where a training stands."""

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
    """Batches whose content is a function of epoch and index; derive from it for data of your own.

    epoch: passes done. position: batches of this pass that were taken. Iterating gives what is left
    of the current pass and moves the place along: `for batch in source` twice is two passes.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.position = 0

    @abstractmethod
    def __len__(self) -> int:
        """Batches in a pass."""

    @abstractmethod
    def batch(self, epoch: int, index: int) -> Batch:
        """The batch number `index` of the pass number `epoch`, the same every time."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Settings that decide the batches, as JSON values; a resumed run compares them."""

    def __repr__(self) -> str:
        settings = {k: v for k, v in self.describe().items() if k != "source"}
        return described(self, **settings, epoch=self.epoch, position=self.position)

    @property
    def part(self) -> float:
        """Share of the current pass that is done, to show progress."""
        return self.position / len(self)

    @property
    def float_dtype(self) -> np.dtype[Any] | None:
        """The dtype of floats in the batches, None if there are none or it is not known."""
        return None

    def take(self) -> Batch:
        """The batch at the current place, which moves to the next one."""
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
        """The place, as JSON values."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a place that state_dict told; raises ArgumentError for one that cannot be."""
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
    """A number that tells two lists of lengths apart."""
    return zlib.crc32(np.ascontiguousarray(numbers, dtype="<i8").tobytes())
