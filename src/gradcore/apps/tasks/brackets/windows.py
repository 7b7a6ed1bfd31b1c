"""Training windows that grow when the net is good enough for longer ones, as a data source."""

from __future__ import annotations

import math
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
    """Windows of a training that ends by the scores of the net, or at a limit.

    `scored` is told each score; it decides when longer windows begin and when the rate falls. part
    is the share of settling that is over, and 0 until it begins. seconds, characters: limits. If
    one is near before the net is good enough, the rest of the training is shortened so that the
    rate has fallen at the limit, and `hurried` is true. Without a limit in seconds that takes
    effect, a resumed run meets the same batches. Others: see Scheduled; counts are of the stages of
    LEARN and then of SETTLE.
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
        self.progress = progress or Progress()
        super().__init__(
            (*learn, *settle),
            seconds=seconds,
            described={
                "source": "brackets",
                "seed": seed,
                "limit": "none" if characters is None else f"{characters} characters",
                "files": corpus.described,
                "learn": [asdict(stage) for stage in learn],
                "settle": [asdict(stage) for stage in settle],
                "progress": asdict(self.progress),
            },
            on_stage=on_stage,
        )
        self._learn = len(learn)
        self._corpus = corpus
        self._seed, self._sampler = seed, Sampler((), seed=seed)
        self._asked = 0
        self._characters = math.inf if characters is None else characters
        # The stage of LEARN, or len(LEARN) while settling; scores since it began.
        self._reached = 0
        self._scores: list[float] = []
        # Where settling began: characters read, share of the limits used, characters to read.
        self._from, self._used_before, self._length = 0, 0.0, 1
        self._cut = False

    @property
    def hurried(self) -> bool:
        """Whether a limit shortened the training."""
        return self._cut or (self.epoch > 0 and self.read < self._from + self._length)

    def scored(self, score: float) -> None:
        """Ends a stage of LEARN if the net is good enough, or has not become better for long."""
        if self._reached == self._learn:
            return
        own, scores = self.progress, self._scores
        scores.append(score)
        best = max(scores[: -own.patience], default=-math.inf)
        if score >= own.good or max(scores[-own.patience :]) < best + own.least:
            self._next()

    def make(self, index: int, stage: int) -> gd.Batch:
        """Draws batch number `index` for a stage."""
        wanted = self._wanted()
        if wanted > self._asked:
            self._asked = wanted
            have = len(self._sampler.documents)
            self._sampler.extend(self._corpus.train.first(wanted)[have:])
        own = self.stages[stage]
        return self._sampler.batch(index, own.steps, own.batch, own.corrupted)

    def state_dict(self) -> dict[str, Any]:
        """That of Scheduled, the scores, where settling began, and which texts were drawn from."""
        return {
            **super().state_dict(),
            "reached": self._reached,
            "scores": [*self._scores],
            "settling": [self._from, self._used_before, self._length],
            "cut": self._cut,
            "documents": [len(self._sampler.documents), checksum(self._sampler.documents)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a place that state_dict told.

        Raises ArgumentError for one that cannot be, or if the texts were others.
        """
        if not self._possible(state):
            raise gd.ArgumentError(
                "the state of windows must have, beside counts and seconds, reached, scores, "
                f"settling, cut and documents as state_dict gives them; got {state!r}."
            )
        super().load_state_dict(state)
        self._reached, self._scores = state["reached"], [*state["scores"]]
        self._from, self._used_before, self._length = state["settling"]
        self._cut, self._asked = state["cut"], 0
        count, texts = state["documents"]
        wanted = self._corpus.train.first(self._wanted())[:count]
        self._sampler = Sampler(wanted, seed=self._seed)
        found = [len(wanted), checksum(wanted)]
        if found != [count, texts]:
            raise gd.ArgumentError(
                f"the files were {count:,} with texts of checksum {texts}, and are {found[0]:,} "
                f"with {found[1]}. Continue with the files as they were."
            )

    def _possible(self, state: dict[str, Any]) -> bool:
        scores, settling, documents = (state.get(n) for n in ("scores", "settling", "documents"))
        return (
            state.get("reached") in range(self._learn + 1)
            and isinstance(scores, list)
            and all(isinstance(s, float) for s in scores)
            and isinstance(settling, list)
            and len(settling) == 3
            and all(isinstance(n, (int, float)) and n >= 0 for n in settling)
            and isinstance(state.get("cut"), bool)
            and isinstance(documents, list)
            and [type(n) for n in documents] == [int, str]
        )

    def _arrive(self) -> None:
        if self._reached < self._learn and self._used() >= self.progress.hurry:
            self._cut, self._reached = True, self._learn - 1
            self._next()

    def _next(self) -> None:
        self._reached += 1
        self._scores.clear()
        if self._reached == self._learn:
            own = self.progress
            self._from, self._used_before = self.read, self._used()
            self._length = max(own.settle_least, round(own.settle * self.read))

    def _used(self) -> float:
        """The share of the limits that is used."""
        return max(self._time, self.read / self._characters)

    def _over(self, time: float) -> float:
        """The share of settling that is over."""
        if self._reached < self._learn:
            return 0.0
        left = max(1e-9, 1 - self._used_before)
        by_clock = (time - self._used_before) / left
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
