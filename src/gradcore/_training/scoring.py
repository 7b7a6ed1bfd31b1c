"""The score of parameters: the loss on validation data, or the result of a user's function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .._base.checks import finite_float
from .._engine.calls import weighted_value
from .._net.stack import Params
from ..data import Batch, Source
from ..errors import ArgumentError, DTypeError
from ..loss import Loss
from .updates import Carried, Evaluating, start_state, state_after

__all__ = ["Score", "scorer"]

Score = Callable[[Params], float]
Validation = Source | Sequence[Batch]


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
        return lambda params: finite_float("the score of evaluate", given(params))
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


def _loss(how: Evaluating, validation: Validation, params: Params) -> float:
    assert isinstance(how.loss, Loss)
    total = weights = 0.0
    carried: Carried = None
    for batch in _batches(validation):
        start = start_state(how.net, batch, carried)
        loss, weight = weighted_value(
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
        total += loss if how.loss.reduction == "sum" else loss * weight
        weights += weight
        carried = state_after(how, params, batch, start, carried, {})
    if weights == 0.0:
        raise ArgumentError("validation must have loss terms with a weight other than 0.")
    return total if how.loss.reduction == "sum" else total / weights


def _batches(validation: Validation) -> Iterator[Batch]:
    """The batches of the first pass of a source, or those of a list."""
    if isinstance(validation, Source):
        yield from (validation.batch(0, index) for index in range(len(validation)))
        return
    for batch in validation:
        if not isinstance(batch, Batch):
            raise DTypeError(f"validation must hold gradcore.Batch; got {type(batch).__name__}.")
        yield batch
