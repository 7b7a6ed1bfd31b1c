"""Hooks of MkDocs that make the index of the search: every text is in it once, names of the
reference are whole, and signatures and the signs that link to headings are left out.
"""

import json
import re
from pathlib import Path

from mkdocs.plugins import CombinedEvent, event_priority

NOT_TEXT = re.compile(
    r'<a [^>]*class="headerlink".*?</a>|<div class="doc-signature.*?</div>'
    r'|<span class="doc doc-labels">.*?</small>\s*</span>|</?span[^>]*>|<wbr>'
    r"|<th>Name</th>\s*<th>Meaning</th>",
    re.DOTALL,
)

_shown = {}


@event_priority(100)
def _before_the_plugin(context, page, config, nav):
    _shown[page.file.src_uri] = page.content
    page.content = NOT_TEXT.sub("", page.content)
    return context


@event_priority(-100)
def _after_the_plugin(context, page, config, nav):
    page.content = _shown.pop(page.file.src_uri)
    return context


# The plugin indexes a page in this event, so it sees the text alone.
on_page_context = CombinedEvent(_before_the_plugin, _after_the_plugin)


@event_priority(-100)
def on_post_build(config):
    """Writes the index as a script, which pages can read from a folder as well as from a server."""
    plain = Path(config.site_dir) / "search" / "search_index.json"
    pages = list(_entries(json.loads(plain.read_text(encoding="utf-8"))["docs"]))
    plain.unlink()
    text = json.dumps(pages, separators=(",", ":"))
    plain.with_name("index.js").write_text(f"const pages = {text};\n", encoding="utf-8")


def _entries(docs):
    """The entries without the second copy of each text.

    The plugin makes an entry of a whole page and then one of each section, the part under the
    page's title first; that part becomes the page's entry.
    """
    page = None
    for entry in docs:
        location, _, anchor = entry["location"].partition("#")
        if not anchor:
            page = entry
        elif page is not None:
            yield {"location": location, "title": entry["title"], "text": entry["text"]}
            page = None
        else:
            name = anchor if anchor.startswith("gradcore.") else entry["title"]
            yield {**entry, "title": name}
