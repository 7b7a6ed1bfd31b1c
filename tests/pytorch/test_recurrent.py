"""gradcore.torch.Recurrent: any cell as a module, against loops of PyTorch in float64."""

import copy
import itertools
import pickle
import shutil
from functools import lru_cache

import numpy as np
import pytest

import gradcore as gd
import tolerances
import user_cells
from gradcore._net import compiler

torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")

from torch import nn  # noqa: E402
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.nn.utils import rnn as packing  # noqa: E402

import gradcore.torch as gt  # noqa: E402

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, compiler.NAMES)), reason="needs a C++ compiler"
)

T, B, I, H = 11, 3, 4, 5
CELLS = {
    "Peephole": {"from_i": 0.6, "from_o": -0.4},
    "MinimalGated": {},
    "Everything": {"leak": 0.4},
}


@lru_cache
def cell(name):
    return gd.cells.compile(
        user_cells.SOURCES[name], options=user_cells.OPTIONS.get(name), dtype="float64"
    )


def module(name, *args, **options):
    torch.manual_seed(0)
    return gt.Recurrent(cell(name), I, H, *args, dtype=torch.float64, **{**CELLS[name], **options})


def states_of(made, batch=B):
    torch.manual_seed(1)
    rows = made.num_layers * (1 + made.bidirectional)
    states = [
        0.5 * torch.randn(rows, batch, H, dtype=torch.float64) for _ in made.layer.cell.states
    ]
    return tuple(states) if len(states) > 1 else states[0]


def listed(states):
    return list(states) if isinstance(states, tuple) else [states]


def loop(made, x, hx=None, lengths=None):
    """What a module computes, step by step: outputs (T, B, D*H) and a list of last states."""
    kind, layer = type(made.layer).__name__, made.layer
    options = {option: getattr(layer, option) for option, _ in layer.source.options}
    rows = listed(states_of(made)) if hx is None else listed(hx)
    rows = [torch.zeros_like(one) if hx is None else one for one in rows]
    lengths = [len(x)] * x.shape[1] if lengths is None else lengths
    ends = []
    for place in range(made.num_layers):
        sides = []
        for side, suffix in enumerate(("", "_reverse")[: 1 + made.bidirectional]):
            p = {
                own: getattr(made, f"{own}_l{place}{suffix}", None)
                for own in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            }
            states = tuple(one[place * (1 + made.bidirectional) + side] for one in rows)
            outputs = [None] * len(x)
            for t in reversed(range(len(x))) if side else range(len(x)):
                pre = [x[t] @ p["weight_ih"].T, states[0] @ p["weight_hh"].T]
                if made.bias:
                    pre = [pre[0] + p["bias_ih"], pre[1] + p["bias_hh"]]
                x_pre, h_pre = (one.chunk(len(layer.cell.gates), 1) for one in pre)
                there = torch.tensor([t < length for length in lengths])[:, None]
                after = user_cells.STEPS[kind](x_pre, h_pre, states, **options)
                states = tuple(
                    torch.where(there, new, old) for new, old in zip(after, states, strict=True)
                )
                outputs[t] = torch.where(there, states[0], torch.zeros_like(states[0]))
            sides.append(torch.stack(outputs))
            ends.append(states)
        x = torch.cat(sides, 2)
    return x, [torch.stack(one) for one in zip(*ends, strict=True)]


def agree(found, expected, points):
    """Values, and the gradients of one loss by all points."""
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    grads = []
    for values in (found, expected):
        loss = sum((place + 1) * value.sin().sum() for place, value in enumerate(values))
        grads.append(torch.autograd.grad(loss, points))
    for one, other in zip(*grads, strict=True):
        error = (one - other).norm() / other.norm().clamp_min(1e-300)
        assert error <= 100 * tolerances.DOUBLE, float(error)


@pytest.mark.parametrize(
    ("name", "layers", "bidirectional", "bias"),
    list(itertools.product(CELLS, (1, 2), (False, True), (True, False))),
)
def test_values_and_gradients_are_those_of_a_loop(name, layers, bidirectional, bias):
    made = module(name, layers, bias, bidirectional=bidirectional)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    hx = tuple(one.requires_grad_() for one in listed(states_of(made)))
    for given, lengths in ((None, None), (hx, [T, 4, 7])):
        points = [x, *made.parameters(), *(given or ())]
        hidden = given if given is None or len(given) > 1 else given[0]
        outputs, end = made(x, hidden, lengths=lengths)
        expected, last = loop(made, x, hidden, lengths)
        agree([outputs, *listed(end)], [expected, *last], points)


def test_batch_first_without_a_batch_and_packed():
    made = module("Peephole", 2, bidirectional=True)
    x = torch.randn(T, B, I, dtype=torch.float64)
    expected, _ = made(x)
    first = copy.deepcopy(made)
    first.batch_first = True
    torch.testing.assert_close(first(x.transpose(0, 1))[0].transpose(0, 1), expected)
    outputs, end = made(x[:, 1])
    torch.testing.assert_close(outputs, expected[:, 1])
    assert [tuple(one.shape) for one in end] == [(4, H), (4, H)]
    lengths = torch.tensor([4, T, 2])
    packed = packing.pack_padded_sequence(x, lengths, enforce_sorted=False)
    outputs, end = made(packed)
    wanted, last = made(x, lengths=lengths)
    assert torch.equal(packing.pad_packed_sequence(outputs, total_length=T)[0], wanted)
    assert all(torch.equal(one, other) for one, other in zip(end, last, strict=True))
    nothing = torch.zeros(T, 0, I, dtype=torch.float64)
    assert [tuple(one.shape) for one in made(nothing)[1]] == [(4, 0, H), (4, 0, H)]


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_a_built_in_cell_is_that_of_torch(name):
    torch.manual_seed(0)
    theirs = getattr(nn, name)(I, H, 2, bidirectional=True, dtype=torch.float64)
    ours = gt.Recurrent(getattr(gd, name), I, H, 2, bidirectional=True, dtype=torch.float64)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, I, dtype=torch.float64)
    outputs, end = ours(x)
    expected, last = theirs(x)
    torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-14)
    for one, other in zip(listed(end), listed(last), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    spread = torch.cat([weight.detach().reshape(-1) for weight in ours.parameters()])
    assert H**-0.5 * 0.9 < float(spread.abs().max()) <= H**-0.5


def test_a_layer_with_its_options():
    layer = cell("MinimalGated")(I, H, bidirectional=True, skip=gd.Skip(3, learned=True))
    made = gt.Recurrent(layer, num_layers=2, dtype=torch.float64)
    assert made.stack().layers[0] == layer
    assert made.stack().layers[1].input_size == 2 * H
    assert "skip_scale_l1_reverse" in dict(made.named_parameters())
    assert bool((made.skip_scale_l0 == 1).all())
    x = torch.randn(T, B, I, dtype=torch.float64)
    outputs, end = made(x)
    assert end.shape == (4, 3, B, H)
    torch.testing.assert_close(made(x, torch.zeros_like(end))[0], outputs)
    values, _ = gd.apply(made.stack(), gt.params_of(made), x.numpy())
    np.testing.assert_array_equal(outputs.detach().numpy(), values)


@pytest.mark.parametrize("structure", ["diagonal", "blocks", "none"])
def test_recurrent_weights_with_structure(structure):
    own = {"recurrent": structure, "blocks": 5 if structure == "blocks" else None}
    made = module("Peephole", 2, bidirectional=True, **own)
    dense = module("Peephole", 2, bidirectional=True)
    with torch.no_grad():
        for name, weight in dense.named_parameters():
            given = dict(made.named_parameters()).get(name)
            if name.startswith("weight_hh") or given is None:
                flat = torch.zeros(weight.shape[0]) if given is None else given.reshape(-1)
                eye = torch.eye(H, dtype=torch.float64).repeat(4, 1)
                weight.copy_(flat[:, None] * eye if weight.dim() == 2 else flat)
            else:
                weight.copy_(given)
    assert ("bias_hh_l0" in dict(made.named_parameters())) == (structure != "none")
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    outputs, end = made(x)
    expected, last = loop(dense, x)
    agree([outputs, *end], [expected, *last], [x])
    assert torch.equal(copy.deepcopy(made)(x)[0], outputs)


def test_a_learned_initial_state_has_its_gradient():
    made = module("Peephole", 2, initial_state="learned")
    assert not made.initial_h_l0.any()
    torch.manual_seed(2)
    with torch.no_grad():
        for name in ("initial_h_l0", "initial_c_l0", "initial_h_l1", "initial_c_l1"):
            getattr(made, name).normal_()
    x = torch.randn(T, B, I, dtype=torch.float64)
    hx = tuple(
        torch.stack([getattr(made, f"initial_{state}_l{place}") for place in range(2)])[
            :, None
        ].expand(2, B, H)
        for state in "hc"
    )
    outputs, end = made(x)
    expected, last = loop(made, x, hx)
    agree([outputs, *end], [expected, *last], list(made.parameters()))


def test_masks_act_in_training_only_and_follow_the_generator():
    made = module("Peephole", zoneout=0.3, recurrent_dropout=0.2)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(made(x)[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    made.eval()
    assert torch.equal(made(x)[0], made(x)[0])
    assert not torch.equal(made(x)[0], found[0])

    def run(x):
        torch.manual_seed(5)
        return made.train()(x)[0]

    assert gradcheck(run, (x,))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("name", ["Peephole", "MinimalGated"])
def test_second_derivatives(name):
    made = module(name, 2, bidirectional=True)
    x = torch.randn(4, 2, I, dtype=torch.float64, requires_grad=True)
    names = [own for own, _ in made.named_parameters()]
    weights = [weight.detach().requires_grad_() for weight in made.parameters()]

    def run(x, *weights):
        outputs, end = torch.func.functional_call(
            made, dict(zip(names, weights, strict=True)), (x,)
        )
        return (outputs, *listed(end))

    assert gradcheck(run, (x, *weights), check_forward_ad=True)
    assert gradgradcheck(run, (x, *weights), atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["Peephole", "MinimalGated"])
def test_compiled_as_one_operator(name):
    from gradcore.torch import _compiled

    torch._dynamo.reset()
    made = module(name, 2)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    hx = states_of(made)
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    found = []
    for one in (made, compiled):
        outputs, end = one(x, hx, lengths=torch.tensor([T, 3, 6]))
        loss = outputs.sin().sum() + sum(state.sum() for state in listed(end))
        found.append([outputs, *torch.autograd.grad(loss, [x, *made.parameters()])])
    torch.testing.assert_close(*found)
    flat = torch.cat([weight.detach().reshape(-1) for weight in made.parameters()])
    torch.library.opcheck(
        _compiled.layer,
        (flat.requires_grad_(), x, None, None, None, None, "", *made._description()),
    )


def test_copies_files_and_dtypes(tmp_path):
    made = module("Peephole", 2, memory="8MB")
    x = torch.randn(T, B, I, dtype=torch.float64)
    expected = made(x)[0]
    torch.save(made, tmp_path / "whole")
    fresh = module("Peephole", 2)
    with torch.no_grad():
        fresh.bias_hh_l1.add_(1.0)
    assert not torch.equal(fresh(x)[0], expected)
    torch.save(made.state_dict(), tmp_path / "weights")
    fresh.load_state_dict(torch.load(tmp_path / "weights", weights_only=True))
    for other in (
        copy.deepcopy(made),
        pickle.loads(pickle.dumps(made)),
        torch.load(tmp_path / "whole", weights_only=False),
        fresh,
    ):
        assert torch.equal(other(x)[0], expected)
    assert repr(copy.deepcopy(made)) == repr(made)
    assert repr(made) == (
        "Recurrent(Peephole(4, 5, from_i=0.6, from_o=-0.4), num_layers=2, memory='8MB')"
    )
    torch.testing.assert_close(made.float()(x.float())[0], expected.float(), rtol=1e-4, atol=1e-5)
    empty = gt.Recurrent(cell("MinimalGated"), I, H, device="meta")
    assert empty.weight_ih_l0.is_meta
    before = made.weight_hh_l1.clone()
    made.reset_parameters()
    assert not torch.equal(made.weight_hh_l1, before)


def test_it_trains_with_the_other_functions_of_the_module():
    torch.manual_seed(0)
    made = gt.Recurrent(cell("MinimalGated"), 1, 8)
    head = nn.Linear(8, 1)
    model = nn.ModuleDict({"layer": made, "head": head})
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    gt.constrain(model, optimizer, [gd.constrain.SpectralNorm(0.9)])
    x = torch.randn(40, 16, 1)
    y = x.roll(1, 0)
    y[0] = 0
    losses = []
    for _ in range(60):
        loss = (head(made(x)[0]) - y).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        gt.clip_grad_norm_(model, 1.0)
        optimizer.step()
        losses.append(loss.item())
        assert np.linalg.norm(made.weight_hh_l0.detach().numpy(), 2) <= 0.9 * (1 + 1e-5)
    assert losses[-1] < 0.5 * losses[0]
    (found,) = gt.diagnose(model, lambda: head(made(x)[0]).sum(), parts=("reach",)).values()
    assert found.measured.reach


def test_nets_with_such_cells_are_exchanged():
    first = cell("Peephole")(3, 3, from_f=0.7, residual=True)
    net = gd.Stack(first, cell("MinimalGated")(3, 6, bidirectional=True), gd.Linear(12, 2))
    params = net.init(seed=0, dtype="float64")
    made = gd.to_torch(net, params)
    x = np.random.default_rng(0).standard_normal((T, B, 3))
    outputs, _ = made(torch.from_numpy(x))
    np.testing.assert_allclose(outputs.detach(), gd.apply(net, params, x)[0], rtol=1e-12)
    whole = nn.Sequential(module("Everything", 2, dropout=0.2), nn.Linear(H, 1).double())
    back, values = gd.from_torch(whole)
    assert [type(one).__name__ for one in back.layers] == [
        "Everything", "Dropout", "Everything", "Linear"
    ]  # fmt: skip
    assert back.layers[2].leak == 0.4
    x = torch.randn(T, B, I, dtype=torch.float64)
    with torch.no_grad():
        expected = whole[1](whole[0].eval()(x)[0])
    np.testing.assert_allclose(gd.apply(back, values, x.numpy())[0], expected, rtol=1e-12)


def test_the_chrono_start_needs_a_memory_gate():
    made = gt.Recurrent(gd.LSTM, I, H)
    made.init_chrono_(100.0)
    assert bool((made.bias_ih_l0[H : 2 * H] >= 0).all())
    with pytest.raises(gd.ArgumentError, match="or a cell of yours with a memory_gate"):
        module("MinimalGated").init_chrono_(100.0)


def test_what_is_refused():
    kind = cell("Peephole")
    with pytest.raises(gd.DTypeError, match=r"cell must be a recurrent layer.*got 'LSTM'"):
        gt.Recurrent("LSTM", I, H)
    with pytest.raises(gd.DTypeError, match="cell must be a recurrent layer"):
        gt.Recurrent(gd.Linear(2, 3))
    with pytest.raises(gd.ArgumentError, match=r"Recurrent\(Peephole, 3, 16\); got None and None"):
        gt.Recurrent(kind)
    with pytest.raises(gd.ArgumentError, match=r"takes input_size, from_i, bias from the layer"):
        gt.Recurrent(kind(I, H), I, bias=False, from_i=0.1)
    with pytest.raises(gd.ArgumentError, match=r"cannot have initial_state=.static."):
        gt.Recurrent(kind, I, H, initial_state="static", static_size=2)
    with pytest.raises(gd.ArgumentError, match="proj_size must be 0"):
        gt.Recurrent(kind, I, H, proj_size=2)
    with pytest.raises(TypeError, match="nonsense"):
        gt.Recurrent(kind, I, H, nonsense=1)
    with pytest.raises(ValueError, match="num_layers must be greater than zero"):
        gt.Recurrent(kind, I, H, 0)
    made = module("Peephole")
    x = torch.randn(T, B, I, dtype=torch.float64)
    h, c = states_of(made)
    with pytest.raises(gd.ShapeError, match="must have the states h, c; got 1 tensors"):
        made(x, (h,))
    with pytest.raises(RuntimeError, match=r"hx and cx should also be 3-D but got \(3-D, 2-D\)"):
        made(x, (h, c[0]))
    with pytest.raises(RuntimeError, match=r"Expected hidden\[1\] size \(1, 3, 5\), got"):
        made(x, (h, c[:, :2]))
