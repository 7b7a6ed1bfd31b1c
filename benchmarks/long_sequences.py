"""What does a pass over 100,000 steps cost in time and memory, and how accurate is float32?

The net is an LSTM with H = 128, B = 8 in float32, with the squared error on every output; the times
of first calls include their page faults. Each line is its own process, so that the growth of its
resident set is that of one call: the peak during the call minus the size before it in kB, without
the caller's arrays and the returned ones, which the budget does not include either. All budgets
must give equal bits. The accuracy is the relative norm of the difference between float32 and
float64 gradients at T = 10,000, with initial weights.

--genome measures the same for the net of `gradcore train dna` at H = 128: one window of tokens, two
bidirectional GRU layers, seven classes at every step.

    python benchmarks/long_sequences.py [--steps 100000] [--genome] [--torch]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from typing import Any

import numpy as np

import gradcore as gd

HIDDEN, BATCH, INPUTS = 128, 8, 16


def resident_kb(name: str) -> int:
    """VmRSS, or VmHWM, the largest resident set since reset_peak()."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))


def reset_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def data(steps: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps, BATCH, INPUTS), dtype=np.float32).astype(dtype)
    return x, rng.standard_normal((steps, BATCH, HIDDEN), dtype=np.float32).astype(dtype)


def with_gradcore(steps: int, memory: str) -> dict[str, Any]:
    net = gd.Stack(gd.LSTM(INPUTS, HIDDEN))
    params = net.init(seed=0, dtype="float32")
    x, y = data(steps, "float32")
    reset_peak()
    before = resident_kb("VmRSS")
    begin = time.perf_counter()
    r = gd.value_and_grad(net, params, x, y, loss="mse", memory=memory)
    first = time.perf_counter() - begin
    growth = resident_kb("VmHWM") - before
    begin = time.perf_counter()
    gd.value_and_grad(net, params, x, y, loss="mse", memory=memory)
    warm = time.perf_counter() - begin
    assert r.grads is not None
    digest = hashlib.sha256(r.grads.flat.tobytes()).hexdigest()[:12]
    return {
        "first_s": first,
        "warm_s": warm,
        "growth_kb": growth,
        "predicted_kb": r.plan.bytes // 1000,
        "digest": digest,
    }


def with_torch(steps: int) -> dict[str, Any]:
    import torch

    layer = torch.nn.LSTM(INPUTS, HIDDEN)
    arrays = data(steps, "float32")
    x, y = (torch.from_numpy(a) for a in arrays)
    reset_peak()
    before = resident_kb("VmRSS")
    begin = time.perf_counter()
    torch.nn.functional.mse_loss(layer(x)[0], y).backward()
    first = time.perf_counter() - begin
    return {"first_s": first, "growth_kb": resident_kb("VmHWM") - before}


def window(steps: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 65, (steps, 1)), rng.integers(0, 7, (steps, 1))


def genome(steps: int) -> dict[str, Any]:
    net = gd.Stack(
        gd.Embedding(65, 16),
        gd.GRU(16, HIDDEN, bidirectional=True),
        gd.GRU(2 * HIDDEN, HIDDEN, bidirectional=True),
        gd.Linear(2 * HIDDEN, 7),
    )
    params = net.init(seed=0)
    x, y = window(steps)
    reset_peak()
    before = resident_kb("VmRSS")
    begin = time.perf_counter()
    r = gd.value_and_grad(net, params, x, y, loss="cross_entropy", memory="1GB")
    first = time.perf_counter() - begin
    growth = resident_kb("VmHWM") - before
    return {"first_s": first, "growth_kb": growth, "predicted_kb": r.plan.bytes // 1000}


def torch_genome(steps: int) -> dict[str, Any]:
    import torch

    embedding = torch.nn.Embedding(65, 16)
    layers = torch.nn.GRU(16, HIDDEN, num_layers=2, bidirectional=True)
    head = torch.nn.Linear(2 * HIDDEN, 7)
    x, y = (torch.from_numpy(a) for a in window(steps))
    reset_peak()
    before = resident_kb("VmRSS")
    begin = time.perf_counter()
    outputs = head(layers(embedding(x))[0])
    torch.nn.functional.cross_entropy(outputs.flatten(0, 1), y.flatten()).backward()
    first = time.perf_counter() - begin
    return {"first_s": first, "growth_kb": resident_kb("VmHWM") - before}


def accuracy(steps: int) -> dict[str, Any]:
    errors = {}
    for cell in ("RNN", "LSTM", "GRU"):
        net = gd.Stack(getattr(gd, cell)(INPUTS, HIDDEN))
        exact = net.init(seed=0, dtype="float64")
        rounded = net.init(seed=0, dtype="float32")
        for name, values in exact.items():
            values[...] = rounded[name]
        results = []
        for params in (exact, rounded):
            x, y = data(steps, str(params.dtype))
            grads = gd.value_and_grad(net, params, x, y, loss="mse").grads
            assert grads is not None
            results.append(grads.flat.astype("float64"))
        errors[cell] = float(np.linalg.norm(results[1] - results[0]) / np.linalg.norm(results[0]))
    return errors


def alone(*arguments: str) -> dict[str, Any]:
    """Runs one measurement in a new process."""
    command = [sys.executable, __file__, "--one", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--torch", action="store_true", help="measure PyTorch too (6 GB, 20 s)")
    parser.add_argument("--genome", action="store_true", help="only the net of `train dna`")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, steps = args.one[0], int(args.one[1])
        jobs = {
            "torch": with_torch,
            "accuracy": accuracy,
            "genome": genome,
            "torch_genome": torch_genome,
        }
        result = jobs[name](steps) if name in jobs else with_gradcore(steps, name)
        print(json.dumps(result))
        return
    steps = str(args.steps)
    if args.genome:
        print("| | s | growth MB | predicted MB |\n|---|---|---|---|")
        for name in ("genome", *(["torch_genome"] if args.torch else [])):
            r = alone(name, steps)
            predicted = f"{r['predicted_kb'] / 1e3:.0f}" if "predicted_kb" in r else ""
            megabytes = f"{r['growth_kb'] * 1.024e-3:.0f} | {predicted}"
            print(f"| {name} | {r['first_s']:.2f} | {megabytes} |", flush=True)
        return
    print("| memory | first call s | warmed s | growth MB | predicted MB | gradient's digest |")
    print("|---|---|---|---|---|---|")
    digests = set()
    for memory in ("full", "256MB", "64MB", "16MB"):
        r = alone(memory, steps)
        digests.add(r["digest"])
        times = f"{r['first_s']:.2f} | {r['warm_s']:.2f}"
        megabytes = f"{r['growth_kb'] * 1.024e-3:.0f} | {r['predicted_kb'] / 1e3:.0f}"
        print(f"| {memory} | {times} | {megabytes} | {r['digest']} |", flush=True)
    assert len(digests) == 1, "budgets must give equal bits"
    if args.torch:
        r = alone("torch", steps)
        print(f"| PyTorch | {r['first_s']:.2f} | | {r['growth_kb'] * 1.024e-3:.0f} | | |")
    print(
        "\nrelative norm of float32 minus float64 gradients, T = 10,000:",
        alone("accuracy", "10000"),
    )


if __name__ == "__main__":
    main()
