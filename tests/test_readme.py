"""The README's Python example runs as printed and does what it says."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from places import ROOT

README = ROOT / "README.md"


def test_example_runs_as_printed_and_learns() -> None:
    (source,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    assert len(source.splitlines()) <= 15
    names: dict[str, Any] = {}
    exec(compile(source, str(README), "exec"), names)
    assert np.isfinite(names["report"].grad_norm_log10)
    assert names["result"].loss < 1  # guessing: log(16) = 2.8


def test_commands_name_extras_that_exist() -> None:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    project = tomllib.loads((README.parent / "pyproject.toml").read_text())["project"]
    used = re.findall(r"pip install '\.\[([a-z,]+)\]'", README.read_text())
    assert len(used) == 3
    assert {name for extras in used for name in extras.split(",")} <= set(
        project["optional-dependencies"]
    )
