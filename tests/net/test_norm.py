"""LayerNorm and Dropout as layers: order, sizes, names, initial values, checkpoints."""

import json
from importlib import resources

import numpy as np
import pytest

import gradcore as gd
from gradcore._net.io import build, describe

NET = gd.Stack(
    gd.Embedding(5, 6),
    gd.LayerNorm(6),
    gd.Dropout(0.25),
    gd.LSTM(6, 9, zoneout=0.1, zoneout_cell=0.2, recurrent_dropout=0.3),
    gd.LayerNorm(9, 0.5, bias=False),
    gd.GRU(9, 8),
    gd.LayerNorm(8, elementwise_affine=False),
    gd.Linear(8, 3),
)


def test_parameters_come_in_the_order_of_the_stack():
    names = [spec.name for spec in NET.parameter_specs]
    assert names[:4] == ["0.weight", "1.weight", "1.bias", "3.weight_ih"]
    assert names[7:9] == ["4.weight", "5.weight_ih"]
    assert names[12:] == ["7.weight", "7.bias"]
    assert (NET.input_size, NET.output_size, NET.vocabulary) == (6, 3, 5)


def test_a_stack_may_end_with_them():
    net = gd.Stack(gd.LayerNorm(4), gd.RNN(4, 7), gd.Dropout(0.1), gd.LayerNorm(7))
    assert net.output_size == 7
    x = np.random.default_rng(0).standard_normal((5, 2, 4)).astype(np.float32)
    outputs, _ = gd.apply(net, net.init(), x)
    np.testing.assert_allclose(outputs.mean(axis=2), 0, atol=1e-6)


def test_initial_values():
    params = NET.init(seed=3)
    assert (params["1.weight"] == 1).all()
    assert (params["1.bias"] == 0).all()
    without = gd.Stack(*(layer for layer in NET.layers if not isinstance(layer, gd.LayerNorm)))
    # The random numbers are the same as for the net without these layers.
    np.testing.assert_array_equal(params["7.weight"], without.init(seed=3)["4.weight"])


def test_round_trip(tmp_path):
    params = NET.init(seed=1)
    gd.save(tmp_path / "a", NET, params)
    loaded = gd.load(tmp_path / "a")
    assert loaded.net == NET
    np.testing.assert_array_equal(loaded.params.flat, params.flat)


def test_descriptions_without_the_new_options_are_read():
    described = describe(gd.Stack(gd.LSTM(3, 4), gd.GRU(4, 4)))
    for layer in described:
        for name in ("zoneout", "zoneout_cell", "recurrent_dropout"):
            layer.pop(name, None)
    assert build(json.loads(json.dumps(described))) == gd.Stack(gd.LSTM(3, 4), gd.GRU(4, 4))


def test_checkpoint_from_before_they_were_is_read():
    shipped = resources.files("gradcore.apps.tasks.brackets") / "brackets.safetensors"
    with resources.as_file(shipped) as path:
        net = gd.load(path).net
    assert not net.is_random


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: gd.LayerNorm(0),
            gd.ArgumentError,
            r"LayerNorm\.normalized_shape must be at least",
        ),
        (lambda: gd.LayerNorm((4,)), gd.DTypeError, r"normalized_shape must be an integer"),
        (lambda: gd.LayerNorm(4, 0.0), gd.ArgumentError, r"LayerNorm\.eps must be > 0; got 0"),
        (lambda: gd.LayerNorm(4, bias=1), gd.DTypeError, r"LayerNorm\.bias must be True or False"),
        (lambda: gd.Dropout(1.0), gd.ArgumentError, r"Dropout\.p must be >= 0 and < 1; got 1"),
        (lambda: gd.Dropout(-0.1), gd.ArgumentError, r"Dropout\.p must be >= 0 and < 1"),
        (lambda: gd.RNN(3, 4, zoneout=1), gd.ArgumentError, r"RNN\.zoneout must be >= 0 and < 1"),
        (
            lambda: gd.LSTM(3, 4, zoneout_cell=-1.0),
            gd.ArgumentError,
            r"LSTM\.zoneout_cell must be >= 0 and < 1; got -1",
        ),
        (
            lambda: gd.GRU(3, 4, recurrent_dropout=float("nan")),
            gd.ArgumentError,
            r"GRU\.recurrent_dropout must be finite",
        ),
        (
            lambda: gd.Stack(gd.LayerNorm(4), gd.Embedding(3, 4), gd.RNN(4, 4)),
            gd.ArgumentError,
            "got Embedding at place 1 of 3",
        ),
        (
            lambda: gd.Stack(gd.RNN(4, 4), gd.Linear(4, 2), gd.Dropout()),
            gd.ArgumentError,
            "got Linear at place 1 of 3",
        ),
        (lambda: gd.Stack(gd.LayerNorm(4)), gd.ArgumentError, "got no recurrent layer"),
        (
            lambda: gd.Stack(gd.RNN(3, 4), gd.Dropout(), gd.LayerNorm(5)),
            gd.ShapeError,
            r"layer 2 \(LayerNorm\) must have normalized_shape 4",
        ),
        (
            lambda: gd.Stack(gd.LayerNorm(5), gd.RNN(3, 4)),
            gd.ShapeError,
            r"layer 1 \(RNN\) must have input_size 5",
        ),
    ],
)
def test_wrong_descriptions(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("first", [gd.LayerNorm(4), gd.Dropout(0.5)])
def test_bare_tokens_are_refused(first):
    net = gd.Stack(first, gd.RNN(4, 4))
    with pytest.raises(gd.DTypeError, match=r"starts with a .* Put an Embedding before it"):
        gd.apply(net, net.init(), np.zeros((5, 2), np.int32))
    with pytest.raises(gd.ArgumentError, match="put an embedding before it"):
        gd.plan(net, 5, 2, tokens=True, loss="mse")


def test_rows_whose_variance_overflows_are_found():
    """Squares of 1e25 are infinite in float32; a simple variance would turn the whole row to 0."""
    net = gd.Stack(gd.LayerNorm(4), gd.RNN(4, 4))
    x = np.zeros((9, 2, 4), np.float32)
    x[5, 1, 2] = 1e25
    with pytest.raises(gd.NonFiniteError) as caught:
        gd.apply(net, net.init(), x)
    assert (caught.value.layer, caught.value.step, caught.value.sequence) == (0, 5, 1)


def test_rows_far_from_zero_keep_their_digits():
    """mean(x^2) - mean(x)^2 would lose all digits."""
    net = gd.Stack(gd.RNN(4, 4, nonlinearity="identity", bias=False), gd.LayerNorm(4, 1e-12))
    params = net.init()
    params["0.weight_ih"][:] = np.eye(4)
    params["0.weight_hh"][:] = 0
    x = (np.array([0.0, 1, 2, 3], np.float32) + 2.0**20).reshape(1, 1, 4)
    outputs, _ = gd.apply(net, params, x)
    np.testing.assert_allclose(outputs[0, 0], (np.arange(4) - 1.5) / np.sqrt(1.25), rtol=1e-6)
