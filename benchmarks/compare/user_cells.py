"""What do cells of users cost, compared with the library's own, and with JAX and PyTorch?

One command measures five questions, and prints machine facts, a table for each and the bound of the
machine where there is one:

* lstm: the built-in LSTM, a copy of its text with its backward, and forward() only, whose backward
  is derived. A whole pass, value and gradient.
* slstm: the stabilised sLSTM (Beck et al. 2024) with recurrent weights in 4 blocks, against
  jax.lax.scan and a loop of PyTorch whose step is compiled.
* diagonal: a GRU with diagonal recurrent weights over 100,000 steps, against the same two.
* gradbench: the objective "lstm" of GradBench (from ADBench), gradient in float64, against a loop
  of PyTorch, beside the times that GradBench has published.

Gradients of all contestants are compared before anything is timed; contestants take turns, and the
tables have the best turn. The compiler's cache is not used: the seconds of compilation are real
ones. Time of a step: microseconds for all sequences together.

    python benchmarks/compare/user_cells.py                # full size; leave the machine alone
    python benchmarks/compare/user_cells.py --small        # seconds; shows that all of it works
    python benchmarks/compare/user_cells.py lstm gradbench --threads 2
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gradcore as gd
from gradcore.apps.bench.bound import bound_us
from gradcore.apps.bench.contestants import same_cpus
from gradcore.apps.bench.machine import Machine, measure
from gradcore.apps.bench.report import machine_lines
from gradcore.apps.bench.turns import take_turns
from gradcore.cells import exp, maximum, sigmoid, softplus, tanh

Array = NDArray[Any]
# (steps) -> a function that makes one pass and returns its gradients as arrays.
Contestant = Callable[[int], Callable[[], list[Array]]]

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
# Milliseconds of GradBench's "jacobian" by layers and characters: PyTorch, Enzyme, and the fastest
# of its tools, Futhark, as its summary of evals/lstm has them.
PUBLISHED_MS = {
    (2, 1024): (668.5, 5.2, 4.1),
    (4, 1024): (1017.8, 9.0, 8.7),
    (2, 4096): (2714.3, 20.8, 16.1),
    (4, 4096): (4164.5, 37.3, 32.8),
}
BITS = 14  # of a character in ADBench's text, the number of units


@dataclass(frozen=True)
class Sizes:
    """Sizes of the problems: units H, sequences B, steps T, and the most steps that PyTorch makes,
    whose graph of all steps must fit into memory.
    """

    hidden: int = 128
    batch: int = 8
    steps: int = 10_000
    slstm_hidden: int = 256
    long_steps: int = 100_000
    torch_steps: int = 10_000
    check_steps: int = 100
    characters: tuple[int, ...] = (1024, 4096)
    repeats: int = 5


SMALL = Sizes(16, 2, 60, 32, 200, 60, 20, (32,), 2)


# ---- cells


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


def slstm_cell(x: Any, h: Any, s: Any) -> Any:
    """Beck et al. 2024, eq. 8 to 17: exponential gates, held in range by the stabiliser m."""
    log_f = -softplus(-(x.f + h.f)) + s.m
    i = x.i + h.i
    m = maximum(log_f, i)
    keep, let = exp(log_f - m), exp(i - m)
    c = keep * s.c + let * tanh(x.z + h.z)
    n = keep * s.n + let
    return sigmoid(x.o + h.o) * c / n, c, n, m


def slstm_step(m: Any, x: Any, h: Any, states: Any) -> Any:
    """The same for arrays (B, 4*H), gates z i f o, in the functions of `m`."""
    z, i, f, o = (a + b for a, b in zip(m.split(x), m.split(h), strict=True))
    c, n, most = states[1:]
    log_f = m.log_sigmoid(f) + most
    after = m.maximum(log_f, i)
    c = m.exp(log_f - after) * c + m.exp(i - after) * m.tanh(z)
    n = m.exp(log_f - after) * n + m.exp(i - after)
    return m.sigmoid(o) * c / n, c, n, after


def gru_step(m: Any, x: Any, h: Any, states: Any) -> Any:
    """A GRU for arrays (B, 3*H), gates r z n."""
    (x_r, x_z, x_n), (h_r, h_z, h_n) = m.split(x), m.split(h)
    z = m.sigmoid(x_z + h_z)
    n = m.tanh(x_n + m.sigmoid(x_r + h_r) * h_n)
    return (n + z * (states[0] - n),)


def gradbench_cell(x: Any, h: Any, s: Any) -> Any:
    """The LSTM of ADBench: forget and output gate see the input, the others the state before."""
    c = sigmoid(x.f) * s.c + sigmoid(h.i) * tanh(h.g)
    return sigmoid(x.o) * tanh(c), c


def compiled(make: Callable[[], type[gd.Recurrent]]) -> tuple[type[gd.Recurrent], float]:
    """The layer, and the seconds that its compilation took with an empty cache."""
    before = os.environ.get("GRADCORE_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADCORE_CACHE"] = folder
        try:
            began = time.perf_counter()
            return make(), time.perf_counter() - began
        finally:
            if before is None:
                del os.environ["GRADCORE_CACHE"]
            else:
                os.environ["GRADCORE_CACHE"] = before


# ---- a recurrent layer with mean squared error, by gradcore, JAX and PyTorch


@dataclass(frozen=True)
class Problem:
    """One layer over x (T, B, H) with targets y; block: the units in a block of weight_hh, 1 for
    diagonal weights.
    """

    net: gd.Stack
    params: gd.Params
    x: Array
    y: Array
    step: Callable[..., Any]
    block: int

    @property
    def layer(self) -> gd.Recurrent:
        return self.net.recurrent[0]

    @property
    def hidden_weights(self) -> Array:
        """weight_hh as (G, blocks, units of a block, units of a block)."""
        gates, units = len(self.layer.cell.gates), self.layer.hidden_size
        blocks = units // self.block
        weight = self.params["0.weight_hh"]
        if weight.size == gates * units * units and blocks > 1:
            grid = weight.reshape(gates, blocks, self.block, blocks, self.block)
            return np.ascontiguousarray(np.einsum("gnanb->gnab", grid))
        return weight.reshape(gates, blocks, self.block, self.block)

    def weights(self) -> list[Array]:
        """weight_ih, weight_hh in blocks, and bias_ih; bias_hh is 0."""
        return [self.params["0.weight_ih"], self.hidden_weights, self.params["0.bias_ih"]]


def structured(
    kind: type[gd.Recurrent],
    hidden: int,
    block: int,
    step: Callable[..., Any],
    steps: int,
    batch: int,
) -> Problem:
    """A problem whose recurrent weights have blocks: as an option of the layer where this gradcore
    has it, and else as a dense matrix with zeros.
    """
    has_option = any(field.name == "recurrent" for field in fields(kind))
    options: dict[str, Any] = {}
    if has_option:
        options = {"recurrent": "diagonal"} if block == 1 else {"recurrent": "blocks"}
        if block > 1:
            options["blocks"] = hidden // block
    net = gd.Stack(kind(hidden, hidden, **options))
    params = net.init(seed=0)
    params.flat[:] *= 0.5
    if "0.bias_hh" in params:
        params["0.bias_hh"][...] = 0
    if not has_option:
        print("   (this gradcore has no recurrent=: its matrix is dense, with zeros)")
        same = np.arange(hidden)[:, None] // block == np.arange(hidden) // block
        params["0.weight_hh"][...] *= np.tile(same, (len(net.recurrent[0].cell.gates), 1))
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((steps, batch, hidden)).astype("f4") for _ in range(2))
    return Problem(net, params, x, y, step, block)


def by_gradcore(problem: Problem, threads: int) -> Contestant:
    def contestant(steps: int) -> Callable[[], list[Array]]:
        x, y = problem.x[:steps], problem.y[:steps]

        def turn() -> list[Array]:
            result = gd.value_and_grad(
                problem.net, problem.params, x, y, loss="mse", threads=threads, wrt=("params", "x")
            )
            assert result.grads is not None
            found = replace(problem, params=gd.Params(problem.net, result.grads.flat))
            assert result.dx is not None
            return [*found.weights(), result.dx]

        return turn

    return contestant


class JaxMath:
    """The functions of a step in JAX."""

    def __init__(self, gates: int) -> None:
        import jax

        self.gates = gates
        self.sigmoid, self.log_sigmoid = jax.nn.sigmoid, jax.nn.log_sigmoid
        self.tanh, self.exp, self.maximum = jax.numpy.tanh, jax.numpy.exp, jax.numpy.maximum

    def split(self, rows: Any) -> Any:
        import jax.numpy as jnp

        return jnp.split(rows, self.gates, axis=1)


class TorchMath:
    """The functions of a step in PyTorch."""

    def __init__(self, gates: int) -> None:
        import torch

        self.gates = gates
        self.sigmoid, self.log_sigmoid = torch.sigmoid, torch.nn.functional.logsigmoid
        self.tanh, self.exp, self.maximum = torch.tanh, torch.exp, torch.maximum

    def split(self, rows: Any) -> Any:
        return rows.chunk(self.gates, 1)


def by_jax(problem: Problem, threads: int) -> Contestant:
    import jax
    import jax.numpy as jnp

    m, hidden = JaxMath(len(problem.layer.cell.gates)), problem.layer.hidden_size

    def loss(w_ih: Any, w_hh: Any, bias: Any, x: Any, y: Any) -> Any:
        batch = x.shape[1]
        start = tuple(jnp.zeros((batch, hidden), x.dtype) for _ in problem.layer.cell.states)

        def one(states: Any, row: Any) -> Any:
            h = states[0].reshape(batch, -1, problem.block)
            if problem.block == 1:
                from_h = (w_hh[:, :, 0, 0][None] * states[0][:, None]).reshape(batch, -1)
            else:
                from_h = jnp.einsum("bnk,gnak->bgna", h, w_hh).reshape(batch, -1)
            after = problem.step(m, row, from_h, states)
            return after, after[0]

        _, outputs = jax.lax.scan(one, start, x @ w_ih.T + bias)
        return ((outputs - y) ** 2).mean()

    run = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))

    def contestant(steps: int) -> Callable[[], list[Array]]:
        inputs = [
            jnp.asarray(a) for a in (*problem.weights(), problem.x[:steps], problem.y[:steps])
        ]
        return lambda: [np.asarray(one) for one in jax.block_until_ready(run(*inputs))]

    return contestant


def by_torch(problem: Problem, threads: int) -> Contestant:
    import torch

    torch.set_num_threads(threads)
    m, hidden = TorchMath(len(problem.layer.cell.gates)), problem.layer.hidden_size
    gates = m.gates

    def one(row: Any, w_hh: Any, *states: Any) -> Any:
        if problem.block == 1:
            from_h = (w_hh * states[0][:, None]).reshape(row.shape[0], -1)
        else:
            h = states[0].reshape(row.shape[0], -1, problem.block).transpose(0, 1)
            from_h = torch.bmm(h, w_hh).unflatten(2, (gates, problem.block))
            from_h = from_h.permute(1, 2, 0, 3).reshape(row.shape[0], -1)
        return problem.step(m, row, from_h, states)

    step = torch.compile(one, dynamic=False)

    def contestant(steps: int) -> Callable[[], list[Array]]:
        leaves = [torch.tensor(a).requires_grad_() for a in (*problem.weights(), problem.x[:steps])]
        y = torch.tensor(problem.y[:steps])

        def turn() -> list[Array]:
            w_ih, w_hh, bias, x = leaves
            # (blocks, inputs, gates * outputs) for one product per step.
            hh = w_hh[:, :, 0, 0] if problem.block == 1 else w_hh.permute(1, 3, 0, 2).flatten(2)
            states = [x.new_zeros(x.shape[1], hidden) for _ in problem.layer.cell.states]
            outputs = []
            for row in (x @ w_ih.T + bias).unbind():
                states = list(step(row, hh, *states))
                outputs.append(states[0])
            loss = ((torch.stack(outputs) - y) ** 2).mean()
            return [grad.numpy() for grad in torch.autograd.grad(loss, leaves)]

        return turn

    return contestant


# ---- GradBench's lstm


def gradbench_inputs(layers: int, characters: int) -> list[Array]:
    """main_params, extra_params, state and sequence, random as in ADBench's generator."""
    rng = np.random.default_rng(0)
    return [
        rng.random((2 * layers, 4 * BITS)),
        rng.random((3, BITS)),
        rng.random((2 * layers, BITS)),
        rng.integers(0, 2, (characters, BITS)).astype(np.float64),
    ]


def gradbench_by_torch(inputs: list[Array]) -> Callable[[], list[Array]]:
    import torch

    main, extra, state, sequence = (torch.tensor(array) for array in inputs)
    leaves = (main.requires_grad_(), extra.requires_grad_())

    def turn() -> list[Array]:
        weights, biases = (main[k::2].unflatten(1, (4, BITS)) for k in (0, 1))
        hidden, cell = list(state[::2]), list(state[1::2])
        total = main.new_zeros(())
        for row, wanted in pairwise(sequence):
            at = row * extra[0]
            for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
                forget, out = torch.sigmoid(at * w[[0, 2]] + b[[0, 2]])
                let = torch.sigmoid(hidden[k] * w[1] + b[1])
                change = torch.tanh(hidden[k] * w[3] + b[3])
                cell[k] = cell[k] * forget + let * change
                at = hidden[k] = out * torch.tanh(cell[k])
            y = at * extra[1] + extra[2]
            total = total + (wanted * (y - torch.log(2 + y.exp().sum()))).sum()
        loss = -total / sequence[1:].numel()
        return [grad.numpy() for grad in torch.autograd.grad(loss, leaves)]

    return turn


def gradbench_by_gradcore(
    kind: type[gd.Recurrent], inputs: list[Array], threads: int
) -> Callable[[], list[Array]]:
    """The layers as a net; what is elementwise before and behind them, and the loss, in NumPy."""
    main, extra, state, sequence = inputs
    layers = len(main) // 2
    net = gd.Stack(*(kind(BITS, BITS) for _ in range(layers)))
    params = net.init(seed=0, dtype="float64")
    params.flat[:] = 0
    # ADBench's order of gates is f i o g, and so is that of the cell. A diagonal is every
    # (BITS+1)th value of a block.
    reads = {"weight_ih": (0, 2), "weight_hh": (1, 3)}
    start = [gd.LayerState(state[2 * k][None], state[2 * k + 1][None]) for k in range(layers)]

    def diagonals(arrays: Any, k: int) -> list[Array]:
        found: list[Array] = [None] * 4  # type: ignore[list-item]
        for name, gates in reads.items():
            blocks = arrays[f"{k}.{name}"].reshape(4, BITS * BITS)
            for gate in gates:
                found[gate] = blocks[gate, :: BITS + 1]
        return found

    def turn() -> list[Array]:
        for k in range(layers):
            for gate, diagonal in enumerate(diagonals(params, k)):
                span = slice(gate * BITS, (gate + 1) * BITS)
                diagonal[...] = main[2 * k, span]
                side = "bias_ih" if gate in reads["weight_ih"] else "bias_hh"
                params[f"{k}.{side}"][span] = main[2 * k + 1, span]
        x = (sequence[:-1] * extra[0])[:, None]
        run = gd.forward(
            net, params, x, state=start, threads=threads, wrt=("params", "x"), memory="full"
        )
        h = run.outputs[:, 0]
        y = h * extra[1] + extra[2]
        e = np.exp(y)
        wanted = sequence[1:]
        dy = -(wanted - wanted.sum(1, keepdims=True) * e / (2 + e.sum(1, keepdims=True)))
        dy /= wanted.size
        back = run.backward((dy * extra[1])[:, None])
        d_main, d_extra = np.zeros_like(main), np.empty_like(extra)
        for k in range(layers):
            d_main[2 * k] = np.concatenate(diagonals(back.grads, k))
            d_main[2 * k + 1] = back.grads[f"{k}.bias_ih"] + back.grads[f"{k}.bias_hh"]
        d_extra[0] = (back.dx[:, 0] * sequence[:-1]).sum(0)
        d_extra[1], d_extra[2] = (dy * h).sum(0), dy.sum(0)
        return [d_main, d_extra]

    return turn


# ---- the questions


def compare(turns: Mapping[str, Callable[[], list[Array]]], tolerance: float) -> None:
    """Raises AssertionError naming the contestant whose gradients are not those of the first."""
    first, *others = turns
    want = turns[first]()
    for name in others:
        for place, (one, other) in enumerate(zip(turns[name](), want, strict=True)):
            error = float(np.linalg.norm(one - other) / np.linalg.norm(other))
            assert error < tolerance, f"{name} differs from {first} in array {place}: {error:.2g}"
    print(f"   all {len(turns)} gradients agree within {tolerance:g} of their norm")


def ask_lstm(sizes: Sizes, machine: Machine) -> None:
    hidden, steps = sizes.hidden, sizes.steps
    print(f"\nLSTM, H = {hidden}, B = {sizes.batch}, T = {steps:,}, float32, value and gradient")
    copy, copy_seconds = compiled(lambda: gd.cells.compile(copied()))
    derived, derived_seconds = compiled(lambda: gd.cells.compile(FORWARD_ONLY))
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((steps, sizes.batch, hidden)).astype("f4") for _ in range(2))
    flat = gd.Stack(gd.LSTM(hidden, hidden)).init(seed=0).flat
    kinds: dict[str, type[gd.Recurrent]] = {"built-in": gd.LSTM, "copy": copy, "derived": derived}

    def turn(kind: type[gd.Recurrent]) -> Callable[[], list[Array]]:
        net = gd.Stack(kind(hidden, hidden))
        params = gd.Params(net, flat)

        def run() -> list[Array]:
            result = gd.value_and_grad(
                net, params, x, y, loss="mse", threads=machine.threads, wrt=("params", "x")
            )
            assert result.grads is not None
            return [np.array([result.loss]), result.grads.flat, result.dx]

        return run

    turns = {name: turn(kind) for name, kind in kinds.items()}
    compare(turns, 1e-5)
    best = take_turns(turns, sizes.repeats)
    bound = bound_us(machine, gates=4, inputs=hidden, hidden=hidden, batch=sizes.batch)
    seconds = {"copy": copy_seconds, "derived": derived_seconds}
    for name, took in best.items():
        us = took / steps * 1e6
        told = f", compiled in {seconds[name]:.1f} s" if name in seconds else ""
        print(
            f"   {name:10}{us:9.2f} us/step, {bound / us:5.2f} of the bound, "
            f"{took / best['built-in']:6.3f} of the built-in's time{told}"
        )
    print("   goals: copy at most 1.03 (0.97 of its speed), derived at most 1.3")


def ask_peers(
    name: str, problem: Problem, sizes: Sizes, machine: Machine, compiling: float | None
) -> None:
    """Times a problem; PyTorch makes at most torch_steps of its steps."""
    steps, threads = len(problem.x), machine.threads
    contestants: dict[str, Contestant] = {"gradcore": by_gradcore(problem, threads)}
    for peer, package, make in (("JAX", "jax", by_jax), ("PyTorch", "torch", by_torch)):
        try:
            __import__(package)
        except ImportError:
            print(f"   {peer} is not installed: left out")
            continue
        contestants[peer] = make(problem, threads)
    check = min(steps, sizes.check_steps)
    compare({peer: make(check) for peer, make in contestants.items()}, 1e-3)
    made = {
        peer: min(steps, sizes.torch_steps) if peer == "PyTorch" else steps for peer in contestants
    }
    turns = {peer: make(made[peer]) for peer, make in contestants.items()}
    for turn in turns.values():
        turn()  # compiles, and fills caches
    best = take_turns(turns, sizes.repeats)
    us = {peer: took / made[peer] * 1e6 for peer, took in best.items()}
    layer = problem.layer
    work = bound_us(
        machine,
        gates=len(layer.cell.gates),
        inputs=layer.input_size,
        hidden=layer.hidden_size,
        batch=problem.x.shape[1],
    )
    for peer, one in us.items():
        short = f" (over {made[peer]:,} steps)" if made[peer] < steps else ""
        print(f"   {peer:10}{one:9.2f} us/step{short}")
    if compiling is not None:
        print(f"   the cell was compiled in {compiling:.1f} s (goal: under 20)")
    print(f"   bound with a dense weight_hh: {work:.2f} us/step")
    others = [one for peer, one in us.items() if peer != "gradcore"]
    if others:
        print(f"   {name}: gradcore is {min(others) / us['gradcore']:.2f} times as fast (goal: 3)")


def ask_slstm(sizes: Sizes, machine: Machine) -> None:
    hidden = sizes.slstm_hidden
    print(
        f"\nsLSTM, H = {hidden} in 4 blocks, B = {sizes.batch}, T = {sizes.steps:,}, float32, "
        "value and gradient"
    )
    make = gd.cell("z i f o", "h c n m", memory_gate="f")
    try:
        kind, seconds = compiled(lambda: make(slstm_cell))
    except gd.CompileError as error:
        print(f"   left out, because this gradcore refuses the cell: {error}")
        return
    problem = structured(kind, hidden, hidden // 4, slstm_step, sizes.steps, sizes.batch)
    ask_peers("sLSTM", problem, sizes, machine, seconds)


def ask_diagonal(sizes: Sizes, machine: Machine) -> None:
    print(
        f"\nGRU with diagonal recurrent weights, H = {sizes.hidden}, B = {sizes.batch}, "
        f"T = {sizes.long_steps:,}, float32, value and gradient"
    )
    problem = structured(gd.GRU, sizes.hidden, 1, gru_step, sizes.long_steps, sizes.batch)
    ask_peers("diagonal GRU", problem, sizes, machine, None)


def ask_gradbench(sizes: Sizes, machine: Machine) -> None:
    print(f"\nGradBench's lstm, {BITS} units, float64, milliseconds of a gradient")
    kind, seconds = compiled(lambda: gd.cell("f i o g", "h c", dtype="float64")(gradbench_cell))
    print(f"   the cell was compiled in {seconds:.1f} s")
    for layers in (2, 4):
        for characters in sizes.characters:
            inputs = gradbench_inputs(layers, characters)
            turns = {"gradcore": gradbench_by_gradcore(kind, inputs, 1)}
            try:
                turns["PyTorch"] = gradbench_by_torch(inputs)
            except ImportError:
                print("   PyTorch is not installed: left out")
            compare(turns, 1e-9)
            best = take_turns(turns, sizes.repeats)
            told = ", ".join(f"{name} {took * 1e3:.2f}" for name, took in best.items())
            line = f"   l = {layers}, c = {characters}: {told}"
            if "PyTorch" in best:
                line += f"; ratio {best['PyTorch'] / best['gradcore']:.0f}"
            if published := PUBLISHED_MS.get((layers, characters)):
                torch_ms, enzyme_ms, futhark_ms = published
                line += (
                    f". Published: PyTorch {torch_ms:.0f}, Enzyme {enzyme_ms:.1f} (ratio "
                    f"{torch_ms / enzyme_ms:.0f}), Futhark {futhark_ms:.1f} (ratio "
                    f"{torch_ms / futhark_ms:.0f})"
                )
            print(line)


QUESTIONS = {
    "lstm": ask_lstm,
    "slstm": ask_slstm,
    "diagonal": ask_diagonal,
    "gradbench": ask_gradbench,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("questions", nargs="*", choices=[[], *QUESTIONS], help="all by default")
    parser.add_argument("--small", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    sizes = SMALL if options.small else Sizes()
    with same_cpus(options.threads):
        quick = {"repeats": 1, "seconds": 0.01} if options.small else {}
        machine = measure(options.threads, **quick)
        print(machine_lines(machine))
        for name in options.questions or QUESTIONS:
            QUESTIONS[name](sizes, machine)


if __name__ == "__main__":
    main()
