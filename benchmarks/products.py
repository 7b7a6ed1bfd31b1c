"""How fast are the core's matrix products compared with NumPy's OpenBLAS, on the shapes of a layer?

Both use one thread and float32. The result is in GFLOP/s (a multiply-add counts as two operations),
from the best time of a product; the two take turns of --seconds each. OpenBLAS chooses its own
kernels: the variables OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE of the caller are removed. Shapes are
those of LSTMs with H units:

* input: the input product of a chunk, rows x I times I x 4H
* recurrent: the product of one step, B x H times H x 4H; the core computes the cell directly after
  it in registers, here the same tile is timed without the cell
* gradient: the weight gradient of a block of 128 steps, H x rows times rows x 4H

    python benchmarks/products.py [--seconds 0.3] [--turns 5]

The script first builds benchmarks/products.cpp with CMake, which takes a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
OVERRIDES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
SHAPES = [  # kind, description, rows, inputs, outputs
    ("dense", "input, I = 16, H = 128, B = 8", 1024, 16, 512),
    ("dense", "input, I = 128, H = 128, B = 8", 1024, 128, 512),
    ("dense", "input, I = 256, H = 256, B = 8", 1024, 256, 1024),
    ("dense", "recurrent, H = 128, B = 8", 8, 128, 512),
    ("dense", "recurrent, H = 128, B = 32", 32, 128, 512),
    ("dense", "recurrent, H = 256, B = 8", 8, 256, 1024),
    ("outer", "gradient, H = 64, B = 8", 1024, 64, 256),
    ("outer", "gradient, H = 128, B = 1", 128, 128, 512),
    ("outer", "gradient, H = 128, B = 8", 1024, 128, 512),
    ("outer", "gradient, H = 256, B = 8", 1024, 256, 1024),
]


def numpy_worker() -> None:
    """Answers the same requests as products.cpp, with NumPy."""
    import numpy as np

    rng = np.random.default_rng(0)
    for line in sys.stdin:
        kind, *sizes, seconds = line.split()
        rows, inputs, outputs = map(int, sizes)
        a = rng.standard_normal((rows, inputs), dtype=np.float32)
        if kind == "dense":
            left, right = a, rng.standard_normal((inputs, outputs), dtype=np.float32)
        else:
            left, right = a.T, rng.standard_normal((rows, outputs), dtype=np.float32)
        out = left @ right
        best, end = 1e9, time.perf_counter() + float(seconds)
        while time.perf_counter() < end:
            begin = time.perf_counter()
            np.matmul(left, right, out=out)
            best = min(best, time.perf_counter() - begin)
        print(best, flush=True)


def build() -> Path:
    folder = ROOT / "build" / "benchmarks"
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DGRADCORE_BENCHMARKS=ON"]
    subprocess.run(["cmake", "-S", ROOT, "-B", folder, *options], **quiet)
    subprocess.run(["cmake", "--build", folder, "--parallel", "--target", "products"], **quiet)
    return folder / "benchmarks" / "products"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--numpy", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.numpy:
        numpy_worker()
        return
    env = {k: v for k, v in os.environ.items() if k not in OVERRIDES}
    env |= {"OPENBLAS_NUM_THREADS": "1"}
    commands = [[str(build())], [sys.executable, __file__, "--numpy"]]
    workers = [
        subprocess.Popen(c, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        for c in commands
    ]
    rows = []
    print("| product | shape | gradcore | OpenBLAS | gradcore / OpenBLAS |")
    print("|---|---|---|---|---|")
    for kind, title, *sizes in SHAPES:
        best = [1e9, 1e9]
        for _ in range(args.turns):
            for i, worker in enumerate(workers):
                assert worker.stdin is not None
                assert worker.stdout is not None
                print(kind, *sizes, args.seconds, file=worker.stdin, flush=True)
                answer = worker.stdout.readline().strip()
                try:
                    best[i] = min(best[i], float(answer))
                except ValueError:
                    raise SystemExit(f"{title}: {answer or 'the worker ended'}") from None
        flops = 2 * sizes[0] * sizes[1] * sizes[2]
        ours, theirs = (flops / seconds / 1e9 for seconds in best)
        shape = " x ".join(f"{n:,}" for n in sizes)
        print(
            f"| {title} | {shape} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} |", flush=True
        )
        rows.append({"product": title, "sizes": sizes, "gradcore": ours, "openblas": theirs})
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
