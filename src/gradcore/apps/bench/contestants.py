"""The contestants that compute gradients: gradcore, and the peers that are installed.

A contestant is a function that takes a Problem and a number of threads and returns a turn: a
function without arguments that computes the gradients once and returns them by name, where "x" is
the input's. A new peer is a function in this file and its line in PEERS; its library is imported
when its first turn is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._base.memory import available_bytes
from ..._engine.calls import value_and_grad
from ..._engine.planner import plan
from ..._net.stack import Grads, Params, Stack
from ...errors import ArgumentError
from .problem import CELL_BY_NAME, INPUTS, Problem, Row

__all__ = [
    "PEERS",
    "Contestant",
    "Gradients",
    "Turn",
    "by_modules",
    "gradcore",
    "installed",
    "memory_for",
    "net_of",
    "same_cpus",
    "version",
]

Gradients = dict[str, NDArray[Any]]
Turn = Callable[[], Gradients]
Contestant = Callable[[Problem, int], Turn]


# ---- gradcore -----------------------------------------------------------------------------------


def net_of(problem: Problem, dtype: str = "float32") -> tuple[Stack, Params]:
    """The problem's layer as a net with the problem's weights."""
    net = Stack(CELL_BY_NAME[problem.row.cell](INPUTS, problem.row.hidden))
    params = net.init(seed=0, dtype=dtype)
    for name, values in params.items():
        values[...] = problem.weights[name.split(".")[1]]
    return net, params


def memory_for(row: Row, threads: int) -> str | None:
    """gradcore's budget: "full" if the tape takes at most half of the free memory, else None."""
    net = Stack(CELL_BY_NAME[row.cell](INPUTS, row.hidden))
    whole = plan(
        net, row.steps, row.batch, loss="mse", wrt=("params", "x"), memory="full", threads=threads
    )
    left = available_bytes()
    return "full" if left is None or whole.bytes <= left // 2 else None


def gradcore(problem: Problem, threads: int) -> Turn:
    """gradcore's contestant: value_and_grad with the budget of memory_for."""
    net, params = net_of(problem)
    memory = memory_for(problem.row, threads)
    kept: Grads | None = None

    def turn() -> Gradients:
        nonlocal kept
        result = value_and_grad(
            net,
            params,
            problem.x,
            problem.y,
            loss="mse",
            wrt=("params", "x"),
            memory=memory,
            threads=threads,
            out=kept,
        )
        assert result.grads is not None
        assert result.dx is not None
        kept = result.grads
        return {name.split(".")[1]: g for name, g in kept.items()} | {"x": result.dx}

    return turn


# ---- PyTorch ------------------------------------------------------------------------------------


def torch(problem: Problem, threads: int) -> Turn:
    """PyTorch's contestant: torch.nn's layer of the same name, mse_loss and backward()."""
    return by_modules(import_module("torch.nn"), problem, threads)


def by_modules(modules: Any, problem: Problem, threads: int, **options: Any) -> Turn:
    """A contestant with the layers of a module that has the same classes as torch.nn."""
    torch: Any = import_module("torch")
    torch.set_num_threads(threads)
    layer = getattr(modules, problem.row.cell)(INPUTS, problem.row.hidden, **options)
    with torch.no_grad():
        for name, values in layer.named_parameters():
            values.copy_(torch.from_numpy(problem.weights[name.removesuffix("_l0")]))
    x = torch.from_numpy(problem.x).requires_grad_()
    y = torch.from_numpy(problem.y)

    def turn() -> Gradients:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        torch.nn.functional.mse_loss(layer(x)[0], y).backward()
        grads = {n.removesuffix("_l0"): p.grad.numpy() for n, p in layer.named_parameters()}
        return grads | {"x": x.grad.numpy()}

    return turn


# ---- JAX ----------------------------------------------------------------------------------------


def _jax_rnn(jax: Any, from_x: Any, from_h: Any, h: Any, c: Any) -> tuple[Any, Any]:
    return jax.numpy.tanh(from_x + from_h), c


def _jax_lstm(jax: Any, from_x: Any, from_h: Any, h: Any, c: Any) -> tuple[Any, Any]:
    sigmoid, tanh = jax.nn.sigmoid, jax.numpy.tanh
    i, f, g, o = jax.numpy.split(from_x + from_h, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def _jax_gru(jax: Any, from_x: Any, from_h: Any, h: Any, c: Any) -> tuple[Any, Any]:
    x_r, x_z, x_n = jax.numpy.split(from_x, 3, axis=-1)
    h_r, h_z, h_n = jax.numpy.split(from_h, 3, axis=-1)
    r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
    n = jax.numpy.tanh(x_n + r * h_n)
    return n + z * (h - n), c


JAX_CELLS = {"RNN": _jax_rnn, "LSTM": _jax_lstm, "GRU": _jax_gru}


def jax(problem: Problem, threads: int) -> Turn:
    """JAX's contestant: jit of grad over lax.scan with a cell in jax.numpy.

    The product with the input is computed before the scan. JAX has no setting for its number of
    threads; it uses as many as there are CPUs that same_cpus allows.
    """
    if threads == 1:
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        if flags not in os.environ.get("XLA_FLAGS", ""):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    jax: Any = import_module("jax")
    jnp = jax.numpy
    cell = JAX_CELLS[problem.row.cell]
    zeros = jnp.zeros((problem.row.batch, problem.row.hidden), jnp.float32)
    weights = {name: jnp.asarray(values) for name, values in problem.weights.items()}
    x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)

    def loss(p: Any, x: Any) -> Any:
        def step(carry: Any, from_x: Any) -> Any:
            h, c = carry
            h, c = cell(jax, from_x, h @ p["weight_hh"].T + p["bias_hh"], h, c)
            return (h, c), h

        from_x = x @ p["weight_ih"].T + p["bias_ih"]
        return jnp.mean((jax.lax.scan(step, (zeros, zeros), from_x)[1] - y) ** 2)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))

    def turn() -> Gradients:
        by_weights, by_x = jax.block_until_ready(gradient(weights, x))
        return {k: np.asarray(v) for k, v in by_weights.items()} | {"x": np.asarray(by_x)}

    return turn


# ---- Peers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """A library to compare with. package: its name for import and pip; cells: the cells it has."""

    title: str
    package: str
    make: Contestant
    cells: frozenset[str]

    def has(self, row: Row) -> bool:
        return row.cell in self.cells


PEERS: dict[str, Peer] = {
    "torch": Peer("PyTorch", "torch", torch, frozenset({"RNN", "LSTM", "GRU"})),
    "jax": Peer("JAX", "jax", jax, frozenset(JAX_CELLS)),
}


def installed(name: str) -> bool:
    """Whether a peer is installed, without importing it; raises ArgumentError for other names."""
    if name not in PEERS:
        raise ArgumentError(f"peers must be none, or some of {', '.join(PEERS)}; got {name!r}.")
    return find_spec(PEERS[name].package) is not None


def version(name: str) -> str:
    """The version of a peer's package."""
    return metadata.version(PEERS[name].package)


@contextmanager
def same_cpus(threads: int) -> Iterator[None]:
    """A context in which this thread and those it starts use `threads` CPUs (on Linux)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _cores_first(before)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _cores_first(cpus: set[int], root: Path = Path("/sys/devices/system/cpu")) -> list[int]:
    """CPUs in ascending order, but a core's second and further hardware threads at the end."""
    first: list[int] = []
    rest: list[int] = []
    cores: set[str] = set()
    for cpu in sorted(cpus):
        try:
            core = (root / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text()
        except OSError:
            core = str(cpu)
        (rest if core in cores else first).append(cpu)
        cores.add(core)
    return first + rest
