"""Cells written in Python: a function is called once with symbols, and what it does becomes C++."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any

import numpy as np

from ..errors import ArgumentError, DTypeError
from .compiled import CompiledCell, compile

__all__ = [
    "cell",
    "exp",
    "log",
    "maximum",
    "minimum",
    "relu",
    "sigmoid",
    "softplus",
    "sqrt",
    "tanh",
    "where",
]

# A gate or a state: it is a name in Python and in the generated C++.
_NAME = re.compile(r"[A-Za-z]\w*")
LARGEST_POWER = 8


class _Code:
    """The lines of C++ that a function has become; equal expressions become one line."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._names: dict[str, str] = {}

    def name(self, expression: str, prefix: str = "t", kind: str = "const V") -> str:
        if expression not in self._names:
            made = self._names[expression] = f"{prefix}{len(self._names)}"
            self.lines.append(f"{kind} {made} = {expression};")
        return self._names[expression]


class Traced:
    """A number of a cell while its function is traced: it stands for a value in the C++ code."""

    __array_ufunc__ = None  # NumPy's operators refuse it, instead of making arrays of objects
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, code: _Code, text: str) -> None:
        self._code, self._text = code, text

    def _make(self, template: str, *operands: Any) -> Traced:
        texts = [_text(self._code, operand) for operand in operands]
        return Traced(self._code, self._code.name(template.format(*texts)))

    def __add__(self, other: Any) -> Traced:
        return self._make("{} + {}", self, other)

    def __radd__(self, other: Any) -> Traced:
        return self._make("{} + {}", other, self)

    def __sub__(self, other: Any) -> Traced:
        return self._make("{} - {}", self, other)

    def __rsub__(self, other: Any) -> Traced:
        return self._make("{} - {}", other, self)

    def __mul__(self, other: Any) -> Traced:
        return self._make("{} * {}", self, other)

    def __rmul__(self, other: Any) -> Traced:
        return self._make("{} * {}", other, self)

    def __truediv__(self, other: Any) -> Traced:
        return self._make("{} / {}", self, other)

    def __rtruediv__(self, other: Any) -> Traced:
        return self._make("{} / {}", other, self)

    def __neg__(self) -> Traced:
        return self._make("-{}", self)

    def __pos__(self) -> Traced:
        return self

    def __abs__(self) -> Traced:
        return self._make("abs({})", self)

    def __pow__(self, power: Any) -> Traced:
        if isinstance(power, bool) or not isinstance(power, int) or not 1 <= power <= LARGEST_POWER:
            raise ArgumentError(
                f"a number of a cell can have the powers 1 to {LARGEST_POWER} as integers; got "
                f"{power!r}. Others are exp(power * log(x)) for positive x."
            )
        result = self
        for _ in range(power - 1):
            result = result * self
        return result

    def __gt__(self, other: Any) -> _Condition:
        return _Condition(self, ">", other)

    def __lt__(self, other: Any) -> _Condition:
        return _Condition(self, "<", other)

    def __ge__(self, other: Any) -> _Condition:
        return _Condition(self, ">=", other)

    def __le__(self, other: Any) -> _Condition:
        return _Condition(self, "<=", other)

    def __eq__(self, other: object) -> Any:
        raise DTypeError("numbers of a cell cannot be compared with == or !=; use <, <=, > or >=.")

    __ne__ = __eq__

    def __bool__(self) -> bool:
        raise DTypeError(
            "a cell cannot branch on its numbers, because all units are computed at once. Use "
            "where(condition, a, b), which takes a where the condition holds and else b."
        )

    __float__ = __int__ = __index__ = __bool__

    def __repr__(self) -> str:
        return f"<number {self._text} of a cell>"


class _Condition:
    """A comparison of two numbers of a cell."""

    __bool__ = Traced.__bool__

    def __init__(self, left: Traced, sign: str, right: Any) -> None:
        self.code = left._code
        self.text = f"{left._text} {sign} {_text(self.code, right)}"


def _text(code: _Code, value: Any) -> str:
    """A number or a traced number in C++."""
    if isinstance(value, Traced):
        if value._code is not code:
            raise DTypeError("a number of one cell is used in another cell.")
        return value._text
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise DTypeError(
            f"a cell computes with numbers and with what it is given; got {value!r}. Functions "
            "like tanh are those of gradcore.cells."
        )
    number = float(value)
    if not math.isfinite(number):
        raise ArgumentError(f"numbers in a cell must be finite; got {number}.")
    return f"V({number!r})"


class _Names:
    """The numbers of all gates or states: by name, by number, or unpacked."""

    def __init__(self, what: str, numbers: dict[str, Traced]) -> None:
        self._what, self._numbers = what, numbers

    def __getattr__(self, name: str) -> Traced:
        if name.startswith("_") or name not in self._numbers:
            raise AttributeError(
                f"the cell has the {self._what} {', '.join(self._numbers)}; got {name}."
            )
        return self._numbers[name]

    def __getitem__(self, key: int | str) -> Traced:
        return self._numbers[key] if isinstance(key, str) else list(self)[key]

    def __iter__(self) -> Iterator[Traced]:
        return iter(self._numbers.values())

    def __len__(self) -> int:
        return len(self._numbers)


# These take numbers and arrays of NumPy, too, so that the function of a cell can be tried on them.


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    return (
        x._make("sigmoid({})", x)
        if isinstance(x, Traced)
        else 0.5 * (1 + np.tanh(0.5 * np.asarray(x)))
    )


def tanh(x: Any) -> Any:
    """The hyperbolic tangent of x."""
    return x._make("tanh({})", x) if isinstance(x, Traced) else np.tanh(x)


def exp(x: Any) -> Any:
    """e^x; in a net it ends at e^87 in float32 and at e^708 in float64."""
    return x._make("exp({})", x) if isinstance(x, Traced) else np.exp(x)


def log(x: Any) -> Any:
    """The natural logarithm of x."""
    return x._make("log({})", x) if isinstance(x, Traced) else np.log(x)


def sqrt(x: Any) -> Any:
    """The square root of x."""
    return x._make("sqrt({})", x) if isinstance(x, Traced) else np.sqrt(x)


def relu(x: Any) -> Any:
    """x where it is positive, else 0; its derivative at 0 is 0."""
    return x._make("relu({})", x) if isinstance(x, Traced) else np.maximum(x, 0)


def softplus(x: Any) -> Any:
    """log(1 + e^x)."""
    return x._make("softplus({})", x) if isinstance(x, Traced) else np.logaddexp(x, 0)


def maximum(a: Any, b: Any) -> Any:
    """The larger of a and b, with its derivative; that of a where they are equal."""
    if isinstance(a, Traced) or isinstance(b, Traced):
        return _first(a, b)._make("max({}, {})", a, b)
    return np.maximum(a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of a and b, with its derivative; that of a where they are equal."""
    if isinstance(a, Traced) or isinstance(b, Traced):
        return _first(a, b)._make("min({}, {})", a, b)
    return np.minimum(a, b)


def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b; the derivative is that of the value taken."""
    if isinstance(condition, _Condition):
        chosen = [_text(condition.code, value) for value in (a, b)]
        name = condition.code.name(f"where({condition.text}, {chosen[0]}, {chosen[1]})")
        return Traced(condition.code, name)
    if isinstance(a, Traced) or isinstance(b, Traced):
        raise DTypeError(f"the condition of where must be a comparison; got {condition!r}.")
    return np.where(condition, a, b)


def _first(*operands: Any) -> Traced:
    return next(operand for operand in operands if isinstance(operand, Traced))


def cell(
    gates: str,
    states: str = "h",
    *,
    memory_gate: str = "",
    input_gate: str = "",
    dtype: str = "float32",
) -> Callable[[Callable[..., Any]], type[CompiledCell]]:
    """Makes a recurrent layer of a function, which says what one unit does in one step.

    gates: names of the gates, separated by blanks, in the order of the rows of the weights. states:
    names of what is carried from step to step; the first one is the output and what weight_hh
    multiplies. The function takes x and h, the parts of the pre-activations that come from the
    layer's input and from the state before (weight_ih @ x + bias_ih and weight_hh @ h + bias_hh),
    each with a number per gate, and s, with a number per state: x.f, x["f"] or x[0]. It returns the
    states after the step, one number or a tuple. Its keyword-only parameters are options of the
    layer, with their default values. It may use arithmetic, abs, powers, and the functions of
    gradcore.cells; it is called once, with symbols, and becomes the C++ that gradcore.cells.compile
    compiles. memory_gate, input_gate: the gates that keep the state and that let new values in,
    which decide whose bias `init` sets.

    Raises DTypeError where the function branches on its numbers or uses other functions;
    ArgumentError for names that cannot be used or another number of states; CompileError if there
    is no compiler.
    """
    gate_names, state_names = _names("gates", gates), _names("states", states)
    for gate in filter(None, (memory_gate, input_gate)):
        if gate not in gate_names:
            raise ArgumentError(f"the cell has the gates {', '.join(gate_names)}; got {gate!r}.")

    def make(function: Callable[..., Any]) -> type[CompiledCell]:
        source, options = traced(function, gate_names, state_names, memory_gate, input_gate)
        return compile(source, name=function.__name__, options=options, dtype=dtype)

    return make


def _names(what: str, text: Any) -> tuple[str, ...]:
    if not isinstance(text, str):
        raise DTypeError(f"{what} must be a str with names; got {text!r}. Write @gd.cell('f n').")
    names = tuple(text.split())
    if not names or len(set(names)) < len(names) or not all(map(_NAME.fullmatch, names)):
        raise ArgumentError(f"{what} must be different names, separated by blanks; got {text!r}.")
    return names


def traced(
    function: Callable[..., Any],
    gates: tuple[str, ...],
    states: tuple[str, ...],
    memory_gate: str = "",
    input_gate: str = "",
) -> tuple[str, dict[str, float]]:
    """The C++ of a function, and its options with their default values."""
    options: dict[str, float] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if isinstance(parameter.default, bool) or not isinstance(parameter.default, Real):
            raise ArgumentError(
                f"the option {name} of a cell must have a number as its default value; got "
                f"{parameter.default!r}."
            )
        options[name] = float(parameter.default)
    code = _Code()
    given = [
        _Names(what, {name: Traced(code, f"{letter}[{i}]") for i, name in enumerate(names)})
        for what, letter, names in (
            ("gates", "x", gates),
            ("gates", "h", gates),
            ("states", "s", states),
        )
    ]
    symbols = {name: Traced(code, code.name(f"o.{name}", "o")) for name in options}
    result = function(*given, **symbols)
    after = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    if len(after) != len(states):
        raise ArgumentError(
            f"the function of a cell with the states {', '.join(states)} must return "
            f"{len(states)} numbers; it returned {len(after)}."
        )
    lines = [*code.lines, *(f"s1[{i}] = {_text(code, value)};" for i, value in enumerate(after))]
    names = {"gates": " ".join(gates), "states": " ".join(states)}
    names |= {"memory_gate": memory_gate, "input_gate": input_gate}
    text = "\n".join(
        [
            f"struct {function.__name__} {{",
            *(f'  static constexpr const char* {what} = "{text}";' for what, text in names.items()),
            "  template <class V>",
            "  static constexpr GC_INLINE void forward(const Options& o, const V* x, const V* h,",
            "                                          const V* s, V* s1) {",
            *(f"    {line}" for line in lines),
            "  }",
            "};",
            "",
        ]
    )
    return text, options
