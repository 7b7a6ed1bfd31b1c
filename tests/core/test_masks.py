"""Random masks: the random words they are made of, their statistics, and when they apply.

The nets show a mask directly: they have identity cells without a recurrent part.
"""

import numpy as np
import pytest

import gradcore as gd
from gradcore import _core
from problem import isa
from reference import philox

LEVELS = _core.isa_available()
STEPS, BATCH, UNITS = 200, 7, 45


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_reference_generator_gives_the_known_answers(counter, key, words):
    """Compares with kat_vectors of Random123, the library of the generator's authors; tests/cpp
    tests the core's.
    """
    assert philox.philox(counter, key) == tuple(int(word, 16) for word in words.split())


def identity(units, **options):
    return gd.RNN(units, units, nonlinearity="identity", bias=False, **options)


def passing(net, dtype="float32", recurrent=0.0):
    """Parameters with which every layer returns its input."""
    params = gd.Params(net, np.zeros(net.n_parameters, dtype))
    for name, array in params.items():
        array[...] = np.eye(len(array)) * (recurrent if name.endswith("_hh") else 1.0)
    return params


def dropped(seed, *, p=0.3, place=0, dtype="float32", shape=(STEPS, BATCH, UNITS), **how):
    """Where a dropout at a given place of the net drops, as a bool array (T, B, H)."""
    net = gd.Stack(*[identity(shape[2])] * place, gd.Dropout(p), identity(shape[2]))
    outputs, _ = gd.apply(
        net, passing(net, dtype), np.ones(shape, dtype), train=True, seed=seed, **how
    )
    kept = outputs[outputs != 0]
    np.testing.assert_array_equal(kept, kept.dtype.type(1 / (1 - p)))
    return outputs == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("level", LEVELS)
def test_dropout_is_the_references(level, dtype):
    seed = (2**33 + 5, 2**63 + 2**32 + 1)
    with isa(level):
        found = dropped(seed, place=2, dtype=dtype, shape=(9, 3, UNITS))
    mode = philox.Mode(True, *seed)
    expected = [mode.below(0.3, 2, philox.DROPOUT, t, 3, UNITS) for t in range(9)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.9])
def test_means(p, threads):
    """Means are within five standard deviations of p: in total, and of every step, sequence and
    unit.
    """
    found = dropped((1, 2), p=p, threads=threads)
    for axes in ((0, 1, 2), (1, 2), (0, 2), (0, 1)):
        count = np.prod([found.shape[axis] for axis in axes])
        far = np.abs(found.mean(axis=axes) - p) / np.sqrt(p * (1 - p) / count)
        assert np.max(far) < 5


def correlation(a, b):
    return abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) * np.sqrt(a.size)


def test_independence():
    """Correlations of a mask with itself shifted, and with other masks, are within five
    deviations.
    """
    mask = dropped((1, 2))
    for axis in range(3):
        for by in (1, 2, 4):
            ahead = np.take(mask, range(by, mask.shape[axis]), axis)
            assert correlation(ahead, np.take(mask, range(mask.shape[axis] - by), axis)) < 5
    others = [dropped(seed) for seed in ((1, 3), (2, 2), (2, 1), (1, 2 + 2**32), 1)]
    others.append(dropped((1, 2), place=1))
    for other in others:
        assert correlation(mask, other) < 5
    np.testing.assert_array_equal(mask, dropped((1, 2)))
    np.testing.assert_array_equal(dropped(1), dropped((1, 0)))


def test_masks_of_one_layer_are_independent():
    """Masks of zoneout of h, of c and of recurrent dropout in one layer, as the reference draws
    them.
    """
    mode = philox.Mode(True, 3, 4)
    masks = [mode.below(0.5, 1, kind, 0, 400, 64) for kind in range(4)]
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            assert correlation(mask, other) < 5


def held(mode_or_none, p, steps=40):
    net = gd.Stack(identity(UNITS, zoneout=p))
    x = np.arange(1.0, steps * BATCH * UNITS + 1).reshape(steps, BATCH, UNITS)
    how = {} if mode_or_none is None else {"train": True, "seed": mode_or_none}
    outputs, state = gd.apply(net, passing(net, "float64"), x, **how)
    np.testing.assert_array_equal(state[0].h, outputs[-1])
    return x, outputs


def test_zoneout_takes_exactly_one_of_the_two():
    x, outputs = held((5, 6), 0.4)
    before = np.concatenate([np.zeros_like(outputs[:1]), outputs[:-1]])
    stayed = outputs == before
    np.testing.assert_array_equal(outputs[~stayed], x[~stayed])
    mode = philox.Mode(True, 5, 6)
    expected = [mode.below(0.4, 0, philox.ZONEOUT, t, BATCH, UNITS) for t in range(len(x))]
    np.testing.assert_array_equal(stayed, expected)


def test_zoneout_is_the_expectation_in_evaluation():
    x, outputs = held(None, 0.25)
    expected = np.zeros_like(x[0])
    for x_t, got in zip(x, outputs, strict=True):
        expected = 0.25 * expected + 0.75 * x_t
        np.testing.assert_allclose(got, expected, rtol=1e-15)


def test_recurrent_dropout_keeps_its_units():
    """h_t = (h_(t-1) * m) / 2 from a state of ones: units that were dropped once are 0, others are
    equal.
    """
    net = gd.Stack(identity(UNITS, recurrent_dropout=0.4))
    params = passing(net, "float64", recurrent=0.5)
    x = np.zeros((10, BATCH, UNITS))
    state = (gd.LayerState(np.ones((BATCH, UNITS))),)
    outputs, _ = gd.apply(net, params, x, state=state, train=True, seed=(7, 8))
    factors = philox.Mode(True, 7, 8).factors(0.4, 0, philox.RECURRENT, 0, BATCH, UNITS)
    assert 0 < (factors == 0).mean() < 1
    for t, got in enumerate(outputs):
        np.testing.assert_allclose(got, (factors / 2) ** (t + 1), rtol=1e-14)
    evaluated, _ = gd.apply(net, params, x, state=state)
    np.testing.assert_array_equal(evaluated[-1], 2.0**-10)


RANDOM = [
    gd.Stack(gd.Dropout(0.5), gd.GRU(3, 8)),
    gd.Stack(gd.GRU(3, 8, zoneout=0.1)),
    gd.Stack(gd.LSTM(3, 8, zoneout_cell=0.1)),
    gd.Stack(gd.RNN(3, 8, recurrent_dropout=0.1), gd.Linear(8, 8)),
]


def call(net, **how):
    params = net.init()
    x, y = np.ones((6, 2, 3), np.float32), np.zeros((6, 2, 8), np.float32)
    return gd.value_and_grad(net, params, x, y, loss="mse", **how)


@pytest.mark.parametrize("net", RANDOM)
def test_random_nets_need_a_seed_in_training_only(net):
    assert net.is_random
    with pytest.raises(gd.ArgumentError, match=r"seed must be given.*Pass seed=\(seed, step\)"):
        call(net)
    one, again, other = (call(net, seed=seed).loss for seed in ((1, 2), (1, 2), (1, 3)))
    assert one == again != other
    evaluated = call(net, train=False).loss
    assert evaluated == call(net, train=False, seed=9).loss
    params, x = net.init(), np.ones((6, 2, 3), np.float32)
    y = np.zeros((6, 2, 8), np.float32)
    assert gd.value(net, params, x, y, loss="mse") == evaluated
    assert gd.value(net, params, x, y, loss="mse", train=True, seed=(1, 2)) == one
    stepper = gd.Stepper(net, params, 2)
    steps = [stepper.step(x_t) for x_t in x]
    np.testing.assert_array_equal(steps, gd.apply(net, params, x)[0])


def test_nets_without_masks_need_no_seed():
    net = gd.Stack(gd.Dropout(0.0), gd.LSTM(3, 8), gd.LayerNorm(8))
    assert not net.is_random
    assert call(net).loss == call(net, seed=3).loss == call(net, train=False).loss


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (-1, gd.ArgumentError, r"seed must be in 0\.\.2\*\*64-1; got -1"),
        (2**64, gd.ArgumentError, r"seed must be in 0\.\.2\*\*64-1; got 18446744073709551616"),
        ((0, -3), gd.ArgumentError, r"step of seed=\(seed, step\) must be in .* got -3"),
        ((1, 2, 3), gd.ArgumentError, r"an integer or \(seed, step\); got \(1, 2, 3\)"),
        (1.5, gd.DTypeError, "seed must be an integer; got 1.5"),
        ((1, True), gd.DTypeError, "step must be an integer; got True"),
    ],
)
def test_wrong_seeds(seed, error, message):
    with pytest.raises(error, match=message):
        call(RANDOM[0], seed=seed)


def test_train_is_a_flag():
    with pytest.raises(gd.DTypeError, match="train must be True or False; got 1"):
        call(RANDOM[0], seed=1, train=1)


def test_dropping_does_not_hide_nan():
    """Unit 0 of sequence 1 is dropped at some of these steps, but the first NaN is still found."""
    net = gd.Stack(gd.Dropout(0.9), gd.RNN(3, 8))
    x = np.zeros((20, 2, 3), np.float32)
    x[4:, 1, 0] = np.nan
    with pytest.raises(gd.NonFiniteError) as caught:
        gd.apply(net, net.init(), x, train=True, seed=1)
    assert (caught.value.layer, caught.value.step, caught.value.sequence) == (0, 4, 1)


def test_plans_count_what_masks_take():
    net = gd.Stack(
        gd.Embedding(9, 12), gd.Dropout(), gd.LSTM(12, 33, zoneout=0.1, recurrent_dropout=0.2)
    )
    x = np.zeros((300, 5), np.int32)
    y = np.zeros((300, 5, 33), np.float32)
    for train in (True, False):
        made = gd.plan(net, 300, 5, loss="mse", memory="full", threads=1, train=train)
        r = gd.value_and_grad(
            net, net.init(), x, y, loss="mse", memory="full", threads=1, train=train, seed=1
        )
        assert made.bytes == r.plan.bytes
        assert r.arena_bytes <= r.plan.bytes
    trained, evaluated = (gd.plan(net, 300, 5, loss="mse", train=t).bytes for t in (True, False))
    assert trained == gd.plan(net, 300, 5, loss="mse").bytes > evaluated
