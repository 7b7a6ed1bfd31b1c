"""What MkDocs is told beyond its settings: the first page is the README, decisions have a list, and
links out of docs/ become plain text on the site.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]


def on_files(files, config):
    readme = (ROOT / "README.md").read_text()
    readme = re.sub(r"\]\(docs/([^)]+)\)", r"](\1)", readme)
    files.append(File.generated(config, "index.md", content=_inside(readme)))
    lines = ["# Decisions", "", "Choices that cost a measurement, and what was not chosen.", ""]
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        title = path.read_text().splitlines()[0].removeprefix("# ")
        lines.append(f"* [{title}]({path.name})")
    content = "\n".join(lines) + "\n"
    files.append(File.generated(config, "decisions/index.md", content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    return _inside(markdown)


def _inside(text):
    """Links to files that are not on the site, as their text."""
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)*(?:examples|LICENSE)[^)]*\)", r"`\1`", text)
