"""What a run tells: a table with the baselines, a picture, and a JSON file for programs."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...._base.output import write_figure, write_text
from ...text import literal
from .columns import counted
from .dataset import Dataset
from .schema import Target
from .scores import Judged, Score, is_better
from .sequences import TEST, TRAIN, VALIDATION
from .train import Options, Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = 5_000
_STEPS_SHOWN = 400
_CLASSES_WRITTEN = 20


@dataclass(frozen=True, eq=False)
class Result:
    """A finished run.

    judged: on the test part. baselines: simple forecasts on it, by name, and on_validation: on the
    validation part. seconds: those of the whole job, reading and judging included.
    """

    data: Dataset
    trained: Trained
    judged: Judged
    baselines: dict[str, Score]
    on_validation: dict[str, Score]
    seconds: float
    options: Options

    @property
    def beaten(self) -> bool:
        """Whether the net is better than every baseline."""
        return all(is_better(self.judged.score, other) for other in self.baselines.values())


def as_json(result: Result) -> dict[str, Any]:
    """The run as JSON values."""
    trained, target, data = result.trained, result.data.schema.target, result.data
    confusion = result.judged.score.confusion
    return {
        "task": "table",
        "target": target.name,
        "kind": target.kind,
        "per": target.per,
        "ahead": target.ahead,
        "lead": target.lead or None,
        "step": data.schema.step or None,
        "classes": list(target.classes),
        "features": [feature.name for feature in data.schema.features],
        "sequences": len(data.groups.ids),
        "rows": int(data.groups.lengths.sum()),
        "split": data.split,
        "parts": {
            name: dict(zip(("rows", "sequences"), data.size(part), strict=True))
            for name, part in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST))
        },
        "notes": list(data.notes),
        "seed": result.options.seed,
        "seconds": round(result.seconds, 2),
        "training_seconds": round(trained.seconds, 2),
        "steps": trained.steps,
        "best_step": trained.best_step,
        "stopped": trained.stopped,
        "cell": trained.plan.cell,
        "hidden": trained.plan.hidden,
        "base": trained.plan.base,
        "share_of_net": trained.share,
        "ridge_lags": None if trained.ridge is None else trained.ridge.learned.lags,
        "trials": [asdict(trial) for trial in trained.plan.trials],
        "measure": "cross_entropy" if target.kind == "class" else "rmse",
        "validation": trained.validation.as_json(),
        "longest_gradient": trained.window,
        "parameters": trained.model.net.n_parameters,
        "test": result.judged.score.as_json(),
        "baselines": {name: score.as_json() for name, score in result.baselines.items()},
        "baselines_on_validation": {
            name: score.as_json() for name, score in result.on_validation.items()
        },
        "better_than_baselines": result.beaten,
        "confusion": None if confusion is None else confusion.tolist(),
    }


def write_json(path: str | os.PathLike[str], result: Result) -> None:
    """Writes `as_json` to a file. Raises OSError."""
    write_text(path, json.dumps(as_json(result), indent=2) + "\n")


def measure(target: Target) -> str:
    """What chooses a net, as people read it."""
    if target.kind == "class":
        return "cross-entropy in nats"
    return f"RMSE in the unit of {target.name}"


def table(result: Result) -> str:
    """Scores on the test part beside the baselines, as plain text."""
    target, trained = result.data.schema.target, result.trained
    rows: dict[str, tuple[Score, Score | None]]
    rows = {"gradcore": (result.judged.score, trained.validation)}
    rows |= {name: (one, result.on_validation.get(name)) for name, one in result.baselines.items()}
    columns = {"RMSE": "rmse", "MAE": "mae", "R2": "r2"}
    if target.kind == "class":
        columns = {"cross-entropy": "cross_entropy", "accuracy": "accuracy", "F1": "f1"}
    first = next(iter(columns))
    width = max(len(name) for name in rows)
    heads = (*columns, f"{first} on validation")
    lines = [f"{'':>{width}}  " + "  ".join(f"{head:>10}" for head in heads)]
    for name, (score, before) in rows.items():
        values = [getattr(score, key) for key in columns.values()]
        values.append(None if before is None else getattr(before, columns[first]))
        cells = (f"{_number(v):>{max(10, len(h))}}" for v, h in zip(values, heads, strict=True))
        lines.append(f"{name:>{width}}  " + "  ".join(cells))
    lines += ["", *_facts(result)]
    if not result.beaten:
        by = "accuracy" if target.kind == "class" else first
        lines.append(
            f"By its {by} the net is no better than a baseline. Try other features or another "
            "--lr; or there is nothing more to be found in these."
        )
    if trained.stopped in ("minutes", "steps"):
        limit = "--minutes" if trained.stopped == "minutes" else "--updates"
        lines.append(
            f"The training reached its limit before the score had stopped improving: more {limit} "
            "may help."
        )
    return "\n".join(lines)


def so_far(trained: Trained) -> str:
    """What a training that was interrupted has reached, for people."""
    done = counted(trained.steps, "update")
    if trained.best is None:
        return f"after {done}, before the first look at the validation part"
    name = "cross-entropy" if trained.validation.rmse is None else "RMSE"
    return (
        f"after {done}; the best score on the validation part so far: {name} "
        f"{_number(trained.best)}, after {counted(trained.best_step or 0, 'update')}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if abs(value) >= 10 else f"{value:.4f}"


def _facts(result: Result) -> list[str]:
    data, trained = result.data, result.trained
    what = f"Judged on {size(data, TEST)} that the net has not learned from"
    if data.split == "time":
        what += ", the last of each sequence"
    best = "" if trained.best_step is None else f", the best after {trained.best_step:,}"
    return [
        f"{what}.",
        *_about_base(trained),
        f"Trained for {trained.steps:,} updates{best} in {trained.seconds:.0f} s; exact gradients "
        f"over up to {trained.window:,} steps; {trained.model.net.n_parameters:,} parameters.",
    ]


def _about_base(trained: Trained) -> list[str]:
    """What the net stands on, and its share."""
    if trained.ridge is None:
        return []
    ridge = f"ridge regression on {counted(trained.ridge.learned.lags, 'row')}"
    if not trained.share:
        return [f"On the validation part the net adds nothing to {ridge}, which is what was saved."]
    base = {"ridge": ridge, "last value": "the last value", "mean": "the mean"}
    assert trained.plan.base is not None
    told = f"The net learned what {base[trained.plan.base]} leaves"
    if trained.share < 1.0 and trained.plan.base != "ridge":
        told += f"; its forecast counts {trained.share:.0%}, and {ridge} the rest"
    elif trained.share < 1.0:
        told += f", of which {trained.share:.0%} is added"
    return [f"{told} (chosen on the validation part)."]


def size(data: Dataset, part: int) -> str:
    """How much a part holds, in rows and sequences."""
    rows, sequences = data.size(part)
    told = counted(rows, "row"), counted(sequences, "sequence")
    return f"{told[1]} ({told[0]})" if data.per_sequence else f"{told[0]} of {told[1]}"


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(path: str | os.PathLike[str], result: Result) -> None:
    """Saves a picture, the format by the file's suffix: predicted against true, or confusions.

    Needs matplotlib. Raises ImportError without it, OSError or ValueError for a path it cannot use.
    """
    from matplotlib.figure import Figure

    target = result.data.schema.target
    if target.kind == "class":
        figure = Figure(figsize=(5.6, 5.0), layout="constrained")
        _draw_confusion(figure, result)
    elif result.data.per_sequence:
        figure = Figure(figsize=(5.0, 5.0), layout="constrained")
        _draw_scatter(figure.add_subplot(), result)
    else:
        figure = Figure(figsize=(11.0, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.8, 1.0))
        _draw_course(left, result)
        _draw_scatter(right, result)
    write_figure(path, figure, dpi=150)


def _draw_course(axes: Any, result: Result) -> None:
    """Truth and prediction over the longest stretch of one sequence."""
    judged, data = result.judged, result.data
    of_rows = np.searchsorted(data.groups.starts, judged.places, side="right") - 1
    index = int(np.bincount(of_rows).argmax())
    chosen = np.flatnonzero(of_rows == index)[:_STEPS_SHOWN]
    target = data.schema.target
    steps = data.later[judged.places[chosen]] - data.groups.starts[index]
    axes.plot(steps, judged.truth[chosen], color="0.3", linewidth=1.2, label="true")
    axes.plot(steps, judged.guess[chosen], color="C0", linewidth=1.2, label="predicted")
    when = f", predicted {target.horizon.told('step')} ahead" if target.horizon else ""
    name = data.groups.ids[index]
    if data.schema.sequence is None:
        name = Path(name).name
    axes.set_title(f"Test part of sequence {literal(name)}{when}", fontsize=10)
    axes.set_xlabel("row of the sequence")
    axes.set_ylabel(literal(data.schema.target.name))
    axes.grid(alpha=0.3)
    axes.legend(loc="best")


def _draw_scatter(axes: Any, result: Result) -> None:
    judged = result.judged
    every = max(1, len(judged.truth) // _POINTS)
    truth, guess = judged.truth[::every], judged.guess[::every]
    low, high = min(truth.min(), guess.min()), max(truth.max(), guess.max())
    axes.plot([low, high], [low, high], color="0.6", linewidth=1.0, linestyle="--")
    size = 4.0 if len(truth) > 300 else 14.0
    axes.scatter(truth, guess, s=size, alpha=0.4, linewidths=0.0)
    axes.set_xlabel(f"true {literal(result.data.schema.target.name)}")
    axes.set_ylabel("predicted")
    axes.grid(alpha=0.3)
    r2 = judged.score.r2
    axes.set_title("All test targets" + ("" if r2 is None else f": R2 = {r2:.3f}"), fontsize=10)


def _draw_confusion(figure: Figure, result: Result) -> None:
    score, target = result.judged.score, result.data.schema.target
    assert score.confusion is not None
    axes = figure.add_subplot()
    shares = score.confusion / np.maximum(score.confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    count = len(target.classes)
    if count <= _CLASSES_WRITTEN:
        names = [literal(name) for name in target.classes]
        axes.set_xticks(range(count), names, rotation=45 if count > 6 else 0)
        axes.set_yticks(range(count), names)
        for i in range(count):
            for j in range(count):
                color = "white" if shares[i, j] > 0.5 else "black"
                text = f"{score.confusion[i, j]:,}"
                axes.text(j, i, text, ha="center", va="center", color=color, fontsize=9)
    axes.set_xlabel(f"predicted {literal(target.name)}")
    axes.set_ylabel(f"true {literal(target.name)}")
    axes.set_title(f"{score.count:,} test targets, accuracy {score.accuracy:.3f}", fontsize=10)
    figure.colorbar(image, label="share of the true class", shrink=0.8)
