"""The primitives that the custom calls are to JAX, with their rules of differentiation.

forward computes outputs; tangents is its derivative, and backward the transpose of that; curvature
is the derivative of backward, a symmetric product; bent is the derivative of tangents, of which
there is only the transpose, a curvature. All act on flat parameters [P], x [T, B, I] and a flat
state [S]; lengths [B] and reset [T, B] may follow. A ticket names a tape (python/xla/tapes.h).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, partial_eval

from .._net.state import state_size
from ..errors import ArgumentError
from . import _batching
from ._library import target
from ._plan import Call, Parts, attributes

__all__ = ["forward", "kept_tapes"]

Arrays = Sequence[Any]

_TOO_MANY = (
    "gradcore.jax differentiates a layer at most twice, and at most once of these in forward mode; "
    "this call needs one derivative more. Use lax.scan for it, or finite differences."
)


def forward(call: Call, *operands: Any) -> tuple[Any, Any]:
    """Outputs [T, B, O] and the flat state after the last step; operands as `call` says."""
    outputs, end = forward_p.bind(*operands, call=call, tape=None)
    return outputs, end


def kept_tapes(drop: bool = False) -> int:
    """The number of tapes that wait for a backward call; with `drop` none is left."""
    asked = jax.ffi.ffi_call(target("tapes"), jax.ShapeDtypeStruct((), np.int32))
    return int(asked(given=np.int64(0), drop=np.int64(drop)))


# ---- Shapes, and what runs ---------------------------------------------------------------------


def _aval(shape: tuple[int, ...], like: Any) -> Any:
    return jax.core.ShapedArray(shape, like.dtype)


def _gradients(wanted: Parts, flat: Any, x: Any, size: int) -> list[Any]:
    shapes = (flat.shape, x.shape, (size,))
    return [_aval(shape, x) for shape, want in zip(shapes, wanted, strict=True) if want]


def _forward_shapes(flat: Any, x: Any, *_: Any, call: Call, tape: Parts | None) -> list[Any]:
    steps, batch, _width = x.shape
    outputs = _aval((steps, batch, call.net.output_size), x)
    end = _aval((state_size(call.net, batch),), x)
    ticket = [] if tape is None else [jax.core.ShapedArray((2,), np.dtype(np.uint32))]
    return [outputs, end, *ticket]


def _tangent_shapes(flat: Any, x: Any, *_: Any, call: Call, moved: Parts, count: int) -> list[Any]:
    outputs, end = _forward_shapes(flat, x, call=call, tape=None)
    return [_aval((count, *outputs.shape), x), _aval((count, *end.shape), x)]


def _backward_shapes(flat: Any, x: Any, *_: Any, call: Call, wanted: Parts) -> list[Any]:
    return _gradients(wanted, flat, x, state_size(call.net, x.shape[1]))


def _curvature_shapes(
    flat: Any, x: Any, *_: Any, call: Call, wanted: Parts, moved: Parts
) -> list[Any]:
    return _gradients(wanted, flat, x, state_size(call.net, x.shape[1]))


def _bent_shapes(flat: Any, x: Any, *_: Any, call: Call, **__: Any) -> list[Any]:
    return _forward_shapes(flat, x, call=call, tape=None)


def _run(name: str, shapes: Callable[..., list[Any]], *operands: Any, **params: Any) -> Any:
    """The custom call; it is traced when a program is compiled."""
    call, x = params["call"], operands[1]
    settings = {key: params.get(key) for key in ("wanted", "moved")}
    tape = params.get("tape")
    told = attributes(
        call,
        x.shape,
        np.dtype(x.dtype),
        wanted=settings["wanted"] if tape is None else tape,
        moved=settings["moved"],
        count=params.get("count", 0 if settings["moved"] is None else 1),
    )
    if name == "forward":
        told["tape"] = np.int64(tape is not None)
    results = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in shapes(*operands, **params)]
    return jax.ffi.ffi_call(target(name), results)(*operands, **told)


def _elsewhere(*_: Any, **__: Any) -> Any:
    raise ArgumentError(
        "gradcore.jax runs on the CPU only. Use lax.scan on other devices, or place the arrays and "
        "the program on the CPU: with jax.default_device(jax.devices('cpu')[0])."
    )


def _primitive(name: str, shapes: Callable[..., list[Any]]) -> Primitive:
    made = Primitive(f"gradcore_{name}")
    made.multiple_results = True
    made.def_abstract_eval(shapes)
    rule = mlir.lower_fun(partial(_run, name, shapes), multiple_results=True)
    mlir.register_lowering(made, rule, platform="cpu")
    mlir.register_lowering(made, _elsewhere)

    @lru_cache(maxsize=256)
    def compiled(params: tuple[tuple[str, Any], ...]) -> Any:
        return jax.jit(lambda *operands: made.bind(*operands, **dict(params)))

    made.def_impl(lambda *operands, **params: compiled(tuple(sorted(params.items())))(*operands))
    return made


forward_p = _primitive("forward", _forward_shapes)
tangents_p = _primitive("tangents", _tangent_shapes)
backward_p = _primitive("backward", _backward_shapes)
curvature_p = _primitive("curvature", _curvature_shapes)
bent_p = _primitive("bent", _bent_shapes)


# ---- Derivatives -------------------------------------------------------------------------------


def _there(tangent: Any) -> bool:
    return type(tangent) is not ad.Zero


def _moved(tangents: Arrays, call: Call) -> tuple[Parts, list[Any]]:
    """Which of the three parts have a tangent, and these."""
    parts = [tangents[0], tangents[1], tangents[2] if call.state else None]
    there = [part is not None and _there(part) for part in parts]
    return Parts(*there), [part for part, is_there in zip(parts, there, strict=True) if is_there]


def _chosen(values: Arrays, wanted: Parts) -> list[Any]:
    """Values that exist for the wanted parts only, with None for the others."""
    rest = iter(values)
    return [next(rest) if want else None for want in wanted]


def _primals(operands: Arrays, call: Call) -> tuple[list[Any], list[Any]]:
    """flat, x, state, lengths and reset as far as they are given; and what stands behind."""
    count = 2 + call.extras
    return list(operands[:count]), list(operands[count:])


def _zero(value: Any) -> Any:
    return ad.Zero(_aval(value.shape, value).to_tangent_aval())


def _no_ticket() -> Any:
    return jnp.zeros(2, np.uint32)


def _forward_jvp(
    operands: Arrays, tangents: Arrays, *, call: Call, tape: Parts | None
) -> tuple[list[Any], list[Any]]:
    moved, directions = _moved(tangents, call)
    if not directions:
        found = forward_p.bind(*operands, call=call, tape=tape)
        return found, [_zero(one) for one in found]
    together = moved if tape is None else Parts(*map(max, moved, tape))
    outputs, end, ticket = forward_p.bind(*operands, call=call, tape=together)
    found = tangents_p.bind(
        *operands, ticket, *(one[None] for one in directions), call=call, moved=moved, count=1
    )
    along = [one[0] for one in found]
    if tape is None:
        return [outputs, end], along
    return [outputs, end, ticket], [*along, _zero(ticket)]


def _forward_dce(used: list[bool], eqn: Any) -> tuple[list[bool], Any]:
    """Keeps no tape where nothing goes back, as in the first pass of jax.checkpoint."""
    if not any(used):
        return [False] * len(eqn.invars), None
    if len(used) == 3 and not used[2]:
        eqn = eqn.replace(outvars=eqn.outvars[:2], params={**eqn.params, "tape": None})
    return [True] * len(eqn.invars), eqn


def _tangents_jvp(
    operands: Arrays, tangents: Arrays, *, call: Call, moved: Parts, count: int
) -> tuple[list[Any], list[Any]]:
    found = tangents_p.bind(*operands, call=call, moved=moved, count=count)
    primals, (_, *directions) = _primals(operands, call)
    first, (_, *seconds) = _primals(tangents, call)
    sums: list[Any] = [_zero(one) for one in found]
    again, along = _moved(first, call)
    if along:
        bends = [
            bent_p.bind(
                *primals,
                *(one[k] for one in directions),
                *along,
                call=call,
                moved=moved,
                again=again,
            )
            for k in range(count)
        ]
        sums = [jnp.stack(column) for column in zip(*bends, strict=True)]
    linear = _chosen(seconds, moved)
    there = Parts(*(one is not None and _there(one) for one in linear))
    if any(there):
        rest = [one for one, is_there in zip(linear, there, strict=True) if is_there]
        added = tangents_p.bind(*primals, _no_ticket(), *rest, call=call, moved=there, count=count)
        sums = [ad.add_tangents(a, b) for a, b in zip(sums, added, strict=True)]
    return found, sums


def _tangents_transpose(
    cotangents: Arrays, *operands: Any, call: Call, moved: Parts, count: int
) -> list[Any]:
    primals, (ticket, *directions) = _primals(operands, call)
    if not any(map(_there, cotangents)):
        return [None] * len(operands)
    d_outputs, d_end = map(ad.instantiate_zeros, cotangents)
    if count == 1:
        back = backward_p.bind(*primals, ticket, d_outputs[0], d_end[0], call=call, wanted=moved)
        grads = [one[None] for one in back]
    else:
        grads = jax.lax.map(
            lambda pair: backward_p.bind(*primals, _no_ticket(), *pair, call=call, wanted=moved),
            (d_outputs, d_end),
        )
    return [None] * (len(operands) - len(directions)) + list(grads)


def _backward_jvp(
    operands: Arrays, tangents: Arrays, *, call: Call, wanted: Parts
) -> tuple[list[Any], list[Any]]:
    found = backward_p.bind(*operands, call=call, wanted=wanted)
    primals, (_, *given) = _primals(operands, call)
    first, (_, *moved_given) = _primals(tangents, call)
    sums: list[Any] = [_zero(one) for one in found]
    moved, along = _moved(first, call)
    if along:
        sums = curvature_p.bind(*primals, *given, *along, call=call, wanted=wanted, moved=moved)
    if any(map(_there, moved_given)):
        filled = map(ad.instantiate_zeros, moved_given)
        added = backward_p.bind(*primals, _no_ticket(), *filled, call=call, wanted=wanted)
        sums = [ad.add_tangents(a, b) for a, b in zip(sums, added, strict=True)]
    return found, sums


def _backward_transpose(cotangents: Arrays, *operands: Any, call: Call, wanted: Parts) -> list[Any]:
    """By d_outputs and d_end, in which it is linear."""
    primals, (ticket, *_) = _primals(operands, call)
    moved, along = _given_cotangents(cotangents, wanted)
    if not along:
        return [None] * len(operands)
    found = tangents_p.bind(
        *primals, ticket, *(one[None] for one in along), call=call, moved=moved, count=1
    )
    return [None] * (len(operands) - 2) + [one[0] for one in found]


def _given_cotangents(cotangents: Arrays, wanted: Parts) -> tuple[Parts, list[Any]]:
    """The cotangents of gradients that are not zero."""
    parts = _chosen(cotangents, wanted)
    there = [part is not None and _there(part) for part in parts]
    return Parts(*there), [part for part, is_there in zip(parts, there, strict=True) if is_there]


def _curvature_jvp(
    operands: Arrays, tangents: Arrays, *, call: Call, wanted: Parts, moved: Parts
) -> tuple[list[Any], list[Any]]:
    found = curvature_p.bind(*operands, call=call, wanted=wanted, moved=moved)
    primals, (d_outputs, d_end, *directions) = _primals(operands, call)
    first, (t_outputs, t_end, *seconds) = _primals(tangents, call)
    if _moved(first, call)[1]:
        raise ArgumentError(_TOO_MANY)
    sums: list[Any] = [_zero(one) for one in found]
    if _there(t_outputs) or _there(t_end):
        given = [ad.instantiate_zeros(one) for one in (t_outputs, t_end)]
        sums = curvature_p.bind(
            *primals, *given, *directions, call=call, wanted=wanted, moved=moved
        )
    there, along = _given_cotangents(seconds, moved)
    if along:
        added = curvature_p.bind(
            *primals, d_outputs, d_end, *along, call=call, wanted=wanted, moved=there
        )
        sums = [ad.add_tangents(a, b) for a, b in zip(sums, added, strict=True)]
    return found, sums


def _curvature_transpose(
    cotangents: Arrays, *operands: Any, call: Call, wanted: Parts, moved: Parts
) -> list[Any]:
    """By the directions: second derivatives are symmetric."""
    primals, (d_outputs, d_end, *directions) = _primals(operands, call)
    given = [d_outputs, d_end]
    if any(map(ad.is_undefined_primal, given)):
        raise ArgumentError(_TOO_MANY)
    there, along = _given_cotangents(cotangents, wanted)
    if not along:
        return [None] * len(operands)
    found = curvature_p.bind(*primals, *given, *along, call=call, wanted=moved, moved=there)
    return [None] * (len(operands) - len(directions)) + list(found)


def _bent_transpose(
    cotangents: Arrays, *operands: Any, call: Call, moved: Parts, again: Parts
) -> list[Any]:
    """By the second directions, the last operands: a curvature along the first ones."""
    primals, rest = _primals(operands, call)
    directions = rest[: sum(moved)]
    if not any(map(_there, cotangents)):
        return [None] * len(operands)
    given = map(ad.instantiate_zeros, cotangents)
    found = curvature_p.bind(*primals, *given, *directions, call=call, wanted=again, moved=moved)
    return [None] * (len(operands) - sum(again)) + list(found)


def _refused(*_: Any, **__: Any) -> Any:
    raise ArgumentError(_TOO_MANY)


ad.primitive_jvps[forward_p] = _forward_jvp
ad.primitive_jvps[tangents_p] = _tangents_jvp
ad.primitive_jvps[backward_p] = _backward_jvp
ad.primitive_jvps[curvature_p] = _curvature_jvp
ad.primitive_jvps[bent_p] = _refused
ad.primitive_transposes[tangents_p] = _tangents_transpose
ad.primitive_transposes[backward_p] = _backward_transpose
ad.primitive_transposes[curvature_p] = _curvature_transpose
ad.primitive_transposes[bent_p] = _bent_transpose
mlir.register_lowering(bent_p, _refused)
mlir.register_lowering(bent_p, _refused, platform="cpu")
partial_eval.dce_rules[forward_p] = _forward_dce
batching.primitive_batchers[forward_p] = partial(_batching.forward, forward_p)
batching.primitive_batchers[tangents_p] = partial(_batching.tangents, tangents_p)
batching.primitive_batchers[backward_p] = partial(_batching.backward, backward_p)
batching.primitive_batchers[curvature_p] = partial(_batching.one_by_one, curvature_p)
batching.primitive_batchers[bent_p] = partial(_batching.one_by_one, bent_p)
