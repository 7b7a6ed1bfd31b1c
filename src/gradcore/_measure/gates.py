"""Statistics of gates along a trajectory: how open, how saturated, how long they remember.

The activations come from the core's own cells, the same code that training runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._engine.objective import Objective
from .._engine.prepare import Progress, prepare
from .._net import validate
from .._net.layers import Recurrent
from .._net.stack import Params, Stack
from .._net.state import LayerState, state_size, unflatten
from ..jacobian._ranges import Ranges, one_way

__all__ = ["GateStatistics", "statistics"]

# A gate counts as saturated if a sigmoid is outside [0.05, 0.95] or a tanh outside [-0.9, 0.9]: its
# slope is then a fifth of the largest or less.
EDGE = 0.05
EDGE_TANH = 0.9
# The bytes of activations that are in memory at a time.
PIECE = 8_000_000


@dataclass(frozen=True, eq=False)
class GateStatistics:
    """Statistics of the gates of one recurrent layer, over all steps and sequences that count.

    layer: its number among the recurrent layers. gates: names in the order of the rows of
    weight_hh. mean (G, H): mean activation. saturated (G, H): the share of steps at which a sigmoid
    is outside [0.05, 0.95], a tanh outside [-0.9, 0.9], or a relu 0; NaN for the identity.
    time_constant (H,): the number of steps after which the memory gate (f of an LSTM, z of a GRU)
    has let the state decay to 1/e, -1 / mean(log gate); None for a cell without such a gate. steps:
    the number of steps counted, over all sequences.
    """

    layer: int
    gates: tuple[str, ...]
    mean: NDArray[np.float64]
    saturated: NDArray[np.float64]
    time_constant: NDArray[np.float64] | None
    steps: int


def statistics(
    net: Stack,
    params: Params,
    x: Any,
    *,
    lengths: Any = None,
    reset: Any = None,
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[GateStatistics, ...]:
    """Mean, saturation and time constants of the gates of every recurrent layer.

    Arguments are those of gradcore.apply; the net is in evaluation mode. There is one forward pass
    per layer, over some thousand steps at a time, so memory does not grow with T. Steps from a
    sequence's end on do not count.

    The time constant is that of a state on which only the memory gate acts: per step it is
    multiplied by the geometric mean of the gate. For gates near 1 that hardly vary it is about
    1 / (1 - gate).
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    Reference: Tallec and Ollivier 2018, section 2 (a gate as an inverse time constant); Karpathy,
    Johnson, Li 2015, section 4.2 (saturation).
    """
    validate.model(net, params)
    one_way(net, "gates.statistics")
    ranges = Ranges(net, params.dtype, x, lengths, reset, static)
    ends = np.full(ranges.batch, ranges.steps) if lengths is None else np.asarray(lengths)
    found = []
    for index, layer in enumerate(net.recurrent):
        sums = _Sums(layer, params.dtype)
        width = len(layer.cell.gates) * layer.hidden_size * ranges.batch * params.dtype.itemsize
        stretch = max(1, PIECE // width)
        now = state
        for t0 in range(0, ranges.steps, stretch):
            part = ranges[t0 : t0 + stretch]
            values, now = _activations(net, params, index, part, now, memory, threads)
            there = np.arange(t0, t0 + len(values))[:, None] < ends
            sums.add(values[there])
            if progress is not None:
                done = index * ranges.steps + min(t0 + stretch, ranges.steps)
                progress(done, len(net.recurrent) * ranges.steps)
        found.append(sums.result(index))
    return tuple(found)


class _Sums:
    """The sums over steps for one layer."""

    def __init__(self, layer: Recurrent, dtype: np.dtype[Any]) -> None:
        self.layer, self.count = layer, 0
        self.shape = (len(layer.cell.gates), layer.hidden_size)
        self.values, self.edges = np.zeros(self.shape), np.zeros(self.shape)
        self.logs = np.zeros(layer.hidden_size)
        self.least = float(np.finfo(dtype).tiny)  # replaces a gate of 0, whose log is infinite

    def add(self, values: NDArray[Any]) -> None:
        """Adds activations (n, G, H) of n steps."""
        self.count += len(values)
        self.values += values.sum(axis=0, dtype=np.float64)
        for g, gate in enumerate(self.layer.cell.gates):
            kind = self.layer.gate_function(gate)
            if kind == "sigmoid":
                at_edge = (values[:, g] < EDGE) | (values[:, g] > 1 - EDGE)
            elif kind == "tanh":
                at_edge = np.abs(values[:, g]) > EDGE_TANH
            elif kind == "relu":
                at_edge = values[:, g] <= 0
            else:
                self.edges[g] = np.nan
                continue
            self.edges[g] += at_edge.sum(axis=0)
        memory = self.layer.cell.memory_gate
        if memory is not None:
            opened = values[:, self.layer.cell.gates.index(memory)].astype(np.float64)
            self.logs += np.log(np.maximum(opened, self.least)).sum(axis=0)

    def result(self, index: int) -> GateStatistics:
        cell, count = self.layer.cell, max(self.count, 1)
        with np.errstate(divide="ignore"):
            constants = None if cell.memory_gate is None else np.abs(count / self.logs)
        return GateStatistics(
            index, cell.gates, self.values / count, self.edges / count, constants, self.count
        )


def _activations(
    net: Stack,
    params: Params,
    index: int,
    part: dict[str, Any],
    state: Sequence[LayerState] | None,
    memory: int | str | None,
    threads: int | None,
) -> tuple[NDArray[Any], tuple[LayerState, ...]]:
    """The activations (T, B, G, H) of one layer, and the state after the last step."""
    inputs = validate.inputs(net, params.dtype, **part, state=state)
    layer = net.recurrent[index]
    shape = (inputs.steps, inputs.batch, len(layer.cell.gates), layer.hidden_size)
    gates = np.empty(shape, params.dtype)
    after = np.empty(state_size(net, inputs.batch), params.dtype)
    prepare(
        params,
        inputs,
        validate.mode(net, False, None),
        Objective("none"),
        {"gates": gates, "state_out": after},
        memory,
        threads,
        None,
        hidden=index,
    ).run()
    return gates, unflatten(net, inputs.batch, after)
