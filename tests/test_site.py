"""The site is complete, its links lead somewhere, and its search finds what it should."""

import html
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import reduce
from importlib import import_module
from urllib.parse import unquote, urlsplit

import pytest

import gradcore
from places import ROOT

# What git says of a clone; MkDocs makes its link to the repository of this.
ORIGIN = {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "remote.origin.url",
    "GIT_CONFIG_VALUE_0": "git@example.org:someone/gradcore.git",
}
REPOSITORY = "https://example.org/someone/gradcore"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for name in ("mkdocs", "mkdocstrings", "pymdownx"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | ORIGIN, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


def public_modules(package):
    """The package and every module in it without an underscore, except applications."""
    yield package
    for found in pkgutil.iter_modules(package.__path__):
        if not found.name.startswith("_") and found.name != "apps":
            module = import_module(f"{package.__name__}.{found.name}")
            if found.ispkg:
                yield from public_modules(module)
            else:
                yield module


def public_objects():
    """Maps names to objects that gradcore and its public modules define or re-export."""
    for module in public_modules(gradcore):
        for name, value in vars(module).items():
            own = getattr(value, "__module__", "").startswith("gradcore")
            if own and not name.startswith("_") and not inspect.ismodule(value):
                yield f"{module.__name__}.{name}", value


def test_the_reference_has_every_public_name(site):
    pytest.importorskip("gradcore.torch", reason="needs PyTorch", exc_type=ImportError)
    pytest.importorskip("gradcore.sklearn", reason="needs scikit-learn", exc_type=ImportError)
    told = set()
    for page in (site / "reference").glob("*.html"):
        for path in re.findall(r'id="gradcore\.([\w.]+)"', page.read_text()):
            told.add(id(reduce(getattr, path.split("."), gradcore)))
    objects = dict(public_objects())
    assert len(objects) > 150
    documented = {n: o for n, o in objects.items() if inspect.isclass(o) or inspect.isfunction(o)}
    assert [name for name, value in documented.items() if id(value) not in told] == []


def test_classes_in_the_reference_show_how_they_are_made(site):
    page = (site / "reference" / "nets.html").read_text()
    section = page[page.index('id="gradcore.LSTM"') : page.index('id="gradcore.GRU"')]
    for option in ("hidden_size", "zoneout_cell"):
        assert f'<span class="n">{option}</span>' in section
    assert "f*c + i*g" in html.unescape(section), "a docstring lost its characters to Markdown"


def test_parameters_are_tables(site):
    page = (site / "reference" / "nets.html").read_text()
    section = page[page.index('id="gradcore.value_and_grad"') :]
    section = section[: section.index('id="gradcore.GradientResult"')]
    rows = re.findall(r"<tr>\s*<td>(.*?)</td>\s*<td>(.*?)</td>\s*</tr>", section, re.DOTALL)
    told = {re.sub(r"<[^>]+>", "", name): re.sub(r"<[^>]+>", "", text) for name, text in rows}
    given = inspect.signature(gradcore.value_and_grad).parameters
    # The types of net and params say what they are; the words about seed are those about train.
    assert set(told) == set(given) - {"net", "params", "seed"}
    assert "depend on seed alone" in told["train"]
    assert told["lengths"].startswith("(B,) integers in 0..T; from step")
    assert told["progress"] == "a function that is called as progress(done, total) at intervals."


@pytest.mark.parametrize(
    ("paragraph", "rows"),
    [
        ("x: first. y: second", ["`x` | first.", "`y` | second."]),
        ("Text before. x, y: both; z: one", ["`x`, `y` | both.", "`z` | one."]),
        ("x (T, B): a. y [n]: b. z in [0, 1): c", ["`x` (T, B)", "`y` \\[n]", "`z` in \\[0, 1)"]),
        (
            'x "add": one way. x="mix": the other',
            ['`x` "add" | one way.', '`x`="mix" | the other.'],
        ),
        ("x: |a| <= 1. Raises ArgumentError if y: no.", ["`x` | \\|a\\| &lt;= 1."]),
        ("x: a. Reference: somebody 1999. y: no", ["`x` | a."]),
        ("other: no parameter. It is about x: nothing", []),
        ("    x: code", []),
    ],
)
def test_entries_of_docstrings_become_rows(paragraph, rows):
    pytest.importorskip("griffe", reason="needs griffe, which mkdocstrings brings")
    text = hook("reference").prepared(f"What it is.\n\n{paragraph}", {"x", "y", "z"})
    made = [line.strip("| ") for line in text.splitlines() if line.startswith("| `")]
    assert len(made) == len(rows)
    assert [row for row, begin in zip(made, rows, strict=True) if not row.startswith(begin)] == []
    if "Raises" in paragraph:
        assert text.endswith("\n\nRaises ArgumentError if y: no.")
    if not rows:
        assert text == f"What it is.\n\n{paragraph}"


def test_code_in_tables_has_no_backslash_before_a_bar(site):
    page = (site / "command_line.html").read_text()
    assert "<code>| head</code>" in page, "the instance: Nobody reads the output any more"
    for page in site.rglob("*.html"):
        cells = re.findall(r"<td>.*?</td>", page.read_text(), re.DOTALL)
        assert [cell for cell in cells if r"\|" in cell] == [], page


def test_pictures_tell_what_they_show_and_keep_their_size(site):
    pictures = 0
    for page in site.rglob("*.html"):
        for picture in re.findall(r"<img [^>]*>", page.read_text()):
            pictures += 1
            assert len(re.search(r'alt="([^"]*)"', picture)[1]) > 0, f"{page}: {picture}"
            assert re.search(r'width="\d{3,4}" height="\d{3,4}"', picture), f"{page}: {picture}"
    assert pictures > 15
    style = (site / "site.css").read_text()
    assert re.search(r"@media \(prefers-color-scheme: dark\) \{\s*main img \{\s*filter", style)


def test_markdown_takes_no_pattern_for_emphasis(site):
    """Emphasis is on words; a name with a dot or underscore inside lost its asterisks."""
    emphasised = 0
    for page in site.rglob("*.html"):
        for text in re.findall(r"<em>(.*?)</em>", page.read_text(), re.DOTALL):
            emphasised += 1
            assert re.fullmatch(r"\w[\w .,-]*", text), f"{page.name}: {text!r}"
            assert "_" not in text, f"{page.name}: {text!r}"
    assert emphasised > 10


def test_buttons_do_not_cover_code_where_nothing_hovers(site):
    style = (site / "site.css").read_text()
    touch = re.search(r"@media \(hover: none\) \{(.*?\})\s*\}", style, re.DOTALL)[1]
    assert re.search(r":has\(> \.copy\) > pre \{\s*padding-top: 2\.\drem", touch)


def test_links_of_the_site_lead_somewhere_inside_it(site):
    pages = {page: page.read_text() for page in site.rglob("*.html")}
    assert len(pages) > 40
    for page, text in pages.items():
        for link in re.findall(r'(?:href|src|action)="([^"]+)"', text):
            url = urlsplit(html.unescape(link))
            if url.scheme == "data" or link == REPOSITORY:
                continue
            assert not url.netloc, f"{page.name} asks another host: {link}"
            target = (page.parent / unquote(url.path)).resolve() if url.path else page
            assert target.is_file(), f"{page.name} links to {link}"
            if url.fragment:
                assert f'id="{unquote(url.fragment)}"' in pages[target], f"{page.name}: {link}"


def test_pages_load_their_own_scripts_alone(site):
    for page in site.rglob("*.html"):
        scripts = re.findall(r"<script[^>]*src=\"[./]*([^\"]+)\"", page.read_text())
        more = ["search/index.js", "search.js"] if page.name == "search.html" else []
        assert scripts == ["site.js", *more], page
        assert page.read_text().count("<script") == len(scripts), "a script inside a page"


def test_every_page_tells_the_version_and_the_repository(site):
    header = (ROOT / "csrc" / "include" / "gradcore" / "version.h").read_text()
    version = re.search(r'GRADCORE_VERSION "(.+)"', header)[1]
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert f'<span class="version">{version}</span>' in text, page
        assert f'href="{REPOSITORY}"' in text, page


@pytest.mark.parametrize(
    ("origin", "page"),
    [
        ("git@example.org:a/b.git", "https://example.org/a/b"),
        ("ssh://git@example.org:22/a/b.git", "https://example.org/a/b"),
        ("https://someone:secret@example.org/a/b.git", "https://example.org/a/b"),
        ("https://example.org/a/b/", "https://example.org/a/b"),
        ("/home/someone/b", None),
        ("../b", None),
        ("file:///home/someone/b", None),
        ("", None),
    ],
)
def test_a_remote_has_a_page_or_none(origin, page):
    assert hook("repository").page_of(origin) == page


def hook(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- the search


@pytest.fixture(scope="module")
def index(site):
    text = (site / "search" / "index.js").read_text()
    return json.loads(text.removeprefix("const pages = ").rstrip().removesuffix(";"))


def test_the_search_has_each_text_once_and_each_name_of_the_reference_whole(index):
    assert max(Counter(entry["location"] for entry in index).values()) == 1
    texts = Counter(entry["text"] for entry in index if len(entry["text"]) > 80)
    assert [text for text, times in texts.items() if times > 1] == []
    longest = {}
    for entry in index:
        page = entry["location"].partition("#")[0]
        longest[page] = max(longest.get(page, ""), entry["text"], key=len)
    for entry in index:
        page, _, anchor = entry["location"].partition("#")
        if not anchor and longest[page] is not entry["text"]:
            assert longest[page] not in entry["text"], f"{page} has its sections twice"
    names = Counter(e["title"] for e in index if "#gradcore." in e["location"])
    assert len(names) > 200
    assert set(names.values()) == {1}
    assert all(e["location"].endswith(f"#{e['title']}") for e in index if e["title"] in names)


def test_the_search_has_text_alone(index):
    # Neither the sign that links to a heading nor the signature, which stands before its words.
    assert [entry for entry in index if "¶" in entry["title"] + entry["text"]] == []
    (found,) = (entry for entry in index if entry["title"] == "gradcore.value_and_grad")
    assert found["text"].startswith("The loss and its exact gradient")


def test_the_search_page_finds_names_first(site, index, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node, which runs the script of the search page")
    names = [entry["title"] for entry in index if "#gradcore." in entry["location"]]
    queries = [*names, *(name.rpartition(".")[2] for name in names), "horizon.reach", "trunc", "(["]
    script = tmp_path / "ask.js"
    script.write_text(
        (site / "search" / "index.js").read_text()
        + (site / "search.js").read_text()
        + f"const found = {json.dumps(queries)}.map((q) => search(pages, q)[0]?.entry.title);"
        + "console.log(JSON.stringify(found));"
    )
    done = subprocess.run([node, script], capture_output=True, text=True, check=True)
    first = json.loads(done.stdout)
    for query, title in zip(queries[:-3], first, strict=False):
        assert title.rpartition(".")[2] == query.rpartition(".")[2], query
    assert first[-3] == "gradcore.horizon.reach"
    assert "runc" in first[-2]
