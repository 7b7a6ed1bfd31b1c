"""The whole job: train a net on a task, look at held-out sequences, stop when it is solved."""

from __future__ import annotations

import bisect
import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradcore as gd

from ...._base.files import replace_file
from ...._training.checkpoint import read_training
from ...._training.runs import BEST, LAST
from ...settings import Resources, Safeguards
from .recipes import AVERAGE, BETAS, CLIP, TASKS, Rate, Recipe, build, default, initial
from .rescue import LOST, PATIENCE, Rescue
from .task import Measured, Task

# Held-out sequences: so many that the score is known to a few percent of the criterion, and fewer
# where they are long, so that looking stays a small part of the time.
_MOST_HELD_OUT, _LEAST_HELD_OUT, _HELD_OUT_STEPS = 512, 64, 1_500_000
# Of a stage, which is often looked at; the full length is meanwhile, every so many evaluations.
_STAGE_HELD_OUT, _SELDOM, _NEAR = 256, 16, 8
# Numbers that all outputs of one evaluation may be at once.
_OUTPUTS_AT_ONCE = 4_000_000
_CURVE = "held_out.jsonl"


@dataclass(frozen=True)
class Point:
    """Held-out loss and score at the full length after `update` updates and `seconds` of training.

    trained: length of the longest sequences of training until then.
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
    """What to do.

    seed: of weights and training sequences. minutes: stop after this time. run: a folder that
    keeps the training, None for none. resume: go on with what is there. safeguards: but for the
    constraint, which the recipe has.
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
    """What came of it.

    solved: the point that meets the criterion, which ended the training. updates, seconds: those
    before a resumption included. steps: time steps of the sequences that gradients went over, each
    batch counted as one sequence.
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

    tell is called with every evaluation, those before a resumption first. The net is the same to
    the bit for the same task, recipe, seed and number of updates, whether the training was
    interrupted or not. Raises GradcoreError, as Trainer.fit.
    """
    net = build(job.task, job.recipe)
    # A budget that the full length cannot meet is told now, not when the stages have grown to it.
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
    trainer = gd.Trainer(
        net,
        params,
        optimizer,
        average=average,
        loss=job.task.loss,
        schedule=Rate(job.task, job.recipe),
        stability=job.safeguards.monitor(),
        memory=job.resources.memory,
        threads=job.resources.threads,
        quiet=True,  # the evaluations are what there is to see
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
        evaluate=_Evaluation(job, optimizer, sequences, curve, rescue),
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
    """Evaluates the net: moves on to the next stage, puts a lost net back, adds to the curve."""

    job: Job
    optimizer: gd.optim.Optimizer
    sequences: Sequences
    curve: Curve
    rescue: Rescue

    def __call__(self, now: gd.Params) -> float:
        """The score now, or that of the last point where evaluating would take too long."""
        job, sequences, points = self.job, self.sequences, self.curve.points
        update = self.optimizer.steps
        stage = sequences.reached(update)
        if job.recipe.adaptive and stage != job.task:
            passed = stage.passed(self._on(stage, now))
            if passed:
                self.rescue.keep(len(sequences.begun))
                sequences.begun.append(update)
            else:
                self._look_after(update, now)
            # At a small part of the length a look takes many times what an update does.
            worth = passed and _NEAR * stage.steps >= job.task.steps
            last = points[-1] if points else None
            if last and not worth and update < last.update + _SELDOM * job.recipe.every:
                return last.score
        point = self.curve.look(now, update, stage.length)
        if job.task.solved(point.measured):
            sequences.end()
        return point.score

    def _on(self, stage: Task, now: gd.Params) -> Measured:
        held_out = stage.held_out(_STAGE_HELD_OUT)
        return measure(stage, now, held_out, threads=self.job.resources.threads)

    def _look_after(self, update: int, now: gd.Params) -> None:
        """Puts a net back that is lost."""
        sequences = self.sequences
        level, times = len(sequences.begun), len(sequences.put_back)
        if level == 0:
            if update - max(sequences.put_back, default=0) >= PATIENCE:
                sequences.put_back.append(update)
                self.rescue.start_anew(times + 1)
        elif self._on(self.job.task.stage(level - 1), now).score <= LOST:
            sequences.put_back.append(update)
            self.rescue.put_back(level - 1)


class Sequences(gd.data.Source):
    """Training batches of a task: one pass, which ends when `end` is called.

    begun: of an adaptive recipe, the updates at which its stages but the first began. put_back: and
    those at which a net that was lost was put back.
    """

    def __init__(self, task: Task, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.task, self.recipe, self.seed = task, recipe, seed
        self.begun: list[int] = []
        self.put_back: list[int] = []

    def __len__(self) -> int:
        return 2**62

    def reached(self, updates: int) -> Task:
        """The hardest stage of so many updates, at least one."""
        last = max(0, updates - 1)
        if not self.recipe.adaptive or self.recipe.first == 0:
            return self.recipe.stage(self.task, last)
        return self.task.stage(self._level(last))

    def stage(self, update: int) -> Task:
        """What is trained on in an update, counted from 0."""
        if not self.recipe.adaptive or self.recipe.first == 0 or update % 2 == 0:
            return self.reached(update + 1)
        return self.task.stage(update // 2 % (self._level(update) + 1))

    def _level(self, update: int) -> int:
        return bisect.bisect_right(self.begun, update)

    def batch(self, epoch: int, index: int) -> gd.Batch:
        return self.stage(index).training_batch(self.seed, index, self.recipe.batch)

    def steps(self, updates: int) -> int:
        """Sum of the lengths of the sequences of so many updates."""
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
        """What decides the bits of a training, and all that is needed to make it again."""
        recipe = dataclasses.asdict(self.recipe)
        # When to look and when to end may be another matter when a run goes on.
        del recipe["updates"], recipe["every"]
        return {
            "task": {"name": self.task.name, **dataclasses.asdict(self.task)},
            "recipe": recipe,
            "seed": self.seed,
        }

    def end(self) -> None:
        """Nothing is left of this pass."""
        self.epoch, self.position = self.epoch + 1, 0


class Curve:
    """The evaluations of a run; with a folder also lines of a file there, beside the checkpoint."""

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
            # What was seen after the last checkpoint will be seen again.
            self.points = [p for p in _read_points(job.run / _CURVE) if p.update <= place.step]
        for point in self.points:
            tell(point)

    @property
    def solved(self) -> Point | None:
        """The last point if it meets the criterion: no training goes on after that."""
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
            replace_file(self.file, lambda path: _write_text(path, "".join(lines)))
        self.tell(point)
        return point


def measure(
    task: Task, params: gd.Params, batch: gd.Batch, *, threads: int | None = None
) -> Measured:
    """Loss and score of a net on sequences, some at a time where there would be many outputs.

    A net whose state leaves the range of numbers, as one without bounds may at lengths that it was
    not yet trained on, has learned nothing: task.overflow.
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
        # Every sequence has as many terms as the others.
        share = some.x.shape[1] / count
        loss += share * measured.loss
        score += share * measured.score
    return Measured(loss, score)


def recorded(run: Path) -> tuple[Task, Recipe, int] | None:
    """Task, recipe and seed of the run in a folder; None if there is none to go on with.

    Raises CheckpointError if it is the run of something else.
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
            f"{run / LAST} holds a training of something else than {', '.join(TASKS)}."
        ) from error


def _finished(job: Job, net: gd.Stack, curve: Curve, sequences: Sequences) -> Result:
    """The result of a run that was solved before it was resumed."""
    assert job.run is not None
    made = read_training(job.run / LAST)
    return Result(
        job=job,
        net=net,
        # The last evaluation solved it, so it is the best; and of the average, if there is one.
        params=gd.load(job.run / BEST).params if job.recipe.adaptive else made.params,
        curve=tuple(curve.points),
        solved=curve.solved,
        updates=made.place.step,
        steps=sequences.steps(made.place.step),
        seconds=made.place.seconds,
        interrupted=False,
    )


def _read_points(path: Path) -> list[Point]:
    """The points in a file; raises CheckpointError if it is none of ours."""
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [Point(**json.loads(line)) for line in text.splitlines()]
    except (OSError, TypeError, ValueError) as error:
        raise gd.CheckpointError(
            f"{path} does not hold evaluations of a run: {error}. Move it away to go on without "
            "the curve so far."
        ) from error


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
