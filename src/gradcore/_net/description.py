"""Translates a Stack into the description that the core takes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from .. import _core
from .layers import Recurrent, RowLayer
from .stack import Stack


def core_net(net: Stack, dtype: np.dtype[Any]) -> _core.Net:
    """The core's description of a Stack in a dtype; made once and then cached."""
    for layer in net.recurrent:
        layer.make_ready(dtype)
    return _core_net(net, dtype)


@lru_cache(maxsize=64)
def _core_net(net: Stack, dtype: np.dtype[Any]) -> _core.Net:
    return _core.Net(
        dtype=dtype.name,
        embedding_rows=net.embedding.num_embeddings if net.embedding else 0,
        embedding_dim=net.embedding.embedding_dim if net.embedding else 0,
        layers=[
            _layer(place, layer)
            for place, layer in enumerate(net.layers)
            if isinstance(layer, Recurrent)
        ],
        head_outputs=net.head.out_features if net.head else 0,
        head_bias=net.head.bias if net.head else False,
        head_unbiased=net.heads.unbiased if net.heads else 0,
        transforms=_transforms(net),
    )


def _layer(place: int, layer: Recurrent) -> _core.Layer:
    """place: the layer's number among all layers of the net, which its random masks depend on."""
    skip = layer.skip
    return _core.Layer(
        cell=layer.cell.name,
        input_size=layer.input_size,
        hidden_size=layer.hidden_size,
        nonlinearity=layer.core_nonlinearity,
        bias=layer.bias,
        bidirectional=layer.bidirectional,
        residual=layer.residual,
        skip_kind=skip.kind if skip else "none",
        skip_learned=skip.learned if skip else False,
        skip_lag=skip.lag if skip else 0,
        skip_value=skip.value if skip and skip.value is not None else 0.0,
        place=place,
        zoneout=layer.zoneout,
        zoneout_cell=layer.core_zoneout_cell,
        recurrent_dropout=layer.recurrent_dropout,
        step=layer.core_step,
        diffusion=layer.core_diffusion,
        initial_state=layer.initial_state,
        static_size=layer.static_size or 0,
        recurrent=layer.recurrent,
        blocks=layer.blocks or 0,
        cell_options=list(layer.core_options),
    )


def _transforms(net: Stack) -> list[_core.Transform]:
    """What acts on rows around the recurrent layers, each with the number of the layer after it."""
    made, before = [], 0

    def add(place: int, **options: Any) -> None:
        made.append(_core.Transform(before=before, place=place, **options))

    for place, layer in enumerate(net.layers):
        for _, end in net.residuals:
            if end == place:
                add(place, kind="residual_end")
        for begin, _ in net.residuals:
            if begin == place:
                add(place, kind="residual_begin")
        if isinstance(layer, Recurrent):
            before += 1
        elif isinstance(layer, RowLayer):
            for options in layer.core_transforms:
                known = {"inputs": net.widths[place]} if options["kind"] == "border" else {}
                add(place, **known, **options)
    for _, end in net.residuals:
        if end == len(net.layers):
            add(end, kind="residual_end")
    return made
