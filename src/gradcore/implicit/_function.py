"""Function: the f of a fixed point layer, given as Python functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._base.checks import float_dtype, layer_size, store
from .._net.flat import ParameterOwner, ParameterSpec
from .._net.layers import Layer
from .._net.stack import Grads, Params
from ..errors import DTypeError, NonFiniteError, ShapeError
from ._system import Rows, System

__all__ = ["Function", "FunctionSystem"]

Array = NDArray[Any]
Values = Mapping[str, Array]


@dataclass(frozen=True, eq=False, repr=False)
class Function(ParameterOwner):
    """f(z, x) as Python functions over a batch of N samples, with its own parameters.

    value(z, x, params) returns f, (N, S). jvp(z, x, params, v) returns J v, (N, S), where J is the
    Jacobian of f with respect to z. vjp(z, x, params, u) returns a tuple of J' u, the cotangent of
    x or None, and a mapping of cotangents of the parameters, summed over the samples. z, v, u:
    (N, S). x: any array whose first axis is N. params: a mapping of arrays by name. size: S.
    parameters: the initial value of each parameter, which also gives its shape.

    No sample may depend on another. Results must have the dtype of z; a wrong shape or dtype, or a
    value that is not finite, raises an error when the function returns it.
    """

    value: Callable[[Array, Array, Values], Array]
    jvp: Callable[[Array, Array, Values, Array], Array]
    vjp: Callable[[Array, Array, Values, Array], tuple[Array, Array | None, Values]]
    size: int
    _: KW_ONLY
    parameters: Values = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("value", "jvp", "vjp"):
            if not callable(getattr(self, name)):
                raise DTypeError(
                    f"Function.{name} must be a function; got {type(getattr(self, name)).__name__}."
                )
        store(self, "size", layer_size("Function.size", self.size))
        if not isinstance(self.parameters, Mapping) or not all(
            isinstance(name, str) and isinstance(array, np.ndarray) and array.size
            for name, array in self.parameters.items()
        ):
            raise DTypeError(
                "Function.parameters must map names to NumPy arrays that are not empty; got "
                f"{self.parameters!r}."
            )
        store(self, "parameters", {name: a.copy() for name, a in self.parameters.items()})

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in self.parameters.items())
        return f"Function({getattr(self.value, '__name__', 'f')}, size={self.size}: {shapes})"

    @cached_property
    def parameter_specs(self) -> tuple[ParameterSpec, ...]:
        specs: list[ParameterSpec] = []
        for name, array in self.parameters.items():
            start = specs[-1].stop if specs else 0
            specs.append(ParameterSpec(name, array.shape, start, "(as given to Function)"))
        return tuple(specs)

    def layer_of(self, name: str) -> tuple[Layer | None, str]:
        return None, name

    def init(self, dtype: DTypeLike = "float32") -> Params:
        """The initial parameters."""
        flat = np.empty(self.n_parameters, float_dtype("dtype", dtype))
        params = Params(self, flat)
        for name, array in self.parameters.items():
            params[name] = array.astype(flat.dtype)
        return params


@dataclass(frozen=True, eq=False)
class FunctionSystem(System):
    """A Function with given parameters and input."""

    function: Function
    params: Params
    x: Array

    @property
    def batch(self) -> int:
        return len(self.x)

    @property
    def size(self) -> int:
        return self.function.size

    def take(self, rows: Rows) -> FunctionSystem:
        return replace(self, x=self.x[rows])

    def value(self, z: Array) -> Array:
        found = self.function.value(z, self.x, self.params)
        # The iteration checks whether values are finite, because it can name and stop the sample.
        return self._checked("value", found, z.shape)

    def tangents(self, z: Array, v: Array) -> NDArray[np.float64]:
        def one(direction: Array) -> Array:
            found = self.function.jvp(z, self.x, self.params, direction)
            return _finite("jvp", self._checked("jvp", found, z.shape))

        directions = v.astype(self.dtype, copy=False)
        return np.stack([one(direction) for direction in directions]).astype(np.float64)

    def cotangents(self, z: Array, u: Array) -> NDArray[np.float64]:
        directions = u.astype(self.dtype, copy=False)
        return np.stack([self._vjp(z, one)[0] for one in directions]).astype(np.float64)

    def pull(self, z: Array, u: Array) -> tuple[Grads, Array | None]:
        _, dx, parts = self._vjp(z, u.astype(self.dtype, copy=False))
        grads = Grads(self.function, np.zeros(self.function.n_parameters, self.dtype))
        if not isinstance(parts, Mapping) or set(parts) != set(grads):
            got = sorted(parts) if isinstance(parts, Mapping) else type(parts).__name__
            raise ShapeError(
                "the third result of Function.vjp must map every parameter's name to its "
                f"cotangent: {sorted(grads)}; got {got}."
            )
        for name, array in parts.items():
            grads[name] = _finite("vjp", array)
        if dx is not None:
            dx = _finite("vjp", np.asarray(dx))
            if dx.shape != self.x.shape:
                raise ShapeError(
                    f"the second result of Function.vjp must have the shape of x, {self.x.shape}, "
                    f"or be None; got {dx.shape}."
                )
        return grads, dx

    def _vjp(self, z: Array, u: Array) -> tuple[Array, Array | None, Values]:
        found = self.function.vjp(z, self.x, self.params, u)
        if not isinstance(found, tuple) or len(found) != 3:
            raise DTypeError(
                "Function.vjp must return (dz, dx, dparams); got "
                f"{type(found).__name__}. dx may be None, and dparams an empty dict."
            )
        return _finite("vjp", self._checked("vjp", found[0], z.shape)), found[1], found[2]

    def _checked(self, name: str, array: Array, shape: tuple[int, ...]) -> Array:
        if not isinstance(array, np.ndarray) or array.shape != shape:
            got = array.shape if isinstance(array, np.ndarray) else type(array).__name__
            raise ShapeError(f"Function.{name} must return an array of shape {shape}; got {got}.")
        if array.dtype != self.dtype:
            raise DTypeError(
                f"Function.{name} must return {self.dtype}, the dtype of z; got {array.dtype}."
            )
        return array


def _finite(name: str, array: Array) -> Array:
    if not np.isfinite(array).all():
        raise NonFiniteError(f"Function.{name} returned a value that is not finite.")
    return array
