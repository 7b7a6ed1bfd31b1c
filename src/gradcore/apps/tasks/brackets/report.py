"""The report of a run: a table, a picture, and a JSON file for programs."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from ...._base.output import write_figure, write_text
from .check import LEAST_TRUST, NEAR, FaultShare
from .evaluate import BINS, BORDERS, REACH, Evaluation, Score
from .horizon import Horizon
from .train import GOALS, Trained

_BAR = 20
_FAR = tuple(name for name, border in zip(BINS, BORDERS, strict=True) if border >= REACH)
"""The bins of distances at which the baseline's stack is empty."""


@dataclass(frozen=True)
class Result:
    """A finished run. seconds: the time of the whole job, including lexing and evaluation.

    horizon: how far the gradient reaches. least: see evaluate.locate.
    """

    trained: Trained
    evaluation: Evaluation
    faults: FaultShare
    horizon: Horizon
    least: float
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
        "validation": _score(trained.validation),
        "hurried": trained.hurried,
        "gradient_log10": {str(lag): result.horizon.at(lag) for lag in _lags(result.horizon)},
        LEAST_TRUST: result.least,
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
    """What the net does that no short window can, then its accuracy by distance, as plain text."""
    evaluation = result.evaluation
    columns = {"gradcore": evaluation.net, **evaluation.baselines}
    widths = [max(10, len(name)) for name in columns]
    lines = [
        *_far(result),
        "",
        f"{'distance':>9} {'count':>9}  "
        + "  ".join(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True)),
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

    figure = Figure(figsize=(7.0, 6.2), layout="constrained")
    accuracy, gradient = figure.subplots(2, 1, height_ratios=(3, 2))
    _draw_accuracy(accuracy, result.evaluation)
    _draw_gradient(gradient, result.horizon)
    write_figure(path, figure, dpi=150)


def _draw_accuracy(axes: Any, evaluation: Evaluation) -> None:
    positions = range(len(BINS))
    first = BINS.index(_FAR[0]) - 0.5
    axes.axvspan(first, len(BINS) - 0.5, color="C0", alpha=0.08, linewidth=0)
    axes.text(first + 0.06, 0.06, f"opened more than {REACH} characters before", color="C0")
    majority, window = evaluation.baselines.values()
    for name, score, style in (
        ("net of gradcore", evaluation.net, {"color": "C0", "zorder": 3}),
        (f"exact stack that sees {REACH} characters", window, {"color": "C1", "linestyle": "--"}),
        ("most frequent bracket", majority, {"color": "0.5", "linestyle": ":"}),
    ):
        shares = [score.accuracy_by_distance[bin_name] for bin_name in BINS]
        known = [float("nan") if share is None else share for share in shares]
        axes.plot(positions, known, marker="o", label=name, **style)
    counts = evaluation.net.count_by_distance
    axes.set_xticks(positions, [f"{name}\n({counts[name]:,})" for name in BINS])
    axes.set_xlim(-0.5, len(BINS) - 0.5)
    axes.set_xlabel("distance to the opening bracket in characters (number of brackets)")
    axes.set_ylabel("share of right answers")
    axes.set_ylim(0.0, 1.02)
    axes.grid(alpha=0.3)
    axes.set_title(f"Which bracket must be closed next? {evaluation.files} held-out files")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 0.12))


def _draw_gradient(axes: Any, horizon: Horizon) -> None:
    axes.plot(horizon.lags, horizon.log10, color="C0", marker=".")
    axes.axvspan(REACH, max(REACH, horizon.lags[-1]), color="C0", alpha=0.08, linewidth=0)
    axes.text(
        1.1 * REACH,
        max(horizon.log10[np.isfinite(horizon.log10)], default=0.0),
        f"lost if training is cut every {REACH} characters",
        color="C0",
        verticalalignment="top",
    )
    axes.set_xscale("log")
    axes.set_xlim(1, max(REACH, horizon.lags[-1]))
    axes.set_xlabel("characters before the answer")
    axes.set_ylabel("norm of the gradient, log10")
    axes.set_title("How far the gradient of an answer reaches back")
    axes.grid(alpha=0.3)


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def _far(result: Result) -> list[str]:
    """What the net does where no short window can, and how far its gradient reaches."""
    evaluation, horizon = result.evaluation, result.horizon
    counts = evaluation.net.count_by_distance
    total = sum(counts[name] for name in _FAR)
    lines = []
    if total:
        net, window = (
            sum((score.accuracy_by_distance[name] or 0.0) * counts[name] for name in _FAR) / total
            for score in (evaluation.net, evaluation.baselines[f"stack of {REACH}"])
        )
        lines.append(
            f"{total:,} brackets close one that was opened more than {REACH} characters before. "
            f"The net is right about {net:.1%} of them; a stack that sees {REACH} characters has "
            f"to guess, and is right about {window:.1%}."
        )
    sizes = ", ".join(f"10^{horizon.at(lag):.1f} at {lag:,}" for lag in _lags(horizon))
    if sizes:
        lines.append(
            "The gradient reaches over whole files. Its norm, relative to that at the answer, by "
            f"characters before the answer: {sizes}."
        )
    return lines


def _lags(horizon: Horizon) -> list[int]:
    """The powers of ten below the length of the files, from 100 on."""
    return [lag for lag in (100, 1_000, 10_000) if lag < horizon.steps]


def _goals(trained: Trained) -> str:
    """Whether the validation files have the accuracy that was wanted, and if not, why."""
    wanted = ", ".join(f"{share:.2f} at {name}" for name, share in GOALS.items())
    if not trained.missed:
        told = f"The validation files reached the goals ({wanted})."
        if trained.hurried:
            told += (
                " A limit shortened the training: with a larger one, such as --minutes 30, the net "
                "may become better, and has the same bits on every machine."
            )
        return told
    found = ", ".join(f"{share:.3f} at {name}" for name, share in trained.missed.items())
    why = "a limit shortened the training" if trained.hurried else "the net stopped improving"
    return f"The validation files have only {found} (goals: {wanted}): {why}."


def next_steps(checkpoint: str | os.PathLike[str]) -> str:
    """Three commands to go on with."""
    path = shlex.quote(os.fspath(checkpoint))
    return "\n".join(
        [
            "Next:",
            f"  gradcore check FILE... --checkpoint {path}    # find a wrong bracket",
            f"  gradcore diagnose {path}    # see how far gradients reach, and why",
            "  gradcore train csv TABLE.csv --target COLUMN    # train on a table of your own",
        ]
    )


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
        _goals(trained),
        f"One fault put into each of {faults.files:,} files: {faults.found:.1%} found within "
        f"{NEAR} lines; false alarms in {evaluation.false_alarms:.1%} of the intact files.",
    ]
