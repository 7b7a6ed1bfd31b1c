"""State dicts of optimizers, averages of weights, accumulation of gradients."""

from __future__ import annotations

import copy
import json
import math
import pickle

import numpy as np
import pytest

import gradcore as gd
from optim_cases import ALL, NET, flat_gradients, gradients, make

GROUPS = (
    gd.optim.Group("0.bias_hh", frozen=True),
    gd.optim.Group("*.bias*", weight_decay=0.0, lr_scale=0.3),
)


def through_files(state):
    """Writes and reads the state as a checkpoint does: arrays beside JSON without NaN."""
    arrays = {key: v.copy() for key, v in state.items() if isinstance(v, np.ndarray)}
    rest = {key: v for key, v in state.items() if key not in arrays}
    return {**json.loads(json.dumps(rest, allow_nan=False)), **arrays}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("clip", [None, gd.clip.ZScore(warmup=3, threshold=0.05, decay=0.8)])
@pytest.mark.parametrize("name", ALL)
def test_an_optimizer_continues_to_the_same_bits(name, clip, dtype):
    whole = make(name, NET.init(seed=1, dtype=dtype), clip=clip, groups=GROUPS)
    first = make(name, NET.init(seed=1, dtype=dtype), clip=clip, groups=GROUPS)
    sequence = gradients(12, dtype=dtype)
    whole.lr = first.lr = 0.0123456789
    whole.weight_decay = first.weight_decay = 0.1 / 3
    for grads in sequence[:7]:
        whole.step(grads)
        first.step(grads)
    second = make(name, first.params.copy(), clip=clip, groups=GROUPS)
    second.load_state_dict(through_files(first.state_dict()))
    assert second.steps == 7
    for grads in sequence[7:]:
        assert second.step(grads) == whole.step(grads)
    assert second.params == whole.params
    np.testing.assert_equal(second.state_dict(), whole.state_dict())


@pytest.mark.parametrize("way", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_of_an_optimizer_goes_its_own_way(way):
    optimizer = gd.optim.Adam(NET.init(), clip=gd.clip.ZScore(warmup=1), groups=GROUPS)
    first, second = gradients(2, dtype="float32")
    optimizer.step(first)
    other = way(optimizer)
    other.step(second)
    assert (optimizer.steps, other.steps) == (1, 2)
    assert other.params != optimizer.params
    optimizer.step(second)
    assert other.params == optimizer.params


def test_a_state_dict_is_a_copy():
    optimizer = gd.optim.Adam(NET.init())
    state = optimizer.state_dict()
    optimizer.step(gradients(1, dtype="float32")[0])
    assert not state["first_moment"].any()
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    state["first_moment"].fill(7.0)
    assert not (optimizer.moments["first_moment"] == 7.0).any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kind": "sgd"}, gd.ArgumentError, "'kind' in the state of Adam must be 'adam'.*'sgd'"),
        ({"options": {"beta1": 0.5}}, gd.ArgumentError, "'options' in the state of Adam must be"),
        ({"parameters": {"w": [1]}}, gd.ArgumentError, "'parameters' in the state of Adam must"),
        ({"steps": -1}, gd.ArgumentError, "'steps' in the state of Adam must be at least 0"),
        ({"steps": 1.5}, gd.DTypeError, "'steps' in the state of Adam must be an integer"),
        ({"lr": math.inf}, gd.ArgumentError, "'lr' in the state of Adam must be finite"),
        ({"lr": -1.0}, gd.ArgumentError, "'lr' in the state of Adam must be at least 0"),
        ({"weight_decay": None}, gd.DTypeError, "'weight_decay' in the state of Adam must be a"),
        ({"second_moment": [0.0]}, gd.DTypeError, "'second_moment' in .* must be a NumPy array"),
        ({"second_moment": np.zeros(3)}, gd.ShapeError, "'second_moment' in .* must have shape"),
        (
            {"second_moment": np.zeros(NET.n_parameters)},
            gd.DTypeError,
            "'second_moment' in .* must have dtype float32; got float64",
        ),
        ({"velocity": np.zeros(3)}, gd.ArgumentError, "unknown: velocity"),
        ({"running_norm": None}, gd.ArgumentError, "'running_norm' .*made with clip.ZScore"),
        ({"running_norm": {"kind": "x"}}, gd.ArgumentError, "'kind' in the state of ZScore"),
        (
            {"running_norm": {"kind": "running_norm", "count": 1, "mean": 0.0, "variance": -1.0}},
            gd.ArgumentError,
            "'variance' in the state of ZScore must be at least 0",
        ),
    ],
)
def test_a_wrong_state_dict_changes_nothing(change, error, message):
    optimizer = gd.optim.Adam(NET.init(), clip=gd.clip.ZScore())
    other = gd.optim.Adam(NET.init(seed=4), lr=0.5, clip=gd.clip.ZScore())
    for grads in gradients(2, dtype="float32"):
        other.step(grads)
    before = optimizer.state_dict()
    with pytest.raises(error, match=message):
        optimizer.load_state_dict({**other.state_dict(), **change})
    np.testing.assert_equal(optimizer.state_dict(), before)
    state = other.state_dict()
    del state["first_moment"]
    with pytest.raises(gd.ArgumentError, match="missing: first_moment"):
        optimizer.load_state_dict(state)


def test_the_state_of_another_net():
    small = gd.Stack(gd.LSTM(3, 16), gd.Linear(16, 2))
    state = gd.optim.SGD(small.init(), 0.1).state_dict()
    with pytest.raises(gd.ArgumentError, match="'parameters' in the state of SGD"):
        gd.optim.SGD(NET.init(), 0.1).load_state_dict(state)


# ---- Average


def walk(params, count):
    """Parameters after each of some steps, as float64."""
    rng = np.random.default_rng(2)
    for _ in range(count):
        params.flat[...] += rng.standard_normal(params.flat.shape).astype(params.dtype)
        yield params.flat.astype(np.float64)


@pytest.mark.parametrize("decay", [None, 0.9])
@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_average_is_what_it_says(decay, start, dtype):
    params = NET.init(dtype=dtype)
    average = gd.optim.Average(params, decay, start)
    assert average.params == params
    seen = []
    for flat in walk(params, 9):
        average.update()
        seen.append(flat)
        counted = seen[start:]
        if not counted:
            expected = flat
        elif decay is None:
            expected = np.mean(counted, axis=0)
        else:
            expected = counted[0]
            for later in counted[1:]:
                expected = decay * expected + (1 - decay) * later
        tolerance = 1e-7 if dtype == "float32" else 1e-13
        np.testing.assert_allclose(average.params.flat, expected, rtol=tolerance, atol=tolerance)
        assert average.params.dtype == params.dtype
    assert average.updates == 9


@pytest.mark.parametrize("decay", [None, 0.9])
def test_an_average_is_that_of_torch(decay):
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("torch.optim.swa_utils")
    params = NET.init(dtype="float64")
    model = torch.nn.Linear(NET.n_parameters, 1, bias=False, dtype=torch.float64)
    options = {} if decay is None else {"multi_avg_fn": utils.get_ema_multi_avg_fn(decay)}
    theirs = utils.AveragedModel(model, **options)
    average = gd.optim.Average(params, decay)
    for flat in walk(params, 6):
        average.update()
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(flat)[None])
        theirs.update_parameters(model)
        expected = theirs.module.weight.detach().numpy()[0]
        np.testing.assert_allclose(average.params.flat, expected, rtol=1e-12, atol=1e-14)


def test_an_average_loses_no_small_contributions():
    """In float32, 1e-5 of a change of 1e-3 would be lost by rounding next to 1."""
    params = NET.init()
    params.flat[...] = 1.0
    average = gd.optim.Average(params, decay=1 - 1e-5)
    average.update()
    params.flat[...] = 1.001
    for _ in range(2000):
        average.update()
    expected = 1.0 + 0.001 * (1 - (1 - 1e-5) ** 2000)
    np.testing.assert_allclose(average.params.flat, expected, rtol=1e-7)


def test_swapped_evaluates_the_average_and_gives_back():
    params = NET.init()
    average = gd.optim.Average(params, decay=0.5)
    for _ in walk(params, 3):
        average.update()
    own, mean = params.copy(), average.params.copy()
    with average.swapped() as inside:
        assert inside is params
        assert params == mean
        for call in (average.update, lambda: average.swapped().__enter__()):
            with pytest.raises(gd.ArgumentError, match=r"within Average\.swapped\(\)"):
                call()
    assert params == own
    with pytest.raises(RuntimeError, match="evaluation"), average.swapped():
        raise RuntimeError("evaluation")
    assert params == own
    average.update()


def test_an_average_continues_to_the_same_bits():
    params = NET.init()
    whole, first = (gd.optim.Average(params, None, start=2) for _ in range(2))
    second = gd.optim.Average(params, None, start=2)
    for i, _ in enumerate(walk(params, 8)):
        whole.update()
        (first if i < 5 else second).update()
        if i == 4:
            second.load_state_dict(through_files(first.state_dict()))
    np.testing.assert_equal(second.state_dict(), whole.state_dict())
    assert second.params == whole.params


def test_a_restarted_average_counts_what_comes_after():
    params = NET.init()
    average, later = (gd.optim.Average(params, None) for _ in range(2))
    for i, _ in enumerate(walk(params, 7)):
        average.update()
        if i < 3:
            average.restart()
            assert average.params == params
        else:
            later.update()
    assert average.updates == 4
    np.testing.assert_equal(average.state_dict(), later.state_dict())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: gd.optim.Average(p.flat), gd.DTypeError, r"params must be gradcore\.Params"),
        (lambda p: gd.optim.Average(p, 1.0), gd.ArgumentError, "decay must be >= 0 and < 1"),
        (lambda p: gd.optim.Average(p, start=-1), gd.ArgumentError, "start must be at least 0"),
        (
            lambda p: gd.optim.Average(p).load_state_dict({"kind": "average", "updates": 1}),
            gd.ArgumentError,
            "state of Average .*missing: average",
        ),
        (
            lambda p: gd.optim.Average(p).load_state_dict(
                {"kind": "average", "updates": 1, "average": np.zeros(2)}
            ),
            gd.ShapeError,
            "'average' in the state of Average must have shape",
        ),
        (lambda p: gd.optim.Accumulator(3), gd.DTypeError, r"params must be gradcore\.Params"),
        (lambda p: gd.optim.Accumulator(p).add(p), gd.DTypeError, r"must be gradcore\.Grads"),
        (
            lambda p: gd.optim.Accumulator(p).add(gradients(1)[0]),
            gd.ShapeError,
            "grads must be laid out like the params, float32",
        ),
        (
            lambda p: gd.optim.Accumulator(p).add(gradients(1, dtype="float32")[0], -1.0),
            gd.ArgumentError,
            "weight must be >= 0",
        ),
        (lambda p: gd.optim.Accumulator(p).take(), gd.ArgumentError, r"Call add\(grads\) first"),
        (
            lambda p: gd.optim.Accumulator(p).load_state_dict({"kind": "average"}),
            gd.ArgumentError,
            "'kind' in the state of Accumulator",
        ),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(NET.init())


# ---- Accumulator


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("exponent", [0, 3000, -3000])
def test_the_weighted_mean_of_gradients(dtype, exponent):
    accumulator = gd.optim.Accumulator(NET.init(dtype=dtype))
    weights = [1.0, 3.0, 0.5]
    shifts = [0, 2, -3]
    parts = gradients(3, dtype=dtype)
    for _ in range(2):  # the first pass must have reset it
        for part, weight, shift in zip(parts, weights, shifts, strict=True):
            accumulator.add(gd.Grads(NET, part.flat, exponent + shift), weight)
        assert accumulator.count == 3
        mean = accumulator.take()
        assert accumulator.count == 0
        expected = sum(
            w * np.ldexp(p.flat.astype(np.float64), s)
            for p, w, s in zip(parts, weights, shifts, strict=True)
        )
        actual = np.ldexp(mean.flat.astype(np.float64), mean.exponent - exponent)
        tolerance = 1e-6 if dtype == "float32" else 1e-14
        np.testing.assert_allclose(actual, expected / 4.5, rtol=tolerance, atol=tolerance)
        assert mean.dtype == np.dtype(dtype)
        assert (mean.exponent == 0) == (exponent == 0)


def test_one_gradient_alone_comes_back_with_the_same_bits():
    grads = gradients(1, dtype="float32")[0]
    accumulator = gd.optim.Accumulator(NET.init())
    accumulator.add(grads)
    assert accumulator.take() == grads


def test_what_is_far_below_the_rest_counts_as_nothing():
    big, small = gradients(2)
    accumulator = gd.optim.Accumulator(NET.init(dtype="float64"))
    for exponents in ((4000, -4000), (-4000, 4000)):
        for part, exponent in zip((big, small), exponents, strict=True):
            accumulator.add(gd.Grads(NET, part.flat, exponent))
        mean = accumulator.take()
        kept = big if exponents[0] > 0 else small
        np.testing.assert_allclose(
            np.ldexp(mean.flat, mean.exponent - 4000), kept.flat / 2, rtol=1e-15
        )


def test_weights_of_zero_and_zero_gradients():
    accumulator = gd.optim.Accumulator(NET.init(dtype="float64"))
    first, second = gradients(2)
    accumulator.add(first, 0.0)
    with pytest.raises(gd.ArgumentError, match="1 were added, with a total weight of 0"):
        accumulator.take()
    accumulator.add(gd.Grads(NET, np.zeros(NET.n_parameters), 900), 1.0)
    assert accumulator.take() == gd.Grads(NET, np.zeros(NET.n_parameters))
    accumulator.add(second)
    np.testing.assert_array_equal(accumulator.take().flat, second.flat)


def test_accumulated_batches_make_the_step_of_the_whole_batch():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((9, 6, 3)), rng.standard_normal((9, 6, 2))
    params = NET.init(dtype="float64")
    whole = gd.value_and_grad(NET, params, x, y, loss="mse").grads
    accumulator = gd.optim.Accumulator(params)
    for part in (slice(0, 2), slice(2, 6)):
        grads = gd.value_and_grad(NET, params, x[:, part], y[:, part], loss="mse").grads
        accumulator.add(grads, part.stop - part.start)
    np.testing.assert_allclose(accumulator.take().flat, whole.flat, rtol=1e-11, atol=1e-15)


def test_an_accumulator_continues_to_the_same_bits():
    whole, first, second = (gd.optim.Accumulator(NET.init(dtype="float64")) for _ in range(3))
    parts = [gd.Grads(NET, flat, 1500 * i) for i, flat in enumerate(flat_gradients(4))]
    for i, part in enumerate(parts):
        whole.add(part, 0.1 * (i + 1))
        (first if i < 2 else second).add(part, 0.1 * (i + 1))
        if i == 1:
            second.load_state_dict(through_files(first.state_dict()))
    assert second.take() == whole.take()
