"""How much does a constraint on the recurrent weights add to the time of a training step?

The net is an LSTM with H = 128, B = 8, I = 16 in float32, with the squared error on every output
and Adam; a step is a gradient and an update. `spectral, idle` has a limit far above the norm,
`spectral, active` one that every step exceeds, and `orthogonal` works gate by gate. Times are
milliseconds, the best of --repeats with contestants in turns; after each contestant LAPACK's
singular values are compared with the limit.

    python benchmarks/constraints.py [--steps 100 1000 10000] [--hidden 128] [--threads N]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

import gradcore as gd
from gradcore import constrain
from gradcore.apps import bench
from gradcore.apps.bench import contestants, report
from gradcore.apps.bench.turns import take_turns

INPUTS, BATCH = 16, 8
WAYS: dict[str, list[constrain.Constraint]] = {
    "free": [],
    "spectral, idle": [constrain.SpectralNorm(1e3)],
    "spectral, active": [constrain.SpectralNorm(1.0)],
    "spectral, active, per gate": [constrain.SpectralNorm(0.5, per_gate=True)],
    "spectral, reparametrised": [constrain.SpectralNorm(1.0, how="reparametrise")],
    "orthogonal": [constrain.Orthogonal()],
}


def contestant(
    hidden: int, steps: int, constraints: list[constrain.Constraint], threads: int
) -> tuple[Callable[[], object], gd.Params]:
    rng = np.random.default_rng(0)
    net = gd.Stack(gd.LSTM(INPUTS, hidden))
    params = net.init(seed=0)
    x = rng.standard_normal((steps, BATCH, INPUTS), dtype=np.float32)
    y = rng.standard_normal((steps, BATCH, hidden), dtype=np.float32)
    optimizer = gd.optim.Adam(params, 1e-2, constraints=constraints)
    kept: list[gd.Grads] = []

    def turn() -> object:
        r = gd.value_and_grad(
            net, params, x, y, loss="mse", threads=threads, out=kept[0] if kept else None
        )
        assert r.grads is not None
        kept[:] = [r.grads]
        return optimizer.step(r.grads, threads=threads)

    return turn, params


def check(name: str, params: gd.Params) -> None:
    weight = params["0.weight_hh"].astype(float)
    blocks = weight.reshape(4, -1, weight.shape[1])
    if name == "orthogonal":
        off = np.abs(blocks @ blocks.transpose(0, 2, 1) - np.eye(weight.shape[1])).max()
        assert off < 1e-5, f"{name}: {off:.1e}"
    elif name.startswith("spectral") and name != "spectral, idle":
        per_gate = name.endswith("gate")
        norm = np.linalg.norm(blocks, 2, axis=(1, 2)).max() if per_gate else 0.0
        norm = norm if per_gate else np.linalg.norm(weight, 2)
        assert norm <= (0.5 if per_gate else 1.0) * (1 + 1e-5), f"{name}: {norm}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--threads", type=int, default=gd.build_info().threads)
    parser.add_argument("--repeats", type=int, default=6)
    args = parser.parse_args()
    with contestants.same_cpus(args.threads):
        print(report.machine_lines(bench.measure(args.threads)), end="\n\n")
        print("| T | constraint | ms | against free |")
        print("|---|---|---|---|")
        for steps in args.steps:
            made = {
                name: contestant(args.hidden, steps, how, args.threads)
                for name, how in WAYS.items()
            }
            for turn, _ in made.values():
                turn()
            best = take_turns({name: turn for name, (turn, _) in made.items()}, args.repeats)
            for name, seconds in best.items():
                check(name, made[name][1])
                ratio = seconds / best["free"]
                print(f"| {steps:,} | {name} | {seconds * 1e3:.2f} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
