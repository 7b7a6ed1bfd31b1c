"""docs/howto/add_a_cell.md, followed: its cell is added to a copy of the project and compared.

The copy has one instruction-set level and is compiled without optimisation where GCC can do
without: about a minute of processor time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from places import ROOT

PAGE = ROOT / "docs" / "howto" / "add_a_cell.md"
# Where the page says that each of its blocks of code goes.
PLACES = {
    "cpp": "csrc/cells/mgu.h",
    "c": "csrc/include/gradcore/cells.def",
    "python": "tests/reference/mgu.py",
}

CHECK = """
import numpy as np
import gradcore as gd
from gradcore import _core
import nets, tolerances
from problem import assert_agree, by_core, by_reference, random_problem

assert [facts.name for facts in _core.cell_facts()] == [
    "rnn", "lstm", "gru", "antisymmetric", "mgu"
]
cell = gd.MGU.cell
assert (cell.gates, cell.functions, cell.states) == (("f", "n"), ("sigmoid", "tanh"), ("h",))
assert (cell.memory_gate, cell.input_gate) == (None, "f")
for n, (hidden, batch, skip, masks) in enumerate([
    (5, 1, "none", "none"), (17, 3, "add learned", "zoneout"), (33, 5, "mix", "all")
]):
    net = nets.stack("mgu", 3, hidden, layers=2, skip=nets.SKIPS[skip], masks=masks, classes=4)
    options = {"seed": n, "lengths": batch > 1, "reset": True}
    problem = random_problem(net, gd.loss.CrossEntropy(), 37, batch, **options)
    assert_agree(by_core(problem), by_reference(problem), tolerances.DOUBLE)

# Along one direction, the tangent is that of differences and the transpose of the cotangent.
net = gd.Stack(gd.MGU(3, 9))
params = net.init(seed=1, dtype="float64")
rng = np.random.default_rng(2)
x, v = rng.standard_normal((11, 2, 3)), rng.standard_normal(params.flat.size)
w = rng.standard_normal((1, 11, 2, 9))
moved = gd.jacobian.jvp(net, params, x, dparams=v[None])
tangent = np.ldexp(moved.d_outputs[0], moved.d_outputs_exponent[:, None, None])
step = 1e-6
up, down = (gd.apply(net, gd.Params(net, params.flat + s * v), x)[0] for s in (step, -step))
assert np.allclose(tangent, (up - down) / (2 * step), rtol=1e-6, atol=1e-8)
back = gd.jacobian.vjp(net, params, x, d_outputs=w)
gradient = np.ldexp(back.grads[0].flat, back.grads[0].exponent)
assert np.isclose((tangent * w[0]).sum(), gradient @ v, rtol=1e-10)
print("agrees")
"""


def blocks() -> dict[str, str]:
    """The page's blocks of code by language, each with the place that its heading names."""
    found = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        if match := re.search(r"```(cpp|c|python)\n(.*?)```", section, re.DOTALL):
            assert PLACES[match[1]] in section.partition("\n")[0]
            found[match[1]] = match[2]
    assert found.keys() == PLACES.keys()
    return found


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_cell_of_the_page_agrees_with_its_reference(tmp_path: Path) -> None:
    if any(shutil.which(tool) is None for tool in ("cmake", "ninja", "c++")):
        pytest.skip("needs cmake, ninja and a C++ compiler")
    pybind11 = pytest.importorskip("pybind11")
    cython_cmake = pytest.importorskip("cython_cmake")
    pytest.importorskip("Cython")
    for folder in ("csrc", "python", "src", "tests"):
        ignored = shutil.ignore_patterns("*.so*", "__pycache__", "golden")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(ROOT / "CMakeLists.txt", tmp_path)
    code = blocks()
    for language, place in PLACES.items():
        path = tmp_path / place
        if language == "c":
            path.write_text(path.read_text() + code[language])  # behind the other cells
        else:
            assert not path.exists(), f"{place} is there already: let the page have another cell"
            path.write_text(code[language])
    run(
        *("cmake", "-G", "Ninja", "-S", ".", "-B", "build", "-DCMAKE_BUILD_TYPE=Debug"),
        *("-DCMAKE_CXX_FLAGS_DEBUG=-O0", "-DCMAKE_C_FLAGS_DEBUG=-O0"),
        *(
            "-DGRADCORE_PYTHON=ON",
            "-DGRADCORE_ISA_LEVELS=v2",
            f"-DPython_EXECUTABLE={sys.executable}",
        ),
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DCMAKE_MODULE_PATH={Path(cython_cmake.__file__).parent / 'cmake'}",
        cwd=tmp_path,
    )
    run("cmake", "--build", "build", cwd=tmp_path)
    run("cmake", "--install", "build", "--prefix", tmp_path / "src", cwd=tmp_path)
    paths = [tmp_path / "src", *(tmp_path / "tests" / name for name in (".", "helpers"))]
    said = run(
        *(sys.executable, "-c", CHECK),
        cwd=tmp_path,
        PYTHONPATH=os.pathsep.join(str(path) for path in paths),
    )
    assert said == "agrees\n"
