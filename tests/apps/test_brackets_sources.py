"""Source files: which are found, in what order, and which of them training may read."""

from __future__ import annotations

import os

import pytest

from gradcore.apps.tasks.brackets import sources
from gradcore.apps.tasks.brackets.sources import SourceError, held_out_groups


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_languages_by_name(tmp_path):
    names = ["a.py", "b.c", "b.h", "c.CPP", "d.js", "E.java", "f.json", "g.txt", "h", "c++/vector"]
    found = sources.find([tree(tmp_path, dict.fromkeys(names, "x"))])
    assert {file.name: file.language for file in found.files} == {
        "a.py": "python",
        "b.c": "c",
        "b.h": "c++",
        "c.CPP": "c++",
        "d.js": "javascript",
        "E.java": "java",
        "f.json": "json",
        "c++/vector": "c++",
    }


def test_order_does_not_depend_on_the_place(tmp_path):
    files = {f"{name}/{i}.py": name for name in "abc" for i in range(9)}
    names = [
        [file.name for file in sources.find([tree(tmp_path / place, files)]).files]
        for place in ("here", "there")
    ]
    assert names[0] == names[1]
    assert sorted(names[0]) == sorted(files)
    assert names[0] != sorted(names[0])


def test_every_root_has_its_share_of_any_beginning(tmp_path):
    one = tree(tmp_path / "one", {f"{i}.py": "x" * 1000 for i in range(20)})
    two = tree(tmp_path / "two", {f"{i}.c": "x" * 100 for i in range(200)})
    first = sources.find([one, two]).files[:55]
    sizes = {
        suffix: sum(file.size for file in first if file.path.suffix == suffix)
        for suffix in (".py", ".c")
    }
    assert abs(sizes[".py"] - sizes[".c"]) <= 1000


def test_a_file_reached_twice_is_taken_once(tmp_path):
    root = tree(tmp_path, {"a/b.py": "x", "a/c.py": "y"})
    assert len(sources.find([root, root / "a", root / "a" / "b.py"]).files) == 2


def test_folders_of_other_things_are_passed_over(tmp_path):
    skipped = ["site-packages/a.py", ".git/b.py", "__pycache__/c.py", "node_modules/d.js"]
    root = tree(tmp_path, dict.fromkeys([*skipped, "kept.py"], "x"))
    assert [file.name for file in sources.find([root]).files] == ["kept.py"]


def test_what_cannot_be_used_is_counted(tmp_path, monkeypatch):
    root = tree(tmp_path, {"a.py": "x", "b.py": "x", "c.py": "x", "large.json": "[" * 1_000_001})
    (root / "dangling.py").symlink_to(root / "nowhere.py")
    allowed = os.access
    # Permissions do not restrict root, the usual user in containers.
    monkeypatch.setattr(
        sources.os, "access", lambda path, mode: path.name != "b.py" and allowed(path, mode)
    )
    found = sources.find([root])
    assert sorted(file.name for file in found.files) == ["a.py", "c.py"]
    assert found.notes == ("1 files over 1,000,000 bytes", "2 files that cannot be read")


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"no such file or folder: .*nowhere"):
        sources.find([tmp_path / "nowhere"])


def test_a_folder_without_source_is_an_error_that_says_what_was_expected(tmp_path):
    tree(tmp_path, {"a.txt": "x"})
    with pytest.raises(SourceError, match=r"no source file under .* files that end in .*\.py"):
        sources.find([tmp_path])
    with pytest.raises(SourceError, match="1 files in no known language"):
        sources.find([tmp_path / "a.txt"])


def test_groups_are_top_level_modules_and_folders(tmp_path):
    files = {"a.py": "x", "b.c": "x", "b.h": "x", "p/q.py": "x", "p/r/s.py": "x"}
    files |= {f"other{i}.py": "x" * 10 for i in range(9)}
    groups = {file.name: file.group for file in sources.find([tree(tmp_path, files)]).files}
    assert groups["a.py"] == "a"
    assert groups["b.c"] == groups["b.h"] == "b"
    assert groups["p/q.py"] == groups["p/r/s.py"] == "p"


def test_a_folder_with_most_of_the_text_is_split_deeper(tmp_path):
    files = {f"{i}.py": "x" for i in range(9)}
    files |= {f"test/t{i}.py": "x" * 90 for i in range(9)}
    files |= {f"test/deep/d{i}.py": "x" * 90 for i in range(9)}
    groups = {file.name: file.group for file in sources.find([tree(tmp_path, files)]).files}
    assert groups["test/t1.py"] == "test/t1"
    assert groups["test/deep/d1.py"] == "test/deep/d1"


@pytest.mark.parametrize("count", [2, 3, 10, 200])
def test_both_parts_have_groups(tmp_path, count):
    files = sources.find([tree(tmp_path, {f"m{i}.py": "x" for i in range(count)})]).files
    held_out = held_out_groups(files)
    assert 1 <= len(held_out) < count
    assert count < 100 or 0.08 * count < len(held_out) < 0.25 * count


def test_a_group_stays_on_its_side_when_others_come(tmp_path):
    few = sources.find([tree(tmp_path, {f"m{i}.py": "x" for i in range(100)})]).files
    many = sources.find([tree(tmp_path, {f"n{i}.py": "x" for i in range(100)})]).files
    assert held_out_groups(few) == {g for g in held_out_groups(many) if g.startswith("m")}
    assert held_out_groups(few) != held_out_groups(few, salt="another")


def test_one_group_cannot_be_split(tmp_path):
    files = sources.find([tree(tmp_path, {"only.py": "x"})]).files
    with pytest.raises(SourceError, match=r"all source files are in one module \(only\)"):
        held_out_groups(files)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"a\r\nb\rc\n", "a\nb\nc\n"),
        (b"\xef\xbb\xbfx", "x"),
        ("é→".encode(), "é→"),
        (b"caf\xe9", "café"),
    ],
)
def test_text_of_a_file(tmp_path, raw, text):
    (tmp_path / "a.py").write_bytes(raw)
    assert sources.read_text(tmp_path / "a.py") == text


def test_the_default_roots_hold_this_interpreters_library():
    names = {file.name for file in sources.find().files}
    assert {"json/decoder.py", "tokenize.py"} <= names
    assert not any("site-packages" in name for name in names)
