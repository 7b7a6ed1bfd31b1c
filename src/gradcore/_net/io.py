"""Checkpoints: safetensors files with the parameters by name and the net as JSON.

They are ordinary safetensors files, so other programs can read the tensors. The metadata are format
"gradcore", format_version, net (JSON), user (JSON) and checksum. Nothing in a file is executed,
except that cells whose source is in it are compiled and run if the caller allows that. Version 2 is
a training checkpoint: version 1 plus tensors and metadata whose names start with "training". Files
without a checksum, as other programs may write them, are read as well.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .._base.checks import flag, path_like
from .._base.output import write_output
from ..errors import ArgumentError, CheckpointError, CompileError, GradcoreError
from .cells import CELLS
from .checksum import CHECKSUM, checksum
from .compiled import CellSource, CompiledCell, compiled, known
from .convolution import Conv1d
from .layers import (
    Dense,
    Dropout,
    Embedding,
    Heads,
    Layer,
    LayerNorm,
    Linear,
    Pool,
    Residual,
    Skip,
)
from .recognise import check_names, recognised
from .stack import Params, Stack
from .static_input import StaticInput
from .validate import model
from .windows import AvgPool1d, Frames, MaxPool1d

__all__ = ["FORMAT_VERSION", "Checkpoint", "load", "save"]

FORMAT = "gradcore"
# The newest version that can be read. Files without training state are written as version 1, so
# that older releases can read them, too.
FORMAT_VERSION = 2
# A training checkpoint also has tensors whose names start with "training." and metadata "training".
TRAINING = "training"
# A header of a few bytes per layer must not keep the reader busy for minutes.
MOST_LAYERS = 10_000
_KINDS: tuple[type[Layer], ...] = (
    Embedding,
    *CELLS,
    Linear,
    Dense,
    Conv1d,
    LayerNorm,
    Dropout,
    Pool,
    Frames,
    MaxPool1d,
    AvgPool1d,
    StaticInput,
)
# The name of layers with a compiled cell in files.
COMPILED = "compiled cell"
# All metadata that a file may have.
_NAMES = {"format", "format_version", "net", "user", TRAINING, CHECKSUM}
# Those that no other program writes.
_OURS = _NAMES - {"format"}
LAYERS: dict[str, type[Layer]] = {kind.__name__: kind for kind in _KINDS}


class Checkpoint(NamedTuple):
    """The content of a file: the net, its parameters, and the metadata given to save."""

    net: Stack
    params: Params
    metadata: dict[str, Any]


def save(path: str | os.PathLike[str], net: Stack, params: Params, **metadata: Any) -> None:
    """Writes a net with its parameters to a file; readers always see a complete file.

    An existing file is replaced. Devices and pipes are written to directly; a folder is refused.
    metadata: values that JSON can hold; load returns them. Raises CheckpointError if the file
    cannot be written or metadata cannot be converted to JSON.
    """
    model(net, params)
    write(path_like("path", path), params, metadata)


def load(path: str | os.PathLike[str], *, allow_compile: bool = False) -> Checkpoint:
    """Reads the net and its parameters from a file that save or Trainer.fit wrote.

    A safetensors file of another program is read if the names and shapes of its tensors are those
    of torch.nn's layers ("rnn.weight_ih_l0", "head.weight") or ours ("0.weight_ih"): an optional
    embedding, RNNs (taken for ones with tanh), GRUs or LSTMs, an optional Linear, and LayerNorms if
    the names are numbered; metadata are then what the file has as such.
    allow_compile: whether cells whose source is in the file may be compiled and run, which gives
    the file all rights of the process; cells that this process has compiled itself need no leave.
    Raises CheckpointError with the reason if the file cannot be read, is damaged, was written by a
    newer version, has no net that is recognised, or has tensors that do not fit its net.
    """
    source = path_like("path", path)
    with open_checkpoint(source) as file:
        header = file.metadata() or {}
        if header.get("format") != FORMAT and not set(header) & _OURS:
            return _foreign(source, header, file)
        return read(source, file, flag("allow_compile", allow_compile))


def _foreign(source: Path, header: dict[str, str], file: Any) -> Checkpoint:
    """The net of a file that another program has written."""
    try:
        names = list(file.keys())
        check_names(names)  # before a file of many gigabytes is read
        tensors = {name: file.get_tensor(name) for name in names}
        params = recognised(tensors, ordered=False)
    except (GradcoreError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{source} is a safetensors file that gradcore.save did not write, and its net is not "
            f"recognised: {error}"
        ) from error
    return Checkpoint(params.net, params, dict(header))


def write(
    target: Path,
    params: Params,
    user: dict[str, Any],
    tensors: Mapping[str, NDArray[Any]] | None = None,
    training: str | None = None,
) -> None:
    """Writes a checkpoint of a net, or of a training if its tensors and JSON text are given."""
    count = len(params.net.layers) + len(params.net.residuals)
    if count > MOST_LAYERS:
        raise CheckpointError(
            f"cannot write {target}: the net has {count:,} layers, and at most "
            f"{MOST_LAYERS:,} can be read again."
        )
    header = {
        "format": FORMAT,
        "format_version": "1" if training is None else str(FORMAT_VERSION),
        "net": json.dumps(describe(params.net)),
        "user": as_json("metadata", user),
    }
    if training is not None:
        header[TRAINING] = training
    # save_file writes the bytes of a strided view in the wrong order.
    arrays = {
        name: np.require(array, requirements="C")
        for name, array in {**params, **(tensors or {})}.items()
    }
    header[CHECKSUM] = checksum(sorted(arrays.items()), header)
    try:
        write_output(target, lambda path: save_file(arrays, path, header))
    except ArgumentError as error:
        raise CheckpointError(str(error)) from error
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise CheckpointError(f"cannot write {target}: {reason or error}.") from error


@contextmanager
def open_checkpoint(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Opens a checkpoint; raises CheckpointError if it cannot be read or has another format."""
    _refuse_others(Path(path))
    try:
        with safe_open(Path(path), framework="numpy") as file:
            yield file
    except OSError as error:
        # safetensors puts the path into its message and leaves strerror empty.
        missing = isinstance(error, FileNotFoundError)
        reason = "no such file" if missing else error.strerror or error
        raise CheckpointError(f"cannot read {path}: {reason}.") from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a safetensors file, or is truncated or damaged: {error}."
        ) from error


def _refuse_others(path: Path) -> None:
    """Raises CheckpointError for what cannot be a checkpoint and safetensors has no words for."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return  # it is told when the file is opened
    if stat.S_ISDIR(found.st_mode):
        raise CheckpointError(f"cannot read {path}: it is a folder. Name a file in it.")
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(
            f"cannot read {path}: it is a device or a pipe, and a net is read from a file alone."
        )
    if not found.st_size:
        raise CheckpointError(
            f"{path} is not a safetensors file, or is truncated or damaged: it is empty."
        )


def read(source: Path, file: Any, allow_compile: bool = False) -> Checkpoint:
    """The net, its parameters and the user's metadata of an open checkpoint."""
    header = file.metadata() or {}
    net, metadata = _read_header(source, header, allow_compile)
    params = _read_params(source, net, file)
    if CHECKSUM in header:
        check_undamaged(source, file)
    elif unknown := set(header) - _NAMES:
        # A damaged name of the checksum must not be taken for a file of an earlier version.
        raise CheckpointError(
            f"{source} is damaged: its metadata have no {CHECKSUM}, but {', '.join(unknown)!r}."
        )
    return Checkpoint(net, params, metadata)


def check_undamaged(source: Path, file: Any) -> None:
    """Raises CheckpointError if tensors or metadata are not those of which the checksum was made.

    Reads the whole file, a tensor at a time.
    """
    header = file.metadata() or {}
    names = sorted(file.keys())
    found = checksum(((name, file.get_tensor(name)) for name in names), header)
    if header.get(CHECKSUM) != found:
        raise CheckpointError(
            f"{source} is damaged: its content does not fit its checksum. Take another copy of it, "
            "or the checkpoint before it."
        )


def as_json(name: str, value: object) -> str:
    """value as JSON text; raises CheckpointError if JSON cannot hold it."""
    try:
        return json.dumps(value, allow_nan=True)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{name} must be values that JSON can hold: {error}.") from error


def describe(net: Stack) -> list[dict[str, Any]]:
    """A net as JSON values: one object per layer, its class name under "layer".

    That of a Residual has the layers inside as such a list under "layers".
    """
    return [_described(layer) for layer in net.nested]


def _described(layer: Layer | Residual) -> dict[str, Any]:
    name = type(layer).__name__
    if isinstance(layer, Residual):
        return {"layer": name, "layers": [_described(inner) for inner in layer.layers]}
    if isinstance(layer, Heads):
        return {"layer": name, "heads": [[own, _fields(head)] for own, head in layer.heads]}
    if isinstance(layer, CompiledCell):
        return {"layer": COMPILED, COMPILED: asdict(layer.source), **_fields(layer)}
    return {"layer": name, **_fields(layer)}


def build(description: object, allow_compile: bool = False) -> Stack:
    """The net from the JSON values of describe; raises CheckpointError or another GradcoreError."""
    count = _count(description)
    if count > MOST_LAYERS:
        raise CheckpointError(f"the net has {count:,} layers; at most {MOST_LAYERS:,} are read")
    assert isinstance(description, list)
    return Stack(*(_layer(entry, allow_compile) for entry in description))


def _count(description: object) -> int:
    """The number of layers in a list of descriptions, those inside Residuals and these included."""
    if not isinstance(description, list) or not all(isinstance(d, dict) for d in description):
        raise CheckpointError("the description of the net is not a list of objects")
    inside = (d.get("layers", []) for d in description if d.get("layer") == Residual.__name__)
    return len(description) + sum(map(_count, inside))


def _fields(item: Any) -> dict[str, Any]:
    values = {field.name: getattr(item, field.name) for field in fields(item)}
    return {name: _fields(v) if isinstance(v, Skip) else v for name, v in values.items()}


def _layer(entry: dict[str, Any], allow_compile: bool) -> Any:
    options = dict(entry)
    name = options.pop("layer", None)
    if name == Residual.__name__ and set(options) == {"layers"}:
        return Residual(*(_layer(inner, allow_compile) for inner in options["layers"]))
    if name == Heads.__name__ and set(options) == {"heads"}:
        return _heads(options["heads"])
    kind = LAYERS.get(name) if isinstance(name, str) else None
    if name == COMPILED:
        kind = _compiled(options.pop(COMPILED, None), allow_compile)
    if kind is None:
        raise CheckpointError(f"the net has a layer {name!r}, which this version does not know")
    skip = options.get("skip")
    if isinstance(skip, dict):
        options["skip"] = _make(Skip, skip)
    return _make(kind, options)


def _heads(described: object) -> Heads:
    pairs: list[Any] = described if isinstance(described, list) else [None]
    made = {}
    for pair in pairs:
        fits = isinstance(pair, list) and len(pair) == 2
        if not (fits and isinstance(pair[0], str) and isinstance(pair[1], dict)):
            raise CheckpointError("the description of Heads is no list of names and options")
        made[pair[0]] = _make(Linear, pair[1])
    return Heads(**made)


class _NotAllowedError(CheckpointError):
    """A file has a cell that would have to be compiled, which the caller has not allowed."""


def _compiled(entry: object, allow_compile: bool) -> type[CompiledCell]:
    """The layer of a cell whose source is in a file."""
    if not isinstance(entry, dict) or set(entry) != {"source", "name", "options"}:
        raise CheckpointError("the description of a compiled cell is not complete")
    pairs = entry["options"]
    if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        raise CheckpointError("the options of a compiled cell are not pairs of a name and a number")
    source = CellSource(entry["source"], entry["name"], tuple((n, v) for n, v in pairs))
    if not allow_compile and not known(source):
        raise _NotAllowedError(
            f"has a cell of its own, {source.name}, whose C++ would be compiled and run with all "
            "rights of this process. If you trust whoever wrote the file, pass allow_compile=True; "
            "or compile the same source first with gradcore.cells.compile"
        )
    return compiled(source)


def _make(kind: type[Any], options: dict[str, Any]) -> Any:
    unknown = set(options) - {field.name for field in fields(kind)}
    if unknown:
        raise CheckpointError(
            f"{kind.__name__} has options this version does not know: {', '.join(sorted(unknown))}"
        )
    try:
        return kind(**options)
    except GradcoreError:
        raise
    except TypeError as error:
        raise CheckpointError(
            f"the description of {kind.__name__} is incomplete: {error}"
        ) from error


def _read_header(
    source: Path, header: dict[str, str], allow_compile: bool
) -> tuple[Stack, dict[str, Any]]:
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{source} is a safetensors file, but not one that gradcore.save wrote: its metadata "
            f"lack format = {FORMAT!r}."
        )
    version = header.get("format_version", "")
    if not version.isdecimal():
        raise CheckpointError(
            f"{source} has the format version {version!r}, which is not a number."
        )
    if int(version[:9]) > FORMAT_VERSION:
        raise CheckpointError(
            f"{source} has format version {version}; this gradcore reads up to {FORMAT_VERSION}. "
            "Update gradcore."
        )
    try:
        net = build(json.loads(header.get("net", "")), allow_compile)
        metadata = json.loads(header.get("user", ""))
    except _NotAllowedError as error:
        raise _NotAllowedError(f"{source} {error}.") from None
    except CompileError as error:
        raise CompileError(f"{source} cannot be loaded: {error}") from error
    except (GradcoreError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{source} is damaged: {str(error).rstrip('.')}.") from error
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{source} is damaged: its user metadata are not an object.")
    return net, metadata


def _read_params(source: Path, net: Stack, file: Any) -> Params:
    # Shapes are compared before anything is allocated, because a malicious description could claim
    # far larger tensors than the file has.
    expected = {spec.name: spec.shape for spec in net.parameter_specs}
    names = [name for name in file.keys() if not name.startswith(f"{TRAINING}.")]  # noqa: SIM118
    found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    if found != expected:
        wrong = min(n for n in {*expected, *found} if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"{source} is damaged: its tensors do not fit its net. {wrong} must have shape "
            f"{expected.get(wrong)}; the file has {found.get(wrong)}."
        )
    dtypes = {file.get_slice(name).get_dtype() for name in found}
    if len(dtypes) != 1 or not dtypes <= {"F32", "F64"}:
        raise CheckpointError(
            f"{source} is damaged: its tensors must all be F32 or all F64; they are "
            f"{', '.join(sorted(dtypes))}."
        )
    flat = np.empty(net.n_parameters, np.float32 if dtypes == {"F32"} else np.float64)
    params = Params(net, flat)
    for name in expected:
        params[name] = file.get_tensor(name)
    return params
