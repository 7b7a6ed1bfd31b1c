"""The whole job in order: find files, lex them, train, evaluate on held-out files, save the net."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np

import gradcore as gd

from . import check, dataset, evaluate, lexing, sources, train
from .report import Result, as_json

HELD_OUT_CHARACTERS = 1_500_000

# Lexing takes about a second per million characters, so the amount of text is proportional to the
# time of the job: training on two cores then reads each text about five times.
_TRAIN_CHARACTERS_PER_MINUTE = 2_200_000
_HELD_OUT_CHARACTERS_PER_MINUTE = 500_000
_TIMES_READ = 5
_LEAST_CHARACTERS = 200_000
_PROBE = 2_048
_PLAIN_INTERVAL = 5.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """The settings of a job. minutes: the time for everything, including lexing and evaluation.

    characters: if given, training reads this many characters, the same in every job, and minutes is
    ignored. checkpoint: the file for the net. run: a folder in which the training is kept, None for
    none. resume: continue the training there; with characters the result has the same bits as an
    uninterrupted one, otherwise it trains for the rest of minutes. quiet: show no progress.
    """

    paths: Sequence[str | os.PathLike[str]] = ()
    minutes: float = 3.75
    characters: int | None = None
    checkpoint: str | os.PathLike[str] = "brackets.safetensors"
    run: str | os.PathLike[str] | None = None
    resume: bool = False
    options: train.Options = field(default_factory=train.Options)
    quiet: bool = False


def run(job: Job, say: Say = lambda line: None) -> Result | None:
    """Runs the job; returns None if Ctrl-C ended the training, whose net has then been saved.

    say is called with a line for each phase. Raises GradcoreError for files or arguments that
    cannot be used.
    """
    start = time.monotonic()
    train.build(job.options)  # raises an error for wrong sizes before any file is read
    corpus = _read(job, say)
    asked = sum(len(document) for document in corpus.held_out)
    seconds = math.inf
    if job.characters is None:
        left = start + 60.0 * job.minutes - time.monotonic()
        # Held-out files are read twice, intact and with a fault.
        seconds = max(1.0, left - 2 * asked * _seconds_per_character(job.options))
    before = time.monotonic() - start
    trained = train.train(
        corpus,
        job.options,
        seconds=seconds,
        characters=job.characters,
        # The amount of text depends on minutes, so a resumed run must have the same.
        described={"minutes": job.minutes} if job.characters is None else None,
        checkpoint=job.checkpoint,
        run=job.run,
        resume=job.resume,
        quiet=job.quiet,
        on_stage=lambda stage: say(f"{stage.steps:,} steps, {stage.batch} side by side"),
    )
    if trained.interrupted:
        return None
    # The time before an interruption counts as well.
    start = time.monotonic() - before - trained.seconds
    say(f"evaluating on {len(corpus.held_out):,} held-out files")
    with meter("evaluating", 2 * asked, job.quiet) as advance:
        scores = evaluate.evaluate(
            trained.net,
            trained.params,
            corpus.held_out,
            evaluate.most_frequent(corpus.train),
            threads=job.options.resources.threads,
            memory=job.options.resources.memory,
            progress=advance,
        )
        faults = check.fault_share(
            trained.net,
            trained.params,
            corpus.held_out,
            seed=job.options.seed,
            threads=job.options.resources.threads,
            memory=job.options.resources.memory,
            progress=advance,
        )
    result = Result(trained, scores, faults, time.monotonic() - start, job.options.seed)
    gd.save(job.checkpoint, trained.net, trained.params, **as_json(result))
    return result


@contextmanager
def meter(what: str, total: int, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A context with a function that counts progress and shows it on stderr.

    It shows a bar on a terminal with rich, otherwise a line every 5 seconds; nothing if quiet.
    """
    if quiet:
        yield lambda amount: None
    elif sys.stderr.isatty() and find_spec("rich") is not None:
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda amount: bar.advance(task, amount)
    else:
        done, shown = 0, time.monotonic()

        def advance(amount: int) -> None:
            nonlocal done, shown
            done += amount
            if time.monotonic() - shown >= _PLAIN_INTERVAL:
                shown = time.monotonic()
                print(f"{what}: {min(1.0, done / max(1, total)):.0%}", file=sys.stderr, flush=True)

        yield advance


def _read(job: Job, say: Say) -> dataset.Corpus:
    found = sources.find(job.paths)
    for note in found.notes:
        say(f"passed over: {note}")
    if job.characters is None:
        train_characters = round(_TRAIN_CHARACTERS_PER_MINUTE * job.minutes)
        held_out_characters = round(_HELD_OUT_CHARACTERS_PER_MINUTE * job.minutes)
        held_out_characters = min(held_out_characters, HELD_OUT_CHARACTERS)
    else:
        train_characters = job.characters // _TIMES_READ
        held_out_characters = HELD_OUT_CHARACTERS
    train_characters = max(train_characters, _LEAST_CHARACTERS)
    with meter("lexing", train_characters + held_out_characters, job.quiet) as advance:
        corpus = dataset.build_corpus(
            found.files,
            lexing.LexCache(),
            train_characters=train_characters,
            held_out_characters=held_out_characters,
            processes=job.options.resources.threads or gd.build_info().threads,
            progress=advance,
        )
    for note in corpus.notes:
        say(f"left out: {note}")
    say(
        f"{len(found.files):,} files found; {len(corpus.train):,} to train on, "
        f"{len(corpus.held_out):,} held out, {corpus.characters / 1e6:.1f} million characters"
    )
    return corpus


def _seconds_per_character(options: train.Options) -> float:
    """The time of evaluation per character, from a trial with a net of this size, plus a margin."""
    net = train.build(options)
    params = net.init(seed=0)
    texts = [np.zeros(_PROBE, dtype=np.uint8)] * evaluate.BATCH
    start = time.monotonic()
    for _ in evaluate.outputs_of(
        net, params, texts, threads=options.resources.threads, memory=options.resources.memory
    ):
        pass
    return 1.5 * (time.monotonic() - start) / (_PROBE * evaluate.BATCH)
