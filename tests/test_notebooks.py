"""The notebooks run from top to bottom, find what their text says, and show pictures."""

import ast
import json
import re

import pytest

from places import ROOT

NOTEBOOKS = ROOT / "examples" / "notebooks"
# Packages that a notebook needs, and what must be true of its names at its end.
NEEDED = {
    "tutorial": (
        ["scipy"],
        lambda names: (
            names["accuracy"](names["params"]) < 0.6 and names["accuracy"](names["cured"]) > 0.95
        ),
    ),
    "code": ([], lambda names: names["score"] > names["rule_score"] + 0.05),
    "genomes": (
        [],
        lambda names: names["accuracy"] > 0.9 > names["majority"] and names["correlation"] > 0.8,
    ),
    "audio": (["scipy"], lambda names: names["esr"] < 0.04 < 0.15 < names["esr_curve"]),
    "sensors": (
        ["sklearn", "pandas"],
        lambda names: names["score"] > 0.9 and names["score_linear"] < 0.7,
    ),
    "stability": (
        [],
        lambda names: (
            names["largest"][0.8] < -0.1
            and names["largest"][1.8] > 0.05
            and all(
                abs(names["slope"][gain] * names["np"].log(10) - names["largest"][gain]) < 0.01
                for gain in names["GAINS"]
            )
        ),
    ),
    "optimisation": (
        [],
        lambda names: (
            names["final"]["global norm 1"] < 0.05
            and names["ends"]["rate 2, held at the stable rate"] < 0.15 < names["ends"]["rate 2"]
        ),
    ),
}


def cells(name):
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]


def test_every_notebook_is_run_here_and_listed():
    found = {path.stem for path in NOTEBOOKS.glob("*")}
    assert found == set(NEEDED)
    page = (ROOT / "docs" / "examples.md").read_text()
    assert set(re.findall(r"notebooks/(\w+)\.ipynb", page)) == found


@pytest.mark.parametrize("name", NEEDED)
def test_a_notebook_is_short_has_no_outputs_and_uses_public_names(name):
    content = cells(name)
    assert content[0]["source"][0].startswith("# ")
    assert [cell["cell_type"] for cell in content].count("code") in range(4, 9)
    for cell in content:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            assert not (isinstance(node, ast.Attribute) and node.attr.startswith("_"))
            if isinstance(node, ast.ImportFrom):
                assert "._" not in f".{node.module}"


@pytest.mark.parametrize("name", NEEDED)
def test_links_of_a_notebook_lead_to_files(name):
    for cell in cells(name):
        for target in re.findall(r"\]\(([^)#]+)", "".join(cell["source"])):
            assert cell["cell_type"] == "code" or (NOTEBOOKS / target).is_file(), target


@pytest.mark.parametrize("name", NEEDED)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    packages, holds = NEEDED[name]
    for package in ("matplotlib", *packages):
        pytest.importorskip(package)
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    pictures = []

    def show():
        for number in plt.get_fignums():
            axes = plt.figure(number).get_axes()
            pictures.append(all(axis.has_data() for axis in axes))
            plt.close(number)

    monkeypatch.setattr(plt, "show", show)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENOMES", raising=False)
    names = {}
    for cell in cells(name):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}, {cell['id']}", "exec"), names)
    assert len(pictures) >= 1
    assert all(pictures)
    assert holds(names)
    assert list(tmp_path.iterdir()) == []
