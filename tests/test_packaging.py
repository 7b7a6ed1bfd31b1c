"""What packages say about themselves is what the project says: versions and requirements."""

import re
import sys

import pytest

from places import ROOT

HEADER = (ROOT / "csrc" / "include" / "gradcore" / "version.h").read_text()
VERSION = re.search(r'define GRADCORE_VERSION "([^"]+)"', HEADER)[1]
RECIPE = ROOT / ".ci" / "conda" / "recipe.yaml"


def project():
    tomllib = pytest.importorskip("tomllib", reason="comes with Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def recipe():
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    if not RECIPE.exists():
        pytest.skip("a source archive is without .ci")
    return yaml.safe_load(RECIPE.read_text())


def least(requirements):
    """The lowest version of each package; None where any will do."""
    parted = (re.fullmatch(r"([\w-]+) ?(?:>=([\d.]+))?", text) for text in requirements)
    return {match[1]: match[2] for match in parted}


def test_the_citation_has_the_version_and_the_license():
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == VERSION
    assert citation["license"] == project()["project"]["license"]
    assert {"cff-version", "title", "message", "authors"} <= set(citation)


def test_the_citation_is_valid():
    cff = pytest.importorskip("cffconvert", reason="needs cffconvert")
    cff.Citation((ROOT / "CITATION.cff").read_text()).validate()


def test_the_recipe_has_the_version_and_the_requirements():
    found, told = recipe(), project()
    assert found["context"]["version"] == VERSION
    assert found["about"]["summary"] == told["project"]["description"]
    assert found["about"]["license"] == told["project"]["license"]
    host = least(found["requirements"]["host"])
    assert host == least(told["build-system"]["requires"]) | {"python": None, "pip": None}
    extras = told["project"]["optional-dependencies"]
    run = least(found["requirements"]["run"])
    assert run == least(told["project"]["dependencies"] + extras["cli"]) | {"python": None}


def test_every_wheel_of_a_release_is_of_a_python_that_is_supported():
    told = project()
    oldest = re.fullmatch(r">=3\.(\d+)", told["project"]["requires-python"])[1]
    built = [int(name[2:-2]) for name in told["tool"]["cibuildwheel"]["build"]]
    assert built == list(range(int(f"3{oldest}"), built[-1] + 1))
    assert sys.version_info >= (3, int(oldest))
