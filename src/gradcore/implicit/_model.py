"""A fixed point layer between Stacks: one buffer of parameters, one gradient, one optimizer."""

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
from ..errors import DTypeError, ShapeError
from ..jacobian import vjp
from ..loss import Loss, LossFunction
from ._function import Function
from ._layer import FixedPoint, Gradient
from ._penalty import JacobianPenalty
from ._solution import Solution

__all__ = ["Model", "ModelGradient", "ModelOutput", "Parts"]

Array = NDArray[Any]
States = tuple[Sequence[LayerState] | None, Sequence[LayerState] | None]

# Added to the seed of what stands behind the layer, so that its masks are not those before it.
BEHIND = 2**32


class Parts(NamedTuple):
    """Parameters of each part, views of the model's; before is None where there is none."""

    before: Params | None
    fixed: Params
    after: Params


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """What apply found.

    outputs (T, B, O). z (T, B, S): zero where t >= lengths[b]. solution: of the samples that were
    solved, time first. inputs (N, ...): what the layer read for them. state: of before and after.
    """

    outputs: Array
    z: Array
    solution: Solution
    inputs: Array
    state: tuple[tuple[LayerState, ...] | None, tuple[LayerState, ...]]


@dataclass(frozen=True, eq=False)
class ModelGradient:
    """What value_and_grad found.

    loss: without the penalty. grads: of the loss plus jacobian_weight times the penalty. z,
    solution, inputs, state: as of ModelOutput. dz (N, S): the gradient of the loss by the samples'
    z is dz * 2**dz_exponent. gradient: what the layer made of dz, with its errors. penalty: None
    where jacobian_weight is 0.
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
    """Up to the layer, itself included. rows: which of the T * B samples were solved."""

    parts: Parts
    rows: NDArray[np.intp]
    inputs: Array
    z: Array
    solution: Solution
    state: tuple[LayerState, ...] | None


@dataclass(frozen=True)
class Model(ParameterOwner):
    """before, then the fixed point layer at every step of every sequence, then after.

    before: a Stack, or None: the layer reads x. fixed: a FixedPoint; each of the T * B outputs of
    `before` is a sample of its own. after: a Stack that reads z, S wide, and ends in what the loss
    takes. Parameters have the names of their parts in front, as "fixed.0.weight_hh", and are one
    buffer, so that one optimizer, its clip and its constraints act on all of them.

    It is Python around three calls, not a layer that the core knows: z of all steps is held at
    once, memory= bounds each Stack's passes and not that; a Trainer and gd.save do not take it.
    Save `model.parts(params)` one by one.
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
        if self.before is not None and self.fixed.input_size not in (
            None,
            self.before.output_size,
        ):
            raise ShapeError(
                f"Model.fixed must read the {self.before.output_size} values that Model.before "
                f"puts out; it reads {self.fixed.input_size}."
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
        """Fresh parameters: the Stacks by Stack.init with these options, from seed, seed + 1 and
        seed + 2; a Function where it starts.
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
        """Parameters of each part, as views: what is written to them is written to params."""
        if not isinstance(params, Params) or params.owner != self:
            got = params.owner if isinstance(params, Params) else type(params).__name__
            raise DTypeError(f"params must be those of the model, as Model.init makes; got {got}.")
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
        """Outputs (T, B, O), in evaluation mode; arguments and errors as of value_and_grad."""
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
        """The loss alone, in evaluation mode; arguments and errors as of value_and_grad."""
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
        """Loss and its gradient: through `after` by BPTT, through z by the implicit function
        theorem, through `before` by BPTT.

        x: as of gd.value_and_grad with before, or (T, B, I) or tokens (T, B) for the layer itself.
        y, loss, weight, lengths, reset, seed, train: as there; the Stack behind draws masks of its
        own. state: those of before and after, to go on from; z has none. start: (T, B, S), where
        the solver begins, as the z of an earlier step. jacobian_weight: that of FixedPoint.penalty,
        added to what the gradient is of; its signs are drawn from seed, so pass (seed, step) to
        have others at every step. Warnings as of FixedPoint.solve and gradient: a sample that does
        not converge is told, not hidden.
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
        """The gradient with respect to z from that of the Stack behind, and its exponent."""
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
        """Up to the layer, in evaluation mode, and the options of the Stack behind it."""
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
                    f"start must have shape (T, B, S) = {shape}, as the z of an earlier step; got "
                    f"{np.shape(start)}."
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
                "Function.vjp must give the cotangent of x, which Model.before puts out; got None. "
                "Zeros, if f does not depend on x."
            )
        cotangent, exponent = _sum(dx)
        whole = np.zeros((done.z.shape[0] * done.z.shape[1], net.output_size), params.dtype)
        whole[done.rows] = cotangent
        d_outputs = whole.reshape(1, *done.z.shape[:2], net.output_size)
        found = vjp(net, params, x, d_outputs=d_outputs, state=state, wrt=("params",), **options)
        assert found.grads is not None
        return found.grads[0].flat, found.grads[0].exponent + exponent


def _joined(parts: list[tuple[Array, int]]) -> tuple[Array, int]:
    """Behind each other, at the largest exponent."""
    exponent = max(e for _, e in parts)
    return np.concatenate([np.ldexp(part, e - exponent) for part, e in parts]), exponent


def _sum(parts: list[tuple[Array, int]]) -> tuple[Array, int]:
    """The sum of arrays times powers of two, at the largest of their exponents."""
    exponent = max(e for _, e in parts)
    total = sum(np.ldexp(array, e - exponent) for array, e in parts)
    assert isinstance(total, np.ndarray)
    return total, exponent


def _present(lengths: Any, steps: int, batch: int) -> NDArray[np.intp]:
    """Which of the T * B samples lie before their sequence's end."""
    if lengths is None:
        return np.arange(steps * batch)
    inside = np.arange(steps)[:, None] < np.asarray(lengths)[None, :]
    found = np.flatnonzero(inside)
    if not found.size:
        raise ShapeError("lengths leaves no step of any sequence; at least one must be there.")
    return found


def _behind(seed: Seed) -> Seed:
    if seed is None:
        return None
    first, step = seed if isinstance(seed, (tuple, list)) else (seed, 0)
    return (first + BEHIND) % 2**64, step


def _signs(seed: Seed) -> int:
    """A seed for the penalty's signs."""
    if seed is None:
        return 0
    pair = seed if isinstance(seed, (tuple, list)) else (seed, 0)
    return int(np.random.SeedSequence([int(n) for n in pair]).generate_state(1, np.uint64)[0])
