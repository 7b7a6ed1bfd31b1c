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

from . import check, dataset, evaluate, horizon, lexing, sources, train
from .report import Result, as_json

HELD_OUT_CHARACTERS, VALIDATION_CHARACTERS = 1_500_000, 300_000

_PROBE = 2_048
_PLAIN_INTERVAL = 5.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """The settings of a job. minutes: the most time for everything, with lexing and evaluation.

    characters: if given, training reads at most so many characters, and minutes is ignored.
    checkpoint: the file for the net. run: a folder in which the training is kept, None for none.
    resume: continue the training there; the result has the same bits as an uninterrupted one,
    unless minutes ended it. quiet: show no progress.
    """

    paths: Sequence[str | os.PathLike[str]] = ()
    minutes: float = 10.0
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
    with corpus.train:
        trained = train.train(
            corpus,
            job.options,
            seconds=seconds,
            characters=job.characters,
            checkpoint=job.checkpoint,
            run=job.run,
            resume=job.resume,
            quiet=job.quiet,
            on_stage=lambda stage: say(f"{stage.steps:,} steps, {stage.batch} side by side"),
        )
    for note in corpus.notes:
        say(f"left out: {note}")
    if trained.interrupted:
        return None
    # The time before an interruption counts as well.
    start = time.monotonic() - before - trained.seconds
    result = _judge(job, corpus, trained, start, say)
    gd.save(job.checkpoint, trained.net, trained.params, **as_json(result))
    return result


def _judge(
    job: Job, corpus: dataset.Corpus, trained: train.Trained, start: float, say: Say
) -> Result:
    net, params, resources = trained.net, trained.params, job.options.resources
    say(f"evaluating on {len(corpus.held_out):,} held-out files")
    least = evaluate.least_trust(
        net, params, corpus.validation, threads=resources.threads, memory=resources.memory
    )
    asked = sum(len(document) for document in corpus.held_out)
    with meter("evaluating", 2 * asked, job.quiet) as advance:
        scores = evaluate.evaluate(
            net,
            params,
            corpus.held_out,
            evaluate.most_frequent(corpus.validation),
            least=least,
            threads=resources.threads,
            memory=resources.memory,
            progress=advance,
        )
        faults = check.fault_share(
            check.Checker(net, params, least),
            corpus.held_out,
            seed=job.options.seed,
            threads=resources.threads,
            memory=resources.memory,
            progress=advance,
        )
    reached = horizon.measure(
        net, params, corpus.held_out, threads=resources.threads, memory=resources.memory
    )
    return Result(
        trained, scores, faults, reached, least, time.monotonic() - start, job.options.seed
    )


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
    """The files of a job; those to train on are lexed while the net trains."""
    found = sources.find(job.paths)
    for note in found.notes:
        say(f"passed over: {note}")
    total = HELD_OUT_CHARACTERS + VALIDATION_CHARACTERS
    with meter("lexing the files to judge by", total, job.quiet) as advance:
        corpus = dataset.Corpus(
            found.files,
            lexing.LexCache(),
            held_out_characters=HELD_OUT_CHARACTERS,
            validation_characters=VALIDATION_CHARACTERS,
            processes=job.options.resources.threads or gd.build_info().threads,
            progress=advance,
        )
    say(
        f"{len(found.files):,} files found; {len(corpus.validation):,} decide about the training, "
        f"{len(corpus.held_out):,} are held out, and the net trains on the others"
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
