"""The job: a recurrent net learns which bracket must be closed, on windows that grow by stages."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import gradcore as gd
from gradcore.tasks.brackets.dataset import CLASSES, VOCABULARY, Corpus, Sampler

# Windows differ widely, and 0.999 remembers their squares for too long: after 36 million characters
# 0.99 gave 0.979 at distances 10-100 against 0.974, and 3% false alarms against 17%.
BETAS = (0.9, 0.99)
# Updates between two checkpoints.
SAVE_EVERY = 1_000
CELLS = {"lstm": gd.LSTM, "gru": gd.GRU, "rnn": gd.RNN}


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


@dataclass(frozen=True)
class Options:
    """Settings of the net and its training.

    skip: lag of a learned connection through time, None for none. lr: largest learning rate; it
    rises over `warmup` updates and falls to `last_lr` of itself from the share `steady` of the
    time on. average: the net is the mean of those after each update of this last share of the time.
    Reference for the mean: Polyak and Juditsky 1992.
    """

    cell: str = "lstm"
    hidden: int = 128
    embedding: int = 16
    skip: int | None = None
    seed: int = 0
    lr: float = 5e-3
    last_lr: float = 0.02
    warmup: int = 100
    steady: float = 0.4
    clip: float = 1.0
    average: float = 0.15
    stages: Sequence[Stage] = STAGES
    threads: int | None = None
    memory: int | str | None = None


@dataclass(frozen=True)
class Trained:
    """A trained net and what it took.

    longest_sequence: steps of the longest window that a gradient passed over. characters: how many
    were read in all, repeats included. interrupted: whether Ctrl-C ended it.
    """

    net: gd.Stack
    params: gd.Params
    steps: int
    seconds: float
    characters: int
    longest_sequence: int
    stages: tuple[tuple[int, int, int], ...]
    loss: float | None
    interrupted: bool


def build(options: Options) -> gd.Stack:
    """The net that options describe. Raises ArgumentError for sizes that cannot be."""
    if options.cell not in CELLS:
        raise gd.ArgumentError(f"cell must be one of {', '.join(CELLS)}; got {options.cell!r}.")
    # A little of the past at first, as much as training wants later.
    skip = options.skip and gd.Skip(options.skip, kind="mix", value=0.1, learned=True)
    return gd.Stack(
        gd.Embedding(VOCABULARY, options.embedding),
        CELLS[options.cell](options.embedding, options.hidden, skip=skip or None),
        gd.Linear(options.hidden, len(CLASSES)),
    )


def train(
    corpus: Corpus,
    options: Options,
    *,
    seconds: float = math.inf,
    characters: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    on_stage: Callable[[Stage], None] | None = None,
) -> Trained:
    """Trains a net for about `seconds` or on about `characters`, whichever comes first.

    Every stage gets its share of that, the last at least one update. Without a limit in seconds the
    result is the same to the bit every time. checkpoint: where the parameters are saved now and
    then and when Ctrl-C ends the training, which then returns what there is. quiet: no progress.
    Raises ArgumentError without any limit.
    """
    if math.isinf(seconds) and characters is None:
        raise gd.ArgumentError("a limit is needed: give seconds or characters.")
    net = build(options)
    params = net.init(seed=options.seed)
    optimizer = gd.optim.Adam(
        params, lr=options.lr, betas=BETAS, clip=gd.clip.GlobalNorm(options.clip)
    )

    def save() -> None:
        if checkpoint is not None:
            gd.save(checkpoint, net, params, optimizer_steps=optimizer.steps)

    schedule = _Schedule(
        corpus, options, optimizer, seconds, characters or math.inf, on_stage, save
    )
    trainer = gd.Trainer(
        net,
        params,
        optimizer,
        loss="cross_entropy",
        memory=options.memory,
        threads=options.threads,
        quiet=quiet,
    )
    batches = schedule.batches()
    minutes = None if math.isinf(seconds) else seconds / 60
    reports = [trainer.fit(batches, minutes=minutes)]
    if options.stages[-1] not in schedule.given and not reports[0].interrupted:
        reports.append(trainer.fit(batches, steps=1))
    if not reports[-1].interrupted:
        schedule.finish()
    save()
    updates = sum(report.steps for report in reports)
    # Ctrl-C may have left the last batch unused.
    done = Counter(schedule.given[:updates])
    losses = [loss for report in reports for loss in report.losses][-20:]
    return Trained(
        net=net,
        params=params,
        steps=updates,
        seconds=sum(report.seconds for report in reports),
        characters=sum(stage.steps * stage.batch * n for stage, n in done.items()),
        longest_sequence=max((stage.steps for stage in done), default=0),
        stages=tuple((stage.steps, stage.batch, n) for stage, n in done.items()),
        loss=sum(losses) / len(losses) if losses else None,
        interrupted=reports[-1].interrupted,
    )


class _Schedule:
    """Batches until the time is over, and the learning rate that goes with each."""

    def __init__(
        self,
        corpus: Corpus,
        options: Options,
        optimizer: gd.optim.Adam,
        seconds: float,
        characters: float,
        on_stage: Callable[[Stage], None] | None,
        save: Callable[[], None],
    ) -> None:
        self.sampler = Sampler(corpus.train, seed=options.seed)
        self.options, self.optimizer = options, optimizer
        self.seconds, self.characters = seconds, characters
        self.on_stage, self.save = on_stage, save
        self.given: list[Stage] = []
        self.mean = optimizer.params.flat.astype(np.float64)
        self.averaged = 0

    def batches(self) -> Iterator[gd.Batch]:
        start, read = time.monotonic(), 0
        last = self.options.stages[-1]
        while True:
            part = max((time.monotonic() - start) / self.seconds, read / self.characters)
            if part >= 1 and last in self.given[-1:]:
                return
            stage = self.stage_at(part)
            if stage not in self.given[-1:] and self.on_stage is not None:
                self.on_stage(stage)
            self.given.append(stage)
            self.optimizer.lr = self.lr_at(part)
            batch = self.sampler.batch(stage.steps, stage.batch, stage.corrupted)
            yield gd.Batch(batch.x, batch.y, weight=batch.weight, reset=batch.reset)
            read += batch.x.size
            if part >= 1 - self.options.average:
                self.take()
            if len(self.given) % SAVE_EVERY == 0:
                self.save()

    def take(self) -> None:
        """Adds the parameters as they are to their mean."""
        self.averaged += 1
        self.mean += (self.optimizer.params.flat - self.mean) / self.averaged

    def finish(self) -> None:
        """Makes the mean the parameters; the last update alone if there was no other."""
        if self.averaged:
            self.optimizer.params.flat[:] = self.mean

    def stage_at(self, part: float) -> Stage:
        total = sum(stage.share for stage in self.options.stages)
        for stage in self.options.stages:
            part -= stage.share / total
            if part < 0:
                return stage
        return self.options.stages[-1]

    def lr_at(self, part: float) -> float:
        options = self.options
        rising = min(1.0, (self.optimizer.steps + 1) / options.warmup)
        falling = min(1.0, max(0.0, part - options.steady) / (1 - options.steady))
        cosine = 0.5 * (1 + math.cos(math.pi * falling))
        return options.lr * rising * (options.last_lr + (1 - options.last_lr) * cosine)
