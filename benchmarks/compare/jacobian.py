"""What do tangents and Hessian-vector products cost, beside their bound, a gradient and JAX?

* K tangents of an LSTM's outputs along directions of its input and initial state: microseconds per
  time step, all K together. Bound: the product of the recurrent weights with K*B rows, 2*4*H*H*K*B
  flops at the machine's peak; JAX: vmap of jax.jvp over lax.scan.
* A Hessian-vector product: microseconds per time step, and as a multiple of a gradient of the same
  net, data and threads; JAX: jvp of grad over lax.scan.

Before anything is timed, float32 is compared with gradcore's float64 and with JAX. The least of
--repeats turns counts; contestants take turns.

    python benchmarks/compare/jacobian.py [--threads N] [--steps T] [--no-jax] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import gradcore as gd
from gradcore import bench, jacobian
from gradcore.bench import contestants, report

# Relative error of the norm that float32 may have against float64 or JAX after T steps.
TOLERANCE = 1e-3
INPUTS, CLASSES = 16, 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=gd.build_info().threads)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--tangents", type=int, nargs="+", default=[1, 4, 32])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--no-jax", action="store_true")
    parser.add_argument("--json", type=Path, help="write machine and rows to this file")
    args = parser.parse_args()
    with_jax = not args.no_jax and find_spec("jax") is not None
    with contestants.same_cpus(args.threads):
        machine = bench.measure(args.threads)
        print(report.machine_lines(machine), flush=True)
        if not with_jax:
            print("JAX: skipped" + ("" if args.no_jax else ", it is not installed"))
        jax = Jax(args.threads) if with_jax else None
        rows = [tangents(args, count, machine, jax) for count in args.tangents]
        rows += [curvature(args, batch, jax) for batch in args.batches]
    if args.json:
        text = json.dumps({"machine": machine.facts(), "rows": rows}, indent=1)
        args.json.write_text(text + "\n")


def tangents(
    args: argparse.Namespace, count: int, machine: bench.Machine, jax: Jax | None
) -> dict[str, Any]:
    """One row: K tangents, B = 1."""
    hidden, steps = args.hidden, args.steps
    net = gd.Stack(gd.LSTM(INPUTS, hidden))
    params = net.init(seed=0)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((steps, 1, INPUTS)).astype(np.float32)
    dx = rng.standard_normal((count, steps, 1, INPUTS)).astype(np.float32)
    start = (
        gd.LayerState(*(rng.standard_normal((count, 1, hidden)).astype("f4") for _ in range(2))),
    )

    def ours() -> np.ndarray:
        return jacobian.jvp(net, params, x, dx=dx, dstate=start, threads=args.threads).d_outputs

    turns: dict[str, Callable[[], np.ndarray]] = {"gradcore": ours}
    if jax is not None:
        turns["jax"] = jax.tangents(params, x, dx, start[0])
    wide = gd.Params(net, params.flat.astype(float))
    exact = jacobian.jvp(
        net,
        wide,
        x.astype(float),
        dx=dx.astype(float),
        dstate=(gd.LayerState(start[0].h.astype(float), start[0].c.astype(float)),),
    ).d_outputs
    check(turns, exact)
    best = least(turns, args.repeats)
    flops = 2.0 * 4 * hidden * hidden * count
    bound = flops / machine.all.flops["float32"]
    row = {
        "what": f"jvp, K = {count}, LSTM {hidden}, B = 1, T = {steps}",
        "us_per_step": {name: seconds / steps * 1e6 for name, seconds in best.items()},
        "fraction_of_product_bound": bound * steps / best["gradcore"],
    }
    print(line(row), f"{row['fraction_of_product_bound']:.2f} of the product bound", flush=True)
    return row


def curvature(args: argparse.Namespace, batch: int, jax: Jax | None) -> dict[str, Any]:
    """One row: a Hessian-vector product and a gradient."""
    hidden, steps = args.hidden, args.steps
    net = gd.Stack(gd.LSTM(INPUTS, hidden), gd.Linear(hidden, CLASSES))
    params = net.init(seed=0)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((steps, batch, INPUTS)).astype(np.float32)
    y = rng.integers(CLASSES, size=(steps, batch))
    v = rng.standard_normal((1, net.n_parameters)).astype(np.float32)
    how = {"loss": "cross_entropy", "threads": args.threads}

    def product() -> np.ndarray:
        return jacobian.hvp(net, params, x, y, v, **how).product[0]

    def gauss_newton() -> np.ndarray:
        return jacobian.gauss_newton_product(net, params, x, y, v, **how).product[0]

    def gradient() -> np.ndarray:
        return gd.value_and_grad(net, params, x, y, train=False, **how).grads.flat

    turns: dict[str, Callable[[], np.ndarray]] = {"gradcore": product}
    if jax is not None:
        turns["jax"] = jax.curvature(net, params, x, y, v[0])
    wide = gd.Params(net, params.flat.astype(float))
    check(turns, jacobian.hvp(net, wide, x.astype(float), y, v.astype(float), **how).product[0])
    best = least(turns | {"gradient": gradient, "gauss_newton": gauss_newton}, args.repeats)
    row = {
        "what": f"hvp, LSTM {hidden}, B = {batch}, T = {steps}",
        "us_per_step": {name: seconds / steps * 1e6 for name, seconds in best.items()},
        "gradients": best["gradcore"] / best["gradient"],
        "gauss_newton_gradients": best["gauss_newton"] / best["gradient"],
    }
    print(line(row), f"{row['gradients']:.2f} gradients", flush=True)
    return row


class Jax:
    """The same in JAX: an LSTM written out, lax.scan, jit; the input product before the scan."""

    def __init__(self, threads: int) -> None:
        if threads == 1:
            flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
        self.jax: Any = import_module("jax")

    def outputs(self, p: dict[str, Any], x: Any, h: Any, c: Any) -> Any:
        def step(carry: Any, from_x: Any) -> Any:
            h, c = carry
            from_h = h @ p["weight_hh"].T + p["bias_hh"]
            h, c = contestants.JAX_CELLS["LSTM"](self.jax, from_x, from_h, h, c)
            return (h, c), h

        return self.jax.lax.scan(step, (h, c), x @ p["weight_ih"].T + p["bias_ih"])[1]

    def tangents(
        self, params: gd.Params, x: np.ndarray, dx: np.ndarray, start: gd.LayerState
    ) -> Callable[[], np.ndarray]:
        jax, jnp = self.jax, self.jax.numpy
        weights = self.layer(params)
        zeros = jnp.zeros(start.h.shape[1:], jnp.float32)

        @jax.jit
        def all_of(x: Any, *along: Any) -> Any:
            def one(*v: Any) -> Any:
                at = (x, zeros, zeros)
                return jax.jvp(lambda *a: self.outputs(weights, *a), at, v)[1]

            return jax.vmap(one)(*along)

        given = [jnp.asarray(a) for a in (x, dx, start.h, start.c)]
        return lambda: np.asarray(jax.block_until_ready(all_of(*given)))

    def curvature(
        self, net: gd.Stack, params: gd.Params, x: np.ndarray, y: np.ndarray, v: np.ndarray
    ) -> Callable[[], np.ndarray]:
        jax, jnp = self.jax, self.jax.numpy
        zeros = jnp.zeros((x.shape[1], net.layers[0].hidden_size), jnp.float32)
        inputs, targets = jnp.asarray(x), jnp.asarray(y)

        def loss(p: dict[str, Any]) -> Any:
            layer = {name[2:]: a for name, a in p.items() if name.startswith("0.")}
            z = self.outputs(layer, inputs, zeros, zeros) @ p["1.weight"].T + p["1.bias"]
            picked = jnp.take_along_axis(jax.nn.log_softmax(z), targets[..., None], axis=-1)
            return -jnp.mean(picked)

        at = {name: jnp.asarray(a) for name, a in params.items()}
        along = {name: jnp.asarray(a) for name, a in gd.Params(net, v.copy()).items()}
        product = jax.jit(lambda p, d: jax.jvp(jax.grad(loss), (p,), (d,))[1])

        def turn() -> np.ndarray:
            found = jax.block_until_ready(product(at, along))
            return np.concatenate([np.asarray(found[name]).ravel() for name in params])

        return turn

    def layer(self, params: gd.Params) -> dict[str, Any]:
        return {name[2:]: self.jax.numpy.asarray(a) for name, a in params.items()}


def check(turns: dict[str, Callable[[], np.ndarray]], exact: np.ndarray) -> None:
    """Every contestant's answer against float64; JAX compiles here, outside the timing."""
    for name, turn in turns.items():
        off = np.linalg.norm(turn().astype(float) - exact) / np.linalg.norm(exact)
        assert off < TOLERANCE, f"{name}: relative error {off:.2e}"


def least(turns: dict[str, Callable[[], np.ndarray]], repeats: int) -> dict[str, float]:
    """Seconds of each contestant's best turn."""
    best = dict.fromkeys(turns, float("inf"))
    for _ in range(repeats):
        for name, turn in turns.items():
            start = time.perf_counter()
            turn()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def line(row: dict[str, Any]) -> str:
    times = ", ".join(f"{name} {us:.2f}" for name, us in row["us_per_step"].items())
    return f"{row['what']}: {times} us per step;"


if __name__ == "__main__":
    main()
