"""rnn: recurrent layers as a function of JAX arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import numpy as jnp

from .._base.memory import budget_bytes
from .._net.layers import Recurrent
from ..errors import DTypeError, ShapeError
from . import _primitives
from ._layer import Weights, weights
from ._plan import Call

__all__ = ["rnn"]


def rnn(
    cell: str | Recurrent,
    params: Mapping[str, Any],
    x: Any,
    *,
    initial_state: Any = None,
    lengths: Any = None,
    reset: Any = None,
    memory: int | str | None = None,
) -> tuple[Any, Any]:
    """Runs recurrent layers over all steps of x, as one custom call of XLA on the CPU.

    cell: "lstm", "gru", "rnn" or another cell of gradcore by its name, or a recurrent layer such as
    gradcore.RNN(I, H, nonlinearity="relu") or that of a compiled cell, whose options count. params:
    a dict with PyTorch's names and shapes: weight_ih_l0 [G*H, I], weight_hh_l0 [G*H, H], bias_ih_l0
    and bias_hh_l0 [G*H] or neither, with further layers as _l1 and so on, and the other direction
    of bidirectional layers with the suffix _reverse. x (T, B, I), or (T, I) without a batch, in the
    dtype of params: float32 or float64.
    initial_state: h [L*D, B, H] for L layers of D directions, or (h, c) for an LSTM, as PyTorch has
    them, without B for x (T, I); a layer with Skip(lag=k > 1) has h [L*D, k, B, H]. None: zeros.
    lengths: (B,) integers in 0..T; from step lengths[b] on the state does not change, and outputs
    are zero. reset: (T, B) booleans; True sets the state of the sequence to zero before that step.
    memory: the budget in bytes of each pass, text such as "64MB", "full" for no limit, or None for
    256 MB (less if little memory is available).

    Returns outputs (T, B, H), or 2*H wide if bidirectional, and the state after the last step in
    the form of initial_state.

    jit, grad, value_and_grad, jvp, linearize, jacfwd, jacrev, hessian, vmap, scan and checkpoint
    work; second derivatives once in forward mode at most. Under vmap samples with the same params
    are sequences of one call; samples with params of their own run one by one. Under grad the
    forward call keeps its tape in gradcore's memory for the backward call, within `memory` each and
    1 GB together; where a tape is not there any more, the backward call runs forward again. A
    gradient beyond the range of its dtype is infinite or 0.
    Zoneout and recurrent_dropout of a layer are at their expectations.

    Raises ArgumentError, ShapeError, DTypeError, MemoryBudgetError, and CompileError if the call
    cannot be compiled when it is first used, for which a C++ compiler is needed. Values that are
    not finite, and wrong lengths, stop the program with an error of XLA whose message names layer,
    step and sequence.
    Reference: Werbos 1990; Griewank and Walther 2000 for the recomputation.
    """
    given = weights(cell, params)
    x = jnp.asarray(x)
    budget_bytes(memory)
    _check_x(given, x)
    batched = x.ndim == 3
    if not batched:
        x = x[:, None]
    steps, batch, _ = x.shape
    extras = []
    if initial_state is not None:
        extras.append(_flat_state(given, initial_state, batch, batched, x.dtype))
    if lengths is not None:
        extras.append(_lengths(lengths, batch, batched))
    if reset is not None:
        extras.append(_reset(reset, steps, batch, batched))
    call = Call(
        given.net, memory, initial_state is not None, lengths is not None, reset is not None
    )
    if batch:
        outputs, end = _primitives.forward(call, given.flat, x, *extras)
    else:
        outputs = jnp.zeros((steps, 0, given.net.output_size), x.dtype)
        end = jnp.zeros(0, x.dtype)
    state = _state(given, end, batch, batched)
    return (outputs if batched else outputs[:, 0]), state


def _check_x(given: Weights, x: Any) -> None:
    if x.ndim not in (2, 3) or x.shape[-1] != given.layer.input_size or not x.shape[0]:
        raise ShapeError(
            f"x must have shape (T, B, I), or (T, I) without a batch, with at least one step and "
            f"I = {given.layer.input_size}, the columns of weight_ih_l0; got {x.shape}."
        )
    if x.dtype != given.flat.dtype:
        raise DTypeError(
            f"x must have the dtype of params, {given.flat.dtype}; got {x.dtype}. Convert it with "
            f".astype(jnp.{given.flat.dtype})."
        )


def _shapes(given: Weights, batch: int, batched: bool) -> list[tuple[int, ...]]:
    """The shapes of h, and of c if there is one."""
    layer = given.layer
    rest: tuple[int, ...] = (batch, layer.hidden_size) if batched else (layer.hidden_size,)
    lag = (layer.lag,) if layer.lag > 1 else ()
    others = [(given.rows, *rest)] * (len(layer.cell.states) - 1)
    return [(given.rows, *lag, *rest), *others]


def _flat_state(given: Weights, state: Any, batch: int, batched: bool, dtype: Any) -> Any:
    shapes, names = _shapes(given, batch, batched), given.layer.cell.states
    one = len(shapes) == 1
    arrays: list[Any] = (
        [state] if one else list(state) if isinstance(state, (tuple, list)) else [None]
    )
    if len(arrays) != len(shapes):
        raise ShapeError(
            f"initial_state must be a tuple ({', '.join(names)}) for this cell; got "
            f"{type(state).__name__}."
        )
    pieces = []
    for name, shape, array in zip(names, shapes, arrays, strict=True):
        if np.shape(array) != shape:
            raise ShapeError(
                f"{name} of initial_state must have shape {shape}; got {np.shape(array)}."
            )
        if jnp.result_type(array) != dtype:
            raise DTypeError(
                f"{name} of initial_state must have the dtype of params, {dtype}; got "
                f"{jnp.result_type(array)}."
            )
        pieces.append(jnp.reshape(array, (given.rows, -1)))
    return jnp.concatenate(pieces, 1).reshape(-1)


def _state(given: Weights, end: Any, batch: int, batched: bool) -> Any:
    """The flat state in PyTorch's form; each layer and direction has its h, then its c."""
    shapes = _shapes(given, batch, batched)
    rows = end.reshape(given.rows, -1)
    found, start = [], 0
    for shape in shapes:
        size = int(np.prod(shape[1:]))
        found.append(rows[:, start : start + size].reshape(shape))
        start += size
    return found[0] if len(found) == 1 else tuple(found)


def _lengths(lengths: Any, batch: int, batched: bool) -> Any:
    array = jnp.asarray(lengths)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise DTypeError(f"lengths must be integers; got {array.dtype}.")
    if array.shape != ((batch,) if batched else ()):
        raise ShapeError(
            f"lengths must have one integer per sequence, shape {(batch,) if batched else ()}; got "
            f"{array.shape}."
        )
    return array.astype(np.int32).reshape(batch)


def _reset(reset: Any, steps: int, batch: int, batched: bool) -> Any:
    array = jnp.asarray(reset)
    if array.dtype != jnp.bool_:
        raise DTypeError(f"reset must be boolean; got {array.dtype}.")
    shape = (steps, batch) if batched else (steps,)
    if array.shape != shape:
        raise ShapeError(
            f"reset must have one flag for each step of a sequence, shape {shape}; got "
            f"{array.shape}."
        )
    return array.reshape(steps, batch)
