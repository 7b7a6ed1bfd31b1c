"""The layers of gradcore.torch behave as those of torch.nn; the tests follow PyTorch's own for RNN
modules.
"""

import copy
import itertools
import warnings

import numpy as np
import pytest

import gradcore as gd
import tolerances

torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")

from torch import nn  # noqa: E402
from torch.nn.utils import rnn as packing  # noqa: E402

import gradcore.torch as gt  # noqa: E402

KINDS = ("RNN", "LSTM", "GRU")
T, B, I, H = 40, 3, 5, 9


def both(kind, *sizes, seed=0, dtype=torch.float64, **options):
    """The layer of torch.nn and that of gradcore with the same weights."""
    made = []
    for module in (nn, gt):
        torch.manual_seed(seed)
        made.append(getattr(module, kind)(*sizes, dtype=dtype, **options))
    return made


def start(kind, rows, batch=B, hidden=H, dtype=torch.float64):
    torch.manual_seed(3)
    shape = (rows, hidden) if batch is None else (rows, batch, hidden)
    states = [torch.randn(shape, dtype=dtype) for _ in range(2)]
    return tuple(states) if kind == "LSTM" else states[0]


def listed(states):
    return list(states) if isinstance(states, tuple) else [states]


def leaf(states):
    if isinstance(states, tuple):
        return tuple(leaf(state) for state in states)
    return states.clone().requires_grad_()


def solved(layer, x, hx=None):
    """Outputs, last states and all gradients of one loss, for both layers."""
    x, hx = leaf(x), None if hx is None else leaf(hx)
    outputs, end = layer(x, hx)
    loss = outputs.sin().sum() + sum((state**2).sum() for state in listed(end))
    loss.backward()
    found = {"outputs": outputs, "x": x.grad}
    for i, state in enumerate(listed(end)):
        found[f"end {i}"] = state
    for i, state in enumerate(() if hx is None else listed(hx)):
        found[f"start {i}"] = state.grad
    found |= {name: weight.grad for name, weight in layer.named_parameters()}
    return {name: value.detach().clone() for name, value in found.items()}


def assert_same(ours, theirs, tolerance=tolerances.DOUBLE):
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert ours[name].shape == value.shape, name
        assert ours[name].dtype == value.dtype, name
        error = (ours[name] - value).norm() / max(value.norm(), 1e-300)
        assert error <= tolerance, (name, float(error))


# ---- values and gradients


@pytest.mark.parametrize(
    ("kind", "layers", "bidirectional", "batch_first", "bias"),
    list(itertools.product(KINDS, (1, 2), (False, True), (False, True), (False, True))),
)
def test_values_and_gradients(kind, layers, bidirectional, batch_first, bias):
    theirs, ours = both(
        kind, I, H, layers, bidirectional=bidirectional, batch_first=batch_first, bias=bias
    )
    x = torch.randn(*((B, T) if batch_first else (T, B)), I, dtype=torch.float64)
    hx = start(kind, layers * (1 + bidirectional))
    for given in (None, hx):
        theirs.zero_grad()
        ours.zero_grad()
        assert_same(solved(ours, x, given), solved(theirs, x, given), 10 * tolerances.DOUBLE)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_the_nonlinearity_of_rnn_is_its_fourth_argument(nonlinearity):
    theirs, ours = both("RNN", I, H, 2, nonlinearity, False, True)
    x = torch.randn(B, T, I, dtype=torch.float64)
    assert_same(solved(ours, x), solved(theirs, x), 10 * tolerances.DOUBLE)
    assert (ours.nonlinearity, ours.mode) == (theirs.nonlinearity, theirs.mode)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision(kind):
    theirs, ours = both(kind, I, H, dtype=torch.float32)
    x = torch.randn(T, B, I)
    assert_same(solved(ours, x), solved(theirs, x), tolerances.SINGLE)


@pytest.mark.parametrize("kind", KINDS)
def test_unbatched_input(kind):
    for batch_first in (False, True):
        theirs, ours = both(kind, I, H, 2, batch_first=batch_first)
        x = torch.randn(T, I, dtype=torch.float64)
        hx = start(kind, 2, batch=None)
        assert_same(solved(ours, x, hx), solved(theirs, x, hx), tolerances.DOUBLE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [(40, 17, 3), (5, 40, 40), (7, 7, 7)])
def test_packed_sequences(kind, lengths):
    theirs, ours = both(kind, I, H, 2, bidirectional=True)
    x = torch.randn(T, B, I, dtype=torch.float64)
    hx = start(kind, 4)
    found = []
    for layer in (ours, theirs):
        leaf_x, leaf_hx = leaf(x), leaf(hx)
        packed = packing.pack_padded_sequence(leaf_x, torch.tensor(lengths), enforce_sorted=False)
        outputs, end = layer(packed, leaf_hx)
        assert isinstance(outputs, packing.PackedSequence)
        loss = outputs.data.sin().sum() + sum((state**2).sum() for state in listed(end))
        loss.backward()
        found.append(
            {"data": outputs.data, "sizes": outputs.batch_sizes, "order": outputs.sorted_indices}
            | {f"end {i}": state for i, state in enumerate(listed(end))}
            | {"x": leaf_x.grad}
            | {f"start {i}": state.grad for i, state in enumerate(listed(leaf_hx))}
            | {name: weight.grad for name, weight in layer.named_parameters()}
        )
    for name in ("sizes", "order"):
        assert torch.equal(found[0].pop(name), found[1].pop(name))
    assert_same(*found, 10 * tolerances.DOUBLE)


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_do_what_packing_does(kind):
    layer = getattr(gt, kind)(I, H, 2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    lengths = torch.tensor([17, 40, 3])
    packed = packing.pack_padded_sequence(x, lengths, enforce_sorted=False)
    expected, expected_end = layer(packed)
    expected, _ = packing.pad_packed_sequence(expected, total_length=T)
    for given in (lengths, lengths.tolist(), lengths.to(torch.int32)):
        outputs, end = layer(x, lengths=given)
        assert torch.equal(outputs, expected)
        for one, other in zip(listed(end), listed(expected_end), strict=True):
            assert torch.equal(one, other)
    unsuitable = copy.deepcopy(x)
    unsuitable[20:, 0] = torch.nan  # values after the end are not read
    assert torch.equal(layer(unsuitable, lengths=lengths)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_no_sequences(kind):
    theirs, ours = both(kind, I, H, 2, bidirectional=True)
    x = torch.randn(T, 0, I, dtype=torch.float64)
    hx = start(kind, 4, batch=0)
    assert_same(solved(ours, x, hx), solved(theirs, x, hx))


def test_memory_and_threads_change_no_bit():
    x = torch.randn(600, 2, I)
    plain = gt.LSTM(I, 64)
    lean = gt.LSTM(I, 64, memory="2MB")
    lean.load_state_dict(plain.state_dict())
    expected = solved(plain, x)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            lean.zero_grad()
            for name, value in solved(lean, x).items():
                assert torch.equal(value, expected[name]), name
    finally:
        torch.set_num_threads(threads)
    with pytest.raises(gd.MemoryBudgetError, match="at least"):
        gt.LSTM(I, 64, memory="1kB")(x)
    with pytest.raises(gd.ArgumentError, match="memory must be"):
        gt.LSTM(I, 64, memory="lots")


# ---- graphs


@pytest.mark.parametrize("needed", [("x",), ("hx",), ("weights",), ("x", "weights")])
def test_only_what_is_asked_for_gets_a_gradient(needed):
    theirs, ours = both("LSTM", I, H)
    found = []
    for layer in (ours, theirs):
        x = torch.linspace(-1, 1, T * B * I, dtype=torch.float64).reshape(T, B, I)
        hx = start("LSTM", 1)
        x.requires_grad_("x" in needed)
        for state in hx:
            state.requires_grad_("hx" in needed)
        for weight in layer.parameters():
            weight.requires_grad_("weights" in needed)
        layer(x, hx)[0].sin().sum().backward()
        tensors = {"x": x, "h": hx[0], "c": hx[1], **dict(layer.named_parameters())}
        found.append({name: t.grad for name, t in tensors.items() if t.grad is not None})
    assert_same(*found)


def test_frozen_weights_and_no_grad():
    layer = gt.GRU(I, H)
    with torch.no_grad():
        outputs, _ = layer(torch.randn(T, B, I))
    assert not outputs.requires_grad
    layer.requires_grad_(False)
    assert not layer(torch.randn(T, B, I))[0].requires_grad
    with torch.inference_mode():
        layer(torch.randn(T, B, I))


def test_a_graph_can_go_back_twice_and_accumulates():
    theirs, ours = both("GRU", I, H)
    x = torch.randn(T, B, I, dtype=torch.float64)
    for layer in (ours, theirs):
        loss = layer(x)[0].sin().sum()
        loss.backward(retain_graph=True)
        loss.backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_only_the_last_state_is_used():
    theirs, ours = both("LSTM", I, H)
    x = torch.randn(T, B, I, dtype=torch.float64)
    for layer in (ours, theirs):
        _, (_, c) = layer(x)
        c.sum().backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_an_input_changed_in_place_is_an_error():
    layer = gt.LSTM(I, H)
    x = torch.randn(T, B, I, requires_grad=True) * 1.0
    outputs, _ = layer(x)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


def test_a_layer_can_be_used_several_times():
    theirs, ours = both("LSTM", I, I)
    x = torch.randn(T, B, I, dtype=torch.float64)
    for layer in (ours, theirs):
        first, end = layer(x)
        second, _ = layer(first, end)
        third, _ = layer(second.flip(0))
        (third.sin().sum() + first.cos().sum()).backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_contiguous_input_is_not_copied(monkeypatch):
    from gradcore.torch import _numbers

    seen = []
    honest = _numbers._array

    def noting(tensor):
        array = honest(tensor)
        seen.append((tensor.data_ptr(), array.__array_interface__["data"][0]))
        return array

    monkeypatch.setattr(_numbers, "_array", noting)
    x = torch.randn(T, B, I, requires_grad=True)
    outputs, _ = gt.LSTM(I, H)(x)
    given = torch.randn_like(outputs)
    outputs.backward(given)
    assert (x.data_ptr(), x.data_ptr()) in seen
    assert (given.data_ptr(), given.data_ptr()) in seen
    assert all(one == other for one, other in seen)
    crosswise = torch.randn(B, T, I).transpose(0, 1).requires_grad_()
    assert gt.LSTM(I, H)(crosswise)[0].shape == (T, B, H)


# ---- names, initialisation, representation


@pytest.mark.parametrize("kind", KINDS)
def test_state_dicts_are_the_same(kind):
    theirs, ours = both(kind, I, H, 2, bidirectional=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    getattr(nn, kind)(I, H, 2, bidirectional=True, dtype=torch.float64).load_state_dict(
        ours.state_dict()
    )
    torch.manual_seed(9)
    ours.reset_parameters()
    torch.manual_seed(9)
    theirs.reset_parameters()
    assert torch.equal(ours.weight_hh_l1_reverse, theirs.weight_hh_l1_reverse)
    assert repr(ours) == f"gradcore.torch.{theirs!r}"
    assert [len(w) for w in ours.all_weights] == [len(w) for w in theirs.all_weights]


def test_weights_may_be_replaced():
    theirs, ours = both("LSTM", I, H)
    x = torch.randn(T, B, I, dtype=torch.float64)
    for layer in (ours, theirs):
        layer.weight_hh_l0 = nn.Parameter(torch.eye(H, dtype=torch.float64).repeat(4, 1))
    torch.testing.assert_close(ours(x)[0], theirs(x)[0])
    assert repr(gt.GRU(2, 3, memory="1MB")) == "gradcore.torch.GRU(2, 3, memory='1MB')"
    for layer in (ours, theirs):
        layer.float()
    torch.testing.assert_close(ours(x.float())[0], theirs(x.float())[0])


# ---- dropout


def test_dropout_acts_between_layers_in_training_only():
    torch.manual_seed(0)
    layer = gt.RNN(64, 64, 2, dropout=0.4)
    x = torch.randn(500, 4, 64)
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    layer.train()
    torch.manual_seed(5)
    first = layer(x)[0]
    second = layer(x)[0]
    torch.manual_seed(5)
    assert torch.equal(layer(x)[0], first)
    assert not torch.equal(second, first)
    # A second layer that returns its input shows what was dropped: a share p is 0, the rest is
    # scaled.
    with torch.no_grad():
        layer.weight_ih_l1.copy_(1e-3 * torch.eye(64))
        for weight in (layer.weight_hh_l1, layer.bias_ih_l1, layer.bias_hh_l1):
            weight.zero_()
    shown = layer(x)[0] * 1e3
    kept = layer.eval()(x)[0] * 1e3
    dropped = (shown == 0).float().mean()
    assert abs(dropped - 0.4) < 5 * np.sqrt(0.4 * 0.6 / shown.numel())
    there = shown != 0
    torch.testing.assert_close(shown[there], kept[there] / 0.6, rtol=1e-4, atol=1e-6)


def test_dropout_of_one_layer_warns_as_torch_does():
    with pytest.warns(UserWarning, match="non-zero dropout expects num_layers greater than 1"):
        gt.LSTM(2, 3, dropout=0.5)


def test_gradients_see_the_mask_of_their_forward_pass():
    layer = gt.LSTM(I, H, 2, dropout=0.5, dtype=torch.float64)
    x = torch.randn(12, 2, I, dtype=torch.float64, requires_grad=True)

    def outputs(x):
        torch.manual_seed(1)
        return layer(x)[0]

    assert torch.autograd.gradcheck(outputs, (x,))


# ---- skip connections


@pytest.mark.parametrize("kind", ["add", "mix"])
def test_skip_connections(kind):
    skip = gd.Skip(3, kind=kind, learned=True)
    layer = gt.GRU(I, H, 2, bidirectional=True, skip=skip, dtype=torch.float64)
    name = "skip_scale" if kind == "add" else "skip_logit"
    names = [name + end for end in ("_l0", "_l0_reverse", "_l1", "_l1_reverse")]
    assert [n for n, _ in layer.named_parameters() if n.startswith("skip")] == names
    value = 1.0 if kind == "add" else 0.0
    assert bool((getattr(layer, names[0]) == value).all())
    layer.reset_parameters()
    assert bool((getattr(layer, names[3]) == value).all())
    assert "skip=Skip(lag=3" in repr(layer)

    x = torch.randn(T, B, I, dtype=torch.float64)
    outputs, end = layer(x)
    assert end.shape == (4, 3, B, H)
    net, params = layer.stack(), gt.params_of(layer)
    expected, state = gd.apply(net, params, x.numpy())
    np.testing.assert_array_equal(outputs.detach().numpy(), expected)
    np.testing.assert_array_equal(end[1].detach().numpy(), state[0].reverse.skip)
    # The sequence is run in two parts with the state carried over (only forward in time).
    layer = gt.LSTM(I, H, skip=skip, dtype=torch.float64)
    whole, last = layer(x)
    first, carried = layer(x[:20])
    second, end = layer(x[20:], carried)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    assert end[0].shape == (1, 3, B, H)
    assert end[1].shape == (1, B, H)
    torch.testing.assert_close(end[0], last[0])
    leaves = tuple(p.detach().requires_grad_() for p in layer.parameters())

    def run(x, *weights):
        named = dict(zip(dict(layer.named_parameters()), weights, strict=True))
        return torch.func.functional_call(layer, named, (x,))[0]

    assert torch.autograd.gradcheck(run, (x[:6].clone().requires_grad_(), *leaves))


# ---- errors


def raised(layer, *args, **kwargs):
    with pytest.raises((ValueError, RuntimeError)) as error, warnings.catch_warnings():
        layer(*args, **kwargs)
    return error


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_those_of_torch(kind):
    theirs, ours = both(kind, I, H, dtype=torch.float32)
    zeros = torch.zeros
    h = (zeros(1, B, H), zeros(1, B, H)) if kind == "LSTM" else zeros(1, B, H)
    wrong = (zeros(1, B, H + 1), zeros(1, B, H)) if kind == "LSTM" else zeros(1, B, H + 1)
    flat = (zeros(1, H), zeros(1, H)) if kind == "LSTM" else zeros(1, H)
    cases = [
        (zeros(2, T, B, I),),
        (zeros(T),),
        (zeros(T, B, I + 1),),
        (zeros(T, I + 1),),
        (zeros(T, B, I), wrong),
        (zeros(T, B + 1, I), h),
        (zeros(T, B, I), flat),
        (zeros(T, I), h),
        (zeros(T, B, I, dtype=torch.float64),),
        (zeros(0, B, I),),
    ]
    for case in cases:
        expected, found = raised(theirs, *case), raised(ours, *case)
        assert found.type is expected.type, (case[0].shape, found.value, expected.value)
        assert str(found.value)[:40] == str(expected.value)[:40]


def test_constructors_refuse_what_torch_refuses():
    for options in (
        {"dropout": 1.5},
        {"num_layers": 0},
        {"bias": 1},
        {"batch_first": "yes"},
    ):
        for kind in KINDS:
            errors = []
            for module in (nn, gt):
                with pytest.raises((ValueError, TypeError)) as error:
                    getattr(module, kind)(I, H, **options)
                errors.append(error)
            assert errors[0].type is errors[1].type
            assert str(errors[0].value) == str(errors[1].value)
    with pytest.raises(ValueError, match="Unknown nonlinearity 'sine'"):
        gt.RNN(I, H, nonlinearity="sine")
    for kind in KINDS:
        with pytest.raises(gd.ArgumentError, match=r"proj_size must be 0; got 2.*Linear after"):
            getattr(gt, kind)(I, H, proj_size=2)
    with pytest.raises(gd.DTypeError, match=r"skip must be a gradcore.Skip"):
        gt.LSTM(I, H, skip=4)


def test_errors_of_our_own():
    layer = gt.LSTM(I, H)
    x = torch.randn(T, B, I)
    with pytest.raises(gd.ShapeError, match=r"lengths must have shape \(3,\)"):
        layer(x, lengths=[1, 2])
    with pytest.raises(gd.ArgumentError, match=r"lengths must be in 0..T = 0..40; got -1 to 41"):
        layer(x, lengths=[-1, 2, 41])
    with pytest.raises(gd.DTypeError, match="lengths must be integers"):
        layer(x, lengths=[1.0, 2.0, 3.0])
    packed = packing.pack_sequence([x[:, 0]])
    with pytest.raises(gd.ArgumentError, match="lengths must be None"):
        layer(packed, lengths=[1])
    with pytest.raises(gd.DTypeError, match=r"float32 or float64; they are torch.bfloat16"):
        gt.LSTM(I, H, dtype=torch.bfloat16)(x.bfloat16())
    with pytest.raises(gd.ArgumentError, match="runs on the CPU"):
        gt.LSTM(I, H, device="meta")(x)
    with pytest.raises(ValueError, match="hidden state dtype"):
        layer(x, (torch.zeros(1, B, H).double(), torch.zeros(1, B, H)))
    bad = x.clone()
    bad[7, 1, 2] = torch.nan
    with pytest.raises(gd.NonFiniteError, match="step 7, sequence 1"):
        layer(bad)


def test_it_says_so_where_torch_is_missing():
    import subprocess
    import sys

    check = """
import sys
sys.modules["torch"] = None
try:
    import gradcore.torch
except ImportError as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    ).stdout
    assert "pip install torch" in said
