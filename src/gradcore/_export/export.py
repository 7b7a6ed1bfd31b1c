"""export: writes a net for a program that runs it without gradcore."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, get_args

from .._base.checks import choice, path_like
from .._net.stack import Params, Stack
from .._net.state import LayerState
from ..errors import ArgumentError
from .nam import nam
from .onnx import onnx
from .rtneural import rtneural

__all__ = ["export"]

Format = Literal["onnx", "rtneural", "nam"]
_SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".json": "rtneural", ".nam": "nam"}


def export(
    path: str | os.PathLike[str],
    net: Stack,
    params: Params,
    *,
    format: Format | None = None,
    stateful: bool | None = None,
    state: Sequence[LayerState] | None = None,
    sample_rate: float | None = None,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Writes a net to a file for a program that runs it without gradcore, in float32.

    format: "onnx", "rtneural" or "nam"; None means by the suffix of path, .onnx, .json or .nam.
    Dropout and recurrent_dropout act in training only, and are left out.

    "onnx": a model of opset 17 for onnxruntime and others. Its input is "x", (T, B, I) floats or
    (T, B) int64 tokens, and its output "outputs", (T, B, O); T and B may be any. Behind a Pool it
    is (B, O), of all T steps; of Heads each is an output by its name. With stateful=True the model
    also has an input and an output for the state of each recurrent layer, "h_0" and "h_0_out" for
    layer 0 of the Stack, and "c_0" and "c_0_out" if it is an LSTM: (D, B, H), where D is 2 for
    bidirectional layers; otherwise it starts from zeros. RNN, LSTM and GRU with both directions and
    residual=True, LayerNorm, Pool, Embedding, Linear and Heads. Needs the package onnx.
    "rtneural": JSON that RTNeural::json_parser::parseJson reads, for real-time audio in C++: LSTM,
    GRU and Linear, one direction.
    "nam": an amp model for the plug-in Neural Amp Modeler: LSTMs of equal width, the first with one
    input, and a Linear with one output. sample_rate: that of the recordings in Hz, by default
    48,000. metadata: JSON values that the plug-in shows or uses, such as {"name": ...,
    "loudness": -18.0}. state: the state of one sequence to start from, as gradcore.apply returned
    it, for example after silence; None means zeros.

    Raises ArgumentError for a net that the format cannot express (naming the layer), an option that
    the format does not have, and a file that cannot be written; ImportError, NonFiniteError,
    ShapeError, DTypeError.
    Reference: onnx.ai/onnx/operators; Chowdhury 2021 (RTNeural); NeuralAmpModelerCore, lstm.cpp.
    """
    target = path_like("path", path)
    kind = _SUFFIXES.get(target.suffix.lower()) if format is None else format
    if kind is None:
        raise ArgumentError(
            f"the suffix of path must be one of {', '.join(_SUFFIXES)}, or format must be given; "
            f"got {str(target)!r}."
        )
    choice("format", kind, get_args(Format))
    of_nam: dict[str, Any] = {"state": state, "sample_rate": sample_rate, "metadata": metadata}
    for name, value, owner in [
        ("stateful", stateful, "onnx"),
        *((name, value, "nam") for name, value in of_nam.items()),
    ]:
        if value is not None and kind != owner:
            raise ArgumentError(f"{name} belongs to format {owner!r}, and the format is {kind!r}.")
    if kind == "onnx":
        onnx(target, net, params, stateful=False if stateful is None else stateful)
    elif kind == "nam":
        nam(target, net, params, **{n: v for n, v in of_nam.items() if v is not None})
    else:
        rtneural(target, net, params)
