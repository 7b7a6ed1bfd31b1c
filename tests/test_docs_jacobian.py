"""The example of docs/jacobian.md runs as it stands."""

import re
from pathlib import Path


def test_example_runs():
    page = (Path(__file__).parents[1] / "docs" / "jacobian.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "docs/jacobian.md", "exec"), {})
