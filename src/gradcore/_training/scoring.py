"""The score of parameters: the loss on validation data, or the result of a user's function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .._base.checks import finite_float
from .._engine.calls import WeightedLoss, weighted_value
from .._net.stack import Params
from ..data import Batch, Source
from ..errors import ArgumentError, DTypeError
from ..loss import Heads, Loss
from .updates import Carried, Evaluating, start_state, state_after

__all__ = ["Score", "Scored", "scorer"]

Validation = Source | Sequence[Batch]


class Scored(NamedTuple):
    """A score, and the loss of each of several heads from which it was made."""

    value: float
    heads: dict[str, float] | None = None


Score = Callable[[Params], Scored]


def scorer(
    how: Evaluating, validation: Validation | None, evaluate: Callable[[Params], object] | None
) -> Score | None:
    """The function that computes the score; None if neither validation nor evaluate is given.

    Raises ArgumentError if both are given, or for a loss that cannot be computed batch by batch.
    """
    if evaluate is not None:
        if validation is not None:
            raise ArgumentError(
                "validation and evaluate must not both be given, because there is only one score."
            )
        given = evaluate
        return lambda params: Scored(finite_float("the score of evaluate", given(params)))
    if validation is None:
        return None
    if not isinstance(how.loss, Loss):
        raise ArgumentError(
            "validation needs a loss of gradcore.loss, because a Python loss function has only the "
            "targets of the training data. Pass evaluate, a function of params, instead."
        )
    if not isinstance(validation, (Source, Sequence)):
        raise DTypeError(
            "validation must be a source of gradcore.data or a list of gradcore.Batch; got "
            f"{type(validation).__name__}."
        )
    data = validation
    return lambda params: _loss(how, data, params)


def _loss(how: Evaluating, validation: Validation, params: Params) -> Scored:
    assert isinstance(how.loss, Loss)
    mean = _Mean(how.loss)
    carried: Carried = None
    for batch in _batches(validation):
        start = start_state(how.net, batch, carried)
        found = weighted_value(
            how.net,
            params,
            batch.x,
            batch.y,
            loss=how.loss,
            lengths=batch.lengths,
            weight=batch.weight,
            reset=batch.reset,
            state=start,
            static=batch.static,
            memory=how.memory,
            threads=how.threads,
        )
        mean.add(found)
        carried = state_after(how, params, batch, start, carried, {})
    return mean.score()


class _Mean:
    """The loss of all batches together; of several heads each by itself, and their sum."""

    def __init__(self, loss: Loss) -> None:
        entries = loss.entries if isinstance(loss, Heads) else (("", loss, 1.0),)
        self._scales = {name: scale for name, _, scale in entries}
        self._sums = {name for name, own, _ in entries if own.reduction == "sum"}
        self._heads = isinstance(loss, Heads)
        self._totals = dict.fromkeys(self._scales, 0.0)
        self._weights = dict.fromkeys(self._scales, 0.0)

    def add(self, found: WeightedLoss) -> None:
        pairs = {"": (found.loss, found.weight)} if found.heads is None else found.heads
        for name, (loss, weight) in pairs.items():
            self._totals[name] += loss if name in self._sums else loss * weight
            self._weights[name] += weight

    def score(self) -> Scored:
        losses = {
            name: total if name in self._sums else total / self._weights[name]
            for name, total in self._totals.items()
            if self._weights[name] != 0.0
        }
        if not losses:
            raise ArgumentError("validation must have loss terms with a weight other than 0.")
        if not self._heads:
            return Scored(losses[""])
        return Scored(sum(self._scales[name] * loss for name, loss in losses.items()), losses)


def _batches(validation: Validation) -> Iterator[Batch]:
    """The batches of the first pass of a source, or those of a list."""
    if isinstance(validation, Source):
        yield from (validation.batch(0, index) for index in range(len(validation)))
        return
    for batch in validation:
        if not isinstance(batch, Batch):
            raise DTypeError(f"validation must hold gradcore.Batch; got {type(batch).__name__}.")
        yield batch
