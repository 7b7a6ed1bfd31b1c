"""The complete job: read genomes, train, score held-out ones, save the net."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradcore as gd

from . import orfs, synthetic
from . import train as training
from .annotation import annotate
from .codes import BACTERIAL, GeneticCode, genetic_code
from .genome import Record
from .labels import Labels, classes_of, labels
from .prodigal import prodigal
from .records import read
from .remarks import Say, listed
from .report import Judged, Result, as_json
from .scores import gene_score, majority, score

__all__ = ["Job", "code_of_net", "judge", "run"]

# Synthetic genomes: bases of each, how many to train on, to validate, to test.
SYNTHETIC = 60_000, 8, 1, 2


@dataclass(frozen=True)
class Job:
    """What to do. train, validate, test: files; without any, synthetic genomes. only: names of
    records of validate and test that are judged (all if empty), as a file may hold copies.
    minutes: of training. bases: train on this many in any time, the same ones every time.
    checkpoint: where the net is kept. run, resume: as of gradcore.Trainer.fit. quiet: no progress.
    code: number of the genetic code of records that do not name theirs.
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
    code: int | None = None


def run(job: Job, say: Say = lambda line: None) -> Result | None:
    """Does the job; None if Ctrl-C ended the training, whose checkpoint is then saved.

    Raises GradcoreError for files or arguments that cannot be used.
    """
    begun = time.monotonic()
    training.build(job.options)  # raises errors for wrong sizes before any file is read
    usual = BACTERIAL if job.code is None else genetic_code(job.code)
    own, held = _synthetic(job, say) if not job.train else _read(job, say)
    truth = [(part, r, labels(r)) for part, records in held.items() for r in records]
    codes = _codes([*own, *(r for records in held.values() for r in records)], job, usual, say)
    kept = _code_of_training(own, codes, say)
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
        metadata={"genetic_code": kept.number},
        on_stage=lambda stage: say(f"{stage.steps:,} bases, {stage.batch} side by side"),
    )
    if trained.interrupted:
        return None
    judged = []
    for part, record, known in truth:
        say(f"judging {record.name}")
        code = codes[record]
        judged.append(judge(part, record, known, trained, job.options, code=code))
    result = Result(trained, tuple(judged), time.monotonic() - begun, not job.train, kept.number)
    gd.save(job.checkpoint, trained.net, trained.params, **as_json(result))
    return result


def _synthetic(job: Job, say: Say) -> tuple[list[Record], dict[str, list[Record]]]:
    """Returns synthetic records to train on, and by part those to be judged."""
    if job.validate or job.test:
        raise gd.ArgumentError("there is nothing to train on: give --train FILE as well.")
    length, *counts = SYNTHETIC
    made = {
        part: synthetic.genomes(count, length, job.options.seed, part)
        for count, part in zip(counts, ("train", "validate", "test"), strict=True)
    }
    say("no files are given: synthetic genomes, far easier than real ones")
    return made.pop("train"), _chosen(made, job.only)


def _read(job: Job, say: Say) -> tuple[list[Record], dict[str, list[Record]]]:
    """As _synthetic, from files. Raises ArgumentError if no record to train on has a gene."""
    # A file may be named twice: it is read once, and its remarks are printed once.
    every = dict.fromkeys([*job.train, *job.validate, *job.test])
    found = {path: read(path, say=say) for path in every}
    own = [record for path in job.train for record in found[path]]
    if all(record.genes == () for record in own):
        raise gd.ArgumentError(
            f"{listed([str(path) for path in job.train])}: there is nothing to learn, as no record "
            "has a gene (CDS) that can be used."
        )
    held = {
        part: [record for path in paths for record in found[path]]
        for part, paths in (("validate", job.validate), ("test", job.test))
    }
    return own, _chosen(held, job.only)


def _chosen(held: dict[str, list[Record]], only: Sequence[str]) -> dict[str, list[Record]]:
    """Returns the records of those names, with or without their version; all if there are none.

    Raises ArgumentError for a name that no record has.
    """
    names = [{r.name, r.name.split(".")[0]} for records in held.values() for r in records]
    for name in only:
        if not any(name in own for own in names):
            told = [r.name for records in held.values() for r in records]
            raise gd.ArgumentError(
                f"no record to score is called {name!r} (--only). There are: "
                f"{listed(told) or 'none; give --validate or --test'}."
            )
    return {
        part: [r for r in records if not only or r.name in only or r.name.split(".")[0] in only]
        for part, records in held.items()
    }


def _codes(
    records: Sequence[Record], job: Job, usual: GeneticCode, say: Say
) -> dict[Record, GeneticCode]:
    """Finds the genetic code of each record: the one that most of its CDS name, or the usual."""
    found: dict[Record, GeneticCode] = {}
    silent = []
    for record in records:
        told = record.codes.most_common()
        if len(told) > 1:
            counts = ", ".join(f"{number} ({count:,} CDS)" for number, count in told)
            say(f"{record.name} has CDS of the genetic codes {counts}; {told[0][0]} is used")
        if not told and record.genes:
            silent.append(record.name)
        found[record] = genetic_code(told[0][0]) if told else usual
    if silent and job.train and job.code is None:
        say(
            f"genetic code {usual.number}, that of bacteria, is used for {listed(silent)}, whose "
            "CDS name none (transl_table); --genetic-code chooses another"
        )
    return found


def _code_of_training(
    records: Sequence[Record], codes: Mapping[Record, GeneticCode], say: Say
) -> GeneticCode:
    """Returns the code by which `annotate` will call genes: that of most bases with genes."""
    bases: Counter[GeneticCode] = Counter()
    for record in records:
        bases[codes[record]] += len(record) if record.genes else 0
    kept = bases.most_common(1)[0][0]
    if sum(count > 0 for count in bases.values()) > 1:
        told = ", ".join(f"{code.number} ({count:,} bases)" for code, count in bases.items())
        say(
            f"the records to train on have the genetic codes {told}: annotate will use "
            f"{kept.number} unless --genetic-code names another"
        )
    return kept


def code_of_net(metadata: Mapping[str, Any]) -> GeneticCode:
    """Returns the genetic code in the metadata of a net of run(), 11 if there is none."""
    told = metadata.get("genetic_code")
    return genetic_code(told) if isinstance(told, int) else BACTERIAL


def judge(
    part: str,
    record: Record,
    known: Labels,
    trained: training.Trained,
    options: training.Options,
    *,
    code: GeneticCode = BACTERIAL,
) -> Judged:
    """Scores a record by the net, the most frequent class, the ORF rule and Prodigal."""
    found = annotate(
        trained.net,
        trained.params,
        record,
        code=code,
        threads=options.resources.threads,
        memory=options.resources.memory,
    )
    called = orfs.longest_orfs(record.letters, code=code, circular=record.circular)
    rule = classes_of(called, len(record))
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
