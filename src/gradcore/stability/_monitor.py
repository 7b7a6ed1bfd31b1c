"""Compares the step size of a training with the curvature, and limits it if asked to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .._base.checks import choice, finite_float, float_in, positive_int
from .._base.reprs import described
from .._net.state import LayerState
from ..errors import DTypeError, GradcoreError, ShapeError
from ..loss import Heads, Loss
from ..optim._optimizer import Optimizer
from ._rules import curvature_limit
from ._sharpness import sharpness, stability_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._net.stack import Stack
    from ..data import Batch

__all__ = ["StabilityMonitor", "by_option"]

Hold = Literal["given", "stable"]


class StabilityMonitor:
    """Measures at regular intervals whether the steps of a training are stable.

    gd.Trainer(net, params, optimizer, loss=..., stability=gd.stability.StabilityMonitor(50))

    every: the number of updates between measurements; the first is made as soon as the optimizer
    has the moments that it divides by. lr="given": the rate is not changed, and a message is shown
    once when steps grow along the sharpest direction, which happens before the loss explodes.
    lr="stable": the rate of the next steps is at most `safety` times the largest stable one, and
    at most that of the schedule. tol, max_products: accuracy and cost of the sharpness (see
    flow.sharpness), which starts from the direction of the last measurement; a product costs about
    three gradients.

    The curvature is that of the update's batch (with accumulate, of its last one), in evaluation
    mode; with smaller batches it is larger and fluctuates more. Clips and constraints are not taken
    into account. Training on full batches often stays at the limit without harm: this is the edge
    of stability.

    With lr="stable" the net trains in a region where the curvature changes fast, while the limit is
    that of a quadratic. So use every = 1 to 10 and safety = 0.5; with safety = 0.9 a GRU diverged
    under momentum 0.9. Raises ArgumentError or DTypeError; the trainer raises ArgumentError for
    Lion, and DTypeError for Python loss functions, whose Hessian is not known.
    Reference: Cohen et al. 2021; Cohen et al. 2022.
    """

    def __init__(
        self,
        every: int = 50,
        *,
        lr: Hold = "given",
        safety: float = 0.5,
        tol: float = 0.1,
        max_products: int = 15,
    ) -> None:
        self.every = positive_int("every", every)
        self.lr = choice("lr", lr, get_args(Hold))
        self.safety = float_in("safety", safety, 0.0, 1.0, open_low=True)
        self.tol = float_in("tol", tol, 0.0)
        self.max_products = positive_int("max_products", max_products)
        self._vector: NDArray[np.float64] | None = None
        self._stable: float | None = None
        self._told = False

    def __repr__(self) -> str:
        public = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return described(self, **public)

    # ---- called by a trainer

    def check(self, optimizer: Optimizer, loss: object) -> None:
        """Raises an error for an optimizer or a loss whose stability cannot be measured."""
        curvature_limit(optimizer)
        if not isinstance(loss, Loss):
            raise DTypeError(
                "a StabilityMonitor needs a loss of gradcore.loss: the Hessian of a loss function "
                "is not known."
            )
        if loss.kind == "whole" or (isinstance(loss, Heads) and loss.whole):
            raise DTypeError(
                f"a StabilityMonitor needs a loss with a known Hessian; {type(loss).__name__} is a "
                "loss of the whole sequence."
            )

    def due(self, optimizer: Optimizer) -> bool:
        """Whether to measure before the optimizer's next step."""
        if optimizer.steps == 0 and "second_moment" in optimizer.moments:
            return False  # it divides by second moments, which exist from the first step on
        return self._stable is None or (optimizer.steps + 1) % self.every == 0

    def most(self) -> float:
        """The largest rate that the next step may have; inf if it is not limited."""
        held = self.lr == "stable" and self._stable is not None
        return self.safety * float(self._stable or 0.0) if held else float(np.inf)

    def look(
        self,
        net: Stack,
        optimizer: Optimizer,
        loss: Loss,
        batch: Batch,
        start: Sequence[LayerState] | None,
        *,
        rate: float,
        accumulate: int,
        memory: int | str | None,
        threads: int | None,
    ) -> tuple[dict[str, Any], str | None]:
        """Measures; returns entries for the log line of the next update, and a message or None.

        rate: the learning rate that the schedule gives.

        If the measurement fails, its entries are None, stability_missing has the reason, and an
        earlier limit stays valid.
        """
        names = ("sharpness", "sharpness_limit", "stability_ratio", "lr_stable")
        found: dict[str, Any] = dict.fromkeys(names)
        try:
            seen = sharpness(
                net,
                optimizer.params,
                batch.x,
                batch.y,
                loss=loss,
                optimizer=optimizer,
                tol=self.tol,
                max_products=self.max_products,
                start=self._vector,
                weight=batch.weight,
                lengths=batch.lengths,
                reset=batch.reset,
                state=start,
                static=batch.static,
                memory=memory,
                threads=threads,
            )
        except GradcoreError as error:
            if self._stable is None:
                self._stable = float(np.inf)
            return found | {"stability_missing": str(error)}, None
        times = accumulate if loss.reduction == "sum" else 1
        limit = curvature_limit(optimizer, rate)
        result = stability_of(seen, optimizer, limit, rate, times=times)
        self._vector, self._stable = seen.vectors[:1], result.lr_stable
        found = {
            "sharpness": times * float(seen.values[0]),
            "sharpness_limit": _plain(limit),
            "stability_ratio": _plain(result.ratio),
            "lr_stable": _plain(result.lr_stable),
        }
        if result.ratio <= (self.safety if self.lr == "stable" else 1.0) or self._told:
            return found, None
        self._told = True
        return found, self._sentence(result.ratio, rate, result.lr_stable)

    def _sentence(self, ratio: float, rate: float, stable: float) -> str:
        against = f"lr {rate:.4g} is {ratio:.3g} times what the curvature of its batch allows"
        if self.lr == "stable":
            return f"{against}; held at {self.safety * stable:.4g}"
        return (
            f"{against}: the loss will rise or swing along the sharpest direction. Up to "
            f"{stable:.4g} is stable; StabilityMonitor(lr='stable') holds it there"
        )

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """All that the next measurements depend on."""
        state: dict[str, Any] = {"stable": self._stable, "told": self._told}
        if self._stable is not None and np.isinf(self._stable):
            state["stable"] = "inf"
        if self._vector is not None:
            state["vector"] = self._vector.copy()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a state_dict.

        Raises DTypeError, ShapeError or ArgumentError, and changes nothing then.
        """
        stable, told, vector = (state.get(name) for name in ("stable", "told", "vector"))
        if stable is not None:
            stable = float(np.inf) if stable == "inf" else finite_float("stable", stable)
        if not isinstance(told, bool):
            raise DTypeError(f"told must be a bool; got {told!r}.")
        if vector is not None:
            vector = np.array(vector, np.float64)
            if vector.ndim != 2 or len(vector) != 1:
                raise ShapeError(f"vector must have shape (1, n); got {vector.shape}.")
        self._stable, self._told, self._vector = stable, told, vector


def by_option(every: int | None, stable_lr: bool) -> StabilityMonitor | None:
    """The monitor for the options --stability N and --stable-lr of a command."""
    if every is None and not stable_lr:
        return None
    return StabilityMonitor(
        every or (5 if stable_lr else 50), lr="stable" if stable_lr else "given"
    )


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
