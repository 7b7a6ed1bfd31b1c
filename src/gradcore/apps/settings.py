"""Settings that trainings of several tasks share; each field is an option of their commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import gradcore as gd

__all__ = ["Resources", "Safeguards", "option", "skip_option"]


def option(default: Any, told: str, *names: str, **how: Any) -> Any:
    """A field of a dataclass that is an option of commands.

    told: the help text. names: names of the option; without any it has the name of the field. how:
    further arguments of typer.Option, such as min and metavar.
    """
    return field(default=default, metadata={"option": (names, {"help": told, **how})})


def skip_option() -> Any:
    """The option for the lag of a learned skip connection; None means no such connection."""
    told = "Add a learned connection to the output K steps ago."
    return option(None, told, min=1, metavar="K")


@dataclass(frozen=True)
class Resources:
    """Threads and memory that a training may use; None leaves the choice to gradcore."""

    threads: int | None = option(None, "Largest number of threads.", min=1)
    memory: str | None = option(None, "Memory budget of a training step, such as 64MB.")


@dataclass(frozen=True)
class Safeguards:
    """Constraints on the weights, the watch and the stability monitor of a training.

    constrain, limit: see gradcore.constrain.by_name. watch: see gradcore.Trainer.fit. stability,
    stable_lr: see gradcore.stability.by_option.
    """

    constrain: Literal["spectral", "orthogonal"] | None = option(
        None,
        "Keep the spectral norm of recurrent weights at --limit or below, or keep each gate's "
        "block of them orthogonal.",
        show_default=False,
    )
    limit: float | None = option(
        None, "The limit of --constrain spectral. Default: 1.0.", show_default=False
    )
    watch: int | None = option(
        None,
        "Every N updates record how far back gradients reach and the Lyapunov exponents, and name "
        "the layer and the steps that cause a clipped update; `gradcore plot` draws them.",
        min=1,
        metavar="N",
        show_default=False,
    )
    stability: int | None = option(
        None,
        "Every N updates measure the curvature, and report when steps are too large for it.",
        min=1,
        metavar="N",
        show_default=False,
    )
    stable_lr: bool = option(
        False,
        "Limit the learning rate to values at which steps are stable for the curvature that is "
        "measured every --stability (default 5) updates.",
        "--stable-lr",
    )

    def constraints(self) -> Sequence[gd.constrain.Constraint]:
        """The constraints for the optimizer."""
        return gd.constrain.by_name(self.constrain, 1.0 if self.limit is None else self.limit)

    def monitor(self) -> gd.stability.StabilityMonitor | None:
        """The monitor for the trainer, if one was asked for."""
        return gd.stability.by_option(self.stability, self.stable_lr)
