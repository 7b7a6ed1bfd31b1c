"""Nets as tables of text: a line for each layer, those inside Residuals indented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields

from .layers import Heads, Layer, Residual

__all__ = ["layer_lines", "short", "table"]


def short(layer: Layer | Residual) -> str:
    """The repr of a layer without the options that have their default values."""
    if isinstance(layer, Residual):
        return f"Residual({' > '.join(map(short, layer.layers))})"
    if isinstance(layer, Heads):
        return f"Heads({', '.join(f'{name}={short(head)}' for name, head in layer.heads)})"
    given = []
    for part in fields(layer):
        value = getattr(layer, part.name)
        if part.default is MISSING:
            given.append(repr(value))
        elif value != part.default:
            given.append(f"{part.name}={value!r}")
    return f"{type(layer).__name__}({', '.join(given)})"


def layer_lines(
    layers: Sequence[Layer], residuals: Sequence[tuple[int, int]]
) -> list[tuple[int | None, str]]:
    """Pairs (place, text) of all layers; a Residual is a line of its own, whose place is None."""
    lines: list[tuple[int | None, str]] = []
    for place, layer in enumerate(layers):
        around = [end for begin, end in residuals if begin <= place < end]
        begun = [end for begin, end in residuals if begin == place]
        for depth in range(len(around) - len(begun), len(around)):
            lines.append((None, f"{'  ' * depth}Residual"))
        lines.append((place, f"{'  ' * len(around)}{short(layer)}"))
    return lines


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 2) -> str:
    """Lines of columns of equal width; the first `left` columns are aligned to the left."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
