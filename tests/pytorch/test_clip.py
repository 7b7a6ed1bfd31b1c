"""gradcore.torch.clip_grad_norm_: gradients beyond float32, and what they belong to."""

import copy
import io
import warnings

import numpy as np
import pytest

import gradcore as gd
import tolerances

torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")

from torch import nn  # noqa: E402

import gradcore.torch as gt  # noqa: E402
from torch_models import Tagger, exploding  # noqa: E402

T = 2000
LEFT = "ignore:a gradient left the range of float32"
pytestmark = pytest.mark.filterwarnings(LEFT)


def pair():
    """A model, and the same in float64, where nothing of it overflows."""
    torch.manual_seed(0)
    model = Tagger(exploding())
    double = Tagger(exploding(torch.float64)).double()
    double.head.load_state_dict(model.head.state_dict())
    return model, double


def losses(model, x=None):
    """Two losses whose gradients point in different directions; both forward passes come first."""
    dtype = model.head.weight.dtype
    x = torch.zeros(T, 2, 1, dtype=dtype) if x is None else x
    a = 30 * model(x)[-1, :, 0].square().sum()
    b = model(x)[-1, :, 1].square().sum()
    return a, b


def agrees(model, double, norm, log10, limit=0.5):
    """The clipped gradients of `model` against those of `double`, whose squares leave float64."""
    expected = torch.cat([w.grad.reshape(-1) for w in double.parameters()])
    top = expected.abs().max()
    true = float((expected / top).norm())
    assert log10 == pytest.approx(np.log10(true) + float(top.log10()), abs=1e-3)
    assert bool(torch.isinf(norm))
    assert norm.dtype == torch.float32
    found = torch.cat([w.grad.reshape(-1).double() for w in model.parameters()])
    assert (found / limit - expected / top / true).norm() < tolerances.SINGLE_SCALED


def clipped(parameters, limit=0.5):
    log10 = gt.log10_grad_norm(parameters)
    return gt.clip_grad_norm_(parameters, limit), log10


# ---- what it gives


@pytest.mark.parametrize("given", ["module", "generator", "list"])
def test_a_gradient_beyond_float32_keeps_its_direction(given):
    model, double = pair()
    for one in (model, double):
        losses(one)[0].backward()
    assert not bool(torch.isfinite(model.layer.bias_hh_l0.grad).all())
    before = [w.grad for w in model.parameters()]
    if given == "generator":
        log10 = gt.log10_grad_norm(model.parameters())
        norm = gt.clip_grad_norm_(model.parameters(), 0.5)
    else:
        norm, log10 = clipped(model if given == "module" else list(model.parameters()))
    agrees(model, double, norm, log10)
    assert all(w.grad is grad for w, grad in zip(model.parameters(), before, strict=True))
    # What is in .grad is all there is from now on.
    assert float(gt.clip_grad_norm_(model, 1.0)) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("limit", [0.1, 1e6, float("inf")])
@pytest.mark.parametrize("kind", ["gradcore", "torch", "tensor"])
def test_ordinary_gradients_are_clipped_as_torch_does(kind, limit):
    torch.manual_seed(0)
    model = Tagger((gt if kind == "gradcore" else nn).LSTM(1, 8))
    model(torch.randn(50, 2, 1)).square().sum().backward()
    given = model.head.weight if kind == "tensor" else model
    parameters = [given] if kind == "tensor" else list(model.parameters())
    grads = [w.grad.clone() for w in parameters]
    norm = gt.clip_grad_norm_(given, limit)
    found = [w.grad.clone() for w in parameters]
    for weight, grad in zip(parameters, grads, strict=True):
        weight.grad = grad
    assert gt.log10_grad_norm(given) == pytest.approx(float(norm.log10()), abs=1e-5)
    theirs = nn.utils.clip_grad_norm_(parameters, limit)
    torch.testing.assert_close(norm, theirs)
    assert norm.dim() == 0
    for weight, grad in zip(parameters, found, strict=True):
        torch.testing.assert_close(weight.grad, grad)


@pytest.mark.parametrize(
    ("size", "dtype"), [(1e25, "float32"), (1e-44, "float32"), (1e200, "float64")]
)
def test_squares_beyond_the_dtype(size, dtype):
    weight = nn.Parameter(torch.zeros(4, dtype=getattr(torch, dtype)))
    weight.grad = torch.full_like(weight, size)
    given = float(weight.grad[0])
    assert gt.log10_grad_norm(weight) == pytest.approx(np.log10(2 * given), rel=1e-6)
    gt.clip_grad_norm_(weight, 1.0)
    expected = 0.5 if size > 1 else given
    assert weight.grad.tolist() == pytest.approx([expected] * 4, rel=1e-5)


def test_nothing_to_clip():
    assert float(gt.clip_grad_norm_(nn.Linear(2, 2), 1.0)) == 0.0
    assert gt.log10_grad_norm([]) == -np.inf
    with pytest.raises(gd.DTypeError, match=r"item 1 is a str"):
        gt.clip_grad_norm_([torch.zeros(2), "w"], 1.0)
    with pytest.raises(gd.ArgumentError, match="max_norm"):
        gt.clip_grad_norm_(nn.Linear(2, 2), 0.0)


def test_what_lies_before_an_overflowing_layer_is_named():
    model = nn.ModuleDict({"before": nn.Linear(1, 1), "layer": exploding()})
    with torch.no_grad():
        model["layer"].weight_ih_l0.fill_(1.0)
        model["before"].bias.zero_()
    model["layer"](model["before"](torch.zeros(T, 1, 1)))[0][-1].sum().backward()
    for given, name in ((model, "before.weight"), (model.parameters(), r"parameter 0 of shape")):
        with pytest.raises(gd.NonFiniteError, match=rf"{name}.* is not finite.*constrain"):
            gt.clip_grad_norm_(given, 1.0)


# ---- what belongs to the gradient in .grad


@pytest.mark.parametrize("set_to_none", [True, False])
def test_two_losses_whose_forward_passes_come_first(set_to_none):
    model, double = pair()
    for one in (model, double):
        a, b = losses(one)
        a.backward()
        one.zero_grad(set_to_none=set_to_none)
        b.backward()
    agrees(model, double, *clipped(model))


@pytest.mark.parametrize("before", [True, False])
def test_a_probe_of_autograd_grad_changes_nothing(before):
    model, double = pair()
    losses(double)[1].backward()
    a, b = losses(model)
    if before:
        torch.autograd.grad(a, model.layer.weight_hh_l0)
    b.backward()
    if not before:
        torch.autograd.grad(a, list(model.parameters()))
    agrees(model, double, *clipped(model))


@pytest.mark.parametrize("fails", [False, True])
def test_a_diagnosis_between_backward_and_clip_changes_nothing(fails):
    model, double = pair()
    for one in (model, double):
        losses(one)[0].backward()
    before = [weight.grad for weight in model.parameters()]

    def other():
        if fails:
            raise KeyError("no data")
        return losses(model)[1]

    if fails:
        with pytest.raises(KeyError):
            gt.diagnose(model, other)
    else:
        gt.diagnose(model, other, parts=["reach"])
    assert all(w.grad is b for w, b in zip(model.parameters(), before, strict=True))
    # What comes later is added to what was kept.
    for one in (model, double):
        losses(one)[1].backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agrees(model, double, *clipped(model))


def test_a_diagnosis_leaves_nothing_beside_gradients_that_did_not_overflow():
    model, _ = pair()
    gt.diagnose(model, lambda: losses(model)[0], parts=["reach"])
    assert all(weight.grad is None for weight in model.parameters())
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        norm = gt.clip_grad_norm_(model, 1.0)
    assert float(norm) == pytest.approx(sum(w.numel() for w in model.parameters()) ** 0.5)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("together", [True, False])
def test_accumulated_gradients(times, together):
    model, double = pair()
    for one in (model, double):
        found = [loss for _ in range(times) for loss in losses(one)]
        if together:  # several calls of the layer in one backward pass
            sum(found).backward()
        else:
            for loss in found:
                loss.backward()
    agrees(model, double, *clipped(model))


def test_one_graph_twice_and_opposite_signs():
    model, double = pair()
    for one in (model, double):
        a, b = losses(one)
        a.backward(retain_graph=True)
        (b - 0.9 * a).backward()  # autograd's own sum is inf - inf
    agrees(model, double, *clipped(model))


@pytest.mark.parametrize("order", ["finite last", "finite first", "between"])
def test_finite_gradients_are_accumulated_too(order):
    """10^37 of a short sequence and 10^38.6 of a longer one, whose sum is beyond float32."""

    def layer_of(dtype):
        torch.manual_seed(1)
        layer = exploding(dtype)
        with torch.no_grad():
            layer.bias_hh_l0[:] = 0
        return layer

    lengths = {"finite last": (340, 325), "finite first": (325, 340), "between": (340, 5, 338)}
    layers = [layer_of(torch.float32), layer_of(torch.float64)]
    weight = torch.linspace(1, 2, 8)
    for layer in layers:
        for index, steps in enumerate(lengths[order]):
            x = torch.zeros(steps, 1, 1, dtype=layer.weight_hh_l0.dtype)
            row = weight.roll(index).to(x.dtype)
            (10 * (layer(x)[0][-1, 0] * row).sum()).backward()
    assert bool(torch.isinf(layers[0].bias_hh_l0.grad).any())
    gt.clip_grad_norm_(layers[0], 1.0)
    expected = layers[1].bias_hh_l0.grad / layers[1].bias_hh_l0.grad.norm()
    found = layers[0].bias_hh_l0.grad.double()
    assert float((found / found.norm() - expected).norm()) < tolerances.SINGLE_SCALED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p.grad.mul_(0.25), "changed in place"),
        (lambda p: setattr(p, "grad", p.grad.clone()), "replaced"),
        (lambda p: p.grad.add_(1.0), "changed in place"),
        (lambda p: p.grad.div_(p.grad.norm()), "changed in place"),
    ],
)
def test_a_changed_gradient_is_not_taken_for_the_kept_one(change, reason):
    model, _ = pair()
    losses(model)[0].backward()
    weight = model.layer.bias_hh_l0
    change(weight)
    grad = weight.grad.clone()
    with (
        pytest.warns(UserWarning, match=rf"dropped.*layer\.bias_hh_l0: \.grad was {reason}"),
        pytest.raises(gd.NonFiniteError, match=r"layer\.bias_hh_l0 is not finite"),
    ):
        gt.clip_grad_norm_(model, 1.0)
    torch.testing.assert_close(weight.grad, grad, equal_nan=True)


def test_a_gradient_that_was_made_finite_counts_as_it_is():
    model, _ = pair()
    losses(model)[0].backward()
    for weight in model.layer.parameters():
        weight.grad.nan_to_num_(posinf=1.0, neginf=-1.0).clamp_(-1, 1)
    theirs = float(torch.cat([w.grad.reshape(-1) for w in model.parameters()]).norm())
    with pytest.warns(UserWarning, match="changed in place"):
        norm = gt.clip_grad_norm_(model, 1.0)
    assert float(norm) == pytest.approx(theirs, rel=1e-5)
    model.zero_grad()
    losses(model, torch.zeros(5, 2, 1))[0].backward()
    gt.clip_grad_norm_(model, 1.0)  # without a word


def test_gradients_changed_between_two_passes():
    model, _ = pair()
    losses(model)[0].backward()
    model.layer.bias_hh_l0.grad.mul_(0.5)
    losses(model)[0].backward()
    with (
        pytest.warns(UserWarning, match="changed in place"),
        pytest.raises(gd.NonFiniteError),
    ):
        gt.clip_grad_norm_(model, 1.0)


@pytest.mark.parametrize("first", [True, False])
def test_hooks_of_the_parameter(first):
    """One that only looks changes nothing; one that scales makes what is kept unknown."""
    short = torch.zeros(400, 2, 1)
    for hook, fine in ((lambda grad: None, True), (lambda grad: grad * 0.5, False)):
        model, double = pair()
        weight = model.layer.weight_hh_l0
        with torch.no_grad():
            # Of 400 steps: 10^32 in one unit, which stays finite, 10^46 in the others.
            weight[0, 0] = double.layer.weight_hh_l0[0, 0] = 1.2
        if not first:
            losses(model, short)[0].backward()
            model.zero_grad()
        model.layer.bias_hh_l0.register_hook(hook)
        losses(model, short)[0].backward()
        losses(double, short.double())[0].backward()
        assert int(torch.isfinite(model.layer.bias_hh_l0.grad).sum()) == 1
        if fine:
            agrees(model, double, *clipped(model))
        else:
            with (
                pytest.warns(UserWarning, match="a hook of the parameter"),
                pytest.raises(gd.NonFiniteError),
            ):
                gt.clip_grad_norm_(model, 1.0)


def test_another_term_of_the_loss():
    """A penalty is below the rounding error of 10^228; what it adds elsewhere is kept."""
    model, double = pair()
    for one in (model, double):
        (losses(one)[0] + sum(w.square().sum() for w in one.parameters())).backward()
    agrees(model, double, *clipped(model))


def test_copies_and_files_of_a_model_with_such_gradients():
    model, double = pair()
    for one in (model, double):
        losses(one)[0].backward()
    other = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    torch.load(file, weights_only=False).zero_grad()
    other.zero_grad()
    agrees(model, double, *clipped(model))
    losses(other)[0].backward()
    agrees(other, double, *clipped(other))


# ---- words for those who clip with torch's function


def train(model, clip, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        losses(model)[0].backward()
        clip(model.parameters(), 1.0)
        optimizer.step()


@pytest.mark.filterwarnings("default:a gradient left the range")
def test_the_first_overflow_names_the_function_that_helps():
    model, _ = pair()
    with pytest.warns(UserWarning, match=r"gradcore\.torch\.clip_grad_norm_") as told:
        losses(model)[0].backward()
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses(model)[1].backward()
    two = nn.ModuleList([exploding(), exploding()])
    with pytest.warns(UserWarning, match=r"gradcore\.torch\.clip_grad_norm_") as told:
        sum(layer(torch.zeros(T, 1, 1))[0][-1].sum() for layer in two).backward()
    assert len(told) == 1


def test_weights_that_torch_made_nan_are_explained():
    model, _ = pair()
    with pytest.raises(gd.NonFiniteError, match=r"gradcore\.torch\.clip_grad_norm_") as error:
        train(model, nn.utils.clip_grad_norm_)
    assert "NaN" in str(error.value)
    other, _ = pair()
    train(other, gt.clip_grad_norm_)
    assert all(bool(torch.isfinite(w).all()) for w in other.parameters())


def test_no_such_words_where_no_gradient_overflowed():
    layer = gt.LSTM(1, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(torch.randn(50, 1, 1))[0].sum().backward()
    with torch.no_grad():
        layer.weight_hh_l0.fill_(float("nan"))
    with pytest.raises(gd.NonFiniteError) as error:
        layer(torch.randn(50, 1, 1))
    assert "clip_grad_norm_" not in str(error.value)
