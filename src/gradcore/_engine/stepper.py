"""Stepper: runs a net one step or one block of steps at a time, for real-time use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._base.checks import positive_int
from .._base.reprs import described
from .._net import validate
from .._net.description import core_net
from .._net.stack import Params, Stack
from .._net.state import LayerState, clear_sequences, flatten, state_size, unflatten
from ..errors import ArgumentError, DTypeError, ShapeError
from .calls import apply
from .planner import Workload, make_plan

__all__ = ["Stepper"]

# Prepared calls that are kept: each length of a block has two, one per state that it reads.
_MOST_CALLS = 16


class _Prepared(NamedTuple):
    """A call of the core with the array that it reads its input from and that of its outputs."""

    call: _core.Call
    buffer: NDArray[Any]
    outputs: NDArray[Any]


class Stepper:
    """Runs a net step by step and keeps its state; outputs have the same bits as gradcore.apply's.

    params: changes take effect at the next step. batch: the number of sequences that are run side
    by side. static: (batch, S), what does not change with time. Where the net computes its initial
    state, the state at the start and after a reset is that of the parameters at this moment.

    Each step or block is a call of the core, which packs the weights anew: about 10 us for 128
    units. A signal in real time is best run in the blocks in which it comes. Only one thread may
    use a Stepper at a time. Raises ShapeError, DTypeError, ArgumentError.
    """

    def __init__(self, net: Stack, params: Params, batch: int = 1, *, static: Any = None) -> None:
        validate.model(net, params)
        if net.bidirectional:
            raise ArgumentError(
                "net must not have a bidirectional layer, whose output at a step depends on later "
                "steps. Use gradcore.apply on whole sequences."
            )
        if net.borders:
            first = net.borders[0]
            raise ArgumentError(
                f"net must go step by step; layer {first} ({type(net.layers[first]).__name__}) "
                "reads several steps at a time or changes their number. Use gradcore.apply on "
                "whole sequences."
            )
        self._net, self._params = net, params
        self._batch = positive_int("batch", batch)
        self._static = validate.laid_out(
            "static", validate.static_of(net, static, self._batch, params.dtype)
        )
        # Two states that alternate: the core reads one and writes the other.
        self._states = [
            np.zeros(state_size(net, self._batch), params.dtype),
            np.zeros(state_size(net, self._batch), params.dtype),
        ]
        self._states[0][...] = self._start()
        self._calls: dict[tuple[str, int, int], _Prepared] = {}
        self._turn = 0
        self._done = 0

    def __repr__(self) -> str:
        return described(self, net=self._net, batch=self._batch, steps=self._done)

    def __getstate__(self) -> dict[str, Any]:
        # Prepared calls of the core cannot be pickled; they are made again when needed.
        return {**self.__dict__, "_calls": {}}

    @property
    def steps(self) -> int:
        """The number of steps since the start or the last reset of all sequences."""
        return self._done

    @property
    def state(self) -> tuple[LayerState, ...]:
        """A copy of the state after the last step, as gradcore.apply takes it; it can be set."""
        return unflatten(self._net, self._batch, self._states[self._turn].copy())

    @state.setter
    def state(self, state: Sequence[LayerState]) -> None:
        self._states[self._turn][...] = flatten(self._net, self._batch, self._params.dtype, state)

    def step(self, x_t: Any) -> Any:
        """The outputs (B, O) for the next input, (B, I) floats or (B,) integer tokens.

        Those of a net with Heads are a dict of such arrays. An exception leaves the state as it
        was.
        """
        array = validate.as_array("x_t", x_t)
        tokens = array.dtype.kind in "iu"
        if array.ndim != (1 if tokens else 2):
            expected = f"({self._batch},)" if tokens else f"({self._batch}, {self._net.input_size})"
            raise ShapeError(f"x_t must have shape {expected}, one step; got {array.shape}.")
        return self._net.named(self._advance("x_t", array[None])[0])

    def run(self, x: Any) -> Any:
        """The outputs (T, B, O) for the next T inputs, (T, B, I) floats or (T, B) integer tokens.

        They have the same bits as those of T steps, and cost far less: for short blocks hardly more
        than one step. Calls are prepared for the last few lengths, so keep to one, or a few. An
        exception leaves the state as it was.
        """
        return self._net.named(self._advance("x", validate.as_array("x", x)))

    def _advance(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        inputs = validate.inputs(self._net, self._params.dtype, array, static=self._static)
        if inputs.batch != self._batch:
            raise ShapeError(f"{name} must hold {self._batch} sequences; got {inputs.batch}.")
        prepared = self._prepared("tokens" if inputs.token_bytes else "x", array)
        np.copyto(prepared.buffer, array)
        prepared.call.run()
        self._turn = 1 - self._turn
        self._done += len(array)
        outputs: NDArray[Any] = prepared.outputs.copy()
        return outputs

    def reset(self, sequences: Any = None) -> None:
        """Sets all sequences to the initial state, or those where a (B,) bool array is True."""
        if sequences is None:
            self._states[self._turn][...] = self._start()
            self._done = 0
            return
        chosen = validate.as_array("sequences", sequences)
        if chosen.dtype != np.bool_:
            raise DTypeError(f"sequences must have dtype bool; got {chosen.dtype}.")
        if chosen.shape != (self._batch,):
            raise ShapeError(f"sequences must have shape ({self._batch},); got {chosen.shape}.")
        states = unflatten(self._net, self._batch, self._states[self._turn])
        clear_sequences(states, chosen, unflatten(self._net, self._batch, self._start()))

    def _start(self) -> NDArray[Any]:
        """The flat initial state: the final one of a call whose sequences have no steps."""
        net, dtype = self._net, self._params.dtype
        if not net.starts_elsewhere:
            return np.zeros(state_size(net, self._batch), dtype)
        x = (
            np.zeros((1, self._batch), np.uint8)
            if net.embedding is not None
            else np.zeros((1, self._batch, net.input_size), dtype)
        )
        lengths = np.zeros(self._batch, np.int64)
        state = apply(net, self._params, x, lengths=lengths, static=self._static, threads=1)[1]
        return flatten(net, self._batch, dtype, state)

    def _prepared(self, name: str, like: NDArray[Any]) -> _Prepared:
        """The prepared call that takes this kind of input and reads the current state."""
        key = (like.dtype.str, len(like), self._turn)
        if key not in self._calls:
            if len(self._calls) >= _MOST_CALLS:
                self._calls.pop(next(iter(self._calls)))
            self._calls[key] = self._prepare(name, like)
        return self._calls[key]

    def _prepare(self, name: str, like: NDArray[Any]) -> _Prepared:
        net, dtype = self._net, self._params.dtype
        buffer = np.zeros(like.shape, like.dtype)
        outputs = np.zeros((len(like), self._batch, net.output_size), dtype)
        given = {} if self._static is None else {"static": self._static}
        work = Workload(
            net,
            dtype,
            len(like),
            self._batch,
            frozenset(("params", name, "state", "outputs", "state_out", *given)),
            token_bytes=like.itemsize if name == "tokens" else 0,
            threads=1,
        )
        plan = make_plan(work, None)
        call = _core.Call(core_net(net, dtype), steps=len(like), batch=self._batch)
        call.bind(
            params=self._params.flat,
            state=self._states[self._turn],
            outputs=outputs,
            state_out=self._states[1 - self._turn],
            **{name: buffer},
            **given,
        )
        call.execution(threads=work.threads)
        call.plan(plan.schedule.ops(), segment_steps=plan.segment_steps, slots=plan.slots)
        return _Prepared(call, buffer, outputs)
