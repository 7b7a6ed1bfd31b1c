"""The optimizers, each of which checks its options and names its update rule in the core."""

from __future__ import annotations

from collections.abc import Sequence

from .._base.checks import flag, float_in
from .._net.stack import Params
from ..clip import Clip
from ..constrain import Constraint
from ..errors import ArgumentError, DTypeError
from ._groups import Group
from ._optimizer import Optimizer

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Lion", "RMSprop"]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: buf = momentum*buf + (1-dampening)*g, p -= lr*buf.

    nesterov: the step goes along g + momentum*buf. weight_decay*p is added to the clipped gradient.
    Raises ArgumentError or DTypeError for a wrong option.
    Reference: Sutskever et al. 2013; the equations are those of torch.optim.SGD.
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
        clip: Clip | None = None,
        groups: Sequence[Group] = (),
        constraints: Sequence[Constraint] = (),
    ) -> None:
        momentum = float_in("momentum", momentum, 0.0)
        dampening = float_in("dampening", dampening, 0.0)
        if flag("nesterov", nesterov) and (momentum == 0.0 or dampening != 0.0):
            raise ArgumentError(
                "nesterov=True must have momentum > 0 and dampening == 0; got "
                f"momentum={momentum:g}, dampening={dampening:g}."
            )
        options = {"momentum": momentum, "dampening": dampening, "nesterov": bool(nesterov)}
        moments = ("velocity",) if momentum > 0.0 else ()
        super().__init__(params, lr, weight_decay, clip, groups, constraints, moments, options)


class Adam(Optimizer):
    """Adam: p -= lr * m_hat / (sqrt(v_hat) + eps); weight_decay*p is added to the clipped gradient.

    Raises ArgumentError or DTypeError for a wrong option.
    Reference: Kingma and Ba 2015, algorithm 1; the equations are those of torch.optim.Adam.
    """

    kind = "adam"
    momenta = ("first_moment",)

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip: Clip | None = None,
        groups: Sequence[Group] = (),
        constraints: Sequence[Constraint] = (),
    ) -> None:
        options = {**_betas(betas), "eps": float_in("eps", eps, 0.0)}
        moments = ("first_moment", "second_moment")
        super().__init__(params, lr, weight_decay, clip, groups, constraints, moments, options)


class AdamW(Adam):
    """Adam with decoupled weight decay: p -= lr * weight_decay * p before the step.

    Reference: Loshchilov and Hutter 2019, algorithm 2; the equations are those of
    torch.optim.AdamW.
    """

    kind = "adamw"

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        clip: Clip | None = None,
        groups: Sequence[Group] = (),
        constraints: Sequence[Constraint] = (),
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, clip, groups, constraints)


class RMSprop(Optimizer):
    """RMSprop: v = alpha*v + (1-alpha)*g**2, p -= lr * g / (sqrt(v) + eps).

    centered: the square of the running mean of g is subtracted from v, which stays at least 0.
    momentum: with buf = momentum*buf + g / (sqrt(v) + eps) the step is p -= lr*buf. weight_decay*p
    is added to the clipped gradient. Raises ArgumentError or DTypeError for a wrong option.
    Reference: Tieleman and Hinton 2012, lecture 6.5; centered: Graves 2013, equations 38 to 45;
    the equations are those of torch.optim.RMSprop.
    """

    kind = "rmsprop"

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        clip: Clip | None = None,
        groups: Sequence[Group] = (),
        constraints: Sequence[Constraint] = (),
    ) -> None:
        options: dict[str, float | bool] = {
            "alpha": float_in("alpha", alpha, 0.0, 1.0),
            "eps": float_in("eps", eps, 0.0),
            "momentum": float_in("momentum", momentum, 0.0),
            "centered": flag("centered", centered),
        }
        moments = ["second_moment"]
        if options["centered"]:
            moments.append("first_moment")
        if options["momentum"]:
            moments.append("velocity")
        super().__init__(params, lr, weight_decay, clip, groups, constraints, moments, options)


class Adagrad(Optimizer):
    """Adagrad: s += g**2, p -= lr / (1 + (step-1)*lr_decay) * g / (sqrt(s) + eps).

    s starts at initial_accumulator_value. weight_decay*p is added to the clipped gradient.
    Raises ArgumentError or DTypeError for a wrong option.
    Reference: Duchi, Hazan, Singer 2011, figure 1; the equations are those of torch.optim.Adagrad.
    """

    kind = "adagrad"

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        clip: Clip | None = None,
        groups: Sequence[Group] = (),
        constraints: Sequence[Constraint] = (),
    ) -> None:
        initial = float_in("initial_accumulator_value", initial_accumulator_value, 0.0)
        options: dict[str, float | bool] = {
            "lr_decay": float_in("lr_decay", lr_decay, 0.0),
            "eps": float_in("eps", eps, 0.0),
        }
        moments = ("second_moment",)
        super().__init__(params, lr, weight_decay, clip, groups, constraints, moments, options)
        self.moments["second_moment"].fill(initial)


class Lion(Optimizer):
    """Lion: p -= lr * (sign(beta1*m + (1-beta1)*g) + weight_decay*p).

    After that m becomes beta2*m + (1-beta2)*g. Every element moves by lr, or not at all where the
    sign is of 0. Good learning rates are about 3 to 10 times below those of Adam, and good weight
    decays as much above. Raises ArgumentError or DTypeError for a wrong option.
    Reference: Chen et al. 2023, algorithm 2.
    """

    kind = "lion"
    momenta = ("first_moment",)

    def __init__(
        self,
        params: Params,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        clip: Clip | None = None,
        groups: Sequence[Group] = (),
        constraints: Sequence[Constraint] = (),
    ) -> None:
        moments = ("first_moment",)
        super().__init__(
            params, lr, weight_decay, clip, groups, constraints, moments, _betas(betas)
        )


def _betas(betas: tuple[float, float]) -> dict[str, float | bool]:
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise DTypeError(f"betas must be two numbers; got {betas!r}.")
    return {
        "beta1": float_in("betas[0]", betas[0], 0.0, 1.0),
        "beta2": float_in("betas[1]", betas[1], 0.0, 1.0),
    }
