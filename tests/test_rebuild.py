"""What one build with pip has compiled, the next one uses."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from places import ROOT


class Build:
    """A copy of the sources, configured as pip does it: each time in an environment elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.build = folder / "build"
        for name in ("csrc", "python"):
            shutil.copytree(ROOT / name, folder / name)
        shutil.copy(ROOT / "CMakeLists.txt", folder)

    def configure(self, environment: str, levels: str) -> None:
        pybind11 = pytest.importorskip("pybind11")
        cython_cmake = pytest.importorskip("cython_cmake")
        pytest.importorskip("Cython")
        # scikit-build-core does this when its own path is not the one of the last build.
        (self.build / "CMakeCache.txt").unlink(missing_ok=True)
        shutil.rmtree(self.build / "CMakeFiles", ignore_errors=True)
        packages = self.folder / environment
        for package in (pybind11, cython_cmake):
            source = Path(package.__file__).parent
            shutil.copytree(source, packages / source.name)
        for path in packages.rglob("*"):
            os.utime(path)  # pip dates the files that it unpacks with the present
        self.run(
            *("cmake", "-G", "Ninja", "-S", ".", "-B", "build", "-DCMAKE_BUILD_TYPE=Release"),
            f"-DGRADCORE_ISA_LEVELS={levels}",
            "-DGRADCORE_PYTHON=ON",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={packages / 'pybind11/share/cmake/pybind11'}",
            f"-DCMAKE_MODULE_PATH={packages / 'cython_cmake/cmake'}",
        )
        shutil.rmtree(packages)

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def commands(self) -> dict[str, str]:
        """The command of every object file by its path, and all others under ""."""
        entries = json.loads((self.build / "compile_commands.json").read_text())
        commands = [entry["command"] for entry in entries]
        found = {command.split(" -o ")[1].split()[0]: command for command in commands}
        every = self.run("ninja", "-C", "build", "-t", "commands", "gradcore", "_core", "_index")
        return found | {"": "\n".join(sorted(every.splitlines()))}

    def inputs(self) -> dict[str, int]:
        """When each generated file that is compiled was last written, in nanoseconds."""
        return {
            str(path.relative_to(self.build)): path.stat().st_mtime_ns
            for name in ("csrc", "python")
            for path in (self.build / name).rglob("*")
            if path.suffix in {".h", ".hxx", ".cpp", ".cxx"}
        }


@pytest.fixture
def build(tmp_path: Path) -> Build:
    if any(shutil.which(tool) is None for tool in ("cmake", "ninja", "c++")):
        pytest.skip("needs cmake, ninja and a C++ compiler")
    return Build(tmp_path)


def test_a_build_in_another_environment_compiles_nothing_again(build: Build) -> None:
    build.configure("first", "v2")
    commands, inputs = build.commands(), build.inputs()
    assert sum(path.endswith(".cpp.o") for path in commands) > 40
    assert "python/include/pybind11/numpy.h" in inputs
    # Objects anywhere else are deleted before the next build.
    assert all(path.startswith(("csrc/", "python/")) for path in commands if path)
    build.configure("second", "v2")
    assert build.commands() == commands
    assert build.inputs() == inputs


def test_levels_of_one_build_are_not_mixed_into_the_next(build: Build) -> None:
    """Objects of a level lie in a folder of its own, and what lists the levels is compiled anew."""
    build.configure("first", "v2")
    before = build.commands()
    build.configure("second", "v3")
    after = build.commands()
    level = {path for path in before.keys() | after.keys() if "gradcore_isa_" in path}
    assert {path for path in level if path in before and path in after} == set()
    table = "csrc/CMakeFiles/gradcore_objects.dir/kernels/kernel_table.cpp.o"
    assert "GRADCORE_HAS_V2" in before[table]
    assert "GRADCORE_HAS_V2" not in after[table]
