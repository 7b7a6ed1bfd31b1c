"""Summaries: what layers put out, hold and compute, and what an update costs."""

import pytest

import gradcore as gd
from gradcore._engine import summary as module

NET = gd.Stack(
    gd.Dense(4, 32, "gelu"),
    gd.Residual(gd.LayerNorm(32), gd.Residual(gd.GRU(32, 32))),
    gd.LSTM(32, 16, bidirectional=True),
    gd.Dropout(0.1),
    gd.Linear(32, 2, bias=False),
)
T, B = 3000, 2


def test_every_layer_has_its_line():
    found = gd.summary(NET, steps=T, batch=B)
    assert [line.place for line in found.layers] == [0, None, 1, None, 2, 3, 4, 5]
    layers = [line for line in found.layers if line.place is not None]
    assert [line.shape for line in layers] == [(T, B, width) for width in (32, 32, 32, 32, 32, 2)]
    assert [line.parameters for line in layers] == [4 * 32 + 32, 64, 6336, 6400, 0, 64]
    assert found.parameters == NET.n_parameters == sum(line.parameters for line in layers)
    products = (4 * 32, 0, 3 * 32 * 64, 2 * 4 * 16 * 48, 0, 64)
    assert [line.flops for line in layers] == [2 * T * B * count for count in products]
    assert found.flops == 3 * sum(line.flops for line in layers)


def test_the_plan_is_that_of_a_training_call():
    whole = gd.summary(NET, steps=T, batch=B, memory="full", dtype="float64")
    assert whole.plan == gd.plan(NET, T, B, loss="mse", memory="full", dtype="float64")
    assert whole.dtype == "float64"
    with pytest.raises(gd.MemoryBudgetError) as refused:
        gd.summary(NET, steps=T, batch=B, memory=1)
    least = gd.summary(NET, steps=T, batch=B, memory=refused.value.smallest)
    forward = sum(line.flops for line in least.layers)
    again = least.plan.recomputed_steps
    assert again > 0
    assert least.flops == pytest.approx(forward * (3 + again / T))
    assert f"{again:,} of 3,000 steps run again" in str(least)


def test_time_is_measured_on_a_few_steps_and_multiplied(monkeypatch):
    spent = {"forward": 0.5, "both": 2.0}
    monkeypatch.setattr(module, "_best", lambda call: call() or spent[call.__name__])
    net = gd.Stack(gd.Dense(4, 8, "relu"), gd.LSTM(8, 16))
    found = gd.summary(net, steps=1_000_000, memory="50MB")
    assert module.LEAST_STEPS <= found.timed_steps <= module.MOST_STEPS
    repeated = found.plan.recomputed_steps / 1_000_000
    assert repeated > 0.5
    assert found.seconds == pytest.approx((2.0 + 0.5 * repeated) * 1e6 / found.timed_steps)
    assert gd.summary(NET, steps=7).timed_steps == 7


def test_bare_tokens_take_columns():
    net = gd.Stack(gd.GRU(9, 8))
    tokens, floats = (gd.summary(net, steps=50, tokens=kind) for kind in (True, False))
    assert tokens.layers[0].flops == 2 * 50 * 24 * 8
    assert floats.layers[0].flops == 2 * 50 * 24 * (8 + 9)
    embedded = gd.summary(gd.Stack(gd.Embedding(9, 4), gd.RNN(4, 8)), steps=50)
    assert [line.flops for line in embedded.layers] == [0, 2 * 50 * 8 * 12]


def test_text():
    lines = str(gd.summary(NET, steps=T, batch=B)).splitlines()
    assert lines[0].split() == ["layer", "output", "parameters", "flops", "forward"]
    assert lines[1].startswith("0  Dense(4, 32, activation='gelu')")
    assert lines[1].endswith(f"(3000, 2, 32)         160  {2 * T * B * 128:>13,}")
    assert lines[2:6:2] == ["   Residual", "     Residual"]
    assert lines[5].startswith("2      GRU(32, 32) ")
    assert lines[9] == f"{NET.n_parameters:,} parameters, float32"
    assert lines[10].startswith("an update: ")
    assert lines[11].startswith("time without the optimizer: ")


def test_print_of_a_net():
    lines = str(NET).splitlines()
    assert lines[0].split() == ["layer", "output", "parameters"]
    assert " ".join(lines[1].split()) == "0 Dense(4, 32, activation='gelu') (T, B, 32) 160"
    assert " ".join(lines[5].split()) == "2 GRU(32, 32) (T, B, 32) 6,336"
    assert lines[-1] == f"{NET.n_parameters:,} parameters"
    assert len({len(line) for line in lines[:2]}) == 1
    assert f"{NET!r}".startswith("Stack(Dense(in_features=4")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"steps": 0}, gd.ArgumentError, "steps must be at least 1"),
        ({"batch": 2.5}, gd.DTypeError, "batch must be an integer"),
        ({"dtype": "int8"}, gd.DTypeError, "dtype must be"),
        ({"tokens": True}, gd.ArgumentError, "put an embedding before it"),
        ({"net": NET.layers}, gd.DTypeError, "net must be a gradcore.Stack; got tuple"),
    ],
)
def test_wrong_arguments(change, error, message):
    given = {"net": NET, "steps": 10} | change
    with pytest.raises(error, match=message):
        gd.summary(given.pop("net"), **given)
