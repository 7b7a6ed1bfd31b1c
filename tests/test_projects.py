"""Other projects can find, compile against and call gradcore: CMake, pkg-config, Cython."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import gradcore as gd
import gradcore._core
from places import ROOT

EXAMPLES = ROOT / "examples"
BUILT = Path(gradcore._core.__file__).parent
INSTALLED = (BUILT / "include").is_dir()
installed = pytest.mark.skipif(not INSTALLED, reason="gradcore is not installed, only on the path")


def need(*programs):
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")


def call(*command, **options):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@installed
def test_a_cmake_project_trains_from_c_plus_plus(tmp_path):
    need("cmake", "g++")
    # The project is copied elsewhere, so that it cannot reach the source files.
    source = shutil.copytree(EXAMPLES / "cpp", tmp_path / "source")
    build = tmp_path / "build"
    call("cmake", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={gd.get_cmake_dir()}")
    call("cmake", "--build", build)
    told = call(build / "train_lstm")
    right = int(re.search(r"right after 400 steps: (\d+) of 64", told)[1])
    assert right >= 58, told  # guessing: 32, plus or minus 4
    described = call(build / "describe")
    assert f"gradcore {gd.__version__}" in described
    net = gd.Stack(gd.GRU(8, 16))
    assert f"has {net.n_parameters} parameters" in described
    assert "refused: " in described


@installed
def test_pkg_config_has_the_flags(tmp_path):
    need("pkg-config", "gcc")
    env = {**os.environ, "PKG_CONFIG_PATH": gd.get_pkgconfig_dir()}
    flags = call("pkg-config", "--cflags", "--libs", "gradcore", env=env).split()
    call("gcc", EXAMPLES / "cpp" / "describe.c", *flags, "-o", tmp_path / "describe")
    assert "parameters" in call(tmp_path / "describe")
    assert call("pkg-config", "--modversion", "gradcore", env=env).strip() == gd.__version__


@installed
def test_the_link_arguments_link(tmp_path):
    need("gcc")
    call(
        "gcc",
        f"-I{gd.get_include()}",
        EXAMPLES / "cpp" / "describe.c",
        *gd.get_link_args(),
        "-o",
        tmp_path / "describe",
    )
    assert "parameters" in call(tmp_path / "describe")


@installed
def test_a_cython_project_runs_without_the_gil(tmp_path):
    need("gcc")
    for module in ("Cython", "setuptools"):
        if find_spec(module) is None:
            pytest.skip(f"needs {module}")
    source = shutil.copytree(EXAMPLES / "cython", tmp_path / "source")
    call(sys.executable, "setup.py", "build_ext", "--inplace", cwd=source)
    check = """
import threading
import numpy as np
import best_of_many

rng = np.random.default_rng(0)
x, y = rng.standard_normal((50, 4, 3)), np.zeros((50, 4, 2))
few, _ = best_of_many.search(x, y, 8, 3)
many, _ = best_of_many.search(x, y, 8, 300)
assert 0 < many < few < 100, (few, many)

# Python goes on while the search runs.
counted, over = [0], threading.Event()
def count():
    while not over.is_set():
        counted[0] += 1
thread = threading.Thread(target=count)
thread.start()
best_of_many.search(rng.standard_normal((500, 8, 3)), np.zeros((500, 8, 2)), 32, 60)
over.set()
thread.join()
assert counted[0] > 10_000, counted

try:
    best_of_many.search(x, y, 0, 1)
except best_of_many.Failed as error:
    print("refused:", error)
"""
    assert "refused: " in call(sys.executable, "-c", check, cwd=source)


# What scikit-build-core's finder does in an editable install.
FINDER = """
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

class Finder(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        place = known.get(name)
        folders = [str(place.parent)] if place and place.name == "__init__.py" else None
        return place and importlib.util.spec_from_file_location(
            name, place, submodule_search_locations=folders
        )

sys.meta_path.insert(0, Finder())
"""


@pytest.fixture
def editable(tmp_path):
    """The environment of an editable install: sources here, and what was built there."""
    sources, built = tmp_path / "checkout" / "src" / "gradcore", tmp_path / "site" / "gradcore"
    compiled = ("include", "cmake", "pkgconfig", "*.so", "libgradcore*", "__init__.pxd")
    ignored = shutil.ignore_patterns(*compiled, "__pycache__")
    shutil.copytree(Path(gd.__file__).parent, sources, ignore=ignored)
    built.mkdir(parents=True)
    for path in (path for pattern in compiled for path in BUILT.glob(pattern)):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, built / path.name)
    known = {"gradcore": sources / "__init__.py"}
    known |= {f"gradcore.{path.name.split('.')[0]}": path for path in built.glob("_*.so")}
    places = ", ".join(f"{name!r}: Path({str(path)!r})" for name, path in known.items())
    (tmp_path / "site" / "sitecustomize.py").write_text(f"{FINDER}known = {{{places}}}\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path / "site")}


@installed
def test_an_editable_install_tells_where_the_build_lies(editable, tmp_path):
    pytest.importorskip("typer", reason="the command line: install gradcore[cli]")
    told = call(
        *(sys.executable, "-m", "gradcore.apps.cli", "info"),
        *("--include-dir", "--cmake-dir", "--pkgconfig-dir"),
        env=editable,
        cwd=tmp_path,
    )
    built = tmp_path / "site" / "gradcore"
    assert [Path(line) for line in told.split()] == [
        built / name for name in ("include", "cmake", "pkgconfig")
    ]
    where = "import gradcore; print(gradcore.__file__, gradcore.get_library_dir())"
    assert call(sys.executable, "-c", where, env=editable, cwd=tmp_path).split() == [
        str(tmp_path / "checkout" / "src" / "gradcore" / "__init__.py"),
        str(built),
    ]


@installed
def test_cython_finds_the_pxd_of_an_editable_install(editable, tmp_path):
    if find_spec("Cython") is None:
        pytest.skip("needs Cython")
    source = shutil.copy(EXAMPLES / "cython" / "best_of_many.pyx", tmp_path)
    call(sys.executable, "-m", "cython", "-3", source, env=editable, cwd=tmp_path)
    assert "gc_run(" in (tmp_path / "best_of_many.c").read_text()


def fields(text):
    """Names in enums, of functions and of struct fields, without comments."""
    return set(re.findall(r"\b(?:gc_|GC_)\w+", text))


def test_the_pxd_says_what_the_header_says():
    headers = sorted((ROOT / "csrc" / "include" / "gradcore").glob("*.h"))
    header = "\n".join(path.read_text() for path in headers)
    header = re.sub(r"/\*.*?\*/|^#.*?$", "", header, flags=re.DOTALL | re.MULTILINE)
    pxd = (ROOT / "python" / "__init__.pxd").read_text()
    pxd = pxd.split('"""')[2]
    # A cell without a name here is found by the number that gc_cell_info has it under.
    cells = fields((ROOT / "csrc" / "include" / "gradcore" / "cells.def").read_text())
    listed = (ROOT / "csrc" / "include" / "gradcore" / "arrays.def").read_text()
    arrays = {
        f"GC_ARRAY_{name}" for name in re.findall(r"^GRADCORE_ARRAY\((\w+),", listed, re.MULTILINE)
    }
    assert len(arrays) > 30
    assert fields(header) - {"GC_API"} | arrays <= fields(pxd) <= fields(header) | cells | arrays

    def flat(text):
        return [" ".join(re.sub(r"([*,])", r" \1 ", line).split()) for line in text]

    # Every field and every function with its types.
    for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\}", header, re.DOTALL):
        declared = [" ".join(part.split()) for part in body.split(";") if part.strip()]
        found = re.search(rf"ctypedef struct {name}:\n((?:        .*\n)+)", pxd)
        lines = [line.strip() for line in found[1].splitlines()]
        declared = [
            item
            for line in declared
            for item in (
                ["const void* start_left", "const void* start_right"]
                if "start_left" in line
                else [line]
            )
        ]
        assert flat(lines) == flat(declared), name
    functions = [" ".join(f.split()) for f in re.findall(r"GC_API ([^;]+);", header)]
    said = [line.strip() for line in pxd.splitlines() if re.match(r"    [\w ]+\*? ?gc_\w+\(", line)]
    assert sorted(flat(said)) == sorted(flat(f.replace("(void)", "()") for f in functions))


def test_the_folders_are_told_where_there_are_any(monkeypatch, tmp_path):
    if INSTALLED:
        assert (Path(gd.get_include()) / "gradcore" / "gradcore.hpp").exists()
        assert (Path(gd.get_cmake_dir()) / "gradcoreConfig.cmake").exists()
        assert (Path(gd.get_pkgconfig_dir()) / "gradcore.pc").exists()
        assert list(Path(gd.get_library_dir()).glob("libgradcore.so.*"))
    monkeypatch.setattr("gradcore._base.embed._PACKAGE", tmp_path)
    for function in (gd.get_include, gd.get_library_dir):
        with pytest.raises(gd.InternalError, match="install gradcore with pip"):
            function()


@installed
def test_the_command_prints_a_folder_alone():
    pytest.importorskip("typer", reason="the command line: install gradcore[cli]")
    program = [sys.executable, "-m", "gradcore.apps.cli", "info"]
    assert call(*program, "--cmake-dir").strip() == gd.get_cmake_dir()
    assert call(*program, "--include-dir").strip() == gd.get_include()
