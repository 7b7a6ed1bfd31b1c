"""The reference against PyTorch in doubles: values and all gradients."""

from dataclasses import replace

import numpy as np
import pytest

import tolerances
from nets import CELLS, SKIPS, stack
from problem import Solution, assert_agree, by_reference, random_problem
from test_reference import LOSSES, problem_for

torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")

from torch_loop import by_torch_loop  # noqa: E402

MODULES = {
    "rnn": lambda i, h, **options: torch.nn.RNN(i, h, **options),
    "relu": lambda i, h, **options: torch.nn.RNN(i, h, nonlinearity="relu", **options),
    "lstm": lambda i, h, **options: torch.nn.LSTM(i, h, **options),
    "gru": lambda i, h, **options: torch.nn.GRU(i, h, **options),
}


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", MODULES)
def test_modules(cell, bias, layers):
    """torch.nn's own layers with a packed sequence, weights moved across unchanged."""
    net = stack(cell, 3, 7, layers=layers, bias=bias)
    loss = LOSSES["squares"]
    problem = random_problem(net, loss, 12, 3, seed=20, state=True)
    lengths = np.array([12, 5, 1])
    found = by_reference(replace(problem, lengths=lengths))

    module = MODULES[cell](3, 7, num_layers=layers, bias=bias).double()
    for name, parameter in module.named_parameters():
        short, place = name.rsplit("_l", 1)
        parameter.data.copy_(torch.from_numpy(problem.params[f"{place}.{short}"]))
    x = torch.from_numpy(problem.x).requires_grad_()
    h0 = torch.from_numpy(np.stack([s.past[-1] for s in problem.state])).requires_grad_()
    initial, leaves = h0, {"past": h0}
    if cell == "lstm":
        c0 = torch.from_numpy(np.stack([s.c for s in problem.state])).requires_grad_()
        initial, leaves = (h0, c0), {"past": h0, "c": c0}
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths)
    outputs, last = module(packed, initial)
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, total_length=12)
    alive = torch.from_numpy((np.arange(12)[:, None] < lengths)[..., None])
    y = torch.from_numpy(problem.y)
    value = (torch.where(alive, (outputs - y) ** 2, 0.0)).sum()
    value.backward()

    last = last if cell == "lstm" else (last,)
    states, gradients = {}, {}
    for key, leaf, final in zip(leaves, leaves.values(), last, strict=True):
        for i in range(layers):
            axis = (None,) if key == "past" else ()
            states[f"{i}.{key}"] = final[i].detach().numpy()[axis]
            gradients[f"{i}.{key}"] = leaf.grad[i].numpy()[axis]
    params = {}
    for name, parameter in module.named_parameters():
        short, place = name.rsplit("_l", 1)
        params[f"{place}.{short}"] = parameter.grad.numpy()
    expected = Solution(
        float(value.detach()), params, x.grad.numpy(), gradients, states, outputs.detach().numpy()
    )
    assert_agree(found, expected, tolerances.DOUBLE)


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("cell", CELLS)
def test_loop(cell, skip, tokens):
    """Autograd of a plain loop with skips, residuals, lengths, resets and an initial state."""
    loss = list(LOSSES)[(list(CELLS).index(cell) + list(SKIPS).index(skip)) % len(LOSSES)]
    problem = problem_for(cell, skip, tokens=tokens, loss=loss, seed=21)
    assert_agree(by_reference(problem), by_torch_loop(problem), tolerances.DOUBLE)
