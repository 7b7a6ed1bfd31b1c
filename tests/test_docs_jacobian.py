"""The examples of docs/jacobian.md run as they stand, one after the other."""

import re
from pathlib import Path


def test_examples_run():
    page = (Path(__file__).parents[1] / "docs" / "jacobian.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(examples) == 3
    names = {}
    for code in examples:
        exec(compile(code, "docs/jacobian.md", "exec"), names)
