"""One update: gradients of one or more batches, the state carried between them, and the step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .._engine.calls import apply, value_and_grad
from .._net.stack import Grads, Params, Stack
from .._net.state import LayerState
from ..data import Batch
from ..errors import ArgumentError, DTypeError
from ..loss import Loss, LossFunction
from ..optim import Accumulator, Average, Optimizer, StepReport
from ..schedule import Schedule
from ..stability import StabilityMonitor

__all__ = ["Carried", "Evaluating", "Gathered", "Updater", "start_state", "state_after"]

Carried = tuple[LayerState, ...] | None


class Evaluating(Protocol):
    """What is needed to evaluate parameters on batches; see Trainer for the fields."""

    @property
    def net(self) -> Stack: ...

    @property
    def loss(self) -> Loss | LossFunction: ...

    @property
    def memory(self) -> int | str | None: ...

    @property
    def threads(self) -> int | None: ...


@dataclass(frozen=True, eq=False)
class Gathered:
    """Loss and gradient of the batches of one update; grads is None if the data have ended.

    last: the last batch that counted, with its initial state. losses: those of several heads. The
    next update overwrites the arrays of grads.
    """

    loss: float
    grads: Grads | None
    carried: Carried
    last: tuple[Batch, Carried] | None
    losses: dict[str, float] | None


@dataclass(frozen=True, eq=False)
class Updater:
    """The parts of a training, which make updates; see Trainer for the fields."""

    net: Stack
    params: Params
    optimizer: Optimizer
    loss: Loss | LossFunction
    schedule: Schedule | None
    average: Average | None
    accumulate: int
    seed: int
    memory: int | str | None
    threads: int | None
    stability: StabilityMonitor | None
    workspace: _Workspace = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "workspace", _Workspace(self.params))

    @property
    def averaged(self) -> Params:
        """The parameters that are evaluated: the average if there is one."""
        return self.params if self.average is None else self.average.params

    def gather(
        self,
        take: Callable[[], Batch | None],
        carried: Carried,
        begun: Callable[[Batch, Carried], None],
    ) -> Gathered:
        """Takes batches until `accumulate` of them count, and averages their gradients.

        It does not change parameters. begun(batch, state) is called before the pass of each batch
        with the batch and its initial state.
        """
        total = isinstance(self.loss, Loss) and self.loss.reduction == "sum"
        mean = _Mean(self.workspace, total)
        last: tuple[Batch, Carried] | None = None
        while mean.count < self.accumulate:
            batch = take()
            if batch is None:
                break
            if not isinstance(batch, Batch):
                raise DTypeError(f"data must yield gradcore.Batch; got {type(batch).__name__}.")
            start, count = start_state(self.net, batch, carried), mean.count
            begun(batch, start)
            carried = self._add(batch, start, carried, mean)
            if mean.count > count:
                last = batch, start
        return Gathered(mean.loss(), mean.take(), carried, last, mean.heads())

    def step(self, grads: Grads) -> tuple[StepReport, float]:
        """Updates parameters and average; returns the report and the learning rate of the step."""
        optimizer, schedule = self.optimizer, self.schedule
        factor = 1.0 if schedule is None else schedule.factor(optimizer.steps)
        if self.stability is not None and optimizer.lr > 0:
            factor = min(factor, self.stability.most() / optimizer.lr)
        report = optimizer.step(grads, lr_factor=factor, threads=self.threads)
        if self.average is not None:
            self.average.update()
        return report, optimizer.lr * factor

    def monitored(self, batch: Batch, start: Carried) -> tuple[dict[str, Any], str | None]:
        """Lets the monitor measure if it is due; returns entries for the line, and a message."""
        optimizer, schedule = self.optimizer, self.schedule
        if self.stability is None or not self.stability.due(optimizer):
            return {}, None
        assert isinstance(self.loss, Loss)
        return self.stability.look(
            self.net,
            optimizer,
            self.loss,
            batch,
            start,
            rate=optimizer.lr * (1.0 if schedule is None else schedule.factor(optimizer.steps)),
            accumulate=self.accumulate,
            memory=self.memory,
            threads=self.threads,
        )

    def _add(self, batch: Batch, start: Carried, carried: Carried, mean: _Mean) -> Carried:
        """Adds the gradient of a batch to the mean; returns the state for the next batch."""
        random = self._random(mean.count)
        result = value_and_grad(
            self.net,
            self.params,
            batch.x,
            batch.y,
            loss=self.loss,
            lengths=batch.lengths,
            weight=batch.weight,
            reset=batch.reset,
            state=start,
            static=batch.static,
            memory=self.memory,
            threads=self.threads,
            out=self.workspace.grads(mean.count),
            **random,
        )
        assert result.grads is not None
        # A single batch without weights makes an update even if all its targets are ignored.
        alone = self.accumulate == 1 and batch.weight is None
        known = isinstance(self.loss, Loss) and self.loss._counts
        weight = result.loss_weight if known and not alone else 1.0
        if weight != 0.0:
            mean.add(result.loss, result.grads, weight, result.losses)
        if batch.keep == len(batch.x):
            return result.state
        return state_after(self, self.params, batch, start, carried, random)

    def _random(self, place: int) -> dict[str, Any]:
        """The seed of random masks, which differs for every batch of every update."""
        if not getattr(self.net, "is_random", False):
            return {}
        return {
            "seed": (self.seed, self.optimizer.steps * self.accumulate + place),
            "train": True,
        }


def start_state(net: Stack, batch: Batch, carried: Carried) -> Carried:
    """The initial state of a batch; raises ArgumentError if it continues and nothing was kept."""
    both_ways = any(getattr(layer, "bidirectional", False) for layer in net.recurrent)
    if both_ways and (batch.continues or batch.keep is not None):
        raise ArgumentError(
            "the state of a bidirectional layer cannot be carried from one window to the next, "
            "because it depends on later steps as well. Train on whole sequences, such as "
            "gradcore.data.Sequences gives."
        )
    borders = getattr(net, "borders", ())  # a Model of gradcore.implicit has none
    if borders and (batch.continues or batch.keep is not None):
        first = borders[0]
        raise ArgumentError(
            f"layer {first} ({type(net.layers[first]).__name__}) reads several steps at a time, so "
            "that no state can be carried from one window to the next. Train on whole sequences, "
            "such as gradcore.data.Sequences gives."
        )
    if not batch.continues:
        return None if batch.state is None else tuple(batch.state)
    if batch.state is not None:
        raise ArgumentError("a batch must not have both a state and continues=True.")
    if carried is None:
        raise ArgumentError(
            "a batch with continues=True needs the state of an earlier batch, but no batch before "
            "it has kept one. Give the batch before it keep=T, or start with a batch that does not "
            "continue."
        )
    return carried


def state_after(
    how: Evaluating,
    params: Params,
    batch: Batch,
    start: Carried,
    carried: Carried,
    random: dict[str, Any],
) -> Carried:
    """The state that a batch keeps, by a forward pass over its first batch.keep steps."""
    steps = batch.keep
    if steps is None:
        return carried
    if not 0 <= steps <= len(batch.x):
        raise ArgumentError(
            f"keep must be in 0..T = 0..{len(batch.x)}, the steps of its batch; got {steps}."
        )
    if steps == 0:
        return start
    _, state = apply(
        how.net,
        params,
        batch.x[:steps],
        lengths=None if batch.lengths is None else np.minimum(batch.lengths, steps),
        reset=None if batch.reset is None else batch.reset[:steps],
        state=start,
        static=batch.static,
        memory=how.memory,
        threads=how.threads,
        **random,
    )
    return state


class _Workspace:
    """Arrays of the size of the parameters that are reused by every update.

    New arrays of 32 MB or more would be returned to the system after every update, and their pages
    would have to be mapped again.
    """

    def __init__(self, params: Params) -> None:
        self._params = params
        self._grads: list[Grads] = []
        self._sum: Accumulator | None = None

    def grads(self, batch: int) -> Grads:
        """The array for a batch's gradient; two alternate, so the last one stays available."""
        index = batch % 2
        while len(self._grads) <= index:
            self._grads.append(Grads(self._params.net, np.empty_like(self._params.flat)))
        return self._grads[index]

    def accumulator(self) -> Accumulator:
        """An empty accumulator."""
        if self._sum is None:
            self._sum = Accumulator(self._params)
        self._sum._clear()
        return self._sum


class _Mean:
    """The weighted mean (or the sum) of losses and gradients of several batches."""

    def __init__(self, workspace: _Workspace, total: bool) -> None:
        self._total, self._workspace = total, workspace
        self._losses: list[tuple[float, float]] = []
        self._heads: dict[str, float] = {}
        self._single: Grads | None = None
        self._sum: Accumulator | None = None

    @property
    def count(self) -> int:
        return len(self._losses)

    def add(self, loss: float, grads: Grads, weight: float, heads: dict[str, float] | None) -> None:
        weight = 1.0 if self._total else weight
        if self._losses and self._sum is None:
            self._sum = self._workspace.accumulator()
            assert self._single is not None
            self._sum.add(self._single, self._losses[0][1])
        if self._sum is None:
            # The gradient of a single batch, the usual case, is used unchanged.
            self._single = grads
        else:
            self._sum.add(grads, weight)
        self._losses.append((loss, weight))
        for name, own in (heads or {}).items():
            self._heads[name] = self._heads.get(name, 0.0) + own

    def heads(self) -> dict[str, float] | None:
        """The losses of several heads, which are sums if there are several batches."""
        return self._heads or None

    def loss(self) -> float:
        if self.count < 2:
            return self._losses[0][0] if self._losses else 0.0
        total = sum(loss * weight for loss, weight in self._losses)
        return total if self._total else total / sum(weight for _, weight in self._losses)

    def take(self) -> Grads | None:
        if self._sum is None:
            return self._single
        mean = self._workspace.grads(0)
        mean.written(self._sum._take_into(mean.flat))
        if self._total:
            np.multiply(mean.flat, self.count, out=mean.flat)
        return mean
