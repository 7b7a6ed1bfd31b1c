"""The example of docs/training.md runs as printed, learns, and returns at once when it is run
again.
"""

from __future__ import annotations

import re
from typing import Any

from places import ROOT

PAGE = ROOT / "docs" / "training.md"


def run() -> dict[str, Any]:
    (source,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(compile(source, str(PAGE), "exec"), names)
    return names


def test_example_runs_as_printed_and_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = run()
    report = first["report"]
    assert report.stopped in ("epochs", "patience")
    assert report.best < 0.5  # guessing: 1
    assert first["best"].metadata["score"] == report.best
    second = run()
    assert second["report"].losses == ()
    assert second["report"].best == report.best
    assert second["params"] == first["params"]
