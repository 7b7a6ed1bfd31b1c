"""What a net ends with: a Linear, or several of them side by side."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from .._base.checks import flag, layer_size, store
from ..errors import ArgumentError, DTypeError, ShapeError

__all__ = ["Heads", "Linear", "affine_shapes"]


@dataclass(frozen=True)
class Linear:
    """The head of a net: outputs = inputs @ weight.T + bias, with weight [O, H] and bias [O]."""

    in_features: int
    out_features: int
    _: KW_ONLY
    bias: bool = True

    def __post_init__(self) -> None:
        store(self, "in_features", layer_size("Linear.in_features", self.in_features))
        store(self, "out_features", layer_size("Linear.out_features", self.out_features))
        flag("Linear.bias", self.bias)

    @property
    def parameter_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        return affine_shapes(self.in_features, self.out_features, self.bias)


@dataclass(frozen=True, init=False, repr=False)
class Heads:
    """Several heads that read the same rows, each with a name and outputs of its own.

    gd.Heads(coding=gd.Linear(64, 7), site=gd.Linear(64, 2)) ends a net whose outputs are a dict
    {"coding": (T, B, 7), "site": (T, B, 2)}. The core computes all of them as one product; their
    parameters are called "coding.weight", "coding.bias", "site.weight" and so on behind the place
    in the Stack. A loss is a dict with one for each head, or a gradcore.loss.Heads with weights;
    targets are a dict of arrays. heads: pairs of name and Linear; two Heads are equal if they have
    the same pairs in the same order.
    Raises ArgumentError for a name that is no identifier or without any head, DTypeError for
    something else than a Linear, and ShapeError if they read rows of different widths.
    """

    heads: tuple[tuple[str, Linear], ...]

    def __init__(self, /, **heads: Linear) -> None:
        if not heads:
            raise ArgumentError("Heads must have at least one head, such as site=Linear(64, 2).")
        for name, head in heads.items():
            if not name.isidentifier():
                raise ArgumentError(
                    f"the name of a head must be an identifier, because its parameters are called "
                    f"by it; got {name!r}."
                )
            if not isinstance(head, Linear):
                raise DTypeError(f"Heads must be made of Linear; {name!r} is {head!r}.")
        widths = {name: head.in_features for name, head in heads.items()}
        if len(set(widths.values())) > 1:
            raise ShapeError(f"all Heads must have the same in_features; got {widths}.")
        store(self, "heads", tuple(heads.items()))

    def __repr__(self) -> str:
        return f"Heads({', '.join(f'{name}={head!r}' for name, head in self.heads)})"

    @cached_property
    def in_features(self) -> int:
        """The width of the rows that all heads read."""
        return self.heads[0][1].in_features

    @cached_property
    def out_features(self) -> int:
        """The outputs of all heads together."""
        return sum(head.out_features for _, head in self.heads)

    @cached_property
    def bias(self) -> bool:
        """Whether a head has a bias."""
        return any(head.bias for _, head in self.heads)

    @cached_property
    def columns(self) -> dict[str, slice]:
        """Where the outputs of each head are in an array (T, B, O) of all.

        Heads with a bias come first, so that the bias belongs to the first outputs.
        """
        found, start = {}, 0
        for name, head in self._ordered:
            found[name] = slice(start, start + head.out_features)
            start += head.out_features
        return {name: found[name] for name, _ in self.heads}

    @property
    def unbiased(self) -> int:
        """How many outputs, which are the last ones, have no bias where others have one."""
        return sum(head.out_features for _, head in self.heads if not head.bias and self.bias)

    @property
    def parameter_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        shapes = {
            name: affine_shapes(head.in_features, head.out_features, head.bias)
            for name, head in self._ordered
        }
        return {
            f"{name}.{own}": shapes[name][own]
            for own in ("weight", "bias")
            for name in shapes
            if own in shapes[name]
        }

    def split(self, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Views of an array (..., O) of all outputs, by head."""
        return {name: array[..., columns] for name, columns in self.columns.items()}

    def of_parameter(self, name: str) -> Linear:
        """The head that a parameter belongs to."""
        return dict(self.heads)[name.partition(".")[0]]

    @property
    def _ordered(self) -> list[tuple[str, Linear]]:
        return sorted(self.heads, key=lambda pair: not pair[1].bias)


def affine_shapes(
    in_features: int, out_features: int, bias: bool
) -> dict[str, tuple[tuple[int, ...], str]]:
    """The parameters of a matrix with a bias."""
    shape = (out_features, in_features)
    specs: dict[str, tuple[tuple[int, ...], str]] = {
        "weight": (shape, "(out_features, in_features)")
    }
    if bias:
        specs["bias"] = ((out_features,), "(out_features,)")
    return specs
