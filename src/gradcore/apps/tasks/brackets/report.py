"""The report of a run: a table, a picture, and a JSON file for programs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ...._base.output import write_figure, write_text
from .check import NEAR, FaultShare
from .evaluate import BINS, Evaluation, Score
from .train import Trained

_BAR = 20


@dataclass(frozen=True)
class Result:
    """A finished run. seconds: the time of the whole job, including lexing and evaluation."""

    trained: Trained
    evaluation: Evaluation
    faults: FaultShare
    seconds: float
    seed: int


def as_json(result: Result) -> dict[str, Any]:
    """The run as JSON values."""
    trained, evaluation = result.trained, result.evaluation
    return {
        "task": "brackets",
        "seconds": round(result.seconds, 2),
        "training_seconds": round(trained.seconds, 2),
        "seed": result.seed,
        "steps": trained.steps,
        "characters": trained.characters,
        "longest_sequence": trained.longest_sequence,
        "stages": [
            {"steps": steps, "batch": batch, "updates": updates}
            for steps, batch, updates in trained.stages
        ],
        "parameters": trained.net.n_parameters,
        **_score(evaluation.net),
        "baselines": {name: _score(score) for name, score in evaluation.baselines.items()},
        "held_out": {"files": evaluation.files, "longest": evaluation.longest},
        "faults": {
            "files": result.faults.files,
            "found_within_3_lines": result.faults.found,
            "false_alarms": evaluation.false_alarms,
        },
    }


def write_json(path: str | os.PathLike[str], result: Result) -> None:
    """Writes `as_json` to a file; raises OSError."""
    write_text(path, json.dumps(as_json(result), indent=2) + "\n")


def table(result: Result) -> str:
    """Accuracy by distance of the net and the baselines, as plain text with a bar for the net."""
    evaluation = result.evaluation
    columns = {"gradcore": evaluation.net, **evaluation.baselines}
    widths = [max(10, len(name)) for name in columns]
    lines = [
        f"{'distance':>9} {'count':>9}  "
        + "  ".join(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True))
    ]
    for name in BINS:
        count = evaluation.net.count_by_distance[name]
        shares = [score.accuracy_by_distance[name] for score in columns.values()]
        lines.append(_row(name, count, shares, widths))
    total = sum(evaluation.net.count_by_distance.values())
    lines.append(_row("all", total, [score.accuracy for score in columns.values()], widths))
    lines += ["", *_facts(result)]
    return "\n".join(lines)


def draw(path: str | os.PathLike[str], result: Result) -> None:
    """Saves a picture of accuracy by distance; the suffix of path gives the format.

    Raises ImportError without matplotlib, and OSError or ValueError if it cannot be saved.
    """
    from matplotlib.figure import Figure

    evaluation = result.evaluation
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    positions = range(len(BINS))
    styles = {"majority": ":", **dict.fromkeys(list(evaluation.baselines)[1:], "--")}
    curves = {"gradcore": evaluation.net, **evaluation.baselines}
    for name, score in curves.items():
        shares = [score.accuracy_by_distance[bin_name] for bin_name in BINS]
        axes.plot(
            positions,
            [float("nan") if share is None else share for share in shares],
            styles.get(name, "-"),
            marker="o",
            label=name,
        )
    counts = evaluation.net.count_by_distance
    axes.set_xticks(positions, [f"{name}\n({counts[name]:,})" for name in BINS])
    axes.set_xlabel("distance to the opening bracket, characters (number of brackets)")
    axes.set_ylabel("share of right answers")
    axes.set_ylim(0.0, 1.02)
    axes.grid(alpha=0.3)
    axes.set_title(f"What must be closed next: {evaluation.files} held-out files")
    axes.legend(loc="lower left")
    write_figure(path, figure, dpi=150)


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def _score(score: Score) -> dict[str, Any]:
    return {
        "accuracy": score.accuracy,
        "accuracy_by_distance": score.accuracy_by_distance,
        "count_by_distance": score.count_by_distance,
    }


def _row(name: str, count: int, shares: list[float | None], widths: list[int]) -> str:
    cells = [
        f"{'-' if share is None else f'{share:.4f}':>{width}}"
        for share, width in zip(shares, widths, strict=True)
    ]
    bar = "█" * round(_BAR * (shares[0] or 0.0))
    return f"{name:>9} {count:>9,}  {'  '.join(cells)}  {bar}".rstrip()


def _facts(result: Result) -> list[str]:
    trained, evaluation, faults = result.trained, result.evaluation, result.faults
    return [
        f"Evaluated on {evaluation.files:,} whole held-out files of up to {evaluation.longest:,} "
        "characters.",
        f"Trained for {trained.steps:,} updates on {trained.characters / 1e6:.1f} million "
        f"characters in {trained.seconds:.0f} s; exact gradients over up to "
        f"{trained.longest_sequence:,} steps. The whole job took {result.seconds:.0f} s.",
        f"One fault put into each of {faults.files:,} files: {faults.found:.1%} found within "
        f"{NEAR} lines; false alarms in {evaluation.false_alarms:.1%} of the intact files.",
    ]
