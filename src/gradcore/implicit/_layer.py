"""The fixed point layer: forward by a solver, backward by the implicit function theorem."""

from __future__ import annotations

import warnings
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._base.checks import choice, float_in, integer, positive_int, store
from .._engine.prepare import Progress
from .._net import validate
from .._net.layers import Dense, Linear, Recurrent
from .._net.stack import Grads, Params, Stack
from .._net.state import state_size
from ..errors import ArgumentError, ConditioningWarning, ConvergenceWarning, DTypeError, ShapeError
from ..jacobian._ranges import one_way
from ._adjoint import Backward, backward_of, solve_adjoint
from ._conditioning import NEAR, Conditioning, condition
from ._function import Function, FunctionSystem
from ._krylov import norms
from ._penalty import JacobianPenalty, penalty
from ._solution import Solution
from ._solvers import Solver, solve, solver_of
from ._system import Linearised, OutputSystem, StateSystem, System, checked_rows

__all__ = ["FixedPoint", "Gradient"]

Feedback = Literal["state", "output"]
Array = NDArray[Any]

# Adjoints whose largest number is outside 2**-60..2**60 are scaled by a power of two before they
# go through f, because float32 products could overflow or underflow otherwise.
WIDE = 60


@dataclass(frozen=True, eq=False)
class Gradient:
    """Gradients through fixed points, by the implicit function theorem.

    grads: gradient with respect to the parameters, summed over the samples, with its own exponent.
    dx: gradient with respect to the input (N, ...), to be multiplied by 2**exponent; None for
    tokens. u (N, S): the adjoint, which solves (I - J)' u = dz. residual (N,): the relative
    residual of that solve. error (N,): an estimate of |u - exact| / |u| from the residual and the
    smallest singular value seen; inf if a Neumann series does not converge. products (N,): the
    number of products with J'. smallest (N,): an upper bound of the smallest singular value of
    I - J. amplification (N,): |u| / |dz|, the factor by which the layer magnifies gradients.
    converged (N,): whether the solve met its tolerance.
    """

    grads: Grads
    dx: Array | None
    exponent: int
    u: NDArray[np.float64]
    residual: NDArray[np.float64]
    error: NDArray[np.float64]
    products: NDArray[np.int64]
    smallest: NDArray[np.float64]
    amplification: NDArray[np.float64]
    converged: NDArray[np.bool_]


@dataclass(frozen=True)
class FixedPoint:
    """A layer whose output z (N, S) solves z = f(z, x) for N samples at once.

    f: a Stack of layers that read time forward and have no random masks, a single cell, which
    becomes such a Stack, or an implicit.Function.
    feedback: the meaning of z if f is a Stack. "state": z is the whole state of its layers after
    one step that starts from state z and reads x (N, I) or tokens (N,); for an RNN or GRU with H
    units S = H, and for an LSTM a row of z is h, then c. "output": z is the output, S = O, of one
    step from the zero state that reads [z, x], so that the input of f is S wider than x; f may then
    have normalisation and a head.
    solver: "anderson", "damped", "newton", or an object of gradcore.implicit. backward: "gmres",
    "bicgstab", "neumann", "one_step", or an object. tol, atol: the iteration of a sample ends when
    |f(z) - z| <= tol |f(z)| + atol; tol=None means 1e-5 in float32 and 1e-10 in float64. max_iter:
    the most iterations of the solver.

    The iteration runs in Python and uses the core for products with J; it is not part of the core's
    loop over time, so the samples do not depend on each other.
    Raises DTypeError, ArgumentError, ShapeError.
    Reference: Bai, Kolter, Koltun 2019; the implicit function theorem in Krantz and Parks 2013.
    """

    f: Stack | Function | Recurrent
    _: KW_ONLY
    feedback: Feedback = "state"
    solver: str | Solver = "anderson"
    backward: str | Backward = "gmres"
    tol: float | None = None
    atol: float = 1e-12
    max_iter: int = 100

    def __post_init__(self) -> None:
        if isinstance(self.f, Recurrent):
            store(self, "f", Stack(self.f))
        if not isinstance(self.f, (Stack, Function)):
            raise DTypeError(
                "FixedPoint.f must be a gradcore.Stack, a cell such as gradcore.GRU, or a "
                f"gradcore.implicit.Function; got {type(self.f).__name__}."
            )
        choice("FixedPoint.feedback", self.feedback, get_args(Feedback))
        store(self, "solver", solver_of(self.solver))
        store(self, "backward", backward_of(self.backward))
        if self.tol is not None:
            store(self, "tol", float_in("FixedPoint.tol", self.tol, 0.0, 1.0, open_low=True))
        store(self, "atol", float_in("FixedPoint.atol", self.atol, 0.0))
        store(self, "max_iter", positive_int("FixedPoint.max_iter", self.max_iter))
        if isinstance(self.f, Stack):
            self._check_stack(self.f)
        elif self.feedback != "state":
            raise ArgumentError(
                "feedback='output' is only for a Stack; the result of a Function is z itself. "
                "Leave feedback out."
            )

    def _check_stack(self, net: Stack) -> None:
        one_way(net, "FixedPoint")
        if net.pool is not None:
            raise ArgumentError(
                "f must have no Pool, because each sample of the layer is one step. Pool over time "
                "in a Stack behind it."
            )
        if net.is_random:
            raise ArgumentError(
                "f must have no random masks (Dropout, zoneout, recurrent_dropout): every "
                "evaluation of f must be the same function. Put them before or after the layer."
            )
        if net.heads is not None:
            raise ArgumentError(
                "f must have one array of outputs; this Stack ends with Heads. Use a Linear."
            )
        if net.static_size is not None or net.starts_elsewhere:
            raise ArgumentError(
                "f must have no static inputs, and its layers must have initial_state='zeros': z "
                "is all that it reads besides x."
            )
        last = net.layers[-1]
        if self.feedback == "state" and isinstance(last, (Linear, Dense)):
            raise ArgumentError(
                f"f must not end with a {type(last).__name__} if feedback='state', because z is "
                f"then the state of the recurrent layers and the {type(last).__name__} has no "
                "effect. Leave it out, or use feedback='output'."
            )
        if self.feedback == "output" and net.embedding is not None:
            raise ArgumentError(
                "feedback='output' reads [z, x] as numbers, so f cannot start with an Embedding."
            )
        if self.feedback == "output" and net.input_size < net.output_size:
            raise ShapeError(
                f"with feedback='output' f reads [z, x], so its input must be at least as wide as "
                f"its output, {net.output_size}; it is {net.input_size} wide."
            )

    @property
    def function(self) -> Stack | Function:
        """f as a Stack or Function; a single cell has become a Stack."""
        assert not isinstance(self.f, Recurrent)
        return self.f

    @property
    def size(self) -> int:
        """S, the number of values of z per sample."""
        if isinstance(self.function, Function):
            return self.function.size
        return (
            state_size(self.function, 1) if self.feedback == "state" else self.function.output_size
        )

    @property
    def input_size(self) -> int | None:
        """The width of x; None for a Function, which may take any x."""
        if isinstance(self.function, Function):
            return None
        return self.function.input_size - (self.size if self.feedback == "output" else 0)

    def init(self, seed: int = 0, dtype: DTypeLike = "float32", **options: Any) -> Params:
        """Initial parameters of f: by Stack.init with its options, or those given to a Function."""
        if isinstance(self.function, Function):
            integer("seed", seed)
            if options:
                raise ArgumentError(
                    "a Function starts from the parameters that it was made with, so init takes no "
                    f"options; got {sorted(options)}."
                )
            return self.function.init(dtype)
        return self.function.init(seed, dtype, **options)

    def solve(
        self,
        params: Params,
        x: Any,
        *,
        start: Any = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Finds z for each sample of x (N, ...).

        start: initial z, (N, S), for example that of an earlier Solution for similar inputs or
        parameters; None means zeros.

        A sample that has converged is not computed further. Samples that do not converge are
        flagged in the Solution, and a ConvergenceWarning is given.
        Raises ShapeError, DTypeError, ArgumentError, and NonFiniteError if the core overflows.
        """
        system = self._system(params, x, threads)
        shape = (system.batch, system.size)
        first = (
            np.zeros(shape, system.dtype)
            if start is None
            else checked_rows("start", start, shape, system.dtype)
        )
        tol = self.tol
        if tol is None:
            tol = 1e-5 if system.dtype == np.float32 else 1e-10
        found = solve(
            system,
            first,
            solver_of(self.solver),
            tol=tol,
            atol=self.atol,
            max_iter=self.max_iter,
            progress=progress,
        )
        if not found.converged.all():
            warnings.warn(found.message, ConvergenceWarning, stacklevel=2)
        return found

    def gradient(
        self,
        params: Params,
        x: Any,
        z: Solution | Array,
        dz: Any,
        *,
        threads: int | None = None,
    ) -> Gradient:
        """Gradients of parameters and input from dz (N, S), the gradient with respect to z.

        z: the result of solve.

        The adjoint u solves (I - J)' u = dz, and one vector-Jacobian product of f at z gives the
        gradients of parameters and input: the iterations that led to z do not matter and are not
        kept. A ConvergenceWarning says that the residual of this solve is above its tolerance, and
        a ConditioningWarning that I - J has a singular value below 0.01, so that the gradient is
        magnified a hundredfold or more; `conditioning` measures it precisely. The relative error is
        about Gradient.error plus the forward residual divided by the smallest singular value.
        Raises ShapeError, DTypeError, ArgumentError, NonFiniteError.
        Reference: Bai, Kolter, Koltun 2019, theorem 1.
        """
        system = self._system(params, x, threads)
        rows, cotangent = self._points(system, z), self._cotangent(system, dz)
        size = norms(cotangent)
        found = solve_adjoint(
            Linearised(system, rows, transposed=True), cotangent, backward_of(self.backward)
        )
        largest = float(np.abs(found.u).max())
        exponent = int(np.frexp(largest)[1]) if largest else 0
        exponent = exponent if abs(exponent) > WIDE else 0
        grads, dx = system.pull(rows, np.ldexp(found.u, -exponent).astype(system.dtype))
        self._warn(found.met, found.residual, found.smallest)
        return Gradient(
            grads.written(grads.exponent + exponent),
            dx,
            exponent,
            found.u,
            found.residual,
            found.error,
            found.products,
            found.smallest,
            np.where(size > 0, norms(found.u) / np.where(size > 0, size, 1.0), 0.0),
            found.met,
        )

    def conditioning(
        self,
        params: Params,
        x: Any,
        z: Solution | Array,
        dz: Any = None,
        *,
        samples: Any = None,
        seed: int = 0,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Conditioning:
        """Measures in float64 how close to singular I - J is at z, and the errors this causes.

        dz: the gradient with respect to z, (N, S), for the estimate of the gradient's error; None
        takes a random one. samples: indices of the samples to measure; None means all. seed: seed
        of random vectors.

        Up to S = 256, J is formed as a matrix and decomposed; above that, Lanczos and SciPy's
        Arnoldi iteration (extra `diagnose`) find the extreme values of J and of the inverse of
        I - J. A ConditioningWarning with message and remedy is given if I - J is nearly singular.
        Raises ShapeError, DTypeError, ArgumentError, NonFiniteError.
        """
        system = self._system(params, x, threads)
        rows = self._points(system, z)
        cotangent = None if dz is None else self._cotangent(system, dz)
        chosen = np.arange(system.batch) if samples is None else np.atleast_1d(samples)
        if chosen.dtype.kind not in "iu" or chosen.ndim != 1 or not chosen.size:
            raise DTypeError(f"samples must be integer indices of samples; got {samples!r}.")
        if chosen.min() < 0 or chosen.max() >= system.batch:
            raise ArgumentError(
                f"samples must be in 0..N-1 = 0..{system.batch - 1}; got {samples!r}."
            )
        index = chosen.astype(np.intp)
        if cotangent is None:
            cotangent = np.random.default_rng(seed).standard_normal(rows.shape)
        exact = self._system(params.astype("float64"), _widened(x), threads)
        found = condition(
            system.take(index),
            exact.take(index),
            rows[index],
            cotangent[index],
            backward_of(self.backward),
            index,
            seed,
            progress,
        )
        if found.near.any():
            warnings.warn(f"{found.message} {found.remedy}", ConditioningWarning, stacklevel=2)
        return found

    def penalty(
        self,
        params: Params,
        x: Any,
        z: Solution | Array,
        *,
        probes: int = 1,
        seed: int = 0,
        threads: int | None = None,
    ) -> JacobianPenalty:
        """An estimate of the mean over samples of |J|_F^2 / S at z, and its gradient at constant z.

        It uses `probes` random sign vectors per sample (Hutchinson), so that the value is right on
        average, and the gradient is exactly that of the estimate. seed: seed of the signs; pass
        another one in each training step.

        Second derivatives of f are central differences of its exact first ones in float64, right to
        about 1e-8. Added to a loss, the penalty keeps J small and its eigenvalues away from 1.
        Reference: Bai, Koltun, Kolter 2021, eq. 4; Hutchinson 1990.
        """
        system = self._system(params, x, threads)
        rows = self._points(system, z).astype(np.float64)
        exact = self._system(params.astype("float64"), _widened(x), threads)
        return penalty(exact, rows, params, positive_int("probes", probes), seed)

    # ---- checks

    def _system(self, params: Params, x: Any, threads: int | None) -> System:
        if not isinstance(params, Params) or params.owner != self.function:
            got = params.owner if isinstance(params, Params) else type(params).__name__
            raise DTypeError(
                f"params must be those of the layer's f, such as FixedPoint.init makes; got {got}."
            )
        if isinstance(self.function, Function):
            array = np.asarray(x)
            if array.ndim < 1 or not len(array):
                raise ShapeError(
                    f"the first axis of x must be that of the N >= 1 samples; got {array.shape}."
                )
            return FunctionSystem(self.function, params, array)
        array = validate.as_array("x", x)
        width = self.input_size
        tokens = array.dtype.kind in "iu"
        if tokens and self.feedback == "state":
            if array.ndim != 1 or not len(array):
                raise ShapeError(
                    f"integer x must have shape (N,), one token per sample; got {array.shape}."
                )
        elif array.ndim != 2 or array.shape[1] != width or not len(array):
            raise ShapeError(
                f"x must have shape (N, {width}), one row per sample, N >= 1; got {array.shape}."
            )
        elif array.dtype != params.dtype:
            raise DTypeError(
                f"x must have dtype {params.dtype}, that of the parameters; got {array.dtype}. "
                f"Convert it with .astype({str(params.dtype)!r})."
            )
        if self.feedback == "output":
            return OutputSystem(self.function, params, array, threads)
        return StateSystem(self.function, params, array, threads)

    def _points(self, system: System, z: Solution | Array) -> Array:
        rows = z.z if isinstance(z, Solution) else z
        return checked_rows("z", rows, (system.batch, system.size), system.dtype)

    def _cotangent(self, system: System, dz: Any) -> NDArray[np.float64]:
        """dz as float64; it may be float64 for a float32 layer, because adjoints may be large."""
        array = np.asarray(dz)
        dtype = np.dtype(np.float64) if array.dtype == np.float64 else system.dtype
        shape = (system.batch, system.size)
        return checked_rows("dz", array, shape, dtype).astype(np.float64)

    def _warn(
        self,
        met: NDArray[np.bool_],
        residual: NDArray[np.float64],
        smallest: NDArray[np.float64],
    ) -> None:
        if not met.all():
            worst = int(np.argmax(np.where(met, -1.0, residual)))
            warnings.warn(
                f"the linear solve of the gradient did not converge for {int((~met).sum())} of "
                f"{len(met)} samples; sample {worst} has a relative residual of "
                f"{residual[worst]:.1e}. Raise max_products (and restart) of "
                f"{backward_of(self.backward)}, or its tol; look at FixedPoint.conditioning.",
                ConvergenceWarning,
                stacklevel=3,
            )
        if smallest.min() < NEAR:
            worst = int(np.argmin(smallest))
            warnings.warn(
                f"I - J is nearly singular: for sample {worst} its smallest singular value is "
                f"{smallest[worst]:.1e} or less, so the gradient is magnified by up to "
                f"{1 / max(smallest[worst], 1e-300):.1e} and so are its errors. "
                "FixedPoint.conditioning measures it precisely; constrain.SpectralNorm or "
                "FixedPoint.penalty keep eigenvalues of J away from 1.",
                ConditioningWarning,
                stacklevel=3,
            )


def _widened(x: Any) -> Array:
    """x with float32 converted to float64; tokens are returned as they are."""
    array = np.asarray(x)
    return array.astype(np.float64) if array.dtype == np.float32 else array
