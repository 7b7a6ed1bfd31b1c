"""One interface for everything that Trainer.fit takes as data: batches in order, and a place."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.checks import integer
from .._base.named import flat
from ..data import Batch, Source
from ..data._contents import fingerprint
from ..data._rows import is_rows
from ..errors import ArgumentError, DTypeError

__all__ = ["ARRAYS", "Data", "Feed", "feed_of"]

# The arrays of a batch whose numbers are compared when a run is resumed.
ARRAYS = ("x", "y", "weight", "lengths", "reset", "static")

Data = Source | Iterable[Batch] | Callable[[int], Iterable[Batch]]


class Feed(ABC):
    """Batches in order. epoch: passes done; part: share of the current pass, 0 if not known."""

    epoch: int
    part: float = 0.0

    @abstractmethod
    def take(self, last_epoch: int | None) -> Batch | None:
        """The next batch; None after last_epoch passes or if there are no more batches."""

    @abstractmethod
    def describe(self, contents: bool = False) -> dict[str, Any]:
        """What determines the batches; with contents also fingerprints of the numbers."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    @abstractmethod
    def rewind(self, state: dict[str, Any]) -> None:
        """Returns to an earlier place, for batches that were taken but not used, if possible."""


def feed_of(data: object, epochs: int | None) -> Feed:
    """The Feed for data; raises DTypeError for other types, ArgumentError for an iterator that
    would be needed for several passes.
    """
    if isinstance(data, Source):
        return _SourceFeed(data)
    if isinstance(data, np.ndarray) or is_rows(data):
        raise DTypeError(
            "data must say which numbers are inputs and which are targets, as "
            'gradcore.data.Stream(table[["a", "b"]], table[["c"]], k1=200) does for one long '
            "recording and gradcore.data.Sequences for many sequences; got "
            f"{type(data).__module__}.{type(data).__name__}."
        )
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, dict)):
        listed = data if isinstance(data, (list, tuple)) else ()
        return _IterableFeed(lambda epoch: data, iter(data) is data, epochs, listed)
    if callable(data) and not isinstance(data, type):
        return _IterableFeed(data, False, epochs)
    raise DTypeError(
        "data must be a source of gradcore.data (Sequences, Stream), an iterable of "
        "gradcore.Batch, or a function that returns one for the number of a pass; got "
        f"{type(data).__name__}."
    )


def _arrays_of(batch: Batch, names: Sequence[str] = ARRAYS) -> list[NDArray[Any]]:
    """The arrays of a batch that are there."""
    given = [value for name in names for value in flat(getattr(batch, name))]
    return [np.atleast_1d(np.asarray(value)) for value in given if value is not None]


class _SourceFeed(Feed):
    def __init__(self, source: Source) -> None:
        self.source = source

    @property
    def epoch(self) -> int:  # type: ignore[override]
        return self.source.epoch

    @property
    def part(self) -> float:  # type: ignore[override]
        return self.source.part

    def take(self, last_epoch: int | None) -> Batch | None:
        if last_epoch is not None and self.epoch >= last_epoch:
            return None
        return self.source.take()

    def describe(self, contents: bool = False) -> dict[str, Any]:
        described = {**self.source.describe(), "roles": self.source.roles}
        return {**described, "contents": self.source.contents()} if contents else described

    def state_dict(self) -> dict[str, Any]:
        return self.source.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.source.load_state_dict(state)

    def rewind(self, state: dict[str, Any]) -> None:
        self.source.load_state_dict(state)


class _IterableFeed(Feed):
    """One iterable for each pass; the place is the number of batches taken from it."""

    def __init__(
        self,
        make: Callable[[int], Iterable[Batch]],
        once: bool,
        epochs: int | None,
        listed: Sequence[Batch] = (),
    ) -> None:
        if once and epochs is not None and epochs > 1:
            raise ArgumentError(
                f"epochs={epochs} needs data that can be iterated over several times, and an "
                "iterator cannot. Pass a list, a source of gradcore.data, or a function "
                "epoch -> batches."
            )
        self.make, self.once = make, once
        # The numbers of batches that are all there are compared before the training goes on. Those
        # of others come later, so a hash of those taken in this pass is part of the place.
        self.listed = [batch for batch in listed if isinstance(batch, Batch)]
        self.epoch, self.position, self.taken = 0, 0, ""
        self.batches: Iterator[Batch] | None = None

    def take(self, last_epoch: int | None) -> Batch | None:
        while last_epoch is None or self.epoch < last_epoch:
            if self.batches is None:
                self.batches = self._start()
            batch = next(self.batches, None)
            if batch is not None:
                self._count(batch)
                return batch
            if self.once or self.position == 0:
                return None
            self.epoch, self.position, self.taken = self.epoch + 1, 0, ""
            self.batches = None
        return None

    def _count(self, batch: object) -> None:
        """Counts a batch that was taken, with its numbers where they are not known yet."""
        self.position += 1
        if not self.listed and isinstance(batch, Batch):
            now = f"{self.taken} {fingerprint(_arrays_of(batch))}"
            self.taken = hashlib.blake2b(now.encode(), digest_size=16).hexdigest()

    def describe(self, contents: bool = False) -> dict[str, Any]:
        described: dict[str, Any] = {"source": "iterator" if self.once else "batches"}
        if contents and self.listed:
            described["contents"] = {
                name: fingerprint([a for b in self.listed for a in _arrays_of(b, (name,))])
                for name in ARRAYS
                # Runs from before there was static have no entry for it.
                if name != "static" or any(b.static is not None for b in self.listed)
            }
        return described

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position, "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Moves to a place by taking and dropping the batches before it.

        The data must give the same batches as the first time. Raises ArgumentError if there are
        fewer, or others.
        """
        epoch = integer("epoch of the data", state.get("epoch"))
        position = integer("position of the data", state.get("position"))
        if epoch < 0 or position < 0:
            raise ArgumentError(f"the place of the data must not be negative; got {state!r}.")
        self.epoch, self.position, self.taken = epoch, 0, ""
        self.batches = self._start()
        while self.position < position:
            batch = next(self.batches, None)
            if batch is None:
                raise ArgumentError(
                    f"the data end after {self.position} batches of pass {epoch}, and the run has "
                    f"used {position} of this pass. Pass the data that the run started with, from "
                    "their start."
                )
            self._count(batch)
        # Checkpoints of earlier versions have no hash.
        if state.get("taken", self.taken) != self.taken:
            raise ArgumentError(
                f"the numbers in the first {position} batches of pass {epoch} are others than "
                "those that the run has used. Pass the data that the run started with, from their "
                "start."
            )

    def rewind(self, state: dict[str, Any]) -> None:
        """Does nothing: an iterator cannot go back, and other iterables restart in every fit."""

    def _start(self) -> Iterator[Batch]:
        made = self.make(self.epoch)
        if not isinstance(made, Iterable):
            raise DTypeError(
                "the data function must return an iterable of gradcore.Batch for the number of a "
                f"pass; got {type(made).__name__}."
            )
        return iter(made)
