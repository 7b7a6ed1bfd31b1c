"""The whole job: train a net on a task, evaluate it on held-out sequences, stop when solved."""

from __future__ import annotations

import bisect
import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gradcore as gd

from ...._base.output import write_text
from ...._training.checkpoint import read_training
from ...._training.runs import BEST, LAST
from ...settings import Resources, Safeguards
from .recipes import AVERAGE, BETAS, CLIP, TASKS, Rate, Recipe, build, default, initial
from .rescue import LOST, PATIENCE, Rescue
from .task import Measured, Task

# The number of held-out sequences: enough to know the score to a few percent of the criterion, and
# fewer if they are long, so that evaluations take a small part of the time.
_MOST_HELD_OUT, _LEAST_HELD_OUT, _HELD_OUT_STEPS = 512, 64, 1_500_000
# The number of held-out sequences for a stage, which is evaluated often. The full length is
# evaluated only every _SELDOM evaluations while a stage is shorter than 1/_NEAR of it.
_STAGE_HELD_OUT, _SELDOM, _NEAR = 256, 16, 8
# The most numbers that the outputs of an evaluation may have in memory at once.
_OUTPUTS_AT_ONCE = 4_000_000
_CURVE = "held_out.jsonl"


@dataclass(frozen=True)
class Point:
    """Held-out loss and score at the full length after `update` updates and `seconds` of training.

    trained: the length of the longest training sequences until then.
    """

    update: int
    loss: float
    score: float
    seconds: float
    trained: int

    @property
    def measured(self) -> Measured:
        return Measured(self.loss, self.score)


@dataclass(frozen=True)
class Job:
    """The settings of a job.

    seed: seed of the weights and the training sequences. minutes: stop after this time. run: a
    folder in which the training is kept, None for none. resume: continue the training there.
    safeguards: all but the constraint, which belongs to the recipe.
    """

    task: Task
    recipe: Recipe
    seed: int = 0
    minutes: float | None = None
    run: Path | None = None
    resume: bool = False
    safeguards: Safeguards = field(default_factory=Safeguards)
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True)
class Result:
    """The result of a job.

    solved: the evaluation that met the criterion and ended the training, or None. updates, seconds:
    including those before the training was resumed. steps: the sum of the lengths of the training
    sequences, where each batch counts as one sequence.
    """

    job: Job
    net: gd.Stack
    params: gd.Params
    curve: tuple[Point, ...]
    solved: Point | None
    updates: int
    steps: int
    seconds: float
    interrupted: bool


def run(job: Job, tell: Callable[[Point], None] = lambda point: None) -> Result:
    """Trains until the task is solved or a limit is reached.

    tell is called with every evaluation; those before the training was resumed come first. The net
    has the same bits for the same task, recipe, seed and number of updates, whether the training
    was interrupted or not. Raises the GradcoreErrors of Trainer.fit.
    """
    net = build(job.task, job.recipe)
    # A budget that is too small for the full length gives an error now, not in a later stage.
    gd.plan(net, job.task.steps, job.recipe.batch, loss=job.task.loss, memory=job.resources.memory)
    params = initial(net, job.task, job.recipe, job.seed)
    optimizer = gd.optim.Adam(
        params,
        job.recipe.lr,
        betas=BETAS,
        clip=gd.clip.GlobalNorm(CLIP),
        constraints=gd.constrain.by_name(job.recipe.constrain, job.recipe.limit),
    )
    average = gd.optim.Average(params, AVERAGE) if job.recipe.adaptive else None
    rate = Rate(job.task, job.recipe)
    trainer = gd.Trainer(
        net,
        params,
        optimizer,
        average=average,
        loss=job.task.loss,
        schedule=rate,
        stability=job.safeguards.monitor(),
        memory=job.resources.memory,
        threads=job.resources.threads,
        quiet=True,  # only evaluations are shown
    )
    sequences = Sequences(job.task, job.recipe, job.seed)
    curve = Curve(job, tell)
    rescue = Rescue(optimizer, average, job.task, job.recipe, job.seed, job.run)
    if job.resume and curve.solved is not None:
        return _finished(job, net, curve, sequences)
    report = trainer.fit(
        sequences,
        epochs=1,
        steps=job.recipe.updates,
        minutes=job.minutes,
        evaluate=_Evaluation(job, optimizer, sequences, curve, rescue, rate),
        every=job.recipe.every,
        maximise=job.task.maximise,
        run=job.run,
        resume=job.resume,
        watch=job.safeguards.watch,
    )
    return Result(
        job=job,
        net=net,
        params=params if average is None else average.params,
        curve=tuple(curve.points),
        solved=curve.solved,
        updates=report.steps,
        steps=sequences.steps(report.steps),
        seconds=report.seconds,
        interrupted=report.interrupted,
    )


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """Evaluates the net: starts the next stage, restores a lost net, adds a point to the curve.

    What changes the training is only done when the trainer has recorded the score, all at once: an
    evaluation that Ctrl-C ends is made again by a resumed run, from the same state.
    """

    job: Job
    optimizer: gd.optim.Optimizer
    sequences: Sequences
    curve: Curve
    rescue: Rescue
    rate: Rate

    def __call__(self, now: gd.Params) -> float:
        """The score now, or that of the last point if an evaluation would take too long."""
        job, sequences, points = self.job, self.sequences, self.curve.points
        update = self.optimizer.steps
        stage = sequences.reached(update)
        changes: list[Callable[[], None]] = []
        if job.recipe.adaptive and stage != job.task:
            passed = stage.passed(self._on(stage, now))
            if passed:
                changes.append(partial(self.rescue.keep, len(sequences.begun)))
                changes.append(partial(sequences.begun.append, update))
            else:
                changes += self._rescued(update, now)
            # While stages are short, an evaluation at full length takes many times as long as an
            # update.
            worth = passed and _NEAR * stage.steps >= job.task.steps
            last = points[-1] if points else None
            if last and not worth and update < last.update + _SELDOM * job.recipe.every:
                self.rate.when_scored(changes)
                return last.score
        point = self.curve.look(now, update, stage.length)
        if job.task.solved(point.measured):
            changes.append(sequences.end)
        self.rate.when_scored(changes)
        return point.score

    def _on(self, stage: Task, now: gd.Params) -> Measured:
        held_out = stage.held_out(_STAGE_HELD_OUT)
        return measure(stage, now, held_out, threads=self.job.resources.threads)

    def _rescued(self, update: int, now: gd.Params) -> list[Callable[[], None]]:
        """The calls that restore the net if it has lost what it had learned."""
        sequences = self.sequences
        level, times = len(sequences.begun), len(sequences.put_back)
        if level == 0:
            if update - max(sequences.put_back, default=0) < PATIENCE:
                return []
            restore = partial(self.rescue.start_anew, times + 1)
        elif self._on(self.job.task.stage(level - 1), now).score <= LOST:
            restore = partial(self.rescue.put_back, level - 1)
        else:
            return []
        return [partial(sequences.put_back.append, update), restore]


class Sequences(gd.data.Source):
    """Training batches of a task: one pass, which ends when `end` is called.

    begun: in an adaptive recipe, the updates at which the second and later stages began. put_back:
    the updates at which a net was restored.
    """

    def __init__(self, task: Task, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.task, self.recipe, self.seed = task, recipe, seed
        self.begun: list[int] = []
        self.put_back: list[int] = []

    def __len__(self) -> int:
        return 2**62

    def reached(self, updates: int) -> Task:
        """The hardest stage within the first `updates` updates."""
        last = max(0, updates - 1)
        if not self.recipe.adaptive or self.recipe.first == 0:
            return self.recipe.stage(self.task, last)
        return self.task.stage(self._level(last))

    def stage(self, update: int) -> Task:
        """The stage that update number `update`, counted from 0, trains on."""
        if not self.recipe.adaptive or self.recipe.first == 0 or update % 2 == 0:
            return self.reached(update + 1)
        return self.task.stage(update // 2 % (self._level(update) + 1))

    def _level(self, update: int) -> int:
        return bisect.bisect_right(self.begun, update)

    def batch(self, epoch: int, index: int) -> gd.Batch:
        return self.stage(index).training_batch(self.seed, index, self.recipe.batch)

    def steps(self, updates: int) -> int:
        """The sum of the lengths of the sequences in the first `updates` updates."""
        return sum(self.stage(update).steps for update in range(updates))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "begun": [*self.begun], "put_back": [*self.put_back]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("begun", "put_back"):
            found = state.get(name)
            if not isinstance(found, list) or not all(isinstance(n, int) for n in found):
                raise gd.ArgumentError(
                    "the state of sequences must have begun and put_back, lists of updates; got "
                    f"{name}={found!r}."
                )
        super().load_state_dict(state)
        self.begun, self.put_back = [*state["begun"]], [*state["put_back"]]

    def describe(self) -> dict[str, Any]:
        """The settings that determine the bits of a training, from which it can be repeated."""
        recipe = dataclasses.asdict(self.recipe)
        # The intervals of evaluations and the last update may change when a run is resumed.
        del recipe["updates"], recipe["every"]
        return {
            "task": {"name": self.task.name, **dataclasses.asdict(self.task)},
            "recipe": recipe,
            "seed": self.seed,
        }

    def contents(self) -> dict[str, str]:
        return self.task.contents()

    def end(self) -> None:
        """Ends this pass."""
        self.epoch, self.position = self.epoch + 1, 0


class Curve:
    """The evaluations of a run; if it has a folder, they are also lines of a file there."""

    def __init__(self, job: Job, tell: Callable[[Point], None]) -> None:
        self.job, self.tell = job, tell
        self.points: list[Point] = []
        self.file = None if job.run is None else job.run / _CURVE
        self.before = 0.0
        count = _HELD_OUT_STEPS // job.task.steps
        self.held_out = job.task.held_out(max(_LEAST_HELD_OUT, min(_MOST_HELD_OUT, count)))
        self.start = time.monotonic()
        if job.resume and job.run is not None and (job.run / LAST).exists():
            place = read_training(job.run / LAST).place
            self.before = place.seconds
            # Evaluations that the last checkpoint does not have will be repeated.
            recorded = {step for step, _ in place.evaluations}
            self.points = [p for p in _read_points(job.run / _CURVE) if p.update in recorded]
        for point in self.points:
            tell(point)

    @property
    def solved(self) -> Point | None:
        """The last point if it meets the criterion, which ends a training."""
        last = self.points[-1] if self.points else None
        return last if last is not None and self.job.task.solved(last.measured) else None

    def look(self, params: gd.Params, update: int, trained: int) -> Point:
        """Evaluates on the held-out sequences. trained: see Point."""
        measured = measure(self.job.task, params, self.held_out, threads=self.job.resources.threads)
        seconds = self.before + time.monotonic() - self.start
        point = Point(update, measured.loss, measured.score, round(seconds, 3), trained)
        self.points = [*(p for p in self.points if p.update < update), point]
        if self.file is not None:
            lines = [json.dumps(dataclasses.asdict(p)) + "\n" for p in self.points]
            write_text(self.file, "".join(lines))
        self.tell(point)
        return point


def measure(
    task: Task, params: gd.Params, batch: gd.Batch, *, threads: int | None = None
) -> Measured:
    """Loss and score of a net on sequences, in several parts if there are many outputs.

    If the net overflows, as an unbounded one may at lengths that it was not trained on yet, the
    result is task.overflow, the worst possible.
    """
    count = batch.x.shape[1]
    size = max(1, _OUTPUTS_AT_ONCE // (task.steps * task.outputs))
    loss = score = 0.0
    for start in range(0, count, size):
        some = task.part(batch, slice(start, start + size))
        try:
            outputs, _ = gd.apply(params.net, params, some.x, threads=threads)
        except gd.NonFiniteError:
            return task.overflow
        measured = task.measure(outputs, some)
        # All sequences have the same number of terms.
        share = some.x.shape[1] / count
        loss += share * measured.loss
        score += share * measured.score
    return Measured(loss, score)


def recorded(run: Path) -> tuple[Task, Recipe, int] | None:
    """Task, recipe and seed of the run in a folder; None if there is no run to continue.

    Raises CheckpointError if it is the run of another task.
    """
    if not (run / LAST).exists():
        return None
    data: Any = read_training(run / LAST).settings.get("data")
    try:
        task = dict(data["task"])
        made = TASKS[task.pop("name")](**task)
        limits = default(made)
        recipe = Recipe(**data["recipe"], every=limits.every, updates=limits.updates)
        return made, recipe, int(data["seed"])
    except (KeyError, TypeError, ValueError) as error:
        raise gd.CheckpointError(
            f"{run / LAST} must hold a training of {', '.join(TASKS)}, and it holds another one. "
            "Name another folder with --run."
        ) from error


def _finished(job: Job, net: gd.Stack, curve: Curve, sequences: Sequences) -> Result:
    """The result of a run that was solved before it was resumed."""
    assert job.run is not None
    made = read_training(job.run / LAST)
    return Result(
        job=job,
        net=net,
        # The last evaluation solved the task, so it is the best one; an adaptive recipe evaluates
        # averaged parameters, which are saved as the best.
        params=gd.load(job.run / BEST).params if job.recipe.adaptive else made.params,
        curve=tuple(curve.points),
        solved=curve.solved,
        updates=made.place.step,
        steps=sequences.steps(made.place.step),
        seconds=made.place.seconds,
        interrupted=False,
    )


def _read_points(path: Path) -> list[Point]:
    """The points in a file; raises CheckpointError if the file has something else."""
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [Point(**json.loads(line)) for line in text.splitlines()]
    except (OSError, TypeError, ValueError) as error:
        raise gd.CheckpointError(
            f"{path} does not hold evaluations of a run: {error}. Move it away to continue without "
            "the curve so far."
        ) from error
