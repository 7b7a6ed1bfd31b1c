"""Makes names of files, columns and records harmless in terminals and pictures.

A name may hold escape sequences, which a terminal would obey, or dollar signs, which matplotlib
would read as TeX.
"""

from __future__ import annotations

import re

__all__ = ["literal", "plain"]

# Control characters but for tabs and line ends, marks that reorder text, and halves of surrogate
# pairs, which stand for the bytes of names that are not UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def plain(text: str) -> str:
    """The text with control characters as escapes, such as \\x1b; lines and tabs stay."""
    return _UNSAFE.sub(lambda found: _escape(found[0]), text)


def literal(text: str) -> str:
    """The text as matplotlib draws it letter by letter, in one line and without TeX."""
    return plain(text).replace("\n", " ").replace("\t", " ").replace("$", r"\$")


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
