"""What does gradcore cost when it is called through PyTorch, and how much faster is it than
torch.nn?

The script runs the rows of docs/performance.md with H >= 64 in one process: gradcore's own call
(value_and_grad, loss included), and the layers of gradcore.torch and torch.nn, both with mse_loss
and backward() of PyTorch. One more column passes the layer the gradient of its outputs, so that
PyTorch's loss is left out; the column beside it does the same by gradcore.forward and
Pass.backward. Gradients are compared before anything is timed. Times are microseconds per time step
of all B sequences together, the best of --repeats turns.

    python benchmarks/compare/drop_in.py [--threads N] [--repeats N]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from bptt import SIZES

import gradcore as gd
import gradcore.torch as gt
from gradcore.apps import bench
from gradcore.apps.bench import agreement, contestants, turns
from gradcore.apps.bench.problem import INPUTS, Problem

NAMES = ("native", "drop-in", "torch.nn", "pass", "layer")


def given(problem: Problem, threads: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Forward and backward with a given gradient of the outputs: by NumPy, and through the
    layer.
    """
    net, params = contestants.net_of(problem)
    memory = contestants.memory_for(problem.row, threads)
    d_outputs = np.ones_like(problem.y)

    def one() -> object:
        made = gd.forward(
            net, params, problem.x, wrt=("params", "x"), memory=memory, threads=threads
        )
        return made.backward(d_outputs)

    layer = getattr(gt, problem.row.cell)(INPUTS, problem.row.hidden, memory=memory)
    x = torch.from_numpy(problem.x).requires_grad_()
    arriving = torch.from_numpy(d_outputs)

    def other() -> None:
        layer.zero_grad()
        x.grad = None
        layer(x)[0].backward(arriving)

    return one, other


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=gd.build_info().threads)
    parser.add_argument("--repeats", type=int, default=4)
    args = parser.parse_args()
    print("| cell | H | B | " + " | ".join(NAMES) + " | drop-in / native | torch.nn / drop-in |")
    print("|---" * (len(NAMES) + 5) + "|")
    costs, gains = [], []
    with contestants.same_cpus(args.threads):
        for cell, sizes in SIZES.items():
            for hidden, batch in sizes:
                if hidden < 64:
                    continue
                (row,) = bench.grid([cell], [hidden], [batch], None)
                problem = Problem.random(row)
                memory = contestants.memory_for(row, args.threads)
                made = {
                    "native": contestants.gradcore(problem, args.threads),
                    "drop-in": contestants.by_modules(gt, problem, args.threads, memory=memory),
                    "torch.nn": contestants.torch(problem, args.threads),
                }
                first = made["native"]()
                for name in ("drop-in", "torch.nn"):
                    agreement.check_same(problem, name, made[name](), first)
                made["pass"], made["layer"] = given(problem, args.threads)
                best = turns.take_turns(made, args.repeats)
                us = {name: best[name] / row.steps * 1e6 for name in NAMES}
                costs.append(us["drop-in"] / us["native"])
                gains.append(us["torch.nn"] / us["drop-in"])
                columns = " | ".join(f"{us[name]:.3g}" for name in NAMES)
                print(
                    f"| {cell} | {hidden} | {batch} | {columns} | {costs[-1]:.2f} | "
                    f"{gains[-1]:.2f} |",
                    flush=True,
                )
    for what, ratios in (("drop-in / native", costs), ("torch.nn / drop-in", gains)):
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"{what}: geometric mean {mean:.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
