"""Conv1d as a layer: sizes, names, initial values, the state's rows, messages."""

import numpy as np
import pytest

import gradcore as gd

NET = gd.Stack(
    gd.Conv1d(4, 6, 3, dilation=5, groups=2),
    gd.GRU(6, 5),
    gd.Conv1d(5, 2, 1, bias=False, activation="tanh"),
)


def test_sizes_and_names_are_those_of_pytorch():
    shapes = {spec.name: spec.shape for spec in NET.parameter_specs}
    assert shapes["0.weight"] == (6, 2, 3)
    assert shapes["0.bias"] == (6,)
    assert shapes["2.weight"] == (2, 5, 1)
    assert "2.bias" not in shapes
    assert NET.widths == (4, 6, 5, 2)


def test_initial_values_are_those_of_pytorch():
    weight = gd.Stack(gd.Conv1d(8, 64, 4, groups=2), gd.RNN(64, 2)).init(seed=0)["0.weight"]
    bound = 1 / np.sqrt(8 / 2 * 4)
    assert 0.9 * bound < np.abs(weight).max() <= bound


def test_state_has_the_past_inputs_behind_the_layers():
    layer, past = gd.zero_state(NET, 3)
    assert layer.h.shape == (3, 5)
    assert (past.skip.shape, past.h.shape) == ((10, 3, 4), (3, 4))
    x = np.random.default_rng(0).standard_normal((12, 3, 4)).astype(np.float32)
    _, state = gd.apply(NET, NET.init(), x)
    np.testing.assert_array_equal(state[1].skip, x[2:])
    np.testing.assert_array_equal(state[1].h, x[-1])
    with pytest.raises(gd.ShapeError, match=r"1 of them, then one per Conv1d, 1; got 1"):
        gd.apply(NET, NET.init(), x, state=state[:1])


def test_description_round_trip(tmp_path):
    gd.save(tmp_path / "a", NET, NET.init(seed=1))
    assert gd.load(tmp_path / "a").net == NET


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kernel_size": 0}, gd.ArgumentError, "kernel_size"),
        ({"stride": 0}, gd.ArgumentError, "stride"),
        ({"dilation": 0}, gd.ArgumentError, "dilation"),
        ({"groups": 3}, gd.ShapeError, r"divide in_channels and out_channels; got 3, 4 and 6"),
        ({"padding": "reflect"}, gd.ArgumentError, "padding"),
        ({"activation": "relu6"}, gd.ArgumentError, "activation"),
        ({"bias": 1}, gd.DTypeError, "bias"),
        ({"kernel_size": 2, "dilation": 2**24}, gd.ArgumentError, "dilation"),
    ],
)
def test_messages(options, error, message):
    with pytest.raises(error, match=message):
        gd.Conv1d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **options})


def test_exports_refuse_it(tmp_path):
    for name in ("net.json", "net.nam"):
        with pytest.raises(gd.ArgumentError):
            gd.export(tmp_path / name, NET, NET.init())
