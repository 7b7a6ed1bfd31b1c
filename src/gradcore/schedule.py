"""Learning-rate schedules: the factor that multiplies the base rate at each update.

`factor(step)` is the factor of update number `step`, counted from 0: pass `optimizer.steps`, as in
`optimizer.step(grads, lr_factor=schedule.factor(optimizer.steps))`. A Trainer does it for you.
"""

from __future__ import annotations

import math
from typing import Any

from . import errors
from ._base import checks, reprs, state_reader
from ._base.state_reader import StateDict

__all__ = ["Constant", "Cosine", "Plateau", "Schedule", "Step", "WarmUp"]


class Schedule:
    """Base class of the schedules below.

    A schedule of your own derives from it and defines `kind`, a name, and `_factor(step)`. Its
    public attributes are its settings: a run that is resumed compares them with the saved ones.
    """

    kind = ""

    def __repr__(self) -> str:
        public = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return reprs.described(self, **public)

    def factor(self, step: int) -> float:
        """The factor of the base rate for update number `step`, counted from 0."""
        number = checks.integer("step", step)
        if number < 0:
            raise errors.ArgumentError(f"step counts from 0; got {number}.")
        return self._factor(number)

    def _factor(self, step: int) -> float:
        raise NotImplementedError

    def observe(self, score: float) -> None:
        """Tells the schedule the score of an evaluation; only Plateau uses it."""
        _finite_or_nan(score)

    def state_dict(self) -> StateDict:
        """What factor() depends on besides the options and the step; for most schedules nothing."""
        return {"kind": self.kind}

    def load_state_dict(self, state: StateDict) -> None:
        """Continues from a state dict; the options stay those of this object.

        Raises ArgumentError or DTypeError naming the key, and changes nothing then.
        """
        state_reader.StateReader(type(self).__name__, state, self.kind, ())


class Constant(Schedule):
    """The factor is always `value`."""

    kind = "constant"

    def __init__(self, value: float = 1.0) -> None:
        self.value = checks.float_in("Constant.value", value, 0.0)

    def _factor(self, step: int) -> float:
        return self.value


class WarmUp(Schedule):
    """A straight line from `start` at update 0 to 1 at update `steps`, followed by `then`.

    start: None means 1 / (steps + 1), as if the line had begun at 0 one update before. then:
    another schedule, which counts its updates from the end of the warm-up; None keeps the base
    rate. It does the same as torch.optim.lr_scheduler.LinearLR(start_factor=start,
    total_iters=steps) followed by `then` in a SequentialLR.
    Reference: Goyal et al. 2017, section 2.2.
    """

    kind = "warm_up"

    def __init__(
        self, steps: int, then: Schedule | None = None, *, start: float | None = None
    ) -> None:
        self.steps = checks.positive_int("WarmUp.steps", steps)
        if self.steps >= 2**53:
            raise errors.ArgumentError("WarmUp.steps must be below 2**53, where floats have gaps.")
        if then is not None and not isinstance(then, Schedule):
            raise errors.DTypeError(
                f"WarmUp.then must be a gradcore.schedule or None; got {then!r}."
            )
        self.then = Constant() if then is None else then
        default = 1.0 / (self.steps + 1)
        self.start = default if start is None else checks.float_in("WarmUp.start", start, 0.0)

    def _factor(self, step: int) -> float:
        if step >= self.steps:
            return self.then.factor(step - self.steps)
        return self.start + (1.0 - self.start) * step / self.steps

    def observe(self, score: float) -> None:
        """Passes the score on to `then`."""
        self.then.observe(score)

    def state_dict(self) -> StateDict:
        """The state of `then`."""
        return {"kind": self.kind, "then": self.then.state_dict()}

    def load_state_dict(self, state: StateDict) -> None:
        """Continues `then` from its state dict; the options stay those of this object."""
        self.then.load_state_dict(
            state_reader.StateReader("WarmUp", state, self.kind, ("then",))["then"]
        )


class Cosine(Schedule):
    """Half a cosine from 1 at update 0 to `final` at update `steps`, and `final` from there on.

    Up to `steps` it does the same as torch.optim.lr_scheduler.CosineAnnealingLR(T_max=steps,
    eta_min=final*lr), which goes up again after that.
    Reference: Loshchilov and Hutter 2017, equation 5, without restarts.
    """

    kind = "cosine"

    def __init__(self, steps: int, final: float = 0.0) -> None:
        self.steps = checks.positive_int("Cosine.steps", steps)
        self.final = checks.float_in("Cosine.final", final, 0.0)

    def _factor(self, step: int) -> float:
        angle = math.pi * min(step, self.steps) / self.steps
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(angle))


class Step(Schedule):
    """The factor is gamma ** (step // step_size), as in torch.optim.lr_scheduler.StepLR."""

    kind = "step"

    def __init__(self, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = checks.positive_int("Step.step_size", step_size)
        self.gamma = checks.float_in("Step.gamma", gamma, 0.0, open_low=True)

    def _factor(self, step: int) -> float:
        try:
            return self.gamma ** (step // self.step_size)
        except OverflowError:  # gamma is above 1; the optimizer refuses a rate that is not finite
            return math.inf


class Plateau(Schedule):
    """Multiplies the rate by `factor` when the score has not improved for `patience` evaluations.

    observe(score) takes each score. It is better if it beats the best so far by more than
    `threshold`, which is relative to the best score (threshold_mode "rel") or absolute ("abs");
    mode "min" says that smaller scores are better, "max" that larger ones are. When more than
    `patience` scores in a row are not better, the current factor is multiplied by `factor`, but
    does not fall below min_factor; after that, `cooldown` scores are not counted. NaN and
    infinities are never better.
    It does the same as torch.optim.lr_scheduler.ReduceLROnPlateau with eps=0 and
    min_lr = min_factor*lr.
    """

    kind = "plateau"

    def __init__(
        self,
        factor: float = 0.1,
        patience: int = 10,
        *,
        mode: str = "min",
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_factor: float = 0.0,
    ) -> None:
        self.reduction = checks.float_in("Plateau.factor", factor, 0.0, 1.0, open_low=True)
        self.patience = _count("Plateau.patience", patience)
        self.mode = checks.choice("Plateau.mode", mode, ("min", "max"))
        self.threshold = checks.float_in("Plateau.threshold", threshold, 0.0)
        self.threshold_mode = checks.choice(
            "Plateau.threshold_mode", threshold_mode, ("rel", "abs")
        )
        self.cooldown = _count("Plateau.cooldown", cooldown)
        self.min_factor = checks.float_in("Plateau.min_factor", min_factor, 0.0)
        self._current = 1.0
        self._best: float | None = None
        self._bad = 0
        self._cooling = 0

    def _factor(self, step: int) -> float:
        return self._current

    def observe(self, score: float) -> None:
        """Counts the score of an evaluation."""
        score = _finite_or_nan(score)
        if self._is_better(score):
            self._best, self._bad = score, 0
        else:
            self._bad += 1
        if self._cooling > 0:
            self._cooling -= 1
            self._bad = 0
        if self._bad > self.patience:
            reduced = max(self._current * self.reduction, self.min_factor)
            self._current = min(self._current, reduced)
            self._cooling, self._bad = self.cooldown, 0

    def _is_better(self, score: float) -> bool:
        if not math.isfinite(score) or self._best is None:
            return math.isfinite(score)
        down = self.mode == "min"
        margin = self.threshold
        if self.threshold_mode == "rel":
            return (
                score < self._best * (1.0 - margin) if down else score > self._best * (1.0 + margin)
            )
        return score < self._best - margin if down else score > self._best + margin

    def state_dict(self) -> StateDict:
        """The factor, the best score and the counters."""
        return {
            "kind": self.kind,
            "factor": self._current,
            "best": self._best,
            "bad": self._bad,
            "cooling": self._cooling,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continues from a state dict; the options stay those of this object.

        Raises ArgumentError or DTypeError naming the key, and changes nothing then.
        """
        read = state_reader.StateReader(
            "Plateau", state, self.kind, ("factor", "best", "bad", "cooling")
        )
        current = read.number("factor", 0.0)
        best = None if read["best"] is None else read.number("best")
        bad, cooling = read.integer("bad"), read.integer("cooling")
        self._current, self._best, self._bad, self._cooling = current, best, bad, cooling


def _finite_or_nan(score: Any) -> float:
    """The score as a float. NaN and infinities are allowed, because an evaluation may overflow."""
    try:
        return checks.finite_float("score", score)
    except errors.ArgumentError:
        return math.nan if score != score else float(score)


def _count(name: str, value: Any) -> int:
    number = checks.integer(name, value)
    if number < 0:
        raise errors.ArgumentError(f"{name} must be at least 0; got {number}.")
    return number
