"""Makes docs/gallery.md and its pictures, all of them or some parts.

Trains four nets on the adding problem at T = 1,000, 10,000 and 50,000, measures how far back their
gradients reach before and after, compares the bracket net with an untrained one, and shows where
PyTorch's float32 gradient leaves the range of float32. It takes about 40 minutes on two cores.
Results of trainings are kept in the folder given by --work and are not computed again.

    python docs/gallery/make.py [PART ...] [--minutes 5] [--lengths 1000 10000 50000] [--work DIR]
"""

from __future__ import annotations

import argparse
import argparse as a_long_module
import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import gradcore as gd
from gradcore.apps.settings import Resources, Safeguards
from gradcore.apps.tasks.brackets import job as bracket_job
from gradcore.apps.tasks.brackets import report as bracket_report
from gradcore.apps.tasks.brackets import train as bracket_train
from gradcore.apps.tasks.brackets.check import default_checkpoint
from gradcore.apps.tasks.material import material
from gradcore.apps.tasks.synthetic import job, recipes
from gradcore.apps.tasks.synthetic.adding import Adding

HERE = Path(__file__).parent
ONE_THREAD = Resources(threads=1)
CELLS = {"tanh": "RNN (tanh)", "lstm": "LSTM", "gru": "GRU", "skip": "RNN (relu) with a skip"}
POINTS = 300


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; all by default"
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="longest time of one training")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1_000, 10_000, 50_000])
    parser.add_argument("--work", type=Path, default=Path("build/gallery"))
    args = parser.parse_args()
    unknown = sorted(set(args.parts) - set(PARTS))
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; the parts are {', '.join(PARTS)}.")
    args.work.mkdir(parents=True, exist_ok=True)
    page = HERE.parent / "gallery.md"
    sections = re.split(r"^(?=## )", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    kept = dict(zip(SECTIONS, sections, strict=True))
    for part in args.parts or PARTS:
        kept |= PARTS[part](args)
    page.write_text("\n".join([HEAD, *(text.strip() + "\n" for text in kept.values())]))


def adding(args: argparse.Namespace) -> dict[str, str]:
    todo = [(length, cell) for length in args.lengths for cell in CELLS]
    # Each training has one thread: two at the same time take less time than one after the other.
    with ThreadPoolExecutor(gd.build_info().threads) as pool:
        made = list(pool.map(lambda each: trained(*each, args.minutes, args.work), todo))
    runs = dict(zip(todo, made, strict=True))
    return {"horizons": horizons(args.lengths, runs), "curves": curves(args.lengths, runs)}


# The sections of the page in their order, and the parts that make them.
SECTIONS = ("horizons", "curves", "brackets", "float32", "constraints")
PARTS: dict[str, Callable[[argparse.Namespace], dict[str, str]]] = {
    "adding": adding,
    "brackets": lambda args: {"brackets": brackets()},
    "float32": lambda args: {"float32": float32()},
    "constraints": lambda args: {
        "constraints": "\n".join([constrained(args.work), bracket_rnns(args.work)])
    },
}


# ---- the adding problem


def trained(length: int, cell: str, minutes: float, work: Path) -> dict[str, Any]:
    """Trains one net and measures it before and after, or reads the result of an earlier call."""
    kept = work / f"{length}-{cell}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    task = Adding(length)
    made = job.Job(task, recipes.default(task, cell), minutes=minutes, resources=ONE_THREAD)
    net = recipes.build(task, made.recipe)
    before = recipes.initial(net, task, made.recipe, made.seed)
    found: dict[str, Any] = {"before": looked_at(task, net, before)}
    points: list[job.Point] = []
    try:
        result = job.run(made, points.append)
        found["updates"], found["seconds"] = result.updates, result.seconds
        found["solved"] = None if result.solved is None else result.solved.update
        found["after"] = looked_at(task, net, result.params)
    except gd.NonFiniteError as error:
        found["failed"] = str(error)
    found["curve"] = [dataclasses.asdict(point) for point in points]
    kept.write_text(json.dumps(found))
    print(f"T = {length:,}, {cell}: {found.get('solved', 'failed')}", flush=True)
    return found


def looked_at(task: Adding, net: gd.Stack, params: gd.Params) -> dict[str, Any]:
    """Measures the gradient by lag and the Lyapunov exponents, on held-out sequences."""
    x = task.held_out(4).x
    try:
        reach = gd.horizon.reach(net, params, x, threads=1)
        spectrum = gd.lyapunov.spectrum(net, params, x[:, :1], 4, threads=1)
    except gd.NonFiniteError as error:
        return {"failed": str(error)}
    logs = reach.norm_log10[::-1] - reach.norm_log10[-1]
    lags = np.unique(np.geomspace(1, len(logs), POINTS).astype(int)) - 1
    middle = np.median(logs[lags], axis=1)
    return {
        "lags": lags.tolist(),
        "log10": [float(v) if np.isfinite(v) else None for v in middle],
        "memory": int(np.median(reach.memory_length())),
        "exponent": float(spectrum.exponents[0, 0]),
        "error": float(spectrum.standard_error[0, 0]),
    }


def horizons(lengths: list[int], runs: dict[tuple[int, str], dict[str, Any]]) -> str:
    figure = Figure(figsize=(10.5, 6.0), layout="constrained")
    axes = figure.subplots(2, len(lengths), squeeze=False)
    for column, length in enumerate(lengths):
        for row, when in enumerate(("before", "after")):
            axis = axes[row, column]
            for number, (cell, title) in enumerate(CELLS.items()):
                seen = runs[length, cell].get(when, {})
                if "lags" in seen:
                    y = [np.nan if v is None else v for v in seen["log10"]]
                    axis.plot(np.array(seen["lags"]) + 1, y, color=f"C{number}", label=title)
            axis.set(title=f"T = {length:,}, {when} training", xscale="log", ylim=(-30, 6))
            axis.set(xlabel="steps back")
            axis.axhline(-2, color="grey", linewidth=0.8, linestyle="--")
            plain(axis)
        axes[0, column].set_ylabel("log10 of the gradient's size" if column == 0 else "")
    axes[0, 0].legend(frameon=False, fontsize="small", loc="lower left")
    axes[1, 0].set_ylabel("log10 of the gradient's size")
    figure.savefig(HERE / "horizon.png", dpi=120)
    lines = [
        "## How far back the gradient reaches",
        "",
        "![Size of the gradient against the number of steps back, a curve for each of four nets "
        "and a column for each length, before training in the upper row and after it in the lower"
        " one.](gallery/horizon.png)",
        "",
        "In the adding problem the net reads T numbers, two of them marked, and answers their",
        "sum at the end. The curves are the root mean square of the gradient of the last",
        "output with respect to the hidden state h, relative to lag 0; the dashed line is",
        "1 %. The table has the number of steps until 1 %, and the largest Lyapunov exponent",
        "per step with its standard error.",
        "",
        "| T | net | steps to 1 %, untrained | exponent | steps to 1 %, trained | exponent |",
        "|---|---|---|---|---|---|",
    ]
    for length in lengths:
        for cell, title in CELLS.items():
            run = runs[length, cell]
            cells = [told(run.get(when, {"failed": "overflow"})) for when in ("before", "after")]
            lines.append(f"| {length:,} | {title} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def told(seen: dict[str, Any]) -> str:
    if "memory" not in seen:
        return "overflow | -"
    return f"{seen['memory']:,} | {seen['exponent']:.2g} +- {seen['error']:.1g}"


def curves(lengths: list[int], runs: dict[tuple[int, str], dict[str, Any]]) -> str:
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    axes = figure.subplots(1, len(lengths), squeeze=False, sharey=True)[0]
    lines = [
        "| T | net | solved after | held-out error at the end | seconds |",
        "|---|---|---|---|---|",
    ]
    for axis, length in zip(axes, lengths, strict=True):
        for number, (cell, title) in enumerate(CELLS.items()):
            run = runs[length, cell]
            points = [p for p in run["curve"] if p["loss"] < 1e3]
            axis.plot(
                [p["update"] for p in points],
                [p["loss"] for p in points],
                "o-",
                markersize=2.5,
                color=f"C{number}",
                label=title,
            )
            solved = f"{run['solved']:,} updates" if run.get("solved") else "no"
            if "failed" in run:
                solved = "overflow"
            last = f"{points[-1]['loss']:.4f}" if points else "-"
            lines.append(
                f"| {length:,} | {title} | {solved} | {last} | {run.get('seconds', 0):.0f} |"
            )
        axis.axhline(0.01, color="grey", linewidth=0.8, linestyle="--")
        axis.set(title=f"T = {length:,}", xlabel="update", yscale="log")
        plain(axis)
    axes[0].set_ylabel("held-out squared error")
    axes[0].legend(frameon=False, fontsize="small", loc="upper right")
    figure.savefig(HERE / "training.png", dpi=120)
    return "\n".join(
        [
            "## What that means for training",
            "",
            "![Held-out squared error by update, a curve for each of four nets and a panel for "
            "each length, with a dashed line at 0.01, where the task is "
            "solved.](gallery/training.png)",
            "",
            "The nets train with exact gradients over all T steps, in stages of growing length,",
            "with the default rates of `gradcore train adding`. The task is solved at a held-out",
            "squared error below 0.01 (dashed). Each net has one thread, and two train at the",
            "same time; a run ends when the task is solved or its time is over.",
            "",
            *lines,
            "",
        ]
    )


# ---- the bracket net


def brackets() -> str:
    """Compares the net that comes with gradcore with fresh weights, on a module of Python."""
    found = material(default_checkpoint(), [Path(a_long_module.__file__)], steps=20_000)
    figures, rows = {}, []
    for name, params in (
        ("untrained", found.net.init(seed=0)),
        ("trained", found.params),
    ):
        batch = found.batch
        figures[name] = gd.diagnose(
            found.net,
            params,
            batch.x,
            batch.y,
            loss=found.loss,
            weight=batch.weight,
            lengths=batch.lengths,
        )
        figures[name].plot(HERE / f"brackets-{name}.png")
        m = figures[name].measured
        assert m.reach is not None
        assert m.lyapunov is not None
        assert m.truncation is not None
        reach = m.reach[0].norm_log10[:, 0]
        rows.append(
            f"| {name} | {int(m.reach[0].memory_length()[0]):,} | 10^{reach[0] - reach[-1]:.1f} | "
            f"{m.lyapunov.exponents[0, 0]:.2g} | {m.truncation.needed() or 'none measured'} |"
        )
    return "\n".join(
        [
            "## The bracket net before and after it was trained",
            "",
            f"`gradcore diagnose` over the first {found.batch.x.shape[0]:,} characters of Python's",
            "`argparse.py`, for the net that comes with gradcore and for fresh weights. K is the",
            "window of truncated backpropagation that changes the gradient by 1 % of its norm:",
            "",
            "| net | steps to 1 % | at the first character | exponent per step | K within 1 % |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "The untrained net:",
            "",
            "![Eight panels of the diagnosis of the untrained net: size of the gradient, its "
            "reach, singular values, Lyapunov exponents, shares by time, cost of truncation, time"
            " constants, and the stretch of single steps.](gallery/brackets-untrained.png)",
            "",
            "In the trained net a few directions carry the gradient over the whole text:",
            "",
            "![The same eight panels for the trained net.](gallery/brackets-trained.png)",
            "",
            "The report on the trained net:",
            "",
            *report(figures["trained"]),
            "",
        ]
    )


def report(found: gd.diagnosis.Diagnosis) -> list[str]:
    """The verdict as Markdown, whose lines are as wide as the reader's screen."""
    net, facts, *_ = found.lines()
    lines = [f"`{net!r}`", "", f"{facts}."]
    for finding in found.findings:
        lines += ["", f"* **{finding.level}**: {quoted(finding.text)}"]
        if finding.remedy:
            lines += ["", f"    {quoted(finding.remedy)}"]
    return lines


def quoted(text: str) -> str:
    """Text with what Markdown would take for its own signs escaped, except between backticks."""
    pieces = re.split(r"(`[^`]+`)", text)
    pieces[::2] = [re.sub(r"([*_<])", r"\\\1", piece) for piece in pieces[::2]]
    return "".join(pieces)


# ---- constraints


def constrained(work: Path) -> str:
    """Trains plain RNNs on the adding problem: free, with a spectral limit, and orthogonal."""
    lengths, cells = (750, 5_000), {"tanh": "tanh", "rnn": "relu"}
    ways = {None: "free", "spectral": "spectral norm <= 1", "orthogonal": "orthogonal"}
    todo = [(n, cell, how) for n in lengths for cell in cells for how in ways]
    with ThreadPoolExecutor(gd.build_info().threads) as pool:
        made = dict(zip(todo, pool.map(lambda each: kept_run(*each, work), todo), strict=True))
    figure = Figure(figsize=(10.5, 6.0), layout="constrained")
    axes = figure.subplots(2, 2, squeeze=False)
    rows = []
    for column, length in enumerate(lengths):
        for row, (cell, title) in enumerate(cells.items()):
            axis = axes[row, column]
            for number, (how, told_how) in enumerate(ways.items()):
                run = made[length, cell, how]
                steps, logs = np.array(run["gradient"], float).reshape(-1, 2).T
                axis.plot(steps, logs, color=f"C{number}", linewidth=0.8, label=told_how)
                end = run["failed"] or ("solved" if run["solved"] else "not solved")
                rows.append(
                    f"| {length:,} | {title} | {told_how} | {run['updates']:,} | {end} | "
                    f"{run['loss']} | {np.max(logs):.1f} |"
                )
            axis.set(title=f"RNN, {title}, T = {length:,}", xlabel="update")
            axis.set_ylabel("log10 of the gradient's norm")
            plain(axis)
    axes[0, 0].legend(frameon=False, fontsize="small")
    figure.savefig(HERE / "constrained.png", dpi=120)
    return "\n".join(
        [
            "## Under constraints",
            "",
            "![Logarithm of the norm of the gradient by update, for tanh and relu RNNs at two "
            "lengths whose weights are free, of spectral norm at most 1, or "
            "orthogonal.](gallery/constrained.png)",
            "",
            "Plain RNNs train on the adding problem by the default recipe, for at most 3,000",
            "updates or three minutes; answering 1 always has an error of 0.167. The last column",
            "is log10 of the largest norm of a gradient before clipping. A constraint bounds the",
            "gradient; it does not make a tanh RNN learn to remember.",
            "",
            "| T | RNN | weights | updates | end | held-out error | largest log10 norm |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def kept_run(length: int, cell: str, how: str | None, work: Path) -> dict[str, Any]:
    """Trains one net and reads its gradient norms, or reads the result of an earlier call."""
    name = f"kept-{length}-{cell}-{how or 'free'}"
    kept = work / f"{name}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    task = Adding(length)
    recipe = dataclasses.replace(recipes.default(task, cell), constrain=how, updates=3_000)
    folder = work / name
    shutil.rmtree(folder, ignore_errors=True)
    points: list[job.Point] = []
    found: dict[str, Any] = {"failed": None, "solved": False}
    try:
        result = job.run(
            job.Job(task, recipe, minutes=3.0, run=folder, resources=ONE_THREAD), points.append
        )
        found["solved"] = result.solved is not None
    except gd.NonFiniteError:
        found["failed"] = "overflow"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found["updates"] = len(lines)
    found["loss"] = f"{points[-1].loss:.4g}" if points else "-"
    found["gradient"] = [[n["step"], n["grad_norm_log10"]] for n in lines if n["grad_norm_log10"]]
    kept.write_text(json.dumps(found))
    print(f"{name}: {found['failed'] or found['solved']}", flush=True)
    return found


def bracket_rnns(work: Path) -> str:
    """Trains plain RNNs on brackets, two of them constrained, for the same time."""
    rows = []
    for how, told_how in ((None, "free"), ("spectral", "norm <= 1"), ("orthogonal", "orthogonal")):
        kept = work / f"brackets-{how or 'free'}.json"
        if not kept.exists():
            options = bracket_train.Options(cell="rnn", safeguards=Safeguards(constrain=how))
            out = work / f"brackets-{how or 'free'}.safetensors"
            result = bracket_job.run(
                bracket_job.Job(minutes=2.0, checkpoint=out, options=options, quiet=True)
            )
            assert result is not None
            bracket_report.write_json(kept, result)
        found = json.loads(kept.read_text())
        by_distance = found["accuracy_by_distance"]
        shares = " | ".join("-" if v is None else f"{v:.3f}" for v in by_distance.values())
        rows.append(f"| {told_how} | {found['accuracy']:.3f} | {shares} |")
    return "\n".join(
        [
            "A plain tanh RNN of 128 units trains on the brackets task for two minutes. The table",
            "has the share of closing brackets whose kind it names, in total and by distance to",
            "the opening bracket:",
            "",
            f"| weights | total | {' | '.join(by_distance)} |",
            f"|---|---|{'---|' * len(by_distance)}",
            *rows,
            "",
        ]
    )


# ---- the end of float32


def float32() -> str:
    """Plots dL/dh_t by PyTorch and by gradcore, where it vanishes and where it explodes."""
    from float32_end import of_gradcore, of_pytorch  # beside this file; needs torch

    steps, hidden = 3_000, 32
    rng = np.random.default_rng(0)
    x = (0.1 * rng.standard_normal((steps, 1, 4))).astype(np.float32)
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    told = []
    for axis, (title, gain) in zip(
        figure.subplots(1, 2), {"gain 0.9": 0.9, "gain 1.6": 1.6}.items(), strict=True
    ):
        net = gd.Stack(gd.RNN(4, hidden), gd.Linear(hidden, 1))
        params = net.init(seed=0, gain=gain)
        y = np.ones((1, 1), np.float32)
        # By distance from the last step; here by step.
        ours = of_gradcore(net, params, x, y)[::-1]
        norms = of_pytorch(params, x, y)[::-1]
        good = np.isfinite(norms) & (norms > 0)
        axis.plot(ours, label="gradcore, float32 with a scale", linewidth=3, alpha=0.5)
        at = np.flatnonzero(good)
        axis.plot(at, np.log10(norms[at]), color="C3", label="PyTorch, float32")
        last = int(at.min())
        axis.axvline(last, color="C3", linewidth=0.8, linestyle=":")
        axis.set(title=f"tanh RNN, {title}", xlabel="step t", ylabel="log10 |dL/dh|")
        axis.legend(frameon=False, fontsize="small")
        plain(axis)
        there = norms[last - 1] if last else norms[0]
        told.append(
            f"With {title}, PyTorch's gradient is {there} before step {last:,}, and gradcore's is "
            f"10^{ours[0]:.1f} at step 0"
        )
    figure.savefig(HERE / "float32.png", dpi=120)
    return "\n".join(
        [
            "## Where float32 ends",
            "",
            "![Logarithm of the size of dL/dh by step for a vanishing and an exploding gradient. "
            "PyTorch's curve in float32 ends on the way back to the first step; that of gradcore "
            "goes on.](gallery/float32.png)",
            "",
            "The same net has the same weights in gradcore and PyTorch, "
            f"T = {steps:,}, and a loss at the last step. "
            + ". ".join(told)
            + ". gradcore returns the exact gradient times a power of two, so its direction is "
            "right. The net on the right is chaotic: rounding errors drive the two forward passes "
            "apart.",
            "",
        ]
    )


def plain(axis: Any) -> None:
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


HEAD = """# Gallery

This page and its pictures are made by `python docs/gallery/make.py`. It takes the names of parts:
`adding`, `brackets`, `float32` and `constraints`. Every number comes from a run of its part.
"""


if __name__ == "__main__":
    main()
