"""Which net is trained, and on what base: decided by short trainings, kept with a run."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import gradcore as gd

from ...._base.output import write_text
from ...._training.runs import LAST
from .base import KINDS, Kind

__all__ = ["Cell", "Plan", "Trial", "keep", "kept"]

Cell = Literal["lstm", "gru", "rnn", "antisymmetric"]
_FILE = "plan.json"
_MOST_BYTES = 100_000


@dataclass(frozen=True)
class Trial:
    """A short training: the base, cell and units, and the score of the validation part."""

    base: Kind | None
    cell: Cell
    hidden: int
    score: float


@dataclass(frozen=True)
class Plan:
    """What is trained: a cell with so many units, on a base if the target bears one.

    trials: the short trainings that decided it; none where there was no choice, or in a run that
    goes on. interrupted: whether Ctrl-C ended them.
    """

    base: Kind | None
    cell: Cell
    hidden: int
    trials: tuple[Trial, ...] = ()
    interrupted: bool = False


def keep(run: str | os.PathLike[str], plan: Plan) -> None:
    """Writes the plan into the folder of a run that is about to begin. Raises OSError."""
    folder = Path(run)
    folder.mkdir(parents=True, exist_ok=True)
    told = {"base": plan.base, "cell": plan.cell, "hidden": plan.hidden}
    write_text(folder / _FILE, json.dumps(told) + "\n")


def kept(run: str | os.PathLike[str] | None) -> Plan | None:
    """The plan of the training in a folder, None if there is no training.

    Raises CheckpointError if the plan cannot be read.
    """
    if run is None or not (Path(run) / LAST).exists():
        return None
    path = Path(run) / _FILE
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise gd.CheckpointError(f"{path} is damaged: it has more than {_MOST_BYTES:,} bytes.")
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise gd.CheckpointError(f"cannot read {path}: {error}.") from error
    if (
        not isinstance(told, dict)
        or told.get("base") not in (None, *KINDS)
        or told.get("cell") not in get_args(Cell)
        or type(told.get("hidden")) is not int
        or told["hidden"] < 1
    ):
        raise gd.CheckpointError(f"{path} is damaged: it tells no base, cell and units.")
    return Plan(told["base"], told["cell"], told["hidden"])
