"""gd.data.Stream: lanes, windows, and truncated backpropagation through time compared with loops
that are written out.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import gradcore as gd
from gradcore.data import Stream

RNG = np.random.default_rng(0)
TOKENS = np.cumsum(RNG.integers(0, 3, 203)) % 5
X, Y = TOKENS[:-1], TOKENS[1:]
RESET = np.arange(len(X)) % 37 == 0
NET = gd.Stack(gd.Embedding(5, 4), gd.LSTM(4, 7, skip=gd.Skip(3)), gd.Linear(7, 5))


def make(**options):
    params = NET.init(seed=1)
    optimizer = gd.optim.SGD(params, lr=0.3)
    return gd.Trainer(
        NET, params, optimizer, loss="cross_entropy", threads=1, quiet=True, **options
    )


@pytest.mark.parametrize(
    ("batch_size", "k1", "k2"), [(1, 10, 10), (3, 7, 7), (4, 9, 20), (7, 1, 5)]
)
def test_every_step_counts_once_and_in_order(batch_size, k1, k2):
    steps = np.arange(len(X))
    source = Stream(steps, steps, batch_size=batch_size, k1=k1, k2=k2)
    counted = [[] for _ in range(batch_size)]
    batches = list(source)
    lane_steps = math.ceil(len(X) / batch_size)
    assert len(batches) == len(source) == math.ceil(lane_steps / k1)
    for batch in batches:
        assert len(batch.x) <= k2
        lengths = np.full(batch_size, len(batch.x)) if batch.lengths is None else batch.lengths
        weight = np.ones_like(batch.x) if batch.weight is None else batch.weight
        for lane in range(batch_size):
            rows = np.arange(len(batch.x)) < lengths[lane]
            counted[lane] += batch.x[rows & (weight[:, lane] > 0), lane].tolist()
            assert not batch.x[~rows, lane].any()
    assert list(itertools.chain(*counted)) == steps.tolist()
    sizes = [len(lane) for lane in counted]
    assert max(sizes) - min(sizes) <= 1


def test_windows_reach_back_to_k2():
    source = Stream(X, Y, k1=10, k2=25)
    assert [source.window(i) for i in range(5)] == [(0, 10), (0, 20), (5, 30), (15, 40), (25, 50)]
    assert source.window(len(source) - 1) == (185, 202)
    batches = [source.batch(0, i) for i in range(4)]
    assert [b.continues for b in batches] == [False, False, True, True]
    assert [b.keep for b in batches] == [None, 5, 10, 10]
    assert source.batch(0, len(source) - 1).keep is None


def plain_loop(params, batch_size, k1, k2, burn_in, reset, epochs):
    """Truncated backpropagation through time, written as a plain loop over the lanes."""
    lane_steps = len(X) // batch_size
    x, y, r = (a.reshape(batch_size, lane_steps).T.copy() for a in (X, Y, reset))
    optimizer = gd.optim.SGD(params, lr=0.3)
    losses = []
    for _ in range(epochs):
        # states[t] is the state before step t, computed when step t-1 was last read.
        states = {0: gd.zero_state(NET, batch_size)}
        for end in range(k1, lane_steps + k1, k1):
            begin, stop = max(0, end - k2), min(end, lane_steps)
            weight = np.zeros((stop - begin, batch_size), np.float32)
            weight[max(end - k1, burn_in) - begin :] = 1
            window = slice(begin, stop)
            following = max(0, end + k1 - k2)
            _, states[following] = (
                gd.apply(
                    NET, params, x[begin:following], reset=r[begin:following], state=states[begin]
                )
                if following > begin
                else (None, states[begin])
            )
            if weight.any():
                result = gd.value_and_grad(
                    NET,
                    params,
                    x[window],
                    y[window],
                    loss="cross_entropy",
                    weight=weight,
                    reset=r[window],
                    state=states[begin],
                )
                optimizer.step(result.grads)
                losses.append(result.loss)
    return losses


@pytest.mark.parametrize(("k1", "k2"), [(10, 10), (10, 15), (7, 30), (101, 101), (5, 101)])
@pytest.mark.parametrize("burn_in", [0, 4, 23])
def test_the_trainer_does_what_the_loop_does(k1, k2, burn_in):
    trainer = make()
    source = Stream(X, Y, batch_size=2, k1=k1, k2=k2, burn_in=burn_in, reset=RESET)
    report = trainer.fit(source, epochs=2)
    params = NET.init(seed=1)
    losses = plain_loop(params, 2, k1, k2, burn_in, RESET, 2)
    assert report.losses == pytest.approx(losses, rel=1e-6)
    np.testing.assert_allclose(trainer.params.flat, params.flat, rtol=2e-5, atol=1e-6)


def test_one_window_over_all_is_the_whole_gradient():
    trainer = make()
    trainer.fit(Stream(X, Y, k1=len(X)))
    params = NET.init(seed=1)
    result = gd.value_and_grad(NET, params, X[:, None], Y[:, None], loss="cross_entropy")
    gd.optim.SGD(params, lr=0.3).step(result.grads)
    assert trainer.params == params


@pytest.mark.parametrize("k2", [10, 25])
def test_a_second_fit_goes_on_where_the_first_stopped(k2):
    trainers = [make(), make()]
    trainers[0].fit(Stream(X, Y, batch_size=2, k1=10, k2=k2), steps=13)
    source = Stream(X, Y, batch_size=2, k1=10, k2=k2)
    for steps in (3, 1, 9):
        trainers[1].fit(source, steps=steps)
    assert trainers[0].params == trainers[1].params


def test_after_an_error_the_next_fit_goes_on_too():
    trainer, data = make(), Stream(X, Y, batch_size=2, k1=10)

    def failing(params):
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        trainer.fit(data, steps=8, evaluate=failing, every=3)
    trainer.fit(data, steps=5)
    other = make()
    other.fit(Stream(X, Y, batch_size=2, k1=10), steps=8)
    assert trainer.params == other.params


def test_weights_are_given_through():
    weight = RNG.uniform(0, 1, len(X))
    source = Stream(X, Y, batch_size=2, k1=10, k2=15, burn_in=13, weight=weight)
    lane = weight[:101].astype(np.float32)
    batch = source.batch(0, 1)  # steps 5 to 20, of which 13 to 20 count
    np.testing.assert_array_equal(
        batch.weight[:, 0], np.where(np.arange(5, 20) < 13, 0, lane[5:20])
    )
    batch = source.batch(0, 2)  # steps 15 to 30, of which 20 to 30 count
    np.testing.assert_array_equal(
        batch.weight[:, 0], np.where(np.arange(15, 30) < 20, 0, lane[15:30])
    )


def test_only_the_window_of_a_memory_map_is_read(tmp_path):
    reads = []

    class Watched(np.memmap):
        def __getitem__(self, key):
            reads.append(key)
            return super().__getitem__(key)

    x = np.memmap(tmp_path / "x", np.float64, "w+", shape=(1_000, 3)).view(Watched)
    x[:] = RNG.normal(size=x.shape)
    source = Stream(x, np.zeros(1_000), batch_size=2, k1=20, k2=30)
    reads.clear()
    batch = source.batch(0, 4)
    assert reads == [slice(70, 100), slice(570, 600)]
    assert batch.x.dtype == np.float32
    assert batch.x.shape == (30, 2, 3)
    assert batch.y.shape == (30, 2, 1)
    np.testing.assert_array_equal(batch.x[:, 1], np.asarray(x)[570:600].astype(np.float32))


def test_validation_carries_the_state():
    """Windows of 10 steps with the state carried on have the same loss as the whole."""
    trainer = make()
    reset = np.zeros(len(X), bool)
    reset[101] = True
    held_out = Stream(X, Y, k1=10, reset=reset)
    report = trainer.fit(Stream(X, Y, k1=50), steps=1, validation=held_out)
    loss = gd.value(
        NET, trainer.params, X[:, None], Y[:, None], loss="cross_entropy", reset=reset[:, None]
    )
    assert report.best == pytest.approx(loss, rel=1e-6)


def test_batches_of_ones_own_may_carry_a_state_too():
    first = gd.Batch(X[:20, None], Y[:20, None], keep=20)
    second = gd.Batch(X[20:40, None], Y[20:40, None], continues=True)
    trainer = make()
    report = trainer.fit([first, second])
    params = NET.init(seed=1)
    optimizer = gd.optim.SGD(params, lr=0.3)
    result = gd.value_and_grad(NET, params, first.x, first.y, loss="cross_entropy")
    optimizer.step(result.grads)
    state = result.state
    result = gd.value_and_grad(NET, params, second.x, second.y, loss="cross_entropy", state=state)
    assert report.losses[1] == result.loss
    again = make().fit([first, gd.Batch(second.x, second.y, state=state)])
    assert again.losses == report.losses


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([gd.Batch(X[:9, None], Y[:9, None], continues=True)], "no batch before it has kept"),
        ([gd.Batch(X[:9, None], Y[:9, None], keep=10)], r"keep must be in 0\.\.T = 0\.\.9.*got 10"),
        (
            [
                gd.Batch(X[:9, None], Y[:9, None], keep=9),
                gd.Batch(X[:9, None], Y[:9, None], state=gd.zero_state(NET, 1), continues=True),
            ],
            "must not have both a state and continues",
        ),
    ],
)
def test_wrong_batches(batches, message):
    with pytest.raises(gd.ArgumentError, match=message):
        make().fit(batches)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": [X, X]}, gd.DTypeError, r"one array or memory map.*gradcore\.data\.Sequences"),
        ({"x": X[:, None]}, gd.DTypeError, "x must hold floats if it has columns"),
        ({"x": np.ones((2, 2, 2))}, gd.ShapeError, r"x must have shape \(N,\) or \(N, columns\)"),
        ({"x": X[:0], "y": Y[:0]}, gd.ArgumentError, "x must not be empty"),
        ({"y": Y[:-1]}, gd.ShapeError, r"one row per step of x, 202; it has 201.*x\[:-1\]"),
        ({"weight": np.ones(3)}, gd.ShapeError, "weight must have one row per step"),
        ({"weight": np.ones((202, 1))}, gd.ShapeError, "weight must have one value per step"),
        ({"reset": np.zeros(202, int)}, gd.DTypeError, "reset must have dtype bool; got int64"),
        ({"batch_size": 203}, gd.ArgumentError, "batch_size must be at most the number of steps"),
        ({"k1": 0}, gd.ArgumentError, "k1 must be at least 1"),
        ({"k2": 9}, gd.ArgumentError, "k2 must be at least k1 = 10"),
        ({"burn_in": 202}, gd.ArgumentError, "burn_in must be at least 0 and less than the steps"),
        ({"burn_in": -1}, gd.ArgumentError, "burn_in must be at least 0"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Stream(**{"x": X, "y": Y, "k1": 10, **arguments})
