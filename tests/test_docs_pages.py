"""The examples of pages in docs/ run as they stand, one after the other."""

import re
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("page", "count"),
    [
        ("jacobian.md", 3),
        ("diagnose.md", 3),
        ("constraints.md", 3),
        ("clipping.md", 1),
        ("flow.md", 3),
        ("implicit.md", 4),
        ("von_neumann.md", 3),
    ],
)
def test_examples_run(page, count):
    text = (Path(__file__).parents[1] / "docs" / page).read_text()
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(examples) == count
    names = {}
    for code in examples:
        exec(compile(code, f"docs/{page}", "exec"), names)
