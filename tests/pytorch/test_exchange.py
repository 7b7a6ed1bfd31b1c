"""from_torch and to_torch: the same outputs on both sides, and the same parameters both ways."""

from __future__ import annotations

import copy
import io as bytes_io

import numpy as np
import pytest

import gradcore as gd

torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")
from torch import nn  # noqa: E402

T, B = 23, 3
RNG = np.random.default_rng(0)


class Tagger(nn.Module):
    """A model as people write them."""

    def __init__(self, cell=nn.LSTM, **options):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.norm = nn.LayerNorm(6)
        self.rnn = cell(6, 8, num_layers=2, **options)
        self.drop = nn.Dropout(0.3)
        width = 16 if options.get("bidirectional") else 8
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        y, _ = self.rnn(self.norm(self.embed(x)))
        return self.head(self.drop(y))


def agree(model, net, params, x):
    outputs, _ = gd.apply(net, params, x)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(x)).numpy()
    tolerance = 1e-12 if params.dtype == np.float64 else 1e-5
    np.testing.assert_allclose(outputs, expected, atol=tolerance)


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_computes_the_same(cell, both, dtype):
    model = Tagger(cell, bidirectional=both, dropout=0.2).to(getattr(torch, dtype))
    x = RNG.integers(0, 11, (T, B))
    net, params = gd.from_torch(model)
    kinds = [type(layer).__name__ for layer in net.layers]
    name = cell.__name__
    assert kinds == ["Embedding", "LayerNorm", name, "Dropout", name, "Dropout", "Linear"]
    assert params.dtype == dtype
    assert net.layers[3] == gd.Dropout(0.2)
    agree(model, net, params, x)
    # A copy: later changes of the model do not reach it.
    before = params.copy()
    with torch.no_grad():
        model.head.bias += 1
    assert params == before


@pytest.mark.parametrize("bias", [True, False])
def test_a_state_dict_is_enough(bias):
    model = Tagger(nn.GRU, bias=bias, bidirectional=True)
    net, params = gd.from_torch(model.state_dict())
    agree(model, net, params, RNG.integers(0, 11, (T, B)))


def test_relu_is_known_from_a_module_only():
    model = nn.RNN(3, 4, nonlinearity="relu")
    assert gd.from_torch(model)[0].layers[0].nonlinearity == "relu"
    assert gd.from_torch(model.state_dict())[0].layers[0].nonlinearity == "tanh"


def nets():
    return {
        "plain": gd.Stack(gd.LSTM(3, 5), gd.GRU(5, 4, bias=False), gd.Linear(4, 2)),
        "tokens": gd.Stack(gd.Embedding(7, 3), gd.RNN(3, 4, nonlinearity="relu")),
        "norms": gd.Stack(
            gd.LayerNorm(3, elementwise_affine=False),
            gd.GRU(3, 4, bidirectional=True),
            gd.Dropout(0.25),
            gd.LayerNorm(8, 1e-3, bias=False),
            gd.LSTM(8, 8, residual=True),
            gd.Linear(8, 2, bias=False),
        ),
        "dense": gd.Stack(
            gd.Dense(3, 5, "gelu"),
            gd.Residual(
                gd.LayerNorm(5),
                gd.Residual(gd.Residual(gd.LSTM(5, 5)), gd.Dense(5, 5, "silu", bias=False)),
                gd.Dense(5, 5),
            ),
            gd.Dense(5, 4, "softplus"),
            gd.GRU(4, 4, bidirectional=True),
            gd.Dense(8, 2, "sigmoid"),
        ),
        "residual": gd.Stack(gd.Embedding(7, 3), gd.Residual(gd.Residual(gd.GRU(3, 3)))),
        "skip": gd.Stack(
            gd.GRU(3, 4, skip=gd.Skip(3, learned=True)),
            gd.LSTM(4, 4, skip=gd.Skip(2, kind="mix", learned=True), bidirectional=True),
            gd.AntisymmetricRNN(8, 8, step=0.1, diffusion=0.05, residual=True),
            gd.Linear(8, 2),
        ),
    }


@pytest.mark.parametrize("name", nets())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_there_and_back(name, dtype):
    net = nets()[name]
    params = net.init(seed=3, dtype=dtype)
    tokens = net.embedding is not None
    x = RNG.integers(0, 7, (T, B)) if tokens else RNG.standard_normal((T, B, 3)).astype(dtype)
    module = gd.to_torch(net, params)
    with torch.no_grad():
        outputs, state = module.eval()(torch.from_numpy(x))
        half, middle = module(torch.from_numpy(x[:9]))
        rest, _ = module(torch.from_numpy(x[9:]), middle)
    expected, _ = gd.apply(net, params, x)
    tolerance = 1e-11 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(outputs.numpy(), expected, atol=tolerance)
    if not net.bidirectional:
        np.testing.assert_allclose(torch.cat([half, rest]).numpy(), expected, atol=tolerance)
    assert len(state) == len(net.recurrent)
    back, again = gd.from_torch(module)
    assert back == net
    assert again == params
    # The names of its tensors are recognised as well, as far as they tell what the net is.
    if name == "plain":
        assert gd.from_torch(module.state_dict()) == (net, params)


@pytest.mark.parametrize(
    ("function", "activation"),
    [
        (nn.ReLU(), "relu"),
        (nn.Tanh(), "tanh"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.GELU(), "gelu"),
        (nn.SiLU(), "silu"),
        (nn.Softplus(), "softplus"),
    ],
)
def test_activation_functions_behind_a_linear_make_a_dense(function, activation):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.before = nn.Sequential(nn.Linear(3, 5), function, nn.Linear(5, 4, bias=False))
            self.rnn = nn.GRU(4, 6)
            self.behind = nn.Sequential(nn.Dropout(0.1), nn.Linear(6, 6), function)
            self.head = nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.behind(self.rnn(self.before(x))[0]))

    model = Model().double()
    net, params = gd.from_torch(model)
    assert net == gd.Stack(
        gd.Dense(3, 5, activation),
        gd.Dense(5, 4, bias=False),
        gd.GRU(4, 6),
        gd.Dropout(0.1),
        gd.Dense(6, 6, activation),
        gd.Linear(6, 2),
    )
    agree(model, net, params, RNG.standard_normal((T, B, 3)))


def test_a_module_of_a_net_inside_a_model_keeps_its_residuals():
    first = gd.Stack(gd.Residual(gd.Dense(3, 3, "tanh"), gd.LSTM(3, 3)), gd.Linear(3, 3))
    made = gd.to_torch(first, first.init(seed=1))
    net, params = gd.from_torch(nn.Sequential(made, nn.Tanh(), nn.Linear(3, 2)))
    assert net == gd.Stack(*first.nested[:-1], gd.Dense(3, 3, "tanh"), gd.Linear(3, 2))
    np.testing.assert_array_equal(params["1.weight_hh"], made[1].weight_hh_l0.detach().numpy())


@pytest.mark.parametrize("name", ["skip", "dense"])
def test_the_module_trains_copies_and_pickles(name):
    net = nets()[name]
    module = gd.to_torch(net, net.init(seed=0))
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    x = torch.from_numpy(RNG.standard_normal((T, B, 3)).astype("float32"))
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = module(x)[0].square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    file = bytes_io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for other in (copy.deepcopy(module), torch.load(file, weights_only=False)):
        assert torch.equal(other.eval()(x)[0], module.eval()(x)[0])


def test_gradcore_layers_in_a_model_keep_their_skip():
    from gradcore.torch import GRU

    model = nn.Sequential(GRU(3, 4, skip=gd.Skip(5, learned=True)), nn.Identity())
    net, params = gd.from_torch(model)
    assert net.layers[0].skip == gd.Skip(5, learned=True)
    assert params["0.skip_scale"].tolist() == model[0].skip_scale_l0.tolist()


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (
            nn.Sequential(nn.LSTM(3, 4), nn.ReLU()),
            gd.ArgumentError,
            r"1 \(ReLU\) must come directly",
        ),
        (
            nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Tanh(), nn.GRU(4, 4)),
            gd.ArgumentError,
            r"2 \(Tanh\) must come directly behind a Linear",
        ),
        (
            nn.Sequential(nn.Linear(3, 4), nn.GELU("tanh"), nn.GRU(4, 4)),
            gd.ArgumentError,
            r"1 \(GELU\) is GELU\(approximate='tanh'\); gradcore has gelu without",
        ),
        (
            nn.Sequential(nn.Linear(3, 4), nn.Softplus(2.0)),
            gd.ArgumentError,
            "softplus with beta=1",
        ),
        (
            nn.Sequential(nn.Linear(3, 4), nn.GRU(4, 4)).state_dict(),
            gd.ArgumentError,
            "0 is a Linear before the end of the net, and tensors do not tell",
        ),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), gd.ArgumentError, r"0 \(Conv2d\)"),
        (nn.LSTM(3, 4, proj_size=2), gd.ArgumentError, "proj_size=2"),
        (nn.Linear(3, 4), gd.ArgumentError, "no recurrent layer"),
        (nn.Sequential(nn.GRU(3, 4), nn.Linear(5, 2)), gd.ShapeError, "in_features 4"),
        (nn.Embedding(3, 4, max_norm=1.0), gd.ArgumentError, "max_norm"),
        (nn.LayerNorm((3, 4)), gd.ArgumentError, r"normalized_shape is \(3, 4\)"),
        (nn.GRU(3, 4).half(), gd.DTypeError, "torch.float16"),
        (
            nn.Sequential(nn.GRU(3, 4), nn.Linear(4, 2).double()),
            gd.DTypeError,
            "must all be float32 or",
        ),
        ("model.pt", gd.DTypeError, "For a file use gradcore.load"),
        ({"a.weight_ih_l0": 3}, gd.DTypeError, "a.weight_ih_l0 must be a tensor; got int"),
        ({"conv.weight_g": torch.ones(3)}, gd.ArgumentError, "conv.weight_g is not the name"),
        ({"a.weight": torch.ones(2, 3, 4)}, gd.ArgumentError, r"shape \(2, 3, 4\)"),
        ({"a.bias": torch.ones(2)}, gd.ArgumentError, "a has bias, which no layer has"),
        (
            {"r.weight_ih_l0": torch.ones(4, 3), "r.weight_hh_l0": torch.ones(4, 2)},
            gd.ArgumentError,
            "1, 3 or 4 times as many rows",
        ),
        (
            {"r.weight_ih_l0": torch.ones(7, 3), "r.weight_hh_l0": torch.ones(8, 2)},
            gd.ArgumentError,
            r"weight_ih of r must have shape \(8, 3\)",
        ),
        ({"r.weight_hh_l0": torch.ones(8, 2)}, gd.ArgumentError, "weight_ih of r must be a matrix"),
        ({}, gd.GradcoreError, "recurrent"),
    ],
)
def test_what_cannot_be_taken_is_told(model, error, message):
    with pytest.raises(error, match=message):
        gd.from_torch(model)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (gd.LSTM(3, 4, zoneout=0.1), r"layer 0 \(LSTM\) has zoneout"),
        (gd.GRU(3, 4, recurrent_dropout=0.1), "recurrent_dropout"),
        (gd.RNN(3, 4, nonlinearity="identity"), "no nonlinearity"),
    ],
)
def test_what_cannot_be_given_is_told(layer, message):
    net = gd.Stack(layer)
    with pytest.raises(gd.ArgumentError, match=message):
        gd.to_torch(net, net.init())


def test_a_state_of_another_net_is_refused():
    net = nets()["plain"]
    with pytest.raises(gd.ArgumentError, match="one entry per recurrent layer, 2; it has 1"):
        gd.to_torch(net, net.init())(torch.zeros(2, 1, 3), [None])
