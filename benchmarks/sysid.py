"""Which optimizer trains a small net on one long record best, for the same passes over the data?

The record is Silverbox (Wigren and Schoukens 2013), an electronic Duffing oscillator: one input,
one output, 131,072 samples at 610 Hz. The net is an LSTM of 8 units with a linear head in float64,
361 parameters. Nets are trained on eight of the ten multisine records, 8,692 steps each; the ninth
chooses among settings and seeds; the tenth, and the arrow-head (samples 0 to 40,499), are used
once, for the setting that won of each optimizer. Errors are root mean squares in millivolts, from
step 50 on in the tests.

Every contestant gets the same number of passes over the data: forward and backward over all 69,536
steps. A pass of Adam on windows makes 17 updates, on all records one; its rate falls as a cosine. A
product of trust-ncg and least-squares counts as two passes.

    python benchmarks/sysid.py SNLS80mV.csv.gz [--passes N] [--seeds N] [--only NAME] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

import gradcore as gd

FIRST, STEPS, SKIPPED = 40_580, 8_692, 50
NET = gd.Stack(gd.LSTM(1, 8), gd.Linear(8, 1))
WINDOW = 512


class Record:
    """The record scaled by mean and deviation of its training part. unit: millivolts per unit."""

    def __init__(self, path: Path) -> None:
        raw = np.genfromtxt(path, delimiter=",", skip_header=1)[:, :2]
        train = raw[FIRST : FIRST + 8 * STEPS]
        self.samples = (raw - train.mean(0)) / train.std(0)
        self.unit = 1_000.0 * float(train.std(0)[1])

    def multisines(self, *which: int) -> gd.data.Sequences:
        parts = [self.samples[FIRST + STEPS * k : FIRST + STEPS * (k + 1)] for k in which]
        x, y = ([part[:, i : i + 1] for part in parts] for i in (0, 1))
        return gd.data.Sequences(x, y, batch_size=len(parts), shuffle=False, dtype="float64")

    def windows(self) -> gd.data.Stream:
        """The eight records side by side, for truncated BPTT; the state is carried on."""
        train = self.samples[FIRST : FIRST + 8 * STEPS]
        return gd.data.Stream(
            train[:, :1], train[:, 1:], batch_size=8, k1=WINDOW, burn_in=SKIPPED, dtype="float64"
        )

    def test(self, params: gd.Params, first: int, stop: int) -> float:
        """The error in millivolts on samples [first, stop), from a state of zeros."""
        part = self.samples[first:stop]
        outputs, _ = gd.apply(NET, params, part[:, None, :1])
        return self.unit * float(np.sqrt(np.mean((outputs[SKIPPED:, 0] - part[SKIPPED:, 1:]) ** 2)))


class Best(gd.callbacks.Callback):
    """Keeps the parameters of the best score."""

    params: gd.Params

    def on_evaluation(self, view: gd.callbacks.FitView) -> None:
        if view.best_step == view.steps:
            self.params = view.params


class Passes(gd.callbacks.Callback):
    """Ends a minimization after a number of passes over the data."""

    class SpentError(Exception):
        pass

    def __init__(self, most: int) -> None:
        self.most, self.best = most, float("inf")

    def on_evaluation(self, view: gd.callbacks.FitView) -> None:
        assert view.best is not None
        self.best = view.best
        if view.metrics["evaluations"] + 2 * view.metrics["products"] >= self.most:
            raise self.SpentError


def adam(record: Record, seed: int, passes: int, windows: bool, lr: float) -> tuple[float, Any]:
    params = NET.init(seed=seed, dtype="float64")
    data = record.windows() if windows else record.multisines(*range(8))
    updates = passes * len(data)
    best = Best()
    report = gd.Trainer(
        NET,
        params,
        gd.optim.Adam(params, lr=lr, clip=gd.clip.GlobalNorm(1.0)),
        loss="mse",
        schedule=gd.schedule.Cosine(updates),
        callbacks=[best],
        quiet=True,
    ).fit(data, steps=updates, validation=record.multisines(8), every=5 * len(data))
    assert report.best is not None
    return report.best, best.params


def scipy(
    record: Record, seed: int, passes: int, method: Any, params: gd.Params | None = None
) -> tuple[float, Any]:
    params = NET.init(seed=seed, dtype="float64") if params is None else params
    spent = Passes(passes)
    with suppress(Passes.SpentError):
        gd.minimize(
            NET,
            params,
            record.multisines(*range(8)),
            loss="mse",
            method=method,
            validation=record.multisines(8),
            every=5 if method == "L-BFGS-B" else 1,
            callbacks=[spent],
            quiet=True,
        )
    return spent.best, params


def adam_first(record: Record, seed: int, passes: int, lr: float) -> tuple[float, Any]:
    """Adam on windows for a sixth of the passes, and L-BFGS-B from its best parameters."""
    _, params = adam(record, seed, passes // 6, True, lr)
    return scipy(record, seed, passes - passes // 6, "L-BFGS-B", params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("--passes", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="run the contestants whose names contain this")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    record = Record(args.record)
    contestants: dict[str, list[Any]] = {
        "Adam, windows of 512 steps": [(adam, True, lr) for lr in (0.003, 0.01, 0.03)],
        "Adam, whole records": [(adam, False, lr) for lr in (0.01, 0.03, 0.1)],
        "least-squares": [(scipy, "least-squares")],
        "trust-ncg": [(scipy, "trust-ncg")],
        "L-BFGS-B": [(scipy, "L-BFGS-B")],
        "Adam on windows, then L-BFGS-B": [(adam_first, 0.01)],
    }
    results = {}
    for name, settings in contestants.items():
        if args.only and args.only not in name:
            continue
        tried = []
        for train, *options in settings:
            for seed in range(args.seeds):
                score, params = train(record, seed, args.passes, *options)
                tried.append((record.unit * score**0.5, params, options, seed))
                print(f"{name} {options} seed {seed}: validation {tried[-1][0]:.3f} mV", flush=True)
        error, params, options, seed = min(tried, key=lambda one: one[0])
        results[name] = {
            "validation_mv": error,
            "all_validation_mv": [one[0] for one in tried],
            "multisine_mv": record.test(params, FIRST + 9 * STEPS, FIRST + 10 * STEPS),
            "arrow_mv": record.test(params, 0, 40_500),
            "settings": options,
            "seed": seed,
        }
        print(name, json.dumps(results[name]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
