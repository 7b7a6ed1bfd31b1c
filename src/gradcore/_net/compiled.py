"""Layers whose cell a user has written: its C++ is compiled once and loaded as a plug-in."""

from __future__ import annotations

import hashlib
import keyword
import re
import threading
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar

import numpy as np

from .. import _core
from .._base.checks import choice, finite_float, float_in, store
from ..errors import ArgumentError, CompileError, DTypeError
from .compiler import plugin
from .layers import Cell, Recurrent

__all__ = ["CellSource", "CompiledCell", "compile", "compiled", "known"]

# GC_CELL_OPTIONS of gradcore.h.
MOST_OPTIONS = 8
# A header of a file must not have the compiler read gigabytes.
LONGEST_SOURCE = 100_000
DTYPES = ("float32", "float64")
_STRUCT = re.compile(r"^\s*struct\s+([A-Za-z]\w*)\s*\{", re.MULTILINE)
_INCLUDE = re.compile(r"^\s*#\s*include\b", re.MULTILINE)
_LEVELS = {"baseline": 0, "v2": 2, "v3": 3, "v4": 4}
_TYPES = {"float32": "float", "float64": "double"}


@dataclass(frozen=True)
class CellSource:
    """A cell as its user wrote it: all that is needed to compile it again.

    source: C++ of one struct. name: the struct. options: names of its run-time options with their
    default values, in order.
    """

    source: str
    name: str
    options: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.source, str):
            raise DTypeError(f"the source of a cell must be a str; got {self.source!r}.")
        if len(self.source) > LONGEST_SOURCE:
            raise ArgumentError(
                f"the source of a cell must have at most {LONGEST_SOURCE:,} characters; got "
                f"{len(self.source):,}."
            )
        if self.name not in _STRUCT.findall(self.source):
            raise ArgumentError(
                f"the source of the cell must have a line 'struct {self.name} {{'; it has "
                f"{', '.join(_STRUCT.findall(self.source)) or 'no struct'}."
            )
        if _INCLUDE.search(self.source):
            raise ArgumentError(
                "the source of a cell must not have #include: all that a cell can use is there."
            )
        self._check_options()

    def _check_options(self) -> None:
        if len(self.options) > MOST_OPTIONS:
            raise ArgumentError(
                f"a cell can have at most {MOST_OPTIONS} options; got {len(self.options)}."
            )
        taken = {field.name for field in fields(Recurrent)} | {"zoneout_cell", "cell", "source"}
        for name, value in self.options:
            usable = isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9_]*", name)
            if not usable or keyword.iskeyword(name) or name in taken:
                raise ArgumentError(
                    "an option of a cell must have a name of small letters, digits and _ that no "
                    f"option of recurrent layers has; got {name!r}."
                )
            finite_float(f"the option {name}", value)

    @property
    def unique(self) -> str:
        """The name under which the core knows the cell."""
        said = "\0".join([self.source, self.name, *(f"{n}={v!r}" for n, v in self.options)])
        return f"{self.name}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"

    def main(self, dtype: str, level: str) -> str:
        """The C++ file that includes the source and makes a plug-in of it."""
        names = [name for name, _ in self.options]
        members = "".join(f"  Option {name};\n" for name in names)
        values = ", ".join(f"{name}(all.value[{i}])" for i, name in enumerate(names))
        return (
            '#include "kernels/plugin.h"\n'
            "namespace gradcore::GRADCORE_ISA::user {\n"
            f"struct Options {{\n{members}"
            f"  explicit constexpr Options([[maybe_unused]] const CellOptions& all)"
            f"{' : ' + values if values else ''} {{}}\n}};\n"
            f'#include "{self.name}.h"\n'
            "}\n"
            f"GRADCORE_PLUGIN({self.name}, {_LEVELS[level]}, {_TYPES[dtype]}, "
            f'"{self.unique}", "{" ".join(names)}", '
            f"{', '.join(repr(float(value)) for _, value in self.options) or '0'})\n"
        )


@dataclass(frozen=True)
class CompiledCell(Recurrent):
    """Base class of the layers that gradcore.cells.compile makes; options are fields of these."""

    source: ClassVar[CellSource]

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        for option, _ in self.source.options:
            store(self, option, finite_float(f"{name}.{option}", getattr(self, option)))
        if len(self.cell.states) > 1:
            zoneout = float_in(f"{name}.zoneout_cell", self.core_zoneout_cell, 0.0, 1.0)
            store(self, "zoneout_cell", zoneout)

    def gate_function(self, gate: str) -> str:
        functions = self.cell.functions
        return functions[self.cell.gates.index(gate)] if functions else "unknown"

    @property
    def core_zoneout_cell(self) -> float:
        return getattr(self, "zoneout_cell", 0.0)

    @property
    def core_options(self) -> tuple[float, ...]:
        return tuple(getattr(self, option) for option, _ in self.source.options)

    def make_ready(self, dtype: np.dtype[Any]) -> None:
        _load(self.source, dtype.name)

    def __reduce__(self) -> tuple[Any, ...]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return _restored, (self.source, values)


def _restored(source: CellSource, values: dict[str, Any]) -> CompiledCell:
    return compiled(source)(**values)


# The classes that are there, by the unique name of the cell.
_CLASSES: dict[str, type[CompiledCell]] = {}
# The cells that the core has, by unique name, dtype and instruction-set level.
_READY: set[tuple[str, str, str]] = set()
_LOCK = threading.RLock()


def known(source: CellSource) -> bool:
    """Whether this very cell has been compiled in this process."""
    return source.unique in _CLASSES


def compile(
    source: str,
    *,
    name: str | None = None,
    options: Mapping[str, float] | None = None,
    dtype: str = "float32",
) -> type[CompiledCell]:
    """Compiles a cell that is written in C++ and returns its layer, a class like gradcore.LSTM.

    source: one struct with the names of its gates and states and a function forward, in the small
    language that docs/howto/your_own_cell.md describes. Its derivatives are derived. name: that of
    the struct; None: the first one of the source. options: names of numbers that each layer can set
    (`o.leak` in forward, `leak=` in the layer), with their default values. dtype: "float32" or
    "float64", the precision that is compiled now; the other one is compiled when it is first used.

    The compiler is the one that the environment variable CXX names, or c++, g++ or clang++. What
    it makes is kept in the folder GRADCORE_CACHE (or gradcore in XDG_CACHE_HOME or ~/.cache), for
    this version of the source, of gradcore, of the compiler and of the instruction set. The code
    runs with all rights of the process: compile only what you would run.

    Raises CompileError with the lines in which the compiler found errors, or if there is no
    compiler; ArgumentError if the cell has more than 4 gates or 4 states, has another name, gives
    infinity or NaN where all is zero, or has a backward that is not the derivative of forward.
    Reference: Griewank and Walther 2008, section 3.1 (the derivation, by dual numbers).
    """
    if not isinstance(source, str):
        raise DTypeError(f"source must be a str with C++; got {source!r}.")
    if name is None:
        found = _STRUCT.search(source)
        if found is None:
            raise ArgumentError("source must have a line 'struct Name {'; it has none.")
        name = found[1]
    given = tuple((str(key), float(value)) for key, value in (options or {}).items())
    choice("dtype", dtype, DTYPES)
    return compiled(CellSource(source, name, given), dtype)


def compiled(source: CellSource, dtype: str = "float32") -> type[CompiledCell]:
    """The layer of a cell; the same class for the same cell."""
    with _LOCK:
        if (made := _CLASSES.get(source.unique)) is None:
            if not _is_known_to_the_core(source):
                _load(source, dtype)
            made = _CLASSES[source.unique] = _layer_class(source)
        return made


def _is_known_to_the_core(source: CellSource) -> bool:
    return any(facts.name == source.unique for facts in _core.cell_facts(registered=True))


def _load(source: CellSource, dtype: str) -> None:
    """Has the core know the cell in this precision at the level in use."""
    level = _core.isa_in_use()
    if (source.unique, dtype, level) in _READY:
        return
    with _LOCK:
        path = plugin(source.source, source.main(dtype, level), source.name, level)
        try:
            _core.load_cell(str(path))
        except ArgumentError as error:
            raise type(error)(_with_name(str(error), source)) from None
        _READY.add((source.unique, dtype, level))


def _with_name(message: str, source: CellSource) -> str:
    return message.replace(source.unique, source.name)


def _layer_class(source: CellSource) -> type[CompiledCell]:
    registered = _core.cell_facts(registered=True)
    facts = next(facts for facts in registered if facts.name == source.unique)
    gates, functions = tuple(facts.gates.split()), tuple(facts.functions.split())
    for named in (facts.memory_gate, facts.input_gate):
        if named and named not in gates:
            raise CompileError(f"the cell {source.name} has no gate {named!r}: {facts.gates!r}.")
    if functions and len(functions) != len(gates):
        raise CompileError(
            f"the cell {source.name} must name a function for each gate; it has {facts.gates!r} "
            f"and {facts.functions!r}."
        )
    cell = Cell(
        source.unique,
        gates=gates,
        functions=functions,
        states=tuple(facts.states.split()),
        memory_gate=facts.memory_gate or None,
        input_gate=facts.input_gate or None,
        tells_gates=facts.keeps_gates,
    )
    text = f"Recurrent layer with the compiled cell {source.name}, gates {', '.join(gates)}."
    options = dict(source.options) | ({"zoneout_cell": 0.0} if len(cell.states) > 1 else {})
    members = {
        "__doc__": text,
        "__module__": __name__,
        "__annotations__": {"_": KW_ONLY, **dict.fromkeys(options, float)},
        "cell": cell,
        "source": source,
        **options,
    }
    return dataclass(frozen=True)(type(source.name, (CompiledCell,), members))
