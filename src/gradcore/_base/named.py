"""Values that are one array, or a dict of arrays by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["each", "flat"]


def each(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value after a change, or a dict of all values of a mapping after it."""
    if isinstance(value, Mapping):
        return {name: change(one) for name, one in value.items()}
    return change(value)


def flat(value: Any) -> list[Any]:
    """The values of a mapping in the order of their names; a list of anything else."""
    if isinstance(value, Mapping):
        return [value[name] for name in sorted(value)]
    return [value]
