"""How long does exact BPTT take per time step, compared with PyTorch and JAX in the same run?

The script runs the 23 rows of the table in docs/performance.md. gradcore.apps.bench says what is
measured and how, and `gradcore bench` does the same for any grid. Times are microseconds per time
step of all B sequences together.

RLtools (github.com/rl-tools/rl-tools, C++) is not run here: its GRU was timed once, on the machine
where PyTorch's LSTM with H = 128, B = 8 took 71.5 us. A table scales those times by PyTorch's time
for that row in the present run.

    python benchmarks/compare/bptt.py [--peers torch,jax] [--threads N] [--json FILE]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import gradcore as gd
from gradcore.apps import bench
from gradcore.apps.bench import contestants, report

SIZES = {  # (H, B)
    "LSTM": (
        *((32, 1), (32, 8), (64, 1), (64, 8), (64, 32)),
        *((128, 1), (128, 8), (128, 32), (256, 1), (256, 8)),
    ),
    "GRU": ((32, 1), (32, 8), (64, 1), (64, 32), (128, 1), (128, 8), (256, 1), (256, 8)),
    "RNN": ((32, 1), (128, 1), (128, 8), (256, 1), (256, 8)),
}


# Microseconds per step of RLtools' GRU by (H, B), and those of PyTorch's LSTM with H = 128, B = 8
# on the same machine.
RLTOOLS_GRU = {
    (32, 1): 1.19,
    (32, 8): 4.4,
    (64, 1): 2.7,
    (64, 32): 43.7,
    (128, 1): 10.7,
    (128, 8): 43.6,
    (256, 1): 46.9,
    (256, 8): 160.0,
}
TORCH_LSTM_BESIDE = 71.5


def against_rltools(results: list[bench.Result]) -> str:
    """A table of the GRU rows, or "" if there is no row of PyTorch's LSTM."""
    torch = [
        r.peers["torch"]
        for r in results
        if (r.row.cell, r.row.hidden, r.row.batch) == ("LSTM", 128, 8) and "torch" in r.peers
    ]
    rows = [
        (r, RLTOOLS_GRU[r.row.hidden, r.row.batch] * torch[0] / TORCH_LSTM_BESIDE)
        for r in results
        if torch and r.row.cell == "GRU" and (r.row.hidden, r.row.batch) in RLTOOLS_GRU
    ]
    if not rows:
        return ""
    lines = [
        "",
        f"RLtools, its times x {torch[0] / TORCH_LSTM_BESIDE:.3f}:",
        "",
        "| cell | H | B | gradcore | RLtools, scaled | RLtools / gradcore |",
        "|---|---|---|---|---|---|",
    ]
    ratios = []
    for r, us in rows:
        ratios.append(us / r.us_per_step)
        size = f"{r.row.hidden} | {r.row.batch}"
        lines.append(f"| GRU | {size} | {r.us_per_step:.3g} | {us:.3g} | {ratios[-1]:.2f} |")
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return "\n".join([*lines, "", f"geometric mean {mean:.2f}, least {min(ratios):.2f}"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--peers", default="torch,jax", help="comma-separated; empty for none")
    parser.add_argument("--threads", type=int, default=gd.build_info().threads)
    parser.add_argument("--steps", type=int, nargs="+", help="default 10,000; 3,000 at B = 32")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write machine and rows to this file")
    args = parser.parse_args()
    names = [name for name in args.peers.split(",") if name]
    peers = {name: contestants.PEERS[name] for name in names}
    with contestants.same_cpus(args.threads):
        machine = bench.measure(args.threads)
        print(report.machine_lines(machine), report.header(names), sep="\n\n", flush=True)
        results = []
        for cell, sizes in SIZES.items():
            for hidden, batch in sizes:
                for row in bench.grid([cell], [hidden], [batch], args.steps):
                    results.append(bench.run(row, machine, peers, repeats=args.repeats))
                    print(report.line(results[-1], names), flush=True)
    print(f"\n{report.summary(results)}")
    print(against_rltools(results))
    if args.json:
        versions = {name: contestants.version(name) for name in names}
        report.write_json(args.json, machine, results, versions)


if __name__ == "__main__":
    main()
