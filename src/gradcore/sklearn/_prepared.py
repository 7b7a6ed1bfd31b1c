"""What a net reads of sequences: standardised features, or the numbers of strings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, DTypeError, ShapeError
from ._inputs import Sequences

__all__ = ["Prepared", "Scale"]


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of columns; a column that is constant has the deviation 1."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @staticmethod
    def of(values: list[NDArray[Any]]) -> Scale:
        """Of the rows of all arrays (T_i, columns); NaN counts for nothing."""
        rows = np.concatenate([np.asarray(value, np.float64) for value in values])
        counts = np.maximum((~np.isnan(rows)).sum(0), 1)
        mean = np.nansum(rows, 0) / counts
        deviation = np.sqrt(np.nansum((rows - mean) ** 2, 0) / counts)
        # What rounding leaves of a constant column is no spread.
        constant = deviation <= 1e-12 * np.maximum(np.abs(mean), 1e-300)
        return Scale(mean, np.where(constant, 1.0, deviation))

    def apply(self, values: NDArray[Any]) -> NDArray[Any]:
        return (values - self.mean) / self.deviation

    def undo(self, values: NDArray[Any]) -> NDArray[Any]:
        return values * self.deviation + self.mean


@dataclass(frozen=True)
class Prepared:
    """How sequences become what a net reads. alphabet: the strings that steps are, in
    order; None for numbers.
    """

    features: int
    scale: Scale | None
    alphabet: list[str] | None

    @staticmethod
    def of(sequences: Sequences) -> Prepared:
        """Learned from the sequences of a training."""
        if sequences.text:
            return Prepared(1, None, sorted(set().union(*sequences.items)))
        return Prepared(sequences.features, Scale.of(list(sequences.items)), None)

    def arrays(self, sequences: Sequences, who: str) -> list[NDArray[Any]]:
        """(T_i, features) float32 of numbers, (T_i,) int32 of strings."""
        if sequences.text != (self.alphabet is not None):
            wanted = "numbers" if self.alphabet is None else "strings"
            raise DTypeError(f"{who} was trained on {wanted}; X has the other kind.")
        if self.scale is not None:
            if sequences.features != self.features:
                raise ShapeError(
                    f"X has {sequences.features} features, but {who} is expecting "
                    f"{self.features} features as input."
                )
            return [self.scale.apply(item).astype(np.float32) for item in sequences.items]
        return [self._numbered(i, item, who) for i, item in enumerate(sequences.items)]

    def _numbered(self, index: int, text: Any, who: str) -> NDArray[np.int32]:
        assert self.alphabet is not None
        places = {step: place for place, step in enumerate(self.alphabet)}
        unknown = set(text) - set(places)
        if unknown:
            first = min(map(text.index, unknown))
            some = self.alphabet[:30] + ["..."] * (len(self.alphabet) > 30)
            raise ArgumentError(
                f"{who} was trained without {text[first]!r}, which sequence {index} has at step "
                f"{first}; it knows {', '.join(map(repr, some))}."
            )
        return np.array([places[step] for step in text], np.int32)
