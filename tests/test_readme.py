"""The README's Python example runs as printed and prints what the README says."""

from __future__ import annotations

import re
import shutil
from typing import Any

import numpy as np
import pytest

from gradcore._net import compiler
from places import ROOT

README = ROOT / "README.md"


def test_example_runs_and_prints_what_the_readme_says(capsys: pytest.CaptureFixture[str]) -> None:
    (source, said) = re.findall(
        r"^```python\n(.*?)^```$.*?^```\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE
    )[0]
    assert len(source.splitlines()) <= 15
    exec(compile(source, str(README), "exec"), {})
    printed = capsys.readouterr().out
    number = re.compile(r"-?\d+\.\d+")
    assert number.sub("#", printed) == number.sub("#", said)
    # Other kernels round differently, which 40 updates amplify a little.
    np.testing.assert_allclose(
        [float(n) for n in number.findall(printed)],
        [float(n) for n in number.findall(said)],
        rtol=0,
        atol=0.05,
    )
    assert float(number.findall(printed)[-1]) > 0.95  # guessing: 1/16


def test_the_readme_has_a_new_cell_in_ten_lines() -> None:
    first, cell = re.findall(
        r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE
    )
    assert len([line for line in cell.splitlines() if line]) <= 10
    if not any(map(shutil.which, compiler.NAMES)):
        pytest.skip("needs a C++ compiler")
    names: dict[str, Any] = {}
    exec(compile(first.partition("for step")[0], str(README), "exec"), names)
    exec(compile(cell, str(README), "exec"), names)
    assert names["net"].layers[1].cell.gates == ("f", "n")
    result = names["result"]
    assert abs(result.loss - np.log(16)) < 0.1  # untrained: as good as guessing
    assert result.grads["1.weight_hh"].any()


def test_commands_name_extras_that_exist() -> None:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    project = tomllib.loads((README.parent / "pyproject.toml").read_text())["project"]
    used = re.findall(r"pip install '\.\[([a-z,]+)\]'", README.read_text())
    assert len(used) == 3
    assert {name for extras in used for name in extras.split(",")} <= set(
        project["optional-dependencies"]
    )
