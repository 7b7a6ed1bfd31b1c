"""Training checkpoints: everything that is needed to resume a training with the same bits.

A checkpoint is one safetensors file, which gradcore.load can read as well. Besides the parameters
it has the state dicts of optimizer, schedule, average, data and carried state: their arrays are
tensors named "training.<part>.<key>", and the rest is JSON in the metadata "training". Nothing in
it is executed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.checks import finite_float, integer
from .._net import io
from .._net.stack import Params
from ..errors import CheckpointError, GradcoreError

__all__ = ["Place", "TrainingCheckpoint", "read_training", "write_training"]


@dataclass
class Place:
    """The progress of a training.

    step: the number of updates made. first_epoch: the pass over the data in which the training
    started. seconds: the time spent. evaluations: (step, score) pairs. best_step: the step of the
    best score. line: the last update's line of metrics.jsonl, as long as an evaluation may still be
    added to it. explained: the last clipped update whose cause was determined.
    """

    step: int = 0
    first_epoch: int = 0
    seconds: float = 0.0
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    best_step: int | None = None
    line: dict[str, Any] | None = None
    explained: int | None = None

    @property
    def best(self) -> float | None:
        """The best score so far."""
        found = reversed(self.evaluations)
        return next((score for step, score in found if step == self.best_step), None)

    @property
    def since_best(self) -> int:
        """The number of evaluations after the best one."""
        later = takewhile(lambda pair: pair[0] != self.best_step, reversed(self.evaluations))
        return sum(1 for _ in later)

    @classmethod
    def from_json(cls, values: Any) -> Place:
        """Makes a Place from JSON values; raises CheckpointError or GradcoreError if invalid."""
        if not isinstance(values, dict) or set(values) != {f.name for f in fields(cls)}:
            raise CheckpointError("the progress of the training lacks fields or has unknown ones")
        place = cls(**values)
        for name in ("step", "first_epoch"):
            if integer(name, getattr(place, name)) < 0:
                raise CheckpointError(f"{name} is negative")
        if finite_float("seconds", place.seconds) < 0:
            raise CheckpointError("seconds is negative")
        if not isinstance(place.evaluations, list):
            raise CheckpointError("the evaluations are not a list")
        place.evaluations = [_evaluation(pair, place.step) for pair in place.evaluations]
        if place.best_step is not None and place.best is None:
            raise CheckpointError("the step of the best evaluation is not that of any evaluation")
        if place.explained is not None and integer("explained", place.explained) > place.step:
            raise CheckpointError("the last explained clip belongs to a later update")
        line = place.line
        if line is not None and (not isinstance(line, dict) or line.get("step") != place.step):
            raise CheckpointError("the line of metrics does not belong to the last update")
        return place


@dataclass(frozen=True)
class TrainingCheckpoint:
    """A training: its settings, its progress, and the state dicts of its parts by name."""

    params: Params
    settings: dict[str, Any]
    place: Place
    states: dict[str, dict[str, Any]]


def write_training(target: Path, made: TrainingCheckpoint) -> None:
    """Writes a training checkpoint; readers always see a complete file.

    Raises CheckpointError if it cannot be written or a state is neither an array nor JSON.
    """
    tensors: dict[str, NDArray[Any]] = {}
    states = {}
    for part, state in made.states.items():
        arrays = {key: v for key, v in state.items() if isinstance(v, np.ndarray)}
        tensors.update({_tensor(part, key): array for key, array in arrays.items()})
        values = {key: _plain(v) for key, v in state.items() if key not in arrays}
        states[part] = {"values": values, "arrays": sorted(arrays)}
    training = {"settings": made.settings, "place": asdict(made.place), "states": states}
    score = made.place.evaluations[-1][1] if made.place.evaluations else None
    user = {"step": made.place.step, "score": score}
    io.write(target, made.params, user, tensors, io.as_json("the state of the training", training))


def read_training(path: Path) -> TrainingCheckpoint:
    """Reads a training checkpoint.

    Raises CheckpointError as gradcore.load does, and also if the file has only a net.
    """
    with io.open_checkpoint(path) as file:
        params = io.read(path, file).params
        text = (file.metadata() or {}).get(io.TRAINING)
        if text is None:
            raise CheckpointError(
                f"{path} has a net but no training that could be resumed; gradcore.save writes "
                "such files. Load it with gradcore.load and start a new training from its "
                "parameters."
            )
        try:
            return _parse(params, json.loads(text), file)
        except (GradcoreError, ValueError, RecursionError, OverflowError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged: {str(error).rstrip('.')}.") from error


def _parse(params: Params, training: Any, file: Any) -> TrainingCheckpoint:
    parts = _object("the training", training, {"settings": dict, "place": dict, "states": dict})
    states: dict[str, dict[str, Any]] = {}
    expected = set()
    for part, stored in parts["states"].items():
        state = _object(f"the state of {part}", stored, {"values": dict, "arrays": list})
        states[part] = dict(state["values"])
        for key in state["arrays"]:
            name = _tensor(part, str(key))
            expected.add(name)
            states[part][str(key)] = _array(file, name)
    found = {name for name in file.keys() if name.startswith(f"{io.TRAINING}.")}  # noqa: SIM118
    if found != expected:
        raise CheckpointError(
            f"it has tensors that belong to no state: {', '.join(sorted(found - expected))}"
        )
    return TrainingCheckpoint(params, parts["settings"], Place.from_json(parts["place"]), states)


def _object(name: str, value: Any, kinds: dict[str, type]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} is not an object")
    for key, kind in kinds.items():
        if not isinstance(value.get(key), kind):
            raise CheckpointError(f"{name} lacks {key!r}, or it is of the wrong kind")
    return value


def _array(file: Any, name: str) -> NDArray[Any]:
    if name not in file.keys():  # noqa: SIM118
        raise CheckpointError(f"the tensor {name} is missing")
    # The tensor is copied, because the file may be replaced while its pages are mapped.
    return np.array(file.get_tensor(name))


def _evaluation(pair: Any, last: int) -> tuple[int, float]:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise CheckpointError("an evaluation is not a pair of step and score")
    step, score = integer("the step of an evaluation", pair[0]), pair[1]
    if not 0 <= step <= last:
        raise CheckpointError(f"it has an evaluation at step {step}, but only {last} steps")
    return step, finite_float("a score", score)


def _tensor(part: str, key: str) -> str:
    return f"{io.TRAINING}.{part}.{key}"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
