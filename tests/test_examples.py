"""The examples run on public names only, are short, and print what they are about."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = {
    "lorenz.py": (["--updates", "40", "--steps", "300"], r"exponent of the net: -?\d+\.\d+ \+-")
}


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SHORT)


@pytest.mark.parametrize("name", SHORT)
def test_an_example_is_short_and_runs(name):
    pytest.importorskip("scipy", reason="simulates: install gradcore[diagnose]")
    text = (EXAMPLES / name).read_text()
    assert len(text.splitlines()) <= 80
    for node in ast.walk(ast.parse(text)):
        assert not (isinstance(node, ast.Attribute) and node.attr.startswith("_"))
        if isinstance(node, ast.ImportFrom):
            assert "._" not in f".{node.module}"
    options, printed = SHORT[name]
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *options], capture_output=True, text=True, check=True
    )
    assert re.search(printed, done.stdout)
