"""Helpers for the repr of classes that are not dataclasses."""

from __future__ import annotations

__all__ = ["Abbreviated", "described"]


def described(instance: object, **values: object) -> str:
    """The text "Class(key=value, ...)" for an instance; values of None are left out."""
    told = ", ".join(f"{key}={value!r}" for key, value in values.items() if value is not None)
    return f"{type(instance).__name__}({told})"


class Abbreviated:
    """A value whose repr is <text>, for values that are too long to show."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<{self.text}>"
