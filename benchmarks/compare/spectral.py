"""How long do the spectral norms of 64 matrices of 512 x 512 take, compared with NumPy and PyTorch?

There are two sets of matrices: Gaussian ones, whose largest singular values lie close together, and
ones whose other singular values are below 0.8 times the largest (gapped). The methods are gradcore
with a tolerance of 1e-6, a loop over numpy.linalg.norm(W, 2), torch.linalg.matrix_norm, and the
power iteration of torch.nn.utils.parametrizations.spectral_norm (two matrix-vector products per
iteration), iterated until the value is right to 1e-6, which takes few iterations only for the
gapped set. Times are seconds, the best of --repeats in turns; answers are compared first.

    python benchmarks/compare/spectral.py [--count 64] [--size 512] [--threads N] [--no-torch]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

import gradcore as gd
from gradcore.apps import bench
from gradcore.apps.bench import contestants, report
from gradcore.apps.bench.turns import take_turns

MOST = 2_000  # most power iterations
REST = 0.15  # seconds: the threads of BLAS spin for about 100 ms
Norms = Callable[[], np.ndarray]


def sets(count: int, size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    gaussian = rng.standard_normal((count, size, size)) / np.sqrt(size)
    q, _ = np.linalg.qr(rng.standard_normal((2, count, size, size)))
    values = np.concatenate([[1.0], rng.uniform(0, 0.8, size - 1)])
    gapped = (q[0] * values) @ q[1]
    return {"Gaussian": gaussian.astype(np.float32), "gapped": gapped.astype(np.float32)}


def with_torch(stack: np.ndarray, exact: np.ndarray, threads: int) -> dict[str, Norms]:
    import torch

    torch.set_num_threads(threads)
    w = torch.from_numpy(stack)
    v0 = torch.nn.functional.normalize(torch.randn(*stack.shape[:1], stack.shape[2], 1), dim=1)

    def power(steps: int) -> np.ndarray:
        v = v0
        for _ in range(steps):
            u = torch.nn.functional.normalize(w @ v, dim=1)
            v = torch.nn.functional.normalize(w.mT @ u, dim=1)
        return (u.mT @ w @ v).flatten().numpy()

    steps = 8
    while steps < MOST and np.abs(power(steps) / exact - 1).max() > 1e-6:
        steps = min(MOST, steps * 3 // 2)
    return {
        "torch.linalg.matrix_norm": lambda: torch.linalg.matrix_norm(w, 2).numpy(),
        f"PyTorch's power iteration, {steps}": lambda: power(steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=gd.build_info().threads)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-torch", action="store_true")
    args = parser.parse_args()
    with contestants.same_cpus(args.threads):
        print(report.machine_lines(bench.measure(args.threads)), end="\n\n")
        print("| matrices | method | s | against gradcore | largest error |")
        print("|---|---|---|---|---|")
        for name, stack in sets(args.count, args.size).items():
            exact = np.linalg.svd(stack.astype(np.float64), compute_uv=False)[:, 0]
            turns: dict[str, Norms] = {
                "gradcore": lambda s=stack: (
                    gd.spectral.spectral_norm(s, threads=args.threads).value
                ),
                "numpy.linalg.norm, a loop": lambda s=stack: np.array(
                    [np.linalg.norm(w, 2) for w in s]
                ),
            }
            if not args.no_torch:
                turns |= with_torch(stack, exact, args.threads)
            errors = {key: np.abs(turn() / exact - 1).max() for key, turn in turns.items()}
            if errors["gradcore"] > 1e-6:
                raise SystemExit(f"gradcore is off by {errors['gradcore']:.1e}")
            best = take_turns(turns, args.repeats, REST)
            for key, seconds in best.items():
                ratio = seconds / best["gradcore"]
                print(f"| {name} | {key} | {seconds:.3f} | {ratio:.1f} | {errors[key]:.0e} |")


if __name__ == "__main__":
    main()
