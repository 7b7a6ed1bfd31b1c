"""A layer as an opaque operator, for torch.compile, torch.export and what _modes.opaque() lists.

Its output shapes are known without running it. Its backward pass runs the forward pass again,
because a compiled graph hands only tensors from the forward to the backward pass, not a tape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _numbers
from ._describe import Description
from ._numbers import Call, checked_lengths, copied_reset

__all__ = ["gradients", "layer", "layer_backward"]

INPUTS = "Tensor flat, Tensor x, Tensor? state, Tensor? lengths, Tensor? reset, Tensor? seed"
# The fields of Description, in their order.
OPTIONS = (
    "str memory, str mode, int input_size, int hidden_size, int num_layers, bool bias, "
    "bool bidirectional, float dropout, str skip_kind, int skip_lag, float skip_value, "
    "bool skip_learned, float step, float diffusion, str own"
)


@torch.library.custom_op(
    "gradcore::layer", mutates_args=(), schema=f"({INPUTS}, {OPTIONS}) -> (Tensor, Tensor)"
)
def layer(
    flat: Tensor,
    x: Tensor,
    state: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    seed: Tensor | None,
    memory: str,
    *description: Any,
) -> tuple[Tensor, Tensor]:
    """Outputs (T, B, O) and the flat state after the last step."""
    call = _call(x, lengths, reset, seed, memory, Description(*description))
    return _numbers.forward(call, flat, x, state)


@layer.register_fake
def _shapes(
    flat: Tensor,
    x: Tensor,
    state: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    seed: Tensor | None,
    memory: str,
    *description: Any,
) -> tuple[Tensor, Tensor]:
    described = Description(*description)
    steps, batch, _ = x.shape
    return x.new_empty(steps, batch, described.width), x.new_empty(described.state_size(batch))


@torch.library.custom_op(
    "gradcore::layer_backward",
    mutates_args=(),
    schema=f"({INPUTS}, Tensor? d_outputs, Tensor? d_end, {OPTIONS}) -> (Tensor, Tensor, Tensor)",
)
def layer_backward(
    flat: Tensor,
    x: Tensor,
    state: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    seed: Tensor | None,
    d_outputs: Tensor | None,
    d_end: Tensor | None,
    memory: str,
    *description: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by flat, x and state; the last is empty if there is no state."""
    wanted = frozenset({"params", "x"} if state is None else {"params", "x", "state"})
    call = _call(x, lengths, reset, seed, memory, Description(*description))
    dflat, dx, dstate = _numbers.backward(call, wanted, flat, x, state, d_outputs, d_end)
    assert dflat is not None
    assert dx is not None
    return dflat, dx, x.new_empty(0) if dstate is None else dstate


@layer_backward.register_fake
def _gradient_shapes(
    flat: Tensor, x: Tensor, state: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    like = x.new_empty(0) if state is None else torch.empty_like(state)
    return torch.empty_like(flat), torch.empty_like(x), like


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.memory = inputs[:7]
    ctx.description = inputs[7:]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _back(ctx: Any, d_outputs: Tensor | None, d_end: Tensor | None) -> Any:
    state = ctx.saved_tensors[2]
    dflat, dx, dstate = layer_backward(
        *ctx.saved_tensors, d_outputs, d_end, ctx.memory, *ctx.description
    )
    none = (None,) * (4 + len(ctx.description))
    return dflat, dx, None if state is None else dstate, *none


layer.register_autograd(_back, setup_context=_remember)


def gradients(
    call: Call,
    flat: Tensor,
    x: Tensor,
    state: Tensor | None,
    d_outputs: Tensor | None,
    d_end: Tensor | None,
) -> dict[str, Tensor | None]:
    """The gradients of a call of a layer by the operator, without using its tape."""
    lengths = None if call.lengths is None else torch.from_numpy(call.lengths)
    reset = None if call.reset is None else torch.from_numpy(call.reset)
    seed = torch.tensor(call.seed) if call.train else None
    memory = "" if call.memory is None else str(call.memory)
    dflat, dx, dstate = layer_backward(
        *(flat, x, state, lengths, reset, seed, d_outputs, d_end, memory), *call.described
    )
    return {"params": dflat, "x": dx, "state": None if state is None else dstate}


def _call(
    x: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    seed: Tensor | None,
    memory: str,
    described: Description,
) -> Call:
    return Call(
        described,
        checked_lengths(lengths, *x.shape[:2]),
        copied_reset(reset),
        train=seed is not None,
        seed=0 if seed is None else int(seed),
        memory=int(memory) if memory.isdigit() else memory or None,
    )
