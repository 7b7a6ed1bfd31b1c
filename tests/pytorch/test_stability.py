"""Clipping, constraints, curvature and diagnosis of PyTorch models that use gradcore.torch."""

import numpy as np
import pytest

import gradcore as gd

torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")

from torch import nn  # noqa: E402

import gradcore.torch as gt  # noqa: E402
from torch_models import Tagger  # noqa: E402

T = 2000


# ---- constraints


@pytest.mark.parametrize("how", ["clip", "scale", "reparametrise"])
def test_constraints_hold_after_every_step(how):
    torch.manual_seed(0)
    model = Tagger(gt.LSTM(1, 12, 2))
    with torch.no_grad():
        model.layer.weight_hh_l0.mul_(5)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    kept = gt.constrain(model, optimizer, [gd.constrain.SpectralNorm(0.8, how=how)])
    x, y = torch.randn(40, 4, 1), torch.randint(3, (40, 4))

    def norms():
        weights = [model.layer.weight_hh_l0, model.layer.weight_hh_l1]
        return [float(np.linalg.norm(w.detach().numpy(), 2)) for w in weights]

    assert max(norms()) <= 0.8 * (1 + 1e-5)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        assert max(norms()) <= 0.8 * (1 + 1e-5)
    assert losses[-1] < losses[0]
    assert set(kept.reports["layer"]) == {"0.weight_hh", "1.weight_hh"}
    kept.remove()
    with torch.no_grad():
        model.layer.weight_hh_l0.mul_(9)
    optimizer.step()
    assert norms()[0] > 2
    with pytest.raises(gd.DTypeError, match=r"optimizer must be one of torch\.optim"):
        gt.constrain(model, "adam", [gd.constrain.SpectralNorm(0.8)])


def test_the_steps_are_those_of_gradcores_own_optimizer():
    net = gd.Stack(gd.GRU(2, 6))
    params = net.init(seed=0, dtype="float64")
    layer = gt.GRU(2, 6, dtype=torch.float64)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            weight.copy_(torch.from_numpy(params["0." + name.removesuffix("_l0")]))
    rule = [gd.constrain.SpectralNorm(0.7, how="reparametrise")]
    ours = gd.optim.SGD(params, 0.1, constraints=rule)
    theirs = torch.optim.SGD(layer.parameters(), 0.1)
    gt.constrain(layer, theirs, rule)
    rng = np.random.default_rng(0)
    for _ in range(3):
        x, y = rng.standard_normal((20, 2, 2)), rng.standard_normal((20, 2, 6))
        ours.step(gd.value_and_grad(net, params, x, y, loss="mse").grads)
        theirs.zero_grad()
        nn.functional.mse_loss(layer(torch.from_numpy(x))[0], torch.from_numpy(y)).backward()
        theirs.step()
        found = gt.params_of(layer).flat
        assert np.linalg.norm(found - params.flat) < 1e-12 * np.linalg.norm(params.flat)


# ---- curvature


def small():
    torch.manual_seed(0)
    model = Tagger(gt.GRU(1, 4), classes=2).double()
    x, y = torch.randn(30, 3, 1, dtype=torch.float64), torch.randint(2, (30, 3))
    return model, lambda: nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())


def test_sharpness_is_the_largest_eigenvalue():
    model, loss = small()
    weights = dict(model.named_parameters())
    sizes = [w.numel() for w in weights.values()]
    slope = torch.cat(
        [g.reshape(-1) for g in torch.autograd.grad(loss(), weights.values(), create_graph=True)]
    )
    rows = [
        torch.cat(
            [g.reshape(-1) for g in torch.autograd.grad(one, weights.values(), retain_graph=True)]
        )
        for one in slope
    ]
    exact = np.linalg.eigvalsh(torch.stack(rows).numpy())[::-1]
    assert len(exact) == sum(sizes)
    found = gt.sharpness(loss(), list(weights.values()), k=2, tol=1e-8)
    np.testing.assert_allclose(found.values, exact[:2], rtol=1e-6)
    with pytest.raises(gd.ArgumentError, match="loss must be one value"):
        gt.sharpness(torch.zeros(2), [])


def test_a_monitor_warns_of_a_rate_beyond_the_limit_once():
    model, loss = small()
    top = gt.sharpness(loss(), list(model.parameters())).values[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=3 / top)
    monitor = gt.StabilityMonitor(optimizer, every=2, tol=1e-4)
    with pytest.warns(UserWarning, match=r"is 1\.5 times what the curvature"):
        report = monitor.look(loss())
    assert report == monitor.report
    assert report.ratio == pytest.approx(1.5, rel=1e-3)
    assert report.lr_stable == pytest.approx(2 / top, rel=1e-3)
    assert report.limit == pytest.approx(2 / optimizer.param_groups[0]["lr"])
    assert monitor.look(loss()) is not None  # the second of two; the warning was already given
    assert monitor.look(loss()) is None


def test_a_monitor_holds_the_rate():
    model, loss = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e4, momentum=0.9)
    monitor = gt.StabilityMonitor(optimizer, every=1, lr="stable", tol=1e-4)
    losses = []
    for _ in range(20):
        value = loss()
        monitor.look(value)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    top = gt.sharpness(loss(), list(model.parameters())).values[0]
    assert optimizer.param_groups[0]["lr"] < 2 * 1.9 / top
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("ignore:lr 0.01 is")
@pytest.mark.parametrize(
    ("make", "ours"),
    [
        (torch.optim.Adam, gd.optim.Adam),
        (torch.optim.AdamW, gd.optim.AdamW),
        (torch.optim.RMSprop, gd.optim.RMSprop),
        (torch.optim.Adagrad, gd.optim.Adagrad),
    ],
)
def test_the_monitor_agrees_with_gradcores_own(make, ours):
    net = gd.Stack(gd.GRU(2, 5))
    params = net.init(seed=0, dtype="float64")
    layer = gt.GRU(2, 5, dtype=torch.float64)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            weight.copy_(torch.from_numpy(params["0." + name.removesuffix("_l0")]))
    one, other = ours(params, lr=1e-2, weight_decay=1e-3), None
    other = make(layer.parameters(), lr=1e-2, weight_decay=1e-3)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 3, 2)), rng.standard_normal((20, 3, 5))

    def loss():
        return nn.functional.mse_loss(layer(torch.from_numpy(x))[0], torch.from_numpy(y))

    monitor = gt.StabilityMonitor(other, every=1, tol=1e-6, max_products=200)
    # The step is scaled by second moments that the optimizer does not have yet.
    assert monitor.look(loss()) is None
    for _ in range(3):
        one.step(gd.value_and_grad(net, params, x, y, loss="mse").grads)
        other.zero_grad()
        loss().backward()
        other.step()
    expected = gd.stability.flow.step_stability(net, params, one, x, y, loss="mse", tol=1e-6)
    report = monitor.look(loss())
    assert report.sharpness == pytest.approx(expected.sharpness.values[0], rel=1e-4)
    assert report.limit == pytest.approx(expected.limit, rel=1e-9)
    assert report.lr_stable == pytest.approx(expected.lr_stable, rel=1e-4)


def test_an_optimizer_without_a_limit_is_refused():
    with pytest.raises(gd.DTypeError, match=r"because stability limits are known .*got Rprop"):
        gt.StabilityMonitor(torch.optim.Rprop(gt.RNN(1, 1).parameters()))


# ---- diagnosis


def test_diagnose_finds_each_layer_as_gradcore_does():
    torch.manual_seed(0)
    model = nn.ModuleDict({"first": gt.LSTM(3, 8), "second": gt.RNN(8, 8), "head": nn.Linear(8, 2)})
    x, y = torch.randn(300, 2, 3), torch.randn(300, 2, 2)
    inner = []

    def loss():
        hidden, _ = model["first"](x)
        inner.append(hidden)
        hidden.requires_grad and hidden.retain_grad()
        return nn.functional.mse_loss(model["head"](model["second"](hidden)[0]), y)

    mine = torch.ones_like(model["head"].weight)
    model["head"].weight.grad = mine
    found = gt.diagnose(model, loss, parts=("gradient", "reach"))
    assert list(found) == ["first", "second"]
    assert model["head"].weight.grad is mine
    assert model["first"].weight_hh_l0.grad is None
    assert "vanishes" in str(found["second"])
    assert "loss" not in str(found["first"]).splitlines()[1]

    def given(outputs, t0, t1):
        return 0.0, inner[-1].grad.numpy()[t0:t1]

    layer = model["first"]
    expected = gd.value_and_grad(layer.stack(), gt.params_of(layer), x.numpy(), loss=given)
    assert found["first"].measured.gradients["0.weight_hh"] == pytest.approx(
        np.log10(np.linalg.norm(expected.grads["0.weight_hh"])), abs=1e-4
    )
    with pytest.raises(gd.ArgumentError, match="no gradient reached"):
        gt.diagnose(model, lambda: model["head"].weight.sum())
    with pytest.raises(gd.ArgumentError, match="a tensor of one value"):
        gt.diagnose(model, lambda: x)


# ---- the loss that stands for what lies behind


def test_given_is_the_gradient_itself():
    net = gd.Stack(gd.GRU(2, 4))
    params = net.init(seed=0, dtype="float64")
    rng = np.random.default_rng(0)
    x, d = rng.standard_normal((300, 2, 2)), rng.standard_normal((300, 2, 4))
    weight = rng.random((300, 2))

    def function(outputs, t0, t1):
        return 0.0, (d * weight[..., None])[t0:t1]

    one = gd.value_and_grad(net, params, x, d, loss=gd.loss.Given(), weight=weight, memory="1MB")
    other = gd.value_and_grad(net, params, x, loss=function)
    np.testing.assert_array_equal(one.grads.flat, other.grads.flat)
    assert one.loss == 0.0
    for options in ({"reduction": "mean"}, {"step": "last"}):
        with pytest.raises(gd.ArgumentError, match="y is itself the gradient with respect to"):
            gd.loss.Given(**options)
    assert gd.plan(net, 300, 2, loss=gd.loss.Given()).bytes > 0
