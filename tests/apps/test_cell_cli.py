"""`gradcore cell`: compiles a cell of the user and says what it has."""

from __future__ import annotations

import shutil

import pytest

import user_cells
from gradcore._net import compiler

pytest.importorskip("typer")

from typer.testing import CliRunner

from gradcore.apps import commands


def call(*arguments):
    return CliRunner().invoke(commands.app, ["cell", *map(str, arguments)])


@pytest.mark.skipif(not any(map(shutil.which, compiler.NAMES)), reason="needs a C++ compiler")
def test_a_cell_is_compiled_and_told(tmp_path) -> None:
    (tmp_path / "peephole.h").write_text(user_cells.PEEPHOLE)
    options = [f"--option={name}={value}" for name, value in user_cells.OPTIONS["Peephole"].items()]
    done = call(tmp_path / "peephole.h", *options, "--dtype", "float64")
    assert done.exit_code == 0, done.output
    assert "Peephole compiled in" in done.output
    assert "gates    i f g o" in done.output
    assert "states   h c" in done.output
    assert "option   from_f = -0.2" in done.output
    assert "agrees with differences" in done.output


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"int x;", [], "must have a line 'struct Name {'"),
        (b"\xff\xfe", [], "is not text in UTF-8"),
        (b"struct A {};", ["--option", "leak"], "--option must be a name and a number"),
        (b"struct A {};", ["--option", "leak=x"], "--option must be a name and a number"),
        (b"struct A {};", ["--name", "B"], "must have a line 'struct B {'"),
        (b"struct A {};", ["--dtype", "half"], "dtype must be one of 'float32', 'float64'"),
        (None, [], "No such file"),
    ],
)
def test_what_cannot_be_compiled_is_told(tmp_path, content, arguments, message) -> None:
    if content is not None:
        (tmp_path / "a.h").write_bytes(content)
    done = call(tmp_path / "a.h", *arguments)
    assert done.exit_code == 2
    assert message in done.output
