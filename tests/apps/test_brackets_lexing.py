"""Lexing: which brackets count and which do not, and the cache on disk."""

from __future__ import annotations

import zlib
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcore import _index
from gradcore.apps.tasks.brackets import lexing
from gradcore.apps.tasks.brackets.sources import SourceFile

pytest.importorskip("pygments")

# Pairs of a source text and the same text with a dot for every bracket that does not count.
TRICKY = {
    "string": ("python", "f('a)', \"[\")\n", "f('a.', \".\")\n"),
    "escaped quote": ("python", "f('\\')')\n", "f('\\'.')\n"),
    "raw and bytes": ("python", "(rb'[', R'{')\n", "(rb'.', R'.')\n"),
    "triple quotes": ("python", 'x = """\n)]}\n"""\n(1)\n', 'x = """\n...\n"""\n(1)\n'),
    "f-string": ("python", "f'{x[1]} ) {{'\n", "f'.x[1]. . ..'\n"),
    "nested f-string": ("python", "f'{f(y):{w}}('\n", "f'.f(y):.w...'\n"),
    "comment": ("python", "(  # )]\n)\n", "(  # ..\n)\n"),
    "decorator": ("python", "@d(1)\ndef f(): pass\n", "@d(1)\ndef f(): pass\n"),
    "char literal": ("c++", "f('(', '\\'', ')');\n", "f('.', '\\'', '.');\n"),
    "line comment": ("c++", "{ // }\n}\n", "{ // .\n}\n"),
    "block comment": ("c", "/* ( \n [ */ {}\n", "/* . \n . */ {}\n"),
    "preprocessor": ("c++", "#define A(x) (x\nint a[1];\n", "#define A.x. .x\nint a[1];\n"),
    "raw string": ("c++", 'x = R"(a)b")";\n', 'x = R".a.b".";\n'),
    "regular expression": ("javascript", "x = /[(]/; f(x)\n", "x = /.../; f(x)\n"),
    "template": ("javascript", "`a) ${f(1)} (`\n", "`a. $.f(1). .`\n"),
    "json": ("json", '{"a}": [1, {"b": "]"}]}\n', '{"a.": [1, {"b": "."}]}\n'),
    "java": ("java", "class A { char c = '{'; /* } */ }\n", "class A { char c = '.'; /* . */ }\n"),
}


def shown(text, language):
    kinds = lexing.kinds_of(text, language)
    assert kinds.shape == (len(text),)
    return "".join(
        "." if c in "()[]{}" and kind != lexing.BRACKET else c
        for c, kind in zip(text, kinds, strict=True)
    )


@pytest.mark.parametrize("name", TRICKY)
def test_only_brackets_of_code_count(name):
    language, text, expected = TRICKY[name]
    assert shown(text, language) == expected


def test_what_is_left_is_balanced():
    text = Path(lexing.__file__).read_text(encoding="utf-8")
    characters = lexing.tokens_of(text)
    real = lexing.real_of(lexing.kinds_of(text, "python"))
    assert _index.bracket_labels(characters, real)[2] == -1
    assert real.sum() > 100


@given(st.text(max_size=40))
def test_tokens_are_ascii_or_one_other(text):
    tokens = lexing.tokens_of(text)
    assert tokens.tolist() == [ord(c) if ord(c) < 128 else 127 for c in text]
    assert tokens.dtype == np.uint8


@given(st.text(alphabet="()[]{}'\"`#/*\\\n $fr0", max_size=60), st.sampled_from(["python", "c++"]))
def test_any_text_can_be_lexed(text, language):
    kinds = lexing.kinds_of(text, language)
    assert kinds.shape == (len(text),)
    assert all(text[t] in "()[]{}" for t in np.flatnonzero(kinds == lexing.BRACKET))


def test_unknown_language():
    with pytest.raises(ValueError, match=r"language must be one of python, .*; got 'cobol'"):
        lexing.kinds_of("x", "cobol")


def source(path, text):
    path.write_text(text, encoding="utf-8")
    return SourceFile(path, path.name, path.stem, "python", len(text))


def test_the_cache_answers_instead_of_the_lexer(tmp_path, monkeypatch):
    file = source(tmp_path / "a.py", "f('(')\n")
    cache = lexing.LexCache(tmp_path / "cache")
    (first,) = lexing.load([file], cache)
    monkeypatch.setattr(lexing, "kinds_of", lambda *_: pytest.fail("lexed again"))
    (second,) = lexing.load([file], cache)
    np.testing.assert_array_equal(first.kinds, second.kinds)
    np.testing.assert_array_equal(first.characters, second.characters)


def test_another_text_language_or_version_is_lexed_again(tmp_path, monkeypatch):
    cache = lexing.LexCache(tmp_path)
    cache.put("(", "python", np.array([2], np.uint8))
    assert cache.get("(", "python").tolist() == [2]
    assert cache.get("(", "c++") is None
    assert cache.get(")", "python") is None
    monkeypatch.setattr(lexing, "_pygments_version", lambda: "0.0")
    assert cache.get("(", "python") is None


@pytest.mark.parametrize("damage", [b"", b"not zlib", zlib.compress(bytes(10**6)), None])
def test_a_damaged_entry_is_lexed_again(tmp_path, damage):
    file = source(tmp_path / "a.py", "f(1)\n")
    cache = lexing.LexCache(tmp_path / "cache")
    (good,) = lexing.load([file], cache)
    (entry,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    entry.write_bytes(entry.read_bytes()[:-3] if damage is None else damage)
    (again,) = lexing.load([file], cache)
    np.testing.assert_array_equal(good.kinds, again.kinds)


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path):
    file = source(tmp_path / "a.py", "f(1)\n")
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    (document,) = lexing.load([file], lexing.LexCache(tmp_path / "file"))
    assert document.real.tolist() == [0, 1, 0, 1, 0]


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADCORE_CACHE", str(tmp_path / "own"))
    assert lexing.default_cache() == tmp_path / "own"
    monkeypatch.delenv("GRADCORE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(lexing.sys, "platform", "linux")
    assert lexing.default_cache() == tmp_path / "xdg" / "gradcore"


def test_files_come_in_order_and_unreadable_ones_as_none(tmp_path):
    files = [source(tmp_path / f"{i}.py", f"f({i})\n") for i in range(5)]
    files[2].path.unlink()
    seen = []
    documents = list(lexing.load(files, lexing.LexCache(tmp_path / "cache"), progress=seen.append))
    assert [d and d.source for d in documents] == [f if f.path.exists() else None for f in files]
    assert seen == [5, 5, 5, 5]


def test_lexing_is_lazy(tmp_path, monkeypatch):
    files = [source(tmp_path / f"{i}.py", f"f({i})\n") for i in range(50)]
    lexed = []
    real = lexing.kinds_of
    monkeypatch.setattr(lexing, "kinds_of", lambda *a: lexed.append(a) or real(*a))
    documents = lexing.load(files, lexing.LexCache(tmp_path / "cache"))
    next(documents)
    documents.close()
    assert len(lexed) < 10


def test_processes_find_what_one_finds(tmp_path, monkeypatch):
    text = "x = [f(1), {'(': 2}]\n" * 20
    files = [source(tmp_path / f"{i}.py", f"a{i} = ()\n" + text) for i in range(12)]
    monkeypatch.setattr(lexing, "_WORTH_A_PROCESS", 0)
    alone = list(lexing.load(files, lexing.LexCache(tmp_path / "one"), processes=1))
    together = list(lexing.load(files, lexing.LexCache(tmp_path / "two"), processes=2))
    assert [d.source for d in together] == files
    for one, two in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.kinds, two.kinds)


class Killed:
    """Stands for a process pool whose processes have died."""

    def __init__(self, processes):
        self.submitted = 0

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        pass

    def shutdown(self, **options):
        pass

    def submit(self, *call):
        self.submitted += 1
        if self.submitted > 2:
            raise BrokenExecutor
        future = Future()
        future.set_exception(BrokenExecutor())
        return future


def refused(processes):
    raise OSError("no semaphores here")


@pytest.mark.parametrize("pool", [Killed, refused])
def test_without_processes_lexing_goes_on(tmp_path, monkeypatch, pool):
    files = [source(tmp_path / f"{i}.py", f"f({i})\n") for i in range(9)]
    monkeypatch.setattr(lexing, "_WORTH_A_PROCESS", 0)
    monkeypatch.setattr(lexing, "_pool", pool)
    documents = list(lexing.load(files, lexing.LexCache(tmp_path / "cache"), processes=2))
    assert [d.source for d in documents] == files
    assert all(d.real.tolist() == [0, 1, 0, 1, 0] for d in documents)


def test_without_pygments_the_remedy_is_named(tmp_path, monkeypatch):
    file = source(tmp_path / "a.py", "f(1)\n")
    monkeypatch.setitem(lexing.sys.modules, "pygments", None)
    lexing._pygments_version.cache_clear()
    try:
        with pytest.raises(lexing.LexingError, match=r"pip install 'gradcore\[data\]'"):
            next(lexing.load([file], lexing.LexCache(tmp_path)))
    finally:
        lexing._pygments_version.cache_clear()


@pytest.mark.parametrize(("text", "language"), [("f(); // )", "c"), ("f() # )", "python")])
def test_a_comment_in_a_last_line_without_an_end(text, language):
    kinds = lexing.kinds_of(text, language)
    assert kinds[-1] == lexing.HIDDEN
    assert len(kinds) == len(text)


def test_what_would_not_end_is_passed_over(tmp_path, monkeypatch):
    # The lexer for Java needs time proportional to the square of the number of empty lines: 68 s
    # for these.
    monkeypatch.setattr(lexing, "_SECONDS", 0.2)
    monkeypatch.setattr(lexing, "_SECONDS_PER_CHARACTER", 1e-6)
    text = "class A { }\n" + "\n" * 40_000
    with pytest.raises(lexing.LexingError, match="takes too long for 40,012 characters of java"):
        lexing.kinds_of(text, "java")
    (tmp_path / "a.java").write_text(text)
    slow = SourceFile(tmp_path / "a.java", "a.java", "a", "java", len(text))
    good = source(tmp_path / "b.py", "f(1)\n")
    found = list(lexing.load([slow, good], lexing.LexCache(tmp_path / "cache")))
    assert found[0] is None
    assert found[1].source == good
