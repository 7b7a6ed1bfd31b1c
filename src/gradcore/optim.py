"""Optimizers: each step is one pass of the core over the flat buffer, clipping included.

Equations and options as torch.optim. A step that raises has changed nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._checks import flag, float_in
from ._validate import threads as thread_count
from .clip import GlobalNorm
from .errors import ArgumentError, DTypeError, NonFiniteError, ShapeError
from .params import Grads, Params

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "StepReport"]


@dataclass(frozen=True)
class StepReport:
    """What a step did.

    grad_norm_log10: log10 of the gradient's norm before clipping (-inf for zero). clip_scale: the
    factor that clipping applied. update_norm: norm of the change of the parameters, param_norm:
    theirs before it.
    """

    grad_norm_log10: float
    clipped: bool
    clip_scale: float
    update_norm: float
    param_norm: float


class Optimizer:
    """Common part of the optimizers; use SGD, Adam or AdamW.

    params are updated in place. `lr` may be changed between steps; `steps` counts those done.
    """

    kind = ""

    def __init__(
        self,
        params: Params,
        lr: float,
        weight_decay: float,
        clip: GlobalNorm | None,
        moments: int,
        options: dict[str, float | bool],
    ) -> None:
        if not isinstance(params, Params):
            raise DTypeError(f"params must be gradcore.Params; got {type(params).__name__}.")
        if clip is not None and not isinstance(clip, GlobalNorm):
            raise DTypeError(f"clip must be a gradcore.clip.GlobalNorm or None; got {clip!r}.")
        self.params = params
        self.lr = lr
        self.weight_decay = float_in("weight_decay", weight_decay, 0.0)
        self.clip = clip
        self.steps = 0
        self.moments: tuple[NDArray[Any], ...] = tuple(
            np.zeros_like(params.flat) for _ in range(moments)
        )
        self._options = options

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = float_in("lr", value, 0.0)

    def step(self, grads: Grads, *, threads: int | None = None) -> StepReport:
        """Clips the gradient and updates the parameters in place.

        Raises NonFiniteError naming the parameter if a gradient is infinite or NaN, ArgumentError
        if the gradient carries an exponent and there is no clip. Nothing has changed then.
        """
        self._check(grads)
        update = self._update()
        done = update.run(
            grads.flat,
            exponent=grads.exponent,
            step=self.steps + 1,
            threads=thread_count(threads),
        )
        if not done:
            raise NonFiniteError(_place(grads, update.where))
        self.steps += 1
        return StepReport(
            grad_norm_log10=update.grad_norm_log10,
            clipped=update.clipped,
            clip_scale=update.clip_scale,
            update_norm=update.update_norm,
            param_norm=update.param_norm,
        )

    def _update(self) -> _core.Update:
        names = ("first_moment", "second_moment")
        update = _core.Update(
            self.kind, self.params.flat, **dict(zip(names, self.moments, strict=False))
        )
        update.lr = self.lr
        update.weight_decay = self.weight_decay
        update.max_norm = math.inf if self.clip is None else self.clip.max_norm
        for name, value in self._options.items():
            setattr(update, name, value)
        return update

    def _check(self, grads: object) -> None:
        if not isinstance(grads, Grads):
            raise DTypeError(
                "grads must be gradcore.Grads, as value_and_grad(...).grads; got "
                f"{type(grads).__name__}."
            )
        if grads.net != self.params.net or grads.dtype != self.params.dtype:
            raise ShapeError(
                f"grads must be laid out like the optimizer's params, {self.params.dtype} for "
                f"{self.params.net}; they are {grads.dtype} for {grads.net}."
            )
        if grads.exponent != 0 and self.clip is None:
            raise ArgumentError(
                f"the gradient is its numbers times 2**{grads.exponent}, out of the range of its "
                "dtype, and no step of this size is meaningful. Give the optimizer "
                "clip=gradcore.clip.GlobalNorm(max_norm), which takes the exponent into account."
            )


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: buf = momentum*buf + (1-dampening)*g, p -= lr*buf.

    nesterov: step along g + momentum*buf instead. weight_decay*p is added to the clipped gradient.
    Raises ArgumentError or DTypeError for a wrong option.
    Reference: Sutskever et al. 2013; equations as torch.optim.SGD.
    """

    kind = "sgd"

    def __init__(
        self,
        params: Params,
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        clip: GlobalNorm | None = None,
    ) -> None:
        momentum = float_in("momentum", momentum, 0.0)
        dampening = float_in("dampening", dampening, 0.0)
        if flag("nesterov", nesterov) and (momentum == 0.0 or dampening != 0.0):
            raise ArgumentError(
                "nesterov=True must have momentum > 0 and dampening == 0; got "
                f"momentum={momentum:g}, dampening={dampening:g}."
            )
        options = {"momentum": momentum, "dampening": dampening, "nesterov": bool(nesterov)}
        super().__init__(params, lr, weight_decay, clip, int(momentum > 0.0), options)


class Adam(Optimizer):
    """Adam: p -= lr * m_hat / (sqrt(v_hat) + eps); weight_decay*p is added to the clipped gradient.

    Raises ArgumentError or DTypeError for a wrong option.
    Reference: Kingma and Ba 2015, algorithm 1; equations as torch.optim.Adam.
    """

    kind = "adam"

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip: GlobalNorm | None = None,
    ) -> None:
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise DTypeError(f"betas must be two numbers; got {betas!r}.")
        options: dict[str, float | bool] = {
            "beta1": float_in("betas[0]", betas[0], 0.0, 1.0),
            "beta2": float_in("betas[1]", betas[1], 0.0, 1.0),
            "eps": float_in("eps", eps, 0.0),
        }
        super().__init__(params, lr, weight_decay, clip, 2, options)


class AdamW(Adam):
    """Adam with decoupled weight decay: p -= lr * weight_decay * p before the step.

    Reference: Loshchilov and Hutter 2019, algorithm 2; equations as torch.optim.AdamW.
    """

    kind = "adamw"

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        clip: GlobalNorm | None = None,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, clip)


def _place(grads: Grads, index: int) -> str:
    spec = next(s for s in grads.net.parameter_specs if s.start <= index < s.stop)
    position = [int(i) for i in np.unravel_index(index - spec.start, spec.shape)]
    return (
        f"the gradient must be finite; that of {spec.name}{position} is {grads.flat[index]}. "
        "Nothing was changed. Look for infinite weights or targets."
    )
