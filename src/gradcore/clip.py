"""Ways to clip a gradient before an optimizer takes its step.

A gradient is stored as numbers and a common power of two; all clips act on the true gradient, the
numbers times 2**exponent, and only on parameters that are not frozen. An optimizer takes one clip:
`gd.optim.Adam(params, clip=gd.clip.GlobalNorm(1.0))`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ._base import checks, running_norm

__all__ = ["Adaptive", "Auto", "Clip", "GlobalNorm", "ParameterNorm", "Value", "ZScore"]


@dataclass(frozen=True)
class Clip:
    """Base class of the clips below, which are what an optimizer takes."""

    core_name: ClassVar[str]

    @property
    def core_eps(self) -> float:
        """The value of clip_eps in the core's update: Adaptive.eps, and 1 for other clips."""
        return 1.0

    def core_limit(self, running: running_norm.RunningNorm | None) -> tuple[float, int]:
        """The limit l of the next update as (m, e) with l = m * 2**e."""
        raise NotImplementedError

    def start(self) -> running_norm.RunningNorm | None:
        """A fresh state for a clip that has one (ZScore), None for the others."""
        return None


@dataclass(frozen=True)
class GlobalNorm(Clip):
    """Scales the whole gradient down to norm max_norm where its Euclidean norm is larger.

    The direction is kept. It does the same as torch.nn.utils.clip_grad_norm_, but without the 1e-6
    that PyTorch adds to the norm. Reference: Pascanu, Mikolov, Bengio 2013, algorithm 1.
    """

    max_norm: float
    core_name: ClassVar[str] = "global"

    def __post_init__(self) -> None:
        checks.store(
            self,
            "max_norm",
            checks.float_in("GlobalNorm.max_norm", self.max_norm, 0, open_low=True),
        )

    def core_limit(self, running: running_norm.RunningNorm | None) -> tuple[float, int]:
        """max_norm."""
        return self.max_norm, 0


@dataclass(frozen=True)
class ParameterNorm(Clip):
    """Scales the gradient of each parameter array down to norm max_norm where it is larger.

    The direction is kept within an array and not between arrays. It does the same as
    torch.nn.utils.clip_grad_norm_ called for one parameter after the other.
    """

    max_norm: float
    core_name: ClassVar[str] = "segment"

    def __post_init__(self) -> None:
        checks.store(
            self,
            "max_norm",
            checks.float_in("ParameterNorm.max_norm", self.max_norm, 0, open_low=True),
        )

    def core_limit(self, running: running_norm.RunningNorm | None) -> tuple[float, int]:
        """max_norm."""
        return self.max_norm, 0


@dataclass(frozen=True)
class Value(Clip):
    """Brings every element of the gradient into [-max_value, max_value].

    It does the same as torch.nn.utils.clip_grad_value_. The direction is not kept. A gradient with
    an exponent is clipped by its true elements: elements too large for the dtype become max_value
    with their sign, and elements too small for it become 0.
    """

    max_value: float
    core_name: ClassVar[str] = "value"

    def __post_init__(self) -> None:
        checks.store(
            self, "max_value", checks.float_in("Value.max_value", self.max_value, 0, open_low=True)
        )

    def core_limit(self, running: running_norm.RunningNorm | None) -> tuple[float, int]:
        """max_value."""
        return self.max_value, 0


@dataclass(frozen=True)
class Adaptive(Clip):
    """Scales the gradient of each unit to norm clipping * max(|w|, eps) where it is larger.

    A unit is a row of a matrix (the weights into one gate or output, the embedding of one token)
    or a whole vector; |w| is the norm of its parameters. The direction is kept within a unit.
    Reference: Brock et al. 2021, equation 3. They leave the last layer unclipped; here all layers
    are clipped.
    """

    clipping: float = 0.01
    eps: float = 1e-3
    core_name: ClassVar[str] = "adaptive"

    def __post_init__(self) -> None:
        checks.store(
            self, "clipping", checks.float_in("Adaptive.clipping", self.clipping, 0, open_low=True)
        )
        checks.store(self, "eps", checks.float_in("Adaptive.eps", self.eps, 0, open_low=True))

    @property
    def core_eps(self) -> float:
        """eps."""
        return self.eps

    def core_limit(self, running: running_norm.RunningNorm | None) -> tuple[float, int]:
        """clipping."""
        return self.clipping, 0


@dataclass(frozen=True)
class ZScore(Clip):
    """Scales down a gradient whose log-norm is an outlier among those of earlier steps.

    With mean m and standard deviation s of ln|g| over the steps so far, a gradient with
    ln|g| > m + threshold*s is scaled to norm exp(m + threshold*s). The first `warmup` steps give
    m and s as plain mean and deviation and are not clipped; then m = decay*m + (1-decay)*x and
    s**2 = decay*s**2 + (1-decay)*(x-m)**2, where x is ln|g| after clipping, so that one spike
    changes them little and they follow a lasting change of level. s is taken as at least
    min_deviation: gradients that hardly vary would otherwise be clipped at every step. Zero
    gradients are not counted. max_norm, if given, bounds the norm as GlobalNorm does, also during
    the warm-up; without it, a gradient beyond the range of its dtype raises ArgumentError during
    the warm-up.

    m and s are kept by the optimizer and saved in its state dict.

    Reference: ZClip, Kumar et al. 2025, section 3, with two differences. The statistics are of the
    logarithm of the norm, because norms over long sequences spread over orders of magnitude
    (AutoClip, Seetharaman et al. 2020, takes percentiles for the same reason). And an outlier is
    scaled to the threshold itself.
    """

    threshold: float = 2.5
    decay: float = 0.97
    warmup: int = 25
    min_deviation: float = 0.01
    max_norm: float | None = None
    core_name: ClassVar[str] = "global"

    def __post_init__(self) -> None:
        checks.store(
            self, "threshold", checks.float_in("ZScore.threshold", self.threshold, 0, open_low=True)
        )
        checks.store(self, "decay", checks.float_in("ZScore.decay", self.decay, 0, 1))
        checks.store(self, "warmup", checks.positive_int("ZScore.warmup", self.warmup))
        deviation = checks.float_in("ZScore.min_deviation", self.min_deviation, 0, open_low=True)
        checks.store(self, "min_deviation", deviation)
        if self.max_norm is not None:
            checks.store(
                self,
                "max_norm",
                checks.float_in("ZScore.max_norm", self.max_norm, 0, open_low=True),
            )

    def start(self) -> running_norm.RunningNorm:
        """Statistics of no gradient yet."""
        return running_norm.RunningNorm()

    def core_limit(self, running: running_norm.RunningNorm | None) -> tuple[float, int]:
        """The smaller of exp(m + threshold*s) and max_norm; during the warm-up max_norm alone.

        Without max_norm the limit is infinite during the warm-up.
        """
        assert running is not None
        fixed = math.inf if self.max_norm is None else self.max_norm
        if running.count < self.warmup:
            return fixed, 0
        deviation = max(math.sqrt(running.variance), self.min_deviation)
        log = running.mean + self.threshold * deviation
        if log >= math.log(fixed):
            return fixed, 0
        exponent = math.floor(log / math.log(2.0))
        return math.exp(log - exponent * math.log(2.0)), exponent

    def observe(self, running: running_norm.RunningNorm, clipped_norm_log10: float) -> None:
        """Counts a step by log10 of its norm after clipping."""
        if clipped_norm_log10 == -math.inf:
            return
        x = clipped_norm_log10 * math.log(10.0)
        running.count += 1
        if running.count <= self.warmup:
            before = x - running.mean
            running.mean += before / running.count
            running.variance += (before * (x - running.mean) - running.variance) / running.count
        else:
            running.mean = self.decay * running.mean + (1 - self.decay) * x
            spread = (x - running.mean) ** 2
            running.variance = self.decay * running.variance + (1 - self.decay) * spread


@dataclass(frozen=True)
class Auto(Clip):
    """Stands for the clip of the smallest median error in a study with the optimizer it is given.

    It is Adaptive(0.01) under SGD, with momentum or without; GlobalNorm(1.0) under RMSprop, Adam
    and AdamW, and under Adagrad and Lion, which were not in the study. The optimizer's attribute
    `clip` shows the choice. In the study ZScore(max_norm=10.0) was not distinguishable from the
    global norm under the adaptive optimizers: choose it if no limit is known. The evidence and its
    limits (one task, one kind of net) are in docs/clipping.md; `gradcore study clipping` repeats
    the study.
    """

    core_name: ClassVar[str] = "none"

    def under(self, kind: str) -> Clip:
        """The clip for an optimizer of this kind."""
        return Adaptive(0.01) if kind == "sgd" else GlobalNorm(1.0)
