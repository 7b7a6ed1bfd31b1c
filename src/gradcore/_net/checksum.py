"""The checksum of a checkpoint, which reveals damage: SHA-256 of its tensors and its metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CHECKSUM", "checksum"]

CHECKSUM = "checksum"
"""The name of the checksum among the metadata, which it does not cover."""


def checksum(tensors: Iterable[tuple[str, NDArray[Any]]], metadata: Mapping[str, str]) -> str:
    """The hexadecimal digest of tensors by name, which must come sorted by it, and of metadata."""
    digest = hashlib.sha256()
    for name, text in sorted(metadata.items()):
        if name != CHECKSUM:
            digest.update(repr((name, text)).encode("utf-8", "surrogatepass"))
    for name, array in tensors:
        digest.update(repr((name, array.dtype.str, array.shape)).encode("utf-8"))
        # A view as bytes copies nothing; ascontiguousarray copies strided arrays only.
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
