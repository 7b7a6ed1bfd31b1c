"""Static inputs and initial states in everything that runs nets: steps, passes, plans, files."""

import pickle

import numpy as np
import pytest

import gradcore as gd
from static_nets import LEARNED, LOSS, NETS, STATIC, S, case_of

ONE_WAY = [name for name in NETS if "both" not in name]


def same_states(one, other):
    for a, b in zip(one, other, strict=True):
        for name in ("h", "c", "skip"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ONE_WAY)
def test_steps_equal_apply_to_the_bit(name, dtype):
    case = case_of(name, steps=20, batch=3, ragged=False)
    (net, params, x), keywords = case.core(dtype)
    outputs, state = gd.apply(net, params, x, static=keywords["static"])
    stepper = gd.Stepper(net, params, 3, static=keywords["static"])
    found = [stepper.step(x_t) for x_t in x[:5]]
    found += list(pickle.loads(pickle.dumps(stepper)).run(x[5:9]))
    stepper.run(x[5:9])
    found += list(stepper.run(x[9:]))
    np.testing.assert_array_equal(np.stack(found), outputs)
    same_states(stepper.state, state)
    stepper.reset()
    np.testing.assert_array_equal(stepper.run(x), outputs)
    stepper.reset(np.array([False, True, False]))
    again = stepper.run(x)
    np.testing.assert_array_equal(again[:, 1], outputs[:, 1])
    assert (again[:, 0] != outputs[:, 0]).any()


def test_a_stepper_needs_static():
    net, params = gd.Stack(gd.StaticInput(S, 2), gd.GRU(2, 4)), None
    params = net.init()
    with pytest.raises(gd.ArgumentError, match=r"static must be given.*\(1, 3\)"):
        gd.Stepper(net, params)


@pytest.mark.parametrize("name", ONE_WAY)
def test_windows_continue_from_the_carried_state(name):
    case = case_of(name, steps=300, ragged=False)
    (net, params, x), keywords = case.core()
    static = keywords["static"]
    outputs, state = gd.apply(net, params, x, static=static)
    first, between = gd.apply(net, params, x[:170], static=static)
    last, end = gd.apply(net, params, x[170:], static=static, state=between)
    np.testing.assert_array_equal(np.concatenate([first, last]), outputs)
    same_states(state, end)


@pytest.mark.parametrize("name", NETS)
def test_a_pass_in_two_calls(name):
    case = case_of(name)
    (net, params, x), keywords = case.core()
    wrt = ("params", "state") + (("static",) if net.static_size else ())
    how = {"wrt": wrt, "train": False, **keywords}
    slopes = np.random.default_rng(0).standard_normal((*x.shape[:2], net.output_size))
    made = gd.forward(net, params, x, **how)
    back = made.backward(slopes)
    loss = gd.loss.Given()
    same = gd.value_and_grad(net, params, x, slopes, loss=loss, **how)
    np.testing.assert_array_equal(back.grads.flat, same.grads.flat)
    if net.static_size:
        np.testing.assert_array_equal(back.dstatic, same.dstatic)
        assert back.dstatic_exponent == same.dstatic_exponent
    else:
        assert back.dstatic is same.dstatic is None


@pytest.mark.parametrize("name", NETS)
def test_plans_count_every_byte(name):
    case = case_of(name, steps=600, ragged=False)
    (net, params, x), keywords = case.core("float32")
    wrt = ("params", "x", "state") + (("static",) if net.static_size else ())
    for memory in ("full", None, gd.plan(net, 600, 5, loss=LOSS, wrt=wrt).bytes):
        made = gd.plan(net, 600, 5, loss=LOSS, wrt=wrt, memory=memory, threads=1, train=False)
        found = gd.value_and_grad(
            net,
            params,
            x,
            case.y.astype("float32"),
            loss=LOSS,
            wrt=wrt,
            memory=memory,
            threads=1,
            train=False,
            **keywords,
        )
        assert found.plan.bytes == made.bytes
        assert found.arena_bytes <= made.bytes


def test_no_array_over_time_and_static_inputs():
    """A thousand static inputs cost the same memory for short and long sequences."""
    net = gd.Stack(gd.Dense(1, 4), gd.StaticInput(1000, 4), gd.GRU(4, 4))
    plain = gd.Stack(gd.Dense(1, 4), gd.Dense(4, 4), gd.GRU(4, 4))
    for wrt in ((), ("params",)):
        more = []
        for steps in (1000, 100_000):
            how = {"loss": "mse", "wrt": wrt, "memory": "full", "threads": 1}
            sizes = [gd.plan(n, steps, 8, **how).bytes for n in (net, plain)]
            more.append(sizes[0] - sizes[1])
        assert more[0] == more[1] < 200_000


@pytest.mark.parametrize("name", NETS)
def test_files_and_tables(name, tmp_path):
    net = NETS[name]()
    params = net.init(seed=1)
    gd.save(tmp_path / "net", net, params)
    loaded = gd.load(tmp_path / "net")
    assert loaded.net == net
    np.testing.assert_array_equal(loaded.params.flat, params.flat)
    assert f"{net.n_parameters:,} parameters" in str(net)
    assert eval(repr(net), {**vars(gd), "Stack": gd.Stack}) == net
    if "state" in name:
        assert "initial_state=" in str(net)
    if name != "states of both directions":
        assert gd.summary(net, steps=50).parameters == net.n_parameters


@pytest.mark.parametrize("options", [LEARNED, STATIC])
def test_exports_refuse_initial_states(options, tmp_path):
    net = gd.Stack(gd.LSTM(1, 4, **options), gd.Linear(4, 1))
    for name in ("net.json", "net.nam", "net.onnx"):
        if name == "net.onnx":
            pytest.importorskip("onnx")
        with pytest.raises(gd.ArgumentError, match="initial_state"):
            gd.export(tmp_path / name, net, net.init())


def test_exports_refuse_static_inputs(tmp_path):
    net = gd.Stack(gd.StaticInput(S, 1), gd.LSTM(1, 4), gd.Linear(4, 1))
    for name in ("net.json", "net.nam", "net.onnx"):
        if name == "net.onnx":
            pytest.importorskip("onnx")
        with pytest.raises(gd.ArgumentError, match="StaticInput"):
            gd.export(tmp_path / name, net, net.init())


@pytest.mark.parametrize(
    "layers",
    [(gd.StaticInput(S, 2), gd.GRU(2, 4)), (gd.LSTM(2, 4, **LEARNED),), (gd.GRU(2, 4, **STATIC),)],
)
def test_to_torch_refuses(layers):
    pytest.importorskip("torch")
    net = gd.Stack(*layers)
    with pytest.raises(gd.ArgumentError, match=r"StaticInput|initial_state"):
        gd.to_torch(net, net.init())
