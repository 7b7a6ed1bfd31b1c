"""What all optimizers share: options, groups, the step, its report, state dicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._base.checks import float_in
from .._base.reprs import Abbreviated, described
from .._base.running_norm import RunningNorm
from .._base.state_reader import StateDict, StateReader
from .._net.stack import Grads, Params
from .._net.validate import threads as thread_count
from ..clip import Auto, Clip, ZScore
from ..constrain._descriptions import Constraint
from ..constrain._keeper import ConstraintReport, Keeper
from ..errors import ArgumentError, DTypeError, NonFiniteError, ShapeError
from ._groups import Group, assign

__all__ = ["GroupReport", "Optimizer", "StepReport"]


@dataclass(frozen=True)
class GroupReport:
    """What a step did to the parameters of one group.

    grad_norm_log10, clipped_norm_log10: log10 of the norm of the group's gradient before and after
    clipping (-inf for a norm of 0). clipped_parts: how many parts of the gradient were clipped:
    elements for clip.Value, units for clip.Adaptive, parameter arrays for clip.ParameterNorm, and
    for other clips 1 if the gradient was scaled. clipped_parameters: the names of the parameters
    whose gradient was clipped. update_norm: norm of the change of the parameters; param_norm: norm
    of the parameters before it.
    """

    grad_norm_log10: float
    clipped_norm_log10: float
    clipped_parts: int
    clipped_parameters: tuple[str, ...]
    update_norm: float
    param_norm: float

    @property
    def clipped(self) -> bool:
        """Whether any part of the gradient was clipped."""
        return self.clipped_parts > 0

    @property
    def update_ratio(self) -> float:
        """update_norm / param_norm; about 1e-3 is usual. 0 if neither has anything."""
        return _ratio(self.update_norm, self.param_norm)


@dataclass(frozen=True)
class StepReport:
    """What a step did; frozen parameters are not counted.

    grad_norm_log10: log10 of the gradient's norm before clipping (-inf for a norm of 0).
    clip_scale: the norm after clipping divided by the norm before it; for a clip of the whole norm
    this is the factor that was applied. update_norm: norm of the change of the parameters;
    param_norm: norm of the parameters before it. clipped_norm_log10: log10 of the norm after
    clipping. groups: a report for every group that is not frozen; "default" has the parameters
    that no group matches. constraints: for each constrained parameter, what its constraint did;
    update_norm is measured before that.
    """

    grad_norm_log10: float
    clipped: bool
    clip_scale: float
    update_norm: float
    param_norm: float
    clipped_norm_log10: float
    groups: dict[str, GroupReport]
    constraints: dict[str, ConstraintReport]

    @property
    def update_ratio(self) -> float:
        """update_norm / param_norm; about 1e-3 is usual. 0 if neither has anything."""
        return _ratio(self.update_norm, self.param_norm)


class Optimizer:
    """Base class of SGD, Adam, AdamW, RMSprop, Adagrad and Lion.

    params are updated in place. `lr` (the base rate) and `weight_decay` may be changed between
    steps; `steps` is the number of steps done. `moments` holds the optimizer's running arrays, each
    laid out like params.flat: first_moment (mean of gradients), second_moment (mean or sum of
    squares) and velocity (momentum buffer), as far as the optimizer has them.
    """

    kind = ""
    # The moments along whose negative a step goes.
    momenta: tuple[str, ...] = ("velocity",)

    def __init__(
        self,
        params: Params,
        lr: float,
        weight_decay: float,
        clip: Clip | None,
        groups: Sequence[Group],
        constraints: Sequence[Constraint],
        moments: Sequence[str],
        options: dict[str, float | bool],
    ) -> None:
        if not isinstance(params, Params):
            raise DTypeError(f"params must be gradcore.Params; got {type(params).__name__}.")
        if clip is not None and not isinstance(clip, Clip):
            raise DTypeError(
                "clip must be a gradcore.clip object, such as gradcore.clip.GlobalNorm(1.0), or "
                f"None; got {clip!r}."
            )
        if isinstance(clip, Auto):
            clip = clip.under(self.kind)
        self.params = params
        self._layout = assign(params, groups)
        self._groups = tuple(groups)
        self.lr = lr
        self.weight_decay = weight_decay
        self.steps = 0
        self.moments: dict[str, NDArray[Any]] = {
            name: np.zeros_like(params.flat) for name in moments
        }
        self._clip = clip
        self._running = clip.start() if clip is not None else None
        self._options = options
        self._keeper = Keeper(params, constraints)

    def __repr__(self) -> str:
        settings: dict[str, object] = {**self._options}
        settings |= {"weight_decay": self.weight_decay, "clip": self._clip}
        if self._groups:
            settings["groups"] = self._groups
        if self._keeper.constraints:
            settings["constraints"] = self._keeper.constraints
        values = f"{self.params.flat.size:,} values"
        return described(self, lr=self.lr, **settings, steps=self.steps, params=Abbreviated(values))

    @property
    def lr(self) -> float:
        """The base learning rate of the next steps."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = float_in("lr", value, 0.0)

    @property
    def weight_decay(self) -> float:
        """The weight decay of parameters whose group has none of its own."""
        return self._weight_decay

    @weight_decay.setter
    def weight_decay(self, value: float) -> None:
        self._weight_decay = float_in("weight_decay", value, 0.0)
        self._segments = self._layout.segments(self._weight_decay)

    @property
    def clip(self) -> Clip | None:
        """The clip of the gradients; clip.Auto has been replaced by the clip it chose."""
        return self._clip

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The constraints that the parameters satisfy."""
        return self._keeper.constraints

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that were given."""
        return self._groups

    @property
    def trained(self) -> tuple[str, ...]:
        """The names of the parameters that steps change, which are all that are not frozen."""
        return tuple(spec.name for spec, _, _ in self._layout.members)

    def step(
        self, grads: Grads, *, lr_factor: float = 1.0, threads: int | None = None
    ) -> StepReport:
        """Clips the gradient and updates the parameters in place.

        lr_factor multiplies lr in this step only; pass `schedule.factor(optimizer.steps)`.
        Raises NonFiniteError naming the parameter if a gradient is infinite or NaN (gradients of
        frozen parameters are not checked), and ArgumentError if the gradient has an exponent other
        than 0 and no clip brings it into range. Nothing has changed then.
        """
        self._check(grads)
        lr_factor = float_in("lr_factor", lr_factor, 0.0)
        update = self._update()
        update.lr = float_in("lr * lr_factor", self.lr * lr_factor, 0.0)
        used = self._keeper.prepare(grads)
        done = False
        try:
            done = update.run(
                used.flat,
                exponent=used.exponent,
                step=self.steps + 1,
                threads=thread_count(threads),
            )
        finally:
            if not done:
                self._keeper.abandon()
        if not done:
            raise NonFiniteError(_place(grads, update.where))
        kept = self._keeper.finish(
            [self.moments[name] for name in self.momenta if name in self.moments]
        )
        self.steps += 1
        total = update.total
        if isinstance(self._clip, ZScore) and self._running is not None:
            self._clip.observe(self._running, total.clipped_norm_log10)
        return StepReport(
            grad_norm_log10=total.norm_log10,
            clipped=total.clipped > 0,
            clip_scale=update.clip_scale,
            update_norm=total.update_norm,
            param_norm=total.param_norm,
            clipped_norm_log10=total.clipped_norm_log10,
            groups=self._group_reports(update),
            constraints=kept,
        )

    def state_dict(self) -> StateDict:
        """All that the next steps depend on besides parameters, groups and clip; arrays are copies.

        Groups and clip are not saved: the code that makes the optimizer gives them again. The
        running statistics of clip.ZScore are saved.
        """
        return {
            "kind": self.kind,
            "parameters": self._parameters(),
            "steps": self.steps,
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "options": dict(self._options),
            "running_norm": None if self._running is None else self._running.state_dict(),
            **self._keeper.state_dict(),
            **{name: moment.copy() for name, moment in self.moments.items()},
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continues from the state of an optimizer of the same kind, options and parameters.

        lr and weight_decay become those that were saved. Raises ArgumentError, DTypeError or
        ShapeError naming the key, and changes nothing then.
        """
        keys = ("parameters", "steps", "lr", "weight_decay", "options", "running_norm")
        kept = self._keeper.state_dict()
        read = StateReader(type(self).__name__, state, self.kind, (*keys, *self.moments, *kept))
        read.same("parameters", self._parameters())
        read.same("options", self._options)
        steps = read.integer("steps")
        lr, weight_decay = read.number("lr", 0.0), read.number("weight_decay", 0.0)
        moments = {name: read.array(name, moment) for name, moment in self.moments.items()}
        running = self._loaded_running(read)
        self._keeper.load_state_dict({name: read.array(name, like) for name, like in kept.items()})
        self.steps, self.lr, self.weight_decay = steps, lr, weight_decay
        self._running = running
        for name, moment in self.moments.items():
            np.copyto(moment, moments[name])

    def _parameters(self) -> dict[str, list[int]]:
        return {spec.name: list(spec.shape) for spec in self.params.owner.parameter_specs}

    def _loaded_running(self, read: StateReader) -> RunningNorm | None:
        saved = read["running_norm"]
        if (saved is None) != (self._running is None):
            here, there = ("with", "without") if saved is None else ("without", "with")
            raise ArgumentError(
                f"{read.name('running_norm')} must fit the clip: this optimizer was made {here} "
                f"clip.ZScore, and the one that was saved {there}."
            )
        return None if saved is None else RunningNorm.loaded(saved)

    def _update(self) -> _core.Update:
        update = _core.Update(
            self.kind,
            self.params.flat,
            segments=self._segments,
            groups=len(self._layout.names),
            **self.moments,
        )
        if self._clip is not None:
            limit, exponent = self._clip.core_limit(self._running)
            update.set_clip(
                self._clip.core_name, limit=limit, exponent=exponent, eps=self._clip.core_eps
            )
        for name, value in self._options.items():
            setattr(update, name, value)
        return update

    def _group_reports(self, update: _core.Update) -> dict[str, GroupReport]:
        clipped: list[list[str]] = [[] for _ in self._layout.names]
        for (spec, index, _), parts in zip(
            self._layout.members, update.segments_clipped, strict=True
        ):
            if parts:
                clipped[index].append(spec.name)
        return {
            name: GroupReport(
                grad_norm_log10=norms.norm_log10,
                clipped_norm_log10=norms.clipped_norm_log10,
                clipped_parts=norms.clipped,
                clipped_parameters=tuple(names),
                update_norm=norms.update_norm,
                param_norm=norms.param_norm,
            )
            for name, norms, names in zip(self._layout.names, update.groups, clipped, strict=True)
        }

    def _check(self, grads: object) -> None:
        if not isinstance(grads, Grads):
            raise DTypeError(
                "grads must be gradcore.Grads, such as value_and_grad(...).grads; got "
                f"{type(grads).__name__}."
            )
        if grads.owner != self.params.owner or grads.dtype != self.params.dtype:
            raise ShapeError(
                f"grads must be laid out like the optimizer's params, {self.params.dtype} for "
                f"{self.params.owner!r}; they are {grads.dtype} for {grads.owner!r}."
            )
        if grads.exponent != 0 and self._clip is None:
            raise ArgumentError(
                f"the gradient is its numbers times 2**{grads.exponent}, which is out of the range "
                "of its dtype, and a step of this size would be meaningless. Give the optimizer "
                "clip=gradcore.clip.GlobalNorm(max_norm), which takes the exponent into account."
            )


def _ratio(update_norm: float, param_norm: float) -> float:
    if param_norm > 0.0:
        return update_norm / param_norm
    return math.inf if update_norm > 0.0 else 0.0


def _place(grads: Grads, index: int) -> str:
    spec = next(s for s in grads.owner.parameter_specs if s.start <= index < s.stop)
    position = [int(i) for i in np.unravel_index(index - spec.start, spec.shape)]
    return (
        f"the gradient must be finite; that of {spec.name}{position} is {grads.flat[index]}. "
        "The step has changed nothing. Look for infinite or NaN values in weights and targets."
    )
