"""Summaries of nets: what every layer puts out, holds and computes, and what an update costs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._base.checks import float_dtype, positive_int
from .._net.convolution import Conv1d
from .._net.layers import Dense, Heads, Layer, Linear, Recurrent
from .._net.stack import Stack
from .._net.table import layer_lines, table
from ..errors import DTypeError
from ..loss import Given, Loss
from .calls import value, value_and_grad
from .objective import AnyLoss
from .planner import Plan, plan

__all__ = ["LayerSummary", "Summary", "summary"]

# Operations forward of the calls that are timed: some hundredths of a second on one core.
TIMED_FLOPS = 5e8
# Shorter calls would time their beginning rather than their steps; longer ones gain nothing.
LEAST_STEPS, MOST_STEPS = 128, 4096


@dataclass(frozen=True)
class LayerSummary:
    """A line of a Summary.

    name: the layer with its options. place: its number in Stack.layers, None for the line of a
    Residual. shape: (T, B, width) of what it puts out, (B, width) from a Pool on. parameters: how
    many values it has. flops: floating-point operations of its matrix products in one pass forward
    over all steps.
    """

    name: str
    place: int | None
    shape: tuple[int, ...]
    parameters: int
    flops: int


@dataclass(frozen=True)
class Summary:
    """What the layers of a net put out, hold and compute, and what one update costs.

    layers: one LayerSummary for each line. flops: operations of an update: those forward, twice as
    many back, and those of the steps that the plan repeats. plan: the plan of the call, with its
    bytes. timed_steps: the steps of the calls from which the time was measured. seconds: the time
    of forward and backward pass over all steps, in proportion to that; the optimizer is no part of
    it.
    """

    dtype: str
    layers: tuple[LayerSummary, ...]
    parameters: int
    flops: int
    plan: Plan = field(repr=False)
    timed_steps: int
    seconds: float

    def __str__(self) -> str:
        rows = [
            (
                "" if line.place is None else str(line.place),
                line.name,
                "" if line.place is None else str(line.shape),
                "" if line.place is None else f"{line.parameters:,}",
                "" if line.place is None else f"{line.flops:,}",
            )
            for line in self.layers
        ]
        again, steps = self.plan.recomputed_steps, self.plan.schedule.longest.steps
        repeated = f", {again:,} of {steps:,} steps run again" if again else ""
        return "\n".join(
            [
                table(("", "layer", "output", "parameters", "flops forward"), rows),
                f"{self.parameters:,} parameters, {self.dtype}",
                f"an update: {self.flops:,} flops, {self.plan.bytes / 1e6:,.1f} MB{repeated}",
                f"time without the optimizer: {self.seconds:.3g} s, from calls of "
                f"{self.timed_steps:,} steps on this machine",
            ]
        )


def summary(
    net: Stack,
    *,
    steps: int,
    batch: int = 1,
    dtype: DTypeLike = "float32",
    memory: int | str | None = None,
    threads: int | None = None,
    tokens: bool | None = None,
) -> Summary:
    """A table of the layers of a net for inputs of T = steps and B = batch; print it.

    It tells shapes, parameters and operations of each layer, and for one update (value_and_grad)
    the operations, the bytes of its plan and the time. The time is measured: gradients for random
    inputs of at most 4,096 steps, then multiplied, with what the plan repeats.
    memory, threads: as in value_and_grad. tokens: whether x holds integer tokens; the default is
    whether the net has an Embedding.
    Raises MemoryBudgetError naming the smallest budget if `memory` is too small.
    """
    if not isinstance(net, Stack):
        raise DTypeError(f"net must be a gradcore.Stack; got {type(net).__name__}.")
    steps, batch = positive_int("steps", steps), positive_int("batch", batch)
    kind = float_dtype("dtype", dtype)
    made = plan(
        net,
        steps,
        batch,
        dtype=kind,
        loss=_loss(net, "mse"),
        memory=memory,
        threads=threads,
        tokens=tokens,
    )
    integer = net.embedding is not None if tokens is None else tokens
    lines = _lines(net, steps, batch, integer)
    forward = sum(line.flops for line in lines)
    repeated = made.recomputed_steps / made.schedule.longest.steps
    short = _timed_steps(net, steps, forward / steps)
    ahead, whole = _times(net, kind, short, batch, integer, threads)
    return Summary(
        kind.name,
        lines,
        net.n_parameters,
        round(forward * (3 + repeated)),
        made,
        short,
        (whole + repeated * ahead) * steps / short,
    )


def _lines(net: Stack, steps: int, batch: int, tokens: bool) -> tuple[LayerSummary, ...]:
    bare = tokens and net.embedding is None
    made = []
    for place, text in layer_lines(net.layers, net.residuals):
        if place is None:
            made.append(LayerSummary(text, None, (), 0, 0))
            continue
        after = (net.steps_at(place + 1, steps), batch)
        rows = after[1:] if net.is_pooled(place) else after
        shape = (*rows, net.widths[place + 1])
        flops = prod(rows) * _products(net.layers[place], bare and place == 0)
        made.append(LayerSummary(text, place, shape, net.sizes[place], flops))
    return tuple(made)


def _products(layer: Layer, tokens: bool) -> int:
    """Operations of a layer's matrix products, for one row; tokens take a column instead."""
    if isinstance(layer, (Linear, Heads, Dense)):
        return 2 * layer.in_features * layer.out_features
    if isinstance(layer, Conv1d):
        taps = layer.kernel_size * layer.out_channels
        return taps if tokens else 2 * taps * (layer.in_channels // layer.groups)
    if not isinstance(layer, Recurrent):
        return 0
    rows = len(layer.cell.gates) * layer.hidden_size * len(layer.directions)
    return 2 * rows * (layer.head_size + (0 if tokens else layer.input_size))


def _timed_steps(net: Stack, steps: int, flops: float) -> int:
    """flops: those of one step forward."""
    timed = min(steps, MOST_STEPS, max(LEAST_STEPS, int(TIMED_FLOPS / max(1.0, flops))))
    while net.output_steps(timed) < 1:  # shorter than a window
        timed = min(steps, 2 * timed)
    return timed


def _times(
    net: Stack, dtype: np.dtype[Any], steps: int, batch: int, tokens: bool, threads: int | None
) -> tuple[float, float]:
    """Seconds of a forward pass, and of one with its backward pass; the better of two runs each."""
    rng = np.random.default_rng(0)
    params = net.init(seed=0, dtype=dtype)
    x: NDArray[Any] = (
        rng.integers(net.vocabulary, size=(steps, batch))
        if tokens
        else rng.standard_normal((steps, batch, net.input_size)).astype(dtype)
    )
    shape = (*net.positions(net.output_steps(steps), batch), net.output_size)
    slope = net.named(rng.standard_normal(shape).astype(dtype))
    how: dict[str, Any] = {"memory": "full", "threads": threads}
    if net.static_size is not None:
        how["static"] = np.zeros((batch, net.static_size), dtype)

    def forward() -> None:
        value(net, params, x, slope, loss=_loss(net, "mse"), **how)

    def both() -> None:
        seed = 0 if net.is_random else None
        loss = _loss(net, Given())
        value_and_grad(net, params, x, slope, loss=loss, train=net.is_random, seed=seed, **how)

    return _best(forward), _best(both)


def _loss(net: Stack, loss: str | Loss) -> AnyLoss:
    """A loss for all outputs of a net: for each head where it has several."""
    return loss if net.heads is None else dict.fromkeys(net.heads.columns, loss)


def _best(call: Any) -> float:
    call()  # The first run touches new memory.
    times = []
    for _ in range(2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
