"""Params and Grads: views of one buffer, assignment, copies, pickles."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

import gradcore as gd

NET = gd.Stack(gd.Embedding(7, 3), gd.LSTM(3, 5), gd.Linear(5, 2))


def test_views_share_the_flat_buffer():
    params = NET.init(seed=3)
    params["1.weight_hh"][2, 3] = 42.0
    spec = next(s for s in NET.parameter_specs if s.name == "1.weight_hh")
    assert params.flat[spec.start + 2 * 5 + 3] == 42.0
    params.flat[:] = 0.5
    assert all((view == 0.5).all() for view in params.values())
    assert list(params) == [spec.name for spec in NET.parameter_specs]
    assert len(params) == 7
    assert params.net is NET
    assert params.dtype == np.float32


def test_assignment_copies_values():
    params = NET.init(seed=3)
    new = np.arange(10, dtype=np.float32).reshape(2, 5)
    params["2.weight"] = new
    new[:] = -1
    np.testing.assert_array_equal(params["2.weight"], np.arange(10).reshape(2, 5))
    before = params["2.bias"].copy()
    params["2.bias"] += 1.0
    np.testing.assert_array_equal(params["2.bias"], before + 1)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        (
            "1.weight_hh",
            np.zeros((5, 20), np.float32),
            gd.ShapeError,
            r"1\.weight_hh must have shape \(4\*H, H\) = \(20, 5\) with gates in the order "
            r"i,f,g,o; got \(5, 20\)\. Pass its \.T if it is transposed",
        ),
        ("2.bias", np.zeros(3, np.float32), gd.ShapeError, r"\(out_features,\) = \(2,\); got"),
        ("2.bias", np.zeros(2), gd.DTypeError, r"dtype float32.*got float64.*\.astype\('float32"),
        ("2.bias", [0.0, 1.0], gd.DTypeError, "NumPy array; got list"),
        ("2.bias", 0.0, gd.DTypeError, "NumPy array; got float"),
    ],
)
def test_wrong_assignment_changes_nothing(name, value, error, message):
    params = NET.init(seed=3)
    before = params.copy()
    with pytest.raises(error, match=message):
        params[name] = value
    assert params == before


def test_unknown_name_lists_the_known():
    params = NET.init()
    with pytest.raises(KeyError, match=r"no parameter '0\.bias'; this net has 0\.weight, 1\."):
        params["0.bias"]
    assert "0.bias" not in params
    assert "0.weight" in params


@pytest.mark.parametrize(
    "duplicate",
    [
        lambda p: p.copy(),
        copy.copy,
        copy.deepcopy,
        lambda p: pickle.loads(pickle.dumps(p)),
    ],
)
@pytest.mark.parametrize("kind", [gd.Params, gd.Grads])
def test_duplicates_are_equal_and_independent(kind, duplicate):
    flat = np.linspace(-1, 1, NET.n_parameters)
    original = kind(NET, flat) if kind is gd.Params else kind(NET, flat, 7)
    other = duplicate(original)
    assert type(other) is kind
    assert other == original
    other["2.bias"][0] += 1
    assert other != original
    assert np.shares_memory(other.flat, other["2.bias"])


def test_equality_looks_at_net_dtype_and_exponent():
    params = NET.init()
    assert params != params.astype("float64")
    assert params.astype("float64").astype("float32") == params
    assert gd.Grads(NET, params.flat, 1) != gd.Grads(NET, params.flat, 2)
    assert params != gd.Grads(NET, params.flat)
    with pytest.raises(TypeError, match="unhashable"):
        hash(params)


@pytest.mark.parametrize(
    ("flat", "error", "message"),
    [
        (np.zeros(3), gd.ShapeError, r"shape \(\d+,\), one value per parameter.*got \(3,\)"),
        (np.zeros(NET.n_parameters, np.float16), gd.DTypeError, "'float32' or 'float64'"),
        (np.zeros(NET.n_parameters, ">f4"), gd.DTypeError, "'float32' or 'float64'"),
        (np.zeros(2 * NET.n_parameters)[::2], gd.ArgumentError, "contiguous.*flat.copy"),
        ([0.0], gd.DTypeError, "NumPy array; got list"),
    ],
)
def test_wrong_buffers(flat, error, message):
    with pytest.raises(error, match=message):
        gd.Params(NET, flat)


def test_read_only_buffer_is_refused():
    flat = np.zeros(NET.n_parameters)
    flat.flags.writeable = False
    with pytest.raises(gd.ArgumentError, match="writeable"):
        gd.Params(NET, flat)


def test_params_need_a_net():
    with pytest.raises(gd.DTypeError, match="Params needs a Stack; got 'net'"):
        gd.Params("net", np.zeros(3))


def test_repr_names_every_parameter():
    text = repr(NET.init())
    assert text.startswith(f"Params(float32, {NET.n_parameters} values)")
    assert all(spec.name in text and str(spec.shape) in text for spec in NET.parameter_specs)
    assert "2**-40" in repr(gd.Grads(NET, np.zeros(NET.n_parameters), -40))


@pytest.mark.parametrize("exponent", [0, 900, -5000, 10**6])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e300])
def test_norm_of_a_scaled_gradient(exponent, scale):
    flat = np.zeros(NET.n_parameters)
    flat[:2] = 3.0 * scale, 4.0 * scale
    expected = math.log10(5.0) + math.log10(scale) + exponent * math.log10(2)
    assert gd.Grads(NET, flat, exponent).norm_log10() == pytest.approx(expected, rel=1e-14)


def test_norm_of_zero():
    assert gd.Grads(NET, np.zeros(NET.n_parameters)).norm_log10() == -math.inf
