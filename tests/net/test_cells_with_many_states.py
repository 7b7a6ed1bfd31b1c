"""Cells of users with three and four states: everything that carries a state from step to step."""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

import gradcore as gd
import user_cells
from gradcore._net import compiled, compiler

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, compiler.NAMES)), reason="needs a C++ compiler"
)
NAMES = ("Slstm", "SlowMemory")
FLOAT64 = {"dtype": "float64"}


@lru_cache
def layer_of(name):
    return gd.cells.compile(
        user_cells.SOURCES[name], options=user_cells.OPTIONS.get(name), **FLOAT64
    )


def net_of(name, **options):
    layer = layer_of(name)
    first = layer(3, 11, bidirectional=True, **options)
    return gd.Stack(first, layer(22, 9, **options), gd.Linear(9, 2))


def numbers(net, steps=23, batch=3):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps, batch, net.input_size))
    params = net.init(seed=2, **FLOAT64)
    params.flat[:] += 0.1 * rng.standard_normal(params.flat.size)
    return params, x, rng.standard_normal((steps, batch, net.output_size)), rng


def reset_at(steps, batch):
    flags = np.zeros((steps, batch), bool)
    flags[7, 0] = flags[15, 1] = True
    return flags


OPTIONS = {
    "skip and zoneout": {"skip": gd.Skip(3, learned=True), "zoneout": 0.2, "zoneout_cell": 0.1},
    "learned start": {"initial_state": "learned"},
    "mix": {"skip": gd.Skip(2, kind="mix"), "recurrent_dropout": 0.3},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", OPTIONS)
def test_gradients_and_tangents_are_those_of_differences(name, case) -> None:
    net = net_of(name, **OPTIONS[case])
    params, x, y, _rng = numbers(net)
    given = {"loss": "mse", "lengths": np.array([23, 14, 19]), "train": True, "seed": 3}
    if case != "learned start":
        given["reset"] = reset_at(*x.shape[:2])
    got = gd.value_and_grad(net, params, x, y, **given)
    for seed in range(3):
        direction = np.random.default_rng(seed).standard_normal(params.flat.size)
        step = 1e-6
        up, down = (
            gd.value_and_grad(net, gd.Params(net, params.flat + s * direction), x, y, **given)
            for s in (step, -step)
        )
        slope = (up.loss - down.loss) / (2 * step)
        assert np.isclose(got.grads.flat @ direction, slope, rtol=1e-6, atol=1e-8)
        product = gd.jacobian.hvp(net, params, x, y, direction[None], **given).product[0]
        change = (up.grads.flat - down.grads.flat) / (2 * step)
        assert np.abs(product - change).max() < 1e-5 * np.abs(change).max()


@pytest.mark.parametrize("name", NAMES)
def test_states_are_carried_given_and_have_gradients(name) -> None:
    layer = layer_of(name)
    net = gd.Stack(layer(3, 11, skip=gd.Skip(2)), gd.Linear(11, 2))
    params, x, _, rng = numbers(net)
    outputs, end = gd.apply(net, params, x)
    first, middle = gd.apply(net, params, x[:10])
    second, last = gd.apply(net, params, x[10:], state=middle)
    assert (np.concatenate([first, second]) == outputs).all()
    assert end[0].further.shape == (len(layer.cell.states) - 2, 3, 11)
    for one, other in zip(end, last, strict=True):
        for field in ("h", "c", "skip", "further"):
            assert (getattr(one, field) == getattr(other, field)).all()
    stepper = gd.Stepper(net, params, batch=3)
    steps = np.stack([stepper.step(row) for row in x])
    np.testing.assert_allclose(steps, outputs, rtol=1e-12)

    # Of the state between: cotangents against differences, tangents as their transpose.
    w = rng.standard_normal((1, *second.shape))
    back = gd.jacobian.vjp(net, params, x[10:], d_outputs=w, state=middle)
    for field in ("c", "further"):
        move = rng.standard_normal(getattr(middle[0], field).shape)
        moved = []
        for s in (1e-6, -1e-6):
            changed = {field: getattr(middle[0], field) + s * move}
            state = {f: getattr(middle[0], f).copy() for f in ("h", "c", "skip", "further")}
            start = gd.LayerState(**(state | changed))
            moved.append((gd.apply(net, params, x[10:], state=[start])[0] * w[0]).sum())
        pulled = np.ldexp(getattr(back.dstate[0], field)[0], int(back.dstate_exponent[0, 0]))
        slope = (moved[0] - moved[1]) / 2e-6
        assert np.isclose((pulled * move).sum(), slope, rtol=1e-6, atol=1e-8)
    with pytest.raises(gd.ArgumentError, match=r"state\[0\].further must be an array"):
        gd.apply(net, params, x, state=[gd.LayerState(end[0].h, end[0].c, end[0].skip)])


@pytest.mark.parametrize("name", NAMES)
def test_budgets_and_threads_do_not_change_the_bits(name) -> None:
    net = net_of(name, initial_state="learned", zoneout_cell=0.1)
    params, x, y, _ = numbers(net, 500, 5)
    want = gd.value_and_grad(net, params, x, y, loss="mse", seed=1)
    full = gd.plan(net, steps=500, batch=5, dtype="float64", loss="mse", memory=None)
    for memory, threads in ((full.bytes // 2, 1), (None, 3), (full.bytes * 2 // 3, 4)):
        got = gd.value_and_grad(
            net, params, x, y, loss="mse", seed=1, memory=memory, threads=threads
        )
        assert got.loss == want.loss
        assert (got.grads.flat == want.grads.flat).all()


def test_a_stabilised_slstm_computes_what_the_plain_equations_do() -> None:
    """Beck et al. 2024, eq. 8 to 14, without the stabiliser; far from overflow both agree."""
    net = gd.Stack(layer_of("Slstm")(3, 7))
    params, x, _, _ = numbers(net)
    p = {key.partition(".")[2]: value for key, value in params.items()}
    h = np.zeros((3, 7))
    c, n, outputs = h, h, []
    for row in x:
        a = row @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]
        z, i, f, o = np.split(a, 4, axis=1)
        f, i = 1 / (1 + np.exp(-f)), np.exp(i)
        c, n = f * c + i * np.tanh(z), f * n + i
        h = 1 / (1 + np.exp(-o)) * c / n
        outputs.append(h)
    np.testing.assert_allclose(gd.apply(net, params, x)[0], outputs, rtol=1e-11, atol=1e-13)
    # The input gate may be far beyond what exp() can hold.
    params.flat[:] *= 300
    assert np.isfinite(gd.apply(net, params, x)[0]).all()


def test_a_file_brings_the_states_back(tmp_path: Path, monkeypatch) -> None:
    net = net_of("Slstm", initial_state="learned")
    params, x, _, _ = numbers(net)
    assert "0.initial_m_reverse" in params
    gd.save(tmp_path / "net", net, params)
    monkeypatch.setattr(compiled, "_CLASSES", {})
    again = gd.load(tmp_path / "net", allow_compile=True)
    assert (gd.apply(again.net, again.params, x)[0] == gd.apply(net, params, x)[0]).all()


def test_more_than_four_states_are_told() -> None:
    source = user_cells.SLSTM.replace('"h c n m"', '"h c n m q"')
    with pytest.raises(gd.CompileError, match="a cell can have at most four states"):
        gd.cells.compile(source)
