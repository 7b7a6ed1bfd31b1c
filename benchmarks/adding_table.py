"""Which nets solve the adding problem at which length, and after how many updates?

Every net has its own default learning rate and size, the same stages of growing length and the same
limit of updates; a run ends when the problem is solved (held-out MSE below 0.01 at the full
length). CPU seconds are those of one process with one thread, evaluations included. Results are
appended to a file of JSON lines as they come and are not computed again, so the script can be
stopped and run again.

    python benchmarks/adding_table.py [--lengths 200 1000 5000] [--seeds 0] [--out adding.jsonl]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import gradcore as gd
from gradcore.apps.settings import Resources
from gradcore.apps.tasks.synthetic import job, recipes
from gradcore.apps.tasks.synthetic.adding import Adding

CELLS = ("tanh", "rnn", "skip", "lstm", "gru")


def measure(length: int, cell: str, seed: int, updates: int) -> dict[str, Any]:
    task = Adding(length)
    recipe = dataclasses.replace(recipes.default(task, cell), updates=updates)
    start = time.process_time()
    points: list[job.Point] = []
    made = job.Job(task, recipe, seed=seed, resources=Resources(threads=1))
    try:
        job.run(made, points.append)
        failed = None
    except gd.NonFiniteError as error:
        failed = str(error)
    return {
        "length": length,
        "cell": cell,
        "seed": seed,
        "most_updates": updates,
        "hidden": recipe.hidden,
        "lr": recipe.lr,
        "parameters": recipes.build(task, recipe).n_parameters,
        "solved": bool(points) and task.solved(points[-1].measured),
        "failed": failed,
        "updates": points[-1].update if points else 0,
        "best": min((point.score for point in points), default=None),
        "cpu_s": round(time.process_time() - start, 1),
        "curve": [(point.update, point.score) for point in points],
    }


def table(runs: list[dict[str, Any]]) -> str:
    lengths = sorted({run["length"] for run in runs})
    lines = [
        "| net | units | parameters | " + " | ".join(f"T = {t:,}" for t in lengths) + " |",
        "|---|---|---|" + "---|" * len(lengths),
    ]
    for cell in CELLS:
        of_cell = [run for run in runs if run["cell"] == cell]
        if not of_cell:
            continue
        cells = []
        for length in lengths:
            some = sorted((r for r in of_cell if r["length"] == length), key=lambda r: r["seed"])
            cells.append("; ".join(map(outcome, some)))
        first = of_cell[0]
        lines.append(
            f"| {cell} | {first['hidden']} | {first['parameters']:,} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def outcome(run: dict[str, Any]) -> str:
    if run["solved"]:
        return f"**{run['updates']:,}** ({run['cpu_s']:.0f} s)"
    if run.get("failed"):
        return f"overflow after {run['updates']:,}, MSE {run['best']:.3f} ({run['cpu_s']:.0f} s)"
    return f"no, MSE {run['best']:.3f} ({run['cpu_s']:.0f} s)"


def draw(path: Path, runs: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    lengths = sorted({run["length"] for run in runs})
    figure = Figure(figsize=(3.6 * len(lengths), 3.4), layout="constrained")
    for place, length in enumerate(lengths):
        axes = figure.add_subplot(1, len(lengths), place + 1)
        for number, cell in enumerate(CELLS):
            for run in runs:
                if (run["length"], run["cell"]) == (length, cell):
                    label = cell if run["seed"] == min(r["seed"] for r in runs) else None
                    updates = [update for update, _ in run["curve"]]
                    # Points of a run that overflowed are outside of the picture.
                    scores = [min(score, 1e6) for _, score in run["curve"]]
                    axes.plot(updates, scores, color=f"C{number}", label=label)
        axes.axhline(1 / 6, color="0.4", linestyle="--")
        axes.axhline(0.01, color="0.4", linestyle=":")
        axes.set_yscale("log")
        axes.set_ylim(1e-4, 10)
        axes.set_title(f"T = {length:,}")
        axes.set_xlabel("update")
        axes.grid(alpha=0.3)
        if place == 0:
            axes.set_ylabel("held-out MSE at T")
            axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[200, 1_000, 5_000])
    parser.add_argument("--cells", nargs="+", default=CELLS, choices=CELLS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--updates", type=int, default=3_000)
    parser.add_argument("--out", type=Path, default=Path("adding.jsonl"))
    parser.add_argument("--plot", type=Path, help="a picture of all curves (needs matplotlib)")
    args = parser.parse_args()
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    runs = [json.loads(line) for line in lines]
    done = {(run["length"], run["cell"], run["seed"]) for run in runs}
    for seed in args.seeds:
        for length in args.lengths:
            for cell in args.cells:
                if (length, cell, seed) in done:
                    continue
                runs.append(measure(length, cell, seed, args.updates))
                with args.out.open("a") as file:
                    file.write(json.dumps(runs[-1]) + "\n")
    print(table(runs))
    if args.plot is not None:
        draw(args.plot, runs)


if __name__ == "__main__":
    main()
