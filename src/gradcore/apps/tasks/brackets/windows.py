"""Training windows that grow in stages, as a data source for the Trainer."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradcore as gd

from .. import staged
from .dataset import Sampler
from .lexing import Document

__all__ = ["STAGES", "Stage", "Windows"]


@dataclass(frozen=True)
class Stage(staged.Stage):
    """A stage of windows. corrupted: the share of their pieces that have a fault."""

    corrupted: float


# Many updates matter more than exact ones, so there are few windows side by side, and fewer the
# longer they are. A net trained only on windows of 256 characters fails in whole files (accuracy
# 0.49 at distances 10-100 in validation files after 7.5 million characters); with half of the
# characters in longer windows it does not (0.96 after 12 million). After 40 million characters, a
# last stage of 24,576 characters, which covers most files, gave 0.984 at distances 10-100 and 0.957
# at 100-1k; one of 12,288 gave 0.979 and 0.932. With more faults a net finds more faults, but also
# calls more intact files broken.
STAGES = (
    Stage(256, 8, 0.3, 0.03),
    Stage(1_024, 4, 0.3, 0.06),
    Stage(4_096, 2, 0.2, 0.1),
    Stage(24_576, 1, 0.2, 0.15),
)


class Windows(staged.Staged):
    """Windows of documents. characters: after so many the pass ends. Others: see Staged."""

    stages: tuple[Stage, ...]

    def __init__(
        self,
        documents: Sequence[Document],
        stages: Sequence[Stage],
        *,
        seed: int,
        seconds: float = math.inf,
        characters: int | None = None,
        described: dict[str, Any] | None = None,
        on_stage: Callable[[Any], None] = lambda stage: None,
    ) -> None:
        digests = "".join(document.digest for document in documents)
        super().__init__(
            stages,
            seconds=seconds,
            limit=characters,
            described={
                "source": "brackets",
                "seed": seed,
                "limit": "clock" if characters is None else f"{characters} characters",
                **(described or {}),
                "files": f"{len(documents)} with checksum {zlib.crc32(digests.encode()):08x}",
            },
            on_stage=on_stage,
        )
        self._sampler = Sampler(documents, seed=seed)

    def make(self, index: int, stage: int) -> gd.Batch:
        """Draws batch number `index` for a stage."""
        own = self.stages[stage]
        return self._sampler.batch(index, own.steps, own.batch, own.corrupted)
