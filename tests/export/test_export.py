"""Exported files compute what gradcore computes: in onnxruntime, and as plug-ins read them."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import gradcore as gd
from reference import plugins

RNG = np.random.default_rng(0)
T, B = 40, 3


def drawn(net, dtype="float32"):
    """Parameters in which every gate and bias differs."""
    params = net.init(seed=1, dtype=dtype)
    params.flat[:] = 0.25 * RNG.standard_normal(params.flat.size)
    return params


def read(path):
    return json.loads(path.read_text())


# ---- RTNeural


@pytest.mark.parametrize(
    "layers",
    [
        (gd.LSTM(1, 16), gd.Linear(16, 1)),
        (gd.GRU(2, 7), gd.Linear(7, 3, bias=False)),
        (gd.GRU(1, 4, bias=False), gd.Dropout(0.2), gd.LSTM(4, 5, bias=False)),
        (gd.LSTM(3, 4), gd.GRU(4, 6, recurrent_dropout=0.3), gd.Linear(6, 2)),
        (gd.Dense(3, 5, "relu"), gd.GRU(5, 4), gd.Dense(4, 6, "tanh"), gd.Dense(6, 2, "sigmoid")),
        (gd.Dense(1, 5, bias=False), gd.LSTM(5, 4), gd.Linear(4, 1)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rtneural_computes_the_same(tmp_path, layers, dtype):
    net = gd.Stack(*layers)
    params = drawn(net, dtype)
    gd.export(tmp_path / "net.json", net, params)
    x = RNG.standard_normal((T, 1, net.input_size)).astype(dtype)
    expected, _ = gd.apply(net, params, x)
    outputs = plugins.rtneural(read(tmp_path / "net.json"), x[:, 0])
    np.testing.assert_allclose(outputs, expected[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (gd.Stack(gd.RNN(1, 2)), r"layer 0 \(RNN\) cannot be exported: RTNeural has LSTM, GRU"),
        (gd.Stack(gd.Embedding(3, 2), gd.LSTM(2, 2)), r"layer 0 \(Embedding\)"),
        (gd.Stack(gd.LayerNorm(2), gd.LSTM(2, 2)), r"layer 0 \(LayerNorm\)"),
        (gd.Stack(gd.LSTM(1, 2, bidirectional=True)), "layer 0 is bidirectional"),
        (gd.Stack(gd.LSTM(1, 2, skip=gd.Skip(3))), "skip connection through time, which RTNeural"),
        (gd.Stack(gd.LSTM(2, 2, residual=True)), "residual=True"),
        (gd.Stack(gd.Residual(gd.LSTM(2, 2))), "layers 0 to 0 are in a Residual, which RTNeural"),
        (gd.Stack(gd.Dense(2, 2, "gelu"), gd.LSTM(2, 2)), "activation 'gelu'; RTNeural has"),
        (gd.Stack(gd.GRU(1, 2, zoneout=0.1)), "zoneout"),
        (gd.Stack(gd.LSTM(1, 2, zoneout_cell=0.1)), "zoneout"),
    ],
)
def test_rtneural_says_what_it_cannot(tmp_path, net, message):
    with pytest.raises(gd.ArgumentError, match=message):
        gd.export(tmp_path / "net.json", net, net.init())
    assert list(tmp_path.iterdir()) == []


# ---- NAM


@pytest.mark.parametrize(
    "layers",
    [
        (gd.LSTM(1, 18), gd.Linear(18, 1)),
        (gd.LSTM(1, 5, bias=False), gd.Dropout(0.1), gd.LSTM(5, 5), gd.Linear(5, 1, bias=False)),
    ],
)
@pytest.mark.parametrize("settled", [False, True])
def test_nam_computes_the_same(tmp_path, layers, settled):
    net = gd.Stack(*layers)
    params = drawn(net)
    silence = np.zeros((50, 1, 1), "float32")
    state = gd.apply(net, params, silence)[1] if settled else None
    path = tmp_path / "amp.nam"
    gd.export(path, net, params, state=state, metadata={"name": "mine", "loudness": -18.5})
    content = read(path)
    assert content["sample_rate"] == 48_000
    assert content["metadata"] == {"name": "mine", "loudness": -18.5}
    x = RNG.standard_normal((T, 1, 1)).astype("float32")
    expected, _ = gd.apply(net, params, x, state=state)
    np.testing.assert_allclose(plugins.nam(content, x[:, 0, 0]), expected[:, 0, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (gd.Stack(gd.GRU(1, 2), gd.Linear(2, 1)), r"layer 0 is GRU"),
        (gd.Stack(gd.LSTM(1, 2)), "and a Linear with one output"),
        (gd.Stack(gd.LSTM(2, 2), gd.Linear(2, 1)), "with one input"),
        (gd.Stack(gd.LSTM(1, 2), gd.Linear(2, 2)), "one output"),
        (gd.Stack(gd.LSTM(1, 2), gd.LSTM(2, 3), gd.Linear(3, 1)), "equal width"),
        (gd.Stack(gd.LSTM(1, 2, bidirectional=True), gd.Linear(4, 1)), "bidirectional"),
        (gd.Stack(gd.LSTM(1, 2, skip=gd.Skip(2)), gd.Linear(2, 1)), "skip connection"),
        (gd.Stack(gd.LSTM(1, 2), gd.Residual(gd.LSTM(2, 2)), gd.Linear(2, 1)), "in a Residual"),
        (gd.Stack(gd.LSTM(1, 2), gd.Dense(2, 2, "relu"), gd.Linear(2, 1)), "layer 1 is Dense"),
    ],
)
def test_nam_says_what_it_cannot(tmp_path, net, message):
    with pytest.raises(gd.ArgumentError, match=message):
        gd.export(tmp_path / "amp.nam", net, net.init())
    assert list(tmp_path.iterdir()) == []


AMP = gd.Stack(gd.LSTM(1, 2), gd.Linear(2, 1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sample_rate": 0}, gd.ArgumentError, "sample_rate must be > 0"),
        ({"sample_rate": "48k"}, gd.DTypeError, "sample_rate must be a number"),
        ({"metadata": 3}, gd.DTypeError, "metadata must be a dict"),
        ({"metadata": {"a": {1}}}, gd.GradcoreError, "JSON"),
        ({"state": gd.zero_state(AMP, 2)}, gd.ShapeError, "state"),
    ],
)
def test_nam_checks_its_options(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        gd.export(tmp_path / "amp.nam", AMP, AMP.init(), **options)


# ---- all


@pytest.mark.parametrize("name", ["rtneural", "nam", "onnx"])
def test_numbers_that_are_not_finite_are_refused(tmp_path, name):
    for value in (np.nan, 1e300):
        params = AMP.init(dtype="float64")
        params["1.weight"][0, 1] = value
        with pytest.raises(gd.NonFiniteError, match=r"1.weight must be finite in float32"):
            gd.export(tmp_path / "a", AMP, params, format=name)


@pytest.mark.parametrize("name", ["rtneural", "nam"])
def test_wrong_arguments_are_told(tmp_path, name):
    with pytest.raises(gd.ArgumentError, match="cannot write"):
        gd.export(tmp_path / "nowhere" / "a", AMP, AMP.init(), format=name)
    with pytest.raises(gd.ArgumentError, match="it is a folder"):
        gd.export(tmp_path, AMP, AMP.init(), format=name)
    with pytest.raises(gd.DTypeError, match="path"):
        gd.export(3, AMP, AMP.init(), format=name)
    with pytest.raises(gd.GradcoreError):
        gd.export(tmp_path / "a", AMP, gd.Stack(gd.LSTM(1, 3)).init(), format=name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("net.pt", {}, r"suffix of path must be one of \.onnx, \.json, \.nam, or format"),
        ("net", {"format": "keras"}, "format must be one of 'onnx', 'rtneural', 'nam'"),
        ("net.json", {"stateful": True}, "stateful belongs to format 'onnx', and .* 'rtneural'"),
        ("net.JSON", {"sample_rate": 48_000}, "sample_rate belongs to format 'nam'"),
        ("net.onnx", {"metadata": {}}, "metadata belongs to format 'nam'"),
        ("net.nam", {"format": "onnx", "state": ()}, "state belongs to format 'nam'"),
    ],
)
def test_options_of_another_format_are_refused(tmp_path, name, options, message):
    with pytest.raises(gd.ArgumentError, match=message):
        gd.export(tmp_path / name, AMP, AMP.init(), **options)


# ---- ONNX


def ran(path, **feeds):
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: gradcore[test]")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


NETS = {
    "lstm": gd.Stack(gd.LSTM(3, 8), gd.Linear(8, 2)),
    "gru": gd.Stack(gd.GRU(3, 5, bias=False), gd.GRU(5, 5, residual=True), gd.Linear(5, 2)),
    "rnn": gd.Stack(
        gd.RNN(3, 4), gd.RNN(4, 4, nonlinearity="relu"), gd.RNN(4, 4, nonlinearity="identity")
    ),
    "both ways": gd.Stack(
        gd.LSTM(3, 4, bidirectional=True),
        gd.GRU(8, 4, bidirectional=True, residual=True),
        gd.RNN(8, 3, nonlinearity="identity", bidirectional=True),
        gd.Linear(6, 2, bias=False),
    ),
    "norms": gd.Stack(
        gd.LayerNorm(3, 1e-3, elementwise_affine=False),
        gd.GRU(3, 4, recurrent_dropout=0.2),
        gd.Dropout(0.3),
        gd.LayerNorm(4),
        gd.LSTM(4, 4),
        gd.LayerNorm(4, bias=False),
        gd.Linear(4, 2),
    ),
    "tokens": gd.Stack(gd.Embedding(11, 4), gd.LSTM(4, 6), gd.Linear(6, 11)),
    "dense": gd.Stack(
        gd.Dense(3, 6, "gelu"),
        gd.Residual(
            gd.Residual(gd.Dense(6, 6, "silu")),
            gd.LSTM(6, 5),
            gd.Dense(5, 6, "relu"),
            gd.Residual(gd.LayerNorm(6), gd.Dense(6, 6)),
        ),
        gd.GRU(6, 8),
        gd.Dense(8, 7, "softplus", bias=False),
        gd.Dense(7, 7, "tanh"),
        gd.Dense(7, 2, "sigmoid"),
    ),
}


@pytest.fixture
def onnx():
    return pytest.importorskip("onnx", reason="needs onnx: install gradcore[test]")


def inputs_of(net):
    if net.embedding is not None:
        return RNG.integers(0, 11, (T, B))
    return RNG.standard_normal((T, B, net.input_size)).astype("float32")


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_onnxruntime_computes_the_same(tmp_path, onnx, name, dtype):
    net = NETS[name]
    params = drawn(net, dtype)
    gd.export(tmp_path / "net.onnx", net, params)
    x = inputs_of(net)
    given = x if x.dtype.kind == "i" else x.astype(dtype)
    expected, _ = gd.apply(net, params, given)
    found = ran(tmp_path / "net.onnx", x=x)
    assert list(found) == ["outputs"]
    np.testing.assert_allclose(found["outputs"], expected, atol=1e-5)
    # Other numbers of steps and sequences.
    one, _ = gd.apply(net, params, np.ascontiguousarray(given[:7, :1]))
    np.testing.assert_allclose(ran(tmp_path / "net.onnx", x=x[:7, :1])["outputs"], one, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NETS if name != "both ways"])
def test_onnx_goes_on_from_a_state(tmp_path, onnx, name):
    net = NETS[name]
    params = drawn(net)
    gd.export(tmp_path / "net.onnx", net, params, stateful=True)
    x = inputs_of(net)
    expected, last = gd.apply(net, params, x)
    feeds, places = {}, [i for i, layer in enumerate(net.layers) if layer in net.recurrent]
    for place, zero in zip(places, gd.zero_state(net, B), strict=True):
        for letter in "hc":
            if getattr(zero, letter) is not None:
                feeds[f"{letter}_{place}"] = getattr(zero, letter)[None]
    found = ran(tmp_path / "net.onnx", x=x[:15], **feeds)
    again = {key.removesuffix("_out"): v for key, v in found.items() if key != "outputs"}
    rest = ran(tmp_path / "net.onnx", x=x[15:], **again)
    outputs = np.concatenate([found["outputs"], rest["outputs"]])
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    for place, state in zip(places, last, strict=True):
        np.testing.assert_allclose(rest[f"h_{place}_out"][0], state.h, atol=1e-5)
        if state.c is not None:
            np.testing.assert_allclose(rest[f"c_{place}_out"][0], state.c, atol=1e-5)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (gd.Stack(gd.AntisymmetricRNN(1, 2)), r"layer 0 \(AntisymmetricRNN\) cannot be exported"),
        (gd.Stack(gd.LSTM(1, 2, skip=gd.Skip(3))), "skip connection through time, which ONNX"),
        (gd.Stack(gd.GRU(1, 2), gd.GRU(2, 2, zoneout=0.1)), r"layer 1 \(GRU\) has zoneout"),
    ],
)
def test_onnx_says_what_it_cannot(tmp_path, onnx, net, message):
    with pytest.raises(gd.ArgumentError, match=message):
        gd.export(tmp_path / "net.onnx", net, net.init())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stateful", [False, True])
def test_onnx_has_an_output_for_each_head(tmp_path, onnx, stateful):
    heads = gd.Heads(site=gd.Linear(8, 2, bias=False), coding=gd.Linear(8, 7))
    net = gd.Stack(gd.LSTM(3, 8), heads)
    params = drawn(net)
    gd.export(tmp_path / "net.onnx", net, params, stateful=stateful)
    x = inputs_of(net)
    expected, _ = gd.apply(net, params, x)
    zeros = np.zeros((1, B, 8), np.float32)
    found = ran(tmp_path / "net.onnx", x=x, **({"h_0": zeros, "c_0": zeros} if stateful else {}))
    assert list(found)[:2] == ["site", "coding"]
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-5)


def test_onnx_refuses_a_head_with_the_name_of_another_array(tmp_path, onnx):
    net = gd.Stack(gd.LSTM(3, 8), gd.Heads(a=gd.Linear(8, 2), x=gd.Linear(8, 2)))
    with pytest.raises(gd.ArgumentError, match="head 'x' has the name of another input or output"):
        gd.export(tmp_path / "net.onnx", net, drawn(net))


def test_formats_with_one_output_refuse_heads(tmp_path):
    net = gd.Stack(gd.LSTM(1, 8), gd.Heads(a=gd.Linear(8, 1)))
    with pytest.raises(gd.ArgumentError, match=r"layer 1 \(Heads\) cannot be exported"):
        gd.export(tmp_path / "net.json", net, drawn(net))
    with pytest.raises(gd.ArgumentError, match=r"net must be a net of LSTMs.*layer 1 is Heads"):
        gd.export(tmp_path / "net.nam", net, drawn(net))


def test_onnx_files_that_cannot_be_written_are_told(tmp_path, onnx):
    with pytest.raises(gd.ArgumentError, match="cannot write"):
        gd.export(tmp_path / "nowhere" / "a.onnx", AMP, AMP.init())
    with pytest.raises(gd.DTypeError, match="stateful must be True or False"):
        gd.export(tmp_path / "a.onnx", AMP, AMP.init(), stateful=1)


def test_onnx_is_imported_only_when_used():
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "import gradcore as gd; net = gd.Stack(gd.LSTM(1, 2))\n"
        "gd.export('/dev/null', net, net.init(), format='rtneural')\n"
        "try: gd.export('a.onnx', net, net.init())\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "export to ONNX needs onnx" in done.stdout
    assert "Run: pip install onnx" in done.stdout
