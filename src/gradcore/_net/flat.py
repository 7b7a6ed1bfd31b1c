"""Named arrays that are views of one flat buffer, and the base class of their owners."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .._base.checks import float_dtype
from ..errors import ArgumentError, DTypeError, ShapeError
from .layers import Layer

__all__ = ["FlatArrays", "ParameterOwner", "ParameterSpec"]

Self = TypeVar("Self", bound="FlatArrays")


@dataclass(frozen=True)
class ParameterSpec:
    """Name, shape and first index of a parameter in the flat buffer; meaning: its axes as text."""

    name: str
    shape: tuple[int, ...]
    start: int
    meaning: str

    @property
    def stop(self) -> int:
        return self.start + prod(self.shape)


class ParameterOwner(ABC):
    """Base class of what has its parameters in one flat buffer: a Stack or a model of several.

    Optimizers, groups, clips and constraints take the Params and Grads of any owner.
    """

    @property
    @abstractmethod
    def parameter_specs(self) -> tuple[ParameterSpec, ...]:
        """Every parameter in the order of the flat buffer."""

    @property
    def n_parameters(self) -> int:
        """The number of values in the flat buffer."""
        specs = self.parameter_specs
        return specs[-1].stop if specs else 0

    @abstractmethod
    def layer_of(self, name: str) -> tuple[Layer | None, str]:
        """The layer that a parameter belongs to, or None, and the parameter's name in it."""


class FlatArrays(Mapping[str, NDArray[Any]]):
    """A flat buffer [n_parameters] with a view for every parameter of a net."""

    def __init__(self, net: ParameterOwner, flat: NDArray[Any]) -> None:
        self._owner = net
        self._flat = _checked_flat(net, flat, type(self).__name__)

    # Both are made when they are first asked for; a short call asks for the flat buffer only.
    @cached_property
    def _specs(self) -> dict[str, ParameterSpec]:
        return {spec.name: spec for spec in self._owner.parameter_specs}

    @cached_property
    def _views(self) -> dict[str, NDArray[Any]]:
        return {
            name: self._flat[spec.start : spec.stop].reshape(spec.shape)
            for name, spec in self._specs.items()
        }

    @property
    def owner(self) -> ParameterOwner:
        """The Stack, or the model of several parts, that the parameters belong to."""
        return self._owner

    @property
    def flat(self) -> NDArray[Any]:
        """The 1-D buffer itself; writing to it changes the views."""
        return self._flat

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self._flat.dtype

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            return self._views[name]
        except KeyError:
            known = ", ".join(self._views)
            raise KeyError(f"no parameter {name!r}; this net has {known}") from None

    def __setitem__(self, name: str, value: NDArray[Any]) -> None:
        """Copies an array of the same shape and dtype into the view.

        Raises ShapeError or DTypeError; nothing is cast or broadcast.
        """
        view = self[name]
        _check_assigned(self._specs[name], view, value)
        np.copyto(view, value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __eq__(self, other: object) -> bool:
        """Whether net, dtype and all values are equal."""
        if type(other) is not type(self):
            return NotImplemented
        same = self._owner == other._owner and self.dtype == other.dtype
        return same and np.array_equal(self._flat, other._flat)

    def copy(self: Self) -> Self:
        """A copy with a new buffer."""
        return self._like(self._flat.copy())

    def astype(self: Self, dtype: str) -> Self:
        """A copy with the values rounded to float32 or converted to float64."""
        return self._like(self._flat.astype(float_dtype("dtype", dtype)))

    def _like(self: Self, flat: NDArray[Any]) -> Self:
        return type(self)(self._owner, flat)

    def __copy__(self: Self) -> Self:
        return self.copy()

    def __deepcopy__(self: Self, memo: dict[int, Any]) -> Self:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (type(self), self._owner, self._flat)

    def __repr__(self) -> str:
        width = max((len(name) for name in self), default=0)
        rows = "".join(f"\n  {name:{width}}  {view.shape}" for name, view in self.items())
        return f"{type(self).__name__}({self.dtype}, {self._flat.size:,} values){rows}"


def _checked_flat(owner: ParameterOwner, flat: NDArray[Any], kind: str) -> NDArray[Any]:
    if not isinstance(owner, ParameterOwner):
        raise DTypeError(f"{kind} needs a Stack; got {owner!r}.")
    if not isinstance(flat, np.ndarray):
        raise DTypeError(f"{kind} needs a NumPy array; got {type(flat).__name__}.")
    float_dtype(f"the dtype of {kind}.flat", flat.dtype)
    if flat.shape != (owner.n_parameters,):
        raise ShapeError(
            f"{kind}.flat must have shape ({owner.n_parameters},), one value per parameter of "
            f"the net; got {flat.shape}."
        )
    if not flat.flags.carray:
        raise ArgumentError(
            f"{kind}.flat must be contiguous, aligned and writeable, because its views are "
            "written to; pass flat.copy()."
        )
    return flat


def restored(kind: Any, owner: object, flat: NDArray[Any], *others: Any) -> Any:
    """What was pickled. joblib hands large arrays to other processes as read-only memory maps, and
    parameters are written to: these are copied.
    """
    return kind(owner, flat if flat.flags.writeable else flat.copy(), *others)


def _check_assigned(spec: ParameterSpec, view: NDArray[Any], value: object) -> None:
    if not isinstance(value, np.ndarray):
        raise DTypeError(
            f"{spec.name} must be given a NumPy array; got {type(value).__name__}. "
            f"Use numpy.asarray(value, dtype={str(view.dtype)!r})."
        )
    if value.shape != spec.shape:
        transposed = value.ndim == 2 and value.T.shape == spec.shape
        hint = " Pass its .T if it is transposed." if transposed else ""
        raise ShapeError(
            f"{spec.name} must have shape {spec.meaning.replace(')', f') = {spec.shape}', 1)}; "
            f"got {value.shape}.{hint}"
        )
    if value.dtype != view.dtype:
        raise DTypeError(
            f"{spec.name} must have dtype {view.dtype}, that of the parameters; got "
            f"{value.dtype}. Convert it with .astype({str(view.dtype)!r})."
        )
