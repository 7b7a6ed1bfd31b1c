"""How does the time per step grow with T, H, B, threads and the memory budget?

The pass is forward and backward with all gradients through one layer with I = 16 in float32, with
the squared error on every output, after a warm-up; times are microseconds per time step of all B
sequences. One quantity changes, the others stay at H = 128, B = 8, T = 10,000, whole tape, all
threads (over T: a budget of 64 MB; over the budget: ten times the steps). The best of --repeats
counts, and all points of a curve take turns, so that a busy minute affects them equally. Before,
results are checked: over threads and budget by equal bits, over T, H and B by finite differences as
in gradcore bench.

    python benchmarks/scaling.py [--cell LSTM] [--quick] [--json FILE] [--plot FOLDER]

--plot writes FOLDER/scaling-<quantity>.png.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradcore as gd
from gradcore.apps import bench
from gradcore.apps.bench import contestants, report
from gradcore.apps.bench.agreement import DIFFERENCE_STEPS, check_differences
from gradcore.apps.bench.bound import bound_us
from gradcore.apps.bench.problem import INPUTS, Problem, Row

WARM = 0.7  # seconds before a point is timed: an idle core is slow for about 100 ms
REST = 0.05  # seconds: threads spin for a few milliseconds after a turn


@dataclass(frozen=True)
class Point:
    """A problem and how it is run; x: its position on the axis."""

    x: float
    row: Row
    threads: int
    memory: str | int = "full"


def turn_of(point: Point) -> Callable[[], gd.Grads]:
    problem = Problem.random(point.row)
    net, params = contestants.net_of(problem)
    kept: list[gd.Grads] = []

    def turn() -> gd.Grads:
        r = gd.value_and_grad(
            net,
            params,
            problem.x,
            problem.y,
            loss="mse",
            memory=point.memory,
            threads=point.threads,
            out=kept[0] if kept else None,
        )
        assert r.grads is not None
        kept[:] = [r.grads]
        return r.grads

    return turn


def digest(grads: gd.Grads) -> str:
    return hashlib.sha256(grads.flat.tobytes()).hexdigest()


def check(points: list[Point], same_problem: bool) -> None:
    if same_problem:
        if len({digest(turn_of(p)()) for p in points}) != 1:
            raise SystemExit("threads and budgets must give equal bits.")
        return
    for point in points:
        short = Problem.random(point.row).first(DIFFERENCE_STEPS)
        check_differences(short, contestants.gradcore(short, point.threads)())


def take(points: list[Point], repeats: int) -> list[float]:
    """Microseconds per step. Long problems are made one at a time, because all together would not
    fit into memory.
    """
    best = [math.inf] * len(points)
    for _ in range(repeats):
        for i, point in enumerate(points):
            turn = turn_of(point)
            warm = time.perf_counter() + WARM
            turn()
            while time.perf_counter() < warm:
                turn()
            for _ in range(2):
                time.sleep(REST)
                begin = time.perf_counter()
                turn()
                seconds = time.perf_counter() - begin
                best[i] = min(best[i], seconds / point.row.steps * 1e6)
    return best


def curves(cell: str, threads: int, quick: bool) -> dict[str, list[Point]]:
    steps = 1_000 if quick else 10_000
    base = Point(0, Row(cell, 128, 8, steps), threads)

    def rows(**change: Any) -> Point:
        (name, value), *_ = change.items()
        # Each turn has about the same number of operations, so that it takes neither a minute nor a
        # millisecond.
        work = {"hidden": (value / 128) ** 2, "batch": value / 8}[name]
        fewer = max(512, min(steps, int(steps / work)))
        return replace(base, x=value, row=replace(base.row, steps=fewer, **change))

    lengths = (1_000, 3_000) if quick else (1_000, 10_000, 100_000, 1_000_000)
    net = gd.Stack(contestants.CELL_BY_NAME[cell](INPUTS, 128))
    long = replace(base, row=replace(base.row, steps=steps * 10))
    whole = gd.plan(net, long.row.steps, 8, loss="mse", memory="full", threads=threads).bytes
    least = smallest_budget(net, long.row.steps, threads)
    return {
        "T": [replace(base, x=t, row=replace(base.row, steps=t), memory="64MB") for t in lengths],
        "H": [rows(hidden=h) for h in ((32, 64) if quick else (32, 64, 128, 256, 512))],
        "B": [rows(batch=b) for b in ((1, 8) if quick else (1, 2, 4, 8, 16, 32, 64))],
        "threads": [replace(base, x=n, threads=n) for n in range(1, threads + 1)],
        "budget": [
            replace(long, x=size / 1e6, memory=size)
            for size in sorted({least, 4 * least, 64_000_000, 256_000_000, whole})
            if size >= least
        ],
    }


def smallest_budget(net: gd.Stack, steps: int, threads: int) -> int:
    """Accurate to 1 %: below it the planner raises an error."""
    low, high = 0, 2**33
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        try:
            gd.plan(net, steps, 8, loss="mse", memory=middle, threads=threads)
            high = middle
        except gd.MemoryBudgetError:
            low = middle
    return high


TITLES = {
    "T": "steps",
    "H": "hidden units",
    "B": "sequences",
    "threads": "threads",
    "budget": "budget, MB",
}


def draw(
    name: str, points: list[Point], times: list[float], bounds: list[float], path: Path
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    x = [p.x for p in points]
    axes.plot(x, times, "o-", label="gradcore")
    axes.plot(x, bounds, "k--", label="bound")
    axes.set(xlabel=TITLES[name], ylabel="µs per step")
    if name != "threads":
        axes.set_xscale("log")
    if name in ("H", "B"):
        axes.set_yscale("log")
    if axes.get_yscale() == "linear":
        axes.set_ylim(0, None)
    # Numbers beyond four digits are written out as well: 10,000 instead of 1e+04.
    axes.set_xticks(x, [f"{v:,.4g}" if v < 1e4 else f"{v:,.0f}" for v in x])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cell", default="LSTM", choices=list(contestants.CELL_BY_NAME))
    parser.add_argument("--threads", type=int, default=gd.build_info().threads)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="fewer points and turns")
    parser.add_argument("--only", choices=list(TITLES), nargs="+", default=list(TITLES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="folder for the pictures")
    args = parser.parse_args()
    with contestants.same_cpus(args.threads):
        machine = bench.measure(args.threads)
        print(report.machine_lines(machine))
        record: dict[str, Any] = {"machine": machine.facts(), "cell": args.cell, "curves": {}}
        for name, points in curves(args.cell, args.threads, args.quick).items():
            if name not in args.only:
                continue
            check(points, same_problem=name in ("threads", "budget"))
            times = take(points, 1 if args.quick else args.repeats)
            bounds = [
                bound_us(
                    replace(machine, all=machine.one) if p.threads == 1 else machine,
                    gates=p.row.gates,
                    inputs=INPUTS,
                    hidden=p.row.hidden,
                    batch=p.row.batch,
                )
                for p in points
            ]
            print(f"\n| {TITLES[name]} | steps | us per step | against the first | bound |")
            print("|---|---|---|---|---|")
            for point, us, bound in zip(points, times, bounds, strict=True):
                against = us / times[0]
                print(
                    f"| {point.x:,.4g} | {point.row.steps:,} | {us:.3g} | {against:.2f} | "
                    f"{bound:.3g} |"
                )
            record["curves"][name] = [
                {"x": p.x, "steps": p.row.steps, "us_per_step": us, "bound_us": b}
                for p, us, b in zip(points, times, bounds, strict=True)
            ]
            if args.plot:
                draw(name, points, times, bounds, args.plot / f"scaling-{name}.png")
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
