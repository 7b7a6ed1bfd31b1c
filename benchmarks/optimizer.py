"""What fraction of the speed of a copy does an optimizer step with clipping reach?

The step is Adam with clipping of the global norm over 10^7 float32 parameters. It must move 8
arrays: the norm reads the gradients; the update reads gradients, parameters and two moments and
writes the last three. The bound is the time of 8 arrays at the speed of a copy between two arrays
of that size, measured in the same turns (2 arrays moved; the better of NumPy's copy of each
thread's part and of PyTorch's). Times are milliseconds, the best of --repeats. The first step is
compared with its closed form, and PyTorch's parameters after 3 steps with gradcore's.

    python benchmarks/optimizer.py [--parameters 10000000] [--no-torch] [--threads N]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import gradcore as gd
from gradcore.apps import bench
from gradcore.apps.bench import contestants, report
from gradcore.apps.bench.turns import take_turns

LR, LIMIT, ARRAYS = 1e-3, 1.0, 8


def net_of(parameters: int) -> gd.Stack:
    """A net of about `size` parameters: an LSTM with as many inputs as units has 8 * H * (H +
    1).
    """
    hidden = round(math.sqrt(parameters / 8))
    return gd.Stack(gd.LSTM(hidden, hidden))


def copier(size: int, threads: int) -> Callable[[], object]:
    """Copies `size` float32 numbers; each thread copies its part."""
    source, target = np.ones(size, np.float32), np.zeros(size, np.float32)
    pool = ThreadPoolExecutor(threads)
    borders = [size * i // threads for i in range(threads + 1)]

    def part(i: int) -> None:
        np.copyto(target[borders[i] : borders[i + 1]], source[borders[i] : borders[i + 1]])

    return lambda: list(pool.map(part, range(threads)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--threads", type=int, default=gd.build_info().threads)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--no-torch", action="store_true")
    args = parser.parse_args()
    net = net_of(args.parameters)
    with contestants.same_cpus(args.threads):
        print(report.machine_lines(bench.measure(args.threads)), end="\n\n")
        params = net.init(seed=0)
        size = params.flat.size
        rng = np.random.default_rng(0)
        grads = gd.Grads(net, rng.standard_normal(size, dtype=np.float32))
        optimizer = gd.optim.Adam(params, lr=LR, clip=gd.clip.GlobalNorm(LIMIT))
        start = params.flat.copy()
        optimizer.step(grads, threads=args.threads)
        g = grads.flat.astype(np.float64)
        g *= LIMIT / np.linalg.norm(g)
        np.testing.assert_allclose(start - params.flat, LR * g / (np.abs(g) + 1e-8), atol=2e-7)
        turns: dict[str, Callable[[], object]] = {
            "copy": copier(size, args.threads),
            "gradcore": lambda: optimizer.step(grads, threads=args.threads),
        }
        if not args.no_torch:
            turns |= with_torch(start, grads.flat, args.threads)
            optimizer.step(grads, threads=args.threads)
            optimizer.step(grads, threads=args.threads)
            for _ in range(3):
                turns["PyTorch, fused"]()
            theirs = turns.pop("their parameters")()
            np.testing.assert_allclose(theirs, params.flat, atol=1e-6)
        best = take_turns(turns, args.repeats)
    copy = min(seconds for name, seconds in best.items() if name.endswith("copy"))
    bound = copy * ARRAYS / 2
    print(f"{size:,} parameters; a copy moves {2 * 4 * size / copy / 1e9:.1f} GB/s")
    print("\n| | ms | GB/s | bound / time |")
    print("|---|---|---|---|")
    for name, seconds in best.items():
        if not name.endswith("copy"):
            speed = ARRAYS * 4 * size / seconds / 1e9
            print(f"| {name} | {seconds * 1e3:.2f} | {speed:.1f} | {bound / seconds:.2f} |")


def with_torch(
    start: np.ndarray, grads: np.ndarray, threads: int
) -> dict[str, Callable[[], object]]:
    import torch

    torch.set_num_threads(threads)
    values = torch.nn.Parameter(torch.from_numpy(start.copy()))
    # The gradient is clipped in place: after the first turn its norm is the limit, but the work is
    # the same.
    values.grad = torch.from_numpy(grads.copy())
    adam = torch.optim.Adam([values], lr=LR, fused=True)
    source, target = torch.ones(grads.size), torch.zeros(grads.size)

    def turn() -> None:
        torch.nn.utils.clip_grad_norm_([values], LIMIT)
        adam.step()

    return {
        "PyTorch, fused": turn,
        "PyTorch's copy": lambda: target.copy_(source),
        "their parameters": lambda: values.detach().numpy(),
    }


if __name__ == "__main__":
    main()
