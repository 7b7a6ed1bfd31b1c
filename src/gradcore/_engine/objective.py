"""A loss with its targets, checked and converted to what the core takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.checks import choice
from .._net import validate
from .._net.stack import Stack
from ..errors import ArgumentError, DTypeError, NonFiniteError, ShapeError
from ..loss import (
    CTC,
    LOSSES,
    CrossEntropy,
    ErrorToSignal,
    Given,
    Loss,
    LossFunction,
    NashSutcliffe,
)
from .deviations import target_weights
from .whole import Whole
from .whole_function import as_number, check_finite, checked_gradient

__all__ = ["Objective", "check_pooled", "objective", "resolve"]


@dataclass(frozen=True, eq=False)
class Objective:
    """A loss with its targets as the core takes them; copied: see validate.Inputs."""

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

    def terms(self, weight: float) -> float:
        """The sum of the weights of the positions, from the divisor of a mean in the core.

        A position with all its targets adds `per_position` times its weight to the divisor. Where
        `sequences` is known, what counts are sequences, and this is their number; `weight` is their
        number for a loss of the whole sequence.
        """
        return weight / self.per_position if self.sequences is None else self.sequences


def objective(
    loss: str | Loss | LossFunction,
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
    steps, batch, lengths = inputs.output_steps, inputs.batch, inputs.output_lengths
    if not isinstance(described, Loss):
        for name, value in (("y", y), ("weight", weight)):
            if value is not None:
                raise ArgumentError(
                    f"{name} must be None if loss is a function, which has its own targets and "
                    "weights."
                )
        return Objective("callback", function=_checked(described, net, dtype, batch, lengths))
    check_pooled(net, described)
    if described.kind == "whole":
        if weight is not None:
            raise ArgumentError(
                f"weight must be None for {type(described).__name__}: its value is no sum over "
                "steps that weights could count in."
            )
        shape = (*net.positions(steps, batch), net.output_size)
        return Objective("given", whole=Whole(described, shape, dtype, y))
    if y is None:
        raise ArgumentError(f"y must be given for loss {described.kind!r}.")
    last = described.step == "last"
    positions = (batch,) if last else net.positions(steps, batch)
    note = "" if last else validate.steps_of_outputs(net, inputs.steps)
    arrays = _targets(described, net, dtype, positions, y, note)
    total = described.reduction == "sum"
    weights = validate.weights(weight, positions, dtype, signed=total, note=note)
    if isinstance(described, Given):
        gradient = arrays[described.array]
        assert gradient is not None
        if weights is not None:
            gradient = arrays[described.array] = gradient * weights[..., None]
        check_finite(gradient, lengths)
    else:
        arrays["weight"] = weights
    sequences = None
    if isinstance(described, NashSutcliffe):
        target, ignore = arrays["target"], described.nan == "ignore"
        assert target is not None
        arrays["target_weight"], sequences = target_weights(
            target, weights, lengths, ignore_nan=ignore, mean=not total
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
        per_position=described._terms(net.output_size),
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


def resolve(loss: str | Loss | LossFunction) -> Loss | LossFunction:
    """The loss that a name stands for; a loss or a function is returned as it is."""
    if isinstance(loss, str):
        return LOSSES[choice("loss", loss, LOSSES)]
    if isinstance(loss, Loss) and type(loss) is not Loss:
        return loss
    if callable(loss) and not isinstance(loss, type):
        return loss
    names = ", ".join(repr(name) for name in LOSSES)
    raise DTypeError(
        f"loss must be {names}, an object of gradcore.loss, or a function (outputs, t0, t1) -> "
        f"(loss, d_outputs); got {loss!r}."
    )


def _targets(
    loss: Loss, net: Stack, dtype: np.dtype[Any], positions: tuple[int, ...], y: object, note: str
) -> dict[str, NDArray[Any] | None]:
    """Checks y and makes the core's target arrays of it; positions is (T, B) or (B,).

    note: what messages add about T.
    """
    if not isinstance(loss, CrossEntropy):
        shape = (*positions, loss._targets(net.output_size))
        each = "output" if loss._per_target == 1 else f"{loss._per_target} outputs"
        why = f"one target per {each}; the net has {net.output_size}{note}"
        return {loss.array: validate.floats("y", y, shape, dtype, why)}
    if loss.weight is not None and len(loss.weight) != net.output_size:
        raise ShapeError(
            f"CrossEntropy.weight must have one weight per class, {net.output_size} of them; "
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
        result = function(outputs[0] if pooled else outputs, t0, t1)
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
        expected = (*net.positions(t1 - t0, batch), net.output_size)
        gradient = checked_gradient(result[1], expected, dtype, lengths, t0)
        return value, gradient[None] if pooled else gradient

    return checked
