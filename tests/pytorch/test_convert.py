"""convert and revert: what they turn, what they leave alone and say."""

import copy
import io

import pytest

import gradcore as gd

torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize  # noqa: E402

import gradcore.torch as gt  # noqa: E402

KINDS = ("RNN", "LSTM", "GRU")


class Own(nn.LSTM):
    pass


class Model(nn.Module):
    def __init__(self, module=nn, **options):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.lstm = module.LSTM(6, 8, 2, bidirectional=True, **options)
        self.gru = module.GRU(16, 5)
        self.rnn = module.RNN(5, 5, nonlinearity="relu")
        self.head = nn.Linear(5, 3)

    def forward(self, tokens):
        x = self.embed(tokens)
        x = self.lstm(x)[0]
        x = self.gru(x)[0]
        return self.head(self.rnn(x)[0])


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    return torch.randint(11, (20, 3))


def test_there_and_back(tokens):
    model = Model()
    expected, shown = model(tokens), repr(model)
    weights, modules = list(model.parameters()), list(model.modules())
    attributes = {name: set(vars(one)) for name, one in model.named_modules()}
    for _ in range(2):
        gt.convert(model, memory="8MB")
        assert "gradcore.torch.LSTM(6, 8" in repr(model)
        torch.testing.assert_close(model(tokens), expected)
        assert gt.revert(model) is model
        assert repr(model) == shown
        assert [type(one) for one in model.children()][1:4] == [nn.LSTM, nn.GRU, nn.RNN]
        assert {name: set(vars(one)) for name, one in model.named_modules()} == attributes
        assert torch.equal(model(tokens), expected)
    assert all(a is b for a, b in zip(model.parameters(), weights, strict=True))
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))


def test_revert_of_a_model_that_was_built_and_trained_with_gradcore(tokens):
    model = Model(gt, memory="8MB")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(tokens).pow(2).sum().backward()
    optimizer.step()
    expected = model(tokens)
    loaded = Model()
    loaded.load_state_dict(model.state_dict())
    gt.revert(model)
    torch.testing.assert_close(model(tokens), expected)
    assert torch.equal(model(tokens), loaded(tokens))
    model(tokens).sum().backward()
    optimizer.step()


@pytest.mark.filterwarnings("ignore")
def test_scripted_quantised_and_copied_behind_revert(tokens):
    model = gt.revert(Model(gt)).eval()
    expected = model(tokens)
    torch.testing.assert_close(torch.jit.script(model)(tokens), expected)
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM, nn.GRU, nn.Linear})
    assert "Dynamic" in repr(quantised.lstm)
    assert float((quantised(tokens) - expected).abs().max()) < 0.1
    file = io.BytesIO()
    torch.save(copy.deepcopy(model), file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(tokens), expected)
    assert model.bfloat16()(tokens).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "layer",
    [
        lambda: gt.GRU(2, 3, skip=gd.Skip(2)),
        lambda: gt.LSTM(2, 3, skip=gd.Skip(1, learned=True)),
        lambda: gt.AntisymmetricRNN(2, 3),
        lambda: type("Mine", (gt.LSTM,), {})(2, 3),
    ],
)
def test_revert_refuses_what_torch_does_not_have(layer):
    model = nn.ModuleDict({"fine": gt.LSTM(2, 3), "other": layer()})
    with pytest.raises(
        gd.ArgumentError, match=r"revert needs layers that torch\.nn has; 'other' is"
    ):
        gt.revert(model)
    assert type(model["fine"]) is gt.LSTM
    with pytest.raises(gd.DTypeError, match=r"torch\.nn\.Module"):
        gt.revert([])


@pytest.mark.parametrize("kind", KINDS)
def test_parametrizations_stay(kind):
    torch.manual_seed(0)
    layer = getattr(nn, kind)(4, 6, bidirectional=True)
    with torch.no_grad():
        layer.weight_hh_l0.mul_(10)
    parametrizations.spectral_norm(layer, "weight_hh_l0")
    parametrizations.orthogonal(layer, "weight_hh_l0_reverse")
    layer.eval()  # spectral_norm then does not iterate
    x = torch.randn(7, 2, 4)
    with torch.no_grad():
        named = {name: getattr(layer, name).clone() for name in layer._flat_weights_names}
    plain = getattr(nn, kind)(4, 6, bidirectional=True)
    plain.load_state_dict(named)
    gt.convert(layer)
    assert isinstance(layer, getattr(gt, kind))
    assert parametrize.is_parametrized(layer, "weight_hh_l0")
    torch.testing.assert_close(layer(x)[0], plain(x)[0])
    layer(x)[0].sum().backward()
    assert layer.parametrizations.weight_hh_l0.original.grad is not None
    assert f"gradcore.torch.Parametrized{kind}" in repr(layer)
    gt.revert(layer)
    assert isinstance(layer, getattr(nn, kind))
    gt.convert(layer)
    parametrize.remove_parametrizations(layer, "weight_hh_l0")
    parametrize.remove_parametrizations(layer, "weight_hh_l0_reverse")
    assert type(layer) is getattr(gt, kind)
    torch.testing.assert_close(layer(x)[0], plain(x)[0])


def test_a_warning_names_what_is_left():
    model = nn.ModuleDict(
        {
            "own": Own(2, 3),
            "cell": nn.GRUCell(2, 3),
            "other": nn.LSTMCell(2, 3),
            "small": nn.LSTM(2, 3, proj_size=1),
            "fine": nn.LSTM(2, 3),
        }
    )
    with pytest.warns(UserWarning, match="convert left alone") as said:
        gt.convert(model)
    text = str(said[0].message)
    assert "'own' (Own, a subclass of torch.nn.LSTM)" in text
    assert "'cell' (a GRUCell, which runs one step at a time)" in text
    assert "'other' (a LSTMCell" in text
    assert "'small' (proj_size=1" in text
    assert "'fine'" not in text
    assert said[0].filename == __file__
    assert type(model["fine"]) is gt.LSTM
    assert type(model["own"]) is Own
    assert type(model["small"]) is nn.LSTM


def test_a_warning_where_nothing_is_found():
    with pytest.warns(UserWarning, match="found no torch.nn.RNN, LSTM or GRU"):
        gt.convert(nn.Sequential(nn.Linear(2, 3)))
    with pytest.warns(UserWarning, match=r"left alone: 'the model' \(Own"):
        gt.convert(Own(2, 3))
    gt.convert(nn.Sequential(gt.LSTM(2, 3)))  # nothing to say
    gt.convert(nn.Sequential(gt.AntisymmetricRNN(2, 3)))


def test_one_layer_in_two_places_is_turned_once(tokens):
    layer = nn.LSTM(3, 3)
    model = nn.Sequential(layer, nn.ModuleList([layer]))
    gt.convert(model)
    assert type(model[0]) is gt.LSTM
    assert model[1][0] is model[0]
    gt.revert(model)
    assert type(model[0]) is nn.LSTM
