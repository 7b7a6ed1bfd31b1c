"""Parameter groups by name pattern, frozen parameters, masks of weight decay, reports per group."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gradcore as gd
from optim_cases import ALL, NET, TORCH, gradients, make

# The names are 0.weight_ih, 0.weight_hh, 0.bias_ih, 0.bias_hh, 1.weight, 1.bias.
GROUPS = (
    gd.optim.Group("0.weight_hh", lr_scale=0.5, weight_decay=0.3),
    gd.optim.Group(["*.bias_*", "*.bias"], weight_decay=0.0, name="biases"),
    gd.optim.Group("1.*", lr_scale=2.0),
)
MEMBERS = {
    "0.weight_hh": ("0.weight_hh",),
    "biases": ("0.bias_ih", "0.bias_hh", "1.bias"),
    "1.*": ("1.weight",),
    "default": ("0.weight_ih",),
}
CLIPS = {
    "none": None,
    "global": gd.clip.GlobalNorm(2.0),
    "parameter": gd.clip.ParameterNorm(1.0),
    "value": gd.clip.Value(0.8),
    "adaptive": gd.clip.Adaptive(0.5),
    "z": gd.clip.ZScore(warmup=2, threshold=0.1, decay=0.5),
}


def norm(arrays, names):
    return math.sqrt(sum(float(np.sum(arrays[name] ** 2)) for name in names))


@pytest.mark.parametrize("name", TORCH)
def test_groups_are_those_of_torch(name):
    torch = pytest.importorskip("torch")
    torch_name, options = TORCH[name]
    params = NET.init(seed=2, dtype="float64")
    theirs = {n: torch.nn.Parameter(torch.from_numpy(p.copy())) for n, p in params.items()}
    lr, decay = options["lr"], options.get("weight_decay", 0.0 if torch_name != "AdamW" else 0.01)
    by_name = {group.name: group for group in GROUPS}
    by_name["default"] = gd.optim.Group("*")
    torch_groups = [
        {
            "params": [theirs[n] for n in names],
            "lr": lr * by_name[group].lr_scale,
            "weight_decay": decay
            if by_name[group].weight_decay is None
            else by_name[group].weight_decay,
        }
        for group, names in MEMBERS.items()
    ]
    torch_optimizer = getattr(torch.optim, torch_name)(torch_groups, **options)
    optimizer = make(name, params, groups=GROUPS)
    for grads in gradients(8):
        before = params.copy()
        report = optimizer.step(grads)
        for n, parameter in theirs.items():
            parameter.grad = torch.from_numpy(grads[n].copy())
        torch_optimizer.step()
        for n, parameter in theirs.items():
            np.testing.assert_allclose(params[n], parameter.detach(), rtol=1e-11, atol=1e-14)
        assert list(report.groups) == list(MEMBERS)
        for group, names in MEMBERS.items():
            own = report.groups[group]
            assert own.grad_norm_log10 == pytest.approx(math.log10(norm(grads, names)), abs=1e-12)
            assert own.clipped_norm_log10 == own.grad_norm_log10
            assert not own.clipped
            assert own.param_norm == pytest.approx(norm(before, names), rel=1e-12)
            change = {n: params[n] - before[n] for n in names}
            assert own.update_norm == pytest.approx(norm(change, names), rel=1e-9)
            if own.param_norm > 0:
                assert own.update_ratio == own.update_norm / own.param_norm


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("name", ALL)
def test_frozen_parameters_and_their_moments_never_change(name, clip):
    params = NET.init(seed=2, dtype="float64")
    before = params.copy()
    frozen = gd.optim.Group(["0.weight_*", "1.bias"], frozen=True)
    optimizer = make(name, params, clip=CLIPS[clip], groups=[frozen])
    moments = {key: gd.Params(NET, value).copy() for key, value in optimizer.moments.items()}
    for grads in gradients(5):
        free = [n for n in NET_NAMES if not frozen.matches(n)]
        for n in set(NET_NAMES) - set(free):
            grads[n][...] = np.nan  # frozen parameters' gradients are not read
        report = optimizer.step(grads)
        assert report.grad_norm_log10 == pytest.approx(math.log10(norm(grads, free)), abs=1e-12)
        assert list(report.groups) == ["default"]
    for n in NET_NAMES:
        changed = not frozen.matches(n)
        assert np.array_equal(params[n], before[n]) != changed
        for key, value in optimizer.moments.items():
            assert np.array_equal(gd.Params(NET, value)[n], moments[key][n]) != changed


NET_NAMES = tuple(spec.name for spec in NET.parameter_specs)


def test_the_step_of_the_rest_is_the_same_with_and_without_frozen_neighbours():
    params, same = NET.init(dtype="float64"), NET.init(dtype="float64")
    freeze = gd.optim.Group("0.*", frozen=True)
    clip = gd.clip.GlobalNorm(0.1)
    grads = gradients(1)[0]
    gd.optim.Adam(params, clip=clip, groups=[freeze]).step(grads)
    for n in NET_NAMES:
        if n.startswith("0."):
            grads[n][...] = 0.0
    gd.optim.Adam(same, clip=clip).step(grads)
    np.testing.assert_array_equal(params["1.weight"], same["1.weight"])
    np.testing.assert_array_equal(params["1.bias"], same["1.bias"])


def test_the_first_group_that_matches_has_a_parameter():
    params = NET.init(dtype="float64")
    groups = [gd.optim.Group("*.bias*", lr_scale=0.0), gd.optim.Group("0.*", lr_scale=1.0)]
    before = params.copy()
    gd.optim.SGD(params, 0.1, groups=groups).step(gradients(1)[0])
    for n in NET_NAMES:
        assert np.array_equal(params[n], before[n]) == ("bias" in n)


def test_weight_decay_may_be_changed_and_groups_keep_their_own():
    params = NET.init(seed=1, dtype="float64")
    optimizer = gd.optim.AdamW(params, 0.1, groups=[gd.optim.Group("1.*", weight_decay=0.5)])
    optimizer.weight_decay = 0.25
    before = params.copy()
    optimizer.step(gd.Grads(NET, np.zeros(NET.n_parameters)))
    np.testing.assert_allclose(params["1.weight"], before["1.weight"] * (1 - 0.05), rtol=1e-15)
    np.testing.assert_allclose(params["0.weight_hh"], before["0.weight_hh"] * 0.975, rtol=1e-15)
    with pytest.raises(gd.ArgumentError, match="weight_decay must be >= 0"):
        optimizer.weight_decay = -1.0


def test_no_decay_names_what_has_one_axis():
    skips = gd.Stack(
        gd.Embedding(5, 3), gd.GRU(3, 4, skip=gd.Skip(lag=2, learned=True)), gd.Linear(4, 2)
    )
    params = skips.init()
    group = gd.optim.no_decay(params)
    exempt = {spec.name for spec in skips.parameter_specs if len(spec.shape) == 1}
    assert set(group.patterns) == exempt
    assert any("skip" in name for name in exempt)
    optimizer = gd.optim.AdamW(params, 0.1, weight_decay=0.5, groups=[group])
    params.flat[...] = 1.0
    optimizer.step(gd.Grads(skips, np.zeros_like(params.flat)))
    for name, value in params.items():
        np.testing.assert_allclose(value, 1.0 if name in exempt else 0.95, rtol=1e-6)


def test_no_decay_without_anything_to_exempt():
    params = gd.Stack(gd.RNN(2, 3, bias=False)).init()
    with pytest.raises(gd.ArgumentError, match=r"no_decay needs a net .* single axis"):
        gd.optim.no_decay(params)
    with pytest.raises(gd.DTypeError, match=r"params must be gradcore\.Params"):
        gd.optim.no_decay(params.flat)


G = gd.optim.Group


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        (
            [G("2.*")],
            gd.ArgumentError,
            r"'2\.\*'.*matches no parameter; the net has 0\.weight_ih, ",
        ),
        ([G(["0.*", "bias"])], gd.ArgumentError, "pattern 'bias' of group '0.*,bias' matches no"),
        ([G("*", frozen=True)], gd.ArgumentError, r"at least one parameter must be left to train"),
        (
            [G("0.*", frozen=True), G("1.*", frozen=True)],
            gd.ArgumentError,
            "all are frozen: 0.weight_ih",
        ),
        (
            [G("0.*"), G("0.bias*")],
            gd.ArgumentError,
            r"group '0\.bias\*' is left without parameters",
        ),
        ([G("0.*"), G("1.*", name="0.*")], gd.ArgumentError, r"name of its own.*'0\.\*' again"),
        ([G("0.*", name="default")], gd.ArgumentError, "other than 'default'"),
        (["0.*"], gd.DTypeError, r"groups must be a list of gradcore\.optim\.Group"),
        (G("0.*"), gd.DTypeError, r"groups must be a list of gradcore\.optim\.Group"),
    ],
)
def test_wrong_groups(groups, error, message):
    with pytest.raises(error, match=message):
        gd.optim.SGD(NET.init(), 0.1, groups=groups)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"patterns": []}, gd.ArgumentError, "at least one pattern"),
        ({"patterns": 3}, gd.DTypeError, "patterns must be strings; got 3"),
        ({"patterns": ["a", 3]}, gd.DTypeError, "patterns must be strings"),
        ({"patterns": "a", "lr_scale": -1.0}, gd.ArgumentError, r"Group\.lr_scale must be >= 0"),
        ({"patterns": "a", "weight_decay": -1}, gd.ArgumentError, r"Group\.weight_decay must be"),
        ({"patterns": "a", "frozen": 1}, gd.DTypeError, r"Group\.frozen must be True or False"),
        ({"patterns": "a", "name": 1}, gd.DTypeError, r"Group\.name must be a string"),
    ],
)
def test_wrong_options_of_a_group(options, error, message):
    with pytest.raises(error, match=message):
        gd.optim.Group(**options)
