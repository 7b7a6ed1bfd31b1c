"""Model: a fixed point layer between two Stacks, with all parameters in one flat buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._base.checks import float_in
from .._engine.calls import GradientResult, Seed, apply, value_and_grad
from .._engine.calls import value as value_of
from .._net import validate
from .._net.flat import ParameterOwner, ParameterSpec
from .._net.layers import Layer
from .._net.stack import Grads, Params, Stack
from .._net.state import LayerState
from ..errors import ArgumentError, DTypeError, ShapeError
from ..jacobian import vjp
from ..loss import Loss, LossFunction
from ._function import Function
from ._layer import FixedPoint, Gradient
from ._penalty import JacobianPenalty
from ._solution import Solution

__all__ = ["Model", "ModelGradient", "ModelOutput", "Parts"]

Array = NDArray[Any]
States = tuple[Sequence[LayerState] | None, Sequence[LayerState] | None]

# Added to the seed of `after`, so that its random masks differ from those of `before`.
BEHIND = 2**32


class Parts(NamedTuple):
    """The parameters of each part as views of the model's; before is None if there is none."""

    before: Params | None
    fixed: Params
    after: Params


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """The result of Model.apply.

    outputs (T, B, O). z (T, B, S): zero where t >= lengths[b]. solution: the Solution of the N
    samples that were solved, ordered by time, then sequence. inputs (N, ...): the inputs of the
    layer for them. state: the final states of before and after.
    """

    outputs: Array
    z: Array
    solution: Solution
    inputs: Array
    state: tuple[tuple[LayerState, ...] | None, tuple[LayerState, ...]]


@dataclass(frozen=True, eq=False)
class ModelGradient:
    """The result of Model.value_and_grad.

    loss: the loss without the penalty. grads: the gradient of the loss plus jacobian_weight times
    the penalty. z, solution, inputs, state: see ModelOutput. dz (N, S): the gradient of the loss
    with respect to the samples' z is dz * 2**dz_exponent. gradient: the layer's Gradient for dz,
    with its errors.
    penalty: the JacobianPenalty, None if jacobian_weight is 0.
    """

    loss: float
    grads: Grads
    z: Array
    solution: Solution
    inputs: Array
    state: tuple[tuple[LayerState, ...] | None, tuple[LayerState, ...]]
    dz: NDArray[np.float64]
    dz_exponent: int
    gradient: Gradient
    penalty: JacobianPenalty | None


class _Forward(NamedTuple):
    """The pass through before and fixed. rows: indices of the samples of T * B that were solved."""

    parts: Parts
    rows: NDArray[np.intp]
    inputs: Array
    z: Array
    solution: Solution
    state: tuple[LayerState, ...] | None


@dataclass(frozen=True)
class Model(ParameterOwner):
    """`before`, then a fixed point layer at every step of every sequence, then `after`.

    before: a Stack, or None, in which case the layer reads x. fixed: a FixedPoint; each of the
    T * B outputs of `before` is a sample of its own. after: a Stack that reads z, S wide, and whose
    outputs the loss takes.

    Names of parameters start with that of their part, for example "fixed.0.weight_hh". All
    parameters are one buffer, so that one optimizer, its clip and its constraints act on all of
    them.

    The model runs its three parts one after the other in Python and is not a layer of the core: z
    of all steps is in memory at once, and memory= bounds the passes of each Stack but not z. A
    Trainer and gd.save do not take a Model; save each of `model.parts(params)`.
    Raises DTypeError, ShapeError.
    """

    before: Stack | None
    fixed: FixedPoint
    after: Stack

    def __post_init__(self) -> None:
        if self.before is not None and not isinstance(self.before, Stack):
            raise DTypeError(
                f"Model.before must be a Stack or None; got {type(self.before).__name__}."
            )
        if not isinstance(self.fixed, FixedPoint):
            raise DTypeError(f"Model.fixed must be a FixedPoint; got {type(self.fixed).__name__}.")
        if not isinstance(self.after, Stack):
            raise DTypeError(
                f"Model.after must be a Stack, whose outputs the loss takes; got "
                f"{type(self.after).__name__}."
            )
        for name, part in (("before", self.before), ("after", self.after)):
            if part is not None and part.pool is not None:
                raise ArgumentError(
                    f"Model.{name} must have no Pool: every step of a sequence is a sample of "
                    "its own for the fixed point, and the loss takes the outputs of all steps."
                )
        if self.after.heads is not None or (self.before is not None and self.before.heads):
            raise ArgumentError(
                "the Stacks of a Model must have one array of outputs; one ends with Heads. Use a "
                "Linear."
            )
        for net in (self.before, self.after):
            if net is not None and net.static_size is not None:
                raise ArgumentError(
                    "a Model takes no static inputs, so before and after must not read any."
                )
        if self.before is not None and self.fixed.input_size not in (
            None,
            self.before.output_size,
        ):
            raise ShapeError(
                f"Model.fixed must read the {self.before.output_size} outputs of Model.before; it "
                f"reads {self.fixed.input_size} values."
            )
        if self.after.embedding is not None or self.after.input_size != self.fixed.size:
            raise ShapeError(
                f"Model.after must read S = {self.fixed.size} values, those of z, as numbers; it "
                f"reads {'tokens' if self.after.embedding else self.after.input_size}."
            )

    @cached_property
    def parameter_specs(self) -> tuple[ParameterSpec, ...]:
        specs, start = [], 0
        for name, part in self._owners:
            for spec in part.parameter_specs:
                specs.append(replace(spec, name=f"{name}.{spec.name}", start=spec.start + start))
            start += part.n_parameters
        return tuple(specs)

    @property
    def _owners(self) -> list[tuple[str, Stack | Function]]:
        parts = [("before", self.before), ("fixed", self.fixed.function), ("after", self.after)]
        return [(name, part) for name, part in parts if part is not None]

    def layer_of(self, name: str) -> tuple[Layer | None, str]:
        part, _, own = name.partition(".")
        return dict(self._owners)[part].layer_of(own)

    def init(self, seed: int = 0, dtype: DTypeLike = "float32", **options: Any) -> Params:
        """Initial parameters: before, fixed and after use seed, seed + 1 and seed + 2.

        Stacks are initialised by Stack.init with these options; a Function starts from its own.
        """
        fixed = options if isinstance(self.fixed.function, Stack) else {}
        made = [
            self.fixed.init(seed + 1, dtype, **fixed),
            self.after.init(seed + 2, dtype, **options),
        ]
        if self.before is not None:
            made.insert(0, self.before.init(seed, dtype, **options))
        return Params(self, np.concatenate([part.flat for part in made]))

    def parts(self, params: Params) -> Parts:
        """The parameters of each part as views: writing to them changes params."""
        if not isinstance(params, Params) or params.owner != self:
            got = params.owner if isinstance(params, Params) else type(params).__name__
            raise DTypeError(
                f"params must be those of the model, such as Model.init makes; got {got}."
            )
        found: dict[str, Params] = {}
        start = 0
        for name, part in self._owners:
            found[name] = Params(part, params.flat[start : start + part.n_parameters])
            start += part.n_parameters
        return Parts(found.get("before"), found["fixed"], found["after"])

    def apply(
        self,
        params: Params,
        x: Any,
        *,
        lengths: Any = None,
        reset: Any = None,
        state: States | None = None,
        start: Array | None = None,
        memory: int | str | None = None,
        threads: int | None = None,
    ) -> ModelOutput:
        """Outputs (T, B, O) in evaluation mode; arguments and errors: see value_and_grad."""
        done, options = self._evaluated(params, x, lengths, reset, state, start, memory, threads)
        outputs, after = apply(self.after, done.parts.after, done.z, **options)
        return ModelOutput(outputs, done.z, done.solution, done.inputs, (done.state, after))

    def value(
        self,
        params: Params,
        x: Any,
        y: Any = None,
        *,
        loss: str | Loss | LossFunction,
        weight: Any = None,
        lengths: Any = None,
        reset: Any = None,
        state: States | None = None,
        start: Array | None = None,
        memory: int | str | None = None,
        threads: int | None = None,
    ) -> float:
        """The loss alone in evaluation mode; arguments and errors are those of value_and_grad."""
        done, options = self._evaluated(params, x, lengths, reset, state, start, memory, threads)
        return value_of(
            self.after, done.parts.after, done.z, y, loss=loss, weight=weight, **options
        )

    def value_and_grad(
        self,
        params: Params,
        x: Any,
        y: Any = None,
        *,
        loss: str | Loss | LossFunction,
        weight: Any = None,
        lengths: Any = None,
        reset: Any = None,
        state: States | None = None,
        seed: Seed = None,
        train: bool = True,
        start: Array | None = None,
        jacobian_weight: float = 0.0,
        memory: int | str | None = None,
        threads: int | None = None,
    ) -> ModelGradient:
        """The loss and its gradient: BPTT through `after` and `before`, the implicit function
        theorem through z.

        x: the input of `before` as in gd.value_and_grad, or without `before` the input of the
        layer, (T, B, I) or tokens (T, B). y, loss, weight, lengths, reset, seed, train: see
        gd.value_and_grad; before and after draw different random masks. state: a tuple of initial
        states of before and after; z has none. start: (T, B, S), the solver's initial z, for
        example that of the previous update. jacobian_weight: the weight of FixedPoint.penalty,
        which the gradient then includes; its random signs depend on seed, so pass (seed, step) to
        have new ones at every step. Warnings are those of FixedPoint.solve and gradient.
        Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
        """
        share = float_in("jacobian_weight", jacobian_weight, 0.0)
        options: dict[str, Any] = {"lengths": lengths, "reset": reset}
        options |= {"memory": memory, "threads": threads}
        random: dict[str, Any] = {"seed": seed, "train": train}
        first, last = state or (None, None)
        done = self._forward(params, x, first, start, {**options, **random})
        result = value_and_grad(
            self.after,
            done.parts.after,
            done.z,
            y,
            loss=loss,
            weight=weight,
            state=last,
            wrt=("params", "x"),
            **options,
            **{**random, "seed": _behind(seed)},
        )
        assert result.grads is not None
        dz, common = self._arriving(done, result)
        back = self.fixed.gradient(
            done.parts.fixed, done.inputs, done.solution, dz, threads=threads
        )
        found = [(back.grads.flat, back.grads.exponent + common)]
        dx = [] if back.dx is None else [(back.dx, back.exponent + common)]
        penalty = None
        if share:
            penalty = self.fixed.penalty(
                done.parts.fixed, done.inputs, done.solution, seed=_signs(seed), threads=threads
            )
            found.append((share * penalty.grads.flat, penalty.grads.exponent))
            if penalty.dx is not None:
                dx.append((share * penalty.dx, 0))
        parts = [_sum(found), (result.grads.flat, result.grads.exponent)]
        if self.before is not None:
            assert done.parts.before is not None
            parts.insert(0, self._through_before(done, x, dx, first, {**options, **random}))
        flat, exponent = _joined(parts)
        return ModelGradient(
            result.loss,
            Grads(self, flat.astype(params.dtype, copy=False), exponent),
            done.z,
            done.solution,
            done.inputs,
            (done.state, result.state),
            dz,
            common,
            back,
            penalty,
        )

    def _arriving(self, done: _Forward, result: GradientResult) -> tuple[Array, int]:
        """The gradient with respect to z of the solved samples, and its exponent."""
        assert result.dx is not None
        assert result.dx_exponent is not None
        common = int(result.dx_exponent.max())
        scale = (result.dx_exponent - common)[:, None, None]
        dz: Array = np.ldexp(result.dx.astype(np.float64), scale)
        return dz.reshape(-1, self.fixed.size)[done.rows], common

    def _evaluated(
        self,
        params: Params,
        x: Any,
        lengths: Any,
        reset: Any,
        state: States | None,
        start: Array | None,
        memory: int | str | None,
        threads: int | None,
    ) -> tuple[_Forward, dict[str, Any]]:
        """The pass up to z in evaluation mode, and the options for the call of `after`."""
        options = {"lengths": lengths, "reset": reset, "memory": memory, "threads": threads}
        first, last = state or (None, None)
        done = self._forward(params, x, first, start, {**options, "seed": None, "train": False})
        return done, {**options, "state": last}

    def _forward(
        self,
        params: Params,
        x: Any,
        state: Sequence[LayerState] | None,
        start: Array | None,
        options: dict[str, Any],
    ) -> _Forward:
        parts = self.parts(params)
        fed = validate.as_array("x", x)
        if fed.ndim < 2:
            raise ShapeError(f"x must have shape (T, B, ...), time first; got {fed.shape}.")
        after = None
        if self.before is not None:
            assert parts.before is not None
            fed, after = apply(self.before, parts.before, x, state=state, **options)
        steps, batch = fed.shape[:2]
        rows = _present(options["lengths"], steps, batch)
        inputs = fed.reshape(steps * batch, *fed.shape[2:])[rows]
        shape = (steps, batch, self.fixed.size)
        first = None
        if start is not None:
            if np.shape(start) != shape:
                raise ShapeError(
                    f"start must have shape (T, B, S) = {shape}, that of z in the result of an "
                    f"earlier call; got {np.shape(start)}."
                )
            first = np.asarray(start).reshape(-1, self.fixed.size)[rows]
        solution = self.fixed.solve(parts.fixed, inputs, start=first, threads=options["threads"])
        z = np.zeros((steps * batch, self.fixed.size), params.dtype)
        z[rows] = solution.z
        return _Forward(parts, rows, inputs, z.reshape(shape), solution, after)

    def _through_before(
        self,
        done: _Forward,
        x: Any,
        dx: list[tuple[Array, int]],
        state: Sequence[LayerState] | None,
        options: dict[str, Any],
    ) -> tuple[Array, int]:
        net, params = self.before, done.parts.before
        assert net is not None
        assert params is not None
        if not dx:
            raise DTypeError(
                "Function.vjp must return the cotangent of x, because Model.before needs it; got "
                "None. Return zeros if f does not depend on x."
            )
        cotangent, exponent = _sum(dx)
        whole = np.zeros((done.z.shape[0] * done.z.shape[1], net.output_size), params.dtype)
        whole[done.rows] = cotangent
        d_outputs = whole.reshape(1, *done.z.shape[:2], net.output_size)
        found = vjp(net, params, x, d_outputs=d_outputs, state=state, wrt=("params",), **options)
        assert found.grads is not None
        return found.grads[0].flat, found.grads[0].exponent + exponent


def _joined(parts: list[tuple[Array, int]]) -> tuple[Array, int]:
    """Concatenates arrays times powers of two; the result has the largest exponent."""
    exponent = max(e for _, e in parts)
    return np.concatenate([np.ldexp(part, e - exponent) for part, e in parts]), exponent


def _sum(parts: list[tuple[Array, int]]) -> tuple[Array, int]:
    """Adds arrays times powers of two; the result has the largest exponent."""
    exponent = max(e for _, e in parts)
    total = sum(np.ldexp(array, e - exponent) for array, e in parts)
    assert isinstance(total, np.ndarray)
    return total, exponent


def _present(lengths: Any, steps: int, batch: int) -> NDArray[np.intp]:
    """The indices of the T * B samples that lie before the end of their sequence."""
    if lengths is None:
        return np.arange(steps * batch)
    inside = np.arange(steps)[:, None] < np.asarray(lengths)[None, :]
    found = np.flatnonzero(inside)
    if not found.size:
        raise ShapeError("lengths must leave at least one step; all sequences have length 0.")
    return found


def _behind(seed: Seed) -> Seed:
    if seed is None:
        return None
    first, step = seed if isinstance(seed, (tuple, list)) else (seed, 0)
    return (first + BEHIND) % 2**64, step


def _signs(seed: Seed) -> int:
    """A seed for the random signs of the penalty, derived from the seed of the call."""
    if seed is None:
        return 0
    pair = seed if isinstance(seed, (tuple, list)) else (seed, 0)
    return int(np.random.SeedSequence([int(n) for n in pair]).generate_state(1, np.uint64)[0])
