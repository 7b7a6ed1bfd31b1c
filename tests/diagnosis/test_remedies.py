"""Every remedy of a verdict works as it is written, in the front end that it is worded for."""

import re

import numpy as np
import pytest

import gradcore as gd
from gradcore.diagnosis._remedies import FRONTS, REMEDIES

NUMBERS = {"lag": 20, "steps": 300, "gain": 2.0, "cut": 8, "width": 8}
LAST = gd.loss.MeanSquaredError(step="last")


def code(front):
    """(name, code or options) of every remedy of a front end."""
    return [
        (name, piece)
        for name, texts in REMEDIES.items()
        for piece in re.findall("`([^`]+)`", texts[front].format(**NUMBERS))
    ]


def test_every_front_end_has_every_remedy():
    assert all(set(texts) == set(FRONTS) for texts in REMEDIES.values())
    assert all(
        not re.search(r"(gd|gradcore|torch)\.|net\.|--", re.sub("`[^`]+`", "", text))
        or re.sub("`[^`]+`", "", text).count("gradcore's") == 1
        for texts in REMEDIES.values()
        for text in texts.values()
    ), "code stands between backticks, or no test runs it"


@pytest.mark.parametrize(("name", "piece"), code("python"))
def test_remedies_in_python(name, piece):
    net = gd.Stack(gd.LSTM(1, 8), gd.Linear(8, 1))
    x = np.zeros((40, 1, 1), np.float32)
    # A stream has no axis for sequences.
    long = x[:, 0] if "Stream" in piece else x
    names = {"gd": gd, "net": net, "params": net.init(seed=1), "x": long, "y": long}
    made = eval(piece, {**names, "starts": np.arange(40)[:, None] % 10 == 0})
    if isinstance(made, gd.AntisymmetricRNN):
        gd.Stack(made).init(seed=0)
    if isinstance(made, gd.Skip):
        layer = gd.LSTM(1, 8, skip=made)
        gd.apply(gd.Stack(layer), gd.Stack(layer).init(seed=0), x)


@pytest.mark.parametrize(("name", "piece"), code("torch"))
def test_remedies_in_torch(name, piece):
    torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")
    import gradcore.torch

    model = torch.nn.ModuleDict({"layer": gradcore.torch.LSTM(1, 8)})
    x = torch.randn(20, 1, 1)
    model["layer"](x)[0].sum().backward()
    optimizer = torch.optim.Adam(model.parameters())
    names = {"gradcore": gradcore, "torch": torch, "model": model, "optimizer": optimizer}
    names |= {"layer": model["layer"], "x": x, "starts": torch.arange(20)[:, None] % 10 == 0}
    made = eval(piece, names)
    if isinstance(made, tuple):
        assert not torch.equal(made[0], model["layer"](x)[0])
    if isinstance(made, gradcore.torch.Layer):
        made(torch.randn(30, 2, 8))[0].sum().backward()


def test_the_torch_front_end_names_what_it_has():
    pieces = [piece for _, piece in code("torch")]
    for name in ("reset=", "AntisymmetricRNN(8, 8)", "init_chrono_", "skip="):
        assert any(name in piece for piece in pieces), name


# ---- what is said of a net


def chain(factor, steps, batch=2, nonlinearity="identity"):
    net = gd.Stack(gd.RNN(1, 4, nonlinearity=nonlinearity), gd.Linear(4, 1))
    params = net.init(seed=0)
    params["0.weight_hh"][...] = factor * np.eye(4)
    x = np.full((steps, batch, 1), 0.01, np.float32)
    return net, params, x, np.ones((batch, 1), np.float32)


def chaotic(layer=gd.RNN, gain=3.0, **options):
    net = gd.Stack(layer(1, 64, **options), gd.Linear(64, 1))
    params = net.init(seed=0, gain=gain)
    x = np.random.default_rng(0).standard_normal((400, 3, 1)).astype(np.float32)
    return gd.diagnose(net, params, x, np.ones((3, 1), np.float32), loss=LAST)


@pytest.mark.parametrize(
    ("layer", "gain", "options"),
    [(gd.RNN, 3.0, {}), (gd.RNN, 8.0, {}), (gd.GRU, 6.0, {})],
)
def test_a_chaotic_net_gets_one_warning(layer, gain, options):
    found = chaotic(layer, gain, **options)
    growing = [f for f in found.findings if f.level == "warning" and f.about != "gates"]
    (chaos,) = growing
    assert "chaotic" in chaos.text
    assert "says little" in chaos.text
    assert chaos.values["exponent"] > 0
    assert chaos.values["log10_growth"] > 2
    assert "SpectralNorm" in chaos.remedy
    assert "net.init(seed=0)" in chaos.remedy  # another initialisation was used
    assert not {"truncation", "windows"} & {f.about for f in found.findings}
    assert "exact gradient over all steps" not in str(found)
    assert str(found).count("-> ") == len([f for f in found.findings if f.remedy])


def test_gradients_that_grow_without_chaos_give_one_advice():
    net, params, x, y = chain(1.03, 2000)
    found = gd.diagnose(net, params, x, y, loss=LAST)
    assert not any("chaotic" in f.text for f in found.findings)
    growing = [f for f in found.findings if f.level == "warning"]
    assert len(growing) >= 2
    assert sum("GlobalNorm" in f.remedy for f in found.findings) == 1


@pytest.mark.parametrize(
    ("gain", "front", "told"),
    [
        (0.3, "python", True),
        (1.0, "python", False),
        (0.05, "torch", True),
        (0.58, "torch", False),
    ],
)
def test_the_default_initialisation_is_a_remedy_where_another_was_used(gain, front, told):
    net = gd.Stack(gd.LSTM(1, 16), gd.Linear(16, 1))
    params = net.init(seed=0, gain=gain)
    x = np.random.default_rng(0).standard_normal((400, 1, 1)).astype(np.float32)
    found = gd.diagnose(net, params, x, parts=["reach"]).worded_for(front)
    (reach,) = found.findings
    assert "vanishes" in reach.text
    assert ("default initialisation" in reach.remedy) == told


def test_remedies_are_worded_for_the_front_end():
    net, params, x, y = chain(0.9, 2000)
    found = gd.diagnose(net, params, x, y, loss=LAST)
    texts = {front: str(found.worded_for(front)) for front in FRONTS}
    assert "net.init(chrono=2000)" in texts["python"]
    assert "layer.init_chrono_(2000)" in texts["torch"]
    assert "--cell lstm --chrono 2000" in texts["csv"]
    assert "--skip 20" in texts["command"]
    assert "--chrono" not in texts["command"]
    assert "--cell lstm" in texts["task"]
    assert "--skip" not in texts["task"]
    for front in ("torch", "csv", "command", "task"):
        assert "gd." not in texts[front]
        assert "net.init" not in texts[front]
    with pytest.raises(gd.ArgumentError, match="front must be one of"):
        found.worded_for("julia")


def test_an_antisymmetric_net_is_not_advised_to_be_one():
    net = gd.Stack(gd.AntisymmetricRNN(1, 8, step=0.5, diffusion=0.5))
    x = np.zeros((400, 1, 1), np.float32)
    found = gd.diagnose(net, net.init(seed=0, gain=0.1), x, parts=["reach"])
    assert "vanishes" in found.findings[0].text
    assert "diffusion=0.0" in found.findings[0].remedy
    for front in FRONTS:
        remedy = found.worded_for(front).findings[0].remedy
        assert "AntisymmetricRNN(8, 8)" not in remedy
        assert "--cell antisymmetric" not in remedy


def test_torch_is_told_in_its_own_words():
    torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")
    import gradcore.torch

    torch.manual_seed(0)
    layer = gradcore.torch.LSTM(1, 8)
    x = torch.randn(1500, 1, 1)
    (found,) = gradcore.torch.diagnose(layer, lambda: layer(x)[0][-1].sum()).values()
    assert "layer.init_chrono_(1500)" in str(found)
    before = gd.gates.statistics(layer.stack(), gradcore.torch.params_of(layer), x.numpy())
    layer.init_chrono_(1500)
    after = gd.gates.statistics(layer.stack(), gradcore.torch.params_of(layer), x.numpy())
    assert after[0].time_constant.max() > 20 * before[0].time_constant.max()
    for other in (gradcore.torch.RNN(1, 8), gradcore.torch.LSTM(1, 8, bias=False)):
        with pytest.raises(gd.ArgumentError, match="needs an LSTM or GRU with biases"):
            other.init_chrono_(100)


@pytest.mark.parametrize("lengths", [None, [300, 260, 300, 140]])
def test_the_picture_has_the_numbers_of_the_verdict(lengths):
    pytest.importorskip("matplotlib", reason="draws: install gradcore[plot]")
    net = gd.Stack(gd.RNN(1, 16), gd.Linear(16, 1))
    params = net.init(seed=3)
    x = np.random.default_rng(1).standard_normal((300, 4, 1)).astype(np.float32)
    found = gd.diagnose(net, params, x, parts=["reach"], lengths=lengths)
    lengths_found = found.measured.reach[0].memory_length(0.01)
    assert len(set(lengths_found.tolist())) > 1  # sequences differ
    told = re.search(r"1 % after ([\d,]+) of", found.findings[0].text)[1]
    (label,) = found.plot().axes[0].get_legend_handles_labels()[1]
    assert label.endswith(f"1 % after {told}")
