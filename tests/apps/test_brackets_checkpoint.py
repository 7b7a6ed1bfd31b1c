"""The net that comes with gradcore is small, found by default, and right on files it was not
trained on.
"""

from __future__ import annotations

import pytest

pytest.importorskip("pygments")

from gradcore import _index
from gradcore.apps.tasks.brackets import check, dataset, evaluate, lexing, sources
from gradcore.apps.tasks.brackets.sources import Path

CLEAN = '''"""A module :-)"""

import os


def names(folder, *, hidden=False):
    """Names in a folder [sorted]."""
    found = [name for name in os.listdir(folder) if hidden or not name.startswith(".")]
    return {name: (i, len(name)) for i, name in enumerate(sorted(found))}


def main():
    table = names(os.getcwd())
    for name, (i, size) in table.items():
        print(f"{i:3} {name!r:20} {size}")
'''


@pytest.fixture(scope="module")
def model():
    return check.load_checkpoint(check.default_checkpoint())


def test_it_is_small():
    assert check.default_checkpoint().stat().st_size < 1_000_000


def test_a_clean_file_is_clean(model):
    assert list(check.check_texts(model, [(Path("a.py"), CLEAN)])) == [None]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("names(os.getcwd())", "names(os.getcwd()))"),
        ("os.listdir(folder)", "os.listdir(folder]"),
        ("(i, len(name))", "(i, len(name]]"),
        ("sorted(found))}", "sorted(found)]}"),
    ],
)
def test_a_wrong_bracket_is_found_near_its_line(model, old, new):
    text = CLEAN.replace(old, new)
    kinds = lexing.kinds_of(text, "python")
    _, _, fault = _index.bracket_labels(lexing.tokens_of(text), lexing.real_of(kinds))
    line = text[:fault].count("\n") + 1
    (finding,) = check.check_texts(model, [(Path("a.py"), text)])
    assert finding is not None
    assert abs(finding.line - line) <= check.NEAR


def test_it_is_right_on_held_out_files_of_this_interpreter(model, tmp_path):
    # Modules are held out by a hash of their names, so training on another machine saw few of these
    # modules, if any.
    roots = sources.default_roots()[:1]
    parts = dataset.Corpus(
        sources.find(roots).files,
        lexing.LexCache(tmp_path),
        validation_characters=1,
        held_out_characters=400_000,
    )
    result = evaluate.evaluate(
        model.net, model.params, parts.held_out, majority=1, least=model.least
    )
    assert result.net.accuracy_by_distance["10-100"] > 0.99
    assert result.net.accuracy_by_distance["100-1k"] > 0.92
    assert result.net.accuracy > result.baselines["majority"].accuracy
    assert result.false_alarms <= 0.05
    assert check.fault_share(model, parts.held_out).found > 0.8
