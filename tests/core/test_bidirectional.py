"""Bidirectional layers: PyTorch, masks, scale, states and errors. Their derivatives and bits are
tested together with those of other nets.
"""

from dataclasses import replace

import numpy as np
import pytest

import gradcore as gd
import tolerances
from nets import CELLS, SKIPS, stack
from problem import (
    assert_agree,
    by_core,
    by_reference,
    core_arguments,
    core_targets,
    error,
    random_problem,
)

MODULES = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}
SQUARES = gd.loss.MeanSquaredError()


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("cell", MODULES)
def test_two_layers_are_those_of_torch(cell, ragged):
    """Weights are copied unchanged by name; ragged batches are packed for torch."""
    torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")
    net = stack(cell, 4, 7, layers=2, bidirectional=(0, 1))
    problem = random_problem(net, SQUARES, 30, 5, seed=1, lengths=ragged, state=True)
    if ragged:
        problem.lengths[1] = 3  # torch refuses empty sequences
        problem.x[:3, 1], problem.y[:3, 1] = 0.5, 0.25
    module = getattr(torch.nn, MODULES[cell])(4, 7, 2, bidirectional=True).double()
    for name, parameter in module.named_parameters():
        kind, layer = name.replace("_reverse", "").rsplit("_l", 1)
        end = "_reverse" if name.endswith("_reverse") else ""
        parameter.data.copy_(torch.from_numpy(problem.params[f"{layer}.{kind}{end}"]))
    h0 = torch.from_numpy(np.stack([s.past[-1] for s in problem.state]))
    start = h0 if cell != "lstm" else (h0, torch.from_numpy(np.stack([s.c for s in problem.state])))
    lengths = problem.lengths if ragged else np.full(5, 30)
    late = np.arange(30)[:, None] >= lengths
    x = torch.from_numpy(np.where(late[..., None], 0.0, problem.x)).requires_grad_()
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    outputs, last = module(packed, start)
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, total_length=30)
    alive = torch.from_numpy(~late[..., None])
    y = torch.from_numpy(np.where(late[..., None], 0.0, problem.y))
    loss = (torch.where(alive, outputs - y, 0.0) ** 2).sum() / (lengths.sum() * 14)
    loss.backward()

    got = by_core(problem)
    assert got.loss == pytest.approx(loss.item(), rel=tolerances.DOUBLE)
    assert error(got.outputs, outputs.detach().numpy()) <= tolerances.DOUBLE
    assert error(got.x, x.grad.numpy()) <= tolerances.DOUBLE
    for name, parameter in module.named_parameters():
        kind, layer = name.replace("_reverse", "").rsplit("_l", 1)
        end = "_reverse" if name.endswith("_reverse") else ""
        assert error(got.params[f"{layer}.{kind}{end}"], parameter.grad.numpy()) <= 1e-12
    h = last if cell != "lstm" else last[0]
    for i, array in enumerate(h.detach().numpy()):
        assert error(got.state[f"{i}.past"][-1], array) <= tolerances.DOUBLE


@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("cell", CELLS)
def test_a_direction_is_an_ordinary_layer_on_turned_sequences(cell, skip):
    """The results are the same to the bit: only the order of steps differs."""
    both = gd.Stack(CELLS[cell](3, 9, skip=SKIPS[skip], bidirectional=True))
    one = gd.Stack(CELLS[cell](3, 9, skip=SKIPS[skip]))
    params = both.init(seed=4)
    x = np.random.default_rng(1).standard_normal((200, 4, 3)).astype(np.float32)
    outputs, state = gd.apply(both, params, x)
    for end, turn in (("", slice(None)), ("_reverse", slice(None, None, -1))):
        own = one.init()
        for name in own:
            own[name] = params[name + end]
        alone, after = gd.apply(one, own, x[turn])
        half = outputs[..., 9:] if end else outputs[..., :9]
        np.testing.assert_array_equal(half, alone[turn])
        kept = state[0].reverse if end else state[0]
        np.testing.assert_array_equal(kept.h, after[0].h)


@pytest.mark.parametrize("step", ["all", "last"])
def test_masks_at_sizes_off_the_lanes(step):
    net = gd.Stack(
        gd.Embedding(11, 10),
        gd.GRU(10, 5, bidirectional=True, residual=True),
        gd.LSTM(10, 6, skip=gd.Skip(3, kind="mix", learned=True)),
        gd.RNN(6, 3, bidirectional=True, residual=True, skip=gd.Skip(140, value=0.3)),
        gd.LSTM(6, 8, bidirectional=True, bias=False),
        gd.Linear(16, 4),
    )
    problem = random_problem(
        net,
        gd.loss.CrossEntropy(step=step),
        400,
        6,
        seed=2,
        weight=True,
        lengths=True,
        reset=True,
        state=True,
    )
    expected = by_reference(problem)
    assert_agree(by_core(problem), expected, tolerances.DOUBLE)
    with pytest.raises(gd.MemoryBudgetError) as refused:
        by_core(problem, memory=1)
    assert_agree(by_core(problem, memory=refused.value.smallest), expected, tolerances.DOUBLE)
    assert_agree(by_core(problem, "float32", threads=2), expected, tolerances.SINGLE)


def test_bare_tokens_and_no_head():
    net = gd.Stack(gd.LSTM(7, 9, bidirectional=True))
    problem = random_problem(
        net, SQUARES, 150, 3, seed=3, tokens=True, lengths=True, reset=True, state=True
    )
    assert_agree(by_core(problem), by_reference(problem), tolerances.DOUBLE)


@pytest.mark.parametrize("memory", ["full", "smallest"])
def test_loss_function_behind_a_bidirectional_layer(memory):
    """The loss function receives outputs of whole segments, which the head computes from arrays of
    all steps.
    """
    net = gd.Stack(gd.GRU(3, 5, bidirectional=True), gd.Linear(10, 2))
    problem = random_problem(net, gd.loss.MeanSquaredError(reduction="sum"), 400, 3, seed=6)
    arguments, keywords = core_arguments(problem, "float64")

    def function(outputs, t0, t1):
        off = outputs - problem.y[t0:t1]
        return float((off**2).sum()), 2 * off

    if memory == "smallest":
        with pytest.raises(gd.MemoryBudgetError) as refused:
            gd.value_and_grad(*arguments, **keywords, loss=function, memory=1)
        memory = refused.value.smallest
    got = gd.value_and_grad(*arguments, **keywords, loss=function, memory=memory)
    expected = by_reference(problem)
    assert got.loss == pytest.approx(expected.loss, rel=tolerances.DOUBLE)
    for name, array in expected.params.items():
        assert error(got.grads[name], array) <= tolerances.DOUBLE


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_gradients_far_out_of_range(factor):
    """h_t = f h_(t-1) + x_t in both directions; the loss depends on the first and the last step
    only.

    With outputs [h, h_reverse] of one unit each, d(h_last)/d(x_t) = f^(T-1-t) and
    d(h_reverse_first)/d(x_t) = f^t: the gradient is the sum of the two.
    """
    steps = 4001
    net = gd.Stack(gd.RNN(1, 1, nonlinearity="identity", bias=False, bidirectional=True))
    params = net.init(dtype="float64")
    for name in params:
        params[name][...] = factor if "hh" in name else 1.0

    def loss(outputs, t0, t1):
        slopes = np.zeros_like(outputs)
        if t1 == steps:
            slopes[-1, 0, 0] = 1.0
        if t0 == 0:
            slopes[0, 0, 1] = 1.0
        return 0.0, slopes

    x = np.zeros((steps, 1, 1))
    t = np.arange(steps)
    expected = np.logaddexp2(t * np.log2(factor), (steps - 1 - t) * np.log2(factor))
    for memory in ("full", None):
        r = gd.value_and_grad(net, params, x, loss=loss, wrt=("x",), memory=memory)
        got = np.log2(r.dx[:, 0, 0]) + r.dx_exponent
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


def test_scaling_changes_no_bit_of_ordinary_nets():
    from overriding import override

    net = stack("lstm", 4, 9, layers=2, bidirectional=(0, 1), classes=3)
    problem = random_problem(net, gd.loss.CrossEntropy(), 300, 3, seed=5, lengths=True)
    arguments, keywords = core_arguments(problem, "float32")
    targets = core_targets(problem, "float32")
    one = gd.value_and_grad(*arguments, **keywords, **targets, wrt=("params", "x"))
    with override(scaling=False):
        other = gd.value_and_grad(*arguments, **keywords, **targets, wrt=("params", "x"))
    assert one.grads == other.grads
    np.testing.assert_array_equal(one.dx, other.dx)
    assert not one.dx_exponent.any()


def test_training_learns_what_lies_ahead():
    """The answer is the token of five steps later, which no layer that only reads forward
    can know.
    """
    lost = {}
    for both in (False, True):
        layer = gd.GRU(8, 24, bidirectional=both)
        net = gd.Stack(gd.Embedding(4, 8), layer, gd.Linear(layer.output_size, 4))
        params = net.init(seed=1)
        optimizer = gd.optim.Adam(params, lr=0.02, clip=gd.clip.GlobalNorm(1.0))
        rng = np.random.default_rng(0)
        for _ in range(200):
            x = rng.integers(0, 4, (40, 16))
            y = np.where(np.arange(40)[:, None] < 35, np.roll(x, -5, axis=0), -100)
            r = gd.value_and_grad(net, params, x, y, loss="cross_entropy")
            optimizer.step(r.grads)
        lost[both] = r.loss
    assert lost[True] < 0.3
    assert lost[False] > 1.3


def test_smallest_budget_counts_what_lies_between_layers():
    one = gd.Stack(gd.LSTM(8, 32), gd.Linear(32, 2))
    both = gd.Stack(gd.LSTM(8, 32, bidirectional=True), gd.Linear(64, 2))
    steps, batch = 20_000, 2
    least = {}
    for net in (one, both):
        with pytest.raises(gd.MemoryBudgetError) as refused:
            gd.plan(net, steps, batch, loss="cross_entropy", memory=1)
        least[net] = refused.value.smallest
    # The outputs and their gradients are float32 arrays 2*32 wide.
    assert least[both] > least[one] + 2 * steps * batch * 64 * 4


def test_progress_runs_to_its_total():
    net = gd.Stack(gd.GRU(2, 16, bidirectional=True), gd.Linear(32, 2))
    x = np.zeros((40_000, 2, 2), np.float32)
    seen = []
    gd.value_and_grad(
        net,
        net.init(),
        x,
        np.zeros((40_000, 2), np.int64),
        loss="cross_entropy",
        progress=lambda done, total: seen.append((done, total)),
    )
    # Forward, tape and backward of two directions and of the head each run over all steps or nearly
    # all.
    assert len({total for _, total in seen}) == 1
    assert seen == sorted(seen)
    assert seen[0][0] < 0.5 * seen[0][1]
    assert seen[-1][0] <= seen[-1][1]


def test_overflow_backward_in_time_is_located():
    net = gd.Stack(gd.RNN(2, 3, nonlinearity="identity"), gd.RNN(3, 3, bidirectional=True))
    params = net.init(dtype="float64")
    x = np.zeros((300, 2, 2))
    x[250, 1] = np.nan
    with pytest.raises(gd.NonFiniteError, match="step 250, sequence 1") as found:
        gd.apply(net, params, x)
    assert (found.value.layer, found.value.step, found.value.sequence) == (0, 250, 1)
    params["1.weight_hh_reverse"][...] = np.inf
    with pytest.raises(gd.NonFiniteError) as found:
        gd.apply(net, params, np.ones((300, 2, 2)))
    assert (found.value.layer, found.value.step) == (1, 299)
    params = net.init(dtype="float64")
    with pytest.raises(gd.NonFiniteError) as found:
        gd.value(net, params, np.ones((9, 2, 2)), np.full((9, 2, 6), np.nan), loss="mse")
    assert found.value.layer == 2


def test_parameters_and_states_have_the_names_of_both_directions(tmp_path):
    net = gd.Stack(
        gd.LSTM(3, 4, bidirectional=True, skip=gd.Skip(2, learned=True)), gd.Linear(8, 2)
    )
    params = net.init(seed=3, chrono=50.0)
    assert params["0.weight_ih_reverse"].shape == (16, 3)
    assert params["0.skip_scale_reverse"].shape == (4,)
    rows = slice(4, 8)
    assert (params["0.bias_ih"][rows] > 0).all()
    assert (params["0.bias_ih_reverse"][rows] > 0).all()
    assert (params["0.bias_ih"][rows] != params["0.bias_ih_reverse"][rows]).all()
    path = tmp_path / "both.safetensors"
    gd.save(path, net, params)
    loaded = gd.load(path)
    assert loaded.net == net
    assert loaded.params == params
    state = gd.zero_state(net, 5)
    assert state[0].reverse.skip.shape == (2, 5, 4)
    with pytest.raises(
        gd.ArgumentError, match=r"state\[0\]\.reverse must be a gradcore\.LayerState"
    ):
        gd.apply(
            net, params, np.zeros((2, 5, 3), np.float32), state=[replace(state[0], reverse=None)]
        )
    one = gd.Stack(gd.GRU(3, 4))
    wrong = [replace(gd.zero_state(one, 5)[0], reverse=gd.zero_state(one, 5)[0])]
    with pytest.raises(gd.ArgumentError, match=r"state\[0\]\.reverse must be None"):
        gd.apply(one, one.init(), np.zeros((2, 5, 3), np.float32), state=wrong)


def test_wrong_sizes_and_uses():
    with pytest.raises(gd.ShapeError, match=r"in_features 8, the output size of layer 0"):
        gd.Stack(gd.LSTM(3, 4, bidirectional=True), gd.Linear(4, 2))
    with pytest.raises(gd.ShapeError, match=r"input_size == 2\*hidden_size; got 4 and 8"):
        gd.GRU(4, 4, bidirectional=True, residual=True)
    with pytest.raises(gd.DTypeError, match=r"GRU\.bidirectional must be True or False"):
        gd.GRU(4, 4, bidirectional=2)
    net = gd.Stack(gd.LSTM(3, 4, bidirectional=True))
    assert net.bidirectional
    assert net.output_size == 8
    with pytest.raises(gd.ArgumentError, match="whose output at a step depends on later steps"):
        gd.Stepper(net, net.init())
