"""Losses over the outputs of a net: descriptions that the core evaluates segment by segment.

reduction="mean" is sum(weight * loss) / sum(weight) over all terms that count; steps past `lengths`
and targets equal to ignore_index do not count. step="last" looks at the last step of each sequence
only (lengths[b]-1); y and weight then have no time axis. In shapes, T is the number of time steps,
B of sequences and O of outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from . import errors
from ._base import checks

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
    """Base class of CrossEntropy, BinaryCrossEntropy, MeanSquaredError and Given."""

    _: KW_ONLY
    reduction: Reduction = "mean"
    step: Step = "all"

    kind: ClassVar[str] = "none"
    # The name of the core's array that y is passed as.
    array: ClassVar[str] = "target"

    def __post_init__(self) -> None:
        name = type(self).__name__
        checks.choice(f"{name}.reduction", self.reduction, get_args(Reduction))
        checks.choice(f"{name}.step", self.step, get_args(Step))


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """-log softmax(outputs)[y], for y (T, B) of class indices (uint8, int32 or int64).

    weight: one factor per class, which also counts in the divisor of a mean, as in
    torch.nn.functional.cross_entropy. ignore_index: targets of this value do not count.
    """

    _: KW_ONLY
    weight: Sequence[float] | NDArray[Any] | None = None
    ignore_index: int = -100

    kind: ClassVar[str] = "cross_entropy"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.store(
            self, "ignore_index", checks.integer("CrossEntropy.ignore_index", self.ignore_index)
        )
        if self.weight is not None:
            checks.store(self, "weight", _class_weights(self.weight))


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Cross-entropy of sigmoid(outputs) and y (T, B, O) in [0, 1]; outputs are logits."""

    kind: ClassVar[str] = "binary_cross_entropy"


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """(outputs - y)**2 for y (T, B, O); reduction="mean" also averages over the O outputs."""

    kind: ClassVar[str] = "mse"


@dataclass(frozen=True)
class Given(Loss):
    """A loss computed outside gradcore; y (T, B, O) is its gradient with respect to the outputs.

    The value of the loss is not known here and is given as 0. The gradient is used as it is, at
    all steps: reduction must be "sum" and step "all".
    """

    _: KW_ONLY
    reduction: Reduction = "sum"

    kind: ClassVar[str] = "given"
    array: ClassVar[str] = "d_outputs"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reduction != "sum" or self.step != "all":
            raise errors.ArgumentError(
                "Given must have reduction 'sum' and step 'all', because y is itself the "
                "gradient with respect to the outputs. For a mean divide y by the count; for the "
                "last step alone set y to 0 at all other steps."
            )


LOSSES: dict[str, Loss] = {
    loss.kind: loss for loss in (CrossEntropy(), BinaryCrossEntropy(), MeanSquaredError())
}


def _class_weights(weight: Any) -> tuple[float, ...]:
    try:
        array = np.asarray(weight)
    except (RuntimeError, TypeError, ValueError) as error:
        raise errors.DTypeError(
            f"CrossEntropy.weight must be one number per class: {error}"
        ) from error
    if array.ndim != 1:
        raise errors.ShapeError(
            f"CrossEntropy.weight must have shape (classes,), one number each; got {array.shape}."
        )
    if array.size and array.dtype.kind not in "iuf":
        raise errors.DTypeError(
            f"CrossEntropy.weight must be numbers, one per class; got {weight!r:.80}."
        )
    values = tuple(
        checks.finite_float(f"CrossEntropy.weight[{i}]", w) for i, w in enumerate(array.tolist())
    )
    if not values or min(values) < 0.0:
        raise errors.ArgumentError("CrossEntropy.weight must have one weight >= 0 per class.")
    return values
