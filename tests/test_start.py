"""Starting is fast: what is not needed is not imported. Names are there all the same."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

import gradcore as gd
from imports import HEAVY, imported
from places import ROOT


@pytest.mark.parametrize(
    ("code", "more"),
    [
        ("import gradcore", {"typer", "gradcore._core"}),
        ("import gradcore; gradcore.__version__", {"typer"}),
    ],
)
def test_what_is_not_needed_is_not_imported(code, more):
    found = imported(code)
    assert "gradcore" in found
    assert found & (HEAVY | more) == set()


@pytest.mark.parametrize("used", ["Stack", "value_and_grad", "optim", "Trainer", "diagnose"])
def test_training_needs_numpy_and_nothing_else_that_is_large(used):
    found = imported(f"import gradcore as gd; gd.{used}")
    assert "numpy" in found
    assert found & (HEAVY - {"numpy", "safetensors"} | {"typer"}) == set()


def test_type_checkers_see_the_names_that_are_there():
    """The imports for type checkers and the table for Python name the same things."""
    pytest.importorskip("torch", reason="from_torch and to_torch need PyTorch")
    path = Path(gd.__file__)
    (block,) = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.If))
    checked = {}
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.name == alias.asname
                checked[alias.name] = node.module
    modules = {name for name, home in checked.items() if home is None}
    assert modules == set(gd._MODULES)
    assert {name: home for name, home in checked.items() if home} == gd._HOMES
    for name, home in checked.items():
        found = import_module(f"gradcore.{home or name}")
        assert getattr(gd, name) is (getattr(found, name) if home else found)


def test_dir_lists_what_is_there_and_nothing_else():
    pytest.importorskip("torch", reason="from_torch and to_torch need PyTorch")
    public = [name for name in dir(gd) if not name.startswith("_")]
    assert set(public) >= {"LSTM", "optim", "diagnose", "ArgumentError", "AntisymmetricRNN"}
    assert {"Any", "annotations", "import_module"} & set(public) == set()
    for name in dir(gd):
        assert hasattr(gd, name)
    assert gd.__version__ == gd.info.VERSION
    assert gd._core.version() in (ROOT / "csrc/include/gradcore/version.h").read_text()


@pytest.mark.parametrize("name", ["nothing", "_nothing", "__path_of_nothing__"])
def test_a_name_that_is_not_there_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=f"module 'gradcore' has no attribute '{name}'"):
        getattr(gd, name)
