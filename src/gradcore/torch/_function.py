"""A call of a layer as autograd functions: differentiable twice in reverse mode, once in forward.

Layer computes outputs. Back, Tangents and Curvature are its first and second derivatives; each has
the methods that torch.func needs (jvp, vmap). Tangents and Curvature are linear in their directions
and can be differentiated by these. A third derivative by the other tensors raises ArgumentError.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._functorch import utils as _functorch
from torch.autograd import Function, forward_ad

from ..errors import ArgumentError
from . import _compiled, _modes, _numbers
from ._numbers import Call

__all__ = ["apply", "each"]


def apply(call: Call, flat: Tensor, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Outputs (T, B, O) and the flat final state, differentiable by all three tensors."""
    if not call.wanted and not torch._C._are_functorch_transforms_active() and not _moves():
        return _numbers.forward(call, flat, x, state)
    outputs, end = run(Layer, call, flat, x, state)
    return outputs, end


def _moves() -> bool:
    """Whether tensors may have tangents (torch.autograd.forward_ad)."""
    return forward_ad._current_level >= 0


def run(function: type[Function], *inputs: Any) -> Any:
    """Calls function.apply, without its search for default arguments, which takes 30 us."""
    if torch._C._are_functorch_transforms_active():
        return function.apply(*inputs)  # type: ignore[no-untyped-call]
    return super(Function, function).apply(*_functorch.unwrap_dead_wrappers(inputs))  # type: ignore[misc]


class Layer(Function):
    """(call, flat, x, state) -> (outputs, end)."""

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return _numbers.forward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        call, *tensors = inputs
        ctx.call = call
        ctx.set_materialize_grads(False)
        # The tape is saved as a tensor, so that hooks of saved tensors (torch.utils.checkpoint) can
        # drop it.
        ctx.save_for_backward(*tensors, call.given_tape())
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        wanted = _wanted(ctx.needs_input_grad[1:])
        if not wanted or all(cotangent is None for cotangent in cotangents):
            return None, None, None, None
        call: Call = ctx.call
        *tensors, tape = ctx.saved_tensors
        if _modes.in_batched_backward():
            found = _compiled.gradients(call, *tensors, *cotangents)
            return None, *(one if name in wanted else None for name, one in found.items())
        with call.using(tape):
            return None, *run(Back, call, wanted, *tensors, *cotangents)

    @staticmethod
    def jvp(ctx: Any, _: Any, *directions: Any) -> Any:
        if all(direction is None for direction in directions):
            return None, None
        return run(Tangents, ctx.call, *ctx.saved_tensors[:3], *directions)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _one_by_one(Layer, info, in_dims, inputs)


class Back(Function):
    """(call, wanted, flat, x, state, d_outputs, d_end) -> gradients by flat, x and state."""

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return _numbers.backward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.call, ctx.wanted, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *directions: Any) -> Any:
        flat, x, state, d_outputs, d_end = ctx.saved_tensors
        if all(direction is None for direction in directions):
            return (None,) * 7
        needed = ctx.needs_input_grad[2:]
        found: list[Any] = [None] * 5
        wanted = _wanted(needed[:3])
        if wanted:
            found[:3] = _bent(ctx.call, wanted, (flat, x, state, d_outputs, d_end), directions)
        if needed[3] or needed[4]:
            moved = run(Tangents, ctx.call, flat, x, state, *directions)
            found[3:] = [one if need else None for one, need in zip(moved, needed[3:], strict=True)]
        return None, None, *found

    @staticmethod
    def jvp(ctx: Any, _call: Any, _wanted: Any, *directions: Any) -> Any:
        flat, x, state, d_outputs, d_end = ctx.saved_tensors
        sums: list[Any] = [None, None, None]
        if any(direction is not None for direction in directions[:3]):
            fixed = (flat, x, state, d_outputs, d_end)
            sums = list(_bent(ctx.call, ctx.wanted, fixed, directions[:3]))
        if any(direction is not None for direction in directions[3:]):
            moved = run(Back, ctx.call.alone(), ctx.wanted, flat, x, state, *directions[3:])
            sums = [_sum(a, b) for a, b in zip(sums, moved, strict=True)]
        return tuple(sums)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _one_by_one(Back, info, in_dims, inputs)


class Tangents(Function):
    """(call, flat, x, state, and a direction of each) -> tangents of outputs and end.

    Under a vmap over the directions only, all directions are rows of one matrix product.
    """

    @staticmethod
    def forward(*inputs: Any) -> Any:
        call, flat, x, state, *directions = inputs
        a, b, c = (None if direction is None else direction[None] for direction in directions)
        outputs, end = _numbers.tangents(call, flat, x, state, (a, b, c))
        return outputs[0], end[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.call, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        flat, x, state, *directions = ctx.saved_tensors
        found: list[Any] = [None] * 6
        if any(cotangent is not None for cotangent in cotangents):
            primal, linear = _wanted(ctx.needs_input_grad[1:4]), _wanted(ctx.needs_input_grad[4:])
            call = ctx.call.alone()
            if primal:
                found[:3] = _bent(call, primal, (flat, x, state, *cotangents), directions)
            if linear:
                found[3:] = run(Back, call, linear, flat, x, state, *cotangents)
        return None, *found

    @staticmethod
    def jvp(ctx: Any, *directions: Any) -> Any:
        raise ArgumentError(_TOO_MANY)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        if any(dim is not None for dim in in_dims[:4]):
            return _one_by_one(Tangents, info, in_dims, inputs)
        call, flat, x, state, *directions = inputs
        rows = [
            None
            if direction is None
            else direction.expand(info.batch_size, *direction.shape)
            if dim is None
            else direction.movedim(dim, 0)
            for direction, dim in zip(directions, in_dims[4:], strict=True)
        ]
        return run(ManyTangents, call, flat, x, state, *rows), (0, 0)


class ManyTangents(Function):
    """Tangents for K directions (K, ...) at once."""

    @staticmethod
    def forward(*inputs: Any) -> Any:
        call, flat, x, state, a, b, c = inputs
        return _numbers.tangents(call, flat, x, state, (a, b, c))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        raise ArgumentError(_TOO_MANY)

    jvp = staticmethod(Tangents.jvp)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _one_by_one(ManyTangents, info, in_dims, inputs)


class Curvature(Function):
    """(call, wanted, flat, x, state, d_outputs, d_end, and a direction of each of flat, x, state)
    -> the derivative of Back's gradients along the direction, with d_outputs and d_end fixed.
    """

    @staticmethod
    def forward(*inputs: Any) -> Any:
        call, wanted, flat, x, state, d_outputs, d_end, *direction = inputs
        return _numbers.curvature(call, wanted, flat, x, state, d_outputs, d_end, tuple(direction))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.call, _, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *directions: Any) -> Any:
        fixed = ctx.saved_tensors[:5]
        needed = ctx.needs_input_grad[2:]
        found: list[Any] = [None] * 3
        wanted = _wanted(needed[5:])
        if wanted and any(direction is not None for direction in directions):
            # Second derivatives are symmetric.
            found = list(_bent(ctx.call, wanted, fixed, directions))
        # A gradient by what is fixed goes to Fixed, which refuses it if anyone asks for it.
        third = [torch.zeros_like(t) if n else None for t, n in zip(fixed, needed, strict=False)]
        return None, None, *third, *found

    jvp = staticmethod(Tangents.jvp)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _one_by_one(Curvature, info, in_dims, inputs)


class Fixed(Function):
    """A tensor by which Curvature cannot be differentiated: it refuses a gradient.

    Autograd does not say in a backward pass which of a function's inputs are of interest, but
    calls a function before them only if they are.
    """

    @staticmethod
    def forward(tensor: Any) -> Any:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        raise ArgumentError(_TOO_MANY)

    jvp = staticmethod(Tangents.jvp)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], tensor: Any) -> Any:
        return run(Fixed, tensor), in_dims[0]


class Each(Function):
    """The operator gradcore::layer for samples of torch.vmap with lengths or reset of their own.

    These are tensors among its inputs, and not in a Call. It has first derivatives.
    """

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return _compiled.layer(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.memory = inputs[:7]
        ctx.described = inputs[7:]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        tensors = ctx.saved_tensors
        dflat, dx, dstate = run(EachBack, *tensors, *cotangents, ctx.memory, *ctx.described)
        rest = (None,) * (4 + len(ctx.described))
        return dflat, dx, None if tensors[2] is None else dstate, *rest

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _each_sample(Each, info, in_dims, inputs)


class EachBack(Function):
    """The gradients of Each by flat, x and state."""

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return _compiled.layer_backward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        raise ArgumentError(
            "torch.vmap over lengths or reset has first derivatives only. Call the layer once per "
            "sample, or once with all samples as its batch."
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _each_sample(EachBack, info, in_dims, inputs)


def each(*inputs: Any) -> Any:
    """The operator gradcore::layer under torch.vmap, where lengths or reset are batched."""
    return run(Each, *inputs)


def _bent(call: Call, wanted: frozenset[str], fixed: Any, direction: Any) -> Any:
    """Curvature, where `fixed` are flat, x, state, d_outputs and d_end."""
    held = (t if t is None or not t.requires_grad else run(Fixed, t) for t in fixed)
    return run(Curvature, call, wanted, *held, *direction)


_TOO_MANY = (
    "gradcore.torch differentiates a layer at most twice, and at most once of these in forward "
    "mode; this call needs one derivative more. Take finite differences, or put "
    "torch.nn's layers back with gradcore.torch.revert(model)."
)


def _wanted(needed: tuple[bool, ...]) -> frozenset[str]:
    return frozenset(name for name, need in zip(_numbers.PARTS, needed, strict=True) if need)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _one_by_one(function: Any, info: Any, in_dims: tuple[Any, ...], inputs: tuple[Any, ...]) -> Any:
    """Implements torch.vmap by a loop: each sample is a call of its own."""
    call, *rest = inputs

    def sample(*inputs: Any) -> Any:
        return run(function, call.alone(), *inputs)

    return _stacked(sample, info, in_dims[1:], rest)


def _each_sample(
    function: Any, info: Any, in_dims: tuple[Any, ...], inputs: tuple[Any, ...]
) -> Any:
    return _stacked(lambda *inputs: run(function, *inputs), info, in_dims, inputs)


def _stacked(function: Any, info: Any, in_dims: Any, inputs: Any) -> Any:
    rows = [
        function(
            *(
                item if dim is None else item.select(dim, i)
                for item, dim in zip(inputs, in_dims, strict=True)
            )
        )
        for i in range(info.batch_size)
    ]
    stacked = tuple(
        None if column[0] is None else torch.stack(column) for column in zip(*rows, strict=True)
    )
    return stacked, tuple(None if column is None else 0 for column in stacked)
