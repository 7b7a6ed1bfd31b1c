"""The complete job: leave a species out, train on the others, score; for every species in turn."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

from ....horizon import reach
from ...settings import Safeguards
from ..dna import train as training
from ..dna.genome import Record
from ..dna.labels import tokens
from ..dna.reading import probabilities
from ..dna.records import read
from ..dna.remarks import Say, listed
from ..staged import Pace, Stage
from . import regions, scores
from .report import SCORES, Judged, Result, Track

__all__ = ["PROPHAGES", "STAGES", "Job", "Options", "Unwatched", "run"]

# A region is 40,000 bases wide: the last stage holds a whole one with both its ends.
STAGES = (Stage(10_000, 8, 0.5), Stage(100_000, 1, 0.5))
PROPHAGES = training.Labelling(
    "prophage", len(regions.CLASSES), regions.labels, regions.reverse_labels, regions.regions
)
# Of a chromosome that is judged: windows of 100,000, of which the middle is kept.
PIECE, BESIDE = 60_000, 20_000
# The reach of the gradient is measured over this many bases.
REACH = 100_000


@dataclass(frozen=True)
class Unwatched(Safeguards):
    """Safeguards without a watch, which needs the folder of a run."""

    watch: int | None = None


@dataclass(frozen=True)
class Options(training.Options):
    """The options of `train dna`, with stages of their own and without residual."""

    residual: bool = False
    stages: Sequence[Stage] = STAGES
    pace: Pace = field(default_factory=lambda: Pace(lr=2e-3, steady=0.1))


@dataclass(frozen=True)
class Job:
    """What to do. files: GenBank, or FASTA with GFF3, of at least two species. leave_out: names of
    records that are not used, as a file may hold copies. species: hold out only these, none: each
    that has prophages. minutes: of training, for each species that is held out. bases: train on so
    many whatever the time. checkpoint: where the nets are kept, the species in the name before the
    suffix. Others as of tasks.dna.job.Job.
    """

    files: Sequence[Path]
    leave_out: Sequence[str] = ()
    species: Sequence[str] = ()
    minutes: float = 3.0
    bases: int | None = None
    checkpoint: Path = Path("prophage.safetensors")
    options: training.Options = field(default_factory=Options)
    quiet: bool = False

    def net_of(self, species: str) -> Path:
        """Where the net is kept that was trained with this species left out."""
        told = "_".join(re.findall(r"\w+", species))
        return self.checkpoint.with_name(f"{self.checkpoint.stem}-{told}{self.checkpoint.suffix}")


def run(job: Job, say: Say = lambda line: None) -> Result | None:
    """Does the job; None if Ctrl-C ended a training.

    Raises GradcoreError for files or arguments that cannot be used.
    """
    begun = time.monotonic()
    training.build(job.options, PROPHAGES.classes)  # errors come before reading
    records = _used([record for path in job.files for record in read(path, say=say)], job.leave_out)
    groups = regions.by_species(records)
    marked = {name: sum(len(regions.regions(r)) for r in own) for name, own in groups.items()}
    known = [name for name, count in marked.items() if count]
    if len(known) < 2:
        told = ", ".join(f"{name}: {count}" for name, count in marked.items()) or "none"
        raise gd.ArgumentError(
            "two species with prophages are needed, one to learn from and one to be judged; a CDS "
            f"of a prophage is marked /is_phage. Regions by species: {told}."
        )
    for name in job.species:
        if name not in known:
            raise gd.ArgumentError(
                f"no species {name!r} with prophages in the files. There are: {', '.join(known)}."
            )
    judged = []
    for name in job.species or known:
        others = [r for other, own in groups.items() if other != name for r in own]
        bases = sum(map(len, others))
        say(f"{name} held out: training on {len(others):,} records, {bases:,} bases")
        trained = training.train(
            others,
            job.options,
            PROPHAGES,
            seconds=math.inf if job.bases is not None else 60.0 * job.minutes,
            bases=job.bases,
            checkpoint=job.net_of(name),
            quiet=job.quiet,
            on_stage=lambda stage: say(f"{stage.steps:,} bases, {stage.batch} side by side"),
        )
        if trained.interrupted:
            return None
        say(f"judging {name}")
        judged.append(judge(name, groups[name], others, trained, job.options))
        last = judged[-1]
        say(f"AUROC {last.net:.3f}, averaged {last.smooth:.3f}, 6-mers {last.kmers:.3f}")
    return Result(tuple(judged), job.options, time.monotonic() - begun)


def _used(records: list[Record], leave_out: Sequence[str]) -> list[Record]:
    """Returns all records but those of some names, with or without their version.

    Raises ArgumentError for a name that no record has.
    """
    for name in leave_out:
        if not any(name in (r.name, r.name.split(".")[0]) for r in records):
            raise gd.ArgumentError(
                f"no record is called {name!r} (--leave-out). There are: "
                f"{listed([r.name for r in records])}."
            )
    return [r for r in records if not {r.name, r.name.split(".")[0]} & {*leave_out}]


def judge(
    name: str,
    own: Sequence[Record],
    others: Sequence[Record],
    trained: training.Trained,
    options: training.Options,
) -> Judged:
    """AUROC over all bins of a species, of the net and of 6-mers learned from the others."""
    weights = scores.kmer_weights(others)
    tracks = []
    for record in own:
        odds = _log_odds(trained, record, options)
        tracks.append(
            Track(
                record.name,
                scores.truth(record),
                scores.binned(odds),
                scores.averaged(odds),
                scores.by_kmers(weights, record),
            )
        )
    truth = np.concatenate([track.truth for track in tracks])
    found = {
        score: scores.auroc(truth, np.concatenate([getattr(track, score) for track in tracks]))
        for score in SCORES
    }
    longest = max(own, key=len)
    far = reach(
        trained.net,
        trained.params,
        tokens(longest.letters[:REACH], options.width).astype(np.int64)[:, None],
        threads=options.resources.threads,
        memory=options.resources.memory,
    )
    return Judged(
        name,
        tuple(tracks),
        reach=int(far.memory_length()[0]),
        trained=trained,
        **found,
    )


def _log_odds(
    trained: training.Trained, record: Record, options: training.Options
) -> NDArray[np.float64]:
    made = probabilities(
        trained.net,
        trained.params,
        record.letters,
        width=options.width,
        reverse=regions.REVERSED,
        piece=PIECE,
        beside=BESIDE,
        circular=record.circular,
        threads=options.resources.threads,
        memory=options.resources.memory,
    )
    odds: NDArray[np.float64] = np.log(np.maximum(made[:, 1], 1e-12))
    odds -= np.log(np.maximum(made[:, 0], 1e-12))
    return odds
