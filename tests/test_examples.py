"""The examples use public names only, are short, and print their main result."""

import ast
import re
import shutil
import subprocess
import sys

import pytest

from places import ROOT

EXAMPLES = ROOT / "examples"
DATA = EXAMPLES.parents[1] / "shared" / "data"
# Options for a short run, the text that is printed, and the data that it needs.
SHORT = {
    "lorenz.py": (
        ["--updates", "40", "--steps", "300"],
        r"exponent of the net: -?\d+\.\d+ \+-",
        None,
    ),
    "optuna_search.py": (
        ["--trials", "8", "--updates", "80", "--steps", "40"],
        r"[1-7] of 8 trials were pruned; the best net is right on (1\.0|0\.9)",
        None,
    ),
    "diode_clipper.py": (
        ["--epochs", "1", "--data", "few"],
        r"ESR of the best curve without memory: 0\.\d+\nESR of the net: \d+\.\d+",
        DATA / "speech",
    ),
    "atrial_fibrillation.py": (
        ["--epochs", "1", "--data", DATA / "ecg2017.tar.gz"],
        r"accuracy 0\.\d+, mean F1 of N, A, O [01]\.\d+",
        DATA / "ecg2017.tar.gz",
    ),
}


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SHORT)


@pytest.mark.parametrize("name", SHORT)
def test_an_example_is_short_and_runs(name, tmp_path):
    pytest.importorskip("scipy", reason="simulates: install gradcore[diagnose]")
    if name == "optuna_search.py":
        pytest.importorskip("optuna", reason="searches: install optuna")
    text = (EXAMPLES / name).read_text()
    assert len(text.splitlines()) <= 80
    for node in ast.walk(ast.parse(text)):
        assert not (isinstance(node, ast.Attribute) and node.attr.startswith("_"))
        if isinstance(node, ast.ImportFrom):
            assert "._" not in f".{node.module}"
    options, printed, data = SHORT[name]
    if data is not None and not data.exists():
        pytest.skip(f"the data of ../shared/data are not here: {data.name}")
    (tmp_path / "few").mkdir()
    for path in (DATA / "speech").glob("[0-3]_[jt]*_0.wav"):
        shutil.copy(path, tmp_path / "few")
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *options],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert re.search(printed, done.stdout)
