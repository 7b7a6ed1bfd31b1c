"""The passes of one call of a layer on tensors, which PyTorch's autograd does not see."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import _core
from .._base.memory import empty
from .._engine.objective import Objective
from .._engine.passes import Pass
from .._engine.prepare import Arrays, prepare
from .._engine.results import Results
from .._net import validate
from .._net.stack import Params, Stack
from .._net.state import spans, state_size
from ..errors import ArgumentError, DTypeError, ShapeError
from ._beyond import Overflow
from ._describe import Description

__all__ = [
    "PARTS",
    "Call",
    "backward",
    "checked_lengths",
    "copied_reset",
    "curvature",
    "forward",
    "tangents",
]

Array = NDArray[Any]
Tangents = tuple[Tensor | None, Tensor | None, Tensor | None]
# The tensors that a layer has gradients by.
PARTS = ("params", "x", "state")


class _Tape(np.ndarray[Any, Any]):
    """A number that stands for the pass of a forward call, whose tape the array keeps alive.

    A tensor of this memory is saved for the backward pass in place of the tape. If a hook of saved
    tensors drops it, the tape is freed; if a hook makes a copy, the number is found only while the
    tape is alive.
    """

    # What the tape was made from, and the pass until a backward pass has used it up.
    key: tuple[int, ...]
    made: Pass | None

    @staticmethod
    def of(key: tuple[int, ...], made: Pass) -> Tensor:
        tape = np.array([next(_tickets)]).view(_Tape)
        tape.key, tape.made = key, made
        _tapes[int(tape[0])] = tape
        return torch.from_numpy(tape)


_tickets = count(1)
_tapes: WeakValueDictionary[int, _Tape] = WeakValueDictionary()


@dataclass(eq=False)
class Call:
    """A call of a layer without its tensors, which are flat parameters, x (T, B, I), flat state.

    wanted: the gradients that a backward pass may be asked for; if there are any, the forward pass
    makes a tape. overflow: told of gradients that leave the range of the dtype, which belong to
    `weights`, the tensors that the flat parameters are made of.
    """

    described: Description
    lengths: Array | None = None
    reset: Array | None = None
    train: bool = False
    seed: int = 0
    memory: int | str | None = None
    wanted: frozenset[str] = frozenset()
    overflow: Overflow | None = None
    weights: tuple[Tensor, ...] = ()
    # The tape, while it is on its way from a forward pass to those who save it, and back.
    _tape: Tensor | None = field(default=None, repr=False)

    @property
    def net(self) -> Stack:
        """The net that computes the layer."""
        return self.described.stack()

    def alone(self) -> Call:
        """The same call without a tape, for a call that is made several times."""
        return replace(self, wanted=frozenset(), overflow=None, _tape=None)

    def keep(self, key: tuple[int, ...], made: Pass) -> None:
        self._tape = _Tape.of(key, made)

    def given_tape(self) -> Tensor | None:
        """The tape of the last forward pass, which the caller saves."""
        tape, self._tape = self._tape, None
        return tape

    @contextmanager
    def using(self, tape: Tensor | None) -> Iterator[None]:
        """A backward pass inside uses the tape, if it is still there."""
        self._tape = tape
        try:
            yield
        finally:
            self._tape = None

    def take(self, key: tuple[int, ...], wanted: frozenset[str]) -> Pass | None:
        """The kept pass if it was made from the same tensors and covers `wanted`; else None.

        It is handed out only once, because a backward pass uses it up.
        """
        tensor = self.given_tape()
        tape = None if tensor is None else _tapes.get(int(tensor))
        if tape is None:
            return None
        made, tape.made = tape.made, None
        return made if tape.key == key and wanted <= self.wanted else None

    @property
    def mode(self) -> validate.Mode:
        return validate.Mode(self.train, self.seed, 0)


def forward(call: Call, flat: Tensor, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Outputs (T, B, O) and the flat state after the last step."""
    params, inputs = _bound(call, flat, x, state)
    if call.wanted:
        made = _begun(call, params, inputs, call.wanted)
        call.keep(_key(flat, x, state), made)
        return torch.from_numpy(made.outputs), torch.from_numpy(made.flat_state)
    return _ran(call, params, inputs)


def backward(
    call: Call,
    wanted: frozenset[str],
    flat: Tensor,
    x: Tensor,
    state: Tensor | None,
    d_outputs: Tensor | None,
    d_end: Tensor | None,
) -> Tangents:
    """Gradients by flat, x and state; None for what is not wanted.

    It runs the forward pass again if there is no tape, for example in a second backward pass. Where
    d_outputs or d_end is not finite, gradients are NaN, as those of torch.nn.
    """
    if not _finite(d_outputs, d_end):
        return _not_a_number(call, wanted, flat, x, state, d_outputs, d_end)
    made = call.take(_key(flat, x, state), wanted)
    if made is None:
        made = _begun(call, *_bound(call, flat, x, state), wanted)
    shape = made.outputs.shape
    given = np.zeros(shape, made.outputs.dtype) if d_outputs is None else _array(d_outputs)
    grads = made.backward_flat(given, None if d_end is None else _array(d_end))
    found = made.results
    dx, dstate = found.dx, found.dstate
    if call.overflow is not None and "params" in wanted:
        call.overflow.arrived(call.weights, grads)
    if dx is not None:
        exponents = found.dx_exponent
        assert exponents is not None
        if exponents.any():
            _scale(dx, exponents[:, None, None])
    if dstate is not None:
        exponents = found.dstate_exponent
        assert exponents is not None
        for place, exponent in zip(spans(call.net, shape[1]), exponents, strict=True):
            if exponent:
                _scale(dstate[place], exponent)
    dflat = None
    if "params" in wanted:
        values = grads.flat
        if grads.exponent:
            values = values.copy()
            _scale(values, grads.exponent)
        dflat = torch.from_numpy(values)
    return dflat, _tensor(dx), _tensor(dstate)


def tangents(
    call: Call, flat: Tensor, x: Tensor, state: Tensor | None, directions: Tangents
) -> tuple[Tensor, Tensor]:
    """K tangents (K, T, B, O) of the outputs and (K, ...) of the flat state after the last step.

    directions: (K, ...) each, of flat, x and state; None means that this stays constant.
    """
    params, inputs = _bound(call, flat, x, state)
    moved = [None if direction is None else _array(direction) for direction in directions]
    rows = next(len(direction) for direction in moved if direction is not None)
    net, dtype, size = call.net, params.dtype, state_size(call.net, inputs.batch)
    results: Arrays = {
        "outputs": _outputs(call, x),
        "state_out": np.empty(size, dtype),
        "t_outputs": (
            t_outputs := empty((rows, inputs.output_steps, inputs.batch, net.output_size), dtype)
        ),
        "t_exponent": (exponent := np.empty(inputs.output_steps, np.int32)),
        "t_state_out": (t_end := np.empty((rows, size), dtype)),
        "t_state_exponent": (end_exponent := np.empty(net.n_states, np.int32)),
    }
    if not _finite(*directions):
        t_outputs.fill(np.nan)
        t_end.fill(np.nan)
        return torch.from_numpy(t_outputs), torch.from_numpy(t_end)
    arrays = dict(zip(("t_params", "t_x", "t_state"), moved, strict=True))
    prepare(
        params,
        inputs.beside(arrays, *moved),
        call.mode,
        Objective("none"),
        results,
        call.memory,
        threads(),
        None,
        tangents=rows,
    ).run()
    if exponent.any():
        _scale(t_outputs, exponent[:, None, None])
    for place, power in zip(spans(net, inputs.batch), end_exponent, strict=True):
        if power:
            _scale(t_end[:, place], power)
    return torch.from_numpy(t_outputs), torch.from_numpy(t_end)


def curvature(
    call: Call,
    wanted: frozenset[str],
    flat: Tensor,
    x: Tensor,
    state: Tensor | None,
    d_outputs: Tensor | None,
    d_end: Tensor | None,
    direction: Tangents,
) -> Tangents:
    """The derivative of the gradients of `backward`, at fixed d_outputs and d_end, along direction.

    Because second derivatives are symmetric, it is also the gradient of <direction, backward(...)>.
    """
    if not _finite(d_outputs, d_end, *direction):
        parts = zip(PARTS, (flat, x, state), strict=True)
        return tuple(  # type: ignore[return-value]
            torch.full_like(part, torch.nan) if part is not None and name in wanted else None
            for name, part in parts
        )
    params, inputs = _bound(call, flat, x, state)
    dtype, size = params.dtype, state_size(call.net, inputs.batch)
    moved = [None if one is None else _array(one)[None] for one in direction]
    if all(one is None for one in moved):
        moved[0] = np.zeros((1, params.flat.size), dtype)
    given = (
        np.zeros((*x.shape[:2], call.net.output_size), dtype)
        if d_outputs is None
        else _array(d_outputs)
    )
    end = np.zeros(size, dtype) if d_end is None else _array(d_end)
    product = np.empty_like(params.flat)
    gradient = Results.of(call.net, dtype, inputs.steps, inputs.batch, wanted)
    t_dx = None if gradient.dx is None else empty(gradient.dx.shape, dtype)
    t_dstate = None if gradient.dstate is None else np.empty(size, dtype)
    results: Arrays = {**gradient.arrays, "product": product, "t_dx": t_dx, "t_dstate": t_dstate}
    arrays = dict(zip(("t_params", "t_x", "t_state"), moved, strict=True))
    arrays["cotangent_final_state"] = end
    prepare(
        params,
        inputs.beside(arrays, *moved),
        call.mode,
        Objective("given", arrays={"d_outputs": given}),
        results,
        call.memory,
        threads(),
        None,
        tangents=1,
        curvature="hessian",
        cotangents=1,
    ).run()
    dflat = torch.from_numpy(product) if "params" in wanted else None
    return dflat, _tensor(t_dx), _tensor(t_dstate)


def checked_lengths(lengths: Any, steps: int, batch: int) -> Array | None:
    """Checks lengths, (batch,) integers in 0..steps, and returns a copy as the core takes it."""
    if lengths is None:
        return None
    found = torch.as_tensor(lengths)
    if found.dtype not in (torch.int64, torch.int32, torch.uint8):
        raise DTypeError(f"lengths must be integers; got {found.dtype}.")
    if found.shape != (batch,):
        raise ShapeError(
            f"lengths must have shape ({batch},), one per sequence; got {tuple(found.shape)}."
        )
    array = _copied("lengths", found).astype(np.int64)
    if (array < 0).any() or (array > steps).any():
        raise ArgumentError(
            f"lengths must be in 0..T = 0..{steps}; got {array.min()} to {array.max()}."
        )
    return array


def copied_reset(reset: Tensor | None) -> Array | None:
    """A copy of reset, (steps, batch) booleans, as the core takes it."""
    return None if reset is None else _copied("reset", reset.to(torch.uint8)).view(np.bool_)


def threads() -> int:
    """The number of threads: PyTorch's, but not more than this process may use."""
    return min(torch.get_num_threads(), _core.default_threads())


def _copied(name: str, tensor: Tensor) -> Array:
    """A copy of lengths or reset, which a backward pass later needs as the forward pass saw them.

    Inside a transform of torch.func all results of operations are wrapped, and Tensor.numpy() is
    such an operation.
    """
    functorch = torch._C._functorch
    while functorch.is_gradtrackingtensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    if functorch.is_batchedtensor(tensor):
        raise ArgumentError(
            f"{name} must be the same for all samples of torch.vmap. Call the layer once with all "
            "samples as its batch, or once per sample."
        )
    if tensor.device.type != "cpu":
        raise ArgumentError(f"{name} must be on the CPU, as the layer is; got {tensor.device}.")
    array: Array = np.from_dlpack(tensor).copy(order="C")
    return array


def _finite(*tensors: Tensor | None) -> bool:
    """Whether all numbers of all tensors are finite."""
    # A sum is finite only if its terms are, and takes one pass without a copy; it may overflow.
    return all(
        math.isfinite(tensor.sum()) or bool(torch.isfinite(tensor).all())
        for tensor in tensors
        if tensor is not None
    )


def _not_a_number(
    call: Call,
    wanted: frozenset[str],
    flat: Tensor,
    x: Tensor,
    state: Tensor | None,
    d_outputs: Tensor | None,
    d_end: Tensor | None,
) -> Tangents:
    """The gradients where d_outputs or d_end is not finite: NaN for all that depends on it."""
    steps, batch, _ = x.shape
    bad = torch.zeros(steps, batch, dtype=torch.bool)
    if d_outputs is not None:
        bad |= ~torch.isfinite(d_outputs).all(-1)
        if call.lengths is not None:
            # The outputs behind the end of a sequence depend on nothing.
            bad &= torch.arange(steps)[:, None] < torch.from_numpy(call.lengths)
        d_outputs = torch.where(torch.isfinite(d_outputs), d_outputs, 0)
    lost = bad.any(0)
    if d_end is not None:
        ends = ~torch.isfinite(d_end).view(-1, batch, call.described.hidden_size).all(-1).all(0)
        lost |= ends
        bad[-1] |= ends
        d_end = torch.where(torch.isfinite(d_end), d_end, 0)
    dflat, dx, dstate = backward(call, wanted, flat, x, state, d_outputs, d_end)
    if not lost.any():
        return dflat, dx, dstate
    if dflat is not None:
        dflat.fill_(torch.nan)
    if dx is not None:
        # Each step has an effect on later outputs, with a second direction on all.
        before = bad.flip(0).cumsum(0).flip(0) > 0
        dx[lost.expand_as(bad) if call.described.bidirectional else before] = torch.nan
    if dstate is not None:
        dstate.view(-1, batch, call.described.hidden_size)[:, lost] = torch.nan
    return dflat, dx, dstate


def _ran(call: Call, params: Params, inputs: validate.Inputs) -> tuple[Tensor, Tensor]:
    """Outputs and the flat final state by a pass without a tape."""
    outputs = empty((inputs.steps, inputs.batch, call.net.output_size), params.dtype)
    end = np.empty(state_size(call.net, inputs.batch), params.dtype)
    results: Arrays = {"outputs": outputs, "state_out": end}
    goal = Objective("none")
    prepare(params, inputs, call.mode, goal, results, call.memory, threads(), None).run()
    return torch.from_numpy(outputs), torch.from_numpy(end)


def _begun(call: Call, params: Params, inputs: validate.Inputs, wanted: frozenset[str]) -> Pass:
    return Pass(params, inputs, call.mode, wanted, call.memory, threads(), None)


def _bound(
    call: Call, flat: Tensor, x: Tensor, state: Tensor | None
) -> tuple[Params, validate.Inputs]:
    steps, batch, _ = x.shape
    arrays = {
        "x": _array(x),
        "tokens": None,
        "lengths": call.lengths,
        "reset": call.reset,
        "state": None if state is None else _array(state),
    }
    return Params(call.net, _array(flat)), validate.Inputs(steps, batch, steps, arrays)


def _outputs(call: Call, x: Tensor) -> Array:
    dtype = np.dtype(np.float32 if x.dtype == torch.float32 else np.float64)
    return empty((x.shape[0], x.shape[1], call.net.output_size), dtype)


def _key(flat: Tensor, x: Tensor, state: Tensor | None) -> tuple[int, ...]:
    return flat.data_ptr(), x.data_ptr(), 0 if state is None else state.data_ptr()


def _array(tensor: Tensor) -> Array:
    """A view of a tensor's memory, or a copy if it is not contiguous."""
    array: Array = tensor.detach().resolve_neg().contiguous().numpy()
    return array


def _tensor(array: Array | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(array)


def _scale(array: Array, exponent: Any) -> None:
    """Multiplies by 2**exponent in place; overflow gives infinity, underflow 0, as in PyTorch."""
    with np.errstate(over="ignore", under="ignore"):
        np.ldexp(array, exponent, out=array)
