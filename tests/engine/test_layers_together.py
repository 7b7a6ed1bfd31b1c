"""Layers of every kind in one net: front ends, convolutions, static inputs, pools and heads."""

from __future__ import annotations

import numpy as np
import pytest

import gradcore as gd

S = 2


def heads(width):
    return gd.Heads(kind=gd.Linear(width, 3), size=gd.Linear(width, 2, bias=False))


NETS = {
    "strides, static inputs, both directions, a pool, heads": lambda: gd.Stack(
        gd.Conv1d(2, 6, 4, stride=2, padding="same", activation="tanh"),
        gd.StaticInput(S, 6),
        gd.Residual(gd.LayerNorm(6), gd.Dense(6, 6, "gelu")),
        gd.GRU(6, 5, bidirectional=True, initial_state="static", static_size=S),
        gd.Pool("mean", 10),
        gd.StaticInput(S, 10),
        heads(10),
    ),
    "convolutions in place, strides between layers, heads": lambda: gd.Stack(
        gd.Conv1d(2, 5, 3, dilation=2),
        gd.LSTM(5, 6, initial_state="learned"),
        gd.AvgPool1d(3, padding="causal"),
        gd.Conv1d(6, 6, 3, groups=3, activation="silu"),
        gd.StaticInput(S, 6),
        gd.RNN(6, 7),
        heads(7),
    ),
    "tokens, a residual run, attention, heads": lambda: gd.Stack(
        gd.Embedding(9, 6),
        gd.Residual(gd.Conv1d(6, 6, 3, padding="causal"), gd.GRU(6, 6)),
        gd.Frames(2),
        gd.StaticInput(S, 12),
        gd.LSTM(12, 4),
        gd.Pool("attention", 4),
        gd.Dense(4, 8, "softplus"),
        heads(8),
    ),
    "tokens looked up by tap, heads": lambda: gd.Stack(
        gd.Conv1d(9, 6, 5, dilation=3, activation="relu"),
        gd.StaticInput(S, 6),
        gd.AntisymmetricRNN(6, 6),
        heads(6),
    ),
}
LOSS = gd.loss.Heads(
    {"kind": gd.loss.CrossEntropy(), "size": gd.loss.Huber(delta=0.7)}, weights={"size": 0.3}
)


def problem(name, steps=300, dtype="float64"):
    net = NETS[name]()
    random = np.random.default_rng(0)
    params = net.init(seed=1, dtype=dtype)
    params.flat[:] += 0.05 * random.standard_normal(net.n_parameters)
    batch = 4
    tokens = "tokens" in name
    shape = (steps, batch) if tokens else (steps, batch, 2)
    x = random.integers(0, 9, shape) if tokens else random.standard_normal(shape).astype(dtype)
    positions = net.positions(net.output_steps(steps), batch)
    y = {
        "kind": random.integers(0, 3, positions),
        "size": random.standard_normal((*positions, 2)).astype(dtype),
    }
    return net, params, x, y, random.standard_normal((batch, S)).astype(dtype)


@pytest.mark.parametrize("name", NETS)
def test_gradient_along_a_direction_is_the_difference(name):
    net, params, x, y, static = problem(name)
    given = {"loss": LOSS, "lengths": np.array([300, 171, 40, 9]), "static": static}
    found = gd.value_and_grad(net, params, x, y, wrt=("params", "static"), **given)
    random = np.random.default_rng(5)
    along, beside = random.standard_normal(net.n_parameters), random.standard_normal(static.shape)

    def at(t):
        moved = gd.Params(net, params.flat + t * along)
        return gd.value(net, moved, x, y, **(given | {"static": static + t * beside}))

    step = 1e-5
    difference = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
    exact = found.grads.flat @ along + np.vdot(found.dstatic, beside)
    # Kinks of relu and of Huber's loss spoil a few digits.
    assert difference == pytest.approx(exact, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", NETS)
def test_budgets_and_threads_give_the_same_bits(name):
    net, params, x, y, static = problem(name, steps=1500, dtype="float32")
    given = {"loss": LOSS, "lengths": np.array([1500, 1499, 700, 3]), "static": static}
    whole = gd.value_and_grad(net, params, x, y, memory="full", threads=1, **given)
    with pytest.raises(gd.MemoryBudgetError) as refused:
        gd.value_and_grad(net, params, x, y, memory=1, **given)
    least = refused.value.smallest
    for memory, threads in ((least, 1), (least, 2), ("full", 2)):
        again = gd.value_and_grad(net, params, x, y, memory=memory, threads=threads, **given)
        assert again.loss == whole.loss
        assert np.array_equal(again.grads.flat, whole.grads.flat), (memory, threads)


@pytest.mark.parametrize("name", NETS)
def test_each_sequence_is_as_if_alone(name):
    net, params, x, _, static = problem(name)
    lengths = np.array([300, 171, 40, 9])
    together, _ = gd.apply(net, params, x, lengths=lengths, static=static)
    for b, n in enumerate(lengths):
        one = np.ascontiguousarray(x[:n, b : b + 1])
        alone, _ = gd.apply(net, params, one, static=static[b : b + 1])
        for head, values in alone.items():
            own = together[head]
            own = own[b] if net.pool is not None else own[: len(values), b]
            assert np.allclose(own, values[0] if net.pool is not None else values[:, 0], atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_hessian_products_are_differences_of_gradients(name):
    net, params, x, y, static = problem(name, steps=60)
    given = {"loss": LOSS, "static": static}
    v = np.random.default_rng(3).standard_normal(net.n_parameters)
    found = gd.jacobian.hvp(net, params, x, y, v=[gd.Params(net, v)], **given)

    def at(t):
        moved = gd.Params(net, params.flat + t * v)
        return gd.value_and_grad(net, moved, x, y, **given).grads.flat

    step = 1e-5
    difference = (at(step) - at(-step)) / (2 * step)
    product = np.asarray(found.product).reshape(-1)
    assert np.abs(product - difference).max() <= 2e-5 * np.abs(difference).max()


@pytest.mark.parametrize("name", NETS)
def test_files_and_training(name, tmp_path):
    net, params, x, y, static = problem(name, steps=40, dtype="float32")
    gd.save(tmp_path / "net.safetensors", net, params)
    again = gd.load(tmp_path / "net.safetensors")
    assert again.net == net
    assert np.array_equal(again.params.flat, params.flat)
    print(net)
    assert gd.summary(net, steps=40, batch=4)
    batch = gd.Batch(x, y, static=static)
    trainer = gd.Trainer(net, params, gd.optim.Adam(params, 0.02), loss=LOSS, quiet=True)
    report = trainer.fit([batch], epochs=200)
    assert report.losses[-1] < 0.9 * report.losses[0]
