"""Constraints of gradcore.constrain on layers that an optimizer of PyTorch trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._net.stack import Grads, Params
from ..constrain._descriptions import Constraint
from ..constrain._keeper import ConstraintReport, Keeper
from ..errors import DTypeError
from ._convert import layers_of
from ._layer import Layer

__all__ = ["Constrained", "constrain", "params_of"]

# What optimizers of torch.optim call the moments along whose negative they step.
MOMENTA = ("momentum_buffer", "exp_avg")


def constrain(
    model: nn.Module, optimizer: torch.optim.Optimizer, constraints: Sequence[Constraint]
) -> Constrained:
    """Applies constraints of gradcore.constrain to every gradcore layer of a model at every step.

    optimizer = torch.optim.Adam(model.parameters())
    kept = gradcore.torch.constrain(model, optimizer, [gradcore.constrain.SpectralNorm(0.99)])

    The weights satisfy the constraints at once, and again after each optimizer.step(). The patterns
    of a constraint (weights=) are matched with the names in the layer's Stack, such as
    "<layer>.weight_hh" and "<layer>.weight_hh_reverse"; the default is "*.weight_hh*".
    jacobian_bound and trajectory_bound of gradcore.constrain can be called with layer.stack() and
    gradcore.torch.params_of(layer). Raises ArgumentError or DTypeError.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise DTypeError(f"optimizer must be one of torch.optim; got {type(optimizer).__name__}.")
    return Constrained(layers_of(model), optimizer, constraints)


class Constrained:
    """The constraints of one model; constrain() makes it.

    reports: what the constraints did in the last step, by layer and parameter. remove() ends them.
    """

    reports: dict[str, dict[str, ConstraintReport]]

    def __init__(
        self,
        layers: dict[str, Layer],
        optimizer: torch.optim.Optimizer,
        constraints: Sequence[Constraint],
    ) -> None:
        self._kept: dict[str, tuple[Layer, Params, Keeper]] = {}
        for name, layer in layers.items():
            params = params_of(layer)
            self._kept[name] = (layer, params, Keeper(params, constraints))
        for layer, params, _ in self._kept.values():
            _write(_weights(layer), params.flat)
        self.reports = {}
        self._optimizer = optimizer
        self._hooks = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def remove(self) -> None:
        """Ends the constraints: the weights keep their values; later steps change them freely."""
        for hook in self._hooks:
            hook.remove()

    def _before(self, *_: Any) -> None:
        for layer, params, keeper in self._kept.values():
            weights = _weights(layer)
            params.flat[...] = _flat(weights)
            grads = Grads(params.net, _flat([_grad(weight) for weight in weights]))
            made = keeper.prepare(grads)
            if made is not grads:
                _write([_grad(weight) for weight in weights], made.flat)
                _write(weights, params.flat)

    def _after(self, *_: Any) -> None:
        for name, (layer, params, keeper) in self._kept.items():
            weights = _weights(layer)
            params.flat[...] = _flat(weights)
            states = [self._optimizer.state.get(weight, {}) for weight in weights]
            momenta = {
                key: _flat([state[key] for state in states])
                for key in MOMENTA
                if all(isinstance(state.get(key), Tensor) for state in states)
            }
            self.reports[name] = keeper.finish(list(momenta.values()))
            _write(weights, params.flat)
            for key, flat in momenta.items():
                _write([state[key] for state in states], flat)


def params_of(layer: Layer) -> Params:
    """A copy of a layer's parameters as gradcore.Params for the net layer.stack()."""
    return Params(layer.stack(), _flat(_weights(layer)))


def _weights(layer: Layer) -> list[Tensor]:
    return [getattr(layer, name) for name in layer.parameter_names()]


def _grad(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def _flat(tensors: list[Tensor]) -> Any:
    return np.concatenate([tensor.detach().reshape(-1).numpy() for tensor in tensors])


@torch.no_grad()
def _write(tensors: list[Tensor], flat: Any) -> None:
    pieces = torch.split(torch.from_numpy(flat), [tensor.numel() for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(piece.reshape(tensor.shape))
