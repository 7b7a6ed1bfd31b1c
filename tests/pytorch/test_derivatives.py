"""Second derivatives, forward mode and torch.func through the layers of gradcore.torch."""

import pytest

import gradcore as gd

torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")

from torch import nn  # noqa: E402
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.func import (  # noqa: E402
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    vmap,
)

import gradcore.torch as gt  # noqa: E402

# Forward mode of PyTorch 2.13 calls torch.jit.script for its own formulas.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

T, B, I, H = 6, 2, 3, 4
CASES = {
    "rnn": (gt.RNN, {}),
    "lstm": (gt.LSTM, {"num_layers": 2}),
    "gru both ways": (gt.GRU, {"num_layers": 2, "bidirectional": True}),
    "antisymmetric": (gt.AntisymmetricRNN, {"step": 0.3, "diffusion": 0.1, "num_layers": 2}),
    "lstm with a skip": (gt.LSTM, {"skip": gd.Skip(2, learned=True), "bias": False}),
}


def problem(name, lengths=None):
    """A function of x, a state and the weights, and the point at which it is differentiated."""
    kind, options = CASES[name]
    torch.manual_seed(0)
    layer = kind(I, H, dtype=torch.float64, **options)
    names = [name for name, _ in layer.named_parameters()]
    rows = layer.num_layers * (1 + layer.bidirectional)
    lag = layer.skip.lag if layer.skip else 1
    first = (rows, lag, B, H) if lag > 1 else (rows, B, H)
    x = torch.randn(T, B, I, dtype=torch.float64)
    h = 0.5 * torch.randn(first, dtype=torch.float64)
    c = 0.5 * torch.randn(rows, B, H, dtype=torch.float64)

    def run(x, h, c, *weights):
        hx = (h, c) if kind is gt.LSTM else h
        arguments = (x, hx)
        outputs, end = functional_call(
            layer, dict(zip(names, weights, strict=True)), arguments, {"lengths": lengths}
        )
        return (outputs, *end) if kind is gt.LSTM else (outputs, end)

    return run, tuple(leaf.detach().requires_grad_() for leaf in (x, h, c, *layer.parameters()))


def used(name, points):
    """The RNN and the GRU have no c, which would have no gradient."""
    run, leaves = points
    if "lstm" in name:
        return run, leaves
    return (lambda x, h, *weights: run(x, h, None, *weights)), (*leaves[:2], *leaves[3:])


@pytest.mark.parametrize("lengths", [None, [6, 3]])
@pytest.mark.parametrize("name", CASES)
def test_first_and_second_derivatives_by_differences(name, lengths):
    run, leaves = used(name, problem(name, lengths))
    assert gradcheck(run, leaves, check_forward_ad=True)
    assert gradgradcheck(run, leaves, check_fwd_over_rev=True)


def module_pair():
    torch.manual_seed(0)
    theirs = nn.LSTM(I, H, dtype=torch.float64)
    ours = gt.LSTM(I, H, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, I, dtype=torch.float64)
    return theirs, ours, {k: v.detach() for k, v in ours.named_parameters()}, x


TRANSFORMS = {
    "jacrev": lambda f: jacrev(f, argnums=1),
    "jacfwd by x": lambda f: jacfwd(f, argnums=1),
    "jacfwd by weights": lambda f: lambda p, x: jacfwd(f)(p, x)["weight_hh_l0"],
    "hessian": lambda f: hessian(lambda p, x: f(p, x).pow(3).sum(), argnums=1),
    "reverse over reverse": lambda f: jacrev(
        jacrev(lambda p, x: f(p, x).pow(3).sum(), argnums=1), argnums=1
    ),
    "jvp": lambda f: lambda p, x: jvp(lambda x: f(p, x), (x,), (x.cos(),))[1],
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_of_torch_func(name):
    theirs, ours, weights, x = module_pair()
    found = [
        TRANSFORMS[name](lambda p, x, layer=layer: functional_call(layer, p, (x,))[0])(weights, x)
        for layer in (ours, theirs)
    ]
    torch.testing.assert_close(*found)


def test_vmap_over_samples():
    _, ours, weights, x = module_pair()

    def loss(p, one):
        return functional_call(ours, p, (one,))[0].sin().sum()

    each = vmap(grad(loss), in_dims=(None, 1))(weights, x)
    for name, value in each.items():
        assert value.shape == (B, *weights[name].shape)
    for b in range(B):
        alone = grad(loss)(weights, x[:, b])
        for name, value in alone.items():
            torch.testing.assert_close(each[name][b], value)
    stacked = torch.stack([x, 2 * x])
    outputs = vmap(lambda one: functional_call(ours, weights, (one,))[0])(stacked)
    torch.testing.assert_close(outputs[1], ours(2 * x)[0])


def test_tangents_of_a_jacobian_are_rows_of_one_product(monkeypatch):
    from gradcore.torch import _numbers

    counts = []
    honest = _numbers.tangents

    def counting(call, flat, x, state, directions):
        counts.append(next(len(d) for d in directions if d is not None))
        return honest(call, flat, x, state, directions)

    monkeypatch.setattr(_numbers, "tangents", counting)
    _, ours, weights, x = module_pair()
    jacfwd(lambda x: functional_call(ours, weights, (x,))[0])(x)
    assert counts == [x.numel()]


def test_a_third_derivative_is_refused():
    layer = gt.GRU(I, H, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x)[0].pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), x, create_graph=True)
    with pytest.raises(
        gd.ArgumentError, match=r"differentiates a layer at most twice.*torch.nn's layer"
    ):
        second.sum().backward()


def test_a_gradient_penalty_trains():
    """The loss contains |dL/dx|, as in PyTorch issue 5261: an update has two backward passes."""
    theirs, ours, _, x = module_pair()
    found = []
    for layer in (ours, theirs):
        point = x.clone().requires_grad_()
        value = layer(point)[0].pow(2).sum()
        (slope,) = torch.autograd.grad(value, point, create_graph=True)
        (value + slope.pow(2).sum()).backward()
        found.append([weight.grad for weight in layer.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
