"""State dictionaries of optimizers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import ArgumentError

__all__ = ["load_optimizer", "optimizer_state"]


def optimizer_state(optimizer: Any) -> dict[str, Any]:
    if hasattr(optimizer, "state_dict"):
        return dict(optimizer.state_dict())
    moments = {f"moment_{i}": moment for i, moment in enumerate(optimizer.moments)}
    return {"kind": optimizer.kind, "steps": optimizer.steps, "lr": optimizer.lr, **moments}


def load_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    if hasattr(optimizer, "load_state_dict"):
        optimizer.load_state_dict(state)
        return
    now = optimizer_state(optimizer)
    if set(now) != set(state) or now["kind"] != state["kind"]:
        raise ArgumentError(f"the state is not one of {type(optimizer).__name__}.")
    for i, moment in enumerate(optimizer.moments):
        if getattr(state[f"moment_{i}"], "shape", None) != moment.shape:
            raise ArgumentError(f"moment_{i} does not fit.")
    for i, moment in enumerate(optimizer.moments):
        np.copyto(moment, state[f"moment_{i}"])
    optimizer.steps = int(state["steps"])
    optimizer.lr = state["lr"]
