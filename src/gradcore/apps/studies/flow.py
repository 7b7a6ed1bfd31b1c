"""Training as integration: gradient descent is Euler's method on the gradient flow.

It makes four measurements: the largest stable curvature of each optimizer, by a formula and by
making steps; convergence in the sense of Lax and Richtmyer, which follows from consistency and
stability and is lost without stability; a net trained at a fixed rate that gets sharper until its
steps are at the limit; and a rate that rises until the loss explodes, with a monitor that warns
before that or limits the rate.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._base.checks import integer
from ..._base.output import write_figure
from ..._engine.calls import apply, value_and_grad
from ..._net.cells import RNN
from ..._net.layers import Linear
from ..._net.stack import Grads, Params, Stack
from ..._training.trainer import Trainer
from ...data import Batch
from ...errors import NonFiniteError
from ...optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from ...schedule import Schedule
from ...stability import StabilityMonitor, flow
from . import Progress, plain

__all__ = ["FlowStudy", "Limit", "run"]

Array = NDArray[np.float64]

STEPS, BATCH, INPUTS, HIDDEN = 20, 8, 2, 12
RATE = 0.1
SHARPENING, RISING = 400, 60
# The length of the flow and the steps are in units of 2 / sharpness.
FLOW_LENGTH = 8.0
FLOW_STEPS = (1.3, 1.1, 0.9, 0.5, 0.25, 0.125, 1 / 16, 1 / 32, 1 / 64)


@dataclass(frozen=True)
class Limit:
    """The largest stable curvature of an optimizer, by the formula and found by making steps."""

    name: str
    rule: float
    found: float


@dataclass(frozen=True, eq=False)
class FlowStudy:
    """The result of run.

    steps (n,): step sizes of Euler's method in units of 2/sharpness. local (n,): the distance from
    the gradient flow after one step. whole (n,): the distance after the same length of flow, NaN if
    the loss left the range of numbers. order: the order of convergence of whole, for steps of 1/4
    and less. ratios: the sharpness divided by its limit, every `every` updates of a training at a
    fixed rate; losses: its losses. rising, held: losses of a training whose rate rises by a tenth
    per update, unlimited and limited by the monitor. warned: the update before which the monitor
    warned. exploded: the update at which the loss had doubled.
    """

    seed: int
    limits: tuple[Limit, ...]
    steps: Array
    local: Array
    whole: Array
    order: float
    every: int
    ratios: Array
    losses: Array
    rising: Array
    held: Array
    warned: int | None
    exploded: int | None

    def lines(self) -> list[str]:
        """The numbers as tables for a terminal."""
        width = max(len(limit.name) for limit in self.limits)
        lines = [
            "largest stable curvature at lr = 1",
            f"{'':{width}}  {'rule':>10}  {'stepped':>10}",
        ]
        for limit in self.limits:
            lines.append(f"{limit.name:{width}}  {limit.rule:10.5f}  {limit.found:10.5f}")
        lines += [
            "",
            f"gradient descent over {FLOW_LENGTH:g} units of flow, against the flow itself",
            f"{'lr * sharpness / 2':>18}  {'one step off by':>15}  {'at the end':>10}",
        ]
        for step, local, whole in zip(self.steps, self.local, self.whole, strict=True):
            shown = f"{whole:10.2e}" if np.isfinite(whole) else "  diverged"
            lines.append(f"{step:18.4f}  {local:15.2e}  {shown}")
        first, last = self.ratios[0], float(np.median(self.ratios[len(self.ratios) // 4 :]))
        told = "no warning" if self.warned is None else f"warned before update {self.warned}"
        worse = "did not explode" if self.exploded is None else f"doubled at {self.exploded}"
        return [
            *lines,
            f"order of convergence, steps of a quarter of the limit and less: {self.order:.2f}",
            "",
            f"training at lr = {RATE:g}: sharpness {first:.2f} of its limit at first, "
            f"{last:.2f} later (median); loss {self.losses[0]:.3f} to {self.losses[-1]:.3f}",
            f"a rate that rises by a tenth per update: {told}, the loss {worse}; "
            f"held, it ends at {self.held[-1]:.3f}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """All numbers as JSON values; NaN becomes None."""
        return {
            "study": "flow",
            "seed": self.seed,
            "limits": [vars(limit) for limit in self.limits],
            "lax": {
                "steps": plain(self.steps),
                "local_error": plain(self.local),
                "error": plain(self.whole),
                "order": self.order,
            },
            "sharpening": {
                "every": self.every,
                "ratio": plain(self.ratios),
                "loss": plain(self.losses),
            },
            "rising": {
                "loss": plain(self.rising),
                "held_loss": plain(self.held),
                "warned": self.warned,
                "exploded": self.exploded,
            },
        }

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draws stability regions, convergence, sharpening and the rising rate."""
        from matplotlib.figure import Figure

        from ...stability._regions import outline_regions

        figure = Figure(figsize=(11.5, 8.4), layout="constrained")
        ((region, lax), (sharp, rise)) = figure.subplots(2, 2)
        outline_regions(region, 0.9)
        lax.loglog(self.steps, self.local, "s-", markersize=4, label="one step: consistency")
        lax.loglog(self.steps, self.whole, "o-", markersize=4, label="at the end: convergence")
        anchor = self.whole[-1] / self.steps[-1]
        lax.loglog(self.steps, anchor * self.steps, "k:", linewidth=1, label="order 1")
        lax.axvspan(1.0, 1.6, color="C3", alpha=0.12, label="unstable")
        lax.set_xlim(right=1.6)
        lax.set(title="Lax: a consistent method converges where it is stable")
        lax.set(xlabel="lr * sharpness / 2", ylabel="distance from the gradient flow")
        at = self.every * np.arange(len(self.ratios))
        sharp.plot(at, self.ratios, "o-", markersize=3, label="sharpness * lr / 2")
        sharp.axhline(1.0, color="C3", linewidth=1, label="limit")
        sharp.set_ylim(0.0, max(2.0, 1.05 * float(self.ratios.max())))
        sharp.set(title=f"Progressive sharpening at lr = {RATE:g}", xlabel="update")
        sharp.set_ylabel("sharpness against the limit")
        beside = sharp.twinx()
        beside.plot(np.arange(len(self.losses)), self.losses, color="0.6", linewidth=1)
        beside.set_ylabel("loss (grey)")
        rise.semilogy(self.rising, label="as given")
        rise.semilogy(self.held, label="lr='stable'")
        if self.warned is not None:
            rise.axvline(self.warned, color="C3", linestyle="--", label="the monitor warns")
        rise.set(title="A rate that rises by a tenth per update", xlabel="update", ylabel="loss")
        for axis in (lax, sharp, rise):
            axis.legend(frameon=False, fontsize="small")
        for axis in (region, lax, sharp, rise):
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        write_figure(path, figure, dpi=130)


def run(
    *,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = lambda what, part: None,
) -> FlowStudy:
    """Makes all four measurements on a small RNN that learns running sums of its inputs."""
    seed = integer("seed", seed)
    progress("limits", 0.0)
    limits = tuple(_limit(name, make) for name, make in OPTIMIZERS)
    progress("gradient flow", 0.3)
    steps, local, whole, order = _lax(seed, threads)
    progress("sharpening", 0.6)
    ratios, losses = _sharpening(seed, threads)
    progress("a rising rate", 0.8)
    rising, warned = _rising(seed, StabilityMonitor(1), threads)
    held, _ = _rising(seed, StabilityMonitor(1, lr="stable"), threads)
    progress("done", 1.0)
    least = np.minimum.accumulate(rising)
    worse = np.flatnonzero(rising > 2 * least)
    return FlowStudy(
        seed,
        limits,
        steps,
        local,
        whole,
        order,
        EVERY,
        ratios,
        losses,
        rising,
        held,
        warned,
        int(worse[0]) + 1 if len(worse) else None,
    )


# ---- limits

SETTLED = 1 - 1e-12  # a beta2 with which second moments stay constant

OPTIMIZERS: Sequence[tuple[str, Callable[[Params], Optimizer]]] = (
    ("gradient descent", lambda p: SGD(p, 1.0)),
    ("momentum 0.9", lambda p: SGD(p, 1.0, momentum=0.9)),
    ("Nesterov 0.9", lambda p: SGD(p, 1.0, momentum=0.9, nesterov=True)),
    ("RMSprop", lambda p: RMSprop(p, 1.0, alpha=SETTLED)),
    ("Adagrad", lambda p: Adagrad(p, 1.0)),
    ("Adam, beta1 0.9", lambda p: Adam(p, 1.0, betas=(0.9, SETTLED))),
    ("AdamW, decay 0.1", lambda p: AdamW(p, 1.0, betas=(0.9, SETTLED), weight_decay=0.1)),
)


def _limit(name: str, make: Callable[[Params], Optimizer]) -> Limit:
    """Bisects the curvature c of 0.5 c p^2 by whether p grows when the optimizer makes steps."""

    def grows(curvature: float) -> bool:
        optimizer = _settled(make)
        scale, flat = flow.curvature_scale(optimizer)[0], optimizer.params.flat
        flat[...] = 0.0
        flat[0] = 1e-150  # so small that its gradient does not change second moments
        sizes = []
        for _ in range(400):
            optimizer.step(Grads(optimizer.params.net, flat * curvature / scale))
            sizes.append(abs(float(flat[0])))
        return max(sizes[300:]) > max(sizes[150:250])

    rule = flow.curvature_limit(_settled(make))
    low, high = 0.5 * rule, 2.0 * rule
    while high - low > 1e-6 * rule:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if grows(middle) else (middle, high)
    return Limit(name, rule, low)


def _settled(make: Callable[[Params], Optimizer]) -> Optimizer:
    net = Stack(RNN(1, 1, nonlinearity="identity", bias=False))
    optimizer = make(net.init(seed=0, dtype="float64"))
    if "second_moment" in optimizer.moments:
        optimizer.moments["second_moment"][...] = 0.25
        optimizer.steps = 10**9
    return optimizer


# ---- a net


def _problem(seed: int, dtype: str) -> tuple[Stack, Params, Batch]:
    """A tanh RNN that learns running sums of its inputs, divided by the root of their number."""
    rng = np.random.default_rng(seed)
    net = Stack(RNN(INPUTS, HIDDEN), Linear(HIDDEN, INPUTS))
    x = rng.standard_normal((STEPS, BATCH, INPUTS)).astype(dtype)
    y = (np.cumsum(x, axis=0) / np.sqrt(np.arange(1, STEPS + 1))[:, None, None]).astype(dtype)
    return net, net.init(seed=seed, dtype=dtype), Batch(x, y)


# ---- Lax


def _lax(seed: int, threads: int | None) -> tuple[Array, Array, Array, float]:
    """Compares Euler steps with the flow p' = -grad L(p), computed by Runge-Kutta 4 in tiny steps.

    The targets are the outputs of a teacher, and the student starts close to it, where the
    curvature hardly changes and a step that is stable once remains stable.
    """
    net, params, batch = _problem(seed, "float64")
    target = apply(net, params, batch.x, threads=threads)[0]
    teacher = params.flat.copy()
    top = flow.sharpness(net, params, batch.x, target, loss="mse", tol=1e-6, threads=threads)
    unit = 2.0 / float(top.values[0])
    rng = np.random.default_rng(seed)
    start = teacher + 1e-3 * rng.standard_normal(len(teacher))

    def slope(flat: Array) -> Array:
        params.flat[...] = flat
        result = value_and_grad(net, params, batch.x, target, loss="mse", threads=threads)
        assert result.grads is not None
        return -result.grads.flat * 2.0**result.grads.exponent

    def flowed(flat: Array, length: float, count: int) -> Array:
        h = length / count
        for _ in range(count):
            k1 = slope(flat)
            k2 = slope(flat + h / 2 * k1)
            k3 = slope(flat + h / 2 * k2)
            flat = flat + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(flat + h * k3))
        return flat

    scale = float(np.linalg.norm(start - teacher))
    end = flowed(start, FLOW_LENGTH * unit, 400)
    steps = np.array(FLOW_STEPS)
    local, whole = np.empty(len(steps)), np.empty(len(steps))
    for i, step in enumerate(steps):
        local[i] = np.linalg.norm(
            start + step * unit * slope(start) - flowed(start, step * unit, 40)
        )
        now, count = start.copy(), round(FLOW_LENGTH / step)
        try:
            for _ in range(count):
                now = now + FLOW_LENGTH / count * unit * slope(now)
            whole[i] = np.linalg.norm(now - end)
        except NonFiniteError:
            whole[i] = np.nan
    small = steps <= 0.25
    order = np.polyfit(np.log(steps[small]), np.log(whole[small]), 1)[0]
    return steps, local / scale, whole / scale, float(order)


# ---- trainings

EVERY = 10


def _sharpening(seed: int, threads: int | None) -> tuple[Array, Array]:
    net, params, batch = _problem(seed, "float32")
    report = Trainer(
        net,
        params,
        SGD(params, RATE),
        loss="mse",
        stability=StabilityMonitor(EVERY),
        threads=threads,
        quiet=True,
    ).fit([batch] * SHARPENING)
    ratios = [line["stability_ratio"] for line in report.watched]
    return np.array(ratios, float), np.array(report.losses)


class _Rising(Schedule):
    """A schedule that raises the rate by a tenth per update."""

    kind = "rising"

    def _factor(self, step: int) -> float:
        return float(1.1**step)


def _rising(seed: int, monitor: StabilityMonitor, threads: int | None) -> tuple[Array, int | None]:
    """The losses, and the update before which steps were first measured as unstable."""
    net, params, batch = _problem(seed, "float32")
    trainer = Trainer(
        net,
        params,
        SGD(params, 0.02),
        loss="mse",
        schedule=_Rising(),
        stability=monitor,
        threads=threads,
        quiet=True,
    )
    losses: list[float] = []
    warned: int | None = None
    try:
        for step in range(1, RISING + 1):
            report = trainer.fit([batch], steps=1)
            losses += report.losses
            for line in report.watched:
                if warned is None and (line["stability_ratio"] or 0.0) > 1.0:
                    warned = step
    except NonFiniteError:
        pass  # the loss has exploded
    return np.array(losses), warned
