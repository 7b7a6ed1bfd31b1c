"""How fast is one label per sequence, and in what memory, beside PyTorch?

Milliseconds for the loss and all parameter gradients of a GRU with a pooled head, in float32, and
the memory that each takes: of gradcore the bytes of its plan for the default and for the smallest
budget, of PyTorch the growth of the peak of the resident set in a process of its own. The module of
PyTorch is the one that gradcore.to_torch makes, with the same parameters; losses and gradients of
both are compared before anything is timed. The best of --repeats turns counts; contestants take
turns. Needs PyTorch.

    python benchmarks/compare/pooled_head.py [--threads N] [--steps T] [--batch B] [--hidden H]
                                             [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gradcore as gd
from gradcore.apps import bench
from gradcore.apps.bench import contestants, report
from gradcore.apps.bench.turns import take_turns

# The largest |difference| / |gradient| of a parameter: float32 over 100,000 steps.
TOLERANCE = 2e-3
INPUTS, CLASSES = 8, 5


def nets(hidden: int) -> dict[str, gd.Stack]:
    """All by name."""
    found = {}
    for both in (False, True):
        width = 2 * hidden if both else hidden
        for kind in ("last", "mean", "max", "attention"):
            found[f"{'both ways, ' * both}{kind}"] = gd.Stack(
                gd.GRU(INPUTS, hidden, bidirectional=both),
                gd.Pool(kind, width),
                gd.Linear(width, CLASSES),
            )
    return found


def problem(net: gd.Stack, steps: int, batch: int) -> tuple[Any, Any, gd.Params]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps, batch, INPUTS)).astype(np.float32)
    return x, rng.integers(CLASSES, size=batch), net.init(seed=0)


def resident(name: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def growth_of_pytorch(name: str, args: argparse.Namespace, answer: Any) -> None:
    """Sends how much the peak grew in one step of PyTorch; runs in a process of its own."""
    torch.set_num_threads(args.threads)
    net = nets(args.hidden)[name]
    x, y, params = problem(net, args.steps, args.batch)
    module = gd.to_torch(net, params)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before = resident("VmRSS")
    torch.nn.functional.cross_entropy(module(inputs)[0], targets).backward()
    answer.send(resident("VmHWM") - before)


def memory_of_pytorch(name: str, args: argparse.Namespace) -> int:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=growth_of_pytorch, args=(name, args, there))
    process.start()
    found = here.recv()
    process.join()
    return int(found)


def smallest_plan(net: gd.Stack, args: argparse.Namespace) -> int:
    try:
        gd.plan(net, args.steps, args.batch, threads=args.threads, memory=1)
    except gd.MemoryBudgetError as refused:
        return refused.smallest
    raise AssertionError("a budget of one byte was accepted.")


def check(net: gd.Stack, result: Any, loss: float, module: Any) -> None:
    """Compares losses and gradients; those of PyTorch come back through a second module."""
    expected = gd.to_torch(net, net.init(seed=0))
    with torch.no_grad():
        for one, other in zip(expected.parameters(), module.parameters(), strict=True):
            assert other.grad is not None
            one.copy_(other.grad)
    peer = gd.from_torch(expected)[1]
    errors = [
        np.linalg.norm(peer[name] - grad) / max(np.linalg.norm(peer[name]), 1e-6)
        for name, grad in result.grads.items()
    ]
    assert abs(result.loss - loss) < 1e-4 * abs(loss), (result.loss, loss)
    assert max(errors) < TOLERANCE, errors


def measured(name: str, net: gd.Stack, args: argparse.Namespace) -> dict[str, Any]:
    """Times and memory of one net, after its gradients were compared."""
    x, y, params = problem(net, args.steps, args.batch)
    module = gd.to_torch(net, params)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    how = {"loss": "cross_entropy", "threads": args.threads}
    least = smallest_plan(net, args)

    def ours() -> Any:
        return gd.value_and_grad(net, params, x, y, **how)

    def in_least() -> Any:
        return gd.value_and_grad(net, params, x, y, **how, memory=least)

    def theirs() -> float:
        module.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(inputs)[0], targets)
        loss.backward()
        return loss.item()

    try:
        usual, result = ours, ours()
    except gd.MemoryBudgetError:  # attention over a bidirectional layer, in a long call
        usual, result = in_least, in_least()
    check(net, result, theirs(), module)
    contest = {"gradcore": usual, "gradcore, smallest budget": in_least, "PyTorch": theirs}
    best = take_turns(contest, args.repeats)
    return {
        "ms": {who: 1e3 * s for who, s in best.items()},
        "bytes": {
            "gradcore": result.plan.bytes,
            "gradcore, smallest budget": least,
            "PyTorch": memory_of_pytorch(name, args),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=gd.build_info().threads)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write machine and rows to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    with contestants.same_cpus(args.threads):
        machine = bench.measure(args.threads)
        print(report.machine_lines(machine), flush=True)
        for name, net in nets(args.hidden).items():
            rows.append({"net": name, **measured(name, net, args)})
            ms, held = rows[-1]["ms"], rows[-1]["bytes"]
            told = ", ".join(f"{who} {ms[who]:.0f} ms {1e-6 * held[who]:.0f} MB" for who in ms)
            print(f"{name}: {told}; ratio {ms['PyTorch'] / ms['gradcore']:.2f}", flush=True)
    mean = math.exp(np.mean([np.log(row["ms"]["PyTorch"] / row["ms"]["gradcore"]) for row in rows]))
    print(f"geometric mean of the ratios: {mean:.2f}")
    if args.json:
        args.json.write_text(
            json.dumps({"machine": machine.facts(), "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
