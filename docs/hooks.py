"""Hooks of MkDocs: they make the README the first page, list the decisions, turn links that leave
docs/ into plain text, and prepare docstrings for the reference.
"""

import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]

# Matches a line break in a docstring that the site must keep, because the next line begins an
# entry such as "lengths (B,): ..." or "p in [0, 1): ...".
LINE = re.compile(
    r"\n(?=Raises |Returns |References?:"
    r"|[a-z_]\w*(?:, \w+)*(?: \([^)]*\)| \[[^]]*\]| in [^:]{3,20})?: )"
)


def on_files(files, config):
    readme = (ROOT / "README.md").read_text()
    readme = re.sub(r"\[(docs/[^]]+)\]\(\1\)", _titled, readme)
    readme = re.sub(r"\]\(docs/([^)]+)\)", r"](\1)", readme)
    files.append(File.generated(config, "index.md", content=_inside(readme)))
    lines = [
        "# Decisions",
        "",
        "Each page has a choice, the measurement behind it, and the options that were not chosen.",
        "",
    ]
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        lines.append(f"* [{_title(path)}]({path.name})")
    content = "\n".join(lines) + "\n"
    files.append(File.generated(config, "decisions/index.md", content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    # Each picture links to its file, to be opened at full size: on a narrow screen its letters are
    # too small to read.
    return re.sub(r"(!\[[^]]*\]\(([^)]+)\))", r"[\1](\2)", _inside(markdown))


def on_page_content(html, page, config, files):
    # Options and numbers are not broken at the end of a line; long names in tables may be broken
    # after a dot, slash, underscore, bracket or equals sign.
    html = re.sub(r"<code>(-[^<]{1,24})</code>", r'<code class="whole">\1</code>', html)
    return re.sub(r"<td>.*?</td>", _cell, html)


def _cell(cell):
    numbers = re.sub(
        r"[-.e\d]+ \+- [-.e\d]+|\S*\de-\d+", r'<span class="whole">\g<0></span>', cell[0]
    )
    return re.sub(r"<code>[^<]+", lambda code: re.sub(r"([/._(=]+)", r"\1<wbr>", code[0]), numbers)


def _inside(text):
    """Replaces links to files that are not on the site by their text."""
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)*(?:examples|LICENSE)[^)]*\)", r"`\1`", text)


def _title(path):
    return path.read_text().splitlines()[0].removeprefix("# ")


def _titled(match):
    """Returns a link that shows the page's title where the README shows the name of its file."""
    return f"[{_title(ROOT / match[1])}]({match[1]})"


class Reference(griffe.Extension):
    """Prepares docstrings, which are plain text for a terminal, for the site: special characters
    are escaped and line breaks kept. Names that a public module imports from gradcore are public.
    """

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = _plain(obj.docstring.value)

    def on_alias(self, *, alias, **kwargs):
        if alias.target_path.startswith("gradcore."):
            alias.public = True


def _plain(text):
    paragraphs = []
    for paragraph in text.split("\n\n"):
        if not paragraph.startswith("    "):  # else code
            pieces = re.split(r"(`[^`]+`)", paragraph)
            pieces[::2] = [
                re.sub(r"([*_[\\])", r"\\\1", piece.replace("<", "&lt;")) for piece in pieces[::2]
            ]
            paragraph = LINE.sub("  \n", "".join(pieces))
        paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)
