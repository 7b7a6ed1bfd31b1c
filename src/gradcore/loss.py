"""Losses over the outputs of a net: descriptions that the core evaluates segment by segment.

reduction="mean" is sum(weight * loss) / sum(weight) over all terms that count; steps past `lengths`
and targets equal to ignore_index do not count. step="last" looks at the last step of each sequence
only (lengths[b]-1); y and weight then have no time axis. Nor have they any in a net with a Pool,
which has one output per sequence: (B,) takes the place of (T, B), and step="last" is refused, as
are the losses that compare whole sequences. In shapes, T is the number of time steps,
B of sequences and O of outputs.

Losses whose targets are numbers take nan="ignore": targets that are NaN then count for nothing,
also not in the divisor of a mean. With nan="error" one that counts raises NonFiniteError, which
names its step and sequence. Outputs that belong to one target are consecutive: with k of them,
outputs.reshape(T, B, O // k, k) has them on its last axis.

WholeSequence, ErrorToSignal and CTC need the outputs of all steps at once. gradcore then holds
outputs and their gradient as arrays (T, B, O), which memory budgets and plans count; the tape is
recomputed segment by segment as ever. They take no weight, and their Hessian products are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from . import errors
from ._base import checks

__all__ = [
    "CTC",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "ErrorToSignal",
    "GaussianNLL",
    "Given",
    "Heads",
    "Huber",
    "Loss",
    "LossFunction",
    "MeanSquaredError",
    "NashSutcliffe",
    "Quantile",
    "WholeSequence",
]

LossFunction = Callable[[NDArray[Any], int, int], tuple[float, NDArray[Any]]]
Reduction = Literal["mean", "sum"]
Step = Literal["all", "last"]
Nan = Literal["error", "ignore"]
Framework = Literal["numpy", "torch", "jax"]
Settings = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Loss:
    """Base class of the losses of this module."""

    _: KW_ONLY
    reduction: Reduction = "mean"
    step: Step = "all"

    kind: ClassVar[str] = "none"
    # The name of the core's array that y is passed as.
    array: ClassVar[str] = "target"
    # Whether it is a sum over steps of which each depends on the targets of that step alone, so
    # that the losses of windows add up to that of the whole.
    adds_up: ClassVar[bool] = True

    def __post_init__(self) -> None:
        name = type(self).__name__
        checks.choice(f"{name}.reduction", self.reduction, get_args(Reduction))
        checks.choice(f"{name}.step", self.step, get_args(Step))

    def _settings(self) -> Settings:
        """What describes the loss to the core besides kind, reduction and step."""
        return ()

    @property
    def _counts(self) -> bool:
        """Whether the weights of its terms are known, by which several batches are averaged."""
        return True

    @property
    def _per_target(self) -> int:
        """The outputs that belong to one target."""
        return 1

    def _targets(self, outputs: int) -> int:
        """The number of targets of a position of so many outputs; raises ShapeError."""
        if outputs % self._per_target:
            raise errors.ShapeError(
                f"{type(self).__name__} needs {self._per_target} outputs for each target; the net "
                f"has {outputs}. End the net with a Linear of {self._per_target} outputs per "
                "target."
            )
        return outputs // self._per_target

    def _terms(self, outputs: int) -> int:
        """What a position of weight 1 adds to the divisor of a mean."""
        return 1


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """-log softmax(outputs)[y], for y (T, B) of class indices (uint8, int32 or int64).

    weight: one factor per class, which also counts in the divisor of a mean, as in
    torch.nn.functional.cross_entropy. ignore_index: targets of this value do not count.
    """

    _: KW_ONLY
    weight: Sequence[float] | NDArray[Any] | None = None
    ignore_index: int = -100

    kind: ClassVar[str] = "cross_entropy"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.store(
            self, "ignore_index", checks.integer("CrossEntropy.ignore_index", self.ignore_index)
        )
        if self.weight is not None:
            checks.store(self, "weight", _class_weights(self.weight))

    def _settings(self) -> Settings:
        return (("ignore_index", self.ignore_index),)


@dataclass(frozen=True, repr=False)
class _OfNumbers(Loss):
    """A loss whose targets are numbers, some of which may be missing."""

    _: KW_ONLY
    nan: Nan = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice(f"{type(self).__name__}.nan", self.nan, get_args(Nan))

    def __repr__(self) -> str:
        # Without `nan` where nothing is ignored: checkpoints made before there was a choice hold
        # the text, with which that of a resumed run is compared.
        names = [f.name for f in fields(self) if f.name != "nan" or self.nan != "error"]
        told = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({told})"

    def _settings(self) -> Settings:
        return (("ignore_nan", self.nan == "ignore"),)

    def _terms(self, outputs: int) -> int:
        return outputs


@dataclass(frozen=True, repr=False)
class BinaryCrossEntropy(_OfNumbers):
    """Cross-entropy of sigmoid(outputs) and y (T, B, O) in [0, 1]; outputs are logits."""

    kind: ClassVar[str] = "binary_cross_entropy"


@dataclass(frozen=True, repr=False)
class MeanSquaredError(_OfNumbers):
    """(outputs - y)**2 for y (T, B, O); reduction="mean" also averages over the O outputs."""

    kind: ClassVar[str] = "mse"


@dataclass(frozen=True, repr=False)
class Huber(_OfNumbers):
    """e**2 / 2 where |e| <= delta and delta * (|e| - delta / 2) elsewhere; e = outputs - y.

    y: (T, B, O). reduction="mean" also averages over the O outputs, as torch.nn.HuberLoss. Second
    derivatives count as 1 where |e| <= delta and as 0 elsewhere; so does the Gauss-Newton matrix,
    in which outliers are left out.
    Reference: Huber 1964.
    """

    delta: float = 1.0

    kind: ClassVar[str] = "huber"

    def __post_init__(self) -> None:
        super().__post_init__()
        delta = checks.float_in("Huber.delta", self.delta, 0.0, open_low=True)
        checks.store(self, "delta", delta)

    def _settings(self) -> Settings:
        return (*super()._settings(), ("delta", self.delta))


@dataclass(frozen=True, repr=False)
class Quantile(_OfNumbers):
    """Pinball loss of quantiles z of y: q * (y - z) where y > z, else (q - 1) * (y - z).

    quantiles: Q numbers between 0 and 1, ascending; one number alone is a single quantile. Outputs
    are the quantiles of each target, outputs.reshape(T, B, O // Q, Q); y: (T, B, O // Q).
    reduction="mean" also averages over the O outputs. Nothing keeps the quantiles of a target from
    crossing. The derivative at y = z counts as 0. Second derivatives by the outputs are 0, so that
    Hessian products see the curvature of the net alone, and Gauss-Newton products are refused.
    Reference: Koenker and Bassett 1978.
    """

    quantiles: Sequence[float] | float

    kind: ClassVar[str] = "quantile"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.store(self, "quantiles", _levels(self.quantiles))

    def _settings(self) -> Settings:
        return (*super()._settings(), ("quantiles", self.quantiles))

    @property
    def _per_target(self) -> int:
        assert isinstance(self.quantiles, tuple)
        return len(self.quantiles)


@dataclass(frozen=True, repr=False)
class GaussianNLL(_OfNumbers):
    """(s + (y - m)**2 * exp(-s)) / 2, for outputs that are the mean m and the log-variance s.

    outputs.reshape(T, B, O // 2, 2) has (m, s) on its last axis; y: (T, B, O // 2).
    reduction="mean" also averages over the O // 2 targets. full: add log(2 pi) / 2 to each term.
    torch.nn.GaussianNLLLoss takes the variance itself, exp(s), and does not let its value fall
    below eps = 1e-6; here s is the output, of any sign and without a bound. A term whose exp(-s) is
    out of range raises NonFiniteError.
    The Hessian by m and s is indefinite. Gauss-Newton products use its expectation for targets that
    have the predicted distribution, diag(exp(-s), 1/2): Fisher's matrix.
    Reference: Nix and Weigend 1994; Martens 2020 for Fisher's matrix.
    """

    full: bool = False

    kind: ClassVar[str] = "gaussian_nll"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.store(self, "full", checks.flag("GaussianNLL.full", self.full))

    def _settings(self) -> Settings:
        return (*super()._settings(), ("full", self.full))

    @property
    def _per_target(self) -> int:
        return 2

    def _terms(self, outputs: int) -> int:
        return outputs // 2


@dataclass(frozen=True, repr=False)
class NashSutcliffe(_OfNumbers):
    """1 - NSE: the squared errors of a sequence over the squared deviations of y from its mean.

    sum_t (outputs - y)**2 / sum_t (y - mean(y))**2 for y (T, B, O), by sequence and output; 0 is
    perfect, and 1 is as good as the mean. reduction="mean" averages over sequences and outputs with
    targets. The steps that count (within `lengths`, of weight > 0, not missing) are those of the
    call: for windows of a long record the mean and the deviations are those of each window. weight
    (T, B), >= 0, counts in both sums. y that does not vary raises ArgumentError.
    The deviations are computed from y before the pass, which then runs as with squared errors,
    segment by segment, with their second derivatives. For NSE* of Kratzert et al. 2019, whose
    deviations are those of a basin's whole record, pass weight = 1 / (deviation + 0.1)**2 of each
    sequence and loss="mse", reduction="sum".
    Reference: Nash and Sutcliffe 1970; Kratzert et al. 2019.
    """

    kind: ClassVar[str] = "mse"
    adds_up: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step != "all":
            raise errors.ArgumentError(
                "NashSutcliffe must have step 'all': the targets of one step have no deviation."
            )


@dataclass(frozen=True)
class _OfSequences(Loss):
    """A loss that needs the outputs of all steps at once."""

    kind: ClassVar[str] = "whole"
    adds_up: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step != "all":
            raise errors.ArgumentError(
                f"{type(self).__name__} must have step 'all': it looks at the whole sequence."
            )


@dataclass(frozen=True, repr=False)
class WholeSequence(_OfSequences):
    """A function of the outputs of all steps: function(outputs, y, lengths).

    outputs (T, B, O): zero where t >= lengths[b]. y: what the call or the batch has as y, of any
    form. lengths: (B,), or None. framework="numpy": the function returns (loss, d_outputs), of
    which the second is its gradient, (T, B, O) in the dtype of outputs. "torch" and "jax": outputs
    is a tensor of PyTorch or an array of JAX (with PyTorch, y and lengths are tensors as well if
    they are NumPy arrays), and the function returns the loss, a scalar, whose gradient the
    framework computes. Where t >= lengths[b] the gradient is not used.
    reduction: whether the value is a "mean" or a "sum" over sequences, by which Trainer combines
    those of several batches.
    gradcore holds the outputs and their gradient, 2 * T * B * O numbers; what the function takes
    beside them is its own, and no budget counts it. Checkpoints know the function by its name.
    """

    function: Callable[..., Any]
    _: KW_ONLY
    framework: Framework = "numpy"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("WholeSequence.framework", self.framework, get_args(Framework))
        if not callable(self.function):
            raise errors.DTypeError(
                "WholeSequence.function must be a function (outputs, y, lengths); got "
                f"{self.function!r}."
            )

    def __repr__(self) -> str:
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return f"WholeSequence({name}, framework={self.framework!r}, reduction={self.reduction!r})"


@dataclass(frozen=True)
class ErrorToSignal(_OfSequences):
    """Error-to-signal ratio with pre-emphasis, and a term for constant offsets; for audio.

    For y (T, B, O), e = outputs - y, and the filter p_t = e_t - pre_emphasis * e_(t-1), each
    sequence and output has mean(p**2) / (mean(q**2) + eps), where q is y through the same filter;
    and with dc also mean(e)**2 / (mean(y**2) + eps). Means are over the steps within `lengths`, and
    the step before the first is 0. pre_emphasis=0: no filter. reduction="mean" averages over
    sequences and outputs. eps keeps silent targets from dividing by 0.
    In windows of a long recording every window has its own ratio.
    Reference: Wright, Damskägg, Välimäki 2019; Wright and Välimäki 2020.
    """

    _: KW_ONLY
    pre_emphasis: float = 0.85
    dc: bool = True
    eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        name = "ErrorToSignal."
        finite = checks.finite_float(name + "pre_emphasis", self.pre_emphasis)
        checks.store(self, "pre_emphasis", finite)
        checks.store(self, "dc", checks.flag(name + "dc", self.dc))
        checks.store(self, "eps", checks.float_in(name + "eps", self.eps, 0.0, open_low=True))


@dataclass(frozen=True)
class CTC(_OfSequences):
    """Connectionist temporal classification: -log of the probability of labels without times.

    The outputs (T, B, O) are logits of O classes, one of which is the blank. The probability of the
    labels of a sequence is the sum over all ways to spread them over its steps, where a label may
    be repeated and blanks may stand between labels, and must between equal ones. y (B, S): the
    labels of each sequence, as uint8, int32 or int64, with negative numbers behind the last one.
    reduction="mean" divides the loss of each sequence by the number of its labels (at least 1) and
    averages over sequences, as torch.nn.CTCLoss. zero_infinity: a sequence with more labels than
    its steps can hold, whose loss is infinite, counts as 0; otherwise it raises NonFiniteError.

    Probabilities are kept with exponents of their own, in float64: values are right to some units
    of its last digit, also those of 100,000 steps. Forward variables are kept at about every
    sqrt(T)-th step and computed again between them, so that memory grows with sqrt(T) * S, per
    thread; gradcore.plan, which does not know y, counts as many labels as steps. Sequences are
    spread over threads; bits do not depend on their number.
    gradcore.ctc.decode finds labels.
    Reference: Graves et al. 2006, section 4, eq. 6 to 16.
    """

    _: KW_ONLY
    blank: int = 0
    zero_infinity: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.store(self, "blank", checks.integer("CTC.blank", self.blank))
        if self.blank < 0:
            raise errors.ArgumentError(f"CTC.blank must be a class, 0 or more; got {self.blank}.")
        flag = checks.flag("CTC.zero_infinity", self.zero_infinity)
        checks.store(self, "zero_infinity", flag)


@dataclass(frozen=True)
class Given(Loss):
    """A loss computed outside gradcore; y (T, B, O) is its gradient with respect to the outputs.

    The value of the loss is not known here and is given as 0. The gradient is used as it is, at
    all steps: reduction must be "sum" and step "all".
    """

    _: KW_ONLY
    reduction: Reduction = "sum"

    kind: ClassVar[str] = "given"
    array: ClassVar[str] = "d_outputs"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reduction != "sum" or self.step != "all":
            raise errors.ArgumentError(
                "Given must have reduction 'sum' and step 'all', because y is itself the "
                "gradient with respect to the outputs. For a mean divide y by the count; for the "
                "last step alone set y to 0 at all other steps."
            )

    @property
    def _counts(self) -> bool:
        return False


@dataclass(frozen=True, init=False, repr=False)
class Heads(Loss):
    """The weighted sum of a loss for each head of a net that ends with gradcore.Heads.

    gd.loss.Heads({"coding": "cross_entropy", "site": gd.loss.BinaryCrossEntropy(nan="ignore")},
    weights={"site": 0.5}); a dict alone stands for weights of 1. losses: a name or an object of
    this module for each head; each is a mean or a sum of its own terms, over all steps or the last
    ones. weights: what the loss of a head is multiplied by, 1 where it is not named. y is then a
    dict of what each loss takes. A head of weight 0 may lack targets; where it has them, its loss
    is computed and reported. weight: an array for all heads, or a dict with one for some of them.
    Raises ArgumentError or DTypeError.
    """

    entries: tuple[tuple[str, Loss, float], ...]

    kind: ClassVar[str] = "parts"

    def __init__(
        self, losses: Mapping[str, str | Loss], *, weights: Mapping[str, float] | None = None
    ) -> None:
        if not isinstance(losses, Mapping) or not losses:
            raise errors.DTypeError(
                f"loss.Heads needs a dict with a loss for each head; got {losses!r:.80}."
            )
        given = {} if weights is None else weights
        if not isinstance(given, Mapping):
            raise errors.DTypeError(
                f"weights must be a dict of numbers by head; got {given!r:.80}."
            )
        if unknown := [name for name in given if name not in losses]:
            raise errors.ArgumentError(
                f"weights must name heads that have a loss, {', '.join(losses)}; got "
                f"{unknown[0]!r}."
            )
        entries = tuple(
            (
                name,
                _of_head(name, loss),
                checks.finite_float(f"weights[{name!r}]", given.get(name, 1.0)),
            )
            for name, loss in losses.items()
        )
        checks.store(self, "entries", entries)
        every = {loss.reduction for _, loss, _ in entries}
        checks.store(self, "reduction", "sum" if every == {"sum"} else "mean")
        checks.store(self, "step", "all")

    def __repr__(self) -> str:
        losses = {name: loss for name, loss, _ in self.entries}
        return f"Heads({losses!r}, weights={self.weights!r})"

    @property
    def weights(self) -> dict[str, float]:
        """What the loss of each head is multiplied by."""
        return {name: weight for name, _, weight in self.entries}

    @property
    def adds_up(self) -> bool:  # type: ignore[override]
        """Whether the losses of all heads add up over windows."""
        return all(loss.adds_up for _, loss, _ in self.entries)

    @property
    def _counts(self) -> bool:
        return any(loss._counts for _, loss, _ in self.entries)

    @property
    def whole(self) -> tuple[str, ...]:
        """The heads whose losses need the outputs of all steps at once."""
        return tuple(name for name, loss, _ in self.entries if loss.kind == "whole")

    def reweighted(self, weights: Mapping[str, float]) -> Heads:
        """The same losses with other weights."""
        return Heads({name: loss for name, loss, _ in self.entries}, weights=weights)

    def summed(self, weights: Mapping[str, float]) -> Heads:
        """Sums over all steps in place of means or last steps, with other weights."""
        losses = {
            name: replace(loss, step="all", reduction="sum") for name, loss, _ in self.entries
        }
        return Heads(losses, weights=weights)


LOSSES: dict[str, Loss] = {
    loss.kind: loss
    for loss in (CrossEntropy(), BinaryCrossEntropy(), MeanSquaredError(), Huber(), GaussianNLL())
}


def _of_head(name: object, loss: object) -> Loss:
    if isinstance(loss, str) and isinstance(name, str):
        return LOSSES[checks.choice(f"the loss of {name!r}", loss, LOSSES)]
    if not isinstance(name, str) or not isinstance(loss, Loss) or type(loss) in (Loss, Heads):
        raise errors.DTypeError(
            f"the loss of head {name!r} must be a name or an object of gradcore.loss; got {loss!r}."
        )
    return loss


def _levels(quantiles: Any) -> tuple[float, ...]:
    given = quantiles.tolist() if isinstance(quantiles, np.ndarray) else quantiles
    values = given if isinstance(given, Sequence) else [given]
    levels = tuple(
        checks.float_in(f"Quantile.quantiles[{i}]", level, 0.0, 1.0, open_low=True)
        for i, level in enumerate(values)
    )
    if not levels or any(low >= high for low, high in pairwise(levels)):
        raise errors.ArgumentError(
            "Quantile.quantiles must be one or more numbers between 0 and 1 in ascending order; "
            f"got {quantiles!r}."
        )
    return levels


def _class_weights(weight: Any) -> tuple[float, ...]:
    try:
        array = np.asarray(weight)
    except (RuntimeError, TypeError, ValueError) as error:
        raise errors.DTypeError(
            f"CrossEntropy.weight must be one number per class: {error}"
        ) from error
    if array.ndim != 1:
        raise errors.ShapeError(
            f"CrossEntropy.weight must have shape (classes,), one number each; got {array.shape}."
        )
    if array.size and array.dtype.kind not in "iuf":
        raise errors.DTypeError(
            f"CrossEntropy.weight must be numbers, one per class; got {weight!r:.80}."
        )
    values = tuple(
        checks.finite_float(f"CrossEntropy.weight[{i}]", w) for i, w in enumerate(array.tolist())
    )
    if not values or min(values) < 0.0:
        raise errors.ArgumentError("CrossEntropy.weight must have one weight >= 0 per class.")
    return values
