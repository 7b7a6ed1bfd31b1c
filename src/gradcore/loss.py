"""Losses over the outputs of a net: descriptions that the core evaluates segment by segment.

A mean is sum(weight * loss) / sum(weight) over all terms that count; steps past `lengths` and
targets equal to ignore_index count for nothing. step="last" looks at the last step of each
sequence only (lengths[b]-1); y and weight then lack the time axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ._base.checks import choice, finite_float, integer, store
from ._net import validate
from ._net.stack import Stack
from .errors import ArgumentError, DTypeError, NonFiniteError, ShapeError

__all__ = [
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Given",
    "Loss",
    "LossFunction",
    "MeanSquaredError",
]

LossFunction = Callable[[NDArray[Any], int, int], tuple[float, NDArray[Any]]]
Reduction = Literal["mean", "sum"]
Step = Literal["all", "last"]


@dataclass(frozen=True)
class Loss:
    """Common part of the losses; CrossEntropy, BinaryCrossEntropy, MeanSquaredError and Given."""

    _: KW_ONLY
    reduction: Reduction = "mean"
    step: Step = "all"

    kind: ClassVar[str] = "none"
    # The core's array that y becomes.
    array: ClassVar[str] = "target"

    def __post_init__(self) -> None:
        name = type(self).__name__
        choice(f"{name}.reduction", self.reduction, get_args(Reduction))
        choice(f"{name}.step", self.step, get_args(Step))

    def targets(
        self, net: Stack, dtype: np.dtype[Any], positions: tuple[int, ...], y: object
    ) -> dict[str, NDArray[Any] | None]:
        """The core's target arrays from y, checked; positions is (T, B) or (B,)."""
        shape = (*positions, net.output_size)
        why = f"one target per output; the net has {net.output_size}"
        return {self.array: validate.floats("y", y, shape, dtype, why)}


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """-log softmax(outputs)[y], for y (T, B) of class indices (uint8, int32 or int64).

    weight: one factor per class, also in a mean's divisor, as torch.nn.functional.cross_entropy.
    ignore_index: targets of this value count for nothing.
    """

    _: KW_ONLY
    weight: Sequence[float] | NDArray[Any] | None = None
    ignore_index: int = -100

    kind: ClassVar[str] = "cross_entropy"

    def __post_init__(self) -> None:
        super().__post_init__()
        store(self, "ignore_index", integer("CrossEntropy.ignore_index", self.ignore_index))
        if self.weight is not None:
            store(self, "weight", _class_weights(self.weight))

    def targets(
        self, net: Stack, dtype: np.dtype[Any], positions: tuple[int, ...], y: object
    ) -> dict[str, NDArray[Any] | None]:
        if self.weight is not None and len(self.weight) != net.output_size:
            raise ShapeError(
                f"CrossEntropy.weight must have one weight per class, {net.output_size} of them; "
                f"got {len(self.weight)}."
            )
        return {
            "target": validate.classes(y, positions, "one class index per output"),
            "class_weight": None if self.weight is None else np.array(self.weight, dtype),
        }


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Cross-entropy of sigmoid(outputs) and y (T, B, O) in [0, 1]; outputs are logits."""

    kind: ClassVar[str] = "binary_cross_entropy"


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """(outputs - y)**2 for y (T, B, O); a mean also runs over the O outputs."""

    kind: ClassVar[str] = "mse"


@dataclass(frozen=True)
class Given(Loss):
    """Stands for what lies behind the net: the gradient with respect to outputs is y (T, B, O).

    The loss itself is not known and counts as 0; it is linear, a sum over all steps.
    """

    _: KW_ONLY
    reduction: Reduction = "sum"

    kind: ClassVar[str] = "given"
    array: ClassVar[str] = "d_outputs"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reduction != "sum" or self.step != "all":
            raise ArgumentError(
                "Given must have reduction 'sum' and step 'all': y is the gradient itself. Scale "
                "it, or make it 0 at other steps."
            )


LOSSES: dict[str, Loss] = {
    loss.kind: loss for loss in (CrossEntropy(), BinaryCrossEntropy(), MeanSquaredError())
}


@dataclass(frozen=True, eq=False)
class Objective:
    """A loss with its targets, ready for the core."""

    kind: str
    last: bool = False
    total: bool = False
    ignore_index: int = 0
    function: LossFunction | None = None
    arrays: dict[str, NDArray[Any] | None] = field(default_factory=dict)


def objective(
    loss: str | Loss | LossFunction,
    net: Stack,
    dtype: np.dtype[Any],
    steps: int,
    batch: int,
    y: object,
    weight: object,
) -> Objective:
    """Checks loss, y and weight together.

    Raises ArgumentError, ShapeError or DTypeError.
    """
    described = resolve(loss)
    if not isinstance(described, Loss):
        for name, value in (("y", y), ("weight", weight)):
            if value is not None:
                raise ArgumentError(
                    f"{name} must be None when loss is a function, which knows its own targets "
                    "and weights."
                )
        return Objective("callback", function=_checked(described, net, dtype, batch))
    if y is None:
        raise ArgumentError(f"y must be given for loss {described.kind!r}.")
    last = described.step == "last"
    positions = (batch,) if last else (steps, batch)
    arrays = described.targets(net, dtype, positions, y)
    total = described.reduction == "sum"
    weights = validate.weights(weight, positions, dtype, signed=total)
    if isinstance(described, Given):
        gradient = arrays[described.array]
        if weights is not None and gradient is not None:
            arrays[described.array] = gradient * weights[..., None]
    else:
        arrays["weight"] = weights
    index = described.ignore_index if isinstance(described, CrossEntropy) else 0
    return Objective(described.kind, last, total, index, None, arrays)


def resolve(loss: str | Loss | LossFunction) -> Loss | LossFunction:
    """The loss that a name stands for; others come back as they are."""
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


def _class_weights(weight: Sequence[float] | NDArray[Any]) -> tuple[float, ...]:
    values = tuple(
        finite_float(f"CrossEntropy.weight[{i}]", float(w)) for i, w in enumerate(weight)
    )
    if not values or min(values) < 0.0:
        raise ArgumentError("CrossEntropy.weight must have one weight >= 0 per class.")
    return values


def _checked(function: LossFunction, net: Stack, dtype: np.dtype[Any], batch: int) -> LossFunction:
    """The function with its result checked; the core takes it as it is."""

    def checked(outputs: NDArray[Any], t0: int, t1: int) -> tuple[float, NDArray[Any]]:
        result = function(outputs, t0, t1)
        if not isinstance(result, tuple) or len(result) != 2:
            raise DTypeError(
                f"the loss function must return (loss, d_outputs); got {type(result).__name__}."
            )
        value = float(result[0])
        if not math.isfinite(value):
            raise NonFiniteError(
                f"the loss function returned {value} for steps {t0} to {t1}.",
                layer=len(net.recurrent),
                step=t0,
            )
        gradient = validate.as_array("d_outputs", result[1])
        expected = (t1 - t0, batch, net.output_size)
        if gradient.shape != expected:
            raise ShapeError(
                f"d_outputs must have the shape of outputs, {expected}; got {gradient.shape}."
            )
        if gradient.dtype != dtype:
            raise DTypeError(f"d_outputs must have dtype {dtype}; got {gradient.dtype}.")
        return value, gradient

    return checked
