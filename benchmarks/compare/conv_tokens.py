"""How close do causal convolutions over tokens and floats come to their bound, beside PyTorch?

Milliseconds of the outputs (apply) and of the loss with all parameter gradients (value_and_grad),
in float32, of Conv1d(V, 128, 15), RNN(128, 1), with gradcore's default budget. The recurrent layer
is the smallest that a net can have, and its own time, that of RNN(128, 1) alone over float inputs,
is subtracted. PyTorch computes conv1d over one-hot inputs, which it also has to make.

Bounds, per core times threads:
* tokens, forward: each step adds 15 rows of 128 floats, read from the smallest cache that holds the
  tables [15, V, 128]: bytes of the rows / speed of reads of a buffer of that size (gradcore bench).
* tokens, gradient: forward, again forward on the way back, and per tap one row read, added to and
  written; a write counts as a read: 4 times the bytes.
* floats: 2 * 15 * 128 * 128 operations per step forward at the speed of multiply-adds; with the
  gradient of the weights, and the windows made again, 2 times, as nobody asks for that of x.
Results are compared with PyTorch's before anything is timed.

    python benchmarks/compare/conv_tokens.py [--threads N] [--steps T] [--batch B] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gradcore as gd
from gradcore import _core
from gradcore.apps import bench
from gradcore.apps.bench import contestants, report
from gradcore.apps.bench.turns import take_turns

CHANNELS, TAPS = 128, 15
TOLERANCE = 1e-3


def speed_of_reads(size: int, threads: int) -> float:
    """Bytes per second from the smallest cache that holds `size` bytes per thread."""
    whole = max(512, -(-size // 512) * 512)
    return float(_core.measure_reads(whole, threads=threads, repeats=5, seconds=0.05))


def speed_of_products(threads: int) -> float:
    return float(_core.measure_flops("float32", threads=threads, repeats=5, seconds=0.05))


def bounds(vocabulary: int | None, rows: int, threads: int) -> dict[str, float]:
    """Seconds of apply and value_and_grad that the machine needs at least."""
    if vocabulary is None:
        one = 2 * TAPS * CHANNELS * CHANNELS * rows / speed_of_products(threads)
        return {"apply": one, "value_and_grad": 2 * one}
    table = TAPS * vocabulary * CHANNELS * 4
    one = TAPS * CHANNELS * 4 * rows / speed_of_reads(table, threads)
    return {"apply": one, "value_and_grad": 4 * one}


def measured(vocabulary: int | None, args: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    width = CHANNELS if vocabulary is None else vocabulary
    net = gd.Stack(gd.Conv1d(width, CHANNELS, TAPS), gd.RNN(CHANNELS, 1))
    rest = gd.Stack(gd.RNN(CHANNELS, 1))
    params, rest_params = net.init(seed=0), rest.init(seed=0)
    shape = (args.steps, args.batch)
    x: Any = (
        rng.standard_normal((*shape, width)).astype(np.float32)
        if vocabulary is None
        else rng.integers(vocabulary, size=shape).astype(np.uint8)
    )
    inner = rng.standard_normal((*shape, CHANNELS)).astype(np.float32)
    y = rng.standard_normal((*shape, 1)).astype(np.float32)
    module = gd.to_torch(net, params)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    how: dict[str, Any] = {"threads": args.threads}

    def peer_gradient() -> Any:
        module.zero_grad()
        loss = torch.nn.functional.mse_loss(module(inputs)[0], targets)
        loss.backward()
        return loss

    def peer_forward() -> Any:
        with torch.no_grad():
            return module(inputs)[0]

    found = gd.value_and_grad(net, params, x, y, loss="mse", **how)
    peer_gradient()
    expected = next(module[0].parameters()).grad
    assert expected is not None
    off = np.linalg.norm(expected.numpy() - found.grads["0.weight"])
    assert off < TOLERANCE * np.linalg.norm(expected.numpy()), off
    outputs = gd.apply(net, params, x, **how)[0]
    np.testing.assert_allclose(outputs, peer_forward().numpy(), atol=1e-4)

    result: dict[str, Any] = {"vocabulary": vocabulary}
    limits = bounds(vocabulary, args.steps * args.batch, args.threads)
    for name, own, alone, peer in (
        (
            "apply",
            lambda: gd.apply(net, params, x, **how),
            lambda: gd.apply(rest, rest_params, inner, **how),
            peer_forward,
        ),
        (
            "value_and_grad",
            lambda: gd.value_and_grad(net, params, x, y, loss="mse", **how),
            lambda: gd.value_and_grad(
                rest, rest_params, inner, y, loss="mse", wrt=("params", "x"), **how
            ),
            peer_gradient,
        ),
    ):
        best = take_turns({"gradcore": own, "rest": alone, "PyTorch": peer}, args.repeats)
        spent = max(best["gradcore"] - best["rest"], 1e-9)
        result[name] = {
            "ms": {contestant: 1e3 * s for contestant, s in best.items()},
            "bound_ms": 1e3 * limits[name],
            "fraction": limits[name] / spent,
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=gd.build_info().threads)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write machine and rows to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    with contestants.same_cpus(args.threads):
        machine = bench.measure(args.threads)
        print(report.machine_lines(machine), flush=True)
        for vocabulary in (5, 256, None):
            rows.append(measured(vocabulary, args))
            kind = "128 floats" if vocabulary is None else f"tokens, V = {vocabulary}"
            for name in ("apply", "value_and_grad"):
                one = rows[-1][name]
                print(
                    f"{kind}, {name}: gradcore {one['ms']['gradcore']:.0f} ms, of which the "
                    f"recurrent layer {one['ms']['rest']:.0f}; bound {one['bound_ms']:.1f} ms, "
                    f"fraction {one['fraction']:.2f}; PyTorch {one['ms']['PyTorch']:.0f} ms",
                    flush=True,
                )
    if args.json:
        args.json.write_text(
            json.dumps({"machine": machine.facts(), "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
