"""The cells of docs/howto/cells against loops of PyTorch in float64, written from the papers."""

from __future__ import annotations

import ast
import re
import shutil
from functools import lru_cache

import numpy as np
import pytest

import gradcore as gd
from gradcore._net import compiler
from places import ROOT

torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, compiler.NAMES)), reason="needs a C++ compiler"
)

PAGES = ROOT / "docs" / "howto" / "cells"
T, B, I, H = 14, 3, 4, 6


@lru_cache
def cell_of(page):
    """The layer class that a page defines; its imports and decorated functions are run."""
    text = (PAGES / f"{page}.md").read_text()
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for node in ast.parse(code).body:
            decorated = isinstance(node, ast.FunctionDef) and node.decorator_list
            if decorated or isinstance(node, (ast.Import, ast.ImportFrom)):
                exec(compile(ast.Module([node], []), page, "exec"), names)
    (found,) = (
        value
        for value in names.values()
        if isinstance(value, type) and issubclass(value, gd.cells.CompiledCell)
    )
    return found


# Each takes rows of x and weights by name and returns the outputs, one step after the other.


def mgu(x, w, layer):
    h, outputs = x.new_zeros(x.shape[1], H), []
    for row in x:
        x_f, x_n = (row @ w["weight_ih"].T + w["bias_ih"]).split(H, 1)
        h_f, h_n = (h @ w["weight_hh"].T + w["bias_hh"]).split(H, 1)
        f = torch.sigmoid(x_f + h_f)
        h = h + f * (torch.tanh(x_n + f * h_n) - h)
        outputs.append(h)
    return outputs


def min_gru(x, w, layer):
    """In logarithms, as appendix B of the paper does it for training."""
    z_pre, n_pre = (x @ w["weight_ih"].T + w["bias_ih"]).split(H, 2)
    log_keep = -torch.nn.functional.softplus(z_pre)
    log_z = -torch.nn.functional.softplus(-z_pre)
    log_g = torch.where(
        n_pre >= 0, (torch.relu(n_pre) + 0.5).log(), -torch.nn.functional.softplus(-n_pre)
    )
    total = log_keep.cumsum(0)
    return list((total + torch.logcumsumexp(log_z + log_g - total, 0)).exp())


def indrnn(x, w, layer):
    h, outputs = x.new_zeros(x.shape[1], H), []
    for row in x:
        pre = torch.nn.functional.linear(row, w["weight_ih"], w["bias_ih"] + w["bias_hh"])
        h = torch.relu(pre + w["weight_hh"] * h)
        outputs.append(h)
    return outputs


def rate_network(x, w, layer):
    v, outputs = x.new_zeros(x.shape[1], H), []
    for row in x:
        drive = torch.relu(v) @ w["weight_hh"].T + w["bias_hh"] + row @ w["weight_ih"].T
        v = v + layer.alpha * (drive + w["bias_ih"] - v)
        outputs.append(torch.relu(v))
    return outputs


def filter_bank(x, w, layer):
    low = band = x.new_zeros(x.shape[1], H)
    outputs = []
    for row in x:
        u, f, q = (row @ w["weight_ih"].T + w["bias_ih"]).split(H, 1)
        f, q = torch.sigmoid(f), 1.5 * torch.sigmoid(q)
        low = low + f * band
        high = u - low - q * band
        band = band + f * high
        outputs.append(low)
    return outputs


def slstm(x, w, layer):
    """Without the stabiliser: c and n are those of the paper's eq. 8 and 9."""
    blocks = [
        torch.block_diag(*gate.reshape(layer.blocks, -1, gate.shape[1]))
        for gate in w["weight_hh"].split(H)
    ]
    h = c = n = x.new_zeros(x.shape[1], H)
    outputs = []
    for row in x:
        given = (row @ w["weight_ih"].T + w["bias_ih"] + w["bias_hh"]).split(H, 1)
        z, i, f, o = (a + h @ block.T for a, block in zip(given, blocks, strict=True))
        c = torch.sigmoid(f) * c + torch.exp(i) * torch.tanh(z)
        n = torch.sigmoid(f) * n + torch.exp(i)
        h = torch.sigmoid(o) * c / n
        outputs.append(h)
    return outputs


LOOPS = {f.__name__: f for f in (mgu, min_gru, indrnn, rate_network, filter_bank, slstm)}


STRUCTURE = {
    "min_gru": {"recurrent": "none"},
    "indrnn": {"recurrent": "diagonal"},
    "filter_bank": {"recurrent": "none"},
    "slstm": {"recurrent": "blocks", "blocks": 2},
}


def problem(page):
    layer = cell_of(page)(I, H, **STRUCTURE.get(page, {}))
    net = gd.Stack(layer)
    params = net.init(seed=1, dtype="float64")
    rng = np.random.default_rng(2)
    params.flat[:] += 0.3 * rng.standard_normal(params.flat.size)
    x, y = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))
    return net, params, x, y, rng


def by_torch(page, net, params, x, y):
    weights = {n.partition(".")[2]: torch.tensor(v, requires_grad=True) for n, v in params.items()}
    at = torch.tensor(x, requires_grad=True)
    outputs = torch.stack(LOOPS[page](at, weights, net.layers[0]))
    ((outputs - torch.tensor(y)) ** 2).mean().backward()
    grads = {
        f"0.{name}": np.zeros(weight.shape) if weight.grad is None else weight.grad.numpy()
        for name, weight in weights.items()
    }
    return outputs.detach().numpy(), at.grad.numpy(), grads


def test_every_page_has_its_loop():
    assert {path.stem for path in PAGES.glob("*.md")} == set(LOOPS)


@pytest.mark.parametrize("page", LOOPS)
def test_values_and_gradients_are_those_of_a_loop(page):
    net, params, x, y, _ = problem(page)
    outputs, dx, grads = by_torch(page, net, params, x, y)
    np.testing.assert_allclose(gd.apply(net, params, x)[0], outputs, rtol=1e-11, atol=1e-13)
    got = gd.value_and_grad(net, params, x, y, loss="mse", wrt=("params", "x"))
    np.testing.assert_allclose(got.dx, dx, rtol=1e-10, atol=1e-14)
    for name, grad in grads.items():
        np.testing.assert_allclose(got.grads[name], grad, rtol=1e-10, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("page", LOOPS)
def test_gradients_are_those_of_differences(page):
    net, params, x, y, rng = problem(page)
    got = gd.value_and_grad(net, params, x, y, loss="mse")
    direction = rng.standard_normal(params.flat.size)
    step = 1e-6
    up, down = (
        gd.value(net, gd.Params(net, params.flat + s * direction), x, y, loss="mse")
        for s in (step, -step)
    )
    slope = got.grads.flat @ direction
    assert np.isclose((up - down) / (2 * step), slope, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("page", LOOPS)
def test_a_cell_has_about_twenty_lines(page):
    text = (PAGES / f"{page}.md").read_text()
    first = re.search(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[1]
    cell = first[: first.index("    return")]
    assert len(cell.splitlines()) <= 20
