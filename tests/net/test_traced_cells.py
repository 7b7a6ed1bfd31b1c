"""Cells that users write in Python: they become the C++ that is compiled."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import gradcore as gd
import user_cells
from gradcore import cells
from gradcore._net import compiler, traced
from gradcore.cells import exp, log, maximum, minimum, relu, sigmoid, softplus, sqrt, tanh, where

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, compiler.NAMES)), reason="needs a C++ compiler"
)


def everything(x, h, s, *, leak=0.7):
    a, b = x.a + h.a, x["b"] * h[1]
    c = where(a > b, softplus(a), b / (2 + a**2))
    d = where(b <= s.h, exp(-abs(b)), sqrt(1 + s.c * s.c))
    e = log(1.5 + abs(h.c))
    out = 0.5 * tanh(leak * maximum(c, d) + (1 - leak) * minimum(s.h, e)) + 0.1 * relu(x.d + h.d)
    total = sigmoid(h.c) - tanh(x.c) + 0.25 * b + s.c
    total = total - (where(a >= 0.25, a, 0) + where(b < leak, -b, +b))
    return out, total / 3


@needs_compiler
def test_a_function_computes_what_the_same_cell_in_c_does() -> None:
    own = gd.cell("a b c d", "h c", dtype="float64")(everything)
    other = gd.cells.compile(
        user_cells.EVERYTHING, options=user_cells.OPTIONS["Everything"], dtype="float64"
    )
    assert own.cell.gates == ("a", "b", "c", "d")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4, 3)), rng.standard_normal((30, 4, 9))
    nets = gd.Stack(own(3, 9, leak=0.4)), gd.Stack(other(3, 9, leak=0.4))
    params = nets[0].init(seed=0, dtype="float64")
    params.flat[:] += 0.1 * rng.standard_normal(params.flat.size)
    got, want = (
        gd.value_and_grad(net, gd.Params(net, params.flat), x, y, loss="mse") for net in nets
    )
    assert np.isclose(got.loss, want.loss, rtol=1e-14)
    np.testing.assert_allclose(got.grads.flat, want.grads.flat, rtol=1e-10, atol=1e-15)


@needs_compiler
def test_the_function_itself_runs_on_arrays_and_gives_the_same() -> None:
    def mgu(x, h, s):
        f = sigmoid(x[0] + h[0])
        return s[0] + f * (tanh(x[1] + f * h[1]) - s[0])

    layer = gd.cell("f n", input_gate="f", dtype="float64")(mgu)
    assert layer.cell.input_gate == "f"
    net = gd.Stack(layer(3, 5))
    params = net.init(seed=1, dtype="float64")
    p = {name.partition(".")[2]: value for name, value in params.items()}
    x = np.random.default_rng(0).standard_normal((12, 2, 3))
    h, outputs = np.zeros((2, 5)), []
    for row in x:
        x_pre = np.split(row @ p["weight_ih"].T + p["bias_ih"], 2, axis=1)
        h_pre = np.split(h @ p["weight_hh"].T + p["bias_hh"], 2, axis=1)
        h = mgu(x_pre, h_pre, [h])
        outputs.append(h)
    np.testing.assert_allclose(gd.apply(net, params, x)[0], outputs, rtol=1e-12, atol=1e-15)


def code_of(function, gates="a b", states="h"):
    return traced.traced(function, tuple(gates.split()), tuple(states.split()))


def test_equal_expressions_become_one_line() -> None:
    source, options = code_of(lambda x, h, s, *, k=2: tanh(x.a + h.a) * tanh(x.a + h.a) * k)
    assert source.count("tanh(") == 1
    assert options == {"k": 2.0}


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda x, h, s: x.a if x.a > 0 else h.a, gd.DTypeError, "cannot branch on its numbers"),
        (lambda x, h, s: float(x.a), gd.DTypeError, "cannot branch"),
        (lambda x, h, s: x.a == h.a, gd.DTypeError, "cannot be compared with =="),
        (lambda x, h, s: x.a**0.5, gd.ArgumentError, "powers 1 to 8 as integers; got 0.5"),
        (lambda x, h, s: x.a + "1", gd.DTypeError, "computes with numbers"),
        (lambda x, h, s: x.a * float("inf"), gd.ArgumentError, "must be finite; got inf"),
        (lambda x, h, s: x.z, AttributeError, "has the gates a, b; got z"),
        (lambda x, h, s: (x.a, x.b), gd.ArgumentError, "must return 1 numbers; it returned 2"),
        (lambda x, h, s: where(True, x.a, x.b), gd.DTypeError, "must be a comparison; got True"),
        (lambda x, h, s, *, k: x.a, gd.ArgumentError, "the option k .* default value"),
        (lambda x, h, s: np.tanh(x.a), TypeError, "Traced"),
    ],
)
def test_what_a_function_cannot_do_is_told(function, error, message) -> None:
    with pytest.raises(error, match=message):
        code_of(function)


@pytest.mark.parametrize(
    ("gates", "error", "message"),
    [
        (3, gd.DTypeError, "gates must be a str with names"),
        ("", gd.ArgumentError, "different names"),
        ("a a", gd.ArgumentError, "different names"),
        ("a 2", gd.ArgumentError, "different names"),
    ],
)
def test_names_that_cannot_be_used_are_told(gates, error, message) -> None:
    with pytest.raises(error, match=message):
        gd.cell(gates)
    with pytest.raises(gd.ArgumentError, match="has the gates f; got 'g'"):
        gd.cell("f", memory_gate="g")


def test_functions_of_cells_take_arrays() -> None:
    x = np.array([-2.0, 0.5, 3.0])
    np.testing.assert_allclose(cells.sigmoid(x), 1 / (1 + np.exp(-x)))
    np.testing.assert_allclose(cells.softplus(x), np.log1p(np.exp(x)))
    assert cells.relu(x).tolist() == [0.0, 0.5, 3.0]
    assert cells.maximum(x, 1.0).tolist() == [1.0, 1.0, 3.0]
    assert cells.minimum(x, 1.0).tolist() == [-2.0, 0.5, 1.0]
    assert cells.where(x > 0, x, 0.0).tolist() == [0.0, 0.5, 3.0]
    np.testing.assert_allclose(cells.log(cells.exp(x)), x)
    np.testing.assert_allclose(cells.sqrt(x**2), abs(x))
