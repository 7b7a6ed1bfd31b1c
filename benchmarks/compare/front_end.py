"""A strided front end on a raw signal and recurrent layers, beside the same modules of PyTorch.

Conv1d(1, 32, 16, stride=4), Dense 64, two bidirectional GRUs of 64 units and a head: milliseconds
for the loss and all parameter gradients in float32, and how much the resident set of a process
grows by one such call. Losses and gradients of both are compared before anything is timed. The best
of --repeats turns counts; contestants take turns; the resident sets are those of processes of their
own. Needs PyTorch.

    python benchmarks/compare/front_end.py [--threads N] [--steps T] [--batch B] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gradcore as gd
from gradcore.apps import bench
from gradcore.apps.bench import contestants, report
from gradcore.apps.bench.turns import take_turns

# The largest |difference| / |gradient| of a parameter.
TOLERANCE = 1e-3
NET = gd.Stack(
    gd.Conv1d(1, 32, 16, stride=4, padding="valid", activation="relu"),
    gd.Dense(32, 64, "relu"),
    gd.GRU(64, 64, bidirectional=True),
    gd.GRU(128, 64, bidirectional=True),
    gd.Linear(128, 5),
)


class Peer(torch.nn.Module):
    """The same modules of PyTorch, with the parameters of a gradcore net."""

    def __init__(self, params: gd.Params) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(1, 32, 16, stride=4)
        self.dense = torch.nn.Linear(32, 64)
        self.rnn = torch.nn.GRU(64, 64, num_layers=2, bidirectional=True)
        self.head = torch.nn.Linear(128, 5)
        with torch.no_grad():
            for own, name in self.names().items():
                dict(self.named_parameters())[own].copy_(torch.from_numpy(params[name]))

    def names(self) -> dict[str, str]:
        """gradcore's name of each parameter."""
        places = {"conv": 0, "dense": 1, "head": 4}
        found = {}
        for own in dict(self.named_parameters()):
            module, _, rest = own.partition(".")
            if module == "rnn":
                layer = int(rest.split("_l")[1][0])
                found[own] = f"{2 + layer}.{rest.replace(f'_l{layer}', '')}"
            else:
                found[own] = f"{places[module]}.{rest}"
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.conv(x.permute(1, 2, 0)).relu().permute(2, 0, 1)
        outputs: torch.Tensor = self.head(self.rnn(self.dense(rows).relu())[0])
        return outputs


def calls(args: argparse.Namespace) -> tuple[Callable[[], Any], Callable[[], Any], Peer]:
    """The calls of gradcore and of PyTorch."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((args.steps, args.batch, 1)).astype(np.float32)
    y = rng.integers(5, size=(NET.output_steps(args.steps), args.batch))
    params = NET.init(seed=0)
    module = Peer(params)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y).flatten()

    def ours() -> Any:
        return gd.value_and_grad(
            NET, params, x, y, loss="cross_entropy", threads=args.threads, memory=args.memory
        )

    def theirs() -> float:
        module.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(inputs).flatten(0, 1), targets)
        loss.backward()
        return float(loss.detach())

    return ours, theirs, module


def compare(ours: Callable[[], Any], theirs: Callable[[], Any], module: Peer) -> None:
    """Fails unless both have the same loss and gradients."""
    result, loss = ours(), theirs()
    assert abs(result.loss - loss) < TOLERANCE * loss, (result.loss, loss)
    for own, name in module.names().items():
        grad = dict(module.named_parameters())[own].grad
        assert grad is not None
        off = np.linalg.norm(result.grads[name] - grad.numpy())
        assert off < TOLERANCE * np.linalg.norm(grad.numpy()), (name, off)


def growth(args: argparse.Namespace, name: str) -> float:
    """Megabytes by which a call makes the resident set of a new process grow."""
    options = [f"--{key}={getattr(args, key)}" for key in ("threads", "steps", "batch")]
    done = subprocess.run(
        [sys.executable, __file__, *options, f"--alone={name}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def alone(args: argparse.Namespace) -> None:
    """Prints the growth of this process by one call, behind a call of few steps."""
    small = argparse.Namespace(**{**vars(args), "steps": 64})
    calls(small)[args.alone == "PyTorch"]()
    call = calls(args)[args.alone == "PyTorch"]
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before = resident("VmRSS")
    call()
    print(resident("VmHWM") - before)


def resident(name: str) -> float:
    """Megabytes of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=gd.build_info().threads)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--memory", default="550MB", help="the budget of gradcore")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write machine and row to this file")
    parser.add_argument("--alone", choices=["gradcore", "PyTorch"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.alone:
        alone(args)
        return
    with contestants.same_cpus(args.threads):
        machine = bench.measure(args.threads)
        print(report.machine_lines(machine), flush=True)
        ours, theirs, module = calls(args)
        compare(ours, theirs, module)
        best = take_turns({"gradcore": ours, "PyTorch": theirs}, args.repeats)
    row = {
        "ms": {name: 1e3 * seconds for name, seconds in best.items()},
        "MB": {name: growth(args, name) for name in best},
    }
    for name in best:
        print(f"{name}: {row['ms'][name]:.0f} ms, {row['MB'][name]:.0f} MB")
    ms, size = row["ms"], row["MB"]
    print(f"PyTorch takes {ms['PyTorch'] / ms['gradcore']:.2f} times as long", end=" ")
    print(f"and {size['PyTorch'] / max(size['gradcore'], 0.1):.1f} times the memory")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine.facts(), "row": row}, indent=1) + "\n")


if __name__ == "__main__":
    main()
