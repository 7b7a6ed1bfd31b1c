"""Recurrent weights with structure: what they are, and what else reads them."""

import numpy as np
import pytest

import gradcore as gd
from gradcore._net.structure import dense_weight_hh
from gradcore.constrain import Orthogonal, SpectralNorm, jacobian_bound
from reference.structured import effective

KINDS = {"diagonal": {}, "blocks": {"blocks": 3}, "none": {}}


def options(kind):
    return {"recurrent": kind, **KINDS[kind]}


def pair(cell, kind, inputs=3, hidden=12, **more):
    """A net with structure and the dense net that computes the same, with their parameters."""
    layer = cell(inputs, hidden, **options(kind), **more)
    net = gd.Stack(layer, gd.Linear(layer.output_size, 2))
    dense = gd.Stack(cell(inputs, hidden, **more), gd.Linear(layer.output_size, 2))
    params, wide = net.init(seed=1, dtype="float64"), dense.init(seed=0, dtype="float64")
    params.flat[:] = np.random.default_rng(2).standard_normal(params.flat.size) / 2
    wide.flat[:] = 0.0
    for name in wide:
        if "weight_hh" in name:
            wide[name] = effective(layer, params.get(name))
        elif name in params:
            wide[name] = params[name]
    return net, params, dense, wide


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", [gd.RNN, gd.LSTM, gd.GRU])
def test_shapes_and_the_dense_net_that_does_the_same(cell, kind):
    net, params, dense, wide = pair(cell, kind, skip=gd.Skip(3, kind="add", value=-0.2))
    gates = len(net.layers[0].cell.gates)
    shape = {"diagonal": (gates * 12,), "blocks": (gates * 12, 4), "none": None}[kind]
    assert ("0.weight_hh" in params) == ("0.bias_hh" in params) == (kind != "none")
    if shape is not None:
        assert params["0.weight_hh"].shape == shape
    layer = net.layers[0]
    np.testing.assert_array_equal(
        dense_weight_hh(layer, params.get("0.weight_hh")), wide["0.weight_hh"]
    )
    x = np.random.default_rng(3).standard_normal((40, 3, 3))
    np.testing.assert_allclose(
        gd.apply(net, params, x)[0], gd.apply(dense, wide, x)[0], rtol=1e-12, atol=1e-14
    )


def test_the_summary_counts_the_products_that_there_are():
    def flops(**how):
        net = gd.Stack(gd.GRU(3, 12, **how))
        return gd.summary(net, steps=10).layers[0].flops

    units = {"diagonal": 1, "blocks": 4, "none": 0}
    for kind, read in units.items():
        assert flops(**options(kind)) / flops() == (read + 3) / (12 + 3)


@pytest.mark.parametrize("kind", KINDS)
def test_initial_values(kind):
    net = gd.Stack(gd.GRU(3, 12, **options(kind)))
    params = net.init(seed=0, dtype="float64", gain=0.5)
    if kind == "blocks":
        for block in params["0.weight_hh"].reshape(-1, 4, 4):
            np.testing.assert_allclose(block @ block.T, 0.25 * np.eye(4), atol=1e-12)
    if kind == "diagonal":
        assert 0.0 <= params["0.weight_hh"].min() < 0.1
        assert 0.4 < params["0.weight_hh"].max() < 0.5
    # A bias of the memory gate needs no bias_hh.
    chrono = net.init(seed=0, dtype="float64", chrono=100)
    assert chrono["0.bias_ih"][12:24].max() > 2.0


@pytest.mark.parametrize("kind", KINDS)
def test_files(kind, tmp_path):
    net, params, *_ = pair(gd.LSTM, kind, bidirectional=True)
    path = tmp_path / "net.safetensors"
    gd.save(path, net, params)
    loaded = gd.load(path)
    assert loaded.net == net
    np.testing.assert_array_equal(loaded.params.flat, params.flat)


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_are_those_of_the_dense_weights(kind):
    net, params, dense, wide = pair(gd.RNN, kind)
    assert jacobian_bound(net, params, 7) == jacobian_bound(dense, wide, 7)


def test_von_neumann_takes_equal_diagonal_weights():
    net = gd.Stack(gd.RNN(1, 8, recurrent="diagonal"))
    params = net.init(seed=0, dtype="float64")
    params["0.weight_hh"] = np.full(8, 0.75)
    symbol = gd.stability.von_neumann.recurrent(net, params)
    np.testing.assert_allclose(np.abs(symbol.factor), 0.75)


def test_constraints_act_on_each_block():
    net = gd.Stack(gd.GRU(3, 12, recurrent="blocks", blocks=3))
    params = net.init(seed=0, dtype="float64")
    params["0.weight_hh"] *= np.repeat([0.5, 2.0, 3.0] * 3, 4)[:, None]
    with pytest.raises(gd.ArgumentError, match=r"3 blocks for each of 3 gates"):
        gd.optim.SGD(params, 0.1, constraints=[SpectralNorm(1.0)])
    gd.optim.SGD(params, 0.1, constraints=[SpectralNorm(1.0, per_gate=True)])
    norms = [np.linalg.norm(block, 2) for block in params["0.weight_hh"].reshape(-1, 4, 4)]
    np.testing.assert_allclose(norms, [0.5, 1.0, 1.0] * 3, rtol=1e-6)
    gd.optim.SGD(params, 0.1, constraints=[Orthogonal()])
    for block in params["0.weight_hh"].reshape(-1, 4, 4):
        np.testing.assert_allclose(block @ block.T, np.eye(4), atol=1e-12)
    single = gd.Stack(gd.RNN(3, 12, recurrent="blocks", blocks=3)).init(seed=0, dtype="float64")
    single["0.weight_hh"] *= np.repeat([0.5, 2.0, 3.0], 4)[:, None]
    gd.optim.SGD(single, 0.1, constraints=[SpectralNorm(1.0)])
    norms = [np.linalg.norm(block, 2) for block in single["0.weight_hh"].reshape(-1, 4, 4)]
    np.testing.assert_allclose(norms, [0.5, 1.0, 1.0], rtol=1e-6)
    diagonal = gd.Stack(gd.GRU(3, 12, recurrent="diagonal")).init(seed=0)
    with pytest.raises(gd.ArgumentError, match="acts on matrices"):
        gd.optim.SGD(diagonal, 0.1, constraints=[SpectralNorm(1.0)])


@pytest.mark.parametrize("kind", KINDS)
def test_pytorch_has_the_same_parameters_and_outputs(kind):
    torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")
    net, params, *_ = pair(gd.GRU, kind)
    module = gd.to_torch(net, params)
    x = np.random.default_rng(3).standard_normal((40, 3, 3))
    outputs = module(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(outputs, gd.apply(net, params, x)[0], atol=1e-12)
    again, values = gd.from_torch(module)
    assert again == net
    np.testing.assert_array_equal(values.flat, params.flat)


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_files_have_dense_weights(kind, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    net = gd.Stack(gd.GRU(3, 12, **options(kind)), gd.Linear(12, 2))
    params = net.init(seed=0)
    gd.export(tmp_path / "net.onnx", net, params)
    session = runtime.InferenceSession(tmp_path / "net.onnx")
    x = np.random.default_rng(3).standard_normal((20, 1, 3)).astype(np.float32)
    (outputs, *_) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(outputs, gd.apply(net, params, x)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"recurrent": "sparse"}, gd.ArgumentError, "recurrent"),
        ({"recurrent": "blocks"}, gd.ArgumentError, "blocks must be the number of blocks"),
        ({"blocks": 3}, gd.ArgumentError, "only then; got blocks=3"),
        ({"recurrent": "blocks", "blocks": 5}, gd.ShapeError, "must divide hidden_size"),
        ({"recurrent": "blocks", "blocks": 0}, gd.GradcoreError, "GRU.blocks"),
    ],
)
def test_wrong_options(wrong, error, said):
    with pytest.raises(error, match=said):
        gd.GRU(3, 12, **wrong)


def test_the_antisymmetric_rnn_has_dense_weights():
    with pytest.raises(gd.ArgumentError, match=r"AntisymmetricRNN.recurrent must be 'dense'"):
        gd.AntisymmetricRNN(3, 12, recurrent="diagonal")
