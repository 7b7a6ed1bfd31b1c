"""Properties over random nets: plans keep their budget, and checkpoints and states are restored."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradcore as gd
from gradcore._net.cells import CELLS
from gradcore._net.state import flatten, state_size, unflatten

sizes = st.integers(1, 33)


@st.composite
def skips(draw):
    kind = draw(st.sampled_from(["add", "mix"]))
    value = draw(st.floats(0.05, 0.95))
    return gd.Skip(draw(st.integers(1, 300)), kind=kind, value=value, learned=draw(st.booleans()))


@st.composite
def nets(draw):
    width = draw(sizes)
    layers = [gd.Embedding(draw(sizes), width)] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        residual = draw(st.booleans())
        hidden = width if residual else draw(sizes)
        options = {
            "bias": draw(st.booleans()),
            "residual": residual,
            "skip": draw(st.none() | skips()),
        }
        layers.append(draw(st.sampled_from(CELLS))(width, hidden, **options))
        width = hidden
    if draw(st.booleans()):
        layers.append(gd.Linear(width, draw(sizes), bias=draw(st.booleans())))
    return gd.Stack(*layers)


@settings(max_examples=40, deadline=None)
@given(
    net=nets(),
    steps=st.integers(1, 20_000),
    batch=st.integers(1, 9),
    part=st.floats(0.0, 1.0),
    lengths=st.booleans(),
)
def test_every_budget_from_the_smallest_on_is_kept(net, steps, batch, part, lengths):
    options = {"loss": "mse", "lengths": lengths, "wrt": ("params", "state")}
    full = gd.plan(net, steps, batch, memory="full", **options).bytes
    try:
        smallest = gd.plan(net, steps, batch, memory=1, **options).bytes
    except gd.MemoryBudgetError as error:
        smallest = error.smallest
    assert smallest <= full
    budget = int(smallest + part * (full - smallest))
    plan = gd.plan(net, steps, batch, memory=budget, **options)
    assert plan.bytes <= budget
    assert plan.recomputed_steps < steps * max(1, plan.levels)
    with pytest.raises(gd.MemoryBudgetError):
        gd.plan(net, steps, batch, memory=smallest - 1, **options)


@settings(max_examples=40, deadline=None)
@given(net=nets(), dtype=st.sampled_from(["float32", "float64"]), seed=st.integers(0, 2**40))
def test_checkpoints_come_back(net, dtype, seed):
    params = net.init(seed=seed, dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        gd.save(Path(folder) / "net", net, params, seed=seed)
        loaded = gd.load(Path(folder) / "net")
    assert loaded == (net, params, {"seed": seed})


@settings(max_examples=40, deadline=None)
@given(net=nets(), batch=st.integers(1, 5), seed=st.integers(0, 99))
def test_states_come_back(net, batch, seed):
    flat = np.random.default_rng(seed).standard_normal(state_size(net, batch))
    state = unflatten(net, batch, flat)
    assert len(state) == len(net.recurrent)
    np.testing.assert_array_equal(flatten(net, batch, flat.dtype, state), flat)


@settings(max_examples=25, deadline=None)
@given(net=nets(), cut=st.integers(1, 11), batch=st.integers(1, 3), seed=st.integers(0, 99))
def test_state_carries_on_over_any_cut(net, cut, batch, seed):
    rng = np.random.default_rng(seed)
    if net.embedding:
        x = rng.integers(0, net.vocabulary, (12, batch))
    else:
        x = rng.standard_normal((12, batch, net.input_size)).astype(np.float32)
    params = net.init(seed=seed)
    whole, end = gd.apply(net, params, x)
    first, state = gd.apply(net, params, x[:cut])
    second, carried = gd.apply(net, params, x[cut:], state=state)
    np.testing.assert_array_equal(np.concatenate([first, second]), whole)
    for one, other in zip(end, carried, strict=True):
        np.testing.assert_array_equal(one.h, other.h)
