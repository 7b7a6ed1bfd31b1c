"""What one call of value_and_grad is made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._net.state import LayerState

__all__ = ["Batch"]


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch, as value_and_grad takes it: x (T, B, I) or (T, B), y, and masks.

    state: where to start instead of zeros. continues: start from the state that an earlier batch
    left for this one (the first batch that continues must follow one with keep). keep: the state
    after so many steps of this batch, 0..T, is what the next batch that continues starts from.
    A batch whose loss terms all have weight 0 makes no update; it only carries the state on.
    """

    x: Any
    y: Any
    lengths: Any = None
    weight: Any = None
    reset: Any = None
    state: Sequence[LayerState] | None = None
    continues: bool = False
    keep: int | None = None
