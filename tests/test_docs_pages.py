"""The examples of pages in docs/ run unchanged, one after the other, and the site is complete."""

import html
import inspect
import pkgutil
import re
import subprocess
import sys
from functools import reduce
from importlib import import_module
from urllib.parse import unquote, urlsplit

import pytest

import gradcore
from places import ROOT


@pytest.mark.parametrize(
    ("page", "count"),
    [
        ("tutorial.md", 5),
        ("howto/from_pytorch.md", 1),
        ("howto/from_jax.md", 1),
        ("howto/torch.md", 6),
        ("howto/memory.md", 2),
        ("howto/ragged.md", 2),
        ("howto/remedies.md", 1),
        ("jacobian.md", 3),
        ("diagnose.md", 3),
        ("constraints.md", 3),
        ("clipping.md", 1),
        ("flow.md", 3),
        ("implicit.md", 4),
        ("von_neumann.md", 3),
    ],
)
def test_examples_run(page, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if page == "howto/torch.md":
        pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")
    text = (ROOT / "docs" / page).read_text()
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(examples) == count
    names = {}
    for code in examples:
        exec(compile(code, f"docs/{page}", "exec"), names)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for name in ("mkdocs", "mkdocstrings", "pymdownx"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
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


def test_links_of_the_site_lead_somewhere_inside_it(site):
    pages = {page: page.read_text() for page in site.rglob("*.html")}
    assert len(pages) > 40
    for page, text in pages.items():
        for link in re.findall(r'(?:href|src|action)="([^"]+)"', text):
            url = urlsplit(html.unescape(link))
            if url.scheme == "data":
                continue
            assert not url.netloc, f"{page.name} asks another host: {link}"
            target = (page.parent / unquote(url.path)).resolve() if url.path else page
            assert target.is_file(), f"{page.name} links to {link}"
            if url.fragment:
                assert f'id="{unquote(url.fragment)}"' in pages[target], f"{page.name}: {link}"


def test_pages_have_no_scripts_but_the_search(site):
    for page in site.rglob("*.html"):
        assert ("<script" in page.read_text()) == (page.name == "search.html"), page
