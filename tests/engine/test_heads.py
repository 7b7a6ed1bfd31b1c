"""Nets with several heads in calls: what losses and targets they take, plans, losses of whole
sequences, and PyTorch.
"""

import numpy as np
import pytest

import gradcore as gd
import tolerances
from gradcore import _core
from gradcore._net.description import core_net
from heads import heads_call, solved
from problem import error

torch = pytest.importorskip("torch")

NET = gd.Stack(gd.GRU(3, 8), gd.Heads(coding=gd.Linear(8, 4), site=gd.Linear(8, 2, bias=False)))
LOSS = {"coding": "cross_entropy", "site": "binary_cross_entropy"}
RNG = np.random.default_rng(0)
T, B = 30, 3
X = RNG.standard_normal((T, B, 3))
Y = {"coding": RNG.integers(0, 4, (T, B)), "site": RNG.uniform(size=(T, B, 2))}


def value_of(y=None, loss=LOSS, net=NET, **how):
    params = net.init(0, "float64")
    return gd.value_and_grad(net, params, X, Y if y is None else y, loss=loss, **how)


# ---- the layer


@pytest.mark.parametrize(
    ("heads", "kind", "message"),
    [
        ({}, gd.ArgumentError, "at least one head"),
        ({"a b": gd.Linear(2, 2)}, gd.ArgumentError, "must be an identifier"),
        ({"a": gd.Dense(2, 2)}, gd.DTypeError, "must be made of Linear; 'a' is Dense"),
        ({"a": gd.Linear(2, 2), "b": gd.Linear(3, 2)}, gd.ShapeError, "the same in_features"),
    ],
)
def test_what_heads_cannot_be_made_of(heads, kind, message):
    with pytest.raises(kind, match=message):
        gd.Heads(**heads)


def test_heads_end_a_net():
    with pytest.raises(gd.ArgumentError, match=r"got Heads at place 0 of 2"):
        gd.Stack(gd.Heads(a=gd.Linear(3, 3)), gd.GRU(3, 3))
    with pytest.raises(gd.ShapeError, match=r"layer 1 \(Heads\) must have in_features 8"):
        gd.Stack(gd.GRU(3, 8), gd.Heads(a=gd.Linear(7, 3)))


def test_parameters_are_parts_of_one_buffer():
    """Those of a Linear with all rows: the weights first, then the biases that there are."""
    net = gd.Stack(gd.GRU(3, 8), gd.Heads(a=gd.Linear(8, 2, bias=False), b=gd.Linear(8, 3)))
    params = net.init(0)
    assert list(params)[4:] == ["1.b.weight", "1.a.weight", "1.b.bias"]
    assert net.sizes[1] == 8 * 5 + 3
    flat = np.concatenate([params[name].ravel() for name in params])
    np.testing.assert_array_equal(flat, params.flat)
    bound = 1 / np.sqrt(8)
    for name in list(params)[4:]:
        assert 0.5 * bound < np.abs(params[name]).max() <= bound
    assert core_net(net, params.dtype).n_parameters == net.n_parameters
    assert "Heads(a=Linear(8, 2, bias=False), b=Linear(8, 3))" in str(net)
    assert gd.summary(net, steps=200).layers[1].flops == 200 * 2 * 8 * 5


def test_files_hold_each_head_by_its_name(tmp_path):
    params = NET.init(3)
    gd.save(tmp_path / "net.safetensors", NET, params, note=1)
    net, loaded, metadata = gd.load(tmp_path / "net.safetensors")
    assert (net, loaded, metadata) == (NET, params, {"note": 1})
    safetensors = pytest.importorskip("safetensors.numpy")
    assert "1.site.weight" in safetensors.load_file(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    "described", ["a", [1], [["a"]], [["a", {"in_features": 2}]], [[1, {}]], [["a b", {}]], []]
)
def test_damaged_descriptions_of_heads(described):
    from gradcore._net.io import build

    entry = {"layer": "Heads", "heads": described}
    with pytest.raises(gd.errors.GradcoreError):
        build([{"layer": "GRU", "input_size": 2, "hidden_size": 2}, entry])


# ---- losses, targets and weights


@pytest.mark.parametrize(
    ("losses", "weights", "kind", "message"),
    [
        ({}, None, gd.DTypeError, "needs a dict with a loss for each head"),
        ({"a": max}, None, gd.DTypeError, "the loss of head 'a' must be a name or an object"),
        ({"a": gd.loss.Loss()}, None, gd.DTypeError, "the loss of head 'a'"),
        ({"a": "crossentropy"}, None, gd.ArgumentError, "the loss of 'a' must be one of"),
        (
            {"a": "mse"},
            {"b": 1.0},
            gd.ArgumentError,
            "must name heads that have a loss, a; got 'b'",
        ),
        ({"a": "mse"}, {"a": np.nan}, gd.ArgumentError, r"weights\['a'\] must be finite"),
        ({"a": "mse"}, [1.0], gd.DTypeError, "weights must be a dict"),
    ],
)
def test_what_a_loss_of_heads_cannot_be(losses, weights, kind, message):
    with pytest.raises(kind, match=message):
        gd.loss.Heads(losses, weights=weights)


def test_a_dict_is_a_loss_with_weights_of_one():
    one, other = value_of(), value_of(loss=gd.loss.Heads(LOSS, weights={"site": 1.0}))
    assert one.loss == other.loss == sum(one.losses.values())
    assert one.grads == other.grads
    told = repr(gd.loss.Heads(LOSS, weights={"site": 0.5}))
    assert "'coding': CrossEntropy(" in told
    assert "weights={'coding': 1.0, 'site': 0.5}" in told


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"loss": "mse"}, gd.ArgumentError, "a dict with a loss for each head, {'coding': ..., 's"),
        ({"loss": {"coding": "mse"}}, gd.ArgumentError, "that of 'site' is missing"),
        ({"loss": {**LOSS, "c": "mse"}}, gd.ArgumentError, "loss must name heads of the net.*'c'"),
        ({"y": Y["coding"]}, gd.DTypeError, "y must be a dict with the targets of each head"),
        ({"y": {**Y, "c": 1}}, gd.ArgumentError, "y must name heads of the net, coding, site"),
        ({"y": {"site": Y["site"]}}, gd.ArgumentError, "head 'coding': y must be given"),
        ({"y": {**Y, "coding": X}}, gd.DTypeError, "head 'coding': y must hold class indices"),
        ({"y": {**Y, "site": X}}, gd.ShapeError, r"head 'site': y must have shape \(30, 3, 2\)"),
        ({"weight": {"c": 1}}, gd.ArgumentError, "weight must name heads of the net"),
        ({"weight": {"site": X}}, gd.ShapeError, "head 'site': weight must have shape"),
        ({"y": {**Y, "coding": Y["coding"] + 1}}, gd.ArgumentError, "head 'coding': targets must"),
    ],
)
def test_what_is_wrong_is_told_by_head(change, kind, message):
    with pytest.raises(kind, match=message):
        value_of(**change)


def test_other_nets_take_no_loss_of_heads():
    net = gd.Stack(gd.GRU(3, 4), gd.Linear(4, 2))
    with pytest.raises(gd.ArgumentError, match="the net has one array of outputs"):
        value_of(net=net)
    with pytest.raises(gd.ArgumentError, match="a dict with a loss for each head"):
        gd.plan(NET, 100, 1, loss="mse")
    with pytest.raises(gd.ArgumentError, match="the net has one array of outputs"):
        gd.plan(net, 100, 1, loss=LOSS)


def test_a_head_without_a_weight_may_lack_targets():
    loss = gd.loss.Heads(LOSS, weights={"site": 0.0})
    without = value_of({"coding": Y["coding"]}, loss)
    beside = value_of(loss=loss)
    assert list(without.losses) == ["coding"]
    assert without.loss == beside.loss == beside.losses["coding"]
    assert beside.losses["site"] == value_of().losses["site"]
    np.testing.assert_array_equal(without.grads.flat, beside.grads.flat)
    with pytest.raises(gd.ArgumentError, match="the targets of a head, one or more"):
        value_of({}, gd.loss.Heads(LOSS, weights={"site": 0.0, "coding": 0.0}))


def test_a_missing_target_is_told_with_its_head():
    y = {**Y, "site": Y["site"].copy()}
    y["site"][11, 2, 1] = np.nan
    with pytest.raises(gd.NonFiniteError, match="head 'site': the target of step 11, sequence 2"):
        value_of(y)
    assert np.isfinite(value_of(y, {**LOSS, "site": gd.loss.BinaryCrossEntropy(nan="ignore")}).loss)


@pytest.mark.parametrize(
    ("d_outputs", "kind", "message"),
    [
        (np.zeros((T, B, 6)), gd.DTypeError, "d_outputs must be a dict with an array for each"),
        ({"coding": None}, gd.ArgumentError, "'site' is only in one of the two"),
        ({"coding": None, "site": None, "c": None}, gd.ArgumentError, "'c' is only in one"),
        ({"coding": None, "site": X}, gd.ShapeError, r"d_outputs\['site'\] must have shape"),
        ({"coding": None, "site": Y["coding"]}, gd.DTypeError, r"d_outputs\['site'\] must have d"),
    ],
)
def test_gradients_of_outputs_come_by_head(d_outputs, kind, message):
    began = gd.forward(NET, NET.init(0, "float64"), X)
    with pytest.raises(kind, match=message):
        began.backward(d_outputs)


def test_models_with_a_fixed_point_have_one_array_of_outputs():
    cell = gd.Stack(gd.RNN(3, 8))
    with pytest.raises(gd.ArgumentError, match="one ends with Heads"):
        gd.implicit.Model(None, gd.implicit.FixedPoint(cell), gd.Stack(
            gd.GRU(8, 8), gd.Heads(a=gd.Linear(8, 2))))  # fmt: skip
    with pytest.raises(gd.ArgumentError, match="this Stack ends with Heads"):
        gd.implicit.FixedPoint(NET)


# ---- what the core refuses


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([("mse", 0, 4), ("mse", 3, 2)], "the losses must be of different outputs"),
        ([("mse", 3, 4)], "the losses must be of different outputs.*3 to 6 of 6"),
        ([("mse", -1, 2)], "the losses must be of different outputs"),
        ([("mse", 0, 0)], "the losses must be of different outputs"),
        ([("callback", 0, 2)], "one of several losses must have terms or be given"),
        ([("none", 0, 2)], "one of several losses must have terms or be given"),
        ([("gaussian_nll", 0, 3)], "the loss needs 2 outputs for each target; the net has 3"),
    ],
)
def test_the_core_refuses_losses_that_do_not_fit(losses, message):
    call = _core.Call(core_net(NET, np.dtype("float64")), steps=T, batch=B)
    for kind, begin, outputs in losses:
        call.add_loss(kind, name="here", begin=begin, outputs=outputs)
    call.expect(["params", "x", "target", "grads"])
    call.plan(gd.plan(NET, T, B, loss=LOSS).schedule.ops(), segment_steps=T, slots=0)
    with pytest.raises(gd.ArgumentError, match=f"here: {message}"):
        call.bytes()


def test_the_core_needs_targets_and_a_finite_scale():
    call = _core.Call(core_net(NET, np.dtype("float64")), steps=T, batch=B)
    call.add_loss("mse", name="here", begin=0, outputs=4)
    call.expect(["params", "x", "grads"])
    call.plan(gd.plan(NET, T, B, loss=LOSS).schedule.ops(), segment_steps=T, slots=0)
    with pytest.raises(gd.ArgumentError, match="here: the loss needs targets"):
        call.bytes()
    call.expect(["target"])
    call.add_loss("mse", name="there", begin=4, outputs=2, scale=np.inf)
    with pytest.raises(gd.ArgumentError, match="there: the scale must be finite"):
        call.bytes()
    for arrays, message in [
        ({"target": [1.0]}, "'target' must be a NumPy array"),
        ({"target": np.zeros((T, B, 4), "float32")}, "'target' has the wrong dtype"),
        ({"target": np.zeros((T, B, 5))}, "'target' has the wrong size"),
        ({"weight": np.zeros((B, T)).T}, "'weight' is not C-contiguous"),
    ]:
        with pytest.raises(gd.errors.InternalError, match=message):
            call.bind_loss(0, **arrays)
    with pytest.raises(gd.errors.InternalError, match="no loss of this number"):
        call.bind_loss(2)


@pytest.mark.parametrize(("unbiased", "bias"), [(-1, True), (6, True), (2, False)])
def test_the_core_refuses_other_numbers_of_biases(unbiased, bias):
    with pytest.raises(gd.ArgumentError, match="head_unbiased must leave an output with a bias"):
        _core.Net(
            dtype="float32", embedding_rows=0, embedding_dim=0,
            layers=[_core.Layer(cell="gru", input_size=3, hidden_size=8)],
            head_outputs=6, head_bias=bias, head_unbiased=unbiased,
        )  # fmt: skip


# ---- plans


@pytest.mark.parametrize("names", ["ab", "abcdefgh", "h"])
@pytest.mark.parametrize("wrt", [(), ("params",), ("params", "x")])
def test_plan_is_that_of_the_call(names, wrt):
    call = heads_call(names, 500, 2, weight=None, lengths=True)
    (net, params, x, y), how = call.arguments("float32")
    made = gd.plan(net, 500, 2, loss=call.loss, wrt=wrt, lengths=True, threads=1)
    if wrt:
        used = gd.value_and_grad(net, params, x, y, **how, wrt=wrt, threads=1).plan
        # The call also counts the copy that it makes of classes and lengths.
        assert made.bytes <= used.bytes <= made.bytes + 500 * 2 * 8 * 3
    assert made.segments >= 1
    with pytest.raises(gd.MemoryBudgetError):
        gd.plan(net, 500, 2, loss=call.loss, wrt=wrt, memory=1000)


# ---- losses of whole sequences on some heads


def whole_losses(framework="numpy"):
    def squares(outputs, y, lengths):
        return ((outputs - y) ** 2).sum() / 7, 2 * (outputs - y) / 7

    def squares_of_tensors(outputs, y, lengths):
        return ((outputs - y) ** 2).sum() / 7

    function = squares if framework == "numpy" else squares_of_tensors
    return {
        "ctc": gd.loss.CTC(),
        "esr": gd.loss.ErrorToSignal(),
        "whole": gd.loss.WholeSequence(function, framework=framework),
        "plain": gd.loss.Huber(0.3),
    }


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("memory", ["full", "small"])
def test_losses_of_whole_sequences_beside_sums(memory, framework):
    """Values and gradients are the weighted sums of those of each head alone; within budgets."""
    widths = {"ctc": 5, "esr": 2, "whole": 3, "plain": 4}
    net = gd.Stack(gd.LSTM(3, 9), gd.Heads(**{n: gd.Linear(9, w) for n, w in widths.items()}))
    params, steps = net.init(1, "float64"), 700
    x = RNG.standard_normal((steps, B, 3))
    y = {n: RNG.standard_normal((steps, B, w)) for n, w in widths.items()}
    y["ctc"] = RNG.integers(1, 5, (B, 6))
    weights = {"ctc": 0.5, "esr": -1.5, "whole": 2.0, "plain": 3.0}
    losses = whole_losses(framework)
    loss, total, grads = gd.loss.Heads(losses, weights=weights), 0.0, 0.0
    for name in widths:
        one = gd.loss.Heads(losses, weights={n: float(n == name) for n in widths})
        alone = gd.value_and_grad(net, params, x, {name: y[name]}, loss=one, memory="full")
        linear = gd.Stack(net.layers[0], gd.Linear(9, widths[name]))
        own = gd.Params(linear, np.empty(linear.n_parameters))
        for key in own:
            own[key] = params[key.replace("1.", f"1.{name}.") if key[0] == "1" else key]
        single = gd.value_and_grad(linear, own, x, y[name], loss=losses[name])
        assert np.isclose(alone.loss, single.loss, rtol=1e-13)
        assert error(alone.grads["0.weight_hh"], single.grads["0.weight_hh"]) < 1e-12
        total, grads = total + weights[name] * alone.loss, grads + weights[name] * alone.grads.flat
    budget = "full"
    if memory == "small":
        with pytest.raises(gd.MemoryBudgetError, match="loss of the whole sequence") as refused:
            gd.value_and_grad(net, params, x, y, loss=loss, memory=1000)
        budget = refused.value.smallest
    found = gd.value_and_grad(net, params, x, y, loss=loss, memory=budget, threads=1)
    assert np.isclose(found.loss, total, rtol=1e-12)
    assert error(found.grads.flat, grads) <= 10 * tolerances.DOUBLE
    assert list(found.losses) == list(widths)
    value = gd.value(net, params, x, y, loss=loss, memory=budget)
    assert np.isclose(value, found.loss, rtol=1e-14)
    with pytest.raises(gd.ArgumentError, match=r"the Hessian of .* by the outputs is not known"):
        gd.jacobian.hvp(net, params, x, y, found.grads.flat[None], loss=loss)


def test_weights_of_terms_are_refused_for_a_whole_head():
    losses = {"coding": gd.loss.CTC(), "site": "mse"}
    y = {"coding": np.ones((B, 2), int), "site": Y["site"]}
    with pytest.raises(gd.ArgumentError, match="head 'coding': weight must be None for CTC"):
        value_of(y, losses, weight=np.ones((T, B)))
    assert np.isfinite(value_of(y, losses, weight={"site": np.ones((T, B))}).loss)


# ---- PyTorch


@pytest.mark.parametrize("lengths", [False, True])
def test_the_gradient_is_that_of_a_sum_of_losses_of_pytorch(lengths):
    """PyTorch runs each sequence by itself to its end, with the losses of torch.nn.functional."""
    call = heads_call("abcg", 60, 3, weight="each", lengths=lengths, seed=9)
    found = solved(call)
    params = gd.Params(call.net, np.empty(call.net.n_parameters))
    for name, array in call.params.items():
        params[name] = array
    module = gd.to_torch(call.net, params)
    ends = call.lengths if lengths else np.full(3, 60)
    outs = {n: [] for n in "abcg"}
    for b, end in enumerate(ends):
        made, _ = module(torch.from_numpy(call.x[:end, b : b + 1]))
        for n, z in made.items():
            outs[n].append(z[:, 0])
    functional = torch.nn.functional

    def all_of(name):
        z = torch.cat(outs[name])
        y = torch.from_numpy(np.concatenate([call.y[name][:e, b] for b, e in enumerate(ends)]))
        w = call.weight.get(name, np.ones((60, 3)))
        return z, y, torch.from_numpy(np.concatenate([w[:e, b] for b, e in enumerate(ends)]))

    z, y, w = all_of("a")
    classes = torch.tensor(call.loss.entries[0][1].weight, dtype=torch.float64)
    terms = functional.cross_entropy(z, y, weight=classes, reduction="none")
    a = (w * terms).sum() / (w * classes[y.clamp(min=0)] * (y != -100)).sum()
    z, y, w = all_of("b")
    there = ~torch.isnan(y)
    terms = functional.binary_cross_entropy_with_logits(z, y.nan_to_num(), reduction="none")
    b = (w[:, None] * terms * there).sum() / (w[:, None] * there).sum()
    last = {n: torch.stack([z[-1] for z in outs[n]]) for n in "cg"}
    w = torch.from_numpy(call.weight["c"])
    terms = ((last["c"] - torch.from_numpy(call.y["c"])) ** 2)[:, 0]
    c = (w * terms).sum() / w.sum()
    g = functional.cross_entropy(last["g"], torch.from_numpy(call.y["g"]), reduction="sum")
    total = a + 0.5 * b + 2.0 * c + 0.75 * g
    total.backward()
    assert np.isclose(found.loss, total.item(), rtol=1e-12)
    for place, own in enumerate(module._tensors()):
        for name, tensor in own.items():
            assert error(found.grads[f"{place}.{name}"], tensor.grad.numpy()) < 1e-11


def test_from_and_to_pytorch():
    params = NET.init(0)
    module = gd.to_torch(NET, params)
    assert {"1.coding.weight", "1.coding.bias", "1.site.weight"} <= set(module.state_dict())
    x = X.astype("float32")
    outputs, _ = gd.apply(NET, params, x)
    made, _ = module(torch.from_numpy(x))
    assert list(made) == list(outputs)
    for name, array in outputs.items():
        np.testing.assert_allclose(made[name].detach(), array, atol=1e-6)
    assert gd.from_torch(module) == (NET, params)

    class Own(torch.nn.Module):
        def __init__(self, **heads):
            super().__init__()
            self.rnn = torch.nn.GRU(3, 8)
            self.heads = torch.nn.ModuleDict(heads)

    own = Own(a=torch.nn.Linear(8, 2), b=torch.nn.Linear(8, 3, bias=False))
    net, taken = gd.from_torch(own)
    assert net.heads == gd.Heads(a=gd.Linear(8, 2), b=gd.Linear(8, 3, bias=False))
    np.testing.assert_array_equal(taken["1.b.weight"], own.heads["b"].weight.detach())
    with pytest.raises(gd.ShapeError, match="the same in_features"):
        gd.from_torch(Own(a=torch.nn.Linear(8, 2), b=torch.nn.Linear(2, 2)))
    with pytest.raises(gd.ArgumentError, match=r"Use gradcore.from_torch with the module"):
        gd.from_torch(module.state_dict())
    named = gd.Stack(gd.GRU(3, 8), gd.Heads(keys=gd.Linear(8, 2)))
    with pytest.raises(gd.ArgumentError, match="'keys' has the name of an attribute"):
        gd.to_torch(named, named.init(0))
