"""Dense and Residual as layers: order, sizes, names, initial values, checkpoints, messages."""

import json

import numpy as np
import pytest

import gradcore as gd
from gradcore._net.io import build, describe

NET = gd.Stack(
    gd.Dense(3, 6, "gelu"),
    gd.Residual(gd.LayerNorm(6), gd.LSTM(6, 6), gd.Residual(gd.Dense(6, 6, "silu", bias=False))),
    gd.Dense(6, 4),
    gd.GRU(4, 5),
    gd.Dense(5, 2, "tanh"),
)


def test_parameters_are_named_by_the_place_in_the_row_of_all_layers():
    names = [spec.name for spec in NET.parameter_specs]
    assert names[:5] == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight_ih"]
    assert [name for name in names if name.startswith("3.")] == ["3.weight"]
    assert names[-2:] == ["6.weight", "6.bias"]
    assert NET.init()["6.weight"].shape == (2, 5)


def test_sizes():
    assert NET.widths == (3, 6, 6, 6, 6, 4, 5, 2)
    assert (NET.input_size, NET.output_size) == (3, 2)
    assert gd.Stack(gd.Dropout(), gd.Dense(7, 4), gd.RNN(4, 5)).input_size == 7
    assert gd.Stack(gd.Dropout(), gd.LayerNorm(4), gd.RNN(4, 5)).input_size == 4
    embedded = gd.Stack(gd.Embedding(9, 7), gd.Dense(7, 4), gd.RNN(4, 5))
    assert (embedded.input_size, embedded.vocabulary) == (7, 9)


def test_residuals_are_nested_again():
    assert NET.residuals == ((1, 4), (3, 4))
    assert gd.Stack(*NET.nested) == NET
    assert gd.Stack(*NET.layers) != NET
    assert hash(NET) != hash(gd.Stack(*NET.layers))
    assert eval(repr(NET), vars(gd)) == NET
    twins = gd.Stack(
        gd.Residual(gd.Residual(gd.RNN(4, 4)), gd.Dense(4, 4)), gd.Residual(gd.RNN(4, 4))
    )
    assert twins.residuals == ((0, 2), (0, 1), (2, 3))
    assert gd.Stack(*twins.nested) == twins


def test_initial_values_are_those_of_a_linear():
    params = NET.init(seed=3)
    for name, inputs in (("0.weight", 3), ("0.bias", 3), ("6.weight", 5)):
        bound = 1 / np.sqrt(inputs)
        assert 0.5 * bound < np.abs(params[name]).max() <= bound


def test_round_trip(tmp_path):
    params = NET.init(seed=1)
    gd.save(tmp_path / "a", NET, params)
    loaded = gd.load(tmp_path / "a")
    assert loaded.net == NET
    np.testing.assert_array_equal(loaded.params.flat, params.flat)
    assert build(json.loads(json.dumps(describe(NET)))) == NET


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ([{"layer": "Residual", "layers": 3}], "not a list of objects"),
        ([{"layer": "Residual", "layers": [{"layer": "Residual"}]}], "which this version"),
        ([{"layer": "Residual", "layers": [], "width": 3}], "does not know"),
        (
            [{"layer": "Residual", "layers": [{"layer": "Dropout", "p": 0.5}] * 5000}] * 2,
            "10,002 layers",
        ),
        ([{"layer": "Dense", "in_features": 3, "out_features": 4, "relu": 1}], "relu"),
    ],
)
def test_damaged_descriptions(described, message):
    with pytest.raises(gd.CheckpointError, match=message):
        build(described)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gd.Dense(0, 3), gd.ArgumentError, r"Dense\.in_features must be at least"),
        (lambda: gd.Dense(3, 2.5), gd.DTypeError, r"Dense\.out_features must be an integer"),
        (lambda: gd.Dense(3, 4, "swish"), gd.ArgumentError, r"Dense\.activation must be .*silu"),
        (lambda: gd.Dense(3, 4, bias=1), gd.DTypeError, r"Dense\.bias must be True or False"),
        (
            lambda: gd.Stack(gd.Dense(3, 4), gd.RNN(5, 4)),
            gd.ShapeError,
            r"layer 1 \(RNN\) must have input_size 4, the output size of layer 0 \(Dense\)",
        ),
        (
            lambda: gd.Stack(gd.RNN(5, 4), gd.Dense(5, 4)),
            gd.ShapeError,
            r"layer 1 \(Dense\) must have in_features 4",
        ),
        (lambda: gd.Stack(gd.Dense(3, 4)), gd.ArgumentError, "got no recurrent layer"),
        (
            lambda: gd.Stack(gd.Linear(3, 4), gd.RNN(4, 4)),
            gd.ArgumentError,
            "A Dense may stand anywhere",
        ),
        (gd.Residual, gd.ArgumentError, "at least one layer"),
        (lambda: gd.Residual(gd.Linear(3, 3)), gd.DTypeError, "argument 0 is Linear"),
        (lambda: gd.Residual([gd.RNN(3, 3)]), gd.DTypeError, r"argument 0 is \[RNN"),
        (
            lambda: gd.Residual(gd.RNN(4, 2, bidirectional=True)),
            gd.ArgumentError,
            "option residual=True",
        ),
        (
            lambda: gd.Stack(gd.Residual(gd.RNN(3, 4))),
            gd.ShapeError,
            "Residual of layers 0 to 0 must put out rows as wide as those it reads, 3; it puts "
            "out 4",
        ),
    ],
)
def test_wrong_descriptions(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_tokens_need_an_embedding_in_front():
    tokens = np.zeros((4, 1), np.int32)
    net = gd.Stack(gd.Dense(5, 3), gd.RNN(3, 3))
    with pytest.raises(gd.DTypeError, match=r"starts with a Dense.*Embedding"):
        gd.apply(net, net.init(), tokens)
    around = gd.Stack(gd.Residual(gd.RNN(3, 3)))
    with pytest.raises(gd.DTypeError, match=r"starts with a Residual.*Embedding"):
        gd.apply(around, around.init(), tokens)


def test_float_inputs_have_the_width_of_the_first_dense_layer():
    net = gd.Stack(gd.Dense(5, 3), gd.RNN(3, 3))
    with pytest.raises(gd.ShapeError, match=r"x must have shape \(T, B, 5\)"):
        gd.apply(net, net.init(), np.zeros((4, 1, 3), np.float32))
