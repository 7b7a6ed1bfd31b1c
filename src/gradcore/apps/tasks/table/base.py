"""What a net's output is added to: the last value, or a linear forecast that the net improves.

A net that starts from one begins as good as it is, since its head is zero at the start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ....errors import CheckpointError
from .linear import Linear
from .linear import from_json as linear_from_json
from .schema import Schema, Target, spread

__all__ = ["KINDS", "Base", "Kind", "begins_of", "from_json", "inputs", "left_by"]

Array = NDArray[np.float64]
Kind = Literal["ridge", "last value", "mean"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Beyond so many deviations an input grows with its logarithm only.
_CLIP = 5.0


@dataclass(frozen=True, eq=False)
class Base:
    """A prediction is linear + scale * output of the net, standardised.

    The net reads the linear forecast beside the inputs. scale: 0 if the net adds nothing.
    """

    linear: Linear
    scale: float

    def as_json(self) -> dict[str, Any]:
        """The base as JSON values, which keep every bit."""
        return {**self.linear.as_json(), "scale": self.scale}


def from_json(value: object, schema: Schema, source: str) -> Base | None:
    """The base that as_json told, None for None. Raises CheckpointError if it does not fit."""
    if value is None:
        return None
    linear = linear_from_json(value, schema, source)
    scale = value.get("scale") if isinstance(value, dict) else None
    if not isinstance(scale, float) or not 0.0 <= scale < math.inf or not bears(schema):
        raise CheckpointError(f"{source} is damaged: its net has scale {scale!r}.")
    return Base(linear, scale)


def bears(schema: Schema) -> bool:
    """Whether there can be a base: the target is a number in every row, the inputs no tokens."""
    target = schema.target
    return target.kind == "number" and target.per == "step" and not schema.tokens


def inputs(x: NDArray[Any], front: Array | None) -> NDArray[Any]:
    """What the net reads: x (m, I), and the linear forecast (m,) where there is one.

    Numbers far out are drawn in. Tokens are read as they are.
    """
    if x.ndim == 1:
        return x
    if front is not None:
        x = np.concatenate([x, front[:, None].astype(np.float32)], axis=1)
    beyond = np.maximum(np.abs(x), _CLIP)
    drawn: NDArray[np.float32] = np.sign(x) * (_CLIP + np.log1p(beyond - _CLIP))
    return np.where(np.abs(x) <= _CLIP, x, drawn).astype(np.float32)


def left_by(linear: Linear, target: Target, x: NDArray[Any], y: Array, begins: Any) -> Array:
    """(n,) what a linear forecast leaves of the targets y, standardised, NaN where unknown."""
    standardised = (y - target.mean) / target.std
    return standardised - linear.values(x, np.arange(len(x)), begins)


def begins_of(starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) the row at which each row's sequence begins; starts: (S+1,) of the sequences."""
    return np.repeat(starts[:-1], np.diff(starts))


def made(linear: Linear, left: Array) -> Base:
    """The base whose net learns what is left of the targets to learn from."""
    return Base(linear, max(spread(left), 1e-12))
