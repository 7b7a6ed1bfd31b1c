"""The layers inside PyTorch's modes and transforms, exporters, and with gradients that are not
finite.
"""

import copy
import io

import numpy as np
import pytest

import gradcore as gd

torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")

from torch import nn  # noqa: E402

import gradcore.torch as gt  # noqa: E402
from gradcore.torch import _numbers  # noqa: E402

T, B, I, H = 9, 3, 4, 5
KINDS = ("RNN", "LSTM", "GRU")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def both(kind, **options):
    theirs = getattr(nn, kind)(I, H, **options)
    ours = getattr(gt, kind)(I, H, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def sample(dtype=torch.float32):
    return torch.randn(T, B, I, dtype=dtype, requires_grad=True)


# ---- gradients that arrive non-finite


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
def test_a_gradient_that_is_not_finite_is_passed_on_as_by_torch(kind, number, options):
    found = []
    for layer in both(kind, **options):
        torch.manual_seed(1)
        x = sample()
        outputs = layer(x)[0]
        given = torch.ones_like(outputs)
        given[5, 1, 2] = number
        outputs.backward(given)
        grads = [weight.grad for weight in layer.parameters()]
        found.append((x.grad, grads))
    for one, other in zip(*[grads for _, grads in found], strict=True):
        assert not torch.isfinite(other).any()
        assert options or not torch.isfinite(one).all()
    x, expected = found[1][0], found[0][0]
    assert torch.equal(torch.isfinite(x), torch.isfinite(expected))
    there = torch.isfinite(expected)
    torch.testing.assert_close(x[there], expected[there])


def test_the_gradient_of_the_last_state_is_not_finite():
    layer = gt.LSTM(I, H)
    x, h, c = sample(), torch.zeros(1, B, H), torch.zeros(1, B, H)
    h.requires_grad_(), c.requires_grad_()
    _, (_, end) = layer(x, (h, c))
    given = torch.zeros_like(end)
    given[0, 2, 0] = torch.inf
    end.backward(given)
    assert x.grad[:, 2].isnan().all()
    assert not x.grad[:, :2].any()
    assert h.grad[:, 2].isnan().all()
    assert not h.grad[:, :2].any()


def test_what_lies_behind_the_end_of_a_sequence_does_not_matter():
    layer = gt.GRU(I, H)
    x = sample()
    outputs, _ = layer(x, lengths=[9, 4, 9])
    given = torch.ones_like(outputs)
    given[6:, 1] = torch.nan
    outputs.backward(given)
    assert x.grad.isfinite().all()
    assert layer.weight_hh_l0.grad.isfinite().all()


def test_large_finite_gradients_are_no_infinite_ones():
    large = torch.full((4,), 1e308, dtype=torch.float64)
    assert large.sum().isinf()
    assert _numbers._finite(large, None)
    large[2] = torch.nan
    assert not _numbers._finite(None, large)


def test_grad_scaler_skips_the_step():
    for model in both("LSTM"):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        before = copy.deepcopy(model.state_dict())
        loss = model(sample())[0].sum() * 3e38
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == 2.0**15
        assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


def test_a_cell_whose_own_gradient_overflows_is_still_named():
    layer = gt.RNN(1, 1, nonlinearity="relu", bias=False)
    with torch.no_grad():
        layer.weight_hh_l0.fill_(torch.inf)
    with pytest.raises(gd.NonFiniteError):
        layer(torch.ones(3, 1, 1))


# ---- derivatives


@pytest.mark.parametrize("kind", KINDS)
def test_batched_gradients(kind):
    theirs, ours = both(kind, num_layers=2)
    x = sample()
    found = []
    for layer in (theirs, ours):
        outputs = layer(x)[0]
        torch.manual_seed(2)
        given = torch.randn(4, *outputs.shape)
        leaves = (x, *layer.parameters())
        one_by_one = [torch.autograd.grad(outputs, leaves, g, retain_graph=True) for g in given]
        if layer is ours:
            found.append(torch.autograd.grad(outputs, leaves, given, is_grads_batched=True))
        found.append([torch.stack(each) for each in zip(*one_by_one, strict=True)])
    for one, other, third in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(other, third)


def test_batched_gradients_of_a_state_with_lengths():
    layer = gt.LSTM(I, H)
    x = sample()
    state = tuple(torch.randn(1, B, H, requires_grad=True) for _ in range(2))
    outputs, (h, _) = layer(x, state, lengths=[9, 2, 5])
    given = torch.randn(3, *outputs.shape), torch.randn(3, *h.shape)
    found = torch.autograd.grad((outputs, h), (x, *state), given, is_grads_batched=True)
    outputs, (h, _) = layer(x, state, lengths=[9, 2, 5])
    for k in range(3):
        one = tuple(g[k] for g in given)
        expected = torch.autograd.grad((outputs, h), (x, *state), one, retain_graph=True)
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(a, b[k])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["hvp", "vhp", "hessian", "jvp", "vjp"])
def test_functional_derivatives(kind, name):
    theirs, ours = both(kind, dtype=torch.float64)
    x, v = sample(torch.float64).detach(), torch.randn(T, B, I, dtype=torch.float64)
    found = []
    for layer in (theirs, ours):
        given = () if name == "hessian" else (torch.tensor(1.5).double() if name == "vjp" else v,)
        given = given if isinstance(given, tuple) else (given,)

        def value(x, layer=layer):
            outputs, end = layer(x)
            return outputs.pow(3).sum() + (end[1] if kind == "LSTM" else end).sin().sum()

        found.append(getattr(torch.autograd.functional, name)(value, x, *given))
    torch.testing.assert_close(*found)


def test_hvp_by_weights_and_its_gradient():
    theirs, ours = both("LSTM", dtype=torch.float64)
    x = sample(torch.float64).detach()
    found = []
    for layer in (theirs, ours):
        names = [name for name, _ in layer.named_parameters()]
        weights = tuple(weight.detach().clone() for weight in layer.parameters())
        torch.manual_seed(3)
        v = tuple(torch.randn_like(weight) for weight in weights)

        def value(*weights, layer=layer, names=names):
            named = dict(zip(names, weights, strict=True))
            return torch.func.functional_call(layer, named, (x,))[0].pow(2).sum()

        found.append(torch.autograd.functional.hvp(value, weights, v)[1])
    torch.testing.assert_close(*found)


def test_tangents_have_gradients():
    layer = gt.GRU(I, H, dtype=torch.float64)
    leaves = [weight.detach().requires_grad_() for weight in layer.parameters()]
    names = [name for name, _ in layer.named_parameters()]

    def tangent(x, v, *weights):
        def run(x):
            named = dict(zip(names, weights, strict=True))
            return torch.func.functional_call(layer, named, (x,))[0]

        outputs = run(x)
        dummy = torch.zeros_like(outputs, requires_grad=True)
        (back,) = torch.autograd.grad(outputs, x, dummy, create_graph=True)
        return torch.autograd.grad(back, dummy, v, create_graph=True)[0]

    x = torch.randn(4, 2, I, dtype=torch.float64, requires_grad=True)
    v = torch.randn(4, 2, I, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(tangent, (x, v, *leaves))


def test_a_third_derivative_is_refused_and_says_what_to_do():
    layer = gt.LSTM(I, H, dtype=torch.float64)
    x = sample(torch.float64)
    value = layer(x)[0].pow(2).sum()
    for _ in range(2):
        (value,) = (torch.autograd.grad(value, x, create_graph=True)[0].pow(2).sum(),)
    with pytest.raises(gd.ArgumentError, match=r"at most twice.*gradcore\.torch\.revert"):
        torch.autograd.grad(value, x)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_initial_states_are_contiguous(kind):
    layer = getattr(gt, kind)(I, H, 2, bidirectional=True)
    states = [torch.randn(4, B, H, requires_grad=True) for _ in range(1 + (kind == "LSTM"))]
    outputs, _ = layer(sample(), tuple(states) if kind == "LSTM" else states[0])
    outputs.sum().backward()
    assert all(state.grad.is_contiguous() for state in states)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_vmap_over_lengths_and_reset(kind):
    layer = getattr(gt, kind)(I, H)
    x = torch.randn(4, T, B, I)
    lengths = torch.tensor([[9, 1, 0], [2, 3, 4], [9, 9, 9], [5, 5, 1]])
    flags = torch.rand(4, T, B) < 0.2
    found = torch.vmap(lambda x, n: layer(x, lengths=n)[0])(x, lengths)
    again = torch.vmap(lambda n: layer(x[0], lengths=n)[0])(lengths)
    reset = torch.vmap(lambda x, f: layer(x, reset=f)[0])(x, flags)
    slopes = torch.vmap(torch.func.grad(lambda x, n: layer(x, lengths=n)[0].sin().sum()))(
        x, lengths
    )
    for k in range(4):
        assert torch.equal(found[k], layer(x[k], lengths=lengths[k])[0])
        assert torch.equal(again[k], layer(x[0], lengths=lengths[k])[0])
        assert torch.equal(reset[k], layer(x[k], reset=flags[k])[0])
        one = x[k].clone().requires_grad_()
        layer(one, lengths=lengths[k])[0].sin().sum().backward()
        torch.testing.assert_close(slopes[k], one.grad)


# ---- tensors without memory, graphs


@pytest.mark.parametrize("kind", KINDS)
def test_fake_tensors_and_the_meta_device(kind):
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        layer = getattr(gt, kind)(I, H, 2)
        outputs, _ = layer(torch.randn(T, B, I))
        assert outputs.shape == (T, B, H)
        outputs.sum().backward()
        assert layer.weight_hh_l1.grad.shape == layer.weight_hh_l1.shape
    layer = getattr(gt, kind)(I, H, bidirectional=True, device="meta")
    outputs, end = layer(torch.randn(T, B, I, device="meta"))
    assert outputs.shape == (T, B, 2 * H)
    assert outputs.device.type == "meta"
    assert (end[0] if kind == "LSTM" else end).shape == (2, B, H)
    with pytest.raises(gd.ArgumentError, match=r"runs on the CPU only.*gradcore\.torch\.revert"):
        layer(torch.randn(T, B, I))


def test_fake_tensors_of_another_device():
    from torch._subclasses import FakeTensorMode

    layer = gt.GRU(I, H)
    with FakeTensorMode(), torch.no_grad():
        weights = {n: torch.empty(w.shape, device="cuda") for n, w in layer.named_parameters()}
        x = torch.empty(T, B, I, device="cuda")
        outputs, end = torch.func.functional_call(layer, weights, (x,))
        assert outputs.device.type == end.device.type == "cuda"
        assert outputs.shape == (T, B, H)


def test_functionalize_and_make_fx():
    from torch.fx.experimental.proxy_tensor import make_fx

    layer = gt.LSTM(I, H)
    x = sample().detach()
    run = lambda x: layer(x)[0] + 1  # noqa: E731
    assert torch.equal(torch.func.functionalize(run)(x), run(x))
    graph = make_fx(run)(x)
    assert "gradcore.layer" in graph.code
    assert torch.equal(graph(2 * x), run(2 * x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_traced_and_saved(kind):
    layer = getattr(gt, kind)(I, H, 2, bidirectional=True).eval()
    x = sample().detach()
    traced = torch.jit.trace(layer, x)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    again = torch.jit.load(file)
    for other in (x, torch.randn(2 * T, B, I)):  # the length is not part of the graph
        expected = layer(other)[0]
        assert torch.equal(traced(other)[0], expected)
        assert torch.equal(again(other)[0], expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_files_are_those_of_torch(kind):
    onnx = pytest.importorskip("onnx", reason="needs onnx: install gradcore[onnx]")
    x = sample().detach()
    kinds = []
    for layer in both(kind, bidirectional=True):
        file = io.BytesIO()
        torch.onnx.export(layer.eval(), (x,), file, dynamo=False)
        made = onnx.load_from_string(file.getvalue())
        kinds.append([node.op_type for node in made.graph.node])
    assert kinds[0] == kinds[1]
    assert kind in kinds[1]
    with pytest.raises(gd.ArgumentError, match="neither lengths nor reset"):
        torch.onnx.export(
            gt.LSTM(I, H), (x, None, torch.tensor([9, 9, 1])), io.BytesIO(), dynamo=False
        )
    skipping = gt.LSTM(I, H, skip=gd.Skip(2))
    with pytest.raises(gd.ArgumentError, match=r"torch\.nn has no such layer"):
        torch.onnx.export(skipping, (x,), io.BytesIO(), dynamo=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripting_is_refused_and_says_what_to_do():
    model = nn.Sequential(nn.Linear(I, I), gt.LSTM(I, H))
    with pytest.raises(gd.ArgumentError, match=r"jit\.script.*gradcore\.torch\.revert"):
        torch.jit.script(model)
    assert type(model[1]) is gt.LSTM


@pytest.mark.filterwarnings("ignore:TF32")
def test_per_sample_gradients_by_expanded_weights():
    from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

    layer = gt.LSTM(I, H, batch_first=True)
    x = torch.randn(B, T, I)
    with torch.backends.mkldnn.flags(enabled=False):
        call_for_per_sample_grads(layer)(x)[0].sum().backward()
    found = [weight.grad_sample for weight in layer.parameters()]
    for b in range(B):
        layer.zero_grad()
        layer(x[b : b + 1])[0].sum().backward()
        for weight, samples in zip(layer.parameters(), found, strict=True):
            torch.testing.assert_close(samples[b], weight.grad, rtol=1e-4, atol=1e-5)


# ---- what torch.nn takes


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_of_one(kind):
    theirs, ours = both(kind, num_layers=3, bidirectional=True, dropout=1.0)
    found = []
    for layer in (theirs, ours):
        torch.manual_seed(4)
        x = sample()
        outputs, _ = layer(x)
        outputs.pow(2).sum().backward()
        found.append([outputs.detach(), x.grad, *(weight.grad for weight in layer.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert not ours.weight_ih_l1.grad.any()
    x = sample()
    torch.testing.assert_close(ours.eval()(x)[0], theirs.eval()(x)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_weights_are_refused_and_say_what_to_do(dtype):
    layer = gt.GRU(I, H).to(dtype)
    with pytest.raises(gd.DTypeError, match=r"autocast.*gradcore\.torch\.revert"):
        layer(torch.randn(T, B, I, dtype=dtype))
    assert np.isfinite(layer.float()(torch.randn(T, B, I))[0].detach().numpy()).all()


def test_names_in_repr():
    assert repr(gt.LSTM(I, H)) == f"gradcore.torch.LSTM({I}, {H})"
    assert "(0): gradcore.torch.GRU(" in repr(nn.Sequential(gt.GRU(I, H)))
