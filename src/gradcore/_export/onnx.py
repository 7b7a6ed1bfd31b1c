"""Export to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .._base.checks import flag
from .._base.output import write_bytes
from .._base.packages import needed
from .._net import cells
from .._net.layers import (
    Dense,
    Dropout,
    Embedding,
    Heads,
    Layer,
    LayerNorm,
    Linear,
    Pool,
    Recurrent,
)
from .._net.stack import Params, Stack
from ..errors import ArgumentError
from .parts import Float32, bias, checked, refuse_options, regated

__all__ = ["onnx"]

# LayerNormalization needs opset 17, which onnxruntime reads from 1.13 (2022) on.
OPSET, IR_VERSION = 17, 8
# ONNX's operator of each cell, and its order of gates.
_CELLS: dict[type[Recurrent], tuple[str, str]] = {
    cells.LSTM: ("LSTM", "iofg"),
    cells.GRU: ("GRU", "zrn"),
}
# Activations that are one operator of ONNX.
_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "softplus": "Softplus"}


def onnx(path: Path, net: Stack, params: Params, *, stateful: bool) -> None:
    """Writes an ONNX model; see export."""
    arrays = checked(net, params)
    graph = _Graph(net, arrays, flag("stateful", stateful))
    content = graph.model().SerializeToString()
    try:
        write_bytes(path, content)
    except OSError as error:
        raise ArgumentError(f"cannot write {path}: {error.strerror or error}.") from error


class _Graph:
    """Nodes, constants, inputs and outputs of the model while they are made."""

    def __init__(self, net: Stack, arrays: dict[str, Float32], stateful: bool) -> None:
        package = needed("onnx", "export to ONNX", "onnx")
        self.package, self.helper = package, package.helper
        self.net, self.arrays, self.stateful = net, arrays, stateful
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        tokens = net.embedding is not None
        kind = package.TensorProto.INT64 if tokens else package.TensorProto.FLOAT
        shape = ["T", "B"] if tokens else ["T", "B", net.input_size]
        self.inputs = [self.helper.make_tensor_value_info("x", kind, shape)]
        self.outputs: list[Any] = []

    def model(self) -> Any:
        """The whole model, checked by the package."""
        at = "x"
        begun: list[tuple[int, str]] = []
        for place, layer in enumerate(self.net.layers):
            begun += [(end, at) for begin, end in self.net.residuals if begin == place]
            at = self._layer(place, layer, at)
            while begun and begun[-1][0] == place + 1:
                total = f"residual_{len(begun)}_{place}"
                self._node("Add", [at, begun.pop()[1]], [total])
                at = total
        self._ending(at)
        graph = self.helper.make_graph(
            self.nodes, "gradcore", self.inputs, self.outputs, self.constants
        )
        made = self.helper.make_model(
            graph,
            opset_imports=[self.helper.make_opsetid("", OPSET)],
            producer_name="gradcore",
            ir_version=IR_VERSION,
        )
        self.package.checker.check_model(made, full_check=True)
        return made

    def _ending(self, at: str) -> None:
        """The outputs of the model in front of those for states: one, or one for each head."""
        heads = self.net.heads
        named = [("outputs", at, self.net.output_size)]
        if heads is not None:
            place = len(self.net.layers) - 1
            named = [(name, f"head_{name}", head.out_features) for name, head in heads.heads]
            taken = {value.name for value in (*self.inputs, *self.outputs)}
            for name, head in heads.heads:
                if name in taken:
                    raise ArgumentError(
                        f"head {name!r} has the name of another input or output of the ONNX model, "
                        f"{', '.join(sorted(taken))}. Give it another name."
                    )
                self._affine(f"{place}.{name}", head, at, f"head_{name}")
        axes = ["T", "B"] if self.net.pool is None else ["B"]
        for name, inner, _ in named:
            self._node("Identity", [inner], [name])
        self.outputs[:0] = [self._info(name, [*axes, width]) for name, _, width in named]

    def _layer(self, place: int, layer: Layer, at: str) -> str:
        """Adds the nodes of a layer whose input is called `at`; returns the name of its output."""
        out = f"layer_{place}"
        if isinstance(layer, (Dropout, Heads)):
            return at
        if isinstance(layer, Embedding):
            self._node("Gather", [self._own(place, "weight"), at], [out])
        elif isinstance(layer, Linear):
            self._affine(str(place), layer, at, out)
        elif isinstance(layer, Dense):
            if layer.activation == "identity":
                self._affine(str(place), layer, at, out)
            else:
                self._affine(str(place), layer, at, f"{out}_before")
                self._activation(layer.activation, f"{out}_before", out)
        elif isinstance(layer, LayerNorm):
            self._norm(place, layer, at, out)
        elif isinstance(layer, Pool):
            self._pool(place, layer, at, out)
        elif isinstance(layer, Recurrent):
            self._recurrent(place, layer, at, out)
        else:
            raise ArgumentError(
                f"layer {place} ({type(layer).__name__}) cannot be exported to ONNX."
            )
        return out

    def _affine(self, name: str, layer: Linear | Dense, at: str, out: str) -> None:
        weight = self._constant(f"{name}.weight", self.arrays[f"{name}.weight"].T)
        product = f"{out}_product" if layer.bias else out
        self._node("MatMul", [at, weight], [product])
        if layer.bias:
            added = self._constant(f"{name}.bias", self.arrays[f"{name}.bias"])
            self._node("Add", [product, added], [out])

    def _activation(self, name: str, at: str, out: str) -> None:
        if name in _ACTIVATIONS:
            self._node(_ACTIVATIONS[name], [at], [out])
        elif name == "silu":
            self._node("Sigmoid", [at], [f"{out}_gate"])
            self._node("Mul", [at, f"{out}_gate"], [out])
        else:  # gelu, which is an operator of its own from opset 20 on
            half, root = (
                self._constant(f"{out}_{kind}", np.array(value, np.float32))
                for kind, value in (("half", 0.5), ("root", 0.5**0.5))
            )
            inner, erf, halved, gate = (
                f"{out}_{kind}" for kind in ("inner", "erf", "halved", "gate")
            )
            self._node("Mul", [at, root], [inner])
            self._node("Erf", [inner], [erf])
            self._node("Mul", [erf, half], [halved])
            self._node("Add", [halved, half], [gate])
            self._node("Mul", [at, gate], [out])

    def _pool(self, place: int, layer: Pool, at: str, out: str) -> None:
        """Over all steps: the model takes no lengths."""
        time = self._constant(f"{out}_time", np.array([0], np.int64))
        if layer.kind == "last":
            end = self._constant(f"{out}_end", np.array([-1], np.int64))
            self._node("Gather", [at, end], [f"{out}_step"], axis=0)
            self._node("Squeeze", [f"{out}_step", time], [out])
        elif layer.kind != "attention":
            self._node(f"Reduce{layer.kind.capitalize()}", [at], [out], axes=[0], keepdims=0)
        else:
            weight = self._constant(f"{place}.weight", self.arrays[f"{place}.weight"].T)
            self._node("MatMul", [at, weight], [f"{out}_scores"])
            self._node("Softmax", [f"{out}_scores"], [f"{out}_shares"], axis=0)
            self._node("Mul", [f"{out}_shares", at], [f"{out}_terms"])
            self._node("ReduceSum", [f"{out}_terms", time], [out], keepdims=0)

    def _norm(self, place: int, layer: LayerNorm, at: str, out: str) -> None:
        names = list(layer.parameter_shapes)
        ones = np.ones(layer.normalized_shape, np.float32)
        given = [self._own(place, name) for name in names]
        given = given or [self._constant(f"{place}.ones", ones)]
        self._node("LayerNormalization", [at, *given], [out], axis=-1, epsilon=layer.eps)

    def _recurrent(self, place: int, layer: Recurrent, at: str, out: str) -> None:
        refuse_options(place, layer, "ONNX", residual=True)
        operator, order, options = _operator(place, layer)
        both = len(layer.directions)
        if both == 2:
            options["direction"] = "bidirectional"
        weights = [
            np.stack([self._gates(place, layer, name + end, order) for end in layer.directions])
            for name in ("weight_ih", "weight_hh")
        ]
        biases = np.stack(
            [
                np.concatenate(
                    [
                        regated(bias(self.arrays, place, layer, name + end), layer, order)
                        for name in ("bias_ih", "bias_hh")
                    ]
                )
                for end in layer.directions
            ]
        )
        names = [
            self._constant(f"{place}.{name}", array)
            for name, array in zip("WRB", [*weights, biases], strict=True)
        ]
        before, after = self._states(place, layer)
        raw, turned, flat = f"{out}_raw", f"{out}_turned", f"{out}_flat"
        self._node(
            operator,
            [at, *names, *(["", *before] if before else [])],
            [raw, *after],
            hidden_size=layer.hidden_size,
            **options,
        )
        # (T, D, B, H) becomes (T, B, D*H).
        self._node("Transpose", [raw], [turned], perm=[0, 2, 1, 3])
        shape = np.array([0, 0, layer.output_size], np.int64)
        end = flat if layer.residual else out
        self._node("Reshape", [turned, self._constant(f"{place}.shape", shape)], [end])
        if layer.residual:
            self._node("Add", [flat, at], [out])

    def _states(self, place: int, layer: Recurrent) -> tuple[list[str], list[str]]:
        """Names of the inputs and outputs for a layer's state, which are added to the model."""
        if not self.stateful:
            return [], []
        before = [f"{name}_{place}" for name in layer.cell.states]
        shape = [len(layer.directions), "B", layer.hidden_size]
        self.inputs += [self._info(name, shape) for name in before]
        after = [f"{name}_out" for name in before]
        self.outputs += [self._info(name, shape) for name in after]
        return before, after

    def _gates(self, place: int, layer: Recurrent, name: str, order: str) -> Float32:
        return regated(self.arrays[f"{place}.{name}"], layer, order)

    def _node(self, operator: str, inputs: list[str], outputs: list[str], **options: Any) -> None:
        self.nodes.append(self.helper.make_node(operator, inputs, outputs, **options))

    def _own(self, place: int, name: str) -> str:
        return self._constant(f"{place}.{name}", self.arrays[f"{place}.{name}"])

    def _constant(self, name: str, array: Any) -> str:
        made = self.package.numpy_helper.from_array(np.ascontiguousarray(array), name)
        self.constants.append(made)
        return name

    def _info(self, name: str, shape: list[Any]) -> Any:
        return self.helper.make_tensor_value_info(name, self.package.TensorProto.FLOAT, shape)


def _operator(place: int, layer: Recurrent) -> tuple[str, str, dict[str, Any]]:
    """ONNX's operator for a layer, its order of gates, and its options."""
    if type(layer) in _CELLS:
        name, order = _CELLS[type(layer)]
        # The reset gate acts on the recurrent product, its bias included.
        return name, order, {"linear_before_reset": 1} if name == "GRU" else {}
    if isinstance(layer, cells.RNN):
        function = {"tanh": "Tanh", "relu": "Relu", "identity": "Affine"}[layer.nonlinearity]
        many = len(layer.directions)
        options: dict[str, Any] = {"activations": [function] * many}
        if function == "Affine":
            options |= {"activation_alpha": [1.0] * many, "activation_beta": [0.0] * many}
        return "RNN", "".join(layer.cell.gates[:1]), options
    raise ArgumentError(
        f"layer {place} ({type(layer).__name__}) cannot be exported: ONNX has RNN, LSTM and GRU."
    )
