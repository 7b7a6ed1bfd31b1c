"""The core and the reference agree with PyTorch in double precision, in values and all
gradients.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradcore as gd
import tolerances
from nets import CELLS, SKIPS, stack
from problem import Solution, assert_agree, by_core, by_reference, error, random_problem
from small_problems import LOSSES, problem_for

torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")

from torch_loop import by_torch_loop  # noqa: E402

MODULES = {
    "rnn": lambda i, h, **options: torch.nn.RNN(i, h, **options),
    "relu": lambda i, h, **options: torch.nn.RNN(i, h, nonlinearity="relu", **options),
    "lstm": lambda i, h, **options: torch.nn.LSTM(i, h, **options),
    "gru": lambda i, h, **options: torch.nn.GRU(i, h, **options),
}


def by_modules(cell, problem):
    """Solves the problem with torch.nn's layers on a packed sequence, with the weights copied
    unchanged.
    """
    first = problem.net.layers[0]
    layers, n_steps = len(problem.net.layers), len(problem.x)
    module = MODULES[cell](
        first.input_size, first.hidden_size, num_layers=layers, bias=first.bias
    ).double()
    for name, parameter in module.named_parameters():
        parameter.data.copy_(torch.from_numpy(problem.params[our_name(name)]))
    x = torch.from_numpy(problem.x).requires_grad_()
    h0 = torch.from_numpy(np.stack([s.past[-1] for s in problem.state])).requires_grad_()
    initial, leaves = h0, {"past": h0}
    if cell == "lstm":
        c0 = torch.from_numpy(np.stack([s.c for s in problem.state])).requires_grad_()
        initial, leaves = (h0, c0), {"past": h0, "c": c0}
    lengths = torch.from_numpy(problem.lengths)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    outputs, last = module(packed, initial)
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, total_length=n_steps)
    alive = torch.from_numpy((np.arange(n_steps)[:, None] < problem.lengths)[..., None])
    value = torch.where(alive, (outputs - torch.from_numpy(problem.y)) ** 2, 0.0).sum()
    value.backward()

    states, gradients = {}, {}
    last = last if cell == "lstm" else (last,)
    for key, leaf, final in zip(leaves, leaves.values(), last, strict=True):
        for i in range(layers):
            axis = (None,) if key == "past" else ()
            states[f"{i}.{key}"] = final[i].detach().numpy()[axis]
            gradients[f"{i}.{key}"] = leaf.grad[i].numpy()[axis]
    params = {our_name(n): parameter.grad.numpy() for n, parameter in module.named_parameters()}
    return Solution(
        float(value.detach()), params, x.grad.numpy(), gradients, states, outputs.detach().numpy()
    )


def our_name(name):
    """Converts a name such as weight_ih_l0 to 0.weight_ih."""
    short, place = name.rsplit("_l", 1)
    return f"{place}.{short}"


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    cell=st.sampled_from(list(MODULES)),
    inputs=st.integers(1, 20),
    hidden=st.integers(1, 40),
    layers=st.integers(1, 3),
    bias=st.booleans(),
    batch=st.integers(1, 6),
    steps=st.integers(1, 40),
    seed=st.integers(0, 2**16),
)
def test_modules(cell, inputs, hidden, layers, bias, batch, steps, seed):
    """torch.nn's own layers agree with the core and with the reference."""
    net = stack(cell, inputs, hidden, layers=layers, bias=bias)
    problem = random_problem(net, LOSSES["squares"], steps, batch, seed=seed, state=True)
    # torch does not accept sequences of length 0.
    lengths = np.random.default_rng(seed).integers(1, steps + 1, batch)
    problem = replace(problem, lengths=lengths)
    expected = by_modules(cell, problem)
    assert_agree(by_reference(problem), expected, tolerances.DOUBLE)
    assert_agree(by_core(problem), expected, tolerances.DOUBLE)
    # A dx of only one number may be a difference of terms a hundred times as large; for many
    # numbers that hardly ever holds for all at once.
    alone = problem.x.size < 4
    assert_agree(by_core(problem, "float32"), expected, tolerances.SINGLE * (20 if alone else 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layer_norm(dtype):
    """Puts torch.nn.LayerNorm before, between and after torch's layers; dropout is in evaluation
    mode.
    """
    net = gd.Stack(
        gd.LayerNorm(5, bias=False),
        gd.LSTM(5, 33),
        gd.Dropout(0.4),
        gd.LayerNorm(33),
        gd.GRU(33, 17, recurrent_dropout=0.5),
        gd.LayerNorm(17, 0.25, elementwise_affine=False),
    )
    problem = random_problem(net, gd.loss.MeanSquaredError(reduction="sum"), 40, 3, seed=2)
    modules = [
        torch.nn.LayerNorm(5, bias=False),
        torch.nn.LSTM(5, 33),
        torch.nn.Identity(),
        torch.nn.LayerNorm(33),
        torch.nn.GRU(33, 17),
        torch.nn.LayerNorm(17, 0.25, elementwise_affine=False),
    ]
    x = signal = torch.from_numpy(problem.x).requires_grad_()
    for place, module in enumerate(modules):
        module.double()
        for name, parameter in module.named_parameters():
            ours = problem.params[f"{place}.{name.removesuffix('_l0')}"]
            parameter.data.copy_(torch.from_numpy(ours))
        signal = module(signal)
        signal = signal[0] if isinstance(signal, tuple) else signal
    value = ((signal - torch.from_numpy(problem.y)) ** 2).sum()
    value.backward()
    got = by_core(problem, dtype)
    tolerance = tolerances.DOUBLE if dtype == "float64" else tolerances.SINGLE
    assert got.loss == pytest.approx(float(value.detach()), rel=tolerance)
    assert error(got.outputs, signal.detach().numpy()) <= tolerance
    assert error(got.x, x.grad.numpy()) <= tolerance
    for place, module in enumerate(modules):
        for name, parameter in module.named_parameters():
            found = got.params[f"{place}.{name.removesuffix('_l0')}"]
            assert error(found, parameter.grad.numpy()) <= tolerance


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dense_and_residual(dtype):
    """Puts torch.nn.Linear and torch's functions before, between and after torch's layers."""
    net = gd.Stack(
        gd.Dense(5, 9, "gelu"),
        gd.Residual(gd.LSTM(9, 17), gd.Dense(17, 9, "silu", bias=False)),
        gd.Dense(9, 8, "relu"),
        gd.Dense(8, 33, "softplus"),
        gd.GRU(33, 12),
        gd.Residual(gd.Dense(12, 12, "tanh")),
        gd.Dense(12, 3, "sigmoid"),
    )
    problem = random_problem(net, gd.loss.MeanSquaredError(reduction="sum"), 40, 3, seed=2)
    modules = [
        torch.nn.Linear(5, 9),
        torch.nn.LSTM(9, 17),
        torch.nn.Linear(17, 9, bias=False),
        torch.nn.Linear(9, 8),
        torch.nn.Linear(8, 33),
        torch.nn.GRU(33, 12),
        torch.nn.Linear(12, 12),
        torch.nn.Linear(12, 3),
    ]
    for place, module in enumerate(modules):
        module.double()
        for name, parameter in module.named_parameters():
            ours = problem.params[f"{place}.{name.removesuffix('_l0')}"]
            parameter.data.copy_(torch.from_numpy(ours))
    f = torch.nn.functional
    x = torch.from_numpy(problem.x).requires_grad_()
    front = f.gelu(modules[0](x))
    inside = front + f.silu(modules[2](modules[1](front)[0]))
    between = f.softplus(modules[4](f.relu(modules[3](inside))), threshold=1000)
    behind = modules[5](between)[0]
    outputs = torch.sigmoid(modules[7](behind + torch.tanh(modules[6](behind))))
    value = ((outputs - torch.from_numpy(problem.y)) ** 2).sum()
    value.backward()
    got = by_core(problem, dtype)
    tolerance = tolerances.DOUBLE if dtype == "float64" else tolerances.SINGLE
    assert got.loss == pytest.approx(float(value.detach()), rel=tolerance)
    assert error(got.outputs, outputs.detach().numpy()) <= tolerance
    assert error(got.x, x.grad.numpy()) <= tolerance
    for place, module in enumerate(modules):
        for name, parameter in module.named_parameters():
            found = got.params[f"{place}.{name.removesuffix('_l0')}"]
            assert error(found, parameter.grad.numpy()) <= tolerance


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("cell", CELLS)
def test_loop(cell, skip, tokens):
    """Autograd runs through a plain loop with skips, residuals, lengths, resets and an initial
    state.
    """
    loss = list(LOSSES)[(list(CELLS).index(cell) + list(SKIPS).index(skip)) % len(LOSSES)]
    problem = problem_for(cell, skip, tokens=tokens, loss=loss, seed=21)
    expected = by_torch_loop(problem)
    assert_agree(by_reference(problem), expected, tolerances.DOUBLE)
    assert_agree(by_core(problem), expected, tolerances.DOUBLE)


@pytest.mark.parametrize("lengths", [None, [23, 9, 1]])
@pytest.mark.parametrize("cell", MODULES)
def test_cotangents_are_those_of_autograd(cell, lengths):
    """K cotangents of outputs and final state at once, back to inputs, initial state and
    parameters.
    """
    rng = np.random.default_rng(8)
    steps, batch, inputs, hidden, count = 23, 3, 4, 9, 5
    kind = {"rnn": gd.RNN, "relu": gd.RNN, "lstm": gd.LSTM, "gru": gd.GRU}[cell]
    options = {"nonlinearity": "relu"} if cell == "relu" else {}
    net = gd.Stack(kind(inputs, hidden, **options))
    params = net.init(seed=2, dtype="float64")
    x = rng.standard_normal((steps, batch, inputs))
    h0, c0 = rng.standard_normal((2, batch, hidden))
    w_out = rng.standard_normal((count, steps, batch, hidden))
    w_h, w_c = rng.standard_normal((2, count, batch, hidden))
    has_c = cell == "lstm"
    found = gd.jacobian.vjp(
        net,
        params,
        x,
        d_outputs=w_out,
        dstate_out=[gd.LayerState(w_h, w_c if has_c else None)],
        state=[gd.LayerState(h0, c0 if has_c else None)],
        lengths=None if lengths is None else np.array(lengths),
    )

    module = MODULES[cell](inputs, hidden).double()
    for name, parameter in module.named_parameters():
        parameter.data.copy_(torch.from_numpy(params[f"0.{name.removesuffix('_l0')}"]))
    leaves = [torch.from_numpy(a)[None].requires_grad_() for a in ((h0, c0) if has_c else (h0,))]
    start = torch.from_numpy(x).requires_grad_()
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        start, torch.tensor(lengths or [steps] * batch), enforce_sorted=False
    )
    outputs, last = module(packed, tuple(leaves) if has_c else leaves[0])
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, total_length=steps)
    last = list(last) if has_c else [last]
    wrt = [start, *leaves, *module.parameters()]
    names = [name.removesuffix("_l0") for name, _ in module.named_parameters()]
    for k in range(count):
        arriving = [w_out[k], w_h[k][None], w_c[k][None]][: 1 + len(last)]
        exact = torch.autograd.grad(
            [outputs, *last], wrt, [torch.from_numpy(w) for w in arriving], retain_graph=True
        )
        ours = [found.dx[k], found.dstate[0].h[k][None]]
        ours += [found.dstate[0].c[k][None]] if has_c else []
        ours += [found.grads[k][f"0.{name}"] for name in names]
        for own, theirs in zip(ours, exact, strict=True):
            assert error(own, theirs.numpy()) <= tolerances.DOUBLE
    assert not found.dx_exponent.any()
    assert not found.dstate_exponent.any()
