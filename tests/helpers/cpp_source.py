"""Classes and functions of C and C++ sources, found by their braces.

Enough for counting in sources that clang-format has laid out; no substitute for a parser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_CLASS = re.compile(r"\b(?:class|struct|union)\s+(?:alignas\s*\([^)]*\)\s*)?(\w+)[^;()]*$")
_CONTROL = re.compile(r"^(?:else\s+)?(?:if|for|while|switch|catch|do|else|try)\b")
_FUNCTION = re.compile(r"([~\w]+(?:\s*[^\w\s(]{1,3})?)\s*\(")
_INITIALISER = re.compile(r"\)\s*(?:noexcept\s*)?:\s[^;]*\w\s*$")
_NO_MEMBER = re.compile(r"^(?:friend|using|typedef|static_assert|template\s*<[^>]*>\s*friend)\b")
_LABEL = re.compile(r"\b(?:public|private|protected)\s*:")


@dataclass
class Class:
    """methods, fields: names of the members that its own body declares."""

    name: str
    methods: list[str] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)

    @property
    def members(self) -> int:
        return len(self.methods) + len(self.fields)


@dataclass(frozen=True)
class Function:
    """lines: from the line of the opening brace's header to that of the closing brace."""

    name: str
    lines: int


def plain(text: str) -> str:
    """The source with comments, literals and directives blanked, every line where it was."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match.group())

    text = re.sub(r"//[^\n]*|/\*.*?\*/", blank, text, flags=re.DOTALL)
    text = re.sub(r'"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])*\'', blank, text)
    text = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", blank, text, flags=re.MULTILINE)
    # Macros that stand for whole definitions.
    return re.sub(r"^[A-Z][A-Z0-9_]*\([^()\n]*\)[ \t]*$", blank, text, flags=re.MULTILINE)


def _without(text: str, opening: str, closing: str) -> str:
    """Without what lies between brackets, and the brackets."""
    depth, kept = 0, []
    for c in text:
        if c == opening:
            depth += 1
        elif c == closing and depth:
            depth -= 1
        elif not depth:
            kept.append(c)
    return "".join(kept)


def _without_template(header: str) -> str:
    header = header.strip()
    while match := re.match(r"template\s*<", header):
        depth, at = 0, match.end() - 1
        for at in range(match.end() - 1, len(header)):
            depth += {"<": 1, ">": -1}.get(header[at], 0)
            if depth == 0:
                break
        header = header[at + 1 :].strip()
    return header


def _function_name(header: str) -> str | None:
    """Of the text before an opening brace; None where that opens something else."""
    header = _without_template(header)
    if not header or _CONTROL.match(header) or header.endswith(("=", ",", "(", "return")):
        return None
    if re.search(r"\]\s*(?:\([^()]*\))?[^()]*$", header) and "operator" not in header:
        return None  # a lambda
    match = _FUNCTION.search(header)
    return match.group(1).strip() if match else None


def _declare(into: Class, statement: str) -> None:
    """A declaration that ends with a semicolon, in the body of a class."""
    statement = _without_template(_LABEL.sub(" ", statement))
    if not statement or _NO_MEMBER.match(statement):
        return
    if re.match(r"(?:class|struct|enum|union)\b[^=({]*$", statement):
        return
    head = statement.split("=")[0] if "operator" not in statement else statement
    flat = _without(head, "<", ">")
    if "(" in flat and "(*" not in flat[flat.index("(") :][:2]:
        match = _FUNCTION.search(flat)
        into.methods.append(match.group(1) if match else flat)
        return
    if pointer := re.search(r"\(\*\s*(\w+)", flat):
        into.fields.append(pointer.group(1))
        return
    for piece in _without(_without(_without(statement, "<", ">"), "(", ")"), "{", "}").split(","):
        names = re.findall(r"[A-Za-z_]\w*", piece.split("=")[0])
        into.fields.append(names[-1] if names else piece.strip())


def read(text: str) -> tuple[list[Class], list[Function]]:
    """The classes and the functions with a body, in the order in which they end."""
    text = plain(text)
    classes: list[Class] = []
    functions: list[Function] = []
    stack: list[Class | Function | None] = []
    begun = 0  # where the statement at hand begins
    for match in re.finditer(r"[{};]", text):
        at, mark = match.start(), match.group()
        inside = stack[-1] if stack else None
        statement = text[begun:at]
        if mark == ";":
            if statement.count("(") != statement.count(")"):
                continue  # in the header of a loop
            if isinstance(inside, Class):
                _declare(inside, statement)
        elif mark == "{":
            header = _LABEL.sub(" ", statement)
            plain_header = _without(_without_template(header), "<", ">")
            named = None if "enum " in plain_header else _CLASS.search(plain_header)
            if _INITIALISER.search(header):
                continue  # of a member, in front of a constructor's body
            name = None if named else _function_name(header)
            line = text.count("\n", 0, begun + len(statement) - len(statement.lstrip())) + 1
            if named:
                stack.append(Class(named.group(1)))
            elif name and not any(isinstance(outer, Function) for outer in stack):
                if isinstance(inside, Class):
                    inside.methods.append(name)
                stack.append(Function(name, line))
            else:
                if isinstance(inside, Class) and not re.search(r"\b(?:enum|extern)\b", header):
                    continue  # a field's initialiser: its statement goes on
                stack.append(None)
        elif stack:
            if statement.count("{") > statement.count("}"):
                continue  # an initialiser ends inside its statement
            ended = stack.pop()
            if isinstance(ended, Class):
                classes.append(ended)
            elif isinstance(ended, Function):
                last = text.count("\n", 0, at) + 1
                functions.append(Function(ended.name, last - ended.lines + 1))
        begun = at + 1
    assert not stack, "braces do not match"
    return classes, functions
