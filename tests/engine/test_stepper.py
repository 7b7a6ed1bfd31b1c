"""Stepper gives the same as apply, step by step."""

from __future__ import annotations

import numpy as np
import pytest

import gradcore as gd

T, B = 20, 3
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 11, (T, B))
FLOATS = RNG.standard_normal((T, B, 4))

NETS = {
    "tokens": (
        gd.Stack(gd.Embedding(11, 4), gd.LSTM(4, 9, skip=gd.Skip(3)), gd.GRU(9, 9, residual=True)),
        TOKENS,
    ),
    "floats": (gd.Stack(gd.RNN(4, 17, skip=gd.Skip(5, kind="mix")), gd.Linear(17, 2)), FLOATS),
    "one-hot": (gd.Stack(gd.GRU(11, 8), gd.Linear(8, 2)), TOKENS),
}


def equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.h, b.h)
        np.testing.assert_array_equal(a.c, b.c)
        np.testing.assert_array_equal(a.skip, b.skip)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equals_apply_to_the_bit(name, dtype):
    net, x = NETS[name]
    if x.dtype.kind == "f":
        x = x.astype(dtype)
    params = net.init(seed=4, dtype=dtype)
    outputs, state = gd.apply(net, params, x)
    stepper = gd.Stepper(net, params, batch=B)
    np.testing.assert_array_equal(np.stack([stepper.step(x_t) for x_t in x]), outputs)
    equal(stepper.state, state)
    assert stepper.steps == T


@pytest.mark.parametrize("name", NETS)
def test_blocks_equal_apply_to_the_bit(name):
    net, x = NETS[name]
    params = net.init(seed=4, dtype="float64")
    outputs, state = gd.apply(net, params, x)
    stepper = gd.Stepper(net, params, batch=B)
    found = [stepper.run(x[:4]), stepper.step(x[4])[None], stepper.run(x[5:17])]
    found.append(stepper.run(x[17:]))
    np.testing.assert_array_equal(np.concatenate(found), outputs)
    equal(stepper.state, state)
    assert stepper.steps == T


def test_blocks_of_many_lengths_keep_few_calls():
    net, _ = NETS["floats"]
    params = net.init(seed=4, dtype="float64")
    x = RNG.standard_normal((40 * 41 // 2, B, 4))
    outputs, _ = gd.apply(net, params, x)
    stepper = gd.Stepper(net, params, batch=B)
    first = 0
    for length in [*range(1, 40), 40]:
        found = stepper.run(x[first : first + length])
        np.testing.assert_array_equal(found, outputs[first : first + length])
        first += length
    assert len(stepper._calls) <= 16


def test_outputs_are_the_callers():
    net, x = NETS["floats"]
    stepper = gd.Stepper(net, net.init(dtype="float64"), batch=B)
    first = stepper.step(x[0])
    kept = first.copy()
    stepper.step(x[1])
    np.testing.assert_array_equal(first, kept)


def test_state_is_a_copy_and_can_be_set():
    net, x = NETS["tokens"]
    params = net.init(seed=4)
    outputs, _ = gd.apply(net, params, x)
    stepper = gd.Stepper(net, params, batch=B)
    for x_t in x[:7]:
        stepper.step(x_t)
    kept = stepper.state
    for x_t in x[7:]:
        stepper.step(x_t)
    stepper.state = kept
    np.testing.assert_array_equal(stepper.step(x[7]), outputs[7])
    _, half = gd.apply(net, params, x[:7])
    equal(kept, half)


def test_reset_of_some_sequences_is_apply_with_reset():
    net, x = NETS["tokens"]
    params = net.init(seed=4)
    reset = np.zeros((T, B), bool)
    reset[9, [0, 2]] = True
    outputs, _ = gd.apply(net, params, x, reset=reset)
    stepper = gd.Stepper(net, params, batch=B)
    for t in range(T):
        if reset[t].any():
            stepper.reset(reset[t])
        np.testing.assert_array_equal(stepper.step(x[t]), outputs[t])


def test_whole_reset_starts_again():
    net, x = NETS["floats"]
    stepper = gd.Stepper(net, net.init(dtype="float64"), batch=B)
    first = stepper.step(x[0])
    stepper.step(x[1])
    stepper.reset()
    assert stepper.steps == 0
    np.testing.assert_array_equal(stepper.step(x[0]), first)


def test_a_step_sees_changed_parameters():
    net, x = NETS["floats"]
    params = net.init(dtype="float64")
    stepper = gd.Stepper(net, params, batch=B)
    before = stepper.step(x[0])
    stepper.reset()
    params["1.bias"] += 1.0
    np.testing.assert_allclose(stepper.step(x[0]), before + 1.0, rtol=1e-14)


def test_an_error_leaves_the_state():
    net, x = NETS["floats"]
    stepper = gd.Stepper(net, net.init(dtype="float64"), batch=B)
    stepper.step(x[0])
    before = stepper.state
    bad = x[1].copy()
    bad[1, 2] = np.nan
    with pytest.raises(gd.NonFiniteError) as caught:
        stepper.step(bad)
    assert (caught.value.step, caught.value.sequence) == (0, 1)
    equal(stepper.state, before)
    assert stepper.steps == 1


def test_token_dtypes_may_change_between_steps():
    net, x = NETS["tokens"]
    params = net.init()
    outputs, _ = gd.apply(net, params, x)
    stepper = gd.Stepper(net, params, batch=B)
    for t, dtype in enumerate([np.int64, np.uint8, np.int32, np.uint8, np.int64]):
        np.testing.assert_array_equal(stepper.step(x[t].astype(dtype)), outputs[t])


@pytest.mark.parametrize(
    ("x_t", "error", "message"),
    [
        (FLOATS, gd.ShapeError, r"x_t must have shape \(3, 4\), one step; got \(20, 3, 4\)"),
        (FLOATS[0, :2], gd.ShapeError, "x_t must hold 3 sequences; got 2"),
        (FLOATS[0, :, :3], gd.ShapeError, r"x must have shape \(T, B, 4\)"),
        (FLOATS[0].astype("f4"), gd.DTypeError, "x must have dtype float64"),
        (FLOATS[0].tolist(), gd.DTypeError, "x_t must be a NumPy array"),
    ],
)
def test_bad_steps(x_t, error, message):
    net, _ = NETS["floats"]
    stepper = gd.Stepper(net, net.init(dtype="float64"), batch=B)
    with pytest.raises(error, match=message):
        stepper.step(x_t)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (FLOATS[0], gd.ShapeError, r"x must have shape \(T, B, 4\)"),
        (FLOATS[:, :2], gd.ShapeError, "x must hold 3 sequences; got 2"),
        (FLOATS.tolist(), gd.DTypeError, "x must be a NumPy array"),
    ],
)
def test_bad_blocks(x, error, message):
    net, _ = NETS["floats"]
    stepper = gd.Stepper(net, net.init(dtype="float64"), batch=B)
    with pytest.raises(error, match=message):
        stepper.run(x)
    assert stepper.steps == 0


def test_bad_arguments():
    net, _ = NETS["floats"]
    params = net.init()
    with pytest.raises(gd.ArgumentError, match="batch must be at least 1"):
        gd.Stepper(net, params, batch=0)
    with pytest.raises(gd.DTypeError, match="params must be"):
        gd.Stepper(net, params.flat)
    stepper = gd.Stepper(net, params, batch=B)
    with pytest.raises(gd.DTypeError, match="sequences must have dtype bool"):
        stepper.reset(np.zeros(B))
    with pytest.raises(gd.ShapeError, match=r"sequences must have shape \(3,\)"):
        stepper.reset(np.zeros(2, bool))
    with pytest.raises(gd.ShapeError, match="one LayerState per recurrent layer"):
        stepper.state = ()
