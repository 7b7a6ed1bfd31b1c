"""gradcore.forward: a pass in two calls has the same bits as one call, within the same budget."""

import copy
import pickle

import numpy as np
import pytest

import gradcore as gd
from gradcore.jacobian import vjp

NETS = {
    "lstm": gd.Stack(gd.LSTM(5, 9)),
    "both ways": gd.Stack(
        gd.GRU(16, 33, bidirectional=True), gd.Dropout(0.3), gd.LSTM(66, 8, bidirectional=True)
    ),
    "tokens": gd.Stack(
        gd.Embedding(7, 4), gd.LSTM(4, 16, skip=gd.Skip(3, learned=True)), gd.Linear(16, 3)
    ),
    "norm": gd.Stack(gd.RNN(3, 17), gd.LayerNorm(17)),
}
STEPS, BATCH = 700, 3


class Case:
    def __init__(self, name, seed=0):
        rng = np.random.default_rng(seed)
        net = NETS[name]
        self.net, self.params = net, net.init(seed=1, dtype="float64")
        tokens = net.embedding is not None
        self.x = (
            rng.integers(0, 7, (STEPS, BATCH))
            if tokens
            else rng.standard_normal((STEPS, BATCH, net.input_size))
        )
        self.wrt = ("params", "state") if tokens else ("params", "x", "state")
        self.d_outputs = rng.standard_normal((STEPS, BATCH, net.output_size))
        self.d_end = random_state(net, rng)
        self.options = {
            "lengths": np.array([STEPS, 500, 3]),
            "state": random_state(net, rng),
            "seed": (1, 2),
            "train": True,
        }

    def forward(self, memory=None, **options):
        chosen = {**self.options, "wrt": self.wrt, **options}
        return gd.forward(self.net, self.params, self.x, memory=memory, **chosen)


def random_state(net, rng):
    state = gd.zero_state(net, BATCH, "float64")
    for layer in state:
        for one in (layer, layer.reverse):
            if one is None:
                continue
            for array in (one.c, one.h if one.skip is None else one.skip):
                if array is not None:
                    array[...] = rng.standard_normal(array.shape)
    return state


def leading(state):
    return tuple(
        gd.LayerState(
            layer.h[None],
            None if layer.c is None else layer.c[None],
            None if layer.skip is None else layer.skip[None],
            None if layer.reverse is None else leading([layer.reverse])[0],
        )
        for layer in state
    )


def smallest(case):
    with pytest.raises(gd.MemoryBudgetError) as error:
        case.forward(memory=1000)
    return error.value.smallest


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_the_bits_of_one_call(name, lean):
    case = Case(name)
    made = case.forward(memory=smallest(case) if lean else "full")
    assert (made.plan.recomputed_steps > 0) == lean
    outputs, state = gd.apply(case.net, case.params, case.x, **case.options)
    np.testing.assert_array_equal(made.outputs, outputs)
    np.testing.assert_array_equal(made.state[-1].h, state[-1].h)
    found = made.backward(case.d_outputs, case.d_end)
    expected = vjp(
        case.net,
        case.params,
        case.x,
        d_outputs=case.d_outputs[None],
        dstate_out=leading(case.d_end),
        **case.options,
    )
    np.testing.assert_array_equal(found.grads.flat, expected.grads[0].flat)
    assert found.grads.exponent == 0
    if found.dx is not None:
        np.testing.assert_array_equal(found.dx, expected.dx[0])
    np.testing.assert_array_equal(found.dstate[0].h, expected.dstate[0].h[0])


@pytest.mark.parametrize("name", NETS)
def test_the_gradient_of_a_loss_function(name):
    case = Case(name)

    def loss(outputs, t0, t1):
        return 0.0, np.ascontiguousarray(case.d_outputs[t0:t1])

    one = gd.value_and_grad(case.net, case.params, case.x, loss=loss, **case.options)
    two = case.forward(wrt=("params",)).backward(case.d_outputs)
    np.testing.assert_array_equal(two.grads.flat, one.grads.flat)
    assert two.dx is None
    assert two.dstate is None


def test_gradients_beyond_the_range_of_the_dtype():
    net = gd.Stack(gd.RNN(1, 4, nonlinearity="identity"))
    params = net.init(seed=0, dtype="float32")
    params["0.weight_hh"] = 1.5 * np.eye(4, dtype=np.float32)
    x = np.zeros((2000, 1, 1), np.float32)
    d = np.zeros((2000, 1, 4), np.float32)
    d[-1] = 1
    for name in ("0.bias_ih", "0.bias_hh"):
        params[name] = np.zeros(4, np.float32)
    found = gd.forward(net, params, x, wrt=("params", "x")).backward(d)
    assert found.grads.norm_log10() == pytest.approx(
        2000 * np.log10(1.5) + np.log10(2 * np.sqrt(2 * 4)), abs=0.01
    )
    assert found.dx_exponent[0] > 1000


def test_a_pass_goes_back_once_and_cannot_be_copied():
    case = Case("lstm")
    made = case.forward()
    assert repr(made).startswith("Pass(T=700, B=3, O=9, ")
    assert repr(made).endswith("waits for d_outputs)")
    for way in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(gd.DTypeError, match="cannot be copied or pickled"):
            way(made)
    made.backward(case.d_outputs)
    assert "gone back" in repr(made)
    with pytest.raises(gd.ArgumentError, match=r"can be called once for a Pass.*forward again"):
        made.backward(case.d_outputs)


def test_an_overflow_on_the_way_back_is_told_and_ends_the_pass():
    case = Case("lstm")
    made = case.forward()
    case.d_outputs[400, 1, 2] = np.inf
    with pytest.raises(gd.NonFiniteError, match="layer 0, step 400"):
        made.backward(case.d_outputs)
    with pytest.raises(gd.ArgumentError, match="uses up the tape"):
        made.backward(np.zeros_like(case.d_outputs))


def test_what_does_not_fit_is_refused_and_can_be_mended():
    case = Case("lstm")
    made = case.forward()
    with pytest.raises(gd.ShapeError, match=r"d_outputs must have shape \(700, 3, 9\)"):
        made.backward(case.d_outputs[:5])
    with pytest.raises(gd.DTypeError, match="d_outputs must have dtype float64"):
        made.backward(case.d_outputs.astype(np.float32))
    assert made.backward(case.d_outputs).grads is not None
    with pytest.raises(gd.ArgumentError, match="wrt"):
        case.forward(wrt=("everything",))


def test_an_input_that_is_not_finite_names_its_place():
    case = Case("lstm")
    case.x[17, 1, 0] = np.nan
    with pytest.raises(gd.NonFiniteError) as error:
        case.forward()
    assert (error.value.layer, error.value.step, error.value.sequence) == (0, 17, 1)


def test_passes_at_once_keep_apart():
    cases = [Case("lstm", seed) for seed in range(4)]
    passes = [case.forward() for case in cases]
    together = [made.backward(case.d_outputs) for made, case in zip(passes, cases, strict=True)]
    for case, found in zip(cases, together, strict=True):
        alone = case.forward().backward(case.d_outputs)
        np.testing.assert_array_equal(found.grads.flat, alone.grads.flat)
        np.testing.assert_array_equal(found.dx, alone.dx)
