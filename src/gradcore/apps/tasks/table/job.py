"""The whole job in order: read the table, part it, train, judge on the test part, keep the net."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from . import report, train
from .columns import counted
from .dataset import Dataset, load
from .references import references
from .roles import Roles
from .schema import Missing
from .scores import judge
from .sequences import TEST, TRAIN, VALIDATION, Split
from .wanted import Wanted

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What to do. wanted: how the files are written. minutes, updates: the training at most.

    missing, classify, split: see load in dataset.py. out: where the net is kept. on_training:
    called when the files have been read, before the training.
    """

    paths: Sequence[str | os.PathLike[str]]
    roles: Roles
    wanted: Wanted = field(default_factory=Wanted)
    missing: Missing = "error"
    classify: bool | None = None
    split: Split | None = None
    minutes: float | None = 10.0
    updates: int | None = None
    out: str | os.PathLike[str] = "table.safetensors"
    options: train.Options = field(default_factory=train.Options)
    on_training: Callable[[], None] = lambda: None


def run(job: Job, say: Say = lambda line: None) -> report.Result | train.Trained:
    """Does the job; only what was trained if Ctrl-C ended that, whose best net is then saved.

    say is called with a line per phase. Raises GradcoreError for files or arguments of no use.
    """
    start = time.monotonic()
    data = load(
        job.paths,
        job.roles,
        job.wanted,
        missing=job.missing,
        classify=job.classify,
        split=job.split,
        seed=job.options.seed,
    )
    for note in data.notes:
        say(note)
    for line in described(data):
        say(line)
    job.on_training()
    say(f"the score of a training: {report.measure(data.schema.target)}, on the validation part")
    trained = train.train(data, job.options, minutes=job.minutes, updates=job.updates, say=say)
    model = trained.model
    model.save(job.out)
    if trained.interrupted:
        return trained
    threads = job.options.resources.threads
    judged = judge(model, data, TEST, threads=threads, memory=job.options.resources.memory)
    chosen = np.flatnonzero(data.parts == VALIDATION)
    result = report.Result(
        data,
        trained,
        judged,
        references(data, judged.places, trained.ridge, threads=threads),
        references(data, chosen, trained.ridge, threads=threads),
        time.monotonic() - start,
        job.options,
    )
    model.save(job.out, result=report.as_json(result))
    return result


def described(data: Dataset) -> list[str]:
    """What was found in the table, for people."""
    schema, target = data.schema, data.schema.target
    lengths = data.groups.lengths
    count = len(lengths)
    shape = f"{counted(int(lengths.sum()), 'row')} in {counted(count, 'sequence')}"
    if count > 1:
        shape += f" of {lengths.min():,} to {lengths.max():,} (median {int(np.median(lengths)):,})"
    names = [
        f"{f.name} ({len(f.categories)} texts)" if f.kind == "text" else f.name
        for f in schema.features
    ]
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    sizes = [report.size(data, part) for part in (TRAIN, VALIDATION, TEST)]
    what = (
        f"{len(target.classes)} classes: " + ", ".join(target.classes[:12])
        if target.kind == "class"
        else f"a number, mean {target.mean:.4g}, standard deviation {target.std:.4g}"
    )
    when = ""
    if target.horizon:
        unit = "step" if schema.step else "row"
        when = f", {target.horizon.told(unit, schema.step)} ahead"
    per = " per sequence" if data.per_sequence else ""
    how = (
        "sequences drawn by seed" if data.split == "sequence" else "the last rows of each held out"
    )
    return [
        shape,
        f"features: {shown}",
        f"target: {target.name}{per}{when} ({what})",
        f"to learn from {sizes[0]}, validation {sizes[1]}, test {sizes[2]} ({how})",
    ]
