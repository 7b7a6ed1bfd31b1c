"""The core and the reference agree with files that PyTorch wrote, for machines without PyTorch."""

import importlib.util
import json

import numpy as np
import pytest

import tolerances
from golden_cases import CASES, read
from gradcore import _core
from places import ROOT
from problem import assert_agree, by_core, by_reference, isa

FOLDER = ROOT / "tests" / "golden"


def load(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    return json.loads(str(arrays.pop("case"))), arrays


def test_every_case_has_a_file():
    assert {path.stem for path in FOLDER.glob("*.npz")} == set(CASES)
    for name, case in CASES.items():
        assert load(name)[0] == case


def test_files_are_small():
    assert sum(path.stat().st_size for path in FOLDER.glob("*.npz")) < 300_000


@pytest.mark.parametrize("name", CASES)
def test_reference(name):
    problem, solution = read(*load(name))
    assert_agree(by_reference(problem), solution, tolerances.DOUBLE)


@pytest.mark.parametrize("level", _core.isa_available())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_core(name, dtype, level):
    problem, solution = read(*load(name))
    tolerance = tolerances.SINGLE if dtype == "float32" else tolerances.DOUBLE
    with isa(level):
        assert_agree(by_core(problem, dtype), solution, tolerance)


@pytest.mark.parametrize("name", CASES)
def test_files_are_what_the_script_writes(name):
    pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")
    spec = importlib.util.spec_from_file_location("make_golden", FOLDER / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    _, arrays = load(name)
    again = make.contents(name)
    assert set(again) - {"case"} == set(arrays)
    for key, array in arrays.items():
        np.testing.assert_allclose(array, again[key], rtol=1e-12, atol=1e-15, err_msg=key)
