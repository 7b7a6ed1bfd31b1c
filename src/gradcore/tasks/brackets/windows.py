"""Training windows that grow by stages, as a data source for the Trainer."""

from __future__ import annotations

import math
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import gradcore as gd
from gradcore.tasks.brackets.dataset import Sampler
from gradcore.tasks.brackets.lexing import Document

__all__ = ["STAGES", "Stage", "Windows"]


@dataclass(frozen=True)
class Stage:
    """Windows of `steps` characters, `batch` side by side, for a share of the training time.

    corrupted: share of the windows' pieces that have a fault.
    """

    steps: int
    batch: int
    share: float
    corrupted: float


# The number of updates decides, not their precision: few windows side by side, and fewer the longer
# they are. On 256 characters alone a net loses count in whole files (0.49 at distances 10-100 of
# validation files after 7.5 million characters); with half of them in longer windows it does not
# (0.96 after 12). After 40 million, a last stage at 24,576 gave 0.984 at distances 10-100 and 0.957
# at 100-1k, one at 12,288 gave 0.979 and 0.932: gradients now pass over whole files.
# More faults teach to find faults, and make a net call intact files broken.
STAGES = (
    Stage(256, 8, 0.3, 0.03),
    Stage(1_024, 4, 0.3, 0.06),
    Stage(4_096, 2, 0.2, 0.1),
    Stage(24_576, 1, 0.2, 0.15),
)


class Windows(gd.data.Source):
    """One pass of windows, which ends when `seconds` or `characters` are used up.

    Every stage has its share of that, the last at least one batch. What a batch holds follows from
    seed, number and stage, and the stage from the characters read before it: without a limit in
    seconds a resumed run meets the same batches. By the clock it goes on with the seconds left.
    described: what else must be the same for a run to be gone on with, as JSON values.
    on_batch: called with the number and the stage of each batch before it is made.

    counts: batches taken of each stage.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        stages: Sequence[Stage],
        *,
        seed: int,
        seconds: float = math.inf,
        characters: int | None = None,
        described: dict[str, Any] | None = None,
        on_batch: Callable[[int, Stage], None] = lambda number, stage: None,
    ) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.counts = [0] * len(self.stages)
        self._sampler = Sampler(documents, seed=seed)
        self._seconds = seconds
        self._characters = math.inf if characters is None else characters
        digests = "".join(document.digest for document in documents)
        self._description = {
            "source": "brackets",
            "seed": seed,
            "limit": "clock" if characters is None else f"{characters} characters",
            **(described or {}),
            "stages": [asdict(stage) for stage in self.stages],
            "files": f"{len(documents)} with checksum {zlib.crc32(digests.encode()):08x}",
        }
        self._on_batch = on_batch
        self._spent, self._start = 0.0, time.monotonic()
        self._part = self._time = 0.0

    @property
    def part(self) -> float:
        """Share of the time or the characters that was used before the latest batch."""
        return self._part

    @property
    def read(self) -> int:
        """Characters in the batches taken."""
        return sum(s.steps * s.batch * n for s, n in zip(self.stages, self.counts, strict=True))

    def __len__(self) -> int:
        """More than there can be: time or characters end the pass."""
        return sys.maxsize

    def batch(self, epoch: int, index: int) -> gd.Batch:
        """The batch number `index`, if it is of the present stage."""
        stage = self.stages[self._stage()]
        return self._sampler.batch(index, stage.steps, stage.batch, stage.corrupted)

    def take(self) -> gd.Batch:
        """The next batch; the stage is that of the time or of the characters read until now."""
        before, self._time = self._time, self._elapsed() / self._seconds
        self._part = max(self._time, self.read / self._characters)
        stage = self._stage()
        self._on_batch(self.position, self.stages[stage])
        taken = self.batch(self.epoch, self.position)
        self.position += 1
        self.counts[stage] += 1
        # By the clock as well it is told now that the next update would begin too late: it takes
        # about as long from here to there as it took from the batch before.
        used = max(2 * self._time - before, self.read / self._characters)
        if used >= 1 and self.counts[-1]:
            self.epoch, self.position = self.epoch + 1, 0
        return taken

    def describe(self) -> dict[str, Any]:
        return self._description

    def state_dict(self) -> dict[str, Any]:
        """The place, the batches taken of each stage, and the seconds spent."""
        return {**super().state_dict(), "counts": [*self.counts], "seconds": self._elapsed()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a place that state_dict told; raises ArgumentError for one that cannot be."""
        counts, seconds = state.get("counts"), state.get("seconds")
        if (
            not isinstance(counts, list)
            or len(counts) != len(self.stages)
            or not all(isinstance(n, int) and n >= 0 for n in counts)
            or not isinstance(seconds, float)
            or not 0 <= seconds < math.inf
        ):
            raise gd.ArgumentError(
                f"the state of windows must have counts, {len(self.stages)} whole numbers >= 0, "
                f"and seconds >= 0; got {counts!r} and {seconds!r}."
            )
        super().load_state_dict(state)
        self.counts = [*counts]
        self._spent, self._start = seconds, time.monotonic()
        self._time = seconds / self._seconds

    def _elapsed(self) -> float:
        return self._spent + time.monotonic() - self._start

    def _stage(self) -> int:
        """Where the part used lies among the shares."""
        part = self._part * sum(stage.share for stage in self.stages)
        for index, stage in enumerate(self.stages):
            part -= stage.share
            if part < 0:
                return index
        return len(self.stages) - 1
