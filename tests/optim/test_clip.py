"""Clips agree with slow references: true norms, exponents, reports, the running norm of ZScore."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import gradcore as gd
import reference.clips
from gradcore import _core
from optim_cases import ALL, NET, flat_gradients, gradients, make
from problem import isa

NAMES = tuple(spec.name for spec in NET.parameter_specs)
# Some parts of the gradients below exceed these limits and some do not.
CLIPS = {
    "parameter": gd.clip.ParameterNorm(8.0),
    "value": gd.clip.Value(1.2),
    "adaptive": gd.clip.Adaptive(3.0, eps=0.5),
}


def uneven(dtype="float64"):
    """A gradient whose parts differ in size, down to zero."""
    grads = gradients(1)[0]
    for i, name in enumerate(NAMES):
        grads[name] *= 3.0 ** (2 - i)
    grads["0.weight_hh"][3] = 0.0
    return grads.astype(dtype)


def clipped(clip, params, grads):
    """The result of a slow reference: gradients, and how many parts of each were clipped."""
    arrays = {name: np.asarray(grads[name], np.float64) for name in NAMES}
    if isinstance(clip, gd.clip.ParameterNorm):
        return reference.clips.parameter_norm(arrays, clip.max_norm)
    if isinstance(clip, gd.clip.Value):
        return reference.clips.value(arrays, clip.max_value)
    weights = {name: np.asarray(params[name], np.float64) for name in NAMES}
    return reference.clips.adaptive(arrays, weights, clip.clipping, clip.eps)


def log_norm(arrays):
    return math.log10(math.sqrt(sum(float(np.sum(a * a)) for a in arrays.values())))


@pytest.mark.parametrize("level", _core.isa_available())
@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_clipped_step_is_a_plain_step_with_the_clipped_gradient(name, dtype, level):
    params = NET.init(seed=3, dtype=dtype)
    grads = uneven(dtype)
    new, counts = clipped(CLIPS[name], params, grads)
    before = {n: np.array(params[n], np.float64) for n in NAMES}
    with isa(level):
        report = gd.optim.SGD(params, 0.5, clip=CLIPS[name]).step(grads)
    tolerance = 1e-13 if dtype == "float64" else 2e-6
    for n in NAMES:
        np.testing.assert_allclose(
            params[n], before[n] - 0.5 * new[n], rtol=tolerance, atol=tolerance
        )
    own = report.groups["default"]
    assert 0 < own.clipped_parts == sum(counts.values())
    assert own.clipped_parameters == tuple(n for n in NAMES if counts[n])
    assert len(own.clipped_parameters) < len(NAMES)
    assert report.clipped
    assert report.clipped_norm_log10 == own.clipped_norm_log10
    assert report.clipped_norm_log10 == pytest.approx(log_norm(new), abs=tolerance)
    ratio = 10 ** (report.clipped_norm_log10 - report.grad_norm_log10)
    assert report.clip_scale == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize("name", ["parameter", "value"])
def test_clips_are_those_of_torch(name):
    torch = pytest.importorskip("torch")
    params = NET.init(seed=3, dtype="float64")
    theirs = {n: torch.nn.Parameter(torch.from_numpy(p.copy())) for n, p in params.items()}
    for n, grad in uneven().items():
        theirs[n].grad = torch.from_numpy(grad.copy())
        if name == "value":
            torch.nn.utils.clip_grad_value_([theirs[n]], 1.2)
        else:
            torch.nn.utils.clip_grad_norm_([theirs[n]], 8.0)
    torch.optim.SGD(theirs.values(), 0.5).step()
    gd.optim.SGD(params, 0.5, clip=CLIPS[name]).step(uneven())
    for n, parameter in theirs.items():
        # torch adds 1e-6 to the norm by which it divides.
        np.testing.assert_allclose(params[n], parameter.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [*CLIPS, "global"])
@pytest.mark.parametrize("exponent", [-3000, -40, 40, 3000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_exponent_counts(name, exponent, dtype):
    """The step is the same as of a gradient in range, or is nearly zero."""
    clip = {**CLIPS, "global": gd.clip.GlobalNorm(0.01)}[name]
    grads = uneven(dtype)
    scaled = gd.Grads(NET, grads.flat, exponent)
    params, same = NET.init(seed=3, dtype=dtype), NET.init(seed=3, dtype=dtype)
    report = gd.optim.SGD(params, 0.5, clip=clip).step(scaled)
    # An exponent of 40 clips everything that is not 0.
    in_range = gd.Grads(NET, np.ldexp(grads.flat, 40 if exponent > 0 else -40))
    expected = gd.optim.SGD(same, 0.5, clip=clip).step(in_range)
    tolerance = {"float32": 1e-6, "float64": 1e-13}[dtype]
    np.testing.assert_allclose(params.flat, same.flat, rtol=tolerance, atol=1e-10)
    true_norm = scaled.norm_log10()
    assert report.grad_norm_log10 == pytest.approx(true_norm, rel=1e-12)
    if exponent > 0:
        assert report.clipped_norm_log10 == pytest.approx(expected.clipped_norm_log10, abs=1e-6)
        own, other = report.groups["default"], expected.groups["default"]
        assert own.clipped_parts == other.clipped_parts
        assert own.clipped_parameters == other.clipped_parameters
    else:
        assert not report.clipped
        assert report.clipped_norm_log10 == report.grad_norm_log10


def test_a_huge_gradient_is_clipped_to_its_signs():
    params = NET.init(dtype="float64")
    before = params.flat.copy()
    flat = flat_gradients(1)[0]
    flat[5] = 0.0
    gd.optim.SGD(params, 1.0, clip=gd.clip.Value(0.25)).step(gd.Grads(NET, flat, 4000))
    np.testing.assert_allclose(before - params.flat, 0.25 * np.sign(flat), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", [*CLIPS, "z"])
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_give_the_same_bits(name, threads):
    net = gd.Stack(gd.LSTM(70, 97), gd.Linear(97, 3))
    clip = {**CLIPS, "z": gd.clip.ZScore(warmup=1, threshold=0.01)}[name]
    group = gd.optim.Group("*bias*", weight_decay=0.0)
    results = []
    for count in (1, threads):
        params = net.init()
        optimizer = gd.optim.AdamW(params, clip=clip, groups=[group])
        reports = [
            optimizer.step(g, threads=count) for g in gradients(3, net, "float32", scale=4.0)
        ]
        results.append((params, reports))
    assert results[0] == results[1]
    assert all(report.clipped for report in reports) or name == "z"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("clip", CLIPS)
def test_a_non_finite_gradient_changes_nothing(name, clip):
    params = NET.init(dtype="float64")
    optimizer = make(name, params, clip=CLIPS[clip])
    optimizer.step(uneven())
    before, state = params.copy(), optimizer.state_dict()
    grads = uneven()
    grads["1.weight"][1, 2] = np.inf
    with pytest.raises(gd.NonFiniteError, match=r"1\.weight\[1, 2\] is inf"):
        optimizer.step(grads)
    assert params == before
    for key, value in optimizer.state_dict().items():
        np.testing.assert_equal(value, state[key])


# ---- ZScore


def grads_of_norm(log, exponent=0):
    """A gradient whose true norm is exp(log) * 2**exponent."""
    flat = flat_gradients(1)[0]
    return gd.Grads(NET, flat / np.linalg.norm(flat) * math.exp(log), exponent)


class SlowZScore:
    """clip.ZScore according to its docstring, with a list of all log-norms."""

    def __init__(self, clip):
        self.clip, self.seen, self.m, self.v = clip, [], 0.0, 0.0

    def step(self, log):
        """The log-norm after clipping."""
        c = self.clip
        if len(self.seen) >= c.warmup:
            log = min(log, self.m + c.threshold * max(math.sqrt(self.v), c.min_deviation))
        if c.max_norm is not None:
            log = min(log, math.log(c.max_norm))
        self.seen.append(log)
        if len(self.seen) <= c.warmup:
            self.m, self.v = float(np.mean(self.seen)), float(np.var(self.seen))
        else:
            self.m = c.decay * self.m + (1 - c.decay) * log
            self.v = c.decay * self.v + (1 - c.decay) * (log - self.m) ** 2
        return log


@pytest.mark.parametrize("max_norm", [None, math.exp(1.5)])
@pytest.mark.parametrize("exponent", [0, 3000, -3000])
def test_zscore_follows_its_definition(max_norm, exponent):
    if exponent > 0:
        max_norm = 1e9  # needed for such norms during the warm-up
    clip = gd.clip.ZScore(threshold=1.5, decay=0.9, warmup=5, max_norm=max_norm)
    optimizer = gd.optim.SGD(NET.init(dtype="float64"), 1e-3, clip=clip)
    slow = SlowZScore(clip)
    rng = np.random.default_rng(0)
    clipped_steps = 0
    for i in range(60):
        log = float(rng.normal()) + (8.0 if i % 11 == 10 else 0.0)
        report = optimizer.step(grads_of_norm(log, exponent))
        true = log + exponent * math.log(2)
        expected = slow.step(true)
        assert report.grad_norm_log10 == pytest.approx(true / math.log(10), abs=1e-9)
        assert report.clipped_norm_log10 == pytest.approx(expected / math.log(10), abs=1e-9)
        assert report.clipped == (expected < true - 1e-9)
        clipped_steps += report.clipped
    assert clipped_steps == 60 if exponent > 0 else 5 < clipped_steps < 30


def test_zscore_clips_a_spike_of_any_size_once_it_knows_the_level():
    params = NET.init(dtype="float64")
    clip = gd.clip.ZScore(warmup=10)
    optimizer = gd.optim.SGD(params, 1e-3, clip=clip)
    rng = np.random.default_rng(1)
    for _ in range(20):
        optimizer.step(grads_of_norm(0.1 * float(rng.normal())))
    report = optimizer.step(grads_of_norm(0.0, 5000))
    assert report.grad_norm_log10 > 1500
    assert -0.2 < report.clipped_norm_log10 < 0.3
    assert report.clip_scale == 0.0  # 10**-1500
    assert np.isfinite(params.flat).all()


def test_zscore_follows_a_lasting_change_of_level():
    optimizer = gd.optim.SGD(NET.init(dtype="float64"), 1e-3, clip=gd.clip.ZScore(warmup=10))
    for _ in range(10):
        optimizer.step(grads_of_norm(0.0))  # all norms are equal: min_deviation applies
    reports = [optimizer.step(grads_of_norm(5.0)) for _ in range(100)]
    assert reports[0].clipped
    assert not reports[-1].clipped


def test_zscore_does_not_count_zero_gradients():
    optimizer = gd.optim.SGD(NET.init(dtype="float64"), 1e-3, clip=gd.clip.ZScore(warmup=1))
    optimizer.step(gd.Grads(NET, np.zeros(NET.n_parameters)))
    assert optimizer.state_dict()["running_norm"]["count"] == 0


def test_zscore_that_clips_nothing_refuses_what_is_out_of_range():
    params = NET.init(dtype="float64")
    optimizer = gd.optim.Adam(params, clip=gd.clip.ZScore(warmup=2))
    optimizer.step(grads_of_norm(0.0))
    before, state = params.copy(), json.dumps(optimizer.state_dict()["running_norm"])
    with pytest.raises(gd.ArgumentError, match=r"times 2\^3000.*ZScore\(max_norm"):
        optimizer.step(grads_of_norm(0.0, 3000))
    assert params == before
    assert optimizer.steps == 1
    assert json.dumps(optimizer.state_dict()["running_norm"]) == state


def test_two_optimizers_do_not_share_the_running_norm_of_one_clip():
    clip = gd.clip.ZScore(warmup=1)
    first, second = (gd.optim.SGD(NET.init(dtype="float64"), 1e-3, clip=clip) for _ in range(2))
    first.step(grads_of_norm(0.0))
    assert second.state_dict()["running_norm"]["count"] == 0


@pytest.mark.parametrize(
    ("make_clip", "message"),
    [
        (lambda: gd.clip.ParameterNorm(0), r"ParameterNorm\.max_norm must be > 0"),
        (lambda: gd.clip.Value(-1), r"Value\.max_value must be > 0"),
        (lambda: gd.clip.Value(math.inf), r"Value\.max_value must be finite"),
        (lambda: gd.clip.Adaptive(0), r"Adaptive\.clipping must be > 0"),
        (lambda: gd.clip.Adaptive(0.1, eps=0), r"Adaptive\.eps must be > 0"),
        (lambda: gd.clip.ZScore(0), r"ZScore\.threshold must be > 0"),
        (lambda: gd.clip.ZScore(decay=1.0), r"ZScore\.decay must be >= 0 and < 1"),
        (lambda: gd.clip.ZScore(warmup=0), r"ZScore\.warmup must be at least 1"),
        (lambda: gd.clip.ZScore(min_deviation=0), r"ZScore\.min_deviation must be > 0"),
        (lambda: gd.clip.ZScore(max_norm=0), r"ZScore\.max_norm must be > 0"),
    ],
)
def test_wrong_options(make_clip, message):
    with pytest.raises(gd.ArgumentError, match=message):
        make_clip()


@pytest.mark.parametrize(
    ("make", "becomes"),
    [
        (lambda p, c: gd.optim.SGD(p, 0.1, clip=c), gd.clip.Adaptive(0.01)),
        (lambda p, c: gd.optim.SGD(p, 0.1, momentum=0.9, clip=c), gd.clip.Adaptive(0.01)),
        (lambda p, c: gd.optim.RMSprop(p, 1e-3, clip=c), gd.clip.GlobalNorm(1.0)),
        (lambda p, c: gd.optim.Adam(p, 1e-3, clip=c), gd.clip.GlobalNorm(1.0)),
        (lambda p, c: gd.optim.AdamW(p, 1e-3, clip=c), gd.clip.GlobalNorm(1.0)),
        (lambda p, c: gd.optim.Lion(p, 1e-3, clip=c), gd.clip.GlobalNorm(1.0)),
    ],
)
def test_auto_becomes_the_clip_of_its_optimizer(make, becomes):
    net = gd.Stack(gd.RNN(2, 5))
    params = [net.init(seed=0) for _ in range(2)]
    auto, named = make(params[0], gd.clip.Auto()), make(params[1], becomes)
    assert auto.clip == becomes
    grads = gd.Grads(net, np.full(net.n_parameters, 3.0, np.float32))
    assert auto.step(grads) == named.step(grads)
    np.testing.assert_array_equal(params[0].flat, params[1].flat)
    make(net.init(seed=1), becomes).load_state_dict(auto.state_dict())
