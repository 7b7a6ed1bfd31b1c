"""What does a cell cost that is compiled outside, compared with the same cell of the library?

Every contestant computes the same LSTM: the built-in one, a copy of its text with its backward, and
one with forward() only, whose backward is derived. Losses and gradients are compared before
anything is timed. Contestants take turns, and the table has the median over rounds of the time of
value_and_grad, in microseconds per time step of all sequences together, and its ratio to the
built-in cell. Compilers' caches are not used: the seconds of compilation are real ones.

    python benchmarks/compare/user_cells.py [--hidden 128] [--batch 8] [--steps 10000] [--rounds 7]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import gradcore as gd

FORWARD_ONLY = r"""
struct Derived {
  static constexpr const char *gates = "i f g o", *states = "h c";
  template <class V>
  static constexpr GC_INLINE void forward(const V* x, const V* h, const V* s, V* s1) {
    const V i = sigmoid(x[0] + h[0]), f = sigmoid(x[1] + h[1]), g = tanh(x[2] + h[2]),
            o = sigmoid(x[3] + h[3]);
    s1[1] = fma(f, s[1], i * g);
    s1[0] = o * tanh(s1[1]);
  }
};
"""


def copied() -> str:
    """The text of the built-in LSTM as a cell of a user."""
    folder = Path(gd.get_include()) / "gradcore" / "source" / "cells"
    text = (folder / "lstm.h").read_text()
    struct = text[text.index("struct Lstm {") : text.index("}  // namespace")]
    counts = "static constexpr int gates = 4, states = 2, saved = 4, planes = 4;"
    assert counts in struct
    named = (
        'static constexpr const char *gates = "i f g o", *states = "h c";\n'
        "  static constexpr int saved = 4, planes = 4;"
    )
    return struct.replace(counts, named).replace("const CellOptions&", "const Options&")


def compiled(source: str) -> tuple[type[gd.Recurrent], float]:
    """The layer, and the seconds that it took to compile."""
    began = time.perf_counter()
    layer = gd.cells.compile(source)
    return layer, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("hidden", 128), ("batch", 8), ("steps", 10_000), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADCORE_CACHE"] = folder
        copy, copy_seconds = compiled(copied())
        derived, derived_seconds = compiled(FORWARD_ONLY)
    seconds = {"copy": copy_seconds, "derived": derived_seconds}
    hidden, rng = options.hidden, np.random.default_rng(0)
    shape = (options.steps, options.batch, hidden)
    x, y = (rng.standard_normal(shape).astype("f4") for _ in range(2))
    results: dict[str, gd.GradientResult] = {}
    calls: dict[str, Callable[[], gd.GradientResult]] = {}
    kinds: dict[str, type[gd.Recurrent]] = {"built-in": gd.LSTM, "copy": copy, "derived": derived}
    flat = gd.Stack(gd.LSTM(hidden, hidden)).init(seed=0).flat
    for name, kind in kinds.items():
        net = gd.Stack(kind(hidden, hidden))
        params = gd.Params(net, flat)
        calls[name] = lambda net=net, params=params: gd.value_and_grad(  # type: ignore[misc]
            net, params, x, y, loss="mse", threads=options.threads
        )
        results[name] = calls[name]()
    want = results["built-in"]
    assert want.grads is not None
    for name, result in results.items():
        assert result.grads is not None
        size = np.abs(want.grads.flat).max()
        error = float(np.abs(result.grads.flat - want.grads.flat).max() / size)
        assert result.loss == want.loss, name
        assert error < 1e-5, (name, error)
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - began) / options.steps * 1e6)
    built_in = statistics.median(times["built-in"])
    print(f"LSTM, H = {hidden}, B = {options.batch}, T = {options.steps}, float32")
    print(f"{'cell':10}{'us/step':>10}{'ratio':>8}{'compiled in':>14}")
    for name, taken in times.items():
        median = statistics.median(taken)
        compiling = f"{seconds[name]:.1f} s" if name in seconds else ""
        print(f"{name:10}{median:10.2f}{median / built_in:8.3f}{compiling:>14}")


if __name__ == "__main__":
    main()
