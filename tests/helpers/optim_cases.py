"""What the tests of optimizers share: a net, gradients for it, and steps with the names of
torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import gradcore as gd

NET = gd.Stack(gd.LSTM(3, 17), gd.Linear(17, 2))

# Options that reach every branch; the class has the same name in gradcore and in torch.
TORCH: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd-decay": ("SGD", {"lr": 0.1, "weight_decay": 0.05}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "dampening": ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.01}),
    "nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", {"lr": 1e-3}),
    "adam-options": (
        "Adam",
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
    ),
    "adamw": ("AdamW", {"lr": 0.02}),
    "adamw-decay": ("AdamW", {"lr": 0.02, "weight_decay": 0.2}),
    "rmsprop": ("RMSprop", {"lr": 0.01}),
    "rmsprop-alpha": ("RMSprop", {"lr": 0.01, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    "rmsprop-momentum": ("RMSprop", {"lr": 0.01, "momentum": 0.9}),
    "rmsprop-centered": ("RMSprop", {"lr": 0.01, "alpha": 0.9, "centered": True}),
    "rmsprop-both": ("RMSprop", {"lr": 0.01, "alpha": 0.9, "centered": True, "momentum": 0.7}),
    "adagrad": ("Adagrad", {"lr": 0.05}),
    "adagrad-options": (
        "Adagrad",
        {
            "lr": 0.05,
            "lr_decay": 0.2,
            "weight_decay": 0.1,
            "initial_accumulator_value": 0.3,
            "eps": 1e-4,
        },
    ),
}
LION = {
    "lion": ("Lion", {"lr": 0.01}),
    "lion-options": ("Lion", {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.3}),
}
ALL = {**TORCH, **LION}


def make(name: str, params: gd.Params, **more: Any) -> gd.optim.Optimizer:
    """The optimizer of the given name over params."""
    kind, options = ALL[name]
    optimizer: gd.optim.Optimizer = getattr(gd.optim, kind)(params, **{**options, **more})
    return optimizer


def flat_gradients(
    count: int, net: gd.Stack = NET, scale: float = 1.0
) -> list[NDArray[np.float64]]:
    """Normally distributed random numbers."""
    rng = np.random.default_rng(5)
    return [scale * rng.standard_normal(net.n_parameters) for _ in range(count)]


def gradients(
    count: int, net: gd.Stack = NET, dtype: str = "float64", scale: float = 1.0
) -> list[gd.Grads]:
    """The same numbers as Grads."""
    return [gd.Grads(net, flat.astype(dtype)) for flat in flat_gradients(count, net, scale)]
