"""gradcore.torch.AntisymmetricRNN, which torch.nn does not have.

Its values and gradients are compared with a loop of cells in test_reset.py, its derivatives in
test_derivatives.py.
"""

import copy
import inspect
import io
import itertools
import math
import pickle

import numpy as np
import pytest

import gradcore as gd

torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")

from torch import nn  # noqa: E402
from torch.nn.utils import rnn as packing  # noqa: E402

import gradcore.torch as gt  # noqa: E402
from torch_models import Tagger  # noqa: E402

T, B, I, H = 30, 3, 5, 9
STEPS = {"step": 0.3, "diffusion": 0.1}


def layer_of(*more, dtype=torch.float64, **options):
    torch.manual_seed(0)
    return gt.AntisymmetricRNN(I, H, *more, dtype=dtype, **{**STEPS, **options})


@pytest.mark.parametrize(
    ("layers", "bidirectional", "batch_first", "bias"),
    list(itertools.product((1, 2), (False, True), (False, True), (False, True))),
)
def test_it_is_gradcores_own_layer(layers, bidirectional, batch_first, bias):
    options = {"bidirectional": bidirectional, "bias": bias}
    layer = layer_of(layers, batch_first=batch_first, **options)
    width = H * (1 + bidirectional)
    sizes = [I, *[width] * (layers - 1)]
    net = gd.Stack(*(gd.AntisymmetricRNN(size, H, **options, **STEPS) for size in sizes))
    assert layer.stack() == net
    params = gt.params_of(layer)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    outputs, end = layer(x.transpose(0, 1) if batch_first else x)
    outputs = outputs.transpose(0, 1) if batch_first else outputs
    given = torch.randn(T, B, width, dtype=torch.float64)
    outputs.backward(given)
    expected = gd.value_and_grad(
        net,
        params,
        x.detach().numpy(),
        given.numpy(),
        loss=gd.loss.Given(),
        wrt=("params", "x"),
    )
    values, state = gd.apply(net, params, x.detach().numpy())
    np.testing.assert_array_equal(outputs.detach().numpy(), values)
    np.testing.assert_array_equal(end[0].detach().numpy(), state[0].h)
    np.testing.assert_array_equal(x.grad.numpy(), expected.dx)
    for name, array in zip(layer.parameter_names(), expected.grads.values(), strict=True):
        np.testing.assert_array_equal(getattr(layer, name).grad.numpy(), array)


def test_names_shapes_and_arguments_are_those_of_torch():
    theirs = nn.RNN(I, H, 2, bidirectional=True, dtype=torch.float64)
    ours = layer_of(2, bidirectional=True)
    shapes = {name: weight.shape for name, weight in theirs.state_dict().items()}
    assert {name: weight.shape for name, weight in ours.state_dict().items()} == shapes
    assert list(ours.state_dict()) == list(shapes)
    # The arguments after num_layers have the order that torch.nn.LSTM gives them.
    made = gt.AntisymmetricRNN(I, H, 2, False, True, 0.5, True)
    assert not made.bias
    assert made.batch_first
    assert made.dropout == 0.5
    assert made.bidirectional
    assert (made.step, made.diffusion) == (0.01, 0.01)
    own = inspect.signature(gd.AntisymmetricRNN).parameters
    ported = inspect.signature(gt.AntisymmetricRNN).parameters
    for name in ("step", "diffusion"):
        assert own[name].default == ported[name].default
    assert (
        repr(layer_of(2))
        == "gradcore.torch.AntisymmetricRNN(5, 9, num_layers=2, step=0.3, diffusion=0.1)"
    )
    assert made.mode == "ANTISYMMETRIC"


def test_the_start_is_that_of_the_paper():
    torch.manual_seed(0)
    layer = gt.AntisymmetricRNN(40, 400, 2, bidirectional=True, skip=gd.Skip(2, learned=True))
    for name, weight in layer.named_parameters():
        root = float(weight.detach().pow(2).mean().sqrt())
        if name.startswith("weight_hh"):
            assert root == pytest.approx(1 / math.sqrt(400), rel=0.02)
            assert float(weight.detach().abs().max()) > 3.5 / math.sqrt(400)  # not uniform
        elif name.startswith("skip"):
            assert bool((weight == 1).all())
        else:
            assert float(weight.detach().abs().max()) <= 1 / math.sqrt(400)
    before = copy.deepcopy(layer.state_dict())
    torch.manual_seed(0)
    layer.reset_parameters()
    assert not torch.equal(layer.weight_hh_l0, before["weight_hh_l0"])
    # Gradients neither vanish nor explode at the start.
    small = gt.AntisymmetricRNN(1, 32)
    x = torch.zeros(1000, 1, 1, requires_grad=True)
    small(x)[0][-1].sum().backward()
    sizes = x.grad.norm(dim=(1, 2))
    assert 0.01 < float(sizes[0] / sizes[-1]) < 100


def test_copies_files_and_dtypes():
    layer = layer_of(2, bidirectional=True, skip=gd.Skip(2, learned=True), memory="32MB")
    x = torch.randn(T, B, I, dtype=torch.float64)
    expected, _ = layer(x)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    made = [
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(file, weights_only=False),
    ]
    fresh = layer_of(2, bidirectional=True, skip=gd.Skip(2, learned=True))
    with torch.no_grad():
        fresh.weight_hh_l1.zero_()
    assert not torch.equal(fresh(x)[0], expected)
    fresh.load_state_dict(layer.state_dict())
    for other in (*made, fresh):
        assert torch.equal(other(x)[0], expected)
    assert [repr(other) for other in made] == [repr(layer)] * 3
    torch.testing.assert_close(layer.float()(x.float())[0], expected.float(), rtol=1e-4, atol=1e-5)


def test_packed_sequences_and_lengths():
    layer = layer_of(2, bidirectional=True)
    x = torch.randn(T, B, I, dtype=torch.float64)
    lengths = torch.tensor([17, 30, 3])
    packed = packing.pack_padded_sequence(x, lengths, enforce_sorted=False)
    found, _ = packing.pad_packed_sequence(layer(packed)[0], total_length=T)
    assert torch.equal(found, layer(x, lengths=lengths)[0])
    for b, length in enumerate(lengths):
        torch.testing.assert_close(found[:length, b], layer(x[:length, b])[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_as_one_operator():
    from gradcore.torch import _compiled

    torch._dynamo.reset()
    layer = layer_of()
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found = []
    for one in (layer, compiled):
        outputs, end = one(x)
        (slope,) = torch.autograd.grad(outputs.sin().sum() + end.sum(), x)
        found.append((outputs.detach(), slope))
    torch.testing.assert_close(*found)
    flat = torch.cat([weight.detach().reshape(-1) for weight in layer.parameters()])
    tensors = (flat.requires_grad_(), x)
    torch.library.opcheck(
        _compiled.layer, (*tensors, None, None, None, None, "", *layer._description())
    )


def test_convert_leaves_it_as_it_is():
    own = layer_of()
    model = nn.ModuleDict({"ours": own, "theirs": nn.LSTM(I, H)})
    gt.convert(model, memory="8MB")
    assert model["ours"] is own
    assert own.memory is None
    assert type(own) is gt.AntisymmetricRNN
    assert type(model["theirs"]) is gt.LSTM


def test_constraints_and_bounds():
    torch.manual_seed(0)
    model = Tagger(gt.AntisymmetricRNN(1, 12, 2, step=0.1, diffusion=0.05))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    kept = gt.constrain(model, optimizer, [gd.constrain.SpectralNorm(0.5)])
    x, y = torch.randn(40, 4, 1), torch.randint(3, (40, 4))
    for _ in range(5):
        loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for weight in (model.layer.weight_hh_l0, model.layer.weight_hh_l1):
            assert np.linalg.norm(weight.detach().numpy(), 2) <= 0.5 * (1 + 1e-5)
    assert set(kept.reports["layer"]) == {"0.weight_hh", "1.weight_hh"}
    one = layer_of()
    bound = gd.constrain.jacobian_bound(one.stack(), gt.params_of(one), 20)
    assert 0 < bound < 20 * np.log10(1 + 0.3 * 8)


def test_gradients_beyond_float32_are_clipped():
    layer = layer_of(dtype=torch.float32, step=0.5)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
        # h stays 0, where a step multiplies by I + 0.5 (A - A'), which has the norm 5.1.
        layer.weight_hh_l0[0, 1] = 10.0
    x = torch.zeros(400, 1, I)
    with pytest.warns(UserWarning, match="left the range of float32"):
        (layer(x)[0][-1].sum()).backward()
    assert gt.log10_grad_norm(layer) > 40
    gt.clip_grad_norm_(layer, 1.0)
    norm = torch.sqrt(sum(weight.grad.pow(2).sum() for weight in layer.parameters()))
    assert float(norm) == pytest.approx(1.0, rel=1e-4)


def test_a_diagnosis_is_that_of_gradcore():
    layer = layer_of(dtype=torch.float32)
    x = torch.randn(300, 2, I)
    (found,) = gt.diagnose(layer, lambda: layer(x)[0][-1].sum()).values()
    expected = gd.diagnose(layer.stack(), gt.params_of(layer), x.numpy(), parts=["reach"])
    np.testing.assert_array_equal(
        found.measured.reach[0].norm_log10, expected.measured.reach[0].norm_log10
    )
    assert "reset_parameters" not in str(found)


def test_what_is_refused():
    with pytest.raises(gd.ArgumentError, match=r"AntisymmetricRNN.step must be .*got 0"):
        gt.AntisymmetricRNN(I, H, step=0.0)
    with pytest.raises(gd.ArgumentError, match=r"AntisymmetricRNN.diffusion must be .*got -1"):
        gt.AntisymmetricRNN(I, H, diffusion=-1.0)
    with pytest.raises(gd.DTypeError, match=r"AntisymmetricRNN.step must be"):
        gt.AntisymmetricRNN(I, H, step="small")
    with pytest.raises(gd.ArgumentError, match=r"proj_size must be 0"):
        gt.AntisymmetricRNN(I, H, proj_size=2)
    with pytest.raises(TypeError, match="nonlinearity"):
        gt.AntisymmetricRNN(I, H, nonlinearity="relu")
    layer = layer_of()
    with pytest.raises(gd.ArgumentError, match=r"LSTM or GRU with biases.*AntisymmetricRNN\(5, 9"):
        layer.init_chrono_(100)
    x = torch.randn(T, B, I, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"Expected hidden size \(1, 3, 9\)"):
        layer(x, torch.zeros(1, B, H + 1, dtype=torch.float64))
    x[4, 1, 2] = torch.inf
    with pytest.raises(gd.NonFiniteError, match="step 4, sequence 1"):
        layer(x)
