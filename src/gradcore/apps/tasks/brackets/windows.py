"""Training windows that grow when the net is good enough for longer ones, as a data source."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import gradcore as gd

from .. import staged
from .dataset import Corpus, Sampler
from .supply import checksum

__all__ = ["LEARN", "SETTLE", "Progress", "Stage", "Windows"]


@dataclass(frozen=True)
class Stage:
    """Windows of `steps` characters, `batch` side by side, some of whose pieces have a fault.

    corrupted: the share of pieces with a fault.
    """

    steps: int
    batch: int
    corrupted: float


# Many updates matter more than exact ones, so there are few windows side by side, and fewer the
# longer they are. Faults teach the net to believe its memory rather than the looks of the text.
# docs/decisions/0007-windows-of-the-bracket-job.md has the measurements.
LEARN = (Stage(256, 8, 0.3), Stage(1_024, 4, 0.4))
"""Stages at the full learning rate; each ends by the scores of the net."""
SETTLE = (Stage(1_024, 4, 0.4), Stage(4_096, 2, 0.4), Stage(24_576, 1, 0.4))
"""Stages while the rate falls to nearly nothing; each has the same share of the characters."""


@dataclass(frozen=True)
class Progress:
    """When stages end.

    good: a stage of LEARN ends at this score. patience: or after so many scores in a row that were
    not better than the best by `least`. settle, settle_least: SETTLE reads so many times the
    characters that LEARN has read, and at least so many. hurry: the share of the limits after which
    LEARN ends at the latest.
    """

    good: float = 0.965
    patience: int = 6
    least: float = 0.003
    settle: float = 1.0
    settle_least: int = 9_000_000
    hurry: float = 0.4


# The share of the time left for settling by which the clock must be ahead to shorten it.
_HEAD_START = 0.1
# The net trains on the first characters of all that were found, and on more the more it has read.
# So nearly no time is lost before the training, and each text is read two or three times.
_FIRST, _SHARE, _GROW = 1_500_000, 0.4, 500_000


class Windows(staged.Scheduled):
    """One pass of windows, which ends by the scores of the net, or at a limit.

    `scored` is told each score; it decides when longer windows begin and when the rate falls.
    seconds, characters: limits for the pass. If one is near before the net is good enough, the rest
    of the training is shortened so that the rate has fallen at the limit, and `hurried` is true.
    Without a limit in seconds that takes effect, a resumed run meets the same batches. on_stage:
    called with each stage when it begins.

    counts: batches taken of each stage of LEARN and then of SETTLE.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        seed: int,
        learn: Sequence[Stage] = LEARN,
        settle: Sequence[Stage] = SETTLE,
        progress: Progress | None = None,
        seconds: float = math.inf,
        characters: int | None = None,
        on_stage: Callable[[Stage], None] = lambda stage: None,
    ) -> None:
        super().__init__()
        self.progress = progress or Progress()
        self.stages = (*learn, *settle)
        self.counts = [0] * len(self.stages)
        self.hurried = False
        self._learn = len(learn)
        self._corpus = corpus
        self._seed = seed
        self._sampler = Sampler((), seed=seed)
        self._seconds = seconds
        self._characters = math.inf if characters is None else characters
        self._description = {
            "source": "brackets",
            "seed": seed,
            "limit": "none" if characters is None else f"{characters} characters",
            "files": corpus.described,
            "learn": [asdict(stage) for stage in learn],
            "settle": [asdict(stage) for stage in settle],
            "progress": asdict(self.progress),
        }
        self._on_stage = on_stage
        self._told: Stage | None = None
        # The stage of LEARN, or len(LEARN) while settling; scores since it began.
        self._reached = 0
        self._scores: list[float] = []
        # Where settling began: characters read, share of the limits used, characters to read.
        self._from, self._used_before, self._length = 0, 0.0, 1
        self._part = 0.0
        self._spent, self._start = 0.0, time.monotonic()
        self._now = 0.0

    @property
    def part(self) -> float:
        """Share of settling that was over before the latest batch; 0 until it begins."""
        return self._part

    @property
    def read(self) -> int:
        """Characters in the batches taken."""
        return sum(s.steps * s.batch * n for s, n in zip(self.stages, self.counts, strict=True))

    def scored(self, score: float) -> None:
        """Ends a stage of LEARN if the net is good enough, or has not become better for long."""
        if self._reached == self._learn:
            return
        own, scores = self.progress, self._scores
        scores.append(score)
        best = max(scores[: -own.patience], default=-math.inf)
        if score >= own.good or max(scores[-own.patience :]) < best + own.least:
            self._next()

    def __len__(self) -> int:
        """More than there can be: the scores or a limit end the pass."""
        return sys.maxsize

    def batch(self, epoch: int, index: int) -> gd.Batch:
        """The batch number `index`, if it is of the present stage."""
        self._extend()
        own = self.stages[self._stage()]
        return self._sampler.batch(index, own.steps, own.batch, own.corrupted)

    def take(self) -> gd.Batch:
        """The next batch; its stage follows from the scores and what was read until now."""
        before, self._now = self._now, self._elapsed() / self._seconds
        if self._reached < self._learn and self._used() >= self.progress.hurry:
            self.hurried, self._reached = True, self._learn - 1
            self._next()
        self._part = self._settled(self._now)
        stage = self._stage()
        if self.stages[stage] is not self._told:
            self._told = self.stages[stage]
            self._on_stage(self._told)
        self.on_batch(self.position)
        taken = self.batch(self.epoch, self.position)
        self.position += 1
        self.counts[stage] += 1
        # By the clock as well it is told now that the next update would begin too late: it takes
        # about as long from here to there as it took from the batch before.
        if self._settled(2 * self._now - before) >= 1 and self.counts[-1]:
            self.hurried = self.hurried or self.read < self._from + self._length
            self.epoch, self.position = self.epoch + 1, 0
        return taken

    def describe(self) -> dict[str, Any]:
        return self._description

    def state_dict(self) -> dict[str, Any]:
        """The place, what was taken of each stage, the scores, and the seconds spent."""
        return {
            **super().state_dict(),
            "counts": [*self.counts],
            "reached": self._reached,
            "scores": [*self._scores],
            "settling": [self._from, self._used_before, self._length],
            "hurried": self.hurried,
            "seconds": self._elapsed(),
            "documents": [len(self._sampler.documents), checksum(self._sampler.documents)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a place that state_dict told.

        Raises ArgumentError for one that cannot be, or if the texts were others.
        """
        if not self._possible(state):
            raise gd.ArgumentError(
                "the state of windows must have counts, reached, scores, settling, hurried, "
                f"seconds and documents as state_dict gives them; got {state!r}."
            )
        super().load_state_dict(state)
        self.counts = [*state["counts"]]
        self._reached, self._scores = state["reached"], [*state["scores"]]
        self._from, self._used_before, self._length = state["settling"]
        self.hurried = state["hurried"]
        self._spent, self._start = state["seconds"], time.monotonic()
        self._now = self._spent / self._seconds
        count, texts = state["documents"]
        wanted = self._corpus.train.first(self._wanted())[:count]
        self._sampler = Sampler(wanted, seed=self._seed)
        found = [len(self._sampler.documents), checksum(self._sampler.documents)]
        if found != [count, texts]:
            raise gd.ArgumentError(
                f"the files were {count:,} with texts of checksum {texts}, and are {found[0]:,} "
                f"with {found[1]}. Continue with the files as they were."
            )

    def _possible(self, state: dict[str, Any]) -> bool:
        counts, scores, settling = (state.get(n) for n in ("counts", "scores", "settling"))
        seconds, documents = state.get("seconds"), state.get("documents")
        return (
            isinstance(counts, list)
            and len(counts) == len(self.stages)
            and all(isinstance(n, int) and n >= 0 for n in counts)
            and state.get("reached") in range(self._learn + 1)
            and isinstance(scores, list)
            and all(isinstance(s, float) for s in scores)
            and isinstance(settling, list)
            and len(settling) == 3
            and all(isinstance(n, (int, float)) and n >= 0 for n in settling)
            and isinstance(state.get("hurried"), bool)
            and isinstance(seconds, float)
            and 0 <= seconds < math.inf
            and isinstance(documents, list)
            and [type(n) for n in documents] == [int, str]
        )

    def _next(self) -> None:
        self._reached += 1
        self._scores.clear()
        if self._reached == self._learn:
            own = self.progress
            self._from, self._used_before = self.read, self._used()
            self._length = max(own.settle_least, round(own.settle * self.read))

    def _elapsed(self) -> float:
        return self._spent + time.monotonic() - self._start

    def _used(self) -> float:
        return max(self._now, self.read / self._characters)

    def _settled(self, now: float) -> float:
        """The share of settling that is over if the share `now` of the time is."""
        if self._reached < self._learn:
            return 0.0
        left = max(1e-9, 1 - self._used_before)
        by_clock = (now - self._used_before) / left
        by_characters = (self.read / self._characters - self._used_before) / left
        return max(
            # Without a head start the clock would decide about the first updates of every training.
            (by_clock - _HEAD_START) / (1 - _HEAD_START),
            by_characters,
            (self.read - self._from) / self._length,
        )

    def _stage(self) -> int:
        if self._reached < self._learn:
            return self._reached
        settling = len(self.stages) - self._learn
        return self._learn + min(settling - 1, int(self._part * settling))

    def _wanted(self) -> int:
        """Characters of text to draw from after what was read until now."""
        return _FIRST + _GROW * int(_SHARE * self.read / _GROW)

    def _extend(self) -> None:
        have = len(self._sampler.documents)
        documents = self._corpus.train.first(self._wanted())
        self._sampler.extend(documents[have:])
