"""The examples of pages in docs/ run unchanged, one after the other."""

import re

import pytest

from places import ROOT


@pytest.mark.parametrize(
    ("page", "count"),
    [
        ("tutorial.md", 5),
        ("when_not.md", 1),
        ("howto/from_pytorch.md", 2),
        ("howto/from_jax.md", 1),
        ("howto/torch.md", 6),
        ("howto/memory.md", 2),
        ("howto/ragged.md", 2),
        ("howto/callbacks.md", 2),
        ("howto/export.md", 3),
        ("howto/frames.md", 2),
        ("howto/minimize.md", 1),
        ("howto/remedies.md", 1),
        ("jacobian.md", 3),
        ("diagnose.md", 3),
        ("constraints.md", 3),
        ("clipping.md", 1),
        ("flow.md", 3),
        ("implicit.md", 4),
        ("von_neumann.md", 3),
    ],
)
def test_examples_run(page, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if page == "howto/torch.md":
        pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")
    text = (ROOT / "docs" / page).read_text()
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(examples) == count
    names = {}
    for code in examples:
        exec(compile(code, f"docs/{page}", "exec"), names)
