"""How many times faster than real time does an amp model run, sample by sample and in blocks?

The nets are those of amp modellers: an LSTM of 16 to 40 units with a linear head, one sequence, in
float32, at 48 kHz, on one thread. The script first compares the outputs with those of
gradcore.apply, bit by bit. The time of a block is the median of many, and the longest is shown as
well, because a plug-in must not miss a single block; it includes what else the machine did.

    python benchmarks/real_time.py [--seconds 2]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import gradcore as gd

RATE = 48_000
UNITS = (16, 20, 24, 32, 40)
BLOCKS = (1, 16, 64, 256)


def timed(stepper: gd.Stepper, x: np.ndarray, block: int) -> tuple[np.ndarray, list[float]]:
    """The outputs, and the seconds that each block took."""
    outputs, times = [], []
    for first in range(0, len(x) - block + 1, block):
        part = x[first] if block == 1 else x[first : first + block]
        run = stepper.step if block == 1 else stepper.run
        start = time.perf_counter()
        made = run(part)
        times.append(time.perf_counter() - start)
        outputs.append(made if block > 1 else made[None])
    return np.concatenate(outputs), times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    x = np.random.default_rng(0).standard_normal((int(args.seconds * RATE), 1, 1)).astype("float32")
    print("times real time by the median block (longest block in ms)")
    print("units", *(f"{f'block {block}':>16}" for block in BLOCKS))
    for units in UNITS:
        net = gd.Stack(gd.LSTM(1, units), gd.Linear(units, 1))
        params = net.init(seed=0)
        expected, _ = gd.apply(net, params, x)
        cells = []
        for block in BLOCKS:
            outputs, times = timed(gd.Stepper(net, params), x, block)
            np.testing.assert_array_equal(outputs, expected[: len(outputs)])
            factor = block / RATE / float(np.median(times))
            cells.append(f"{factor:6.1f} ({1e3 * max(times[2:]):.2f})")
        print(f"{units:5}", *(f"{cell:>16}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
