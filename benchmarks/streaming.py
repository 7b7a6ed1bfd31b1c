"""What does a pass of truncated BPTT over 10^8 steps in a file cost in time and memory?

The net is a GRU with H = 32 that reads 64 lanes in windows of 512 steps and is trained by Adam with
clipping, with one thread unless --threads is given. It predicts the next token (uint8, one byte per
step) or the next value (float32, four bytes). The files are made in a temporary folder and removed;
each pass is its own process. Growth of the resident set is the peak during the pass minus the size
before it, after a warm-up of 20 updates; mapped pages of the file count. The loss at the end must
be below what a net without memory reaches. Two things grow with the updates: metrics.jsonl by about
200 bytes each, and the list of losses that fit returns by 32.

    python benchmarks/streaming.py [--steps 100000000] [--part 1.0] [--kind tokens features]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import gradcore as gd

HIDDEN, LANES, WINDOW, CLASSES = 32, 64, 512, 4
PIECE = 1_000_000
KINDS = {"tokens": np.dtype(np.uint8), "features": np.dtype(np.float32)}


def resident(name: str) -> int:
    """Bytes of VmRSS, or of VmHWM, the largest resident set since reset_peak()."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def reset_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def make(path: Path, kind: str, steps: int) -> None:
    """Writes a cycle of 12 steps, a tenth of which is replaced by noise, piece by piece."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for start in range(0, steps, PIECE):
            t = np.arange(start, min(start + PIECE, steps))
            if kind == "tokens":
                noise = rng.integers(0, CLASSES, len(t), np.uint8)
                values = np.where(rng.random(len(t)) < 0.1, noise, t // 3 % CLASSES)
            else:
                values = np.sin(t * (math.pi / 6)) + 0.1 * rng.standard_normal(len(t))
            file.write(values.astype(KINDS[kind]).tobytes())


def train(folder: Path, kind: str, part: float, threads: int) -> dict[str, Any]:
    data = np.memmap(folder / kind, KINDS[kind], "r")
    if kind == "tokens":
        net = gd.Stack(gd.Embedding(CLASSES, 8), gd.GRU(8, HIDDEN), gd.Linear(HIDDEN, CLASSES))
        # A token stays with probability 2/3 and has noise added: a net without memory has a loss of
        # 0.85 nats.
        loss, bound = "cross_entropy", math.log(CLASSES) / 2
    else:
        net = gd.Stack(gd.GRU(1, HIDDEN), gd.Linear(HIDDEN, 1))
        # From a given value the sine goes up or down, error 0.125, plus the noise: a net without
        # memory has a loss of 0.135.
        loss, bound = "mse", 0.06
    params = net.init(seed=0)
    optimizer = gd.optim.Adam(params, lr=3e-3, clip=gd.clip.GlobalNorm(1.0))
    trainer = gd.Trainer(net, params, optimizer, loss=loss, threads=threads, quiet=True)

    def source() -> gd.data.Stream:
        return gd.data.Stream(data[:-1], data[1:], batch_size=LANES, k1=WINDOW)

    trainer.fit(source(), steps=20)
    stream = source()
    updates = max(1, int(len(stream) * part))
    reset_peak()
    before = resident("VmRSS")
    begin = time.perf_counter()
    report = trainer.fit(stream, steps=updates, run=folder / f"run {kind}")
    seconds = time.perf_counter() - begin
    peak = resident("VmHWM")
    end = float(np.mean(report.losses[-20:]))
    assert end < bound, f"the loss is {end} at the end, and must be below {bound}"
    return {
        "steps": min(len(data) - 1, updates * LANES * WINDOW),
        "updates": updates,
        "seconds": seconds,
        "peak": peak,
        "growth": peak - before,
        "file": data.nbytes,
        "metrics": (folder / f"run {kind}" / "metrics.jsonl").stat().st_size,
        "loss": end,
    }


def alone(folder: Path, kind: str, part: float, threads: int) -> dict[str, Any]:
    """Trains in a new process."""
    command = [sys.executable, __file__, "--one", str(folder), "--kind", kind]
    command += ["--part", str(part), "--threads", str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100_000_000, help="steps in the file")
    parser.add_argument(
        "--part", type=float, default=1.0, help="part of the pass that is run, 0..1"
    )
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(train(args.one, args.kind[0], args.part, args.threads)))
        return
    print("| file | MB | steps | updates | s | steps/s | peak MB | growth MB | metrics.jsonl MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in args.kind:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            make(Path(folder) / kind, kind, args.steps)
            r = alone(Path(folder), kind, args.part, args.threads)
        rate = r["steps"] / r["seconds"]
        sizes = f"{r['peak'] / 1e6:.0f} | {r['growth'] / 1e6:.1f} | {r['metrics'] / 1e6:.2f}"
        print(
            f"| {kind} | {r['file'] / 1e6:.0f} | {r['steps']:,} | {r['updates']:,} "
            f"| {r['seconds']:.1f} | {rate:,.0f} | {sizes} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
