"""One batch: the data of one call of value_and_grad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._net.state import LayerState

__all__ = ["Batch"]


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch with the arguments of value_and_grad: x (T, B, I) or (T, B), y, and masks.

    y and weight are dicts by head for a net with Heads.
    state: the state to start from instead of the net's own. static: (B, S), what does not change
    with time. continues: start from the state that an
    earlier batch kept (at least one batch with keep must have come before). keep: a number of
    steps in 0..T; the state after that many steps of this batch is where the next batch that
    continues starts. A batch whose loss terms all have weight 0 makes no update: it only carries
    the state on.
    """

    x: Any
    y: Any
    lengths: Any = None
    weight: Any = None
    reset: Any = None
    state: Sequence[LayerState] | None = None
    static: Any = None
    continues: bool = False
    keep: int | None = None
