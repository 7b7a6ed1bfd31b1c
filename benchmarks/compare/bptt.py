"""How long does exact BPTT take per time step, beside PyTorch and JAX in the same run?

The 23 rows of the table in docs/performance.md; what is measured and how is in gradcore.bench, and
`gradcore bench` does the same for any grid. Microseconds per time step, all B sequences together.

    python benchmarks/compare/bptt.py [--peers torch,jax] [--threads N] [--json FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gradcore as gd
from gradcore import bench
from gradcore.bench import contestants, report

SIZES = {  # (H, B)
    "LSTM": (
        *((32, 1), (32, 8), (64, 1), (64, 8), (64, 32)),
        *((128, 1), (128, 8), (128, 32), (256, 1), (256, 8)),
    ),
    "GRU": ((32, 1), (32, 8), (64, 1), (64, 32), (128, 1), (128, 8), (256, 1), (256, 8)),
    "RNN": ((32, 1), (128, 1), (128, 8), (256, 1), (256, 8)),
}


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
    if args.json:
        versions = {name: contestants.version(name) for name in names}
        report.write_json(args.json, machine, results, versions)


if __name__ == "__main__":
    main()
