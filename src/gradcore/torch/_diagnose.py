"""gradcore.diagnose for the gradcore layers inside a PyTorch model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from .._net.stack import Params
from .._net.state import unflatten
from ..diagnosis import Diagnosis
from ..diagnosis import diagnose as diagnose_net
from ..errors import ArgumentError
from ..loss import Given
from ._beyond import set_aside
from ._convert import layers_of
from ._layer import Seen

__all__ = ["diagnose"]


def diagnose(model: nn.Module, loss: Callable[[], Tensor], **options: Any) -> dict[str, Diagnosis]:
    """Runs gradcore.diagnose on each gradcore layer of a model; returns diagnoses by layer name.

    found = gradcore.torch.diagnose(model, lambda: criterion(model(x), y))
    print(found["lstm"])

    loss: a function that runs the model on its data and returns the loss, a scalar; it is called
    once, with gradients.

    The rest of the model above a layer is replaced by its linearisation, the gradient that arrives
    at the layer's outputs. If a layer is called several times, its last call is diagnosed. options:
    parts, sequences, seed, memory, threads, progress of gradcore.diagnose.

    The model's mode, .grad and parameters are left as they were, and so is what clip_grad_norm_
    knows of a .grad beyond float32; random masks are off in the diagnosis. Raises ArgumentError if
    the model has no gradcore layer, or if the loss depends on none of them.
    """
    layers = layers_of(model)
    for layer in layers.values():
        layer._seen = Seen()
    try:
        with set_aside(model.parameters()):
            value = loss()
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise ArgumentError(
                    "loss() must return a tensor of one value, the loss that is minimised."
                )
            value.backward()  # type: ignore[no-untyped-call]
        seen = {name: layer._seen for name, layer in layers.items()}
    finally:
        for layer in layers.values():
            layer._seen = None
    reached = {
        name: one for name, one in seen.items() if one is not None and one.d_outputs is not None
    }
    if not reached:
        raise ArgumentError(
            f"the loss must depend on one of the layers {', '.join(layers)}; no gradient reached "
            "any of them."
        )
    return {name: _one(one, options) for name, one in reached.items()}


def _one(seen: Seen, options: dict[str, Any]) -> Diagnosis:
    assert seen.call is not None
    assert seen.x is not None
    assert seen.flat is not None
    assert seen.d_outputs is not None
    net = seen.call.net
    x = seen.x.numpy()
    state = None if seen.state is None else unflatten(net, x.shape[1], seen.state.numpy())
    return diagnose_net(
        net,
        Params(net, seen.flat.numpy()),
        x,
        np.ascontiguousarray(seen.d_outputs.numpy()),
        loss=Given(),
        lengths=seen.call.lengths,
        reset=seen.call.reset,
        state=state,
        **options,
    ).worded_for("torch")
