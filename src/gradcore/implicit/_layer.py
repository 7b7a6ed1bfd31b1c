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
from .._net.layers import Recurrent
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

# Adjoints outside 2**+-this go through f times a power of two, as float32 could not hold them.
WIDE = 60


@dataclass(frozen=True, eq=False)
class Gradient:
    """Gradients through fixed points, by the implicit function theorem.

    grads: of the parameters, summed over the samples, with its own exponent. dx: of the input
    (N, ...), to be multiplied by 2**exponent; None for tokens. u (N, S): the adjoint, the solution
    of (I - J)' u = dz. residual (N,): of that solve, relative. error (N,): an estimate of
    |u - exact| / |u|, from the residual and the smallest singular value seen; inf where a Neumann
    series does not converge. products (N,): with J'. smallest (N,): at least the smallest singular
    value of I - J. amplification (N,): |u| / |dz|, how much the layer magnifies gradients.
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
    """A layer whose output z solves z = f(z, x), N samples at once.

    f: a Stack of layers that read forward and have no random masks, a single cell, which becomes
    such a Stack, or an implicit.Function.
    feedback: what z is where f is a Stack. "state": the whole state of its layers after one step
    that starts from state z and reads x (N, I), or tokens (N,); an RNN or GRU of H units has S = H,
    an LSTM's rows are h, then c. "output": what it puts out from the zero state, S = O, reading
    [z, x], so that its input is S wider than x; normalisation and a head may be part of f then.
    solver: "anderson", "damped", "newton", or an object. backward: "gmres", "bicgstab", "neumann",
    "one_step", or an object. tol: |f(z) - z| <= tol |f(z)| + atol is what ends a sample's
    iteration; None is 1e-5 in float32, 1e-10 in float64. max_iter: iterations of the solver.

    It runs in Python over the core's products with J, not inside the core's loop over time: the
    samples do not depend on each other. Raises DTypeError, ArgumentError, ShapeError.
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
                "FixedPoint.f must be a gradcore.Stack, a cell as gradcore.GRU, or a "
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
                "feedback='output' is for a Stack; a Function says itself what z is."
            )

    def _check_stack(self, net: Stack) -> None:
        one_way(net, "FixedPoint")
        if net.is_random:
            raise ArgumentError(
                "f must have no random masks (Dropout, zoneout, recurrent_dropout): every "
                "evaluation of f must be the same function. Put them before or behind the layer."
            )
        if self.feedback == "state" and net.head is not None:
            raise ArgumentError(
                "f ends with a Linear, which feedback='state' never reads: z is the state of the "
                "recurrent layers. Leave it out, or take feedback='output'."
            )
        if self.feedback == "output" and net.embedding is not None:
            raise ArgumentError(
                "feedback='output' reads [z, x] as numbers, so f cannot start with an Embedding."
            )
        if self.feedback == "output" and net.input_size < net.output_size:
            raise ShapeError(
                f"feedback='output' reads [z, x], so f must read at least the {net.output_size} "
                f"values it puts out; it reads {net.input_size}."
            )

    @property
    def function(self) -> Stack | Function:
        """f, a cell as the Stack that it became."""
        assert not isinstance(self.f, Recurrent)
        return self.f

    @property
    def size(self) -> int:
        """S: values of z per sample."""
        if isinstance(self.function, Function):
            return self.function.size
        return (
            state_size(self.function, 1) if self.feedback == "state" else self.function.output_size
        )

    @property
    def input_size(self) -> int | None:
        """Width of x, None where it is the Function's own business."""
        if isinstance(self.function, Function):
            return None
        return self.function.input_size - (self.size if self.feedback == "output" else 0)

    def init(self, seed: int = 0, dtype: DTypeLike = "float32", **options: Any) -> Params:
        """Parameters of f: those of Stack.init, with its options, or where a Function starts."""
        if isinstance(self.function, Function):
            integer("seed", seed)
            if options:
                raise ArgumentError(
                    f"a Function says itself where its parameters start; got {sorted(options)}."
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
        """z for each sample of x (N, ...).

        start: where to begin, (N, S), as the z of an earlier Solution for inputs or parameters
        nearby; None: zeros. A sample that converged costs nothing more. Samples that do not
        converge are flagged in the Solution, with a ConvergenceWarning.
        Raises ShapeError, DTypeError, ArgumentError; NonFiniteError where the core overflows.
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
        """Gradients of parameters and input from those of z, dz (N, S).

        z: what solve found. The adjoint u solves (I - J)' u = dz, and one vector-Jacobian product
        of f at z carries it on: the iterations that led to z do not matter and are not kept. A
        ConvergenceWarning tells that the solve's residual is above its tolerance, a
        ConditioningWarning that I - J has a singular value below 0.01, so that the gradient is
        magnified a hundredfold or more; `conditioning` looks closer.
        Accuracy: Gradient.error, and the forward residual over the smallest singular value.
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
        """How nearly singular I - J is at z, in float64, and what that does to z and gradients.

        dz: the gradient that arrives at z, (N, S), for the estimate of the gradient's error; None:
        a random one. samples: indices of those to look at, None: all. seed: of random vectors. Up
        to S = 256, J is made whole and decomposed; above, Lanczos and SciPy's Arnoldi iteration
        (extra `diagnose`) find the outer values of J and of the inverse of I - J, by solves. A
        ConditioningWarning tells message and remedy where an eigenvalue of J is near 1.
        Raises ShapeError, DTypeError, ArgumentError, NonFiniteError.
        """
        system = self._system(params, x, threads)
        rows = self._points(system, z)
        cotangent = None if dz is None else self._cotangent(system, dz)
        chosen = np.arange(system.batch) if samples is None else np.atleast_1d(samples)
        if chosen.dtype.kind not in "iu" or chosen.ndim != 1 or not chosen.size:
            raise DTypeError(f"samples must be indices of samples; got {samples!r}.")
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
        """The mean over samples of |J|_F^2 / S at z, and its gradient, z taken as constant.

        By `probes` random signs per sample (Hutchinson), so the value is right on average, and the
        gradient is that of the value. seed: of the signs; another one for each training step. The
        second derivatives of f come as central differences of its exact first ones, in float64:
        right to about 1e-8. Added to a loss it keeps J small, and 1 away from its eigenvalues.
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
                f"params must be those of the layer's f, as FixedPoint.init makes them; got {got}."
            )
        if isinstance(self.function, Function):
            array = np.asarray(x)
            if array.ndim < 1 or not len(array):
                raise ShapeError(f"x must have N >= 1 samples first; got {array.shape}.")
            return FunctionSystem(self.function, params, array)
        array = validate.as_array("x", x)
        width = self.input_size
        tokens = array.dtype.kind in "iu"
        if tokens and self.feedback == "state":
            if array.ndim != 1 or not len(array):
                raise ShapeError(
                    f"integer x must have shape (N,), a token per sample; got {array.shape}."
                )
        elif array.ndim != 2 or array.shape[1] != width or not len(array):
            raise ShapeError(
                f"x must have shape (N, {width}), a row per sample, N >= 1; got {array.shape}."
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
        """dz in float64, which may come in it: adjoints grow."""
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
                "FixedPoint.conditioning tells more; constrain.SpectralNorm or FixedPoint.penalty "
                "keep J away from 1.",
                ConditioningWarning,
                stacklevel=3,
            )


def _widened(x: Any) -> Array:
    """Floats in float64; tokens as they are."""
    array = np.asarray(x)
    return array.astype(np.float64) if array.dtype == np.float32 else array
