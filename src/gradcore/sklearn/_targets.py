"""y as people have it: one target per sequence, or one per step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, DTypeError, ShapeError
from ._inputs import Sequences, split_rows

__all__ = ["KINDS", "Targets", "counted", "flat", "shaped", "targets_of", "weights_of"]

KINDS = ("auto", "sequence", "step")


@dataclass(frozen=True)
class Targets:
    """kind: "sequence" or "step". values: (N,) or (N, O), or one (T_i,) or (T_i, O) each."""

    kind: str
    values: Any


def targets_of(y: Any, sequences: Sequences, kind: str, one: bool) -> Targets:
    """The targets of sequences. one: a target is a single value, as a class is.

    Raises ArgumentError, ShapeError or DTypeError; also where "auto" could mean both kinds.
    """
    if kind not in KINDS:
        raise ArgumentError(f"targets must be one of {', '.join(map(repr, KINDS))}; got {kind!r}.")
    if y is None:
        raise ArgumentError("requires y to be passed, but the target y is None.")
    split = split_rows(y, sequences.rows)
    # Of a long frame whose sequences have one step each, both readings agree.
    from_rows = split is not y
    values = _items(split)
    lengths = sequences.lengths
    if len(values) != len(lengths):
        raise ShapeError(
            "Found input variables with inconsistent numbers of samples: "
            f"{[len(lengths), len(values)]}: y must have an entry per sequence."
        )
    whole = [np.ndim(value) for value in values]
    if max(whole) == 0:
        if kind == "step":
            raise ShapeError("targets='step' needs one array per sequence; y has one value each.")
        return Targets("sequence", np.asarray(values))
    per_step = all(
        dims > 0 and len(value) == length
        for dims, value, length in zip(whole, values, lengths, strict=True)
    )
    widths = {np.shape(value) for value in values}
    per_sequence = len(widths) == 1 and max(whole) == 1 and (not one or widths == {(1,)})
    if kind == "auto":
        kind = _only(per_step or from_rows, per_sequence and not from_rows, max(whole))
    if kind == "sequence" and per_sequence:
        table = np.asarray(values)
        return Targets("sequence", table[:, 0] if one else table)
    if kind == "step" and per_step:
        return Targets("step", [_column(value, one) for value in values])
    raise ShapeError(_misfit(values, lengths, kind))


def _only(per_step: bool, per_sequence: bool, dims: int) -> str:
    if per_step and per_sequence and dims == 1:
        raise ArgumentError(
            "y has as many values per sequence as there are steps, so that it could be one target "
            "per step, or several per sequence. Pass targets='step' or targets='sequence'."
        )
    return "step" if per_step or not per_sequence else "sequence"


def _misfit(values: list[Any], lengths: NDArray[np.int64], kind: str) -> str:
    for i, (value, length) in enumerate(zip(values, lengths, strict=True)):
        if np.ndim(value) == 0 or len(value) != length:
            got = f"y has shape {np.shape(value)} there"
            return f"sequence {i} has {length} steps, and {got}: one target per step was expected."
    return f"y must have one target per {kind}; a target is a single value here."


def _items(y: Any) -> list[Any]:
    if isinstance(y, (str, bytes, dict)):
        raise DTypeError(f"y must be a list or an array; got {type(y).__name__}.")
    if hasattr(y, "__array__") or not hasattr(y, "__len__"):
        array = np.asarray(y)
        if array.ndim == 0:
            raise ShapeError("y should be a 1d array, got a single value instead.")
        return list(array)
    return list(y)


def _column(value: Any, one: bool) -> NDArray[Any]:
    array = np.asarray(value)
    if one and array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if one and array.ndim > 1:
        raise ShapeError(f"y must have one class per step; got shape {array.shape}.")
    return array


def weights_of(sample_weight: Any, sequences: Sequences, kind: str) -> Any:
    """One weight per sequence, or one per step where targets are per step; None as it is."""
    if sample_weight is None:
        return None
    values = _items(split_rows(sample_weight, sequences.rows))
    if len(values) != len(sequences.items):
        raise ShapeError(
            f"sample_weight must have {len(sequences.items)} entries; got {len(values)}."
        )
    if all(np.ndim(value) == 0 for value in values):
        array = np.asarray(values, np.float64)
        if not (np.isfinite(array).all() and (array >= 0).all()):
            raise ArgumentError("sample_weight must be finite and not negative.")
        if not array.any():
            raise ArgumentError("sample_weight must not be zero for all sequences.")
        return array
    if kind != "step":
        raise ShapeError("sample_weight must have one value per sequence, as the targets do.")
    return [np.asarray(value, np.float64) for value in values]


def counted(sequences: Sequences, values: Any, weights: Any) -> tuple[Sequences, Any, Any]:
    """Without the sequences of weight 0, which are as if they were not there."""
    if weights is None:
        return sequences, values, None
    places = np.flatnonzero([np.any(weight) for weight in weights])

    def of(given: Any) -> Any:
        array = isinstance(given, np.ndarray)
        return given[places] if array else [given[i] for i in places]

    return sequences.part(places), of(values), of(weights)


def flat(values: Any, kind: str) -> NDArray[Any]:
    """All targets in one array: those of all steps one after the other."""
    return np.concatenate([np.asarray(v) for v in values]) if kind == "step" else np.asarray(values)


def shaped(steps: list[NDArray[Any]], sequences: Sequences, X: Any) -> Any:
    """Results per step in the form of X: an array for an array, rows for the rows of a long frame,
    else a list.
    """
    if sequences.rows is not None:
        total = sum(map(len, sequences.rows))
        result = np.empty((total, *steps[0].shape[1:]), steps[0].dtype)
        for rows, part in zip(sequences.rows, steps, strict=True):
            result[rows] = part
        return result
    if hasattr(X, "__array__") and len(set(map(len, steps))) == 1:
        return np.stack(steps)
    return steps
