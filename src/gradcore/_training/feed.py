"""One interface for everything that Trainer.fit takes as data: batches in order, and a place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .._base.checks import integer
from ..data import Batch, Source
from ..data._contents import fingerprint
from ..errors import ArgumentError, DTypeError

__all__ = ["Data", "Feed", "feed_of"]

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


def _array(value: Any) -> Any:
    return None if value is None else np.atleast_1d(np.asarray(value))


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
        # Batches that are all there, whose numbers can be compared; those of others come later.
        self.listed = [batch for batch in listed if isinstance(batch, Batch)]
        self.epoch, self.position = 0, 0
        self.batches: Iterator[Batch] | None = None

    def take(self, last_epoch: int | None) -> Batch | None:
        while last_epoch is None or self.epoch < last_epoch:
            if self.batches is None:
                self.batches = self._start()
            batch = next(self.batches, None)
            if batch is not None:
                self.position += 1
                return batch
            if self.once or self.position == 0:
                return None
            self.epoch, self.position, self.batches = self.epoch + 1, 0, None
        return None

    def describe(self, contents: bool = False) -> dict[str, Any]:
        described: dict[str, Any] = {"source": "iterator" if self.once else "batches"}
        if contents and self.listed:
            described["contents"] = {
                name: fingerprint([a for a in arrays if a is not None])
                for name, arrays in (
                    (name, [_array(getattr(batch, name)) for batch in self.listed])
                    for name in ("x", "y", "weight", "lengths", "reset")
                )
            }
        return described

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Moves to a place by taking and dropping the batches before it.

        The data must give the same batches as the first time. Raises ArgumentError if there are
        fewer.
        """
        epoch = integer("epoch of the data", state.get("epoch"))
        position = integer("position of the data", state.get("position"))
        if epoch < 0 or position < 0:
            raise ArgumentError(f"the place of the data must not be negative; got {state!r}.")
        self.epoch, self.position = epoch, position
        self.batches = self._start()
        for taken in range(position):
            if next(self.batches, None) is None:
                raise ArgumentError(
                    f"the data end after {taken} batches of pass {epoch}, and the run has used "
                    f"{position} of this pass. Pass the data that the run started with, from "
                    "their start."
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
