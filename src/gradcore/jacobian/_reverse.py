"""Vector-Jacobian products: K cotangents that are carried back through a net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.checks import integer
from .._base.memory import empty
from .._engine.calls import Seed
from .._engine.objective import Objective
from .._engine.prepare import Arrays, Progress, prepare
from .._net import validate
from .._net.named import joined
from .._net.stack import Grads, Params, Stack
from .._net.state import LayerState, state_size, unflatten
from ._directions import count_of, input_directions, state_directions

__all__ = ["Vjp", "vjp"]


@dataclass(frozen=True, eq=False)
class Vjp:
    """The result of vjp; what wrt does not name is None.

    grads: K Grads of the parameters, each with its exponent. dx (K, T, B, I): the true cotangent of
    x[t] is dx[:, t] * 2**dx_exponent[..., t]; dx_exponent is (T,), or (K, T) if each cotangent had
    a pass of its own (see vjp). dstate: cotangents of the initial state, arrays with a leading
    axis K, to be multiplied by 2**dstate_exponent, which is (L,), or (K, L) with passes of their
    own; L is the number of recurrent layers, where a bidirectional layer counts twice. dstatic
    (K, B, S): cotangents of static, to be multiplied by 2**dstatic_exponent, which is (1,), or
    (K, 1) with passes of their own.
    state: the state after the last step.
    """

    grads: list[Grads] | None
    dx: NDArray[Any] | None
    dx_exponent: NDArray[np.int32] | None
    dstate: tuple[LayerState, ...] | None
    dstate_exponent: NDArray[np.int32] | None
    dstatic: NDArray[Any] | None
    dstatic_exponent: NDArray[np.int32] | None
    state: tuple[LayerState, ...]


@dataclass(frozen=True, eq=False)
class _Cotangents:
    """The checked arguments of vjp; outputs and state_out have a leading axis K.

    given: d_outputs as the caller passed it, to count which arrays had to be copied.
    """

    params: Params
    inputs: validate.Inputs
    mode: validate.Mode
    outputs: NDArray[Any] | None
    state_out: NDArray[Any] | None
    given: object
    exponent: int
    memory: int | str | None
    threads: int | None
    progress: Progress | None


def vjp(
    net: Stack,
    params: Params,
    x: Any,
    *,
    d_outputs: Any = None,
    dstate_out: Sequence[LayerState] | None = None,
    dstate_out_exponent: int = 0,
    wrt: Sequence[str] = ("params", "x", "state"),
    state: Sequence[LayerState] | None = None,
    static: Any = None,
    lengths: Any = None,
    reset: Any = None,
    seed: Seed = None,
    train: bool = False,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Vjp:
    """Cotangents of parameters, input and initial state from K cotangents of outputs and state.

    It is meant for analysing a net, where all cotangents are known before the call. If the
    cotangents depend on the outputs, as the gradient of a loss computed elsewhere does, use
    gradcore.forward, which returns the outputs first and keeps the tape; vjp runs the net again.

    d_outputs: (K, T, B, O), cotangents of the outputs; those at t >= lengths[b] do not count.
    Behind a Pool (K, B, O). Of a net with Heads it is a dict of such arrays, with None for zeros.
    dstate_out: cotangents of the state after the last step (after step lengths[b]-1), arrays with a
    leading axis K, to be multiplied by 2**dstate_out_exponent. Ranges of steps can be chained:
    pass the dstate of the call over the later steps. What is not given is zero.
    wrt: which cotangents to compute, of "params", "x", "state" and "static". Without "params", and
    if all layers read time forward and there is no Pool, the net is run once for all K cotangents,
    which are rows of one wider product; otherwise each cotangent is a pass of its own. The other
    arguments are those of gradcore.apply.

    Raises ShapeError, DTypeError, ArgumentError, MemoryBudgetError, NonFiniteError.
    Reference: Griewank and Walther 2008, section 3.2.
    """
    validate.model(net, params)
    inputs = validate.inputs(net, params.dtype, x, lengths, reset, state, static)
    wanted = validate.wrt(wrt, inputs.token_bytes > 0 and tuple(wrt) != _ALL, net)
    if inputs.token_bytes:
        wanted -= {"x"}
    shape = (*net.positions(inputs.output_steps, inputs.batch), net.output_size)
    outputs = None
    if d_outputs is not None:
        together = _together_by_head(d_outputs, net, shape[:-1], params.dtype)
        outputs = input_directions("d_outputs", together, shape, params.dtype)
    state_out = (
        None
        if dstate_out is None
        else state_directions("dstate_out", net, inputs.batch, params.dtype, dstate_out)
    )
    count_of(d_outputs=outputs, dstate_out=state_out)
    call = _Cotangents(
        params,
        inputs,
        validate.mode(net, train, seed),
        outputs,
        state_out,
        d_outputs,
        integer("dstate_out_exponent", dstate_out_exponent),
        memory,
        threads,
        progress,
    )
    together = "params" not in wanted and net.step_by_step
    return _together(call, wanted) if together else _one_by_one(call, wanted)


_ALL = ("params", "x", "state")


def _together_by_head(
    d_outputs: Any, net: Stack, lead: tuple[int, ...], dtype: np.dtype[Any]
) -> Any:
    """Cotangents of all outputs from a dict of those of each head."""
    if net.heads is None or not isinstance(d_outputs, Mapping):
        return joined("d_outputs", d_outputs, net, lead, dtype)
    given = [np.shape(array) for array in d_outputs.values() if array is not None]
    count = given[0][0] if given and given[0] else 1
    return joined("d_outputs", d_outputs, net, (count, *lead), dtype)


def _together(call: _Cotangents, wanted: frozenset[str]) -> Vjp:
    net, dtype = call.params.net, call.params.dtype
    arrays = {"cotangent_outputs": call.outputs, "cotangent_final_state": call.state_out}
    inputs = call.inputs.beside(arrays, call.given)
    steps, batch = inputs.steps, inputs.batch
    count = count_of(d_outputs=call.outputs, dstate_out=call.state_out)
    size = state_size(net, batch)
    results: dict[str, NDArray[Any] | None] = {
        "state_out": (state_out := np.empty(size, dtype)),
        "cotangent_x_exponent": (exponents := np.empty(steps, np.int32)),
        "cotangent_state": (dstate := np.empty((count, size), dtype)),
        "cotangent_state_exponent": (dstate_exponent := np.zeros(1, np.int32)),
    }
    dx = None
    if "x" in wanted:
        dx = results["cotangent_x"] = empty((count, steps, batch, net.input_size), dtype)
    if "static" in wanted:
        results["cotangent_static"] = np.empty((count, batch, net.static_size or 0), dtype)
        results["cotangent_static_exponent"] = np.empty(1, np.int32)
    prepare(
        call.params,
        inputs,
        call.mode,
        Objective("none"),
        results,
        call.memory,
        call.threads,
        call.progress,
        cotangents=count,
        final_exponent=call.exponent,
    ).run()
    by_state = "state" in wanted
    return Vjp(
        None,
        dx,
        None if dx is None else exponents,
        unflatten(net, batch, dstate) if by_state else None,
        np.repeat(dstate_exponent, net.n_states) if by_state else None,
        results.get("cotangent_static"),
        results.get("cotangent_static_exponent"),
        unflatten(net, batch, state_out),
    )


def _one_by_one(call: _Cotangents, wanted: frozenset[str]) -> Vjp:
    """Makes a backward pass for each of the K cotangents."""
    net, inputs, dtype = call.params.net, call.inputs, call.params.dtype
    steps, batch = inputs.steps, inputs.batch
    count = count_of(d_outputs=call.outputs, dstate_out=call.state_out)
    size = state_size(net, batch)
    grads = []
    dx = empty((count, steps, batch, net.input_size), dtype) if "x" in wanted else None
    dx_exponents = np.empty((count, steps), np.int32)
    dstate = np.empty((count, size), dtype)
    dstate_exponents = np.empty((count, net.n_states), np.int32)
    by_static = "static" in wanted
    dstatic = np.empty((count, batch, net.static_size or 0), dtype) if by_static else None
    dstatic_exponents = np.empty((count, 1), np.int32)
    state_out = np.empty(size, dtype)
    outputs = call.outputs
    if outputs is None:
        shape = (count, *net.positions(inputs.output_steps, batch), net.output_size)
        outputs = np.broadcast_to(dtype.type(0), shape)
    for k in range(count):
        grad = np.empty(net.n_parameters, dtype)
        results: dict[str, NDArray[Any] | None] = {
            "state_out": state_out,
            "grads": grad,
            "dstate": dstate[k],
            "dstate_exponent": dstate_exponents[k],
        }
        if dx is not None:
            results |= {"dx": dx[k], "dx_exponent": dx_exponents[k]}
        if dstatic is not None:
            results |= {"d_static": dstatic[k], "d_static_exponent": dstatic_exponents[k]}
        arrays: Arrays = {"d_outputs": np.ascontiguousarray(outputs[k])}
        end = None if call.state_out is None else call.state_out[k : k + 1]
        report, _ = prepare(
            call.params,
            inputs.beside({"cotangent_final_state": end}),
            call.mode,
            Objective("given", arrays=arrays, copied=validate.copied_bytes(arrays, ())),
            results,
            call.memory,
            call.threads,
            _part_of(call.progress, k, count),
            cotangents=1,
            final_exponent=call.exponent,
        ).run()
        grads.append(Grads(net, grad, report.grads_exponent))
    by_state = "state" in wanted
    return Vjp(
        grads if "params" in wanted else None,
        dx,
        None if dx is None else dx_exponents,
        unflatten(net, batch, dstate) if by_state else None,
        dstate_exponents if by_state else None,
        dstatic,
        None if dstatic is None else dstatic_exponents,
        unflatten(net, batch, state_out),
    )


def _part_of(progress: Progress | None, k: int, count: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total: progress(k * total + done, count * total)
