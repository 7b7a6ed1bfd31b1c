"""The loss over all data as a function of one vector, with its gradient and curvature products."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._base.memory import empty
from .._engine.calls import WeightedLoss, value_and_grad, weighted_value
from .._net.stack import Grads, Params, Stack
from ..data import Batch, Source
from ..errors import ArgumentError, DTypeError, NonFiniteError
from ..jacobian import gauss_newton_product, hvp
from ..loss import Heads, Loss, LossFunction

__all__ = ["Curvature", "FullBatch", "Vector", "batches_of"]

Vector = NDArray[np.float64]
Curvature = Literal["hessian", "gauss_newton"]


def batches_of(data: object) -> tuple[Batch, ...]:
    """All batches of one pass over a source, of a list, or the one batch that is given.

    Raises DTypeError for anything else, and ArgumentError for batches whose state depends on
    others, because the gradient would not be that of the whole loss.
    """
    if isinstance(data, Batch):
        data = [data]
    if isinstance(data, Source):
        batches: Iterable[Any] = [data.batch(0, index) for index in range(len(data))]
    elif isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        batches = data
    else:
        raise DTypeError(
            "data must be a gradcore.Batch, a list of them, or a source of gradcore.data; got "
            f"{type(data).__name__}."
        )
    made = tuple(batches)
    if not made:
        raise ArgumentError("data must have at least one batch.")
    for place, batch in enumerate(made):
        if not isinstance(batch, Batch):
            raise DTypeError(f"data[{place}] must be a gradcore.Batch; got {type(batch).__name__}.")
        if batch.continues or batch.keep is not None:
            raise ArgumentError(
                f"batch {place} carries its state to or from another one, so its gradient is not "
                "that of the whole loss. Give whole sequences, such as gradcore.data.Sequences "
                "does; the memory budget bounds what they need."
            )
    return made


@dataclass(frozen=True, eq=False)
class FullBatch:
    """The mean (or sum) of the loss over batches, at vectors of float64.

    params: its buffer is not read or written by the methods. Gradients and products of batches are
    weighted by the weights of their loss terms, so that they are those of one large batch.
    """

    net: Stack
    params: Params
    batches: tuple[Batch, ...]
    loss: Loss | LossFunction
    memory: int | str | None
    threads: int | None

    def value_and_grad(self, x: Vector) -> tuple[float, Vector]:
        """The loss and its gradient; raises NonFiniteError as gradcore.value_and_grad does."""
        total, gradient = 0.0, np.zeros_like(x)
        for batch, (loss, share) in zip(self.batches, self.shares, strict=True):
            result = value_and_grad(
                self.net,
                self._at(x),
                loss=loss,
                train=False,
                out=self._out,
                **self._how(batch),
            )
            total += share * result.loss
            with np.errstate(over="ignore"):
                gradient += share * np.ldexp(self._out.flat.astype(np.float64), self._out.exponent)
        if not np.isfinite(gradient).all():
            raise NonFiniteError("the gradient of the loss is beyond the range of float64.")
        return total, gradient

    def product(self, x: Vector, v: Vector, curvature: Curvature) -> Vector:
        """The Hessian or the Gauss-Newton matrix at x times v."""
        size = float(np.abs(v).max())
        if size == 0.0:
            return np.zeros_like(v)
        # A direction may be far too small for float32.
        direction = (v / size)[None].astype(self.params.dtype)
        call = hvp if curvature == "hessian" else gauss_newton_product
        made = np.zeros_like(x)
        for batch, (loss, share) in zip(self.batches, self.shares, strict=True):
            assert isinstance(loss, Loss)
            how = self._how(batch)
            result = call(self.net, self._at(x), v=direction, loss=loss, **how)
            made += share * size * result.product[0].astype(np.float64)
        return made

    def point(self, x: Vector) -> NDArray[Any]:
        """x in the dtype of the parameters."""
        return x.astype(self.params.dtype)

    @cached_property
    def shares(self) -> tuple[tuple[Loss | LossFunction, float], ...]:
        """The loss of every batch, and the factor of it in the whole.

        Each mean over a head has a divisor of its own, so the weights of heads differ by batch.
        Raises ArgumentError if no loss term counts.
        """
        if isinstance(self.loss, Loss) and self.loss.reduction == "sum":
            return ((self.loss, 1.0),) * len(self.batches)
        if not isinstance(self.loss, Loss) or not self.loss._counts:
            return ((self.loss, 1.0 / len(self.batches)),) * len(self.batches)
        found = [
            weighted_value(self.net, self.params, loss=self.loss, **self._how(batch))
            for batch in self.batches
        ]
        total = sum(one.weight for one in found)
        if not total:
            raise ArgumentError("data must have loss terms with a weight other than 0.")
        if isinstance(self.loss, Heads):
            return tuple((self._of_heads(self.loss, one, found), 1.0) for one in found)
        return tuple((self.loss, one.weight / total) for one in found)

    def _of_heads(self, loss: Heads, one: WeightedLoss, found: Sequence[WeightedLoss]) -> Heads:
        """The losses of one batch, each with its share of the terms of all batches."""
        weights = dict.fromkeys(loss.weights, 0.0)
        for name, own, scale in loss.entries:
            if one.heads is None or name not in one.heads:
                continue
            total = sum(each.heads[name][1] for each in found if each.heads and name in each.heads)
            weights[name] = scale
            if own.reduction != "sum":
                weights[name] *= one.heads[name][1] / total if total else 0.0
        return loss.reweighted(weights)

    def _how(self, batch: Batch) -> dict[str, Any]:
        return {
            "x": batch.x,
            "y": batch.y,
            "weight": batch.weight,
            "lengths": batch.lengths,
            "reset": batch.reset,
            "state": batch.state,
            "static": batch.static,
            "memory": self.memory,
            "threads": self.threads,
        }

    @cached_property
    def _trial(self) -> Params:
        return self.params.copy()

    @cached_property
    def _out(self) -> Grads:
        return Grads(self.net, empty((self.net.n_parameters,), self.params.dtype))

    def _at(self, x: Vector) -> Params:
        np.copyto(self._trial.flat, x, casting="same_kind")
        return self._trial
