"""A function of the outputs of all steps as a loss: in NumPy, PyTorch or JAX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._net import validate
from ..errors import ArgumentError, DTypeError, NonFiniteError, ShapeError
from ..loss import WholeSequence

__all__ = ["FunctionLoss", "checked_gradient"]

Array = NDArray[Any]


class FunctionLoss:
    """Calls the function of a WholeSequence."""

    def __init__(self, loss: WholeSequence, dtype: np.dtype[Any], y: object) -> None:
        self.loss, self.dtype, self.y = loss, dtype, y
        self.call = {"numpy": _by_numpy, "torch": _by_torch, "jax": _by_jax}[loss.framework]

    def bytes(self, gradient: bool, threads: int) -> int:
        """What the function takes is its own and not known."""
        return 0

    def evaluate(
        self, outputs: Array, lengths: Array | None, gradient: bool, threads: int
    ) -> tuple[float, float, Array | None]:
        value, found = self.call(self.loss.function, outputs, self.y, lengths, gradient)
        if not math.isfinite(value):
            raise NonFiniteError(f"the function of the whole sequence returned {value}.")
        if not gradient:
            return value, float(outputs.shape[1]), None
        assert found is not None
        return value, float(outputs.shape[1]), checked_gradient(found, outputs.shape, self.dtype)


def checked_gradient(gradient: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The gradient that a loss function returned, if it has the shape and dtype of the outputs."""
    array = validate.as_array("d_outputs", gradient)
    if array.shape != shape:
        raise ShapeError(f"d_outputs must have the shape of outputs, {shape}; got {array.shape}.")
    if array.dtype != dtype:
        raise DTypeError(f"d_outputs must have dtype {dtype}; got {array.dtype}.")
    return array


def _by_numpy(
    function: Callable[..., Any], outputs: Array, y: Any, lengths: Array | None, gradient: bool
) -> tuple[float, Any]:
    result = function(outputs, y, lengths)
    if not isinstance(result, tuple) or len(result) != 2:
        raise DTypeError(
            f"the function must return (loss, d_outputs); got {type(result).__name__}. A function "
            'of PyTorch or JAX that returns the loss alone needs framework="torch" or "jax".'
        )
    return float(result[0]), result[1]


def _by_torch(
    function: Callable[..., Any], outputs: Array, y: Any, lengths: Array | None, gradient: bool
) -> tuple[float, Any]:
    import torch

    def tensor(value: Any) -> Any:
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    with torch.set_grad_enabled(gradient):
        z = torch.from_numpy(outputs).requires_grad_(gradient)
        value = function(z, tensor(y), tensor(lengths))
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise DTypeError(
                "the function must return the loss as a tensor of one number; got "
                f"{tuple(value.shape) if isinstance(value, torch.Tensor) else value!r}."
            )
        if not gradient:
            return float(value), None
        if not value.requires_grad:
            raise ArgumentError(
                "the loss must be computed from the outputs by operations of PyTorch: the tensor "
                "that the function returned has no gradient."
            )
        (found,) = torch.autograd.grad(value.reshape(()), z)
    return float(value.detach()), found.numpy()


def _by_jax(
    function: Callable[..., Any], outputs: Array, y: Any, lengths: Array | None, gradient: bool
) -> tuple[float, Any]:
    import jax

    z = jax.numpy.asarray(outputs)
    if z.dtype != outputs.dtype:
        raise DTypeError(
            f"JAX has made {z.dtype} of outputs that are {outputs.dtype}. Call "
            'jax.config.update("jax_enable_x64", True) first, or use a net of float32.'
        )
    if not gradient:
        return float(function(z, y, lengths)), None
    value, found = jax.value_and_grad(function)(z, y, lengths)
    return float(value), np.asarray(found)
