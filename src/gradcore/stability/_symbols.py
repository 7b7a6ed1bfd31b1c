"""Symbols: the amplification factors of layers on periodic grids, mode by mode."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .._base.checks import choice, finite_float, float_in, integer, positive_int
from .._base.output import write_figure
from .._net import validate
from .._net.cells import RNN, AntisymmetricRNN
from .._net.skip_paths import skip_strengths
from .._net.stack import Params, Stack
from .._net.structure import dense_weight_hh
from ..constrain import conv_norm, project_conv
from ..errors import ArgumentError, DTypeError, NonFiniteError, ShapeError
from ._pictures import draw_symbol

__all__ = [
    "METHODS",
    "Boundary",
    "Linearisation",
    "ModeGrowth",
    "StepLimit",
    "Symbol",
    "boundary",
    "circulant",
    "convolution",
    "linearise",
    "power",
    "project",
    "recurrent",
    "residual",
    "stable_step",
]

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]
Method = Literal["euler", "rk2", "rk4"]

# Coefficients of 1, z, z^2, ... in the stability function R(z) of each method: one step on
# u' = lambda u multiplies u by R(step * lambda) (Hairer and Wanner 1996, section IV.2).
METHODS: dict[str, tuple[float, ...]] = {
    "euler": (1.0, 1.0),
    "rk2": (1.0, 1.0, 1 / 2),
    "rk4": (1.0, 1.0, 1 / 2, 1 / 6, 1 / 24),
}
# No point of any of these stability regions is farther from 0.
FARTHEST = 3.1
# A factor counts as larger than 1 only if it exceeds 1 by this, because sums over a kernel have
# rounding errors.
ROUNDING = 1e-9
# Eigenvalues on the unit circle that are this close count as one double eigenvalue, which may have
# a single eigenvector: the error of a double eigenvalue is the square root of the rounding error.
DOUBLE_ROOT = 1e-6
# The largest size of a state in linearise, which forms the Jacobian: 4,096 x 4,096 doubles take
# 134 MB.
MOST_ENTRIES = 4_096


class ModeGrowth(Enum):
    """How perturbations grow over many layers; the value is a message that says what to do."""

    CONTRACTIVE = "|G(k)| <= 1 for all modes: no perturbation ever grows."
    BOUNDED = (
        "The eigenvalues of all G(k) lie within the unit circle, but |G(k)| > 1 for some k: "
        "perturbations may grow for a while and then stay bounded. See growth()."
    )
    LINEAR = (
        "No eigenvalue of a G(k) lies outside the unit circle, but some on it may be defective: "
        "perturbations may grow like a power of the depth, not exponentially. See growth()."
    )
    UNSTABLE = (
        "Some modes grow in every layer, so exponentially with the depth. Make the step smaller "
        "(stable_step), or bring the kernel to |G(k)| <= 1 (project)."
    )


@dataclass(frozen=True, eq=False)
class Symbol:
    """The amplification factors of a layer on a periodic grid.

    grid: the sizes of the grid. factor (M, out, in) complex: G(k) of each of the M = prod(grid)
    modes, in the order of wave_numbers.
    """

    grid: tuple[int, ...]
    factor: Complex

    @property
    def wave_numbers(self) -> Real:
        """The wave numbers k (M, d) of the modes in radians per cell, within [-pi, pi)."""
        return _wave_numbers(self.grid)

    @property
    def norm(self) -> Real:
        """|G(k)|_2 (M,), the largest factor by which the amplitude of a mode can grow per layer."""
        found: Real = np.linalg.norm(self.factor, 2, axis=(1, 2))
        return found

    @property
    def eigenvalues(self) -> Complex:
        """The eigenvalues of every G(k), (M, channels); raises ShapeError if G(k) is not square."""
        self._square("eigenvalues")
        found: Complex = np.linalg.eigvals(self.factor).astype(complex)
        return found

    @property
    def radius(self) -> Real:
        """Spectral radius of every G(k), (M,), the growth per layer over many layers."""
        found: Real = np.abs(self.eigenvalues).max(axis=1)
        return found

    @property
    def outcome(self) -> ModeGrowth:
        """How perturbations grow over many such layers."""
        if self.norm.max() <= 1 + ROUNDING:
            return ModeGrowth.CONTRACTIVE
        values = self.eigenvalues
        # A double eigenvalue on the circle that rounding has moved outside is no growth.
        if np.abs(values).max() > 1 + DOUBLE_ROOT:
            return ModeGrowth.UNSTABLE
        for own in values:
            on = own[np.abs(own) > 1 - DOUBLE_ROOT]
            apart = np.abs(on[:, None] - on[None, :]) + np.eye(len(on)) * 2 * DOUBLE_ROOT
            if len(on) > 1 and apart.min() < DOUBLE_ROOT:
                return ModeGrowth.LINEAR
        return ModeGrowth.UNSTABLE if np.abs(values).max() > 1 + ROUNDING else ModeGrowth.BOUNDED

    def growth(self, depth: int) -> Real:
        """log10 |G(k)^t|_2 for t = 0..depth, (depth+1, M); -inf for 0. It cannot overflow."""
        self._square("growth")
        depth = positive_int("depth", depth)
        found = np.zeros((depth + 1, len(self.factor)))
        now: Any = np.broadcast_to(np.eye(self.factor.shape[1]), self.factor.shape)
        scale: Real = np.zeros(len(self.factor))
        for t in range(1, depth + 1):
            now = self.factor @ now
            size = np.linalg.norm(now, 2, axis=(1, 2))
            with np.errstate(divide="ignore"):
                scale += np.log10(size)
            now = now / np.where(size > 0, size, 1.0)[:, None, None]
            found[t] = scale
        return found

    def __matmul__(self, other: Symbol) -> Symbol:
        """The symbol of two layers in sequence: `other` first, then this one."""
        if not isinstance(other, Symbol):
            return NotImplemented
        if self.grid != other.grid or self.factor.shape[2] != other.factor.shape[1]:
            raise ShapeError(
                f"a layer that reads {self.factor.shape[2]} channels on the grid {self.grid} "
                f"cannot follow one that gives {other.factor.shape[1]} channels on {other.grid}."
            )
        return Symbol(self.grid, self.factor @ other.factor)

    def plot(self, path: str | os.PathLike[str], *, title: str = "") -> None:
        """Saves a picture of |G| over k: a curve for a grid of one axis, a map for two axes.

        Raises ArgumentError for more axes; needs matplotlib.
        """
        channels = self.factor.shape[1:]
        radius = self.radius if len(self.grid) == 1 and channels[0] == channels[1] > 1 else None
        figure = draw_symbol(self.grid, self.wave_numbers, self.norm, radius, title)
        write_figure(path, figure, dpi=130)

    def _square(self, what: str) -> None:
        if self.factor.shape[1] != self.factor.shape[2]:
            raise ShapeError(
                f"{what} needs as many output channels as input channels; G(k) has shape "
                f"{self.factor.shape[1:]}. Use norm instead."
            )


# ---- symbols of layers


def convolution(
    kernel: Any,
    grid: Sequence[int],
    *,
    dilation: int = 1,
    origin: int | Sequence[int] | None = None,
) -> Symbol:
    """G(k) = sum_j W_j exp(i k.(j - origin)) of a convolution of stride 1 on a periodic grid.

    kernel: (out, in, *sizes), a cross-correlation as in torch.nn.ConvNd, or (size,) for a single
    channel in one dimension. grid: one size per axis of the kernel. origin: index of the kernel
    element that multiplies a cell's own value; the default is the middle, size//2.
    Raises ShapeError, DTypeError, ArgumentError, NonFiniteError.
    """
    w = _kernel(kernel)
    shape = _grid(grid, w.ndim - 2)
    wide = positive_int("dilation", dilation)
    sizes = w.shape[2:]
    if origin is None:
        middle = tuple(n // 2 for n in sizes)
    else:
        given = [origin] * len(sizes) if isinstance(origin, int) else list(origin)
        middle = tuple(integer("origin", at) for at in given)
    if len(middle) != len(sizes) or any(not 0 <= m < n for m, n in zip(middle, sizes, strict=True)):
        raise ArgumentError(f"origin must be an index into the kernel, {sizes}; got {origin!r}.")
    k = _wave_numbers(shape)
    places = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), axis=-1)
    offsets = wide * (places.reshape(-1, len(sizes)) - np.array(middle))
    waves = np.exp(1j * (k @ offsets.T))
    taps = w.reshape(*w.shape[:2], -1).astype(complex)
    return Symbol(shape, np.einsum("oij,mj->moi", taps, waves))


def residual(symbol: Symbol, step: float = 1.0) -> Symbol:
    """The symbol I + step * G(k) of the layer x + step * layer(x), a step of Euler's method."""
    return power(symbol, step, method="euler")


def power(symbol: Symbol, step: float, *, method: Method = "euler") -> Symbol:
    """The symbol R(step * G(k)) of one Runge-Kutta step on u' = layer(u); method: see METHODS."""
    if not isinstance(symbol, Symbol):
        raise DTypeError(f"symbol must be a Symbol, as convolution(...); got {symbol!r}.")
    choice("method", method, get_args(Method))
    symbol._square("a residual layer")
    z = finite_float("step", step) * symbol.factor
    eye = np.eye(z.shape[1])
    made = np.zeros_like(z)
    for coefficient in reversed(METHODS[method]):
        made = made @ z + coefficient * eye
    return Symbol(symbol.grid, made)


def circulant(matrix: Any, *, tolerance: float = 1e-6) -> Symbol:
    """The symbol of a circulant matrix (n, n): its eigenvalues, for the n modes of a ring.

    tolerance: the allowed distance from the nearest circulant matrix, relative to the Frobenius
    norm. Raises ArgumentError with the distance if it is larger; ShapeError, DTypeError,
    NonFiniteError.
    """
    made = _dense(np.asarray(matrix), 1, None)
    if made.defect > float_in("tolerance", tolerance, 0.0):
        raise ArgumentError(
            f"the matrix must be circulant, but {100 * made.defect:.2g} % of its norm is its "
            "distance from the nearest circulant matrix, so Fourier modes are coupled. "
            "spectral.spectral_norm and lyapunov.spectrum work for all matrices."
        )
    return made.symbol


def recurrent(
    net: Stack, params: Params, *, layer: int = 0, slope: float = 1.0, tolerance: float = 1e-6
) -> Symbol:
    """The symbol of a time step of an RNN or AntisymmetricRNN with circulant recurrent weights.

    slope: the slope of the nonlinearity at the point of linearisation, the same for all units; it
    is 1 for tanh at 0 and for the identity.

    With a skip connection of lag L the state of a mode is (h_t, ..., h_(t-L+1)), and G(k) is the
    (L, L) companion matrix of r^L = g r^(L-1) + s. tolerance: see circulant. Raises ArgumentError
    for other cells, for weights that are not circulant, and for learned skip connections whose
    strengths differ among units.
    """
    validate.model(net, params)
    which = validate.recurrent_index(net, layer)
    own, name = net.recurrent[which], net.recurrent_names[which]
    if not isinstance(own, (RNN, AntisymmetricRNN)) or own.bidirectional or own.zoneout:
        raise ArgumentError(
            "von_neumann.recurrent needs an RNN or AntisymmetricRNN layer that reads time forward "
            f"and has no zoneout; {name} is not such a layer. Use linearise for a function of h."
        )
    place = name.partition(".")[0]
    weight = dense_weight_hh(own, params.get(f"{place}.weight_hh")).astype(np.float64)
    slope = finite_float("slope", slope)
    if isinstance(own, AntisymmetricRNN):
        turn = weight - weight.T - own.diffusion * np.eye(len(weight))
        single = residual(circulant(turn, tolerance=tolerance), own.step * slope)
    else:
        made = circulant(weight, tolerance=tolerance)
        single = Symbol(made.grid, slope * made.factor)
    if own.skip is None:
        return single
    values = skip_strengths(own.skip, params, place)
    if np.ptp(values) > tolerance * max(1.0, float(np.abs(values).max())):
        raise ArgumentError(
            f"the skip connection of {name} is learned and differs among units, from "
            f"{values.min():.3g} to {values.max():.3g}, so Fourier modes are coupled and there is "
            "no symbol."
        )
    strength = float(values.mean())
    hop = 1.0 if own.skip.kind == "add" else 1.0 - strength
    lag = own.skip.lag
    factor = np.zeros((len(single.factor), lag, lag), complex)
    factor[:, np.arange(1, lag), np.arange(lag - 1)] = 1.0
    factor[:, 0, 0] = hop * single.factor[:, 0, 0]
    factor[:, 0, lag - 1] += strength
    return Symbol(single.grid, factor)


@dataclass(frozen=True, eq=False)
class Linearisation:
    """The Jacobian J of a layer at a state, and the nearest translation-invariant matrix.

    symbol: the symbol of that matrix. defect: its distance from J, relative to J's Frobenius norm:
    0 if the layer acts equally at every point, up to 1 if J has no translation-invariant part. The
    larger it is, the less the symbol says about J. norm, radius: largest singular value and
    spectral radius of J itself; radius is None if J is not square.
    """

    symbol: Symbol
    defect: float
    norm: float
    radius: float | None


def linearise(
    f: Callable[[Real], Any],
    state: Any,
    *,
    jvp: Callable[[Real, Real], Any] | None = None,
) -> Linearisation:
    """The linearisation of a nonlinear layer at a state, mode by mode.

    f: a function from (channels, *grid) to (out channels, *grid). state: the point of
    linearisation. jvp(state, v): J v; without it central differences are used, with errors of about
    1e-9 of the scale of f.

    If the layer treats all points equally and the state is constant, J is translation-invariant and
    the symbol is exact; otherwise the symbol is that of J averaged over all points, and defect says
    how much is left out.
    Raises ShapeError, DTypeError, NonFiniteError, and ArgumentError for a state of more than 4,096
    numbers.
    """
    at = np.asarray(state)
    if at.dtype.kind not in "fiu" or at.ndim < 2:
        raise DTypeError(f"state must be numbers (channels, *grid); got {at.dtype}, {at.shape}.")
    at = at.astype(np.float64)
    if not np.isfinite(at).all():
        raise NonFiniteError("state holds NaN or infinity.")
    if at.size > MOST_ENTRIES:
        raise ArgumentError(
            f"state must have at most {MOST_ENTRIES:,} numbers, because the Jacobian is formed as "
            f"a matrix; it has {at.size:,}. Use a smaller grid."
        )
    out = np.asarray(f(at))
    if out.ndim != at.ndim or out.shape[1:] != at.shape[1:]:
        raise ShapeError(
            f"f must return (channels, *{at.shape[1:]}) for a state of {at.shape}; got {out.shape}."
        )
    scale = max(1.0, float(np.abs(at).max()))
    step = scale * float(np.finfo(float).eps) ** (1 / 3)
    columns = []
    for index in range(at.size):
        v = np.zeros(at.shape)
        v.flat[index] = 1.0
        if jvp is not None:
            column = np.asarray(jvp(at, v), np.float64)
        else:
            column = (np.asarray(f(at + step * v)) - np.asarray(f(at - step * v))) / (2 * step)
        if column.shape != out.shape:
            raise ShapeError(f"jvp must return an array of f's shape {out.shape}.")
        columns.append(column.reshape(-1))
    return _dense(np.stack(columns, axis=1), at.shape[0], at.shape[1:])


# ---- limits


@dataclass(frozen=True)
class StepLimit:
    """The largest stable step of u + step * layer(u), or of a Runge-Kutta method.

    step: inf if every step is stable for all modes. wave_number, eigenvalue: k and lambda of the
    mode that limits the step. reason: a sentence that says so.
    """

    step: float
    wave_number: tuple[float, ...]
    eigenvalue: complex
    reason: str


def stable_step(symbol: Symbol, *, method: Method = "euler") -> StepLimit:
    """The largest h with |R(h lambda)| <= 1 for all smaller steps and all eigenvalues of all G(k).

    For waves this is the limit of Courant, Friedrichs and Lewy. For Euler's method it is exactly
    h = -2 Re(lambda)/|lambda|^2, so 0 if a mode rotates without decay or grows; for the others it
    is found by bisection to 1e-12. method: see METHODS.

    If G(k) is not normal, perturbations may grow for a while even below the limit: see
    Symbol.outcome.
    Raises DTypeError, ShapeError, ArgumentError.
    Reference: Courant, Friedrichs, Lewy 1928; Hairer and Wanner 1996, section IV.2.
    """
    if not isinstance(symbol, Symbol):
        raise DTypeError(f"symbol must be a Symbol, as convolution(...); got {symbol!r}.")
    choice("method", method, get_args(Method))
    values = symbol.eigenvalues
    flat = values.reshape(-1)
    size = np.abs(flat)
    # Eigenvalues that are 0 up to rounding do not limit the step.
    there = size > ROUNDING * max(float(size.max(initial=0.0)), np.finfo(float).tiny)
    limits = np.full(flat.shape, np.inf)
    limits[there] = [_along(method, complex(z)) for z in flat[there]]
    least = int(np.argmin(limits))
    k = tuple(float(v) for v in symbol.wave_numbers[least // values.shape[1]])
    step, z = float(limits[least]), complex(flat[least])
    shown = ", ".join(f"{v:.4g}" for v in k)
    if np.isinf(step):
        reason = "The layer is zero: every step is stable."
    elif step == 0.0:
        kind = "turns without loss" if abs(z.real) <= ROUNDING * abs(z) else "grows"
        reason = (
            f"The mode k = {shown} {kind} (lambda = {z:.4g}): {method} amplifies it at every step. "
            "Damp it, or use a method whose stability region contains it, such as rk4 for pure "
            "rotations."
        )
    else:
        reason = f"The mode k = {shown} with lambda = {z:.4g} allows steps up to {step:.6g}."
    return StepLimit(step, k, z, reason)


@dataclass(frozen=True)
class Boundary:
    """The spectral norm of a convolution with circular and with zero padding.

    circular: max |G(k)| on the grid, the norm with circular padding.

    With zero padding the norm is between lower and upper. The matrix with zero padding is a
    submatrix of that of the convolution on an infinite grid, so its norm is at most sup |G| over
    all k; but G does not give its powers and eigenvalues: a shift has |G| = 1, and with zero
    padding all its eigenvalues are 0.
    """

    circular: float
    lower: float
    upper: float


def boundary(kernel: Any, grid: Sequence[int], *, seed: int = 0) -> Boundary:
    """The spectral norms of a convolution with circular and zero padding; kernel sizes must be odd.

    Arguments and errors are those of constrain.conv_norm.
    """
    circular = conv_norm(kernel, grid, "circular")
    zeros = conv_norm(kernel, grid, "zeros", seed=seed)
    return Boundary(circular.upper, zeros.lower, zeros.upper)


def project(
    kernel: Any, grid: Sequence[int], *, step: float | None = None, limit: float = 1.0
) -> NDArray[Any]:
    """A kernel of the same size near the given one with |G(k)|_2 <= limit for all k of the grid.

    step: if given, the condition is |I + step * G(k)|_2 <= limit, for the residual layer
    x + step * conv(x), and limit must be at least 1.

    Kernel sizes must be odd. It uses constrain.project_conv, which also does zero padding and has
    the same errors.
    """
    if step is None:
        return project_conv(kernel, grid, limit)
    step = float_in("step", step, 0.0, open_low=True)
    float_in("limit", limit, 1.0)
    w = np.asarray(kernel)
    if w.ndim < 3 or w.shape[0] != w.shape[1]:
        raise ShapeError(
            f"a residual kernel must have shape (channels, channels, *sizes); got {w.shape}."
        )
    one = np.zeros(w.shape)
    one[(slice(None), slice(None), *(n // 2 for n in w.shape[2:]))] = np.eye(len(w))
    wide = w.astype(np.float64)
    moved = project_conv(one + step * wide, grid, limit)
    made: NDArray[Any] = ((moved - one) / step).astype(w.dtype)
    return made


# ---- parts


def _wave_numbers(grid: tuple[int, ...]) -> Real:
    axes = [2 * np.pi * np.fft.fftfreq(n) for n in grid]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(grid))


def _kernel(kernel: Any) -> Real:
    w = np.asarray(kernel)
    if w.dtype.kind not in "fiu":
        raise DTypeError(f"kernel must be real numbers; got {w.dtype}.")
    w = w.astype(np.float64)
    if w.ndim == 1:
        w = w[None, None]
    if w.ndim < 3 or w.size == 0:
        raise ShapeError(
            f"kernel must have shape (out, in, *sizes), or (size,) for one channel; got {w.shape}."
        )
    if not np.isfinite(w).all():
        raise NonFiniteError("kernel holds NaN or infinity.")
    return w


def _grid(grid: Sequence[int], axes: int) -> tuple[int, ...]:
    shape = tuple(positive_int("grid", n) for n in grid)
    if len(shape) != axes:
        raise ShapeError(
            f"grid must have a size for each of the kernel's {axes} axes; got {shape}."
        )
    return shape


def _along(method: str, z: complex) -> float:
    """The largest h with |R(s z)| <= 1 for all s in [0, h]."""
    if method == "euler":
        if abs(z.real) <= ROUNDING * abs(z):
            return 0.0
        return max(0.0, -2 * z.real / abs(z) ** 2)
    ray = z / abs(z)

    def grows(r: Any) -> Any:
        return np.abs(np.polyval(METHODS[method][::-1], r * ray)) > 1 + 1e-13

    # R(z) = exp(z) + O(z^(p+1)) near 0, so growth of a rotation starts below float64's precision.
    r = np.linspace(0.0, FARTHEST, 3_101)[1:]
    out = np.flatnonzero(grows(r))
    first = int(out[0])  # the regions are bounded
    if first <= 10 and (z.real > 0 or method == "rk2"):
        return 0.0
    low, high = (r[first - 1] if first else 0.0), r[first]
    while high - low > 1e-13:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if grows(middle) else (middle, high)
    return float(low / abs(z))


def _dense(matrix: NDArray[Any], channels: int, grid: tuple[int, ...] | None) -> Linearisation:
    """Transforms a Jacobian (out * P, in * P) to Fourier modes and splits off its diagonal part."""
    if matrix.dtype.kind not in "fiu":
        raise DTypeError(f"matrix must be real numbers; got {matrix.dtype}.")
    if grid is None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
            raise ShapeError(f"matrix must be square; got {matrix.shape}.")
        grid = (len(matrix),)
    j = matrix.astype(np.float64)
    if not np.isfinite(j).all():
        raise NonFiniteError("the Jacobian holds NaN or infinity.")
    points = int(np.prod(grid))
    out, own = len(j) // points, tuple(range(1, 1 + len(grid)))
    inner = tuple(n + len(grid) + 1 for n in own)
    # Rows are transformed and columns transformed back, so that the translation-invariant part
    # becomes diagonal in the modes.
    both = np.fft.ifftn(
        np.fft.fftn(j.reshape(out, *grid, channels, *grid), axes=own), axes=inner
    ).reshape(out, points, channels, points)
    factor = np.einsum("omim->moi", both)
    whole = float(np.linalg.norm(j))
    outside = both.copy()
    outside[:, np.arange(points), :, np.arange(points)] = 0.0
    defect = float(np.linalg.norm(outside)) / whole if whole > 0 else 0.0
    square = out == channels
    return Linearisation(
        Symbol(grid, factor),
        defect,
        float(np.linalg.norm(j, 2)),
        float(np.abs(np.linalg.eigvals(j)).max()) if square else None,
    )
