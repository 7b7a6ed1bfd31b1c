"""The rules of docs/layout.md, checked on the sources and the compiled objects."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import cpp_source
from places import ROOT

SOURCES = {".c", ".cc", ".cpp", ".cu", ".cuh", ".def", ".h", ".hpp"}
MODULES = SOURCES | {".pxd", ".pyx"}

# The folders that each folder of csrc may include, besides itself and the public headers.
ALLOWED = {
    "include": set(),
    "base": set(),
    "simd": {"base"},
    "cells": {"base", "simd"},
    "kernels": {"base", "simd", "cells"},
    "sequence": {"base", "simd", "cells", "kernels"},
    "linalg": {"base", "simd"},
    "ctc": {"base", "simd"},
    "optim": {"base", "simd"},
    "measure": {"base", "simd"},
}
# What each folder of csrc/sequence may include, besides itself and files of csrc/sequence itself.
SEQUENCE = {"scale": set(), "stages": {"scale"}, "derivatives": {"scale", "stages"}}
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


# Extension modules, which Python imports like the modules beside them.
COMPILED = {"_core", "_index"}
# The modules that each private shelf of src/gradcore may import, besides itself and the extension
# modules.
SHELVES = {
    "_base": {"errors"},
    "_net": {"_base", "errors"},
    "_engine": {"_base", "_net", "errors", "loss"},
    "_export": {"_base", "_net", "errors", "torch"},
    "_measure": {"_base", "_net", "_engine", "errors", "jacobian", "loss"},
    "_training": {
        *("_base", "_net", "_engine", "callbacks", "data", "errors", "horizon", "jacobian", "loss"),
        *("lyapunov", "optim", "schedule", "stability"),
    },
}


def python_modules() -> dict[str, Path]:
    """Dotted names of the modules in src/gradcore."""
    found = {}
    for path in files("src/gradcore", {".py"}):
        parts = path.relative_to(ROOT / "src").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(module: str, path: Path) -> set[str]:
    """Modules of gradcore that a module imports anywhere, also within functions."""
    known = python_modules().keys() | {f"gradcore.{name}" for name in COMPILED}
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.add(inner if inner in known else source)
    return {name for name in found if name.split(".")[0] == "gradcore"} - {module}


def loaded(module: str, path: Path) -> set[str]:
    """The modules that the import of a module loads first: its own imports, and the packages of
    these.

    Packages that contain the module itself are left out, because they are already being loaded.
    """
    found = imported(module, path)
    for name in set(found):
        parts = name.split(".")
        found |= {".".join(parts[:depth]) for depth in range(1, len(parts))}
    inside = {module.rpartition(".")[0]}
    while "." in (package := min(inside, key=len)):
        inside.add(package.rpartition(".")[0])
    return found - inside - {"gradcore", module}


def files(folder: str, endings: set[str]) -> list[Path]:
    found = sorted(p for p in (ROOT / folder).rglob("*") if p.suffix in endings)
    assert found, f"no sources in {folder}"
    return found


def includes(path: Path) -> list[str]:
    return INCLUDE.findall(path.read_text())


def test_core_never_sees_python() -> None:
    for path in files("csrc", SOURCES):
        for name in includes(path):
            assert not re.search(r"Python\.h|pybind11|numpy", name), f"{path} includes {name}"


def test_folders_of_the_core_depend_one_way() -> None:
    for path in files("csrc", SOURCES):
        folder = path.relative_to(ROOT / "csrc").parts[0]
        assert folder in ALLOWED, f"{path}: say in ALLOWED what {folder} may include"
        for name in includes(path):
            if name.startswith("gradcore/") or not (ROOT / "csrc" / name).exists():
                continue  # a public header, or one of the system
            target = Path(name).parts[0]
            assert target == folder or target in ALLOWED[folder], f"{path} includes {name}"


def test_folders_of_the_sequence_depend_one_way() -> None:
    """Scales know no stages, stages no derivatives, and nothing in a folder knows the job."""
    for path in files("csrc/sequence", SOURCES):
        parts = path.relative_to(ROOT / "csrc" / "sequence").parts
        if len(parts) == 1:
            continue
        for name in includes(path):
            target = Path(name).parts
            if target[0] != "sequence":
                continue
            if len(target) == 3:
                allowed = target[1] == parts[0] or target[1] in SEQUENCE[parts[0]]
            else:
                allowed = target[1] not in ("job.h", "pipeline.h")
            assert allowed, f"{path} includes {name}"


def cpp_sources() -> Iterator[tuple[Path, list[cpp_source.Class], list[cpp_source.Function]]]:
    for path in files("csrc", SOURCES - {".def"}):
        yield (path, *cpp_source.read(path.read_text()))


def test_no_class_of_the_core_has_more_than_60_members() -> None:
    for path, classes, _ in cpp_sources():
        for found in classes:
            assert found.members <= 60, f"{path}: {found}"


def test_no_function_of_the_core_has_more_than_80_lines() -> None:
    """But for kernels, whose loops lose speed where they are cut."""
    for path, _, functions in cpp_sources():
        if path.relative_to(ROOT / "csrc").parts[0] == "kernels":
            continue
        for found in functions:
            assert found.lines <= 80, f"{path}: {found.name} has {found.lines} lines"


def test_the_job_keeps_the_order_of_stages_and_no_more() -> None:
    classes, _ = cpp_source.read((ROOT / "csrc" / "sequence" / "job.h").read_text())
    job = next(found for found in classes if found.name == "Job")
    assert "backward_chunk" in job.methods
    assert "stages_" in job.fields
    assert len(job.methods) <= 40, job.methods
    assert len(job.fields) <= 25, job.fields


def test_members_and_lines_are_counted() -> None:
    """The test of the tests above."""
    classes, functions = cpp_source.read(
        """
        #define IGNORED(x) { x
        // struct Comment { int none; };
        template <class T, int N = 3>
        class Counted : public Base<T> {
         public:
          Counted(int a, int b) : a_(a), b_{b} {}
          ~Counted();
          virtual T one(const std::vector<int>& v) const = 0;
          template <class F>
          void two(F f) {
            for (int i = 0; i < 3; i++) f([&] { return i; });
          }
          enum class Kind { first, second };
          friend class Other;
          using Number = int;

         private:
          int a_, b_[2] = {1, 2}, *c_ = nullptr;
          std::function<void(int)> function_;
          void (*pointer_)(int, int);
          static constexpr int width = 4;
        };

        namespace named {
        int free_function(int x) {
          if (x) {
            return 1;
          }
          return 0;
        }
        }  // namespace named
        """
    )
    (counted,) = classes
    assert counted.methods == ["Counted", "~Counted", "one", "two"]
    assert counted.fields == ["a_", "b_", "c_", "function_", "pointer_", "width"]
    assert {found.name: found.lines for found in functions}["free_function"] == 6


def test_every_project_include_is_found_from_the_root_of_the_core() -> None:
    """Quoted includes name their folder, so that the rule above checks all of them."""
    quoted = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
    for path in files("csrc", SOURCES):
        for name in quoted.findall(path.read_text()):
            assert (ROOT / "csrc" / name).is_file(), f"{path} includes {name}"


def test_python_package_has_no_compiled_sources() -> None:
    found = [p for p in (ROOT / "src").rglob("*") if p.suffix in MODULES]
    assert found == []


def test_python_package_loads_no_library_by_hand() -> None:
    for path in files("src", {".py"}):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & {"ctypes", "cffi"}, path


def test_bindings_contain_no_mathematics_and_see_only_the_public_headers() -> None:
    for path in files("python", MODULES):
        text = path.read_text()
        assert not re.search(r"<(cmath|math\.h|numeric|complex|valarray)>", text), path
        assert not re.search(r"cimport\s+libc\.math|from\s+libc\.math", text), path
        for name in includes(path):
            assert not (ROOT / "csrc" / name).exists(), f"{path} includes {name}"


def test_isa_sources_use_no_standard_containers() -> None:
    """For every file that a per-ISA source includes: templates of std:: would be compiled for its
    level. CMake makes the files of cells; they include headers of cells and kernels.
    """
    allowed = {"cstddef", "cstdint", "stdint.h", "type_traits", "immintrin.h"}
    seen: set[str] = set()
    csrc = ROOT / "csrc"
    found = [
        *csrc.rglob("*.isa.cpp"),
        *(csrc / "cells").glob("*.h"),
        csrc / "kernels/cell_kernels.h",
        csrc / "kernels/plugin.h",
    ]
    todo = [str(path.relative_to(csrc)) for path in found]
    assert len(todo) > 5
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for included in includes(ROOT / "csrc" / name):
            if (ROOT / "csrc" / included).exists():
                todo.append(included)
            elif (csrc / "include" / included).exists():
                todo.append(f"include/{included}")  # a public header
            elif (
                name != "base/team.h"
            ):  # the team's interface, whose code is not inlined into kernels
                assert included in allowed, f"{name} includes {included}"


def test_no_file_has_more_than_700_lines() -> None:
    folders = ["csrc", "python", "src", "tests", "benchmarks"]
    for folder in folders:
        for path in files(folder, MODULES | {".py"}):
            count = len(path.read_text().splitlines())
            assert count <= 700, f"{path} has {count} lines: more than one responsibility?"


def test_no_function_has_more_than_80_lines() -> None:
    """Counts from the first line of the function to its last, docstring included."""
    for path in files("src/gradcore", {".py"}):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                count = node.end_lineno - node.lineno + 1
                assert count <= 80, f"{path}: {node.name} has {count} lines"


def test_every_source_of_the_core_is_built() -> None:
    listed = (ROOT / "csrc/CMakeLists.txt").read_text()
    for path in files("csrc", {".cpp", ".c", ".cc"}):
        name = path.relative_to(ROOT / "csrc")
        assert f"  {name}\n" in listed, f"{path} is not in csrc/CMakeLists.txt"


def test_nothing_of_the_library_imports_an_application() -> None:
    for module, path in python_modules().items():
        if module.startswith("gradcore.apps"):
            continue
        found = [name for name in imported(module, path) if name.startswith("gradcore.apps")]
        assert found == [], f"{path} imports {found}"


def test_only_tests_of_applications_import_them() -> None:
    for path in files("tests", {".py"}):
        if path.relative_to(ROOT / "tests").parts[0] in ("apps", "fuzz"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("gradcore.apps"), path


def test_shelves_depend_one_way() -> None:
    """A private shelf imports only itself and what SHELVES lists, also within functions."""
    for module, path in python_modules().items():
        shelf = module.split(".")[1] if "." in module else ""
        if shelf not in SHELVES:
            continue
        for name in imported(module, path):
            part = name.split(".")[1] if "." in name else "gradcore"
            assert part in SHELVES[shelf] | {shelf, *COMPILED}, f"{path} imports {name}"


def test_no_imports_go_in_a_circle() -> None:
    """Imports within functions and for type checkers only count as all others do."""
    graph = {name: loaded(name, path) for name, path in python_modules().items()}
    sorter = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_fewer_than_300_names_are_public() -> None:
    """Counts public modules, and the classes and functions of gradcore that can be reached in each.

    What can be reached in two modules, as errors can, counts once. A helper that a public module
    imports by its name counts: import its module instead.
    """
    modules, things = [], {}
    for name in python_modules():
        if any(part.startswith("_") or part == "apps" for part in name.split(".")):
            continue
        try:
            module = import_module(name)
        except ImportError:  # gradcore.torch, if PyTorch is not installed
            continue
        modules.append(name)
        for inner in dir(module):  # vars() would lack what gradcore loads when it is first used
            if inner.startswith("_"):
                continue
            value = getattr(module, inner)
            ours = getattr(value, "__module__", "").startswith("gradcore")
            if ours and (inspect.isclass(value) or inspect.isfunction(value)):
                things[id(value)] = f"{name}.{inner}"
    assert len(modules) + len(things) < 300, (modules, things)


def test_layout_page_has_a_line_for_every_folder() -> None:
    page = (ROOT / "docs" / "layout.md").read_text()
    for folder in ("csrc", "tests", "src/gradcore", "src/gradcore/apps", "benchmarks"):
        for path in (ROOT / folder).iterdir():
            if path.is_dir() and not path.name.startswith(("__", ".")):
                name = path.relative_to(ROOT)
                assert f"`{name}/" in page or path.name in page, f"{name} is not in docs/layout.md"


# ---- Compiled objects --------------------------------------------------------------------------


def build_folder() -> Path | None:
    """GRADCORE_BUILD_DIR, or the folder where `pip install .` leaves its objects."""
    if named := os.environ.get("GRADCORE_BUILD_DIR"):
        return Path(named)
    built = [p for p in ROOT.glob("build/cp*") if any(p.rglob("gradcore_isa_*.dir"))]
    return max(built, key=lambda p: p.stat().st_mtime, default=None)


def isa_objects() -> Iterator[tuple[str, Path]]:
    folder = build_folder()
    if folder is None:
        return
    for path in sorted(folder.rglob("gradcore_isa_*.dir/**/*.o")):
        if match := re.search(r"gradcore_isa_(\w+)\.dir", str(path)):
            yield match[1], path


def shared_symbols(path: Path) -> list[str]:
    """Mangled names of the symbols that other objects can see or replace."""
    run = subprocess.run(["nm", str(path)], capture_output=True, text=True, check=True)
    rows = [re.match(r"[0-9a-f]*\s+(\S) (\S+)", line) for line in run.stdout.splitlines()]
    symbols = [(row[1], row[2]) for row in rows if row]
    assert symbols, f"nm found no symbols in {path}"
    # Upper case means global or weak, u, v and w unique or weak, U defined elsewhere.
    return [name for kind, name in symbols if (kind.isupper() and kind != "U") or kind in "uvw"]


def is_inside(level: str, symbol: str) -> bool:
    """Whether a mangled name is, or belongs to, a member of gradcore::<level>."""
    return bool(re.match(rf"_Z(Z|GV|GR|T[VTIS])*N[KVrRO]*8gradcore{len(level)}{level}", symbol))


@pytest.mark.parametrize(
    ("symbol", "inside"),
    [
        ("_ZN8gradcore2v312kernel_tableE", True),
        ("_ZN8gradcore2v35DenseIfE5denseEPf", True),
        ("_ZZN8gradcore2v31fEvE1x", True),
        ("_ZNK8gradcore4Team4sizeEv", False),
        ("_ZN8gradcore2v412kernel_tableE", False),
        ("_ZNSt4pairIiN8gradcore2v31XEEC2Ev", False),
        ("_ZSt3maxIfERKT_S2_S2_", False),
        ("DW.ref.__gxx_personality_v0", False),
    ],
)
def test_the_namespace_of_a_symbol_is_told_from_its_name(symbol: str, inside: bool) -> None:
    assert is_inside("v3", symbol) == inside


def test_objects_of_a_level_define_nothing_outside_its_namespace() -> None:
    """The linker keeps one copy of a weak symbol, so a copy for v4 would run on a machine with
    v2.
    """
    objects = list(isa_objects())
    if shutil.which("nm") is None or (not objects and "GRADCORE_BUILD_DIR" not in os.environ):
        pytest.skip("needs nm and the objects of a build: set GRADCORE_BUILD_DIR")
    assert len(objects) >= 2, f"no objects of instruction-set levels in {build_folder()}"
    for level, path in objects:
        outside = [name for name in shared_symbols(path) if not is_inside(level, name)]
        assert outside == [], f"{path} at {level}"


def test_core_library_is_below_4_mb() -> None:
    import gradcore._core

    (library,) = Path(gradcore._core.__file__).parent.glob("libgradcore.so*")
    assert library.stat().st_size < 4_000_000


def test_core_library_exports_the_c_abi_and_nothing_else() -> None:
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    import gradcore._core

    (library,) = Path(gradcore._core.__file__).parent.glob("libgradcore.so*")
    run = subprocess.run(
        ["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True
    )
    exported = {line.split()[-1].split("@")[0] for line in run.stdout.splitlines()}
    header = "".join(p.read_text() for p in (ROOT / "csrc/include/gradcore").glob("*.h"))
    declared = set(re.findall(r"GC_API\b[^;(]*\b(gc_\w+)\(", header))
    assert declared
    assert exported == declared
