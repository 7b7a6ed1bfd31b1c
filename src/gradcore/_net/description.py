"""Translates a Stack into the description that the core takes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from .. import _core
from .layers import Dropout, LayerNorm, Recurrent
from .stack import Stack


@lru_cache(maxsize=64)
def core_net(net: Stack, dtype: np.dtype[Any]) -> _core.Net:
    """The core's description of a Stack in a dtype; made once and then cached."""
    return _core.Net(
        dtype=dtype.name,
        embedding_rows=net.embedding.num_embeddings if net.embedding else 0,
        embedding_dim=net.embedding.embedding_dim if net.embedding else 0,
        layers=[_layer(layer) for layer in net.recurrent],
        head_outputs=net.head.out_features if net.head else 0,
        head_bias=net.head.bias if net.head else False,
        transforms=_transforms(net),
        masks=[
            (place, layer.zoneout, layer.core_zoneout_cell, layer.recurrent_dropout)
            for place, layer in enumerate(net.layers)
            if isinstance(layer, Recurrent)
        ],
    )


def _transforms(net: Stack) -> list[tuple[str, int, int, bool, bool, float, float]]:
    """LayerNorm and Dropout layers, each with the number of recurrent layers before it."""
    made, before = [], 0
    for place, layer in enumerate(net.layers):
        if isinstance(layer, Recurrent):
            before += 1
        elif isinstance(layer, LayerNorm):
            affine = layer.elementwise_affine
            bias = affine and layer.bias
            made.append(("layer_norm", before, place, affine, bias, layer.eps, 0.0))
        elif isinstance(layer, Dropout):
            made.append(("dropout", before, place, False, False, 0.0, layer.p))
    return made


def _layer(
    layer: Recurrent,
) -> tuple[str, str, int, int, bool, bool, bool, str, bool, int, float, float, float]:
    skip = layer.skip
    return (
        layer.cell.name,
        layer.core_nonlinearity,
        layer.input_size,
        layer.hidden_size,
        layer.bias,
        layer.bidirectional,
        layer.residual,
        skip.kind if skip else "none",
        skip.learned if skip else False,
        skip.lag if skip else 0,
        skip.value if skip and skip.value is not None else 0.0,
        layer.core_step,
        layer.core_diffusion,
    )
