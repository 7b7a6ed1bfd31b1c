"""How long does exact BPTT take per time step, beside PyTorch and JAX in the same run?

One layer, float32, squared error on every output of every step; loss, all parameter gradients and
the input's gradient. Every contestant gets the same weights, data and number of threads. Gradients
are compared before anything is timed. The contestants take turns; the figure is the best of
`--repeat` turns after one warm-up, in microseconds per time step (all B sequences together).

    python benchmarks/compare/bptt.py [--cells LSTM,GRU,RNN] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gradcore as gd

SIZES = {  # (H, B), the rows that the published comparison uses
    "LSTM": (
        *((32, 1), (32, 8), (64, 1), (64, 8), (64, 32)),
        *((128, 1), (128, 8), (128, 32), (256, 1), (256, 8)),
    ),
    "GRU": ((32, 1), (32, 8), (64, 1), (64, 32), (128, 1), (128, 8), (256, 1), (256, 8)),
    "RNN": ((32, 1), (128, 1), (128, 8), (256, 1), (256, 8)),
}
ROWS = [(cell, hidden, batch) for cell, sizes in SIZES.items() for hidden, batch in sizes]
INPUTS = 16
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
# Seconds between turns: the threads of the contestant before spin for some milliseconds after its
# work, and whoever came next would share the cores with them.
PAUSE = 0.1
Gradients = dict[str, np.ndarray]


def problem(cell: str, hidden: int, batch: int, steps: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    bound = 1 / math.sqrt(hidden)
    rows = GATES[cell] * hidden

    def uniform(*shape: int) -> np.ndarray:
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    return {
        "x": rng.standard_normal((steps, batch, INPUTS)).astype(np.float32),
        "y": rng.standard_normal((steps, batch, hidden)).astype(np.float32),
        "weight_ih": uniform(rows, INPUTS),
        "weight_hh": uniform(rows, hidden),
        "bias_ih": uniform(rows),
        "bias_hh": uniform(rows),
    }


def with_gradcore(cell: str, data: dict[str, np.ndarray], threads: int) -> Callable[[], Gradients]:
    net = gd.Stack(getattr(gd, cell)(INPUTS, data["y"].shape[2]))
    params = net.init(seed=0, dtype="float32")
    for name, values in params.items():
        values[...] = data[name.split(".")[1]]
    out = None

    def turn() -> Gradients:
        nonlocal out
        r = gd.value_and_grad(
            net,
            params,
            data["x"],
            data["y"],
            loss="mse",
            wrt=("params", "x"),
            memory="full",
            threads=threads,
            out=out,
        )
        out = r.grads
        return {name.split(".")[1]: g for name, g in r.grads.items()} | {"x": r.dx}

    return turn


def with_torch(cell: str, data: dict[str, np.ndarray], threads: int) -> Callable[[], Gradients]:
    import torch

    torch.set_num_threads(threads)
    layer = getattr(torch.nn, cell)(INPUTS, data["y"].shape[2])
    with torch.no_grad():
        for name, values in layer.named_parameters():
            values.copy_(torch.from_numpy(data[name.removesuffix("_l0")]))
    x = torch.from_numpy(data["x"]).requires_grad_()
    y = torch.from_numpy(data["y"])

    def turn() -> Gradients:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        torch.nn.functional.mse_loss(layer(x)[0], y).backward()
        grads = {n.removesuffix("_l0"): p.grad.numpy() for n, p in layer.named_parameters()}
        return grads | {"x": x.grad.numpy()}

    return turn


def with_jax(cell: str, data: dict[str, np.ndarray], threads: int) -> Callable[[], Gradients]:
    import jax
    import jax.numpy as jnp

    hidden, batch = data["y"].shape[2], data["y"].shape[1]
    zeros = jnp.zeros((batch, hidden), jnp.float32)
    weights = {k: jnp.asarray(v) for k, v in data.items() if k not in ("x", "y")}
    x, y = jnp.asarray(data["x"]), jnp.asarray(data["y"])

    def step(p: Any, carry: Any, from_x: Any) -> Any:
        h, c = carry
        from_h = h @ p["weight_hh"].T + p["bias_hh"]
        if cell == "RNN":
            h = jnp.tanh(from_x + from_h)
        elif cell == "LSTM":
            i, f, g, o = jnp.split(from_x + from_h, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
        else:
            xr, xz, xn = jnp.split(from_x, 3, axis=-1)
            hr, hz, hn = jnp.split(from_h, 3, axis=-1)
            r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
            n = jnp.tanh(xn + r * hn)
            h = n + z * (h - n)
        return (h, c), h

    def loss(p: Any, x: Any) -> Any:
        from_x = x @ p["weight_ih"].T + p["bias_ih"]
        _, out = jax.lax.scan(lambda carry, row: step(p, carry, row), (zeros, zeros), from_x)
        return jnp.mean((out - y) ** 2)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))

    def turn() -> Gradients:
        by_weights, by_x = jax.block_until_ready(gradient(weights, x))
        return {k: np.asarray(v) for k, v in by_weights.items()} | {"x": np.asarray(by_x)}

    return turn


def norm_error(got: Gradients, want: Gradients) -> float:
    return max(
        float(np.linalg.norm(got[name] - want[name]) / np.linalg.norm(want[name])) for name in want
    )


def measure(cell: str, hidden: int, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    steps = args.steps or (3_000 if batch >= 32 else 10_000)
    data = problem(cell, hidden, batch, steps)
    makers = {"gradcore": with_gradcore, "torch": with_torch, "jax": with_jax}
    turns = {name: makers[name](cell, data, args.threads) for name in ["gradcore", *args.peers]}
    own = turns["gradcore"]()
    for name in args.peers:
        error = norm_error(own, turns[name]())
        # Both sum 10,000 steps in float32 in their own order.
        assert error < 1e-4, (
            f"{cell} H={hidden} B={batch}: gradcore and {name} differ by {error:.1e}"
        )
    best = dict.fromkeys(turns, math.inf)
    for _ in range(args.repeat):
        for name, turn in turns.items():
            time.sleep(PAUSE)
            begin = time.perf_counter()
            turn()
            best[name] = min(best[name], time.perf_counter() - begin)
    per_step = {name: seconds / steps * 1e6 for name, seconds in best.items()}
    own_us = per_step.pop("gradcore")
    row = {"cell": cell, "H": hidden, "B": batch, "T": steps, "us_per_step": own_us}
    ratio = min(per_step.values()) / own_us if per_step else None
    return row | {"peers": per_step, "best_peer_ratio": ratio}


def machine(threads: int) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    info = gd.build_info()
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "isa": info.isa_in_use,
        "compiler": info.compiler,
        "gradcore": info.version,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cells", default="LSTM,GRU,RNN", help="comma-separated")
    parser.add_argument("--batch", default="", help="only these batch sizes, comma-separated")
    parser.add_argument("--peers", default="torch,jax", help="comma-separated; empty for none")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", type=int, default=0, help="default 10,000; 3,000 at B = 32")
    parser.add_argument("--repeat", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write machine and rows to this file")
    args = parser.parse_args()
    args.peers = [name for name in args.peers.split(",") if name]
    if "jax" in args.peers and args.threads == 1:
        os.environ["XLA_FLAGS"] = (
            "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        )
    batches = [int(b) for b in args.batch.split(",") if b]
    rows = []
    print("| cell | H | B | gradcore us/step |", " | ".join(args.peers), "| best peer / gradcore |")
    print("|---" * (5 + len(args.peers)) + "|")
    for cell, hidden, batch in ROWS:
        if cell not in args.cells.split(",") or (batches and batch not in batches):
            continue
        row = measure(cell, hidden, batch, args)
        rows.append(row)
        peers = " | ".join(f"{row['peers'][name]:.3g}" for name in args.peers)
        ratio = f"{row['best_peer_ratio']:.2f}" if args.peers else "-"
        print(
            f"| {cell} | {hidden} | {batch} | {row['us_per_step']:.3g} | {peers} | {ratio} |",
            flush=True,
        )
    if args.peers:
        mean = math.exp(sum(math.log(row["best_peer_ratio"]) for row in rows) / len(rows))
        print(f"\ngeometric mean of best peer / gradcore: {mean:.2f}")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(args.threads), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
