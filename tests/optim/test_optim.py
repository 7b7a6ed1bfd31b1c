"""Optimizers agree with torch.optim in float64; clipping, reports and errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gradcore as gd
import reference.lion
from gradcore import _core
from optim_cases import ALL, LION, NET, TORCH, flat_gradients, gradients, make
from problem import isa


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("max_norm", [None, 2.0])
def test_trajectories_are_those_of_torch(name, max_norm):
    torch = pytest.importorskip("torch")
    torch_name, options = TORCH[name]
    params = NET.init(seed=2, dtype="float64")
    theirs = torch.nn.Parameter(torch.from_numpy(params.flat.copy()))
    torch_optimizer = getattr(torch.optim, torch_name)([theirs], **options)
    clip = None if max_norm is None else gd.clip.GlobalNorm(max_norm)
    optimizer = make(name, params, clip=clip)
    for i, flat in enumerate(flat_gradients(12)):
        if i == 6:
            optimizer.lr = torch_optimizer.param_groups[0]["lr"] = 0.03
        before = params.flat.copy()
        report = optimizer.step(gd.Grads(NET, flat))
        norm = np.linalg.norm(flat)
        factor = 1.0 if max_norm is None else min(1.0, max_norm / norm)
        theirs.grad = torch.from_numpy(factor * flat)
        torch_optimizer.step()
        np.testing.assert_allclose(params.flat, theirs.detach().numpy(), rtol=1e-11, atol=1e-14)
        assert report.grad_norm_log10 == pytest.approx(math.log10(norm), abs=1e-12)
        assert report.clipped_norm_log10 == pytest.approx(math.log10(norm * factor), abs=1e-12)
        assert report.clipped == (factor < 1.0)
        assert report.clip_scale == pytest.approx(factor, rel=1e-12)
        assert report.param_norm == pytest.approx(np.linalg.norm(before), rel=1e-12)
        assert report.update_norm == pytest.approx(np.linalg.norm(params.flat - before), rel=1e-9)
        assert report.update_ratio == report.update_norm / report.param_norm
    assert optimizer.steps == 12


@pytest.mark.parametrize("name", LION)
def test_lion_is_the_algorithm_of_its_paper(name):
    _, options = LION[name]
    beta1, beta2 = options.get("betas", (0.9, 0.99))
    params = NET.init(seed=2, dtype="float64")
    theta, m = params.flat.tolist(), [0.0] * NET.n_parameters
    optimizer = make(name, params)
    for i, flat in enumerate(flat_gradients(12)):
        flat[::7] = 0.0
        eta = optimizer.lr = options["lr"] * (1 + i % 3)
        optimizer.step(gd.Grads(NET, flat))
        theta, m = reference.lion.step(
            theta,
            flat.tolist(),
            m,
            eta=eta,
            beta1=beta1,
            beta2=beta2,
            lam=options.get("weight_decay", 0.0),
        )
        np.testing.assert_allclose(params.flat, theta, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(optimizer.moments["first_moment"], m, rtol=1e-12, atol=1e-15)


def test_lion_leaves_alone_what_has_no_gradient():
    params = NET.init(dtype="float64")
    before = params.copy()
    gd.optim.Lion(params, 0.1).step(gd.Grads(NET, np.zeros(NET.n_parameters)))
    assert params == before


def test_a_centered_rmsprop_survives_a_gradient_that_never_changes():
    """v - mean**2 is rounded to less than 0 after some steps; torch has NaN there."""
    params = NET.init(dtype="float64")
    optimizer = gd.optim.RMSprop(params, 1e-9, alpha=0.5, centered=True, eps=1e-8)
    flat = flat_gradients(1)[0]
    for _ in range(80):
        optimizer.step(gd.Grads(NET, flat))
    assert np.isfinite(params.flat).all()


# Lion and the centered RMSprop amplify rounding where they divide by almost zero or take its sign;
# their float32 kernels are compared element by element in the C++ tests.
@pytest.mark.parametrize("name", sorted(set(ALL) - {"rmsprop-centered", "rmsprop-both"}))
def test_float32_follows_float64(name):
    double = NET.init(seed=2, dtype="float64")
    single = double.astype("float32")
    optimizers = [make(name, p) for p in (double, single)]
    for flat in flat_gradients(5):
        optimizers[0].step(gd.Grads(NET, flat))
        optimizers[1].step(gd.Grads(NET, flat.astype(np.float32)))
    # The tolerance is the rounding of 5 updates of size about lr, and of the parameters themselves.
    np.testing.assert_allclose(single.flat, double.flat, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ALL)
def test_every_level_follows_the_first(name):
    results = {}
    for level in _core.isa_available():
        with isa(level):
            params = NET.init(seed=2, dtype="float64")
            optimizer = make(name, params, clip=gd.clip.GlobalNorm(2.0))
            for grads in gradients(4):
                optimizer.step(grads)
            results[level] = params.flat
    first, *others = results.values()
    for other in others:
        # The levels differ only in the order in which the norm is summed.
        np.testing.assert_allclose(other, first, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_give_the_same_bits(threads):
    net = gd.Stack(gd.LSTM(3, 97))
    results = []
    for count in (1, threads):
        params = net.init()
        optimizer = gd.optim.Adam(params, clip=gd.clip.GlobalNorm(0.5))
        flat = np.random.default_rng(0).standard_normal(net.n_parameters).astype(np.float32)
        reports = [optimizer.step(gd.Grads(net, flat), threads=count) for _ in range(3)]
        results.append((params, reports))
    assert results[0] == results[1]


@pytest.mark.parametrize("exponent", [-3000, -40, 40, 3000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_scaled_gradient_is_clipped_to_the_right_step(exponent, dtype):
    flat = flat_gradients(1)[0].astype(dtype)
    params, same = NET.init(dtype=dtype), NET.init(dtype=dtype)
    clip = gd.clip.GlobalNorm(1e-3)
    report = gd.optim.SGD(params, 0.5, clip=clip).step(gd.Grads(NET, flat, exponent))
    norm = np.linalg.norm(flat.astype(np.float64))
    expected = math.log10(norm) + exponent * math.log10(2)
    assert report.grad_norm_log10 == pytest.approx(expected, rel=1e-12)
    assert report.clipped == (expected > -3)
    if report.clipped:
        gd.optim.SGD(same, 0.5, clip=clip).step(gd.Grads(NET, flat))
        tolerance = 1e-6 if dtype == "float32" else 1e-14
        np.testing.assert_allclose(params.flat, same.flat, rtol=tolerance, atol=tolerance * 1e-3)
    else:
        assert report.clip_scale == 1.0
        assert report.update_norm <= 0.5 * 10 ** max(expected, -300) * (1 + 1e-5)


def test_an_exponent_needs_a_clip():
    params = NET.init()
    before = params.copy()
    optimizer = gd.optim.SGD(params, 0.1)
    with pytest.raises(gd.ArgumentError, match=r"2\*\*500.*clip=gradcore\.clip\.GlobalNorm"):
        optimizer.step(gd.Grads(NET, before.flat, 500))
    assert params == before
    assert optimizer.steps == 0


def test_zero_gradient():
    params = NET.init(dtype="float64")
    before = params.copy()
    optimizer = gd.optim.SGD(params, 0.1, clip=gd.clip.GlobalNorm(1.0))
    report = optimizer.step(gd.Grads(NET, np.zeros(NET.n_parameters)))
    assert report.grad_norm_log10 == -math.inf
    assert not report.clipped
    assert report.update_norm == 0.0
    assert params == before


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_gradient_is_located_and_changes_nothing(bad):
    params = NET.init(dtype="float64")
    optimizer = gd.optim.Adam(params)
    optimizer.step(gradients(1)[0])
    before, moments = params.copy(), optimizer.state_dict()
    grads = gradients(1)[0]
    grads["0.weight_hh"][5, 3] = bad
    with pytest.raises(gd.NonFiniteError, match=rf"that of 0\.weight_hh\[5, 3\] is {bad}"):
        optimizer.step(grads)
    assert params == before
    for name, moment in optimizer.moments.items():
        np.testing.assert_array_equal(moment, moments[name])
    assert optimizer.steps == 1


def test_gradients_of_another_net_or_dtype():
    optimizer = gd.optim.SGD(NET.init(), 0.1)
    other = gd.Stack(gd.LSTM(3, 16))
    with pytest.raises(gd.ShapeError, match="grads must be laid out like the optimizer's params"):
        optimizer.step(gd.Grads(other, np.zeros(other.n_parameters, np.float32)))
    with pytest.raises(gd.ShapeError, match=r"float32 for.*they are float64"):
        optimizer.step(gd.Grads(NET, np.zeros(NET.n_parameters)))
    with pytest.raises(gd.DTypeError, match=r"grads must be gradcore\.Grads"):
        optimizer.step(np.zeros(NET.n_parameters))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: gd.optim.SGD(p, -0.1), gd.ArgumentError, r"lr must be >= 0; got -0\.1"),
        (lambda p: gd.optim.SGD(p, "0.1"), gd.DTypeError, "lr must be a number"),
        (lambda p: gd.optim.SGD(p, 0.1, momentum=-1), gd.ArgumentError, "momentum must be >= 0"),
        (lambda p: gd.optim.SGD(p, 0.1, nesterov=True), gd.ArgumentError, "momentum > 0 and"),
        (lambda p: gd.optim.SGD(p, 0.1, weight_decay=-1), gd.ArgumentError, "weight_decay must be"),
        (lambda p: gd.optim.SGD(p, 0.1, clip=1.0), gd.DTypeError, r"clip must be a gradcore\.clip"),
        (
            lambda p: gd.optim.Adam(p, betas=(0.9, 1.0)),
            gd.ArgumentError,
            r"betas\[1\] must be >= 0",
        ),
        (lambda p: gd.optim.Adam(p, betas=0.9), gd.DTypeError, "betas must be two numbers"),
        (lambda p: gd.optim.Adam(p, eps=math.nan), gd.ArgumentError, "eps must be finite"),
        (lambda p: gd.optim.Adam(p.flat), gd.DTypeError, r"params must be gradcore\.Params"),
        (lambda p: gd.optim.RMSprop(p, alpha=1.0), gd.ArgumentError, "alpha must be >= 0 and < 1"),
        (lambda p: gd.optim.RMSprop(p, centered=1), gd.DTypeError, "centered must be True or"),
        (lambda p: gd.optim.RMSprop(p, momentum=-1), gd.ArgumentError, "momentum must be >= 0"),
        (lambda p: gd.optim.Adagrad(p, lr_decay=-1), gd.ArgumentError, "lr_decay must be >= 0"),
        (
            lambda p: gd.optim.Adagrad(p, initial_accumulator_value=-1),
            gd.ArgumentError,
            "initial_accumulator_value must be >= 0",
        ),
        (lambda p: gd.optim.Lion(p, betas=(-1, 0.9)), gd.ArgumentError, r"betas\[0\] must be >= 0"),
        (lambda p: gd.clip.GlobalNorm(0), gd.ArgumentError, r"GlobalNorm\.max_norm must be > 0"),
        (lambda p: gd.clip.GlobalNorm(math.inf), gd.ArgumentError, "max_norm must be finite"),
    ],
)
def test_wrong_options(make, error, message):
    with pytest.raises(error, match=message):
        make(NET.init())


def test_a_wrong_rate_is_refused_when_set():
    optimizer = gd.optim.SGD(NET.init(), 0.1)
    with pytest.raises(gd.ArgumentError, match="lr must be finite; got inf"):
        optimizer.lr = 10**400
    with pytest.raises(gd.ArgumentError, match="lr must be finite"):
        optimizer.lr = math.inf
    assert optimizer.lr == 0.1
    with pytest.raises(gd.ArgumentError, match="lr_factor must be >= 0"):
        optimizer.step(gradients(1, dtype="float32")[0], lr_factor=-1.0)
    assert optimizer.steps == 0


def test_a_factor_scales_the_rate_of_one_step():
    params, same = NET.init(dtype="float64"), NET.init(dtype="float64")
    optimizer, expected = gd.optim.Adam(params, 0.02), gd.optim.Adam(same, 0.02)
    for i, grads in enumerate(gradients(4)):
        factor = 1.0 / (i + 1)
        optimizer.step(grads, lr_factor=factor)
        expected.lr = 0.02 * factor
        expected.step(grads)
    assert params == same
    assert optimizer.lr == 0.02
