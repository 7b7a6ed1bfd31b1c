"""Hooks of MkDocs that make pages: the README is the first page, the decisions are listed, links
that leave docs/ become plain text, and pictures, numbers and long names fit narrow screens.
"""

import re
import struct
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
VERSION = re.compile(r'GRADCORE_VERSION "([^"]+)"')

# A picture of more pixels than this has panels side by side. On a narrow screen it keeps a width
# at which its letters can be read, and is scrolled.
WIDE = 900


def on_config(config):
    header = ROOT / "csrc" / "include" / "gradcore" / "version.h"
    config.extra["version"] = VERSION.search(header.read_text())[1]
    return config


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
    # Each picture links to its file, to be opened at full size.
    return re.sub(r"(!\[[^]]*\]\(([^)]+)\))", r"[\1](\2)", _inside(markdown))


def on_page_content(html, page, config, files):
    def sized(picture):
        width, height = _size((ROOT / "docs" / page.file.src_uri).parent / picture[1])
        wide = ' class="wide"' if width > WIDE else ""
        return f'{picture[0]} width="{width}" height="{height}"{wide}'

    # The reference names a base class only if the reader can go to it.
    html = re.sub(
        r'<p class="doc doc-class-bases">(?:(?!</p>|<a ).)*</p>', "", html, flags=re.DOTALL
    )
    html = re.sub(r'<img alt="[^"]*" src="([^"]+)"', sized, html)
    # Options and numbers are not broken at the end of a line; long names in tables may be broken
    # after a dot, slash, underscore, bracket or equals sign.
    html = re.sub(r"<code>(-[^<]{1,24})</code>", r'<code class="whole">\1</code>', html)
    return re.sub(r"<td>.*?</td>", _cell, html, flags=re.DOTALL)


def _size(path):
    """Width and height of a PNG file, as its first chunk tells them."""
    head = path.read_bytes()[:24]
    if head[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"{path} is no PNG file; the site shows no other pictures.")
    return struct.unpack(">II", head[16:24])


def _cell(cell):
    numbers = re.sub(
        r"[-.e\d]+ \+- [-.e\d]+|\S*\de-\d+", r'<span class="whole">\g<0></span>', cell[0]
    )
    # GitHub needs a backslash before | in the code of a table, which Python-Markdown would show.
    return re.sub(
        r"<code>[^<]+",
        lambda code: re.sub(r"([/._(=]+)", r"\1<wbr>", code[0].replace(r"\|", "|")),
        numbers,
    )


def _inside(text):
    """Replaces links to files that are not on the site by their text."""
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)*(?:examples|LICENSE)[^)]*\)", r"`\1`", text)


def _title(path):
    return path.read_text().splitlines()[0].removeprefix("# ")


def _titled(match):
    """Returns a link that shows the page's title where the README shows the name of its file."""
    return f"[{_title(ROOT / match[1])}]({match[1]})"
