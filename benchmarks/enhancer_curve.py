"""Up to which distance can each net tell whether an enhancer fits its promoter?

Every net has its default recipe and the same number of minutes with one thread; the stages grow
towards --distance as far as the net comes. Then it is evaluated on held-out sequences of every
distance, and its memory is measured: the number of steps after which the gradient of the last
output has fallen to 1 %, in the uppermost recurrent layer, as the median over some of these
sequences. "constrained" nets have recurrent weights of a spectral norm of at most 1. Results are
appended to a file of JSON lines as they come and are not computed again.

    python benchmarks/enhancer_curve.py [--minutes 4] [--out enhancer.jsonl] [--plot enhancer.png]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import gradcore as gd
from gradcore.apps.settings import Resources
from gradcore.apps.tasks.synthetic import job, recipes
from gradcore.apps.tasks.synthetic.enhancer import Enhancer
from gradcore.horizon import memory_length

NETS = ("tanh", "rnn", "skip", "gru", "lstm", "lstm constrained")
DISTANCES = (32, 100, 320, 1_000, 3_200, 10_000, 32_000)
STEPS_HELD_OUT, MOST_HELD_OUT, LEAST_HELD_OUT = 4_000_000, 1_024, 128
SEQUENCES = 8  # for which the memory is measured


def train(net: str, distance: int, minutes: float, seed: int) -> tuple[job.Result | None, str]:
    task = Enhancer(distance)
    cell, *constrained = net.split()
    recipe = recipes.default(task, cell)
    if constrained:
        recipe = dataclasses.replace(recipe, constrain="spectral", limit=1.0)
    recipe = dataclasses.replace(recipe, updates=10**9)
    try:
        return job.run(
            job.Job(task, recipe, seed=seed, minutes=minutes, resources=Resources(threads=1))
        ), ""
    except gd.NonFiniteError as error:
        return None, str(error)


def measure(net: str, distance: int, minutes: float, seed: int) -> dict[str, Any]:
    start = time.process_time()
    result, failed = train(net, distance, minutes, seed)
    made: dict[str, Any] = {"net": net, "distance": distance, "minutes": minutes, "seed": seed}
    if result is None:
        return {**made, "failed": failed}
    made |= {
        "parameters": result.net.n_parameters,
        "updates": result.updates,
        "trained": result.curve[-1].trained,
        "solved": result.solved is not None,
        "cpu_s": round(time.process_time() - start, 1),
        "curve": [],
    }
    for length in DISTANCES:
        task = Enhancer(length)
        some = max(LEAST_HELD_OUT, min(MOST_HELD_OUT, STEPS_HELD_OUT // task.steps))
        batch = task.held_out(some)
        score = job.measure(task, result.params, batch, threads=1).score
        memory = memory_length(result.net, result.params, batch.x[:, :SEQUENCES], threads=1)
        made["curve"].append((length, some, score, float(np.median(memory))))
    return made


def table(runs: list[dict[str, Any]]) -> str:
    lines = [
        "| net | trained up to | " + " | ".join(f"D = {d:,}" for d in DISTANCES) + " |",
        "|---|---|" + "---|" * len(DISTANCES),
    ]
    for run in runs:
        if "failed" in run:
            lines.append(f"| {run['net']} | {run['failed']} |")
            continue
        cells = [f"{score:.2f}, {memory:,.0f}" for _, _, score, memory in run["curve"]]
        lines.append(f"| {run['net']} | {run['trained']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(path: Path, runs: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, run in enumerate(run for run in runs if "failed" not in run):
        distance, _, score, memory = zip(*run["curve"], strict=True)
        left.plot(distance, score, marker=".", color=f"C{number}", label=run["net"])
        right.plot(distance, np.maximum(memory, 1), marker=".", color=f"C{number}")
    left.axhline(0.5, color="0.4", linestyle="--")
    left.axhline(0.95, color="0.4", linestyle=":")
    left.set(xscale="log", xlabel="distance", ylabel="held-out accuracy", ylim=(0.0, 1.02))
    left.legend(loc="lower left", fontsize="small")
    right.plot(DISTANCES, DISTANCES, color="0.4", linestyle=":")
    right.set(xscale="log", yscale="log", xlabel="distance", ylabel="memory length, steps")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", default=NETS, choices=NETS)
    parser.add_argument("--distance", type=int, default=32_000)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("enhancer.jsonl"))
    parser.add_argument("--plot", type=Path, help="a picture (needs matplotlib)")
    args = parser.parse_args()
    key = (args.distance, args.minutes, args.seed)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    runs = [json.loads(line) for line in lines]
    runs = [r for r in runs if (r["distance"], r["minutes"], r["seed"]) == key]
    for net in args.nets:
        if net not in [run["net"] for run in runs]:
            runs.append(measure(net, *key))
            with args.out.open("a") as file:
                file.write(json.dumps(runs[-1]) + "\n")
    runs.sort(key=lambda run: NETS.index(run["net"]))
    print(table(runs))
    if args.plot is not None:
        draw(args.plot, runs)


if __name__ == "__main__":
    main()
