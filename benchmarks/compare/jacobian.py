"""What do Jacobian and Hessian-vector products cost, relative to their bound, a gradient and JAX?

* Products with K directions of an LSTM: tangents of its outputs along the input, and along the
  initial state; cotangents of the initial state from those of the final one. Times are
  microseconds per time step of all K together. The bound is the time at the machine's peak of the
  products of the weights with K*B rows, 2*4*H*H*K*B floating-point operations (and 2*4*H*I*K*B
  along the input). JAX computes vmap of jax.jvp, or of the function that jax.vjp gives, over
  lax.scan.
* A Hessian-vector product: microseconds per time step, and as a multiple of the time of a gradient
  of the same net, data and threads. JAX computes jvp of grad over lax.scan.

Before anything is timed, float32 is compared with gradcore's float64 and with JAX over the first
steps. The best of --repeats turns counts; contestants take turns.

    python benchmarks/compare/jacobian.py [--threads N] [--steps T] [--no-jax] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import gradcore as gd
from gradcore import jacobian
from gradcore.apps import bench
from gradcore.apps.bench import contestants, report
from gradcore.apps.bench.turns import take_turns

# Largest relative error of the norm in float32 against float64 or JAX after T steps.
TOLERANCE = 1e-3
INPUTS, CLASSES = 16, 5
# After more steps rounding errors have grown, because the nets below neither forget nor explode.
CHECKED_STEPS = 200
# This forget bias keeps directions from vanishing and growing over 10,000 steps, where JAX's
# float32 would be zero.
FORGET_BIAS = 9.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=gd.build_info().threads)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--directions", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--no-jax", action="store_true")
    parser.add_argument("--json", type=Path, help="write machine and rows to this file")
    args = parser.parse_args()
    with_jax = not args.no_jax and find_spec("jax") is not None
    with contestants.same_cpus(args.threads):
        machine = bench.measure(args.threads)
        print(report.machine_lines(machine), flush=True)
        if not with_jax:
            print("JAX: skipped" + ("" if args.no_jax else ", because it is not installed"))
        jax = Jax(args.threads) if with_jax else None
        rows = [
            directions(args, kind, count, machine, jax)
            for count in args.directions
            for kind in ("jvp, input", "jvp, initial state", "vjp, final state")
        ]
        rows += [curvature(args, batch, jax) for batch in args.batches]
    if args.json:
        text = json.dumps({"machine": machine.facts(), "rows": rows}, indent=1)
        args.json.write_text(text + "\n")


def directions(
    args: argparse.Namespace, kind: str, count: int, machine: bench.Machine, jax: Jax | None
) -> dict[str, Any]:
    """One row: K directions of the input, the initial state or (backward) the final state; B =
    1.
    """
    hidden, steps = args.hidden, args.steps
    net = gd.Stack(gd.LSTM(INPUTS, hidden))
    rng = np.random.default_rng(1)
    x = rng.standard_normal((steps, 1, INPUTS))
    dx = rng.standard_normal((count, steps, 1, INPUTS))
    h, c = rng.standard_normal((2, count, 1, hidden))

    def ours(steps: int, dtype: str) -> Callable[[], np.ndarray]:
        params = net.init(seed=0, dtype=dtype, forget_bias=FORGET_BIAS)
        along = dx[:, :steps].astype(dtype)
        state = (gd.LayerState(h.astype(dtype), c.astype(dtype)),)
        given: dict[str, Any] = {"x": x[:steps].astype(dtype), "threads": args.threads}

        def turn() -> np.ndarray:
            if kind == "vjp, final state":
                back = jacobian.vjp(net, params, dstate_out=state, wrt=("state",), **given)
                return np.ldexp(back.dstate[0].h, back.dstate_exponent[0])
            moved = {"dx": along} if kind == "jvp, input" else {"dstate": state}
            return jacobian.jvp(net, params, **moved, **given).d_outputs

        return turn

    def turns_of(steps: int) -> dict[str, Callable[[], np.ndarray]]:
        turns = {"gradcore": ours(steps, "float32")}
        if jax is not None:
            arrays = (dx[:, :steps],) if kind == "jvp, input" else (h, c)
            single = [a.astype(np.float32) for a in (x[:steps], *arrays)]
            params = net.init(seed=0, forget_bias=FORGET_BIAS)
            turns["jax"] = jax.directions(kind, params, *single)
        return turns

    short = min(steps, CHECKED_STEPS)
    check(turns_of(short), ours(short, "float64")())
    turns = turns_of(steps)
    for turn in turns.values():
        turn()  # JAX compiles
    best = take_turns(turns, args.repeats)
    bound = 2.0 * 4 * hidden * (hidden + INPUTS * (kind == "jvp, input")) * count
    bound /= machine.all.flops["float32"]
    row = {
        "what": f"{kind}, K = {count}, LSTM {hidden}, B = 1, T = {steps}",
        "us_per_step": {name: seconds / steps * 1e6 for name, seconds in best.items()},
        "bound_us": bound * 1e6,
        "fraction_of_product_bound": bound * steps / best["gradcore"],
    }
    print(
        line(row),
        f"bound {bound * 1e6:.2f}, {row['fraction_of_product_bound']:.2f} of it",
        flush=True,
    )
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
    best = take_turns(turns | {"gradient": gradient, "gauss_newton": gauss_newton}, args.repeats)
    row = {
        "what": f"hvp, LSTM {hidden}, B = {batch}, T = {steps}",
        "us_per_step": {name: seconds / steps * 1e6 for name, seconds in best.items()},
        "gradients": best["gradcore"] / best["gradient"],
        "gauss_newton_gradients": best["gauss_newton"] / best["gradient"],
    }
    print(line(row), f"{row['gradients']:.2f} gradients", flush=True)
    return row


class Jax:
    """The same in JAX: an LSTM in jnp with lax.scan and jit; the input product is computed before
    the scan.
    """

    def __init__(self, threads: int) -> None:
        if threads == 1:
            flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
        self.jax: Any = import_module("jax")

    def run(self, p: dict[str, Any], x: Any, h: Any, c: Any) -> Any:
        """Returns the final state and the outputs."""

        def step(carry: Any, from_x: Any) -> Any:
            h, c = carry
            from_h = h @ p["weight_hh"].T + p["bias_hh"]
            h, c = contestants.JAX_CELLS["LSTM"](self.jax, from_x, from_h, h, c)
            return (h, c), h

        return self.jax.lax.scan(step, (h, c), x @ p["weight_ih"].T + p["bias_ih"])

    def directions(
        self, kind: str, params: gd.Params, x: np.ndarray, *along: np.ndarray
    ) -> Callable[[], np.ndarray]:
        jax, jnp = self.jax, self.jax.numpy
        weights = self.layer(params)
        zeros = jnp.zeros((1, weights["weight_hh"].shape[1]), jnp.float32)

        @jax.jit
        def all_of(x: Any, *along: Any) -> Any:
            if kind == "jvp, input":
                return jax.vmap(
                    lambda v: jax.jvp(lambda a: self.run(weights, a, zeros, zeros)[1], (x,), (v,))[
                        1
                    ]
                )(*along)

            def from_state(h: Any, c: Any) -> Any:
                return self.run(weights, x, h, c)

            if kind == "jvp, initial state":
                return jax.vmap(lambda *v: jax.jvp(from_state, (zeros, zeros), v)[1][1])(*along)
            back = jax.vjp(lambda h, c: from_state(h, c)[0], zeros, zeros)[1]
            return jax.vmap(lambda *v: back(v)[0])(*along)

        given = [jnp.asarray(a) for a in (x, *along)]
        return lambda: np.asarray(jax.block_until_ready(all_of(*given)))

    def curvature(
        self, net: gd.Stack, params: gd.Params, x: np.ndarray, y: np.ndarray, v: np.ndarray
    ) -> Callable[[], np.ndarray]:
        jax, jnp = self.jax, self.jax.numpy
        zeros = jnp.zeros((x.shape[1], net.layers[0].hidden_size), jnp.float32)
        inputs, targets = jnp.asarray(x), jnp.asarray(y)

        def loss(p: dict[str, Any]) -> Any:
            layer = {name[2:]: a for name, a in p.items() if name.startswith("0.")}
            z = self.run(layer, inputs, zeros, zeros)[1] @ p["1.weight"].T + p["1.bias"]
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
    """Compares every contestant's answer with float64; JAX compiles here, outside of the timing."""
    for name, turn in turns.items():
        off = np.linalg.norm(turn().astype(float) - exact) / np.linalg.norm(exact)
        assert off < TOLERANCE, f"{name}: relative error {off:.2e}"


def line(row: dict[str, Any]) -> str:
    times = ", ".join(f"{name} {us:.2f}" for name, us in row["us_per_step"].items())
    return f"{row['what']}: {times} us per step;"


if __name__ == "__main__":
    main()
