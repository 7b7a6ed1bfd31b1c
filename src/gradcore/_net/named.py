"""Arrays of all outputs of a net from dicts of those of its heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, DTypeError
from . import validate
from .stack import Stack

__all__ = ["joined"]


def joined(
    what: str, given: Any, net: Stack, lead: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """One array (*lead, O) from a dict {name: (*lead, outputs of the head)}; None stands for zeros.

    Of a net without Heads it is what was given. Raises DTypeError, ArgumentError or ShapeError.
    """
    if net.heads is None:
        array: NDArray[Any] = given
        return array
    columns = net.heads.columns
    if not isinstance(given, Mapping):
        raise DTypeError(
            f"{what} must be a dict with an array for each head, {', '.join(columns)}; got "
            f"{type(given).__name__}."
        )
    if wrong := [name for name in (*columns, *given) if (name in given) != (name in columns)]:
        raise ArgumentError(
            f"{what} must name the heads of the net, {', '.join(columns)}, with None for zeros; "
            f"got {', '.join(map(str, given))}, and {wrong[0]!r} is only in one of the two."
        )
    made = np.zeros((*lead, net.output_size), dtype)
    for name, where in columns.items():
        if given[name] is not None:
            shape = (*lead, where.stop - where.start)
            made[..., where] = validate.floats(f"{what}[{name!r}]", given[name], shape, dtype)
    return made
