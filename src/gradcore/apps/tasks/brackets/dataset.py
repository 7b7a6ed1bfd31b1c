"""Turns lexed files into training windows and whole documents, with the answers to learn."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from .... import _index
from . import lexing
from .answers import targets_of
from .corrupt import corrupt
from .lexing import Document, LexCache
from .sources import SourceError, SourceFile, held_out_groups
from .supply import Supply

VOCABULARY = 128
LONGEST_DOCUMENT = 100_000
"""Files of more characters are not used for evaluation."""

FAULT_STEPS = 10
"""A training piece ends so many characters after its fault is provable."""

_LARGEST_SHARE = 50_000


@dataclass(frozen=True)
class Weights:
    """The weight of the loss at each character, as a sum of these parts.

    every: at any character. closing: added before a closing bracket, one value for each power of
    ten of its distance. end: added at the last character of a document, where the answer shows a
    bracket that is left open. fault: added at each of the FAULT_STEPS characters from the first
    provable fault on. Later ones have no weight, because their answer never changes.
    """

    every: float = 0.3
    closing: tuple[float, ...] = (0.5, 1.0, 3.0, 3.0, 3.0)
    end: float = 10.0
    fault: float = 1.0

    def of(
        self,
        labels: NDArray[np.uint8],
        distances: NDArray[np.int64],
        fault: int,
        *,
        at_end: bool = False,
    ) -> NDArray[np.float32]:
        """Weights [n] float32 of characters, from the results of `bracket_labels`.

        at_end: whether the last character is the last of its document.
        """
        weights = np.full(labels.shape[0], self.every, dtype=np.float32)
        closing = np.flatnonzero(distances[1:] > 0)
        powers = np.log10(distances[closing + 1]).astype(np.int64)
        more = np.asarray(self.closing, dtype=np.float32)
        weights[closing] += more[np.minimum(powers, more.shape[0] - 1)]
        if 0 <= fault < labels.shape[0]:
            weights[fault : fault + FAULT_STEPS] += self.fault
            weights[fault + FAULT_STEPS :] = 0.0
        if at_end:
            weights[-1] += self.end
        return weights


class Corpus:
    """Balanced files in three parts that share no module and no text.

    validation, held_out: documents. train: a Supply of those to train on, which are lexed when they
    are asked for. notes: what was left out until now.
    """

    def __init__(
        self,
        files: Sequence[SourceFile],
        lex_cache: LexCache,
        *,
        held_out_characters: int,
        validation_characters: int,
        processes: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Reads and lexes as many validation and held-out files, in order, as fill these parts.

        Validation files come from modules that training would use, never from held-out ones. A text
        that occurs in two parts stays only in the one used for evaluation. progress is called with
        the number of characters of each lexed file. Raises SourceError if a part stays empty.
        """
        self._cache, self._processes = lex_cache, processes
        self._left_out: Counter[str] = Counter()
        self._seen: set[str] = set()
        whole = [file for file in files if file.size <= LONGEST_DOCUMENT]
        held_out = held_out_groups(files)
        own = [file for file in files if file.group not in held_out]
        validation = held_out_groups(own, salt="validation/")
        self.held_out = self._part(
            "held-out", whole, held_out, held_out_characters, progress=progress
        )
        self.validation = self._part(
            "validation", whole, validation, validation_characters, progress=progress
        )
        rest = [file for file in own if file.group not in validation]
        self.described = _told(rest)
        self.train = Supply(self._balanced(rest))

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(f"{count} {reason}" for reason, count in sorted(self._left_out.items()))

    def _part(
        self,
        name: str,
        files: Iterable[SourceFile],
        groups: frozenset[str],
        characters: int,
        *,
        progress: Callable[[int], None] | None,
    ) -> tuple[Document, ...]:
        chosen = _first((file for file in files if file.group in groups), characters)
        kept = tuple(self._balanced(chosen, progress))
        if not kept:
            why = "; ".join(self.notes)
            raise SourceError(
                f"no {name} file with balanced brackets among {len(chosen)} files"
                f"{f' ({why})' if why else ''}. Name a folder with more source code."
            )
        return kept

    def _balanced(
        self, files: Sequence[SourceFile], progress: Callable[[int], None] | None = None
    ) -> Iterator[Document]:
        """The files that balance and whose text was not seen before."""
        for document in lexing.load(
            files, self._cache, processes=self._processes, progress=progress
        ):
            if document is None:
                self._left_out["files that cannot be read"] += 1
            elif document.digest in self._seen:
                self._left_out["files that repeat another"] += 1
            elif _index.bracket_labels(document.characters, document.real)[2] != -1:
                self._left_out["files whose brackets do not balance"] += 1
            elif document.real.any():
                self._seen.add(document.digest)
                yield document


def _told(files: Sequence[SourceFile]) -> str:
    names = "".join(f"{file.name}\0{file.size}\0" for file in files)
    checksum = zlib.crc32(names.encode("utf-8", "surrogateescape"))
    return f"{len(files)} with names and sizes of checksum {checksum:08x}"


def _first(files: Iterable[SourceFile], budget: int) -> list[SourceFile]:
    chosen: list[SourceFile] = []
    taken = 0
    for file in files:
        if taken >= budget:
            break
        taken += file.size
        chosen.append(file)
    return chosen


class Sampler:
    """Draws training windows of any length from documents.

    Each sequence of a window is filled with pieces, one after another, each preceded by a reset. A
    piece starts at the beginning of a document or of a line outside every bracket, string and
    comment, so that no bracket is open there and the labels follow from the piece alone. A share of
    the pieces has one fault. A batch depends only on seed, number and size.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        *,
        seed: int,
        weights: Weights | None = None,
    ) -> None:
        self._documents: list[Document] = []
        self._starts: list[NDArray[np.int64]] = []
        self._lengths = np.zeros(0, dtype=np.int64)
        self._seed = seed
        self._weights = weights or Weights()
        self.extend(documents)

    @property
    def documents(self) -> Sequence[Document]:
        """The documents from which windows are drawn."""
        return self._documents

    def extend(self, documents: Sequence[Document]) -> None:
        """Draws from these documents as well."""
        self._documents.extend(documents)
        self._starts.extend(_index.fresh_starts(d.characters, d.kinds) for d in documents)
        self._lengths = np.array([len(document) for document in self._documents], dtype=np.int64)

    def batch(self, number: int, steps: int, batch: int, corrupted: float = 0.0) -> gd.Batch:
        """Draws batch number `number` with T = steps and B = batch; arrays are (T, B).

        They are x uint8, y int64 targets, weight float32 and reset bool. A share `corrupted` of the
        pieces has a fault. Long documents are preferred. Raises ValueError without documents.
        """
        if not self._documents:
            raise ValueError("documents must not be empty")
        rng = np.random.default_rng((self._seed, number))
        x = np.zeros((batch, steps), dtype=np.uint8)
        y = np.zeros((batch, steps), dtype=np.int64)
        weight = np.zeros((batch, steps), dtype=np.float32)
        reset = np.zeros((batch, steps), dtype=np.bool_)
        # Documents are drawn in proportion to their length up to a limit, so that none dominates,
        # and long windows come from long documents.
        odds = np.minimum(self._lengths, _LARGEST_SHARE) * np.minimum(self._lengths, steps)
        borders = np.cumsum(odds / odds.sum())
        for b in range(batch):
            t = 0
            while t < steps:
                piece = self._piece(rng, _pick(rng, borders), steps - t, corrupted)
                stop = t + piece.x.shape[0]
                x[b, t:stop], y[b, t:stop], weight[b, t:stop] = piece.x, piece.y, piece.weight
                reset[b, t] = True
                t = stop
        return gd.Batch(
            np.ascontiguousarray(x.T),
            np.ascontiguousarray(y.T),
            weight=np.ascontiguousarray(weight.T),
            reset=np.ascontiguousarray(reset.T),
        )

    def _piece(self, rng: np.random.Generator, index: int, most: int, corrupted: float) -> _Piece:
        document, starts = self._documents[index], self._starts[index]
        # The start is uniform over the document, but early enough to fill the window if possible.
        latest = max(1, len(document) - most)
        wanted = rng.integers(latest)
        start = int(starts[np.searchsorted(starts, wanted, side="right") - 1])
        characters = document.characters[start : start + most]
        kinds = document.kinds[start : start + most]
        if rng.random() < corrupted:
            changed = corrupt(characters, kinds, rng)
            if changed is not None:
                characters, kinds = changed.characters[:most], changed.kinds[:most]
        labels, distances, fault = _index.bracket_labels(characters, lexing.real_of(kinds))
        # One character is left over, so that an inserted one cannot push out the document's end.
        at_end = start + most > len(document)
        weights = self._weights.of(labels, distances, fault, at_end=at_end)
        stop = fault + FAULT_STEPS if fault >= 0 else len(labels)
        return _Piece(characters[:stop], targets_of(labels, kinds)[:stop], weights[:stop])


@dataclass(frozen=True)
class _Piece:
    x: NDArray[np.uint8]
    y: NDArray[np.uint8]
    weight: NDArray[np.float32]


def _pick(rng: np.random.Generator, borders: NDArray[np.float64]) -> int:
    index = int(np.searchsorted(borders, rng.random(), side="right"))
    return min(index, len(borders) - 1)
