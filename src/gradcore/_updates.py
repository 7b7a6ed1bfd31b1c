"""One update: gradients of some batches with the state carried between them, and the step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._terms import total_weight
from .api import apply, value_and_grad
from .data import Batch
from .errors import ArgumentError, DTypeError
from .layers import Stack
from .loss import Loss, LossFunction
from .optim import Optimizer, StepReport
from .params import Grads, Params
from .state import LayerState, flatten

__all__ = ["Carried", "Gathered", "Updater", "start_state"]

Carried = tuple[LayerState, ...] | None


@dataclass(frozen=True, eq=False)
class Gathered:
    """Loss and gradient of the batches of one update. grads is None where the data ended."""

    loss: float
    grads: Grads | None
    carried: Carried


@dataclass(frozen=True, eq=False)
class Updater:
    """What is trained and how; see Trainer for the fields."""

    net: Stack
    params: Params
    optimizer: Optimizer
    loss: Loss | LossFunction
    schedule: Any
    average: Any
    accumulate: int
    seed: int
    memory: int | str | None
    threads: int | None

    @property
    def averaged(self) -> Params:
        """The parameters that are judged: the average, if there is one."""
        return self.params if self.average is None else self.average.params

    def gather(self, take: Callable[[], Batch | None], carried: Carried) -> Gathered:
        """Takes batches until `accumulate` of them count; changes nothing."""
        mean = _Mean(isinstance(self.loss, Loss) and self.loss.reduction == "sum")
        while mean.count < self.accumulate:
            batch = take()
            if batch is None:
                break
            if not isinstance(batch, Batch):
                raise DTypeError(f"data must yield gradcore.Batch; got {type(batch).__name__}.")
            carried = self._add(batch, carried, mean)
        return Gathered(mean.loss(), mean.take(), carried)

    def step(self, grads: Grads) -> tuple[StepReport, float]:
        """Updates parameters and average; returns the report and the rate that it was done with."""
        base = self.optimizer.lr
        factor = 1.0 if self.schedule is None else self.schedule.factor(self.optimizer.steps)
        self.optimizer.lr = base * factor
        try:
            rate = self.optimizer.lr
            report = self.optimizer.step(grads, threads=self.threads)
        finally:
            self.optimizer.lr = base
        if self.average is not None:
            self.average.update()
        return report, rate

    def _add(self, batch: Batch, carried: Carried, mean: _Mean) -> Carried:
        """Adds the gradient of a batch to the mean; returns the state for the next batch."""
        start = start_state(batch, carried)
        random = self._random(mean.count)
        # The sum costs a pass over the weights, and is 1 by far the most of the time.
        counts = self.accumulate > 1 or batch.weight is not None
        weight = total_weight(self.loss, batch) if counts else 1.0
        if weight == 0.0 and isinstance(self.loss, Loss):
            return self.state_after(self.params, batch, start, carried, random)
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
            memory=self.memory,
            threads=self.threads,
            **random,
        )
        assert result.grads is not None
        mean.add(result.loss, result.grads, weight)
        if batch.keep == len(batch.x):
            return result.state
        return self.state_after(self.params, batch, start, carried, random)

    def state_after(
        self,
        params: Params,
        batch: Batch,
        start: Carried,
        carried: Carried,
        random: dict[str, Any],
    ) -> Carried:
        """The state that a batch keeps, by a forward pass over these steps alone."""
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
            self.net,
            params,
            batch.x[:steps],
            lengths=None if batch.lengths is None else np.minimum(batch.lengths, steps),
            reset=None if batch.reset is None else batch.reset[:steps],
            state=start,
            memory=self.memory,
            threads=self.threads,
            **random,
        )
        return state

    def _random(self, place: int) -> dict[str, Any]:
        """Seed of the random layers: another one for every batch of every update."""
        if not getattr(self.net, "is_random", False):
            return {}
        return {
            "seed": (self.seed, self.optimizer.steps * self.accumulate + place),
            "train": True,
        }

    def flat_state(self, carried: Carried) -> dict[str, Any]:
        """A carried state as a state dictionary."""
        if carried is None:
            return {}
        batch = carried[0].h.shape[0]
        return {"batch": batch, "flat": flatten(self.net, batch, self.params.dtype, carried)}


def start_state(batch: Batch, carried: Carried) -> Carried:
    """Where a batch starts; raises ArgumentError if it continues and nothing was kept."""
    if not batch.continues:
        return None if batch.state is None else tuple(batch.state)
    if batch.state is not None:
        raise ArgumentError("a batch must not have both a state and continues=True.")
    if carried is None:
        raise ArgumentError(
            "a batch continues where an earlier one stopped, but no batch before it has kept its "
            "state. Give the batch before it keep=T, or begin with one that does not continue."
        )
    return carried


class _Mean:
    """The weighted mean (or the sum) of losses and gradients of some batches."""

    def __init__(self, total: bool) -> None:
        self.total = total
        self.count = 0
        self.losses: list[tuple[float, float]] = []
        self.grads: list[tuple[Grads, float]] = []

    def add(self, loss: float, grads: Grads, weight: float) -> None:
        self.count += 1
        self.losses.append((loss, weight))
        self.grads.append((grads, weight))

    def loss(self) -> float:
        if not self.losses:
            return 0.0
        if len(self.losses) == 1:
            return self.losses[0][0]
        if self.total:
            return sum(loss for loss, _ in self.losses)
        return sum(loss * w for loss, w in self.losses) / sum(w for _, w in self.losses)

    def take(self) -> Grads | None:
        if not self.grads:
            return None
        if len(self.grads) == 1:
            return self.grads[0][0]
        first = self.grads[0][0]
        exponent = max(grads.exponent for grads, _ in self.grads)
        total = 1.0 if self.total else sum(weight for _, weight in self.grads)
        flat = np.zeros(first.flat.shape)
        for grads, weight in self.grads:
            part = 1.0 if self.total else weight / total
            flat += np.ldexp(grads.flat.astype(np.float64), grads.exponent - exponent) * part
        return Grads(first.net, flat.astype(first.dtype), exponent)
