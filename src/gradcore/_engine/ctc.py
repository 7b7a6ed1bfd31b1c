"""Connectionist temporal classification: the loss, and the search for labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._base.checks import integer, positive_int
from .._net import validate
from ..errors import ArgumentError, DTypeError, NonFiniteError, ShapeError
from ..loss import CTC

__all__ = ["CtcLoss", "Decoded", "ctc_bytes", "decode"]

Array = NDArray[Any]
Shape = tuple[int, int, int]


def ctc_bytes(shape: Shape, counts: NDArray[np.int64] | None, gradient: bool, threads: int) -> int:
    """The memory of the core for the loss; counts=None: as many labels as steps."""
    steps, batch, classes = shape
    if counts is None:
        counts = np.full(batch, steps, np.int64)
    return _core.ctc_bytes(steps, counts, classes=classes, gradient=gradient, threads=threads)


class CtcLoss:
    """Computes a CTC for labels y (B, S)."""

    def __init__(self, loss: CTC, shape: Shape, y: object) -> None:
        if not loss.blank < shape[2]:
            raise ArgumentError(
                f"CTC.blank must be one of the net's {shape[2]} classes; got {loss.blank}."
            )
        self.loss, self.shape = loss, shape
        self.labels, self.counts = _labels(y, shape, loss.blank)

    def bytes(self, gradient: bool, threads: int) -> int:
        """The memory of the core, and of the labels one after the other."""
        return ctc_bytes(self.shape, self.counts, gradient, threads) + self.labels.nbytes

    def evaluate(
        self, outputs: Array, lengths: Array | None, gradient: bool, threads: int
    ) -> tuple[float, float, Array | None]:
        batch = len(self.counts)
        factors = np.ones(batch)
        if self.loss.reduction == "mean":
            factors /= np.maximum(self.counts, 1) * batch
        slopes = np.empty_like(outputs) if gradient else None
        _check_finite(outputs, lengths)
        losses = _core.ctc_loss(
            outputs,
            lengths,
            self.labels,
            self.counts,
            blank=self.loss.blank,
            factors=factors,
            gradient=slopes,
            threads=threads,
        )
        impossible = np.isinf(losses)
        if impossible.any() and not self.loss.zero_infinity:
            self._refuse(int(np.flatnonzero(impossible)[0]), lengths)
        losses[impossible] = 0.0
        return float((losses * factors).sum()), float(batch), slopes

    def _refuse(self, b: int, lengths: Array | None) -> None:
        first = int(self.counts[:b].sum())
        own = self.labels[first : first + int(self.counts[b])]
        needed = len(own) + int((own[1:] == own[:-1]).sum())
        steps = self.shape[0] if lengths is None else int(lengths[b])
        why = f"its labels need {needed} steps, and it has {steps}"
        if needed <= steps:
            why = "every alignment has a class of probability 0"
        raise NonFiniteError(
            f"the CTC loss of sequence {b} is infinite: {why}. zero_infinity=True counts such "
            "sequences as 0.",
            sequence=b,
        )


def _labels(y: object, shape: Shape, blank: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The labels of all sequences one after the other, and their counts."""
    _, batch, classes = shape
    if y is None:
        raise ArgumentError("y must be given for CTC: the labels of each sequence, (B, S).")
    array = validate.as_array("y", y)
    if array.dtype not in validate.INTEGERS:
        raise DTypeError(f"y must hold labels as int64, int32 or uint8 for CTC; got {array.dtype}.")
    if array.ndim != 2 or len(array) != batch:
        raise ShapeError(
            f"y must have shape (B, S) = ({batch}, S) for CTC, the labels of each sequence with "
            f"negative numbers behind them; got {array.shape}."
        )
    there = array >= 0
    counts = there.sum(axis=1)
    gaps = np.flatnonzero((there != (np.arange(array.shape[1]) < counts[:, None])).any(axis=1))
    if gaps.size:
        raise ArgumentError(
            f"negative numbers must stand behind all labels of a sequence; y[{gaps[0]}] has them "
            "before a label."
        )
    wrong = np.argwhere(there & ((array >= classes) | (array == blank)))
    if wrong.size:
        b, i = wrong[0]
        raise ArgumentError(
            f"y must hold classes in 0..{classes - 1} other than the blank, {blank}; y[{b}, {i}] "
            f"is {array[b, i]}."
        )
    return array[there].astype(np.int64), counts.astype(np.int64)


def _check_finite(outputs: Array, lengths: Array | None) -> None:
    """Raises NonFiniteError for NaN or +infinity, or if all outputs of a step are -infinity."""
    most = outputs.max(axis=2)
    wrong = ~np.isfinite(most)
    if lengths is not None:
        wrong &= np.arange(len(most))[:, None] < lengths
    if wrong.any():
        t, b = (int(i) for i in np.argwhere(wrong)[0])
        raise NonFiniteError(
            f"the outputs of step {t}, sequence {b} must be numbers or -infinity, and not all of "
            f"them -infinity; the largest is {most[t, b]}.",
            step=t,
            sequence=b,
        )


@dataclass(frozen=True, eq=False)
class Decoded:
    """The result of decode: the labels of each sequence, and the logs of their probabilities.

    labels: B arrays of int64. scores: (B,) float64. With a beam a score is the log of the summed
    probability of the alignments that were kept; without, it is that of the one best alignment.
    """

    labels: tuple[NDArray[np.int64], ...]
    scores: NDArray[np.float64]


def decode(
    outputs: Any,
    lengths: Any = None,
    *,
    blank: int = 0,
    beam: int | None = None,
    threads: int | None = None,
) -> Decoded:
    """The labels that outputs (T, B, O) of a net trained with loss.CTC spell.

    outputs: logits, as gradcore.apply gives them; their softmax is taken. lengths: (B,), or None.
    beam=None takes the most probable class of each step, drops repetitions and then blanks. With a
    beam, the labels are those of the most probable prefix in a search that keeps so many prefixes
    per step and adds up the alignments of each; with as many as there are prefixes it is exact.
    Sequences are spread over threads.
    Raises ShapeError, DTypeError, ArgumentError, NonFiniteError.
    Reference: Graves et al. 2006, section 3.2; Hannun et al. 2014, algorithm 1, without a language
    model.
    """
    array = validate.as_array("outputs", outputs)
    if array.ndim != 3 or 0 in array.shape:
        raise ShapeError(f"outputs must have shape (T, B, O), none of them 0; got {array.shape}.")
    if array.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise DTypeError(f"outputs must be float32 or float64; got {array.dtype}.")
    steps, batch, classes = array.shape
    own = validate.lengths_of(lengths, steps, batch)
    if not 0 <= integer("blank", blank) < classes:
        raise ArgumentError(f"blank must be a class in 0..{classes - 1}; got {blank}.")
    kept = 0 if beam is None else positive_int("beam", beam)
    _check_finite(array, own)
    labels, counts, scores = _core.ctc_decode(
        array, own, blank=int(blank), beam=kept, threads=validate.threads(threads)
    )
    found = tuple(row[:count].copy() for row, count in zip(labels, counts, strict=True))
    return Decoded(found, scores)
