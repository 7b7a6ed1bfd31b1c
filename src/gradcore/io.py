"""Checkpoints: safetensors files that hold the parameters by name and the net as JSON.

The file is a plain safetensors file, so other programs can read its tensors. Its metadata are
format "gradcore", format_version, net (JSON) and user (JSON). Nothing in a file is ever executed.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ._validate import model
from .cells import CELLS
from .errors import CheckpointError, GradcoreError
from .layers import Dropout, Embedding, Layer, LayerNorm, Linear, Skip, Stack
from .params import Params

__all__ = ["FORMAT_VERSION", "Checkpoint", "load", "save"]

FORMAT = "gradcore"
FORMAT_VERSION = 1
_KINDS: tuple[type[Layer], ...] = (Embedding, *CELLS, Linear, LayerNorm, Dropout)
LAYERS: dict[str, type[Layer]] = {kind.__name__: kind for kind in _KINDS}


class Checkpoint(NamedTuple):
    """What a file held: the net, its parameters, and the metadata given to save."""

    net: Stack
    params: Params
    metadata: dict[str, Any]


def save(path: str | os.PathLike[str], net: Stack, params: Params, **metadata: Any) -> None:
    """Writes a net with its parameters to a file, whole or not at all.

    metadata: anything JSON can hold; load returns it. Raises CheckpointError if the file cannot be
    written or metadata is not JSON.
    """
    model(net, params)
    try:
        described = json.dumps(metadata, allow_nan=True)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"metadata must be what JSON can hold: {error}.") from error
    header = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "net": json.dumps(describe(net)),
        "user": described,
    }
    target = Path(path)
    try:
        _write(target, dict(params), header)
    except OSError as error:
        raise CheckpointError(f"cannot write {target}: {error.strerror or error}.") from error


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a file that save wrote.

    Raises CheckpointError saying why if the file cannot be read, is damaged, is not one of
    gradcore's, comes from a newer version, or holds tensors that do not fit its net.
    """
    source = Path(path)
    try:
        with safe_open(source, framework="numpy") as file:
            net, metadata = _read_header(source, file.metadata() or {})
            return Checkpoint(net, _read_params(source, net, file), metadata)
    except OSError as error:
        raise CheckpointError(f"cannot read {source}: {error.strerror or error}.") from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{source} is not a safetensors file, or is truncated or damaged: {error}."
        ) from error


def describe(net: Stack) -> list[dict[str, Any]]:
    """A net as JSON values: one object per layer, its class name under "layer"."""
    return [{"layer": type(layer).__name__, **_fields(layer)} for layer in net.layers]


def build(description: object) -> Stack:
    """The net that describe described; raises GradcoreError or CheckpointError if it is not one."""
    if not isinstance(description, list) or not all(isinstance(d, dict) for d in description):
        raise CheckpointError("the description of the net is not a list of objects")
    return Stack(*(_layer(entry) for entry in description))


def _fields(item: Layer | Skip) -> dict[str, Any]:
    values = {field.name: getattr(item, field.name) for field in fields(item)}
    return {name: _fields(v) if isinstance(v, Skip) else v for name, v in values.items()}


def _layer(entry: dict[str, Any]) -> Layer:
    options = dict(entry)
    name = options.pop("layer", None)
    kind = LAYERS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise CheckpointError(f"the net has a layer {name!r}, which this version does not know")
    skip = options.get("skip")
    if isinstance(skip, dict):
        options["skip"] = _make(Skip, skip)
    made: Layer = _make(kind, options)
    return made


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
        raise CheckpointError(f"{kind.__name__} is not described in full: {error}") from error


def _read_header(source: Path, header: dict[str, str]) -> tuple[Stack, dict[str, Any]]:
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{source} is a safetensors file, but not one that gradcore.save wrote: its metadata "
            f"lack format = {FORMAT!r}."
        )
    version = header.get("format_version", "")
    if not version.isdecimal():
        raise CheckpointError(f"{source} has the format version {version!r}, which is no number.")
    if int(version[:9]) > FORMAT_VERSION:
        raise CheckpointError(
            f"{source} has format version {version}; this gradcore reads up to {FORMAT_VERSION}. "
            "Update gradcore."
        )
    try:
        net = build(json.loads(header.get("net", "")))
        metadata = json.loads(header.get("user", ""))
    except (GradcoreError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{source} is damaged: {str(error).rstrip('.')}.") from error
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{source} is damaged: its user metadata are not an object.")
    return net, metadata


def _read_params(source: Path, net: Stack, file: Any) -> Params:
    # Shapes first: a hostile description must not make us allocate what the file does not hold.
    expected = {spec.name: spec.shape for spec in net.parameter_specs}
    found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    if found != expected:
        names = sorted(n for n in {*expected, *found} if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"{source} is damaged: its tensors do not fit its net. {names[0]} must have shape "
            f"{expected.get(names[0])}; the file has {found.get(names[0])}."
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


def _write(target: Path, tensors: dict[str, Any], header: dict[str, str]) -> None:
    """Writes beside the target and renames, so that a reader never sees half a file."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        save_file(tensors, temporary, header)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files for the owner alone; a checkpoint is an ordinary file.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
