"""The report of a run: lines of its curve, a verdict, a picture, and a JSON file for programs."""

from __future__ import annotations

import dataclasses
import json
import os
from importlib.util import find_spec
from typing import Any

from ...._base.output import write_figure, write_text
from .job import Job, Point, Result
from .task import OVERFLOW


def heading(job: Job) -> str:
    """Lines with the task, the net, the baseline and the criterion."""
    task, recipe, baseline = job.task, job.recipe, job.task.baseline
    return "\n".join(
        [
            f"{task.title}: T = {task.length:,}, {recipe.cell} with {recipe.hidden} units, "
            f"{recipe.batch} sequences per update, seed {job.seed}",
            f"baseline: {baseline.formula} = {baseline.loss:.4g}"
            + (f", {task.score_name} {baseline.score:.4g}" if task.maximise else ""),
            f"solved at {task.criterion}",
        ]
    )


def columns(job: Job) -> str:
    """The headings of the columns of line()."""
    score = job.task.score_name
    return f"\n{'update':>8} {'trained at T':>13} {'loss':>10} {score:>10} {'seconds':>9}"


def line(point: Point) -> str:
    """One evaluation as a line: held-out loss and score at the full length."""
    return (
        f"{point.update:>8,} {point.trained:>13,} {_number(point.loss):>10} "
        f"{_number(point.score):>10} {point.seconds:>9.1f}"
    )


def verdict(result: Result) -> str:
    """A sentence that says whether the task is solved, with updates, steps and seconds."""
    task = result.job.task
    took = (
        f"{result.updates:,} updates, {result.steps / 1e6:.2f} million steps, "
        f"{result.seconds:.0f} s"
    )
    if result.solved is not None:
        point = result.solved
        return f"solved: {task.criterion}: {task.score_name} {point.score:.4g} after {took}"
    if not result.curve:
        return f"not solved: there was no evaluation in {took}"
    sign = 1 if task.maximise else -1
    best = max(result.curve, key=lambda point: sign * point.score)
    return (
        f"not solved in {took}: {task.score_name} {_number(result.curve[-1].score)}, at best "
        f"{_number(best.score)}; the baseline is {task.baseline.score:.4g}"
    )


def as_json(result: Result) -> dict[str, Any]:
    """The run as JSON values."""
    task, recipe = result.job.task, result.job.recipe
    return {
        "task": task.name,
        **dataclasses.asdict(task),
        **dataclasses.asdict(recipe),
        "seed": result.job.seed,
        "parameters": result.net.n_parameters,
        "baseline": dataclasses.asdict(task.baseline),
        "score_name": task.score_name,
        "criterion": task.criterion,
        "solved": result.solved is not None,
        "most_updates": recipe.updates,
        "updates": result.updates,
        "steps": result.steps,
        "seconds": round(result.seconds, 2),
        "interrupted": result.interrupted,
        "curve": [dataclasses.asdict(point) for point in result.curve],
    }


def write_json(path: str | os.PathLike[str], result: Result) -> None:
    """Writes `as_json` to a file; raises OSError."""
    write_text(path, json.dumps(as_json(result), indent=2) + "\n")


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(path: str | os.PathLike[str], result: Result) -> None:
    """Saves a picture of held-out loss and score by update, with the baseline.

    Raises ImportError without matplotlib, and OSError or ValueError if it cannot be saved.
    """
    from matplotlib.figure import Figure

    task, recipe = result.job.task, result.job.recipe
    figure = Figure(figsize=(7.0, 3.8), layout="constrained")
    axes = figure.add_subplot()
    updates = [point.update for point in result.curve]
    losses = [float("nan") if p.loss == OVERFLOW else p.loss for p in result.curve]
    axes.plot(updates, losses, marker=".", label="held-out loss")
    axes.axhline(task.baseline.loss, color="C0", linestyle="--", label="loss of the baseline")
    axes.set_yscale("log")
    axes.set_xlabel("update")
    axes.set_ylabel("loss")
    if task.maximise:
        right = axes.twinx()
        scores = [point.score for point in result.curve]
        axes.plot([], [], color="C1", marker=".", label=task.score_name)
        right.plot(updates, scores, color="C1", marker=".")
        right.axhline(task.baseline.score, color="C1", linestyle="--")
        right.set_ylim(0.0, 1.02)
        right.set_ylabel(task.score_name)
    axes.grid(alpha=0.3)
    axes.set_title(f"{task.name}, T = {task.length:,}: {recipe.cell}, {recipe.hidden} units")
    axes.legend(loc="lower left")
    write_figure(path, figure, dpi=150)


def _number(value: float) -> str:
    return "overflow" if value == OVERFLOW else f"{value:.4g}"
