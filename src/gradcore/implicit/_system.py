"""f(z, x) as a function of z alone, for a batch of samples, with products by its Jacobian."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._engine.calls import apply
from .._net.stack import Grads, Params, Stack
from .._net.state import LayerState, state_size
from ..errors import ArgumentError, DTypeError, NonFiniteError, ShapeError
from ..jacobian import jvp, vjp
from ..jacobian._states import columns_of, state_of_columns

__all__ = ["Linearised", "OutputSystem", "StateSystem", "System", "at_exponent"]

Array = NDArray[Any]
Rows = NDArray[np.intp]


class System(ABC):
    """f for a batch, at given parameters and x; z is [N, S] in the dtype of the parameters."""

    params: Params

    @property
    @abstractmethod
    def batch(self) -> int:
        """N, the number of samples."""

    @property
    @abstractmethod
    def size(self) -> int:
        """S, the number of values of z per sample."""

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.params.dtype

    @abstractmethod
    def take(self, rows: Rows) -> System:
        """The system of the samples `rows`."""

    @abstractmethod
    def value(self, z: Array) -> Array:
        """f(z, x)."""

    @abstractmethod
    def tangents(self, z: Array, v: Array) -> NDArray[np.float64]:
        """J v for K directions at once, [K, N, S]; J is that of f in z."""

    @abstractmethod
    def cotangents(self, z: Array, u: Array) -> NDArray[np.float64]:
        """J' u for K directions at once, [K, N, S]."""

    @abstractmethod
    def pull(self, z: Array, u: Array) -> tuple[Grads, Array | None]:
        """Cotangents of the parameters and of the input [N, ...], from u, those of f, [N, S]."""


@dataclass(frozen=True, eq=False)
class Linearised:
    """I - J at z, or its transpose, as an operator for the solvers in _krylov."""

    system: System
    z: Array
    transposed: bool = False

    def __call__(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        product = self.system.cotangents if self.transposed else self.system.tangents
        found: NDArray[np.float64] = v - product(self.z, v[None])[0]
        return found

    def take(self, rows: Rows) -> Linearised:
        if len(rows) == len(self.z) and np.array_equal(rows, np.arange(len(rows))):
            return self
        return replace(self, system=self.system.take(rows), z=self.z[rows])


@dataclass(frozen=True, eq=False)
class StateSystem(System):
    """One step of a net of recurrent layers: z is its whole state, and x [N, I] its input."""

    net: Stack
    params: Params
    x: Array
    threads: int | None = None

    @property
    def batch(self) -> int:
        return len(self.x)

    @property
    def size(self) -> int:
        return state_size(self.net, 1)

    def take(self, rows: Rows) -> StateSystem:
        return replace(self, x=self.x[rows])

    def value(self, z: Array) -> Array:
        _, after = apply(
            self.net, self.params, self.x[None], state=self._state(z), threads=self.threads
        )
        directions = [_with_axis(layer) for layer in after]
        rows: Array = self._rows(directions, np.zeros(len(after), np.int32))[0]
        return rows.astype(self.dtype)

    def tangents(self, z: Array, v: Array) -> NDArray[np.float64]:
        found = jvp(
            self.net,
            self.params,
            self.x[None],
            dstate=self._directions(v),
            state=self._state(z),
            threads=self.threads,
        )
        return self._rows(found.dstate, found.dstate_exponent)

    def cotangents(self, z: Array, u: Array) -> NDArray[np.float64]:
        found = vjp(
            self.net,
            self.params,
            self.x[None],
            dstate_out=self._directions(u),
            state=self._state(z),
            wrt=("state",),
            threads=self.threads,
        )
        assert found.dstate is not None
        assert found.dstate_exponent is not None
        return self._rows(found.dstate, found.dstate_exponent)

    def pull(self, z: Array, u: Array) -> tuple[Grads, Array | None]:
        tokens = self.x.dtype.kind in "iu"
        found = vjp(
            self.net,
            self.params,
            self.x[None],
            dstate_out=self._directions(u[None]),
            state=self._state(z),
            wrt=("params",) if tokens else ("params", "x"),
            threads=self.threads,
        )
        assert found.grads is not None
        if tokens:
            return found.grads[0], None
        assert found.dx is not None
        assert found.dx_exponent is not None
        return found.grads[0], at_exponent(found.dx[0, 0], int(found.dx_exponent.ravel()[0]))

    def _directions(self, v: Array) -> tuple[LayerState, ...]:
        """[K, N, S] as directions of the state."""
        return state_of_columns(self.net, self.batch, self.dtype, v.transpose(1, 2, 0))

    def _state(self, z: Array) -> tuple[LayerState, ...]:
        return tuple(_without_axis(layer) for layer in self._directions(z[None]))

    def _rows(self, states: Any, exponents: NDArray[np.int32]) -> NDArray[np.float64]:
        """Directions of the state as [K, N, S]."""
        columns, exponent = columns_of(self.net, self.batch, self.dtype, states, exponents)
        return np.ldexp(columns.transpose(2, 0, 1), exponent)


@dataclass(frozen=True, eq=False)
class OutputSystem(System):
    """One step of a net from the zero state: z is its output, and its input is [z, x], x [N, X]."""

    net: Stack
    params: Params
    x: Array
    threads: int | None = None

    @property
    def batch(self) -> int:
        return len(self.x)

    @property
    def size(self) -> int:
        return self.net.output_size

    def take(self, rows: Rows) -> OutputSystem:
        return replace(self, x=self.x[rows])

    def value(self, z: Array) -> Array:
        outputs, _ = apply(self.net, self.params, self._input(z), threads=self.threads)
        found: Array = outputs[0]
        return found

    def tangents(self, z: Array, v: Array) -> NDArray[np.float64]:
        v = v.astype(self.dtype, copy=False)
        moved = np.concatenate([v, np.zeros((*v.shape[:2], self.x.shape[1]), self.dtype)], axis=2)
        found = jvp(self.net, self.params, self._input(z), dx=moved[:, None], threads=self.threads)
        moved_outputs: Array = found.d_outputs[:, 0]
        return np.ldexp(moved_outputs.astype(np.float64), int(found.d_outputs_exponent[0]))

    def cotangents(self, z: Array, u: Array) -> NDArray[np.float64]:
        found = vjp(
            self.net,
            self.params,
            self._input(z),
            d_outputs=u.astype(self.dtype, copy=False)[:, None],
            wrt=("x",),
            threads=self.threads,
        )
        assert found.dx is not None
        assert found.dx_exponent is not None
        dz = found.dx[:, 0, :, : self.size].astype(np.float64)
        return np.ldexp(dz, int(found.dx_exponent[0]))

    def pull(self, z: Array, u: Array) -> tuple[Grads, Array | None]:
        found = vjp(
            self.net,
            self.params,
            self._input(z),
            d_outputs=u.astype(self.dtype, copy=False)[None, None],
            wrt=("params", "x"),
            threads=self.threads,
        )
        assert found.grads is not None
        assert found.dx is not None
        assert found.dx_exponent is not None
        dx = np.ascontiguousarray(found.dx[0, 0, :, self.size :])
        return found.grads[0], at_exponent(dx, int(found.dx_exponent.ravel()[0]))

    def _input(self, z: Array) -> Array:
        joined: Array = np.concatenate([z, self.x], axis=1)
        return joined[None]


def at_exponent(array: Array, exponent: int) -> Array:
    """array * 2**exponent in its dtype; raises NonFiniteError if it overflows."""
    if not exponent:
        return array
    with np.errstate(over="ignore", under="ignore"):
        scaled: Array = np.ldexp(array, exponent)
    if not np.isfinite(scaled).all():
        raise NonFiniteError(
            f"a cotangent times 2**{exponent} is beyond the range of {array.dtype}: the gradient "
            "explodes in the part of the model after this layer. Use float64, or scale the loss "
            "down."
        )
    return scaled


def checked_rows(name: str, value: Any, shape: tuple[int, int], dtype: np.dtype[Any]) -> Array:
    """Checks an array of values of z: shape [N, S], dtype, and that all values are finite."""
    array = np.asarray(value)
    if array.shape != shape:
        raise ShapeError(
            f"{name} must have shape (N, S) = {shape}, one row per sample; got {array.shape}."
        )
    if array.dtype != dtype:
        raise DTypeError(
            f"{name} must have dtype {dtype}, that of the parameters; got {array.dtype}. "
            f"Convert it with .astype({str(dtype)!r})."
        )
    if not np.isfinite(array).all():
        raise ArgumentError(f"{name} must be finite; it holds NaN or infinity.")
    return array


def _with_axis(layer: LayerState) -> LayerState:
    return LayerState(
        layer.h[None],
        None if layer.c is None else layer.c[None],
        None if layer.skip is None else layer.skip[None],
        further=None if layer.further is None else layer.further[None],
    )


def _without_axis(layer: LayerState) -> LayerState:
    return LayerState(
        layer.h[0],
        None if layer.c is None else layer.c[0],
        None if layer.skip is None else layer.skip[0],
        further=None if layer.further is None else layer.further[0],
    )
