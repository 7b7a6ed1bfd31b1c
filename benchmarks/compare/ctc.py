"""How fast is connectionist temporal classification, and how exact, beside torch.nn.CTCLoss?

Milliseconds for the loss of B sequences of T steps with S labels out of C - 1 and its gradient by
the logits, in float32; for PyTorch that is log_softmax, CTCLoss and the backward pass. Errors are
of losses and gradients in float32 against PyTorch's in float64, for the first sequence; gradcore's
must be below the tolerances here before anything is timed. Decoding is gradcore's alone. The best
of --repeats turns counts; contestants take turns.

    python benchmarks/compare/ctc.py [--threads N] [--steps T] [--no-torch] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import gradcore as gd
from gradcore import _core
from gradcore._engine.ctc import CtcLoss
from gradcore.apps import bench
from gradcore.apps.bench import contestants, report
from gradcore.apps.bench.turns import take_turns

# gradcore's largest relative error of a loss, and error of a gradient, whose terms are at most 1.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-12, 1e-6
BEAM = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=gd.build_info().threads)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--classes", type=int, default=40)
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--json", type=Path, help="write machine and rows to this file")
    args = parser.parse_args()
    with_torch = not args.no_torch and find_spec("torch") is not None
    with contestants.same_cpus(args.threads):
        machine = bench.measure(args.threads)
        print(report.machine_lines(machine), flush=True)
        if not with_torch:
            print("PyTorch: skipped" + ("" if args.no_torch else ", because it is not installed"))
        rows = [measured(args, count, with_torch) for count in args.labels]
    if args.json:
        text = json.dumps({"machine": machine.facts(), "rows": rows}, indent=1)
        args.json.write_text(text + "\n")


def measured(args: argparse.Namespace, count: int, with_torch: bool) -> dict[str, Any]:
    """The times of one number of labels, printed."""
    rng = np.random.default_rng(0)
    shape = (args.steps, args.batch, args.classes)
    outputs = rng.standard_normal(shape).astype(np.float32)
    y = rng.integers(1, args.classes, (args.batch, count))
    loss = CtcLoss(gd.loss.CTC(reduction="sum"), shape, y)
    turns = {
        "gradcore": lambda: loss.evaluate(outputs, None, True, args.threads),
        "best path": lambda: gd.ctc.decode(outputs, threads=args.threads),
        f"beam {BEAM}": lambda: gd.ctc.decode(outputs, beam=BEAM, threads=args.threads),
    }
    row: dict[str, Any] = {"steps": args.steps, "batch": args.batch, "labels": count}
    if with_torch:
        peer = Torch(outputs, y, args.threads)
        row |= peer.errors()
        turns["PyTorch"] = peer.run
    counts = np.full(args.batch, count, np.int64)
    row["megabytes"] = 1e-6 * _core.ctc_bytes(
        args.steps, counts, classes=args.classes, gradient=True, threads=args.threads
    )
    best = take_turns(turns, args.repeats)
    row["ms"] = {name: 1e3 * seconds for name, seconds in best.items()}
    told = ", ".join(f"{name} {ms:.0f} ms" for name, ms in row["ms"].items())
    print(f"S = {count}: {told}; {row['megabytes']:.1f} MB beside outputs and gradient", flush=True)
    if with_torch:
        print(
            f"  PyTorch / gradcore: {best['PyTorch'] / best['gradcore']:.1f}; errors of the loss "
            f"{row['loss_error']:.1g} and {row['peer_loss_error']:.1g}, of the gradient "
            f"{row['gradient_error']:.1g} and {row['peer_gradient_error']:.1g}",
            flush=True,
        )
    return row


class Torch:
    """torch.nn.CTCLoss of the same outputs and labels."""

    def __init__(self, outputs: Any, y: Any, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch, self.outputs, self.y = torch, outputs, y

    def of(self, outputs: Any, y: Any) -> tuple[Any, Any]:
        """Loss and gradient of the logits."""
        torch = self.torch
        z = torch.from_numpy(outputs).requires_grad_()
        steps, batch, _ = outputs.shape
        value = torch.nn.CTCLoss(reduction="sum")(
            z.log_softmax(-1),
            torch.from_numpy(y),
            torch.full((batch,), steps),
            torch.full((batch,), y.shape[1]),
        )
        value.backward()
        return value.item(), z.grad.numpy()

    def run(self) -> None:
        """One turn."""
        self.of(self.outputs, self.y)

    def errors(self) -> dict[str, float]:
        """Errors of both in float32 against float64, of the first sequence; asserts gradcore's."""
        outputs, y = self.outputs[:, :1].copy(), self.y[:1]
        value, slopes = self.of(outputs.astype(np.float64), y)
        loss = CtcLoss(gd.loss.CTC(reduction="sum"), outputs.shape, y)
        ours, _, our_slopes = loss.evaluate(outputs, None, True, 1)
        theirs, their_slopes = self.of(outputs, y)
        found = {
            "loss_error": abs(ours - value) / value,
            "peer_loss_error": abs(theirs - value) / value,
            "gradient_error": float(np.abs(our_slopes - slopes).max()),
            "peer_gradient_error": float(np.abs(their_slopes - slopes).max()),
        }
        assert found["loss_error"] <= LOSS_TOLERANCE, found
        assert found["gradient_error"] <= GRADIENT_TOLERANCE, found
        return found


if __name__ == "__main__":
    main()
