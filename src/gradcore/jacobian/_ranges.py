"""Ranges of steps of an input, with its masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._net import validate
from .._net.stack import Params, Stack
from ..errors import ArgumentError

__all__ = ["Ranges", "before_pool", "one_way"]


def one_way(net: Stack, what: str) -> None:
    """Raises ArgumentError for nets that have no state between two steps.

    A Pool behind the last recurrent layer changes nothing about the states.
    """
    if net.windowed:
        names = " and ".join(sorted({type(net.layers[p]).__name__ for p in net.windowed}))
        raise ArgumentError(
            f"{what} needs a net that goes step by step; {names} reads several steps at a time, so "
            "there is no single state between two steps. Use jvp or vjp over all steps."
        )
    if net.bidirectional:
        raise ArgumentError(
            f"{what} needs a net whose layers all read time forward; this one has a bidirectional "
            "layer, so it has no single state between two steps. Use jvp or vjp over all steps."
        )


def before_pool(net: Stack, params: Params) -> tuple[Stack, Params]:
    """The layers in front of a Pool with their parameters: all that the states depend on."""
    if net.pool is None:
        return net, params
    front = Stack(*net.nested[: net.nested.index(net.pool)])
    return front, Params(front, params.flat[: front.n_parameters])


class Ranges:
    """ranges[t0:t1] are the arguments x, lengths, reset and static of a call over these steps."""

    def __init__(
        self,
        net: Stack,
        dtype: np.dtype[Any],
        x: Any,
        lengths: Any = None,
        reset: Any = None,
        static: Any = None,
    ) -> None:
        inputs = validate.inputs(net, dtype, x, lengths, reset, static=static)
        self.steps, self.batch = inputs.steps, inputs.batch
        arrays = inputs.arrays
        self._x = arrays["x"] if arrays["tokens"] is None else arrays["tokens"]
        self._lengths, self._reset = arrays["lengths"], arrays["reset"]
        self.static = arrays["static"]

    def __getitem__(self, steps: slice) -> dict[str, Any]:
        t0, t1, _ = steps.indices(self.steps)
        assert self._x is not None
        lengths = self._lengths
        return {
            "x": self._x[t0:t1],
            "lengths": None if lengths is None else np.clip(lengths - t0, 0, t1 - t0),
            "reset": None if self._reset is None else self._reset[t0:t1],
            "static": self.static,
        }
