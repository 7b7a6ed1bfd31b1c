"""The whole job: read genomes, train, judge on held-out ones, keep the net."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gradcore as gd

from . import orfs, synthetic
from . import train as training
from .annotation import annotate
from .genome import Record
from .labels import Labels, classes_of, labels
from .prodigal import prodigal
from .records import read
from .report import Judged, Result, as_json
from .scores import gene_score, majority, score

__all__ = ["Job", "judge", "run"]

# Synthetic genomes: bases of each, how many to train on, to validate, to test.
SYNTHETIC = 60_000, 8, 1, 2

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What to do. train, validate, test: files; without any, synthetic genomes. only: names of
    records of validate and test that are judged (all if empty), as a file may hold copies.
    minutes: of training. bases: train on so many whatever the time, the same ones every time.
    checkpoint: where the net is kept. run, resume: as of gradcore.Trainer.fit. quiet: no progress.
    """

    train: Sequence[Path] = ()
    validate: Sequence[Path] = ()
    test: Sequence[Path] = ()
    only: Sequence[str] = ()
    minutes: float = 20.0
    bases: int | None = None
    checkpoint: Path = Path("dna.safetensors")
    run: Path | None = None
    resume: bool = False
    options: training.Options = field(default_factory=training.Options)
    quiet: bool = False


def run(job: Job, say: Say = lambda line: None) -> Result | None:
    """Does the job; None if Ctrl-C ended the training, whose checkpoint is then saved.

    Raises GradcoreError for files or arguments of no use.
    """
    begun = time.monotonic()
    training.build(job.options)  # wrong sizes are told before any file is read
    if (job.validate or job.test) and not job.train:
        raise gd.ArgumentError("there is nothing to train on: give --train FILE as well.")
    made = not job.train
    if made:
        length, *counts = SYNTHETIC
        kinds = ("train", "validate", "test")
        own, *held = (
            synthetic.genomes(count, length, job.options.seed, kind)
            for count, kind in zip(counts, kinds, strict=True)
        )
        say("no files are given: synthetic genomes, far easier than real ones")
    else:
        own = [record for path in job.train for record in read(path)]
        held = [
            [record for path in paths for record in read(path)]
            for paths in (job.validate, job.test)
        ]
    held = [_chosen(records, job.only) for records in held]
    truth = [
        (part, r, labels(r))
        for part, records in zip(("validate", "test"), held, strict=True)
        for r in records
    ]
    bases = sum(map(len, own))
    say(f"training on {len(own):,} records, {bases:,} bases")
    trained = training.train(
        own,
        job.options,
        seconds=math.inf if job.bases is not None else 60.0 * job.minutes,
        bases=job.bases,
        checkpoint=job.checkpoint,
        run=job.run,
        resume=job.resume,
        quiet=job.quiet,
        on_stage=lambda stage: say(f"{stage.steps:,} bases, {stage.batch} side by side"),
    )
    if trained.interrupted:
        return None
    judged = []
    for part, record, known in truth:
        say(f"judging {record.name}")
        judged.append(judge(part, record, known, trained.net, trained.params, job.options))
    result = Result(trained, tuple(judged), time.monotonic() - begun, made)
    gd.save(job.checkpoint, trained.net, trained.params, **as_json(result))
    return result


def _chosen(records: list[Record], only: Sequence[str]) -> list[Record]:
    return [r for r in records if not only or r.name in only or r.name.split(".")[0] in only]


def judge(
    part: str,
    record: Record,
    known: Labels,
    net: gd.Stack,
    params: gd.Params,
    options: training.Options,
) -> Judged:
    """A record with its genes, by the net, the most frequent class, the ORF rule and Prodigal."""
    found = annotate(
        net, params, record, threads=options.resources.threads, memory=options.resources.memory
    )
    rule = classes_of(orfs.longest_orfs(record.letters), len(record))
    return Judged(
        part,
        found,
        known,
        score(known, found.classes),
        gene_score(record.genes or (), found.genes),
        majority(known),
        score(known, rule),
        prodigal(record, known),
    )
