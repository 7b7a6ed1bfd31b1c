"""The problems: the gradients of one layer with a squared error on every output of every step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ..._base.memory import available_bytes, format_bytes
from ..._net.cells import CELLS
from ..._net.layers import Recurrent
from ...errors import ArgumentError

__all__ = ["CELL_BY_NAME", "INPUTS", "Problem", "Row", "default_steps", "grid"]

CELL_BY_NAME: dict[str, type[Recurrent]] = {cls.__name__: cls for cls in CELLS}
INPUTS = 16


@dataclass(frozen=True)
class Row:
    """The size of a problem: name of the cell, H hidden units, B sequences, T steps."""

    cell: str
    hidden: int
    batch: int
    steps: int

    @property
    def gates(self) -> int:
        return len(CELL_BY_NAME[self.cell].cell.gates)

    def __str__(self) -> str:
        return f"{self.cell} H={self.hidden} B={self.batch} T={self.steps:,}"


@dataclass(frozen=True, eq=False)
class Problem:
    """The data of a row in float32, which are the same for every contestant.

    x: (T, B, I); y: (T, B, H); weights: weight_ih (G*H, I), weight_hh (G*H, H), bias_ih and bias_hh
    (G*H,), uniform in +-1/sqrt(H) as in torch.nn.
    """

    row: Row
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    weights: dict[str, NDArray[np.float32]]

    @classmethod
    def random(cls, row: Row) -> Problem:
        """Makes random data; raises ArgumentError if they do not fit into the free memory."""
        _check_memory(row)
        rng = np.random.default_rng(0)
        hidden, rows = row.hidden, row.gates * row.hidden
        bound = 1 / math.sqrt(hidden)
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, INPUTS),
            "weight_hh": (rows, hidden),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
        }
        return cls(
            row,
            x=rng.standard_normal((row.steps, row.batch, INPUTS), dtype=np.float32),
            y=rng.standard_normal((row.steps, row.batch, hidden), dtype=np.float32),
            weights={
                name: rng.uniform(-bound, bound, shape).astype(np.float32)
                for name, shape in shapes.items()
            },
        )

    def first(self, steps: int) -> Problem:
        """The same problem with at most `steps` steps."""
        steps = min(steps, self.row.steps)
        row = replace(self.row, steps=steps)
        return Problem(row, self.x[:steps], self.y[:steps], self.weights)


def _check_memory(row: Row) -> None:
    # Besides the data, one contestant at a time needs its outputs and their gradients.
    needed = 4 * row.steps * row.batch * (INPUTS + row.hidden) * 4
    left = available_bytes()
    if left is not None and needed > left:
        raise ArgumentError(
            f"{row} needs {format_bytes(needed)} for its inputs, targets and outputs, and "
            f"{format_bytes(left)} are free. Choose fewer steps, sequences or hidden units."
        )


def default_steps(batch: int) -> int:
    """The usual T: so long that the first steps do not matter, and a turn takes about a second."""
    return 10_000 if batch < 32 else 3_000


def grid(
    cells: Iterable[str],
    hidden: Iterable[int],
    batch: Iterable[int],
    steps: Iterable[int] | None = None,
) -> list[Row]:
    """All combinations, in the order cell, H, B, T; steps=None means default_steps(B).

    Raises ArgumentError for an unknown cell or a size below 1.
    """
    by_name = {name.lower(): name for name in CELL_BY_NAME}
    names = []
    for cell in cells:
        if cell.lower() not in by_name:
            raise ArgumentError(f"cells must be some of {', '.join(CELL_BY_NAME)}; got {cell!r}.")
        names.append(by_name[cell.lower()])
    lengths = None if steps is None else list(steps)
    rows = [
        Row(name, h, b, t)
        for name, h, b in product(names, hidden, batch)
        for t in (lengths if lengths is not None else [default_steps(b)])
    ]
    for row in rows:
        if min(row.hidden, row.batch, row.steps) < 1:
            raise ArgumentError(f"hidden, batch and steps must be 1 or more; got {row}.")
    if not rows:
        raise ArgumentError("the grid is empty: name at least one cell, hidden, batch and steps.")
    return rows
