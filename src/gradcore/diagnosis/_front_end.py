"""Nets that begin with layers which shorten time or look ahead: what lies behind these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._engine.calls import apply
from .._net.cells import RNN
from .._net.layers import Residual
from .._net.stack import Params, Stack
from ..errors import ArgumentError

__all__ = ["Behind", "behind_windows"]


@dataclass(frozen=True)
class Behind:
    """The layers behind a front end, their parameters, and what comes to them.

    inputs: x, lengths, reset and static of a call. told: what a reader must know.
    """

    net: Stack
    params: Params
    inputs: dict[str, Any]
    told: str


def behind_windows(
    net: Stack,
    params: Params,
    x: Any,
    lengths: Any,
    reset: Any,
    static: Any,
    how: dict[str, Any],
) -> Behind:
    """Runs the layers up to the last one that shortens time or looks ahead.

    Raises ArgumentError if a recurrent layer is among them: then no part has the steps of x.
    """
    first = net.windowed[-1] + 1
    recurrent = [int(name.partition(".")[0]) for name in net.recurrent_names]
    if recurrent[0] < first:
        raise ArgumentError(
            "diagnose needs recurrent layers that all have the same steps; layer "
            f"{first - 1} ({type(net.layers[first - 1]).__name__}), which shortens time or looks "
            f"ahead, stands behind layer {recurrent[0]} ({net.recurrent_names[0]})."
        )
    width = net.widths[first]
    # Calls give the outputs of a net, and a net has a recurrent layer: this one passes rows on.
    passing = RNN(width, width, bias=False, nonlinearity="identity")
    front = Stack(*_nested(net, 0, first), passing)
    own = Params(front, np.zeros(front.n_parameters, params.dtype))
    for name in own:
        if int(name.partition(".")[0]) < first:
            own[name] = params[name]
    own[f"{first}.weight_ih"] = np.eye(width, dtype=params.dtype)
    given = static if front.static_size is not None else None
    rows, _ = apply(front, own, x, lengths=lengths, reset=reset, static=given, **how)
    rest = Stack(*_nested(net, first, len(net.layers)))
    kept = Params(rest, np.zeros(rest.n_parameters, params.dtype))
    for name in kept:
        place, _, field = name.partition(".")
        kept[name] = params[f"{int(place) + first}.{field}"]
    steps = len(rows)
    resets = None if reset is None else np.asarray(reset)
    inputs = {
        "x": rows,
        "lengths": None if lengths is None else front.output_lengths(lengths),
        "reset": None if resets is None else resets[:: _stride(front, len(resets))][:steps],
        "static": static if rest.static_size is not None else None,
    }
    told = (
        f"layers 0 to {first - 1} shorten time or look ahead, so that what is measured is the net "
        f"behind them: its layer 0 is layer {first} of the whole net, and its steps, "
        f"{steps:,} of {np.shape(x)[0]:,}, are those behind the front end."
    )
    return Behind(rest, kept, inputs, told)


def _nested(net: Stack, begin: int, end: int) -> list[Any]:
    """Layers [begin, end) as arguments of a Stack; no Residual has a window inside."""
    found, place = [], 0
    for item in net.nested:
        if begin <= place < end:
            found.append(item)
        place += _count(item)
    return found


def _count(item: Any) -> int:
    return sum(map(_count, item.layers)) if isinstance(item, Residual) else 1


def _stride(front: Stack, steps: int) -> int:
    """The steps of x from one row of the front end to the next."""
    many = 1 << 40
    return max(1, round(many / front.output_steps(many)))
