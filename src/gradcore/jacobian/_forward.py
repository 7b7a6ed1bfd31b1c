"""Jacobian-vector products: tangents that go forward through a net, K at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _validate
from .._checks import integer
from .._run import Progress, execute
from ..api import Seed
from ..errors import ArgumentError, DTypeError
from ..layers import Stack
from ..loss import Objective
from ..params import Params
from ..state import LayerState, state_size, unflatten
from ._directions import arrays_of, common_count, flat_states, states_of, values_of

__all__ = ["Jvp", "jvp"]


@dataclass(frozen=True, eq=False)
class Jvp:
    """What jvp found.

    outputs (T, B, O) and state: as of gradcore.apply. d_outputs (K, T, B, O): the true tangent of
    outputs[t] is d_outputs[:, t] * 2**d_outputs_exponent[t]. dstate: tangents of the state, arrays
    with a leading K, to be multiplied by 2**dstate_exponent.
    """

    outputs: NDArray[Any]
    state: tuple[LayerState, ...]
    d_outputs: NDArray[Any]
    d_outputs_exponent: NDArray[np.int32]
    dstate: tuple[LayerState, ...]
    dstate_exponent: int


def jvp(
    net: Stack,
    params: Params,
    x: Any,
    *,
    dparams: Any = None,
    dx: Any = None,
    dstate: Sequence[LayerState] | None = None,
    dstate_exponent: int = 0,
    state: Sequence[LayerState] | None = None,
    lengths: Any = None,
    reset: Any = None,
    seed: Seed = None,
    train: bool = False,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Jvp:
    """Tangents of outputs and state along K directions of parameters, input and initial state.

    dparams: (K, n_parameters), or a sequence of K Params or Grads. dx: (K, T, B, I), float input
    only. dstate: a state whose arrays have a leading K, to be multiplied by 2**dstate_exponent.
    What is not given is zero. The net is run once; the K tangents of all sequences are rows of one
    wider product. Other arguments as of gradcore.apply; a range of steps is x[t0:t1] with the state
    before it.

    Layers that read both ways are refused: their tangents would need two passes over all steps.
    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    Reference: Griewank and Walther 2008, section 3.1.
    """
    _validate.model(net, params)
    forward_only(net, "jvp")
    inputs = _validate.inputs(net, params.dtype, x, lengths, reset, state)
    steps, batch, dtype = inputs.steps, inputs.batch, params.dtype
    if dx is not None and inputs.token_bytes:
        raise DTypeError("dx needs float x; integer tokens have no tangents.")
    given = {
        "direction_params": None if dparams is None else values_of("dparams", dparams, params),
        "tangent_x": None
        if dx is None
        else arrays_of("dx", dx, (steps, batch, net.input_size), dtype),
        "tangent_state": None
        if dstate is None
        else flat_states("dstate", net, batch, dtype, dstate),
    }
    count = common_count(
        dparams=given["direction_params"], dx=given["tangent_x"], dstate=given["tangent_state"]
    )
    results: dict[str, NDArray[Any] | None] = {
        "outputs": np.empty((steps, batch, net.output_size), dtype),
        "state_out": np.empty(state_size(net, batch), dtype),
        "tangent_outputs": (d_outputs := np.empty((count, steps, batch, net.output_size), dtype)),
        "direction_exponent": (exponents := np.empty(steps, np.int32)),
        "tangent_state_out": (d_state := np.empty((count, state_size(net, batch)), dtype)),
        "direction_state_exponent": (d_state_exponent := np.zeros(1, np.int32)),
    }
    execute(
        params,
        replace(inputs, arrays={**inputs.arrays, **given}),
        _validate.mode(net, train, seed),
        Objective("none"),
        results,
        (x, lengths, reset, dparams, dx),
        memory,
        threads,
        progress,
        directions=count,
        start_exponent=integer("dstate_exponent", dstate_exponent),
    )
    outputs, after = results["outputs"], results["state_out"]
    assert outputs is not None
    assert after is not None
    return Jvp(
        outputs,
        unflatten(net, batch, after),
        d_outputs,
        exponents,
        states_of(net, batch, d_state),
        int(d_state_exponent[0]),
    )


def forward_only(net: Stack, what: str) -> None:
    """Refuses nets with a layer that reads both ways."""
    if any(layer.bidirectional for layer in net.recurrent):
        raise ArgumentError(
            f"{what} does not go through bidirectional layers; use vjp, or nets whose layers all "
            "read time forward."
        )
