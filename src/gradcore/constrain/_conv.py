"""Spectral norms of convolutions: exact by FFT for circular padding, bounds for zero padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .._base.checks import choice, float_in, positive_int
from ..errors import ArgumentError, DTypeError, NonFiniteError, ShapeError
from ..spectral import Operator, spectral_norm
from ._matrices import largest

__all__ = ["ConvNorm", "conv_norm", "project_conv"]

Padding = Literal["circular", "zeros"]
# project_conv alternates its two projections at most so many times.
MOST_ROUNDS = 200


@dataclass(frozen=True)
class ConvNorm:
    """The spectral norm of a convolution lies in [lower, upper]; exact: the two are equal."""

    lower: float
    upper: float
    exact: bool


def conv_norm(
    kernel: Any, input_shape: Sequence[int], padding: Padding = "circular", *, seed: int = 0
) -> ConvNorm:
    """The spectral norm of a convolution with stride 1 that keeps the size of its input.

    kernel: (out, in, k) or (out, in, kh, kw), laid out as in torch.nn.Conv1d and Conv2d, with odd
    k. input_shape: (n,) or (h, w).

    With padding "circular" a Fourier transform makes the convolution block diagonal, so its norm is
    the largest norm of a block, exact up to rounding. With padding "zeros" its matrix is a
    submatrix of that of a circular convolution on a grid larger by k-1, whose norm is the upper
    bound; the lower bound comes from a Lanczos iteration with the convolution itself, which starts
    from a random vector (seed).
    Raises ShapeError, DTypeError, ArgumentError, NonFiniteError.
    Reference: Sedghi, Gupta, Long 2019, theorem 6 (circular); Golub and Van Loan 2013, section 2.3
    (the norm of a submatrix is at most that of the matrix).
    """
    choice("padding", padding, get_args(Padding))
    w, shape = _checked(kernel, input_shape)
    if padding == "circular":
        norm = float(_symbol_norms(w, shape).max())
        return ConvNorm(norm, norm, True)
    larger = tuple(n + k - 1 for n, k in zip(shape, w.shape[2:], strict=True))
    upper = float(_symbol_norms(w, larger).max())
    operator = _zero_padded(w, shape)
    lower = float(np.asarray(spectral_norm(operator, 1e-4, seed=seed, max_steps=200).lower))
    return ConvNorm(min(lower, upper), upper, False)


def project_conv(
    kernel: Any, input_shape: Sequence[int], limit: float = 1.0, padding: Padding = "circular"
) -> NDArray[Any]:
    """A kernel of the same size near the given one, whose convolution has at most norm `limit`.

    Two projections alternate: singular values of the symbol are clipped, and the kernel is cut to
    its size again. A final scaling guarantees the limit for both paddings, because it scales by the
    upper bound of conv_norm. A kernel within the limit is returned unchanged.
    Raises what conv_norm raises. Reference: Sedghi, Gupta, Long 2019, section 3.
    """
    choice("padding", padding, get_args(Padding))
    limit = float_in("limit", limit, 0, open_low=True)
    w, shape = _checked(kernel, input_shape)
    grid = shape
    if padding == "zeros":
        grid = tuple(n + k - 1 for n, k in zip(shape, w.shape[2:], strict=True))
    now = w
    for _ in range(MOST_ROUNDS):
        symbol = _symbol(now, grid)
        u, s, vh = np.linalg.svd(symbol, full_matrices=False)
        if s.max() <= limit * (1 + 1e-6):
            break
        now = _kernel_of((u * np.minimum(s, limit)[..., None, :]) @ vh, w.shape[2:], grid)
    top = float(_symbol_norms(now, grid).max())
    if top > limit:
        now = now * (limit / top)
    made: NDArray[Any] = now.astype(np.asarray(kernel).dtype)
    return made


def _checked(
    kernel: Any, input_shape: Sequence[int]
) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    array = np.asarray(kernel)
    if array.dtype not in (np.float32, np.float64):
        raise DTypeError(f"kernel must be float32 or float64; got {array.dtype}.")
    if array.ndim not in (3, 4):
        raise ShapeError(
            f"kernel must have shape (out, in, k) or (out, in, kh, kw); got {array.shape}."
        )
    shape = tuple(positive_int("input_shape", n) for n in input_shape)
    if len(shape) != array.ndim - 2:
        raise ShapeError(
            f"input_shape must have {array.ndim - 2} sizes for a kernel of shape {array.shape}; "
            f"got {shape}."
        )
    if any(k % 2 == 0 for k in array.shape[2:]):
        raise ArgumentError(
            f"kernel sizes must be odd, so that the output is as large as the input; got "
            f"{array.shape[2:]}. Pad the kernel with a row or column of zeros."
        )
    if any(k > n for k, n in zip(array.shape[2:], shape, strict=True)):
        raise ArgumentError(
            f"the kernel, {array.shape[2:]}, must not be larger than the input, {shape}."
        )
    if not np.isfinite(array).all():
        raise NonFiniteError("kernel holds NaN or infinity.")
    return array.astype(np.float64), shape


def _symbol(w: NDArray[np.float64], grid: tuple[int, ...]) -> NDArray[np.complex128]:
    """(modes, out, in): the matrix by which the circular convolution multiplies each Fourier mode.

    It is right up to a phase, which changes no norm.
    """
    axes = tuple(range(2, w.ndim))
    padded = np.zeros((*w.shape[:2], *grid))
    padded[(slice(None), slice(None), *(slice(0, k) for k in w.shape[2:]))] = w
    symbol = np.fft.fftn(padded, axes=axes)
    return symbol.reshape(*w.shape[:2], -1).transpose(2, 0, 1)


def _kernel_of(
    symbol: NDArray[np.complex128], sizes: tuple[int, ...], grid: tuple[int, ...]
) -> NDArray[np.float64]:
    """The kernel of a symbol by the inverse transform, cut to the kernel's size."""
    full = symbol.transpose(1, 2, 0).reshape(*symbol.shape[1:], *grid)
    values = np.fft.ifftn(full, axes=tuple(range(2, full.ndim))).real
    return values[(slice(None), slice(None), *(slice(0, k) for k in sizes))]


def _symbol_norms(w: NDArray[np.float64], grid: tuple[int, ...]) -> NDArray[np.float64]:
    symbol = _symbol(w, grid)
    if 1 in symbol.shape[1:]:
        norms: NDArray[np.float64] = np.sqrt((np.abs(symbol) ** 2).sum(axis=(1, 2)))
        return norms
    # The real matrix [[Re, -Im], [Im, Re]] has the singular values of the complex one, each twice.
    real, imag = symbol.real, symbol.imag
    both = np.block([[real, -imag], [imag, real]])
    return largest(both)


def _zero_padded(w: NDArray[np.float64], shape: tuple[int, ...]) -> Operator:
    """The zero-padded convolution and its transpose on flat inputs, by FFT on a larger grid."""
    sizes = w.shape[2:]
    grid = tuple(n + k - 1 for n, k in zip(shape, sizes, strict=True))
    axes = tuple(range(2, 2 + len(shape)))
    padded = np.zeros((*w.shape[:2], *grid))
    padded[(slice(None), slice(None), *(slice(0, k) for k in sizes))] = w
    symbol = np.fft.fftn(padded, axes=axes)
    start = tuple(slice(k // 2, k // 2 + n) for n, k in zip(shape, sizes, strict=True))
    own = tuple(slice(0, n) for n in shape)
    sum_axes = tuple(range(1, 1 + len(shape)))

    def across(x: NDArray[Any]) -> NDArray[Any]:
        image = np.zeros((w.shape[1], *grid))
        image[(slice(None), *start)] = x.reshape(w.shape[1], *shape)
        spectrum = np.fft.fftn(image, axes=sum_axes)
        # PyTorch's convolution is a cross-correlation, so a real kernel's symbol is conjugated.
        out = np.fft.ifftn(np.einsum("oi...,i...->o...", symbol.conj(), spectrum), axes=sum_axes)
        return out.real[(slice(None), *own)].reshape(-1)

    def back(y: NDArray[Any]) -> NDArray[Any]:
        image = np.zeros((w.shape[0], *grid))
        image[(slice(None), *own)] = y.reshape(w.shape[0], *shape)
        spectrum = np.fft.fftn(image, axes=sum_axes)
        out = np.fft.ifftn(np.einsum("oi...,o...->i...", symbol, spectrum), axes=sum_axes)
        return out.real[(slice(None), *start)].reshape(-1)

    points = int(np.prod(shape))
    return Operator((w.shape[0] * points, w.shape[1] * points), across, back)
