"""Imports packages that are needed by one part of gradcore only."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["needed"]


def needed(module: str, who: str, install: str) -> Any:
    """The module; raises ImportError that says what to install."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{who} needs {install}, which cannot be imported ({error}). Run: pip install {install}"
        ) from error
