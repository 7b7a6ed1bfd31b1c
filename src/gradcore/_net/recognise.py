"""Recognises a net by the names and shapes of its tensors, where no description of it is there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, DTypeError
from .cells import GRU, LSTM, RNN
from .layers import Embedding, Layer, LayerNorm, Linear, Recurrent
from .stack import Params, Stack

__all__ = ["check_names", "common_dtype", "recognised"]

# Names of torch.nn ("rnn.weight_ih_l0_reverse", "head.bias") and ours ("1.weight_ih_reverse").
_NAME = re.compile(
    r"(?:(?P<module>.*)\.)?"
    r"(?P<name>(?:weight|bias)(?:_ih|_hh)?)(?:_l(?P<layer>\d+))?(?P<reverse>_reverse)?"
)
_CELLS: dict[int, type[Recurrent]] = {1: RNN, 3: GRU, 4: LSTM}


@dataclass
class _Group:
    """The tensors of one layer, by their names within it. shown: how it is called in messages."""

    module: str
    shown: str
    tensors: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def recurrent(self) -> bool:
        return "weight_hh" in self.tensors

    @property
    def normal(self) -> bool:
        return not self.recurrent and "weight" in self.tensors and self.tensors["weight"].ndim == 1


def recognised(tensors: Mapping[str, NDArray[Any]], ordered: bool) -> Params:
    """The net that has these tensors, with their values.

    Recurrent layers are an RNN (taken for one with tanh), a GRU or an LSTM by the rows of their
    weights. A matrix without a bias before them is an embedding, and one after them the head.
    ordered: whether the tensors are in the order of the layers, as in a state dict; otherwise the
    numbers in their names decide, or their kind. Dropout leaves no trace in tensors.
    Raises ArgumentError or DTypeError with the reason if that is not possible, and ShapeError if
    the sizes of neighbours do not fit.
    """
    groups = _grouped(tensors)
    if not ordered:
        groups = _in_order(groups)
    first = next((i for i, group in enumerate(groups) if group.recurrent), len(groups))
    layers = [_layer(group, place < first) for place, group in enumerate(groups)]
    for group, layer in zip(groups[:-1], layers, strict=False):
        if isinstance(layer, Linear):
            raise ArgumentError(
                f"{group.shown} is a Linear before the end of the net, and tensors do not tell the "
                "activation function behind it. Use gradcore.from_torch with the module."
            )
    net = Stack(*layers)
    params = Params(net, np.empty(net.n_parameters, common_dtype(tensors)))
    for place, group in enumerate(groups):
        for name, array in group.tensors.items():
            params[f"{place}.{name}"] = np.ascontiguousarray(array)
    return params


def common_dtype(tensors: Mapping[str, NDArray[Any]]) -> np.dtype[Any]:
    """The dtype of all tensors; raises DTypeError if they differ or are no floats of gradcore."""
    dtypes = {array.dtype for array in tensors.values()}
    if len(dtypes) != 1 or not dtypes <= {np.dtype(np.float32), np.dtype(np.float64)}:
        raise DTypeError(
            "the tensors must all be float32 or all float64; they are "
            f"{', '.join(sorted(map(str, dtypes)))}."
        )
    return dtypes.pop()


def check_names(names: Iterable[str]) -> None:
    """Raises ArgumentError if a name is none that a tensor of a layer has."""
    for name in names:
        _parsed(name)


def _parsed(name: str) -> re.Match[str]:
    found = _NAME.fullmatch(name)
    if found is None:
        raise ArgumentError(
            f"{name} is not the name of a tensor that gradcore knows. It knows weight_ih_l0, "
            "weight_hh_l0, bias_ih_l0, bias_hh_l0 (also with _reverse) of recurrent layers, "
            "and weight and bias of an Embedding, a LayerNorm and a Linear."
        )
    return found


def _grouped(tensors: Mapping[str, NDArray[Any]]) -> list[_Group]:
    groups: dict[tuple[str, str], _Group] = {}
    for name, array in tensors.items():
        found = _parsed(name)
        module, layer = found["module"] or "", found["layer"] or ""
        shown = name.removesuffix(f".{found[0].rpartition('.')[2]}") if module else name
        group = groups.setdefault((module, layer), _Group(module, shown))
        group.tensors[found["name"] + (found["reverse"] or "")] = array
    # The layers of one module are in the order of their numbers.
    places = {module: place for place, (module, _) in reversed(list(enumerate(groups)))}
    keys = sorted(groups, key=lambda key: (places[key[0]], int(key[1] or 0)))
    return [groups[key] for key in keys]


def _in_order(groups: list[_Group]) -> list[_Group]:
    numbered = all(re.search(r"\d", group.module) for group in groups)
    if numbered:
        return sorted(groups, key=lambda group: _natural(group.module))
    if any(group.normal for group in groups):
        raise ArgumentError(
            "the place of a LayerNorm cannot be told from names without numbers. Use "
            "gradcore.from_torch with the module or its state dict, which is in order."
        )
    recurrent = [group for group in groups if group.recurrent]
    others = [group for group in groups if not group.recurrent]
    width = recurrent[0].tensors["weight_ih"].shape[-1] if recurrent else -1
    table = [
        group
        for group in others
        if "bias" not in group.tensors and group.tensors["weight"].shape[-1] == width
    ]
    heads = [group for group in others if not table or group is not table[0]]
    if len({group.module for group in recurrent}) > 1 or len(table) > 1 or len(heads) > 1:
        raise ArgumentError(
            "the order of the layers cannot be told from names without numbers. Use "
            "gradcore.from_torch with the module or its state dict, which is in order."
        )
    return [*table, *recurrent, *heads]


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which "layer.10" comes after "layer.9"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _layer(group: _Group, first: bool) -> Layer:
    names, tensors = set(group.tensors), group.tensors
    if group.recurrent:
        return _recurrent(group)
    weight = tensors.get("weight")
    if weight is None or names - {"weight", "bias"}:
        raise ArgumentError(f"{group.shown} has {', '.join(sorted(names))}, which no layer has.")
    bias = "bias" in names
    if weight.ndim == 1:
        return LayerNorm(len(weight), bias=bias)
    if weight.ndim != 2:
        raise ArgumentError(
            f"{group.shown} has a weight of shape {weight.shape}, which no layer of gradcore has."
        )
    if first and not bias:
        return Embedding(*weight.shape)
    return Linear(weight.shape[1], weight.shape[0], bias=bias)


def _recurrent(group: _Group) -> Recurrent:
    tensors = group.tensors
    rows, hidden = _matrix(group, "weight_hh")
    kind = _CELLS.get(rows // hidden if hidden and rows % hidden == 0 else 0)
    if kind is None:
        raise ArgumentError(
            f"weight_hh of {group.shown} must have 1, 3 or 4 times as many rows as columns (RNN, "
            f"GRU, LSTM); its shape is ({rows}, {hidden})."
        )
    both, bias = "weight_hh_reverse" in tensors, "bias_ih" in tensors
    made = kind(_matrix(group, "weight_ih")[1], hidden, bias=bias, bidirectional=both)
    expected = {name: shape for name, (shape, _) in made.parameter_shapes.items()}
    found = {name: array.shape for name, array in tensors.items()}
    if found != expected:
        wrong = min(n for n in {*expected, *found} if expected.get(n) != found.get(n))
        raise ArgumentError(
            f"{wrong} of {group.shown} must have shape {expected.get(wrong)} beside its other "
            f"tensors; it has {found.get(wrong)}."
        )
    return made


def _matrix(group: _Group, name: str) -> tuple[int, int]:
    array = group.tensors.get(name)
    if array is None or array.ndim != 2:
        raise ArgumentError(f"{name} of {group.shown} must be a matrix, and there is none.")
    return array.shape[0], array.shape[1]
