"""A loss with its targets, checked and converted to what the core takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._base.checks import choice
from .._net import validate
from .._net.named import joined
from .._net.stack import Stack
from ..errors import ArgumentError, DTypeError, NonFiniteError, ShapeError
from ..loss import (
    CTC,
    LOSSES,
    CrossEntropy,
    ErrorToSignal,
    Given,
    Heads,
    Loss,
    LossFunction,
    NashSutcliffe,
)
from .deviations import target_weights
from .whole import Whole
from .whole_function import as_number, check_finite, checked_gradient

__all__ = [
    "AnyLoss",
    "Head",
    "LossPart",
    "Objective",
    "check_pooled",
    "heads_of",
    "objective",
    "refuse_one_loss",
    "resolve",
]


AnyLoss = str | Loss | LossFunction | Mapping[str, str | Loss]


class LossPart(NamedTuple):
    """What the core knows of the loss of one head; begin, outputs: its columns."""

    name: str
    kind: str
    begin: int
    outputs: int
    scale: float
    last: bool
    total: bool
    settings: tuple[tuple[str, Any], ...]


class Places(NamedTuple):
    """Where outputs are: the axes in front of their last one, (T, B) or (B,); the lengths that
    count there; and what messages about T add.
    """

    lead: tuple[int, ...]
    batch: int
    lengths: NDArray[Any] | None
    note: str


class Head(NamedTuple):
    """The loss of one head with its targets; scale: its weight in the sum."""

    name: str
    columns: slice
    scale: float
    goal: Objective

    @property
    def part(self) -> LossPart:
        goal, begin = self.goal, self.columns.start
        return LossPart(
            f"head {self.name!r}",
            goal.kind,
            begin,
            self.columns.stop - begin,
            self.scale,
            goal.last,
            goal.total,
            goal.settings,
        )


@dataclass(frozen=True, eq=False)
class Objective:
    """A loss with its targets as the core takes them; copied: see validate.Inputs.

    heads: of a net with several heads those that have targets, in the order of their columns.
    """

    kind: str
    last: bool = False
    total: bool = False
    function: LossFunction | None = None
    arrays: dict[str, NDArray[Any] | None] = field(default_factory=dict)
    copied: int = 0
    settings: tuple[tuple[str, Any], ...] = ()
    per_position: int = 1
    sequences: float | None = None
    whole: Whole | None = None
    heads: tuple[Head, ...] = ()

    def terms(self, weight: float) -> float:
        """The sum of the weights of the positions, from the divisor of a mean in the core.

        A position with all its targets adds `per_position` times its weight to the divisor. Where
        `sequences` is known, what counts are sequences, and this is their number; `weight` is their
        number for a loss of the whole sequence.
        """
        return weight / self.per_position if self.sequences is None else self.sequences


def objective(
    loss: AnyLoss,
    net: Stack,
    dtype: np.dtype[Any],
    inputs: validate.Inputs,
    y: object,
    weight: object,
) -> Objective:
    """Checks loss, y and weight together, for checked inputs.

    Raises ArgumentError, ShapeError, DTypeError or NonFiniteError.
    """
    described = resolve(loss)
    if not isinstance(described, Loss):
        for name, value in (("y", y), ("weight", weight)):
            if value is not None:
                raise ArgumentError(
                    f"{name} must be None if loss is a function, which has its own targets and "
                    "weights."
                )
        function = _checked(described, net, dtype, inputs.batch, inputs.output_lengths)
        return Objective("callback", function=function)
    places = Places(
        net.positions(inputs.output_steps, inputs.batch),
        inputs.batch,
        inputs.output_lengths,
        validate.steps_of_outputs(net, inputs.steps),
    )
    if isinstance(described, Heads):
        return _of_heads(described, net, dtype, places, y, weight)
    refuse_one_loss(described, net)
    check_pooled(net, described)
    return _of_outputs(described, net.output_size, dtype, places, y, weight)


def refuse_one_loss(loss: Loss, net: Stack) -> None:
    """Raises ArgumentError for a loss of one array where the net has several heads."""
    if net.heads is not None:
        names = ", ".join(f"{name!r}: ..." for name in net.heads.columns)
        raise ArgumentError(
            f"loss must be a dict with a loss for each head, {{{names}}}, because the net ends "
            f"with Heads; got {type(loss).__name__}."
        )


def check_pooled(net: Stack, loss: Loss) -> None:
    """Raises ArgumentError for losses that need several steps, if the net has a Pool."""
    if net.pool is None:
        return
    name = type(loss).__name__
    if loss.step == "last":
        raise ArgumentError(
            f"{name} must not have step='last', because the net has a Pool and with it one output "
            "per sequence. Leave step out; gradcore.Pool('last', width) takes the last step."
        )
    if isinstance(loss, (CTC, ErrorToSignal, NashSutcliffe)):
        raise ArgumentError(
            f"{name} compares outputs and targets over all steps, and the net has a Pool, so that "
            "there is one output per sequence. Use a loss of single targets, such as 'mse'."
        )


def _of_outputs(
    described: Loss,
    outputs: int,
    dtype: np.dtype[Any],
    places: Places,
    y: object,
    weight: object,
) -> Objective:
    """A loss of so many outputs at all places."""
    if described.kind == "whole":
        if weight is not None:
            raise ArgumentError(
                f"weight must be None for {type(described).__name__}: its value is no sum over "
                "steps that weights could count in."
            )
        return Objective("given", whole=Whole(described, (*places.lead, outputs), dtype, y))
    if y is None:
        raise ArgumentError(f"y must be given for loss {described.kind!r}.")
    last = described.step == "last"
    positions = (places.batch,) if last else places.lead
    note = "" if last else places.note
    arrays = _targets(described, outputs, dtype, positions, y, note)
    total = described.reduction == "sum"
    weights = validate.weights(weight, positions, dtype, signed=total, note=note)
    if isinstance(described, Given):
        gradient = arrays[described.array]
        assert gradient is not None
        if weights is not None:
            gradient = arrays[described.array] = gradient * weights[..., None]
        check_finite(gradient, places.lengths)
    else:
        arrays["weight"] = weights
    sequences = None
    if isinstance(described, NashSutcliffe):
        target, ignore = arrays["target"], described.nan == "ignore"
        assert target is not None
        arrays["target_weight"], sequences = target_weights(
            target, weights, places.lengths, ignore_nan=ignore, mean=not total
        )
        total = True
    return Objective(
        described.kind,
        last,
        total,
        sequences=sequences,
        arrays=arrays,
        copied=validate.copied_bytes(arrays, (y, weight)),
        settings=described._settings(),
        per_position=described._terms(outputs),
    )


def heads_of(loss: Heads, net: Stack) -> list[tuple[str, slice, Loss, float]]:
    """Name, columns, loss and weight of each head, in the order of the columns.

    Raises ArgumentError unless the loss is one for each head of the net.
    """
    if net.heads is None:
        raise ArgumentError(
            "loss must not be one of several heads, because the net has one array of outputs. End "
            f"it with gradcore.Heads; it ends with {net.layers[-1]!r}."
        )
    named = {name: (own, weight) for name, own, weight in loss.entries}
    _check_names("loss", named, net)
    if missing := [name for name in net.heads.columns if name not in named]:
        raise ArgumentError(
            f"loss must have one for each head; that of {missing[0]!r} is missing. A weight of 0 "
            "leaves a head out: gradcore.loss.Heads(losses, weights=...)."
        )
    columns = sorted(net.heads.columns.items(), key=lambda pair: pair[1].start)
    return [(name, where, *named[name]) for name, where in columns]


def _of_heads(
    loss: Heads,
    net: Stack,
    dtype: np.dtype[Any],
    places: Places,
    y: object,
    weight: object,
) -> Objective:
    """The losses of all heads that have targets, each checked as a loss of its own."""
    listed = heads_of(loss, net)
    assert net.heads is not None
    if not isinstance(y, Mapping):
        raise DTypeError(
            f"y must be a dict with the targets of each head, {', '.join(net.heads.columns)}; got "
            f"{type(y).__name__}."
        )
    _check_names("y", y, net)
    if isinstance(weight, Mapping):
        _check_names("weight", weight, net)
    made = []
    for name, columns, own, scale in listed:
        if y.get(name) is None and scale == 0.0:
            continue
        given = weight.get(name) if isinstance(weight, Mapping) else weight
        size = columns.stop - columns.start
        try:
            check_pooled(net, own)
            goal = _of_outputs(own, size, dtype, places, y.get(name), given)
        except NonFiniteError as error:
            raise NonFiniteError(
                f"head {name!r}: {error}", error.layer, error.step, error.sequence
            ) from None
        except (ArgumentError, DTypeError, ShapeError) as error:
            raise type(error)(f"head {name!r}: {error}") from None
        made.append(Head(name, columns, scale, goal))
    if not made:
        raise ArgumentError("y must have the targets of a head, one or more.")
    arrays = _given_gradients(made, places.lead, net.output_size, dtype)
    return Objective(
        "parts",
        arrays=arrays,
        copied=sum(head.goal.copied for head in made) + validate.copied_bytes(arrays, ()),
        heads=tuple(made),
    )


def _given_gradients(
    heads: list[Head], lead: tuple[int, ...], outputs: int, dtype: np.dtype[Any]
) -> dict[str, NDArray[Any] | None]:
    """The gradients that heads are given, side by side in one array of all outputs."""
    if not any("d_outputs" in head.goal.arrays for head in heads):
        return {}
    together = np.zeros((*lead, outputs), dtype)
    for head in heads:
        gradient = head.goal.arrays.pop("d_outputs", None)
        if gradient is not None:
            np.multiply(gradient, head.scale, out=together[..., head.columns])
    return {"d_outputs": together}


def _check_names(what: str, given: Mapping[Any, Any], net: Stack) -> None:
    assert net.heads is not None
    unknown = [name for name in given if name not in net.heads.columns]
    if unknown:
        raise ArgumentError(
            f"{what} must name heads of the net, {', '.join(net.heads.columns)}; got "
            f"{unknown[0]!r}."
        )


def resolve(loss: AnyLoss) -> Loss | LossFunction:
    """The loss that a name or a dict stands for; a loss or a function is returned as it is."""
    if isinstance(loss, Mapping):
        return Heads(loss)
    if isinstance(loss, str):
        return LOSSES[choice("loss", loss, LOSSES)]
    if isinstance(loss, Loss) and type(loss) is not Loss:
        return loss
    if callable(loss) and not isinstance(loss, type):
        return loss
    names = ", ".join(repr(name) for name in LOSSES)
    raise DTypeError(
        f"loss must be {names}, an object of gradcore.loss, a dict of these by head, or a function "
        f"(outputs, t0, t1) -> (loss, d_outputs); got {loss!r}."
    )


def _targets(
    loss: Loss, outputs: int, dtype: np.dtype[Any], positions: tuple[int, ...], y: object, note: str
) -> dict[str, NDArray[Any] | None]:
    """Checks y and makes the core's target arrays of it; positions is (T, B) or (B,).

    note: what messages add about T.
    """
    if not isinstance(loss, CrossEntropy):
        shape = (*positions, loss._targets(outputs))
        each = "output" if loss._per_target == 1 else f"{loss._per_target} outputs"
        why = f"one target per {each}; the net has {outputs}{note}"
        return {loss.array: validate.floats("y", y, shape, dtype, why)}
    if loss.weight is not None and len(loss.weight) != outputs:
        raise ShapeError(
            f"CrossEntropy.weight must have one weight per class, {outputs} of them; "
            f"got {len(loss.weight)}."
        )
    return {
        "target": validate.classes(y, positions, f"one class index per output{note}"),
        "class_weight": None if loss.weight is None else np.array(loss.weight, dtype),
    }


def _checked(
    function: LossFunction,
    net: Stack,
    dtype: np.dtype[Any],
    batch: int,
    lengths: NDArray[Any] | None,
) -> LossFunction:
    """Wraps a loss function so that its results are checked, which the core does not do.

    Behind a Pool it gets outputs (B, O), which the core has as one step.
    """
    pooled = net.pool is not None

    def checked(outputs: NDArray[Any], t0: int, t1: int) -> tuple[float, NDArray[Any]]:
        result = function(net.named(outputs[0] if pooled else outputs), t0, t1)
        if not isinstance(result, tuple) or len(result) != 2:
            raise DTypeError(
                f"the loss function must return (loss, d_outputs); got {type(result).__name__}."
            )
        value = as_number(result[0])
        if not math.isfinite(value):
            raise NonFiniteError(
                f"the loss function returned {value} for steps {t0} to {t1}.",
                layer=len(net.recurrent),
                step=t0,
            )
        lead = net.positions(t1 - t0, batch)
        gradient = joined("d_outputs", result[1], net, lead, dtype)
        gradient = checked_gradient(gradient, (*lead, net.output_size), dtype, lengths, t0)
        return value, gradient[None] if pooled else gradient

    return checked
