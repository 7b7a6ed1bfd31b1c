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
from .._net import validate
from .._net.cells import RNN, AntisymmetricRNN
from .._net.skip_paths import skip_strengths
from .._net.stack import Params, Stack
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

# Stability functions R(z): one step of u' = lambda u multiplies by R(step * lambda) (Hairer and
# Wanner 1996, section IV.2). Coefficients of 1, z, z^2, ...
METHODS: dict[str, tuple[float, ...]] = {
    "euler": (1.0, 1.0),
    "rk2": (1.0, 1.0, 1 / 2),
    "rk4": (1.0, 1.0, 1 / 2, 1 / 6, 1 / 24),
}
# None of these regions reaches farther from 0.
FARTHEST = 3.1
# A factor counts as larger than 1 beyond this: roundings of sums over a kernel.
ROUNDING = 1e-9
# Eigenvalues on the unit circle this close together count as one, which may be defective: that of
# a double root is known to the root of the roundings only.
DOUBLE_ROOT = 1e-6
# The Jacobian of a Python function is dense: 4,096 x 4,096 doubles are 134 MB.
MOST_ENTRIES = 4_096


class ModeGrowth(Enum):
    """What a symbol says of perturbations; the value says what to do."""

    CONTRACTIVE = "|G(k)| <= 1 for all modes: nothing ever grows."
    BOUNDED = (
        "The eigenvalues of all G(k) lie within the unit circle, but |G(k)| > 1 for some: "
        "perturbations may grow for a while and then stay bounded. See growth()."
    )
    LINEAR = (
        "No eigenvalue of a G(k) leaves the unit circle, but some on it may belong to fewer "
        "vectors than it counts: growth by a power of the depth, not exponential. See growth()."
    )
    UNSTABLE = (
        "Some modes grow in every layer, so by a power of the depth. Make the step smaller "
        "(stable_step), or bring the kernel to |G(k)| <= 1 (project)."
    )


@dataclass(frozen=True, eq=False)
class Symbol:
    """The amplification factors of a layer on a periodic grid.

    grid: its sizes. factor (M, out, in) complex: G(k) of every mode, M = prod(grid), in the order
    of wave_numbers.
    """

    grid: tuple[int, ...]
    factor: Complex

    @property
    def wave_numbers(self) -> Real:
        """k (M, d), radians per cell, within [-pi, pi)."""
        return _wave_numbers(self.grid)

    @property
    def norm(self) -> Real:
        """|G(k)|_2 (M,): what a mode's amplitude is multiplied by at most."""
        found: Real = np.linalg.norm(self.factor, 2, axis=(1, 2))
        return found

    @property
    def eigenvalues(self) -> Complex:
        """Those of every G(k), (M, channels). Raises ShapeError if G(k) is not square."""
        self._square("eigenvalues")
        found: Complex = np.linalg.eigvals(self.factor).astype(complex)
        return found

    @property
    def radius(self) -> Real:
        """Spectral radius of every G(k), (M,): its growth per layer in the long run."""
        found: Real = np.abs(self.eigenvalues).max(axis=1)
        return found

    @property
    def outcome(self) -> ModeGrowth:
        """What it says of perturbations over many such layers."""
        if self.norm.max() <= 1 + ROUNDING:
            return ModeGrowth.CONTRACTIVE
        values = self.eigenvalues
        # What roundings make of a double eigenvalue on the circle is no growth.
        if np.abs(values).max() > 1 + DOUBLE_ROOT:
            return ModeGrowth.UNSTABLE
        for own in values:
            on = own[np.abs(own) > 1 - DOUBLE_ROOT]
            apart = np.abs(on[:, None] - on[None, :]) + np.eye(len(on)) * 2 * DOUBLE_ROOT
            if len(on) > 1 and apart.min() < DOUBLE_ROOT:
                return ModeGrowth.LINEAR
        return ModeGrowth.UNSTABLE if np.abs(values).max() > 1 + ROUNDING else ModeGrowth.BOUNDED

    def growth(self, depth: int) -> Real:
        """log10 |G(k)^t|_2 for t = 0..depth, (depth+1, M); -inf for zero. Never overflows."""
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
        """The symbol of this layer behind another: stacks of layers."""
        if not isinstance(other, Symbol):
            return NotImplemented
        if self.grid != other.grid or self.factor.shape[2] != other.factor.shape[1]:
            raise ShapeError(
                f"a layer of {self.factor.shape[2]} channels in on the grid {self.grid} cannot "
                f"follow one of {other.factor.shape[1]} out on {other.grid}."
            )
        return Symbol(self.grid, self.factor @ other.factor)

    def plot(self, path: str | os.PathLike[str], *, title: str = "") -> None:
        """Saves |G| over k: a curve on a grid of one axis, a map on one of two.

        Raises ArgumentError for more axes. Needs matplotlib.
        """
        channels = self.factor.shape[1:]
        radius = self.radius if len(self.grid) == 1 and channels[0] == channels[1] > 1 else None
        figure = draw_symbol(self.grid, self.wave_numbers, self.norm, radius, title)
        figure.savefig(path, dpi=130)

    def _square(self, what: str) -> None:
        if self.factor.shape[1] != self.factor.shape[2]:
            raise ShapeError(
                f"{what} needs as many channels out as in; G(k) has shape "
                f"{self.factor.shape[1:]}. Use norm."
            )


# ---- symbols of layers


def convolution(
    kernel: Any,
    grid: Sequence[int],
    *,
    dilation: int = 1,
    origin: int | Sequence[int] | None = None,
) -> Symbol:
    """G(k) of a convolution of stride 1 on a periodic grid, sum_j W_j exp(i k.(j - origin)).

    kernel: (out, in, *sizes) as torch.nn.ConvNd has it (cross-correlation), or (sizes,) of a single
    channel on a line. grid: as many sizes. origin: index of the kernel's element that multiplies a
    cell's own value; by default the middle, k//2.
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
    """I + step * G(k): the layer x + step * layer(x), a step of Euler's method."""
    return power(symbol, step, method="euler")


def power(symbol: Symbol, step: float, *, method: Method = "euler") -> Symbol:
    """R(step * G(k)): one step of a Runge-Kutta method on u' = layer(u). method: of METHODS."""
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
    """The eigenvalues of a circulant matrix (n, n), as factors of the n modes of a ring.

    tolerance: how far it may be from circulant, as a part of its Frobenius norm.
    Raises ArgumentError, which says how far, for others; ShapeError, DTypeError, NonFiniteError.
    """
    made = _dense(np.asarray(matrix), 1, None)
    if made.defect > float_in("tolerance", tolerance, 0.0):
        raise ArgumentError(
            f"the matrix is not circulant: {100 * made.defect:.2g} % of its norm is outside of the "
            "nearest one. Modes of a ring are coupled then; spectral.spectral_norm and "
            "lyapunov.spectrum are for all matrices."
        )
    return made.symbol


def recurrent(
    net: Stack, params: Params, *, layer: int = 0, slope: float = 1.0, tolerance: float = 1e-6
) -> Symbol:
    """What a step of an RNN or AntisymmetricRNN with circulant weights multiplies a mode of h by.

    slope: of the nonlinearity where it is linearised, the same for all units: 1 for tanh at 0 and
    for the identity. With a skip connection of lag L the state of a mode is (h_t, ..., h_(t-L+1)),
    so that G(k) is the (L, L) companion matrix of r^L = g r^(L-1) + s. tolerance: as of circulant.
    Raises ArgumentError for other cells, weights that are not circulant and learned skips that
    differ among units.
    """
    validate.model(net, params)
    which = validate.recurrent_index(net, layer)
    own, name = net.recurrent[which], net.recurrent_names[which]
    if not isinstance(own, (RNN, AntisymmetricRNN)) or own.bidirectional or own.zoneout:
        raise ArgumentError(
            "von_neumann.recurrent is about RNN and AntisymmetricRNN layers that read time "
            f"forward, without zoneout; {name} is another. Use linearise for a function of h."
        )
    place = name.partition(".")[0]
    weight = params[f"{place}.weight_hh"].astype(np.float64)
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
            f"{values.min():.3g} to {values.max():.3g}: modes of the ring are coupled."
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
    """The Jacobian J of a layer at a state, and its nearest translation-invariant matrix.

    symbol: of that matrix. defect: how much of J's Frobenius norm is outside of it, 0 where the
    layer does the same everywhere, 1 where nothing is left: the larger, the less the symbol says.
    norm, radius: largest singular value and spectral radius of J itself, which count.
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

    f: (channels, *grid) -> (out channels, *grid). state: where. jvp(state, v): J v; without it
    central differences are taken, right to about 1e-9 of f's scale. At a constant state of a layer
    that treats all places alike J is translation-invariant and the symbol exact; elsewhere it is
    that of the frozen coefficients' mean, and defect says how much it leaves out.
    Raises ShapeError, DTypeError, NonFiniteError, and ArgumentError for more than 4,096 numbers.
    """
    at = np.asarray(state)
    if at.dtype.kind not in "fiu" or at.ndim < 2:
        raise DTypeError(f"state must be numbers (channels, *grid); got {at.dtype}, {at.shape}.")
    at = at.astype(np.float64)
    if not np.isfinite(at).all():
        raise NonFiniteError("state holds NaN or infinity.")
    if at.size > MOST_ENTRIES:
        raise ArgumentError(
            f"the Jacobian is made whole: state may have {MOST_ENTRIES:,} numbers; it has "
            f"{at.size:,}. Take a smaller grid."
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

    step: inf where all modes allow any. wave_number: of the mode that asks for it; eigenvalue: its
    lambda. reason: a sentence.
    """

    step: float
    wave_number: tuple[float, ...]
    eigenvalue: complex
    reason: str


def stable_step(symbol: Symbol, *, method: Method = "euler") -> StepLimit:
    """The largest h with |R(h lambda)| <= 1 for all smaller steps and all eigenvalues of all G(k).

    The limit that Courant, Friedrichs and Lewy found for waves. Euler: h = -2 Re(lambda)/|lambda|^2
    exactly, so 0 where a mode only turns or grows; others by bisection to 1e-12. method: of
    METHODS. Where G(k) is not normal, perturbations may grow for a while below the limit, too: see
    Symbol.outcome. Raises DTypeError, ShapeError, ArgumentError.
    Reference: Courant, Friedrichs, Lewy 1928; Hairer and Wanner 1996, section IV.2.
    """
    if not isinstance(symbol, Symbol):
        raise DTypeError(f"symbol must be a Symbol, as convolution(...); got {symbol!r}.")
    choice("method", method, get_args(Method))
    values = symbol.eigenvalues
    flat = values.reshape(-1)
    size = np.abs(flat)
    # A mode that a layer leaves alone but for roundings.
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
            "Damp it, or take a method whose region holds it, as rk4 for pure rotations."
        )
    else:
        reason = f"The mode k = {shown} with lambda = {z:.4g} allows steps up to {step:.6g}."
    return StepLimit(step, k, z, reason)


@dataclass(frozen=True)
class Boundary:
    """What zero padding does to a convolution's norm.

    circular: max |G(k)| on the grid, the norm with circular padding. lower <= the norm with zero
    padding <= upper. Zero padding cuts a part out of the convolution on the whole line, so its norm
    is at most sup |G| over all k, but its powers and eigenvalues are not those of G: a convolution
    that shifts has the eigenvalue 0 with zeros outside, |G| = 1 without.
    """

    circular: float
    lower: float
    upper: float


def boundary(kernel: Any, grid: Sequence[int], *, seed: int = 0) -> Boundary:
    """The spectral norm with circular beside that with zero padding; kernel of odd sizes.

    Arguments and errors as of constrain.conv_norm.
    """
    circular = conv_norm(kernel, grid, "circular")
    zeros = conv_norm(kernel, grid, "zeros", seed=seed)
    return Boundary(circular.upper, zeros.lower, zeros.upper)


def project(
    kernel: Any, grid: Sequence[int], *, step: float | None = None, limit: float = 1.0
) -> NDArray[Any]:
    """A kernel of the same size near the given one with |G(k)|_2 <= limit for all k of the grid.

    step: for the residual layer x + step * conv(x) instead, |I + step * G(k)|_2 <= limit; limit is
    1 or more then. Kernels of odd sizes. See constrain.project_conv, which it uses; zero padding is
    there. Raises as that does.
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

    # R(z) = exp(z) + O(z^(p+1)) next to 0, so a rotation's growth begins below what doubles show.
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
    """A Jacobian (out * P, in * P) as Fourier modes see it."""
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
    # Rows by the transform, columns by its inverse: translation-invariant parts are diagonal.
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
