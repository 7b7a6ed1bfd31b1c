"""What does a ragged batch cost compared with the padded one, and with both ways of PyTorch?

Lengths are uniform in 1..T, one of them T, with the squared error on every output within them, all
gradients and the whole tape, in float32 with I = 16. `padded` runs all T steps of all sequences,
with weight 0 after their ends (PyTorch: a product with a mask). The lengths are in no order, so
PackedSequence sorts them (enforce_sorted=False). Times are seconds per call, the best of --repeats
with contestants in turns; gradients of the same weights are compared first.

    python benchmarks/ragged.py [--quick] [--no-torch] [--threads N]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import gradcore as gd
from gradcore.apps import bench
from gradcore.apps.bench import contestants, report
from gradcore.apps.bench.turns import take_turns

INPUTS = 16
TOLERANCE = 1e-4  # relative norm of the error of float32 gradients over thousands of steps
Turn = Callable[[], dict[str, np.ndarray]]


class Case:
    """A layer, the lengths of its batch, and its data."""

    def __init__(self, cell: str, hidden: int, batch: int, steps: int) -> None:
        rng = np.random.default_rng(0)
        self.net = gd.Stack(getattr(gd, cell)(INPUTS, hidden))
        self.params = self.net.init(seed=0)
        lengths = rng.integers(1, steps + 1, batch)
        lengths[0] = steps
        self.lengths = lengths
        self.there = (np.arange(steps)[:, None] < self.lengths).astype(np.float32)
        self.x = rng.standard_normal((steps, batch, INPUTS), dtype=np.float32)
        self.x *= self.there[..., None]
        self.y = rng.standard_normal((steps, batch, hidden), dtype=np.float32)
        self.title = f"{cell} | {hidden} | {batch} | {steps:,}"

    def gradcore(self, threads: int, **how: Any) -> Turn:
        kept: list[gd.Grads] = []

        def turn() -> dict[str, np.ndarray]:
            r = gd.value_and_grad(
                self.net,
                self.params,
                self.x,
                self.y,
                loss="mse",
                memory="full",
                threads=threads,
                out=kept[0] if kept else None,
                **how,
            )
            assert r.grads is not None
            kept[:] = [r.grads]
            return {name.split(".")[1]: g for name, g in r.grads.items()}

        return turn

    def torch(self, threads: int, packed: bool) -> Turn:
        import torch

        torch.set_num_threads(threads)
        layer = getattr(torch.nn, type(self.net.recurrent[0]).__name__)(INPUTS, self.y.shape[2])
        with torch.no_grad():
            for name, values in layer.named_parameters():
                values.copy_(torch.from_numpy(self.params[f"0.{name.removesuffix('_l0')}"]))
        x, y, there = (torch.from_numpy(a) for a in (self.x, self.y, self.there[..., None]))
        terms = float(self.there.sum()) * self.y.shape[2]
        pack = partial(torch.nn.utils.rnn.pack_padded_sequence, enforce_sorted=False)
        lengths = torch.from_numpy(self.lengths)

        def turn() -> dict[str, np.ndarray]:
            layer.zero_grad(set_to_none=True)
            if packed:
                out = layer(pack(x, lengths))[0].data
                loss = ((out - pack(y, lengths).data) ** 2).sum() / terms
            else:
                loss = ((layer(x)[0] - y) ** 2 * there).sum() / terms
            loss.backward()
            return {n.removesuffix("_l0"): p.grad.numpy() for n, p in layer.named_parameters()}

        return turn


def check(turns: dict[str, Turn]) -> None:
    results = {name: turn() for name, turn in turns.items()}
    want = results["ragged"]
    for name, got in results.items():
        for key, value in want.items():
            error = np.linalg.norm(got[key] - value) / np.linalg.norm(value)
            if not error < TOLERANCE:
                raise SystemExit(f"{name}: {key} differs by {error:.1e} of its norm.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=gd.build_info().threads)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, 2 repeats")
    args = parser.parse_args()
    shrink, repeats = (10, 2) if args.quick else (1, args.repeats)
    with contestants.same_cpus(args.threads):
        print(report.machine_lines(bench.measure(args.threads)), end="\n\n")
        print(
            "| cell | H | B | T | ragged s | padded s | ragged / padded | share of steps |", end=""
        )
        print("" if args.no_torch else " PackedSequence s | PyTorch padded s |")
        print("|---|---|---|---|---|---|---|---|" + ("" if args.no_torch else "---|---|"))
        for cell in ("LSTM", "GRU"):
            for hidden, batch, steps in ((128, 8, 10_000), (128, 32, 3_000), (64, 32, 3_000)):
                case = Case(cell, hidden, batch, steps // shrink)
                turns = {
                    "ragged": case.gradcore(args.threads, lengths=case.lengths),
                    "padded": case.gradcore(args.threads, weight=case.there),
                }
                if not args.no_torch:
                    turns["packed"] = case.torch(args.threads, packed=True)
                    turns["torch"] = case.torch(args.threads, packed=False)
                check(turns)
                best = take_turns(turns, repeats)
                line = f"| {case.title} | {best['ragged']:.3f} | {best['padded']:.3f} | "
                line += f"{best['ragged'] / best['padded']:.2f} | {case.there.mean():.2f} |"
                if not args.no_torch:
                    line += f" {best['packed']:.3f} | {best['torch']:.3f} |"
                print(line, flush=True)


if __name__ == "__main__":
    main()
