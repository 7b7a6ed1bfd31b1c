"""How objects that are no dataclasses describe themselves."""

from __future__ import annotations

__all__ = ["Abbreviated", "described"]


def described(instance: object, **values: object) -> str:
    """Name(key=value, ...) of an instance; values of None are left out."""
    told = ", ".join(f"{key}={value!r}" for key, value in values.items() if value is not None)
    return f"{type(instance).__name__}({told})"


class Abbreviated:
    """Stands for a value that is described rather than shown."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<{self.text}>"
