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

__all__ = ["FunctionLoss", "as_number", "check_finite", "checked_gradient"]

Array = NDArray[Any]
# The elements of so many steps are checked at a time.
BLOCK_STEPS = 1024


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
            return value, float(outputs.shape[-2]), None
        slopes = checked_gradient(found, outputs.shape, self.dtype, lengths)
        return value, float(outputs.shape[-2]), slopes


def checked_gradient(
    gradient: object,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    lengths: Array | None,
    t0: int = 0,
) -> Array:
    """The gradient that a loss function returned for the outputs, `shape`, of steps t0 and later.

    Raises ShapeError or DTypeError unless it has the shape and dtype of the outputs, and
    NonFiniteError if an element within `lengths` is not finite.
    """
    array = validate.as_array("d_outputs", gradient)
    if array.shape != shape:
        raise ShapeError(f"d_outputs must have the shape of outputs, {shape}; got {array.shape}.")
    if array.dtype != dtype:
        raise DTypeError(f"d_outputs must have dtype {dtype}; got {array.dtype}.")
    check_finite(array, lengths, t0)
    return array


def check_finite(gradient: Array, lengths: Array | None, t0: int = 0) -> None:
    """Raises NonFiniteError if an element within `lengths` is not finite; the first step is t0.

    A gradient (B, O) of pooled outputs is one step of all sequences that have any.
    """
    if gradient.ndim == 2:
        gradient = gradient[None]
        lengths = None if lengths is None else np.minimum(lengths, 1)
    for first in range(0, len(gradient), BLOCK_STEPS):
        wrong = ~np.isfinite(gradient[first : first + BLOCK_STEPS])
        if wrong.any() and lengths is not None:
            steps = np.arange(t0 + first, t0 + first + len(wrong))
            wrong &= (steps[:, None] < lengths)[:, :, None]
        if wrong.any():
            t, b, o = (int(i) for i in np.argwhere(wrong)[0])
            raise NonFiniteError(
                "the gradient of the loss by the outputs must be finite; it was given as "
                f"{gradient[first + t, b, o]} at step {t0 + first + t}, sequence {b}, output {o}.",
                step=t0 + first + t,
                sequence=b,
            )


def as_number(loss: Any) -> float:
    """The value that a loss function returned."""
    try:
        return float(loss)
    except (TypeError, ValueError) as error:
        raise DTypeError(
            f"the function must return the loss as one number; got {loss!r:.80}."
        ) from error


def _by_numpy(
    function: Callable[..., Any], outputs: Array, y: Any, lengths: Array | None, gradient: bool
) -> tuple[float, Any]:
    result = function(outputs, y, lengths)
    if not isinstance(result, tuple) or len(result) != 2:
        raise DTypeError(
            f"the function must return (loss, d_outputs); got {type(result).__name__}. A function "
            'of PyTorch or JAX that returns the loss alone needs framework="torch" or "jax".'
        )
    return as_number(result[0]), result[1]


def _by_torch(
    function: Callable[..., Any], outputs: Array, y: Any, lengths: Array | None, gradient: bool
) -> tuple[float, Any]:
    import torch

    def tensor(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        # PyTorch has neither read-only tensors nor negative strides.
        shared = value.flags.writeable and all(stride >= 0 for stride in value.strides)
        return torch.from_numpy(value if shared else value.copy())

    with torch.set_grad_enabled(gradient):
        z = torch.from_numpy(outputs).requires_grad_(gradient)
        value = function(z, tensor(y), tensor(lengths))
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise DTypeError(
                "the function must return the loss as a tensor of one number; got "
                f"{tuple(value.shape) if isinstance(value, torch.Tensor) else value!r}."
            )
        if value.is_complex():
            raise DTypeError(
                f"the loss must be a real number; the function returned {value!r:.80}."
            )
        if not gradient:
            return float(value), None
        found = None
        if value.requires_grad:
            (found,) = torch.autograd.grad(value.reshape(()), z, allow_unused=True)
        if found is None:
            raise ArgumentError(
                "the loss must be computed from the outputs by operations of PyTorch: the tensor "
                "that the function returned has no gradient by them."
            )
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
        return as_number(function(z, y, lengths)), None
    value, found = jax.value_and_grad(function)(z, y, lengths)
    return as_number(value), np.asarray(found)
