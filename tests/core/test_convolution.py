"""Causal convolutions anywhere in a net: against PyTorch and the reference, tokens against one-hot
inputs, states from window to window, bits for every budget and number of threads.
"""

from dataclasses import replace

import numpy as np
import pytest

import gradcore as gd
import tolerances
from gradcore import _core, jacobian
from overriding import override
from problem import (
    assert_agree,
    by_core,
    by_reference,
    core_params,
    core_state,
    isa,
    norm,
    random_problem,
)

LOSS = gd.loss.MeanSquaredError()
BLOCK = _core.block_steps()
# Kernels longer than a chunk of 8 and than T, dilations longer than a block, depthwise and other
# groups, widths that are no multiple of a block of units.
CONVOLUTIONS = {
    "three taps": gd.Conv1d(5, 7, 3),
    "one channel": gd.Conv1d(1, 4, 16, activation="gelu"),
    "long kernel": gd.Conv1d(5, 4, 21, bias=False),
    "longer than the sequence": gd.Conv1d(3, 4, 330),
    "long dilation": gd.Conv1d(5, 3, 3, dilation=BLOCK + 5),
    "depthwise": gd.Conv1d(17, 17, 4, dilation=3, groups=17),
    "depthwise with a factor": gd.Conv1d(6, 18, 3, groups=6, activation="silu"),
    "groups": gd.Conv1d(48, 32, 5, dilation=2, groups=2),
    "wide": gd.Conv1d(33, 64, 2, dilation=9),
    "one tap": gd.Conv1d(6, 9, 1, groups=3),
}


def net_around(layer, **options):
    """A recurrent layer behind the convolution, and one more convolution behind that."""
    return gd.Stack(
        layer,
        gd.LSTM(layer.out_channels, 6, **options),
        gd.Conv1d(6, 5, 3, dilation=2, activation="tanh"),
        gd.Linear(5, 2),
    )


def problem_around(layer, steps=2 * BLOCK + 41, batch=3, **given):
    return random_problem(net_around(layer), LOSS, steps, batch, seed=3, **given)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("whole", [True, False])
def test_agrees_with_the_reference(name, dtype, whole):
    given = {} if whole else {"lengths": True, "reset": True, "state": True}
    problem = problem_around(CONVOLUTIONS[name], **given)
    tolerance = tolerances.DOUBLE if dtype == "float64" else tolerances.SINGLE
    assert_agree(by_core(problem, dtype), by_reference(problem), tolerance)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_short_sequences(steps):
    for name in ("three taps", "long kernel", "long dilation"):
        problem = problem_around(CONVOLUTIONS[name], steps, lengths=True, reset=True, state=True)
        assert_agree(by_core(problem), by_reference(problem), tolerances.DOUBLE)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_agrees_with_pytorch(name):
    torch = pytest.importorskip("torch")
    layer = CONVOLUTIONS[name]
    problem = problem_around(layer)
    params = core_params(problem, "float64")
    got = gd.value_and_grad(
        problem.net, params, problem.x, problem.y, loss=LOSS, wrt=("params", "x")
    )
    module = gd.to_torch(problem.net, params)
    x = torch.tensor(problem.x, requires_grad=True)
    outputs, _ = module(x)
    loss = ((outputs - torch.tensor(problem.y)) ** 2).mean()
    loss.backward()
    assert got.loss == pytest.approx(loss.item(), rel=1e-12)
    dx = np.ldexp(got.dx, got.dx_exponent[:, None, None])
    np.testing.assert_allclose(dx, x.grad.numpy(), atol=1e-12 * np.abs(dx).max())
    weights = dict(module[0].named_parameters())
    assert weights["weight"].shape == params["0.weight"].shape
    for own, tensor in weights.items():
        expected = tensor.grad.numpy()
        np.testing.assert_allclose(
            got.grads[f"0.{own}"], expected, atol=1e-12 * np.abs(expected).max()
        )


@pytest.mark.parametrize("bidirectional", [(0,), (1,), (0, 1)])
def test_beside_bidirectional_layers(bidirectional):
    first, second = (gd.GRU(8, 5, bidirectional=i in bidirectional) for i in range(2))
    second = replace(second, input_size=4)
    net = gd.Stack(
        gd.Conv1d(3, 8, 4, dilation=3),
        first,
        gd.Conv1d(first.output_size, 4, 2, dilation=7),
        second,
        gd.Conv1d(second.output_size, 4, 9),
    )
    problem = random_problem(
        net, LOSS, 2 * BLOCK + 3, 3, seed=1, lengths=True, reset=True, state=True
    )
    assert_agree(by_core(problem), by_reference(problem), tolerances.DOUBLE)


def test_inside_residuals():
    net = gd.Stack(
        gd.Conv1d(3, 6, 5, activation="tanh"),
        gd.Residual(
            gd.Conv1d(6, 6, 3, dilation=4, activation="relu"), gd.Residual(gd.Conv1d(6, 6, 7))
        ),
        gd.Residual(gd.LayerNorm(6), gd.LSTM(6, 6), gd.Conv1d(6, 6, 3, groups=6)),
        gd.Residual(gd.Conv1d(6, 6, 2, dilation=140)),
        gd.Linear(6, 2),
    )
    problem = random_problem(net, LOSS, 3 * BLOCK, 2, seed=1, lengths=True, reset=True, state=True)
    assert_agree(by_core(problem), by_reference(problem), tolerances.DOUBLE * tolerances.NORM)


# ---- bits


def bits(problem, dtype="float32", **how):
    found = by_core(problem, dtype, **how)
    arrays = {**found.params, **found.dstate, **found.state, "outputs": found.outputs}
    return arrays if found.x is None else {**arrays, "x": found.x}


@pytest.mark.parametrize("name", ["long kernel", "long dilation", "depthwise", "groups"])
@pytest.mark.parametrize("level", _core.isa_available())
def test_bits_do_not_depend_on_budget_or_threads(name, level):
    problem = problem_around(
        CONVOLUTIONS[name], 6 * BLOCK + 5, 2, lengths=True, reset=True, state=True
    )
    with isa(level):
        expected = bits(problem)
        with pytest.raises(gd.MemoryBudgetError) as refused:
            by_core(problem, "float32", memory=1)
        for how in ({"memory": refused.value.smallest}, {"threads": 2}, {"threads": 3}):
            found = bits(problem, **how)
            for array, wanted in expected.items():
                np.testing.assert_array_equal(found[array], wanted, err_msg=f"{how} {array}")


# ---- tokens


TOKENS = {
    "few": gd.Conv1d(5, 7, 4),
    "many": gd.Conv1d(200, 16, 3, dilation=2),
    "wide": gd.Conv1d(9, 200, 15, activation="relu"),
    "groups": gd.Conv1d(6, 9, 3, groups=3, bias=False),
    "long": gd.Conv1d(4, 3, 3, dilation=BLOCK + 2),
}


def token_problem(layer, steps=2 * BLOCK + 41, batch=2, **given):
    """With a state whose past inputs are tokens, or none."""
    problem = random_problem(net_around(layer), LOSS, steps, batch, seed=5, tokens=True, **given)
    if problem.state is None:
        return problem
    state = list(problem.state)
    shape = state[1].past.shape  # behind that of the only recurrent layer
    past = np.zeros(shape)
    rng = np.random.default_rng(1)
    chosen = rng.integers(-1, layer.in_channels, size=shape[:2])
    for place in np.ndindex(chosen.shape):
        if chosen[place] >= 0:
            past[(*place, chosen[place])] = 1.0
    state[1] = replace(state[1], past=past)
    return replace(problem, state=state)


def one_hot(problem):
    x = np.zeros((*problem.x.shape, problem.net.vocabulary))
    np.put_along_axis(x, np.maximum(problem.x, 0)[..., None], 1.0, axis=2)
    return replace(problem, x=x)


@pytest.mark.parametrize("name", TOKENS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("whole", [True, False])
def test_tokens_are_one_hot_inputs(name, dtype, whole):
    given = {} if whole else {"lengths": True, "reset": True, "state": True}
    problem = token_problem(TOKENS[name], **given)
    tolerance = tolerances.DOUBLE if dtype == "float64" else tolerances.SINGLE
    found = by_core(problem, dtype)
    assert_agree(found, by_reference(problem), tolerance)
    other = by_core(one_hot(problem), dtype)
    assert_agree(replace(found, x=other.x), other, tolerance)


@pytest.mark.parametrize("name", TOKENS)
def test_bits_of_tokens_do_not_depend_on_budget_or_threads(name):
    problem = token_problem(TOKENS[name], 6 * BLOCK + 5, lengths=True, reset=True, state=True)
    expected = bits(problem)
    with pytest.raises(gd.MemoryBudgetError) as refused:
        by_core(problem, "float32", memory=1)
    for how in ({"memory": refused.value.smallest}, {"threads": 2}, {"threads": 3}):
        found = bits(problem, **how)
        for array, wanted in expected.items():
            np.testing.assert_array_equal(found[array], wanted, err_msg=f"{how} {array}")


@pytest.mark.parametrize("steps", [1, 3])
def test_short_sequences_of_tokens(steps):
    for name in ("few", "long"):
        problem = token_problem(TOKENS[name], steps, lengths=True, reset=True, state=True)
        assert_agree(by_core(problem), by_reference(problem), tolerances.DOUBLE)


def test_tokens_in_front_of_a_bidirectional_layer():
    net = gd.Stack(gd.Conv1d(7, 8, 5), gd.LSTM(8, 4, bidirectional=True), gd.Linear(8, 2))
    problem = random_problem(
        net, LOSS, 2 * BLOCK + 3, 3, seed=1, tokens=True, lengths=True, reset=True
    )
    assert_agree(by_core(problem), by_reference(problem), tolerances.DOUBLE)


def test_state_of_tokens_must_be_one_hot():
    net = net_around(TOKENS["few"])
    params, x = net.init(), np.zeros((4, 2), np.int32)
    state = gd.zero_state(net, 2)
    state[1].skip[1, 0, 2] = 0.5
    with pytest.raises(gd.ArgumentError, match=r"row 1 of sequence 0"):
        gd.apply(net, params, x, state=state)


def test_one_tap_takes_no_tokens():
    net = gd.Stack(gd.Conv1d(5, 4, 1), gd.RNN(4, 3))
    with pytest.raises(gd.DTypeError, match="starts with a Conv1d"):
        gd.apply(net, net.init(), np.zeros((4, 2), np.int32))


# ---- states


@pytest.mark.parametrize("name", ["long kernel", "long dilation", "depthwise"])
@pytest.mark.parametrize("tokens", [False, True])
def test_windows_of_one_stream_continue_exactly(name, tokens):
    layer = CONVOLUTIONS[name]
    net = net_around(layer)
    params = net.init(seed=1)
    rng = np.random.default_rng(0)
    x = (
        rng.integers(layer.in_channels, size=(300, 2))
        if tokens
        else rng.standard_normal((300, 2, layer.in_channels)).astype(np.float32)
    )
    outputs, after = gd.apply(net, params, x)
    state, found, start = None, [], 0
    for stop in (1, 4, 130, 131, 300):
        part, state = gd.apply(net, params, x[start:stop], state=state)
        found.append(part)
        start = stop
    np.testing.assert_array_equal(np.concatenate(found), outputs)
    for one, other in zip(state, after, strict=True):
        np.testing.assert_array_equal(one.h, other.h)
        if other.skip is not None:
            np.testing.assert_array_equal(one.skip, other.skip)
    stepper = gd.Stepper(net, params, batch=2)
    steps = [stepper.step(x_t) for x_t in x[:40]]
    np.testing.assert_array_equal(np.stack(steps), outputs[:40])


@pytest.mark.parametrize("tokens", [False, True])
def test_ragged_sequences_and_pieces_equal_those_alone(tokens):
    layer = gd.Conv1d(6, 5, 11, dilation=3)
    net = net_around(layer)
    params = net.init(seed=2, dtype="float64")
    rng = np.random.default_rng(0)
    x = rng.integers(6, size=(200, 3)) if tokens else rng.standard_normal((200, 3, 6))
    lengths = np.array([200, 9, 150])
    outputs, _ = gd.apply(net, params, x, lengths=lengths)
    for b, n in enumerate(lengths):
        alone, _ = gd.apply(net, params, np.ascontiguousarray(x[:n, b : b + 1]))
        np.testing.assert_allclose(outputs[:n, b : b + 1], alone, atol=1e-14)
    for cut in (8, 20, BLOCK, BLOCK + 1):  # at borders of chunks, within one, of a block
        reset = np.zeros((200, 3), bool)
        reset[cut] = True
        pieces, _ = gd.apply(net, params, x, reset=reset)
        first, _ = gd.apply(net, params, x[:cut])
        second, _ = gd.apply(net, params, x[cut:])
        np.testing.assert_allclose(pieces, np.concatenate([first, second]), atol=1e-14)


# ---- derivatives


def random_states(net, batch, rng, count):
    """Directions of a state, with a leading axis."""
    made = []
    for s in gd.zero_state(net, batch, "float64"):
        h, c, past = (
            None if a is None else rng.standard_normal((count, *a.shape))
            for a in (s.h, s.c, s.skip)
        )
        made.append(gd.LayerState(h if past is None else past[:, -1].copy(), c, past))
    return tuple(made)


def flat(states, exponents):
    """(K, S): what the arrays of states stand for."""
    parts = []
    for s, e in zip(states, np.broadcast_to(exponents, len(states)), strict=True):
        for a in (s.h if s.skip is None else s.skip, s.c):
            if a is not None:
                parts.append(np.ldexp(a, int(e)).reshape(len(a), -1))
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("wrt", ["params", "x and state"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("steps", [3, 2 * BLOCK + 9])
def test_dot_products_of_tangents_and_cotangents(tokens, wrt, threads, steps):
    """<w, J v> = <J' w, v>, with w of outputs and final state, v of params, or of x and state."""
    layer = gd.Conv1d(6, 9, 9, dilation=2, groups=1 if tokens else 3)
    make = token_problem if tokens else problem_around
    problem = make(layer, steps, lengths=True, reset=True, state=True)
    net, params, x = problem.net, core_params(problem, "float64"), problem.x
    x = (
        np.where(np.arange(steps)[:, None, None] < problem.lengths[:, None], x, 0.0)
        if (not tokens)
        else np.maximum(x, 0)
    )
    rng, batch, K = np.random.default_rng(0), x.shape[1], 2
    v_params = rng.standard_normal((K, net.n_parameters))
    v_x = None if tokens else rng.standard_normal((K, *x.shape))
    v_state = random_states(net, batch, rng, K)
    by_params = wrt == "params"
    how = {**problem.masks, "state": core_state(problem, "float64"), "threads": threads}
    given = {"dparams": v_params} if by_params else {"dx": v_x, "dstate": v_state}
    w = rng.standard_normal((K, steps, batch, net.output_size))
    w_state = random_states(net, batch, rng, K)
    with override(exact_threads=True):
        ahead = jacobian.jvp(net, params, x, **given, **how)
        names = ("params",) if by_params else ("state",) if tokens else ("x", "state")
        back = jacobian.vjp(net, params, x, d_outputs=w, dstate_out=w_state, wrt=names, **how)
    outputs = np.ldexp(ahead.d_outputs, ahead.d_outputs_exponent[None, :, None, None])
    late = np.arange(steps)[:, None] >= problem.lengths
    left = np.vdot(np.where(late[..., None], 0.0, w), outputs)
    left += np.vdot(flat(w_state, 0), flat(ahead.dstate, ahead.dstate_exponent))
    if by_params:
        right = sum(
            np.vdot(np.ldexp(g.flat, g.exponent), v)
            for g, v in zip(back.grads, v_params, strict=True)
        )
    else:
        right = np.vdot(flat(back.dstate, back.dstate_exponent), flat(v_state, 0))
        if not tokens:
            dx = np.ldexp(back.dx, back.dx_exponent[..., None, None])
            right += np.vdot(np.where(late[..., None], 0.0, dx), v_x)
    assert left == pytest.approx(right, rel=1e-10)


@pytest.mark.parametrize("tokens", [False, True])
def test_hessian_product_is_the_difference_of_gradients(tokens):
    layer = gd.Conv1d(6, 8, 5, dilation=30, groups=1 if tokens else 2)
    make = token_problem if tokens else problem_around
    problem = make(layer, lengths=True, reset=True)
    net, params = problem.net, core_params(problem, "float64")
    v = np.random.default_rng(0).standard_normal(net.n_parameters)
    arguments = {"loss": LOSS, **problem.masks}
    found = jacobian.hvp(net, params, problem.x, problem.y, v[None], **arguments)
    step = 1e-6

    def gradient(by):
        moved = gd.Params(net, params.flat + by * v)
        return gd.value_and_grad(net, moved, problem.x, problem.y, **arguments).grads.flat

    expected = (gradient(step) - gradient(-step)) / (2 * step)
    assert norm([found.product[0] - expected]) < 1e-7 * norm([expected])


# ---- scaled adjoints


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("growth", [1.3, 0.75])
def test_gradients_beyond_the_range_of_float32(growth, tokens):
    """h multiplies by `growth` at each of 2,000 steps: 10^228, or 10^-250."""
    steps = 2000
    net = gd.Stack(
        gd.Conv1d(4, 6, 5, dilation=40),
        gd.RNN(6, 6, nonlinearity="identity"),
        gd.Conv1d(6, 6, 3, dilation=7),
        gd.Linear(6, 2),
    )
    wide = net.init(seed=0, dtype="float64")
    wide["1.weight_hh"] = growth * np.eye(6)
    rng = np.random.default_rng(0)
    x = rng.integers(4, size=(steps, 2)) if tokens else rng.standard_normal((steps, 2, 4))
    if growth > 1:  # states of zero stay finite
        x *= 0
        if tokens:
            wide["0.weight"][...] = 0.0
        wide["0.bias"][...] = wide["1.bias_ih"][...] = wide["1.bias_hh"][...] = 0.0
    loss = gd.loss.CrossEntropy(step="last")
    y = np.array([0, 1])
    how = {"loss": loss, "wrt": ("params", "state")}
    exact = gd.value_and_grad(net, wide, x, y, **how)
    narrow = gd.Params(net, wide.flat.astype(np.float32))
    single = x if tokens else x.astype(np.float32)
    found = gd.value_and_grad(net, narrow, single, y, **how)

    def close(own, own_exponent, wanted, exponent, largest):
        """Within 1e-3 of the largest, which is far outside float32."""
        own = np.ldexp(own.astype(float), int(own_exponent))
        wanted = np.ldexp(wanted, int(exponent))
        assert np.abs(own - wanted).max() <= 1e-3 * max(np.abs(wanted).max(), largest)
        return np.abs(wanted).max()

    largest = np.ldexp(np.abs(exact.grads.flat).max(), exact.grads.exponent)
    for name, grad in exact.grads.items():  # all have one exponent, so that small ones are 0
        own = found.grads[name]
        close(own, found.grads.exponent, grad, exact.grads.exponent, 1e-30 * largest)
    for index in (1, 2):
        most = close(
            found.dstate[index].skip,
            found.dstate_exponent[index],
            exact.dstate[index].skip,
            exact.dstate_exponent[index],
            0.0,
        )
        if index == 1 and wide["0.weight"].any():
            assert abs(np.log10(most)) > 200
