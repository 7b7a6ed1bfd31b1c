"""How fast are nets with dense and residual layers, beside the same modules of PyTorch?

Milliseconds for the loss and all parameter gradients, in float32, with the default budget of
gradcore. The module of PyTorch is the one that gradcore.to_torch makes, with the same parameters;
the gradients of both are compared before anything is timed. The best of --repeats turns counts;
contestants take turns. Needs PyTorch.

    python benchmarks/compare/dense.py [--threads N] [--steps T] [--batch B] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
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


def block(width: int, inner: int, activation: Any) -> gd.Residual:
    """The feed-forward part of a residual block."""
    return gd.Residual(
        gd.LayerNorm(width), gd.Dense(width, inner, activation), gd.Dense(inner, width)
    )


def nets() -> dict[str, gd.Stack]:
    """All by name, with 40 inputs and 10 outputs."""
    return {
        "Dense 40/64 relu, GRU 64, Linear": gd.Stack(
            gd.Dense(40, 64, "relu"), gd.GRU(64, 64), gd.Linear(64, 10)
        ),
        "Dense 40/128 gelu, block 128/256, LSTM 128, Linear": gd.Stack(
            gd.Dense(40, 128, "gelu"),
            block(128, 256, "gelu"),
            gd.LSTM(128, 128),
            gd.Linear(128, 10),
        ),
        "Dense 40/128, 2 x (residual GRU 128, block 128/256), Linear": gd.Stack(
            gd.Dense(40, 128),
            gd.Residual(gd.LayerNorm(128), gd.GRU(128, 128)),
            block(128, 256, "silu"),
            gd.Residual(gd.LayerNorm(128), gd.GRU(128, 128)),
            block(128, 256, "silu"),
            gd.Linear(128, 10),
        ),
        "both ways: GRU 64, Dense 128/64 silu, Linear": gd.Stack(
            gd.GRU(40, 64, bidirectional=True), gd.Dense(128, 64, "silu"), gd.Linear(64, 10)
        ),
    }


def measured(net: gd.Stack, args: argparse.Namespace) -> dict[str, Any]:
    """Times of one net, after its gradients were compared."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((args.steps, args.batch, 40)).astype(np.float32)
    y = rng.standard_normal((args.steps, args.batch, 10)).astype(np.float32)
    params = net.init(seed=0)
    module = gd.to_torch(net, params)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)

    def ours() -> Any:
        return gd.value_and_grad(net, params, x, y, loss="mse", threads=args.threads)

    def theirs() -> None:
        module.zero_grad()
        torch.nn.functional.mse_loss(module(inputs)[0], targets).backward()

    result = ours()
    theirs()
    # The gradients in a second module, so that names need no translation.
    expected = gd.to_torch(net, params)
    with torch.no_grad():
        for one, other in zip(expected.parameters(), module.parameters(), strict=True):
            assert other.grad is not None
            one.copy_(other.grad)
    peer = gd.from_torch(expected)[1]
    errors = [
        np.linalg.norm(peer[name] - grad) / np.linalg.norm(peer[name])
        for name, grad in result.grads.items()
    ]
    assert max(errors) < TOLERANCE, errors
    best = take_turns({"gradcore": ours, "PyTorch": theirs}, args.repeats)
    plan = gd.plan(net, args.steps, args.batch, loss="mse", threads=args.threads)
    return {"ms": {name: 1e3 * s for name, s in best.items()}, "bytes": plan.bytes}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=gd.build_info().threads)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write machine and rows to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    with contestants.same_cpus(args.threads):
        machine = bench.measure(args.threads)
        print(report.machine_lines(machine), flush=True)
        for name, net in nets().items():
            rows.append({"net": name, **measured(net, args)})
            own, peer = rows[-1]["ms"].values()
            print(
                f"{name}: gradcore {own:.0f} ms with {1e-6 * rows[-1]['bytes']:.0f} MB, "
                f"PyTorch {peer:.0f} ms; ratio {peer / own:.2f}",
                flush=True,
            )
    mean = math.exp(np.mean([np.log(row["ms"]["PyTorch"] / row["ms"]["gradcore"]) for row in rows]))
    print(f"geometric mean of the ratios: {mean:.2f}")
    if args.json:
        args.json.write_text(
            json.dumps({"machine": machine.facts(), "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
