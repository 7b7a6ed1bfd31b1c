"""The curvature of a PyTorch loss, and whether the optimizer's steps are stable for it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import optim
from .._base.checks import choice, float_in, positive_int
from .._base.lanczos import Eigenpairs, top_eigenpairs
from .._net.cells import RNN
from .._net.layers import Linear
from .._net.stack import Stack
from ..errors import ArgumentError, DTypeError, NonFiniteError
from ..optim._optimizer import Optimizer
from ..stability._rules import limit_terms

__all__ = ["StabilityMonitor", "StabilityReport", "sharpness"]

Array = NDArray[np.float64]
Hold = Literal["given", "stable"]


class StabilityReport(NamedTuple):
    """What StabilityMonitor.look found.

    sharpness: the largest eigenvalue of the (preconditioned) Hessian. limit: the largest one at
    which steps of this rate are stable. ratio: sharpness / limit. lr_stable: the largest stable
    learning rate.
    """

    sharpness: float
    limit: float
    ratio: float
    lr_stable: float


def sharpness(
    loss: Tensor,
    parameters: Sequence[Tensor],
    *,
    k: int = 1,
    scale: Array | None = None,
    decay: Array | None = None,
    tol: float = 1e-3,
    max_products: int = 200,
    start: Array | None = None,
    seed: int = 0,
) -> Eigenpairs:
    """The k largest eigenvalues of the Hessian of a loss by its parameters, by Lanczos iteration.

    loss: a scalar with its graph, before backward(); it is differentiated twice, through gradcore's
    layers as well, and its graph stays for backward(). scale, decay (n,): if given, the eigenvalues
    are those of sqrt(S) (H + D) sqrt(S), where S = scale is what the optimizer multiplies a
    gradient by besides lr, and D = decay is coupled weight decay. tol: tolerance of the residual,
    relative to the largest |value|. start (k', n): first vectors of the iteration.
    Raises ArgumentError if loss is not a scalar.
    Reference: Lanczos 1950; Pearlmutter 1994.
    """
    if loss.numel() != 1:
        raise ArgumentError(f"loss must be one value; got shape {tuple(loss.shape)}.")
    parameters = list(parameters)
    sizes = [parameter.numel() for parameter in parameters]
    n = sum(sizes)
    root = np.ones(n) if scale is None else np.sqrt(scale)
    grads = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    used = [(p, g) for p, g in zip(parameters, grads, strict=True) if g is not None]

    def product(v: Array) -> Array:
        along = root * v
        size = float(np.linalg.norm(along))
        if size == 0.0:
            return np.zeros(n)
        pieces = torch.split(torch.from_numpy(along / size), sizes)
        moved = [
            piece.reshape(parameter.shape).to(parameter.dtype)
            for piece, parameter, grad in zip(pieces, parameters, grads, strict=True)
            if grad is not None
        ]
        found = torch.autograd.grad(
            [g for _, g in used],
            [p for p, _ in used],
            moved,
            retain_graph=True,
            allow_unused=True,
        )
        rows = iter(found)
        flat = [
            np.zeros(count) if grad is None else _doubles(next(rows), count)
            for grad, count in zip(grads, sizes, strict=True)
        ]
        bent = np.concatenate(flat) * size
        made: Array = root * (bent if decay is None else bent + decay * along)
        if not np.isfinite(made).all():
            raise NonFiniteError(
                "a product with the Hessian is not finite: use float64, or look for NaN in the "
                "model."
            )
        return made

    return top_eigenpairs(
        product, n, positive_int("k", k), tol=tol, start=start, most=max_products, seed=seed
    )


class StabilityMonitor:
    """Measures every `every` updates whether the steps of a PyTorch training are stable.

    monitor = gradcore.torch.StabilityMonitor(optimizer, every=50)
    for x, y in data:
        loss = criterion(model(x), y)
        monitor.look(loss)          # before backward()
        loss.backward()
        optimizer.step()

    optimizer: SGD, Adam, AdamW, RMSprop or Adagrad of torch.optim. lr: "given" warns once when
    steps grow along the sharpest direction; "stable" keeps the rate of the next steps at or below
    `safety` times the largest stable one. tol, max_products: accuracy and cost of the sharpness
    (see sharpness).

    The rules and their limits are those of gradcore.stability.StabilityMonitor. report: the result
    of the last measurement.
    Raises ArgumentError or DTypeError.
    Reference: Cohen et al. 2021; Cohen et al. 2022.
    """

    report: StabilityReport | None

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        every: int = 50,
        *,
        lr: Hold = "given",
        safety: float = 0.5,
        tol: float = 0.1,
        max_products: int = 15,
    ) -> None:
        self.optimizer = optimizer
        self.every = positive_int("every", every)
        self.lr = choice("lr", lr, get_args(Hold))
        self.safety = float_in("safety", safety, 0.0, 1.0, open_low=True)
        self.tol = float_in("tol", tol, 0.0)
        self.max_products = positive_int("max_products", max_products)
        for group in optimizer.param_groups:
            _twin(optimizer, group)
        self.report = None
        self._looks, self._told = 0, False
        self._vector: Array | None = None

    def look(self, loss: Tensor) -> StabilityReport | None:
        """Measures if it is due, and warns or lowers the rate; None if nothing was measured."""
        self._looks += 1
        ready = all(_has_seen(self.optimizer, group) for group in self.optimizer.param_groups)
        if not ready or (self.report is not None and self._looks % self.every):
            return None
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        rate = max(float(group["lr"]) for group in self.optimizer.param_groups)
        seen = sharpness(
            loss,
            parameters,
            scale=_scale(self.optimizer, rate),
            decay=_decay(self.optimizer),
            tol=self.tol,
            max_products=self.max_products,
            start=self._vector,
        )
        self._vector = seen.vectors[:1]
        top = float(seen.values[0])
        slope, less = limit_terms(_twin(self.optimizer, self.optimizer.param_groups[0]))
        limit = max(0.0, slope / rate - less) if rate > 0 else float("inf")
        stable = slope / (top + less) if top + less > 0 else float("inf")
        ratio = top / limit if limit > 0 else float("inf")
        self.report = StabilityReport(top, limit, ratio, stable)
        self._act(rate)
        return self.report

    def _act(self, rate: float) -> None:
        assert self.report is not None
        if self.lr == "stable":
            most = self.safety * self.report.lr_stable
            for group in self.optimizer.param_groups:
                group["lr"] = min(float(group["lr"]), most)
        elif self.report.ratio > 1 and not self._told:
            self._told = True
            warnings.warn(
                f"lr {rate:.4g} is {self.report.ratio:.3g} times what the curvature of this batch "
                "allows: the loss will rise or swing along the sharpest direction. Up to "
                f"{self.report.lr_stable:.4g} is stable; StabilityMonitor(lr='stable') holds it "
                "there.",
                stacklevel=3,
            )


def _doubles(gradient: Tensor | None, count: int) -> Array:
    if gradient is None:
        return np.zeros(count)
    array: Array = gradient.detach().reshape(-1).double().numpy()
    return array


def _has_seen(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> bool:
    """Whether the optimizer has made a step, so that its second moments exist; SGD has none."""
    if isinstance(optimizer, torch.optim.SGD):
        return True
    states = [optimizer.state.get(parameter) for parameter in group["params"]]
    return any(state and float(state["step"]) > 0 for state in states)


def _scale(optimizer: torch.optim.Optimizer, rate: float) -> Array:
    """The factor of each gradient in a step, besides `rate`; 0 for parameters with no step yet."""
    rows = []
    for group in optimizer.param_groups:
        share = float(group["lr"]) / rate if rate > 0 else 1.0
        for parameter in group["params"]:
            rows.append(share * _of_one(optimizer, group, parameter))
    return np.concatenate(rows)


def _decay(optimizer: torch.optim.Optimizer) -> Array:
    decoupled = isinstance(optimizer, torch.optim.AdamW)
    return np.concatenate(
        [
            np.full(parameter.numel(), 0.0 if decoupled else float(group["weight_decay"]))
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
    )


def _of_one(optimizer: torch.optim.Optimizer, group: dict[str, Any], parameter: Tensor) -> Array:
    if isinstance(optimizer, torch.optim.SGD):
        return np.ones(parameter.numel())
    state = optimizer.state.get(parameter)
    if not state:
        return np.zeros(parameter.numel())
    step = float(state["step"])
    if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        beta1, beta2 = (float(beta) for beta in group["betas"])
        second = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
        root = _doubles(second, parameter.numel()) / (1 - beta2**step)
        bottom = (np.sqrt(root) + group["eps"]) * (1 - beta1**step)
    elif isinstance(optimizer, torch.optim.RMSprop):
        root = _doubles(state["square_avg"], parameter.numel())
        if group["centered"]:
            root = np.maximum(root - _doubles(state["grad_avg"], parameter.numel()) ** 2, 0.0)
        bottom = np.sqrt(root) + group["eps"]
    else:
        bottom = np.sqrt(_doubles(state["sum"], parameter.numel())) + group["eps"]
    made: Array = np.divide(1.0, bottom, out=np.zeros_like(bottom), where=bottom > 0)
    return made


def _twin(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Optimizer:
    """gradcore's optimizer with the same rule and options, whose stability limit is known."""
    params = Stack(RNN(1, 1), Linear(1, 1)).init(seed=0)
    lr = float(group["lr"])
    if isinstance(optimizer, torch.optim.SGD):
        return optim.SGD(
            params,
            lr,
            momentum=group["momentum"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
        )
    if isinstance(optimizer, torch.optim.AdamW):
        decay = float(group["weight_decay"])
        return optim.AdamW(params, lr, betas=group["betas"], weight_decay=decay)
    if isinstance(optimizer, torch.optim.Adam):
        return optim.Adam(params, lr, betas=group["betas"])
    if isinstance(optimizer, torch.optim.RMSprop):
        return optim.RMSprop(params, lr, momentum=group["momentum"])
    if isinstance(optimizer, torch.optim.Adagrad):
        return optim.Adagrad(params, lr)
    raise DTypeError(
        "optimizer must be SGD, Adam, AdamW, RMSprop or Adagrad of torch.optim, because stability "
        f"limits are known for these only; got {type(optimizer).__name__}."
    )
