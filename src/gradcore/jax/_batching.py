"""jax.vmap: samples become sequences of one batch, or directions of one product, where they can.

Samples with weights of their own, or with gradients of the weights of their own, run one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import numpy as jnp

from .._net.state import spans, state_shapes
from ._plan import Call, Parts

__all__ = ["backward", "forward", "one_by_one", "tangents"]

Arrays = Sequence[Any]
Dims = Sequence[int | None]


def forward(
    primitive: Any, operands: Arrays, dims: Dims, *, call: Call, tape: Parts | None
) -> tuple[list[Any], list[int | None]]:
    """The batching rule of the forward call: samples become sequences of one call.

    Samples with parameters of their own run one by one.
    """
    if dims[0] is not None:
        return one_by_one(primitive, operands, dims, call=call, tape=tape)
    fold = _Fold(call, operands, dims)
    outputs, end, *ticket = primitive.bind(*fold.primals, call=call, tape=tape)
    return [fold.parted(outputs, 1), fold.parted_state(end), *ticket], [
        1,
        0,
        *(None for _ in ticket),
    ]


def tangents(
    primitive: Any, operands: Arrays, dims: Dims, *, call: Call, moved: Parts, count: int
) -> tuple[list[Any], list[int | None]]:
    """The batching rule of tangents.

    Samples that differ in their directions only become directions of one call, others sequences of
    it; samples with parameters, or directions of parameters, of their own run one by one.
    """
    params = {"call": call, "moved": moved, "count": count}
    ticket = 2 + call.extras
    directions, own = operands[ticket + 1 :], dims[ticket + 1 :]
    if all(dim is None for dim in dims[: ticket + 1]):
        n = next(x.shape[d] for x, d in zip(directions, own, strict=True) if d is not None)
        # Those of one sample are count directions already.
        many = [
            _front(x, d, n).reshape(n * count, *_sample(x, d)[1:])
            for x, d in zip(directions, own, strict=True)
        ]
        found = primitive.bind(*operands[: ticket + 1], *many, **(params | {"count": n * count}))
        return [one.reshape(n, count, *one.shape[1:]) for one in found], [0, 0]
    if dims[0] is not None or dims[ticket] is not None or (moved.params and own[0] is not None):
        return one_by_one(primitive, operands, dims, **params)
    fold = _Fold(call, operands, dims)
    rest = iter(zip(directions, own, strict=True))
    joined = []
    if moved.params:
        joined.append(next(rest)[0])
    if moved.x:
        x, dim = next(rest)
        joined.append(fold.joined(x, dim, 2))
    if moved.state:
        state, dim = next(rest)
        joined.append(fold.joined_state(state, dim))
    outputs, end = primitive.bind(*fold.primals, operands[ticket], *joined, **params)
    return [fold.parted(outputs, 2), fold.parted_state(end)], [2, 0]


def backward(
    primitive: Any, operands: Arrays, dims: Dims, *, call: Call, wanted: Parts
) -> tuple[list[Any], list[int | None]]:
    """The batching rule of the backward call: samples become sequences of one call.

    They run one by one where each wants a gradient of the parameters, which a call adds up.
    """
    params = {"call": call, "wanted": wanted}
    ticket = 2 + call.extras
    if dims[0] is not None or dims[ticket] is not None or wanted.params:
        return one_by_one(primitive, operands, dims, **params)
    fold = _Fold(call, operands, dims)
    found = iter(
        primitive.bind(
            *fold.primals,
            operands[ticket],
            fold.joined(operands[ticket + 1], dims[ticket + 1], 1),
            fold.joined_state(operands[ticket + 2], dims[ticket + 2]),
            **params,
        )
    )
    results: list[Any] = []
    axes: list[int | None] = []
    if wanted.x:
        results.append(fold.parted(next(found), 1))
        axes.append(1)
    if wanted.state:
        results.append(fold.parted_state(next(found)))
        axes.append(0)
    return results, axes


def one_by_one(
    primitive: Any, operands: Arrays, dims: Dims, **params: Any
) -> tuple[list[Any], list[int | None]]:
    """Each sample is a call of its own."""
    mapped = [jnp.moveaxis(x, d, 0) for x, d in zip(operands, dims, strict=True) if d is not None]

    def one(samples: list[Any]) -> list[Any]:
        rest = iter(samples)
        own = [x if d is None else next(rest) for x, d in zip(operands, dims, strict=True)]
        found: list[Any] = primitive.bind(*own, **params)
        return found

    results = jax.lax.map(one, mapped)
    return list(results), [0] * len(results)


class _Fold:
    """Joins an axis of N samples with that of B sequences, as N * B sequences."""

    def __init__(self, call: Call, operands: Arrays, dims: Dims) -> None:
        self.call = call
        count = 2 + call.extras
        pairs = list(zip(operands, dims, strict=True))
        self.samples = next(x.shape[d] for x, d in pairs if d is not None)
        x, dim = pairs[1]
        self.batch = _sample(x, dim)[1]
        self.spans = spans(call.net, self.batch)
        self.widths = [s.width for s in state_shapes(call.net) for _ in range(s.directions)]
        self.primals = [operands[0], self.joined(x, dim, 1)]
        rest = iter(pairs[2:count])
        if call.state:
            self.primals.append(self.joined_state(*next(rest)))
        if call.lengths:
            self.primals.append(self.joined(*next(rest), 0))
        if call.reset:
            self.primals.append(self.joined(*next(rest), 1))

    def joined(self, x: Any, dim: int | None, axis: int) -> Any:
        """axis: that of B in a sample."""
        x = jnp.moveaxis(_front(x, dim, self.samples), 0, axis)
        return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

    def parted(self, x: Any, axis: int) -> Any:
        return x.reshape(*x.shape[:axis], self.samples, self.batch, *x.shape[axis + 1 :])

    def joined_state(self, state: Any, dim: int | None) -> Any:
        """Flat states [..., S] of samples as one."""
        state = _front(state, dim, self.samples)
        pieces = []
        for span, width in zip(self.spans, self.widths, strict=True):
            piece = state[..., span]
            piece = piece.reshape(*piece.shape[:-1], -1, self.batch, width)
            piece = jnp.moveaxis(piece, 0, -3)
            pieces.append(piece.reshape(*piece.shape[:-4], -1))
        return jnp.concatenate(pieces, -1)

    def parted_state(self, state: Any) -> Any:
        """The reverse: [N, ..., S]."""
        pieces = []
        for span, width in zip(self.spans, self.widths, strict=True):
            begin, end = span.start * self.samples, span.stop * self.samples
            piece = state[..., begin:end]
            piece = piece.reshape(*piece.shape[:-1], -1, self.samples, self.batch, width)
            piece = jnp.moveaxis(piece, -3, 0)
            pieces.append(piece.reshape(*piece.shape[:-3], -1))
        return jnp.concatenate(pieces, -1)


def _front(x: Any, dim: int | None, samples: int) -> Any:
    """x with an axis of samples in front."""
    return jnp.broadcast_to(x, (samples, *x.shape)) if dim is None else jnp.moveaxis(x, dim, 0)


def _sample(x: Any, dim: int | None) -> tuple[int, ...]:
    """The shape of one sample."""
    shape = tuple(x.shape)
    return shape if dim is None else shape[:dim] + shape[dim + 1 :]
