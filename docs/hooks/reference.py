"""A griffe extension that prepares docstrings, which are plain text for a terminal, for the site.

Entries such as "lengths (B,): integers in 0..T." become the rows of a table if they are about
parameters or attributes of the object. Special characters are escaped, and line breaks kept where
another kind of entry begins. Names that a public module imports from gradcore are public.
"""

import re

import griffe

# Matches a line break in a docstring that the site must keep, because the next line begins an
# entry such as "kind "add": ..." of something that is no parameter.
LINE = re.compile(
    r"\n(?=Raises |Returns |References?:"
    r"|[a-z_]\w*(?:, \w+)*(?: \([^)]*\)| \[[^]]*\]| in [^:]{3,20})?: )"
)
# What may follow the name of a parameter before the colon: a shape with a dtype, the arguments of a
# function, a range, a value.
QUALIFIER = (
    r"(?: ?\([^)]*\)(?: \w+)?| \[[^\]]*\](?: \w+)?| in [\[(][^:]{3,20}| \"[^\"]*\"|=\"[^\"]*\")?"
)
# A paragraph has no entries from where one of these begins.
END = re.compile(r"(?:\A|(?<=[.;:)])\s+)(?=Raises |Returns |References?: )")


class Reference(griffe.Extension):
    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = prepared(obj.docstring.value, _names(obj))

    def on_alias(self, *, alias, **kwargs):
        if alias.target_path.startswith("gradcore."):
            alias.public = True


def _names(obj):
    """The names of parameters and attributes that entries of an object's docstring are about."""
    if obj.is_function:
        return {parameter.name.lstrip("*") for parameter in obj.parameters}
    if not obj.is_class:
        return set()
    names = {name for name in obj.all_members if not name.startswith("_")}
    for kind in (obj, *obj.mro()):
        if "__init__" in kind.members:
            names |= {parameter.name for parameter in kind.members["__init__"].parameters}
    return names - {"self"}


def prepared(text, names):
    """A docstring as Markdown. names: of what its tables have entries."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("    "):  # code
            paragraphs.append(paragraph)
            continue
        before, rows, after = _entries(paragraph, names)
        if before:
            paragraphs.append(LINE.sub("  \n", _escaped(before)))
        if rows:
            paragraphs.append("\n".join(["| Name | Meaning |", "|---|---|", *map(_row, rows)]))
        if after:
            paragraphs.append(LINE.sub("  \n", _escaped(after)))
    return "\n\n".join(paragraphs)


def _entries(paragraph, names):
    """What stands before the entries of a paragraph, the entries, and what stands after them.

    An entry is a pair: a list of names with their qualifiers, and its text.
    """
    paragraph, *after = END.split(paragraph, maxsplit=1)
    name = "(?:" + "|".join(sorted(map(re.escape, names), key=len, reverse=True)) + r")\b"
    item = name + QUALIFIER
    start = re.compile(rf"(?:\A|(?<=[.;:)])\s+|\n)({item}(?:(?:,| and) {item})*):\s+")
    starts = list(start.finditer(paragraph)) if names else []
    rows = []
    for number, found in enumerate(starts, start=1):
        end = starts[number].start() if number < len(starts) else len(paragraph)
        told = re.findall(rf"({name})({QUALIFIER})", found[1])
        rows.append((told, paragraph[found.end() : end].rstrip(";")))
    before = paragraph[: starts[0].start()] if starts else paragraph
    return before.strip(), rows, "".join(after)


def _row(entry):
    items, text = entry
    told = ", ".join(f"`{name}`{_escaped(qualifier)}" for name, qualifier in items)
    text = " ".join(text.split())
    # Entries of one sentence end with or without a full stop in docstrings.
    text = text if text.endswith((".", ")")) else f"{text}."
    cells = [cell.replace("|", "\\|") for cell in (told, _escaped(text))]
    return f"| {cells[0]} | {cells[1]} |"


def _escaped(text):
    """Text with its special characters escaped, except between backticks."""
    pieces = re.split(r"(`[^`]+`)", text)
    pieces[::2] = [
        re.sub(r"([*_[\\])", r"\\\1", piece.replace("<", "&lt;")) for piece in pieces[::2]
    ]
    return "".join(pieces)
