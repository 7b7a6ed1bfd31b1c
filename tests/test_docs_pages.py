"""The examples of pages in docs/ run unchanged, and their pictures are told in words."""

import re

import pytest

from places import ROOT


# Keras converts its variables in a way that NumPy 2 warns of.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("page", "count"),
    [
        ("tutorial.md", 5),
        ("when_not.md", 1),
        ("howto/from_pytorch.md", 2),
        ("howto/from_jax.md", 1),
        ("howto/torch.md", 7),
        ("howto/keras.md", 3),
        ("howto/jax.md", 1),
        ("howto/memory.md", 2),
        ("howto/ragged.md", 2),
        ("howto/callbacks.md", 2),
        ("howto/export.md", 3),
        ("howto/frames.md", 2),
        ("howto/sklearn.md", 3),
        ("howto/minimize.md", 1),
        ("howto/losses.md", 3),
        ("howto/your_own_cell.md", 3),
        ("howto/cells/mgu.md", 2),
        ("howto/cells/min_gru.md", 2),
        ("howto/cells/indrnn.md", 2),
        ("howto/cells/slstm.md", 2),
        ("howto/cells/rate_network.md", 3),
        ("howto/cells/filter_bank.md", 2),
        ("howto/dense.md", 2),
        ("howto/static_inputs.md", 2),
        ("howto/one_label_per_sequence.md", 2),
        ("howto/causal_convolutions.md", 3),
        ("howto/front_end.md", 1),
        ("howto/remedies.md", 1),
        ("jacobian.md", 3),
        ("diagnose.md", 3),
        ("constraints.md", 4),
        ("clipping.md", 1),
        ("flow.md", 3),
        ("implicit.md", 4),
        ("von_neumann.md", 3),
    ],
)
def test_examples_run(page, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if page == "howto/keras.md":
        pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")
        monkeypatch.setenv("KERAS_BACKEND", "torch")
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        keras = pytest.importorskip("keras", reason="needs Keras 3: pip install keras")
        if keras.backend.backend() != "torch":
            pytest.skip("Keras was imported before with another backend")
    if page in ("howto/torch.md", "howto/your_own_cell.md"):
        pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")
    if page == "howto/jax.md":
        pytest.importorskip("jax.ffi", reason="needs JAX: install gradcore[jax]")
    if page == "howto/sklearn.md":
        pytest.importorskip("sklearn", reason="needs scikit-learn: install gradcore[sklearn]")
    text = (ROOT / "docs" / page).read_text()
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(examples) == count
    names = {}
    for code in examples:
        exec(compile(code, f"docs/{page}", "exec"), names)


def test_pictures_are_told_in_words():
    """A reader who does not see a picture hears its alt text: a sentence, or several words."""
    pictures = 0
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for told, target in re.findall(r"!\[([^]]*)\]\(([^)]*)\)", page.read_text()):
            pictures += 1
            assert len(re.findall(r"[A-Za-z]{2,}", told)) >= 6, f"{page.name}, {target}: {told!r}"
            assert told[0].isupper(), f"{page.name}, {target}: {told!r}"
            assert told.endswith("."), f"{page.name}, {target}: {told!r}"
            assert "\n" not in told, f"{page.name}, {target}: the site needs it on one line"
            assert not set(told) & set('"<>'), f"{page.name}, {target}: {told!r}"
    assert pictures > 15
