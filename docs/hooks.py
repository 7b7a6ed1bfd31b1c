"""What MkDocs is told beyond its settings: the first page is the README, decisions have a list,
links out of docs/ become plain text on the site; and how the reference reads docstrings.
"""

import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]

# Beginnings of lines that a docstring means as lines: "lengths (B,): ...", "p in [0, 1): ...".
LINE = re.compile(
    r"\n(?=Raises |Returns |References?:"
    r"|[a-z_]\w*(?:, \w+)*(?: \([^)]*\)| \[[^]]*\]| in [^:]{3,20})?: )"
)


def on_files(files, config):
    readme = (ROOT / "README.md").read_text()
    readme = re.sub(r"\[(docs/[^]]+)\]\(\1\)", _titled, readme)
    readme = re.sub(r"\]\(docs/([^)]+)\)", r"](\1)", readme)
    files.append(File.generated(config, "index.md", content=_inside(readme)))
    lines = ["# Decisions", "", "Choices that cost a measurement, and what was not chosen.", ""]
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        lines.append(f"* [{_title(path)}]({path.name})")
    content = "\n".join(lines) + "\n"
    files.append(File.generated(config, "decisions/index.md", content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    # A picture opens by itself, at its full size: on a narrow screen its letters are small.
    return re.sub(r"(!\[[^]]*\]\(([^)]+)\))", r"[\1](\2)", _inside(markdown))


def on_page_content(html, page, config, files):
    # Options and numbers stay in one piece; long names in tables may be broken where they are put
    # together.
    html = re.sub(r"<code>(-[^<]{1,24})</code>", r'<code class="whole">\1</code>', html)
    return re.sub(r"<td>.*?</td>", _cell, html)


def _cell(cell):
    numbers = re.sub(
        r"[-.e\d]+ \+- [-.e\d]+|\S*\de-\d+", r'<span class="whole">\g<0></span>', cell[0]
    )
    return re.sub(r"<code>[^<]+", lambda code: re.sub(r"([/._(=]+)", r"\1<wbr>", code[0]), numbers)


def _inside(text):
    """Links to files that are not on the site, as their text."""
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)*(?:examples|LICENSE)[^)]*\)", r"`\1`", text)


def _title(path):
    return path.read_text().splitlines()[0].removeprefix("# ")


def _titled(match):
    """A link that shows the page's title where the README shows its file."""
    return f"[{_title(ROOT / match[1])}]({match[1]})"


class Reference(griffe.Extension):
    """Docstrings are plain text, to be read in a terminal: on the site they keep their characters
    and their lines. What a public module imports from gradcore is what it exports.
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
