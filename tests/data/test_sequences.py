"""gd.data.Sequences gives each sequence once per pass, pads as little as possible, and is the same
for the same seed.
"""

from __future__ import annotations

import numpy as np
import pytest

import gradcore as gd
from gradcore.data import Sequences

RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(1, 40, 103)
TOKENS = [RNG.integers(0, 9, n) for n in LENGTHS]
NEXT = [np.roll(t, -1) for t in TOKENS]
FLOATS = [RNG.normal(size=(n, 3)).astype(np.float32) for n in LENGTHS]


def unpadded(batch):
    """The steps of x, y and weight of each sequence of a batch, after a check of the padding."""
    steps, count = batch.x.shape[:2]
    lengths = np.full(count, steps) if batch.lengths is None else batch.lengths
    assert lengths.max() == steps
    for b, length in enumerate(lengths):
        for array in (batch.x, batch.y, batch.weight):
            if array is not None and array.shape[:2] == (steps, count):
                assert not array[length:, b].any()
        yield (
            batch.x[:length, b],
            batch.y[:length, b],
            None if batch.weight is None else batch.weight[:length, b],
        )


@pytest.mark.parametrize("options", [{}, {"bucket": False}, {"shuffle": False}])
def test_a_pass_has_every_sequence_once(options):
    source = Sequences(TOKENS, NEXT, batch_size=8, seed=4, **options)
    seen = []
    batches = list(source)
    assert len(batches) == len(source) == 13
    for batch in batches:
        for x, y, _ in unpadded(batch):
            np.testing.assert_array_equal(np.roll(x, -1), y)
            seen.append(tuple(x))
    assert sorted(seen) == sorted(tuple(t) for t in TOKENS)


def test_order_is_a_function_of_seed_and_pass():
    first, second = (Sequences(TOKENS, NEXT, batch_size=8, seed=4) for _ in range(2))
    passes = [list(first) for _ in range(2)]
    assert first.epoch == 2
    for index in range(len(second)):
        np.testing.assert_array_equal(second.batch(1, index).x, passes[1][index].x)
    second.load_state_dict({"epoch": 1, "position": 5})
    np.testing.assert_array_equal(second.take().x, passes[1][5].x)
    assert any(a.x.shape != b.x.shape or (a.x != b.x).any() for a, b in zip(*passes, strict=True))
    other = Sequences(TOKENS, NEXT, batch_size=8, seed=5)
    orders = [np.concatenate(s.rows(0)).tolist() for s in (second, other)]
    assert orders[0] != orders[1]


def test_without_shuffle_the_order_is_that_given():
    source = Sequences(TOKENS, NEXT, batch_size=8, shuffle=False)
    for epoch in (0, 3):
        np.testing.assert_array_equal(np.concatenate(source.rows(epoch)), np.arange(len(TOKENS)))


def test_bucketing_saves_most_of_the_padding():
    def padded(bucket):
        source = Sequences(TOKENS, NEXT, batch_size=8, bucket=bucket)
        return sum(b.x.size for b in source) - LENGTHS.sum()

    assert padded(True) < 0.25 * padded(False)


def test_buckets_are_made_within_pools(monkeypatch):
    monkeypatch.setattr("gradcore.data._sequences.POOL_BATCHES", 2)
    source = Sequences(TOKENS, NEXT, batch_size=8, seed=1)
    order = np.random.default_rng([1, 0]).permutation(len(TOKENS))
    pools = [set(order[i : i + 16]) for i in range(0, len(order), 16)]
    for rows in source.rows(0):
        assert any(set(rows) <= pool for pool in pools)


def test_drop_last():
    source = Sequences(TOKENS, NEXT, batch_size=8, drop_last=True)
    batches = list(source)
    assert len(batches) == len(source) == 12
    assert all(b.x.shape[1] == 8 for b in batches)


def test_floats_are_cast_and_get_their_columns():
    x = [f[:, 0].astype(np.float64) for f in FLOATS]
    source = Sequences(x, FLOATS, batch_size=4, shuffle=False, dtype="float64")
    batch = source.take()
    assert batch.x.shape == (LENGTHS[:4].max(), 4, 1)
    assert batch.x.dtype == batch.y.dtype == np.float64
    np.testing.assert_array_equal(batch.x[: LENGTHS[1], 1, 0], x[1])
    assert Sequences(x, FLOATS, batch_size=4).take().x.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.uint8, np.int32, np.uint32, bool])
def test_integers_of_any_width(dtype):
    tokens = [(t % 2).astype(dtype) for t in TOKENS]
    batch = Sequences(tokens, tokens, batch_size=4, shuffle=False).take()
    assert batch.x.dtype == (dtype if dtype in (np.uint8, np.int32) else np.int64)
    np.testing.assert_array_equal(batch.x[: LENGTHS[0], 0], tokens[0])


def test_weights_of_sequences_and_of_steps():
    each = RNG.uniform(0.5, 2, len(TOKENS))
    by_sequence = Sequences(TOKENS, NEXT, weight=each, batch_size=8, shuffle=False)
    lists = [np.full(n, w) for n, w in zip(LENGTHS, each, strict=True)]
    by_step = Sequences(TOKENS, NEXT, weight=lists, batch_size=8, shuffle=False)
    for index in range(len(by_step)):
        a, b = by_sequence.batch(0, index), by_step.batch(0, index)
        assert a.weight.dtype == b.weight.dtype == np.float32
        for (_, _, w), (_, _, v) in zip(unpadded(b), _cut(a), strict=True):
            np.testing.assert_array_equal(w, v)


def _cut(batch):
    """As `unpadded`, for weights that are also defined after the end."""
    for b in range(batch.x.shape[1]):
        length = len(batch.x) if batch.lengths is None else batch.lengths[b]
        yield None, None, batch.weight[:length, b]


@pytest.mark.parametrize("y", [np.arange(103), np.ones((103, 2)), np.ones(103)])
def test_one_target_per_sequence(y):
    weight = np.linspace(0.1, 1, 103)
    source = Sequences(TOKENS, y, weight=weight, step="last", batch_size=8, seed=3)
    rows = source.rows(0)[2]
    batch = source.batch(0, 2)
    np.testing.assert_array_equal(batch.y.reshape(8, -1), y[rows].reshape(8, -1))
    assert batch.y.ndim == (1 if y.dtype.kind == "i" else 2)
    np.testing.assert_array_equal(batch.weight, weight[rows].astype(np.float32))


def test_one_array_time_first_is_the_same_as_a_list():
    steps = LENGTHS.max()
    x = np.full((steps, 103, 3), np.nan, np.float32)
    y = np.full((steps, 103), 7)
    for i, n in enumerate(LENGTHS):
        x[:n, i], y[:n, i] = FLOATS[i], NEXT[i]
    array = Sequences(x, y, lengths=LENGTHS, batch_size=8, seed=2)
    ragged = Sequences(FLOATS, NEXT, batch_size=8, seed=2)
    for index in range(len(array)):
        a, b = array.batch(0, index), ragged.batch(0, index)
        np.testing.assert_array_equal(a.x, b.x)
        np.testing.assert_array_equal(a.y, b.y)
        np.testing.assert_array_equal(a.lengths, b.lengths)


def test_of_a_memory_map_only_the_columns_of_a_batch_are_read(tmp_path):
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(20, 50, 2))
    x[:] = RNG.normal(size=x.shape)
    reads = []

    class Watched(np.memmap):
        def __getitem__(self, key):
            reads.append(key)
            return super().__getitem__(key)

    source = Sequences(x.view(Watched), np.asarray(x), batch_size=5)
    assert sum(np.size(key) > 2 for key in reads) == 0
    batch = source.take()
    assert batch.x.shape == (20, 5, 2)
    np.testing.assert_array_equal(batch.x, np.asarray(x)[:, source.rows(0)[0]])
    assert [len(key[1]) for key in reads if isinstance(key, tuple)] == [5]


def test_batches_are_the_callers_own():
    source = Sequences(np.ones((5, 3, 1), np.float32), np.ones((5, 3, 1), np.float32), batch_size=3)
    source.batch(0, 0).x[:] = 7
    assert source.batch(0, 0).x.max() == 1


E_ = gd.ArgumentError
S_ = gd.ShapeError
D_ = gd.DTypeError


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": [], "y": []}, E_, "x must not be empty"),
        ({"x": "abc"}, D_, "x must be a list of arrays, one per sequence, or one array"),
        ({"x": {1: 2}}, D_, "x must be a list of arrays"),
        ({"x": [np.ones((2, 2, 2))]}, S_, r"x\[0\] must have shape \(T,\) or \(T, columns\)"),
        ({"x": [*TOKENS[:5], np.zeros(0, int)]}, S_, r"x\[5\] has no steps; leave empty"),
        (
            {"x": [FLOATS[0], FLOATS[1][:, :2]]},
            S_,
            r"same number of columns; .* x\[1\] has shape \(2,\)",
        ),
        ({"x": [TOKENS[0], TOKENS[1] * 0.5]}, D_, r"all floats or all integers; x\[1\] is float64"),
        ({"x": [np.array(["a", "b"])]}, D_, r"x\[0\] must hold numbers; .* numpy\.unique"),
        (
            {"x": [np.ones((3, 2), int)] * 103},
            D_,
            "must hold floats if it has columns; .*astype",
        ),
        ({"x": np.ma.ones((3, 2))}, D_, "masked array"),
        ({"y": NEXT[:-1]}, S_, "y must have as many sequences as x, 103; it has 102"),
        (
            {"y": [*NEXT[:4], NEXT[4][:-1], *NEXT[5:]]},
            S_,
            rf"sequence 4 has {LENGTHS[4]} steps in x and {LENGTHS[4] - 1} in y",
        ),
        ({"y": np.arange(103)}, S_, "y must have one value per step.* pass step='last'"),
        ({"y": list(range(103))}, S_, "y must have one value per step"),
        ({"y": np.ones((40, 103, 2, 2))}, S_, r"y must have shape \(T, N\)"),
        ({"y": np.ones((103, 40))}, S_, r"y has 40 sequences.*pass y\.swapaxes"),
        ({"y": np.arange(102), "step": "last"}, S_, "y must have one target per sequence"),
        ({"step": "first"}, E_, "step must be one of 'all', 'last'"),
        ({"weight": np.ones(102)}, S_, "one value per sequence, 103 of them; got 102"),
        ({"weight": [1.0, np.nan] * 51 + [1]}, E_, "that of sequence 1 is nan. Use 0 to leave"),
        ({"weight": [np.ones(3)] * 103}, S_, "steps in x and 3 in weight"),
        ({"weight": FLOATS}, S_, "weight must have one value per step"),
        (
            {"weight": [np.ones(n) for n in LENGTHS], "step": "last", "y": np.arange(103)},
            S_,
            "one value per sequence with step='last'",
        ),
        ({"lengths": LENGTHS}, E_, "lengths must be None if x is a list"),
        ({"batch_size": 0}, E_, "batch_size must be at least 1"),
        ({"batch_size": 104, "drop_last": True}, E_, "drop_last leaves no batch"),
        ({"seed": -1}, E_, "seed must be at least 0"),
        ({"dtype": "float16"}, D_, "dtype must be 'float32' or 'float64'"),
        ({"shuffle": 1}, D_, "shuffle must be True or False"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Sequences(**{"x": TOKENS, "y": NEXT, "batch_size": 4, **arguments})


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([3, 2], S_, "one integer per sequence, and x has 4 sequences"),
        ([3.0, 2, 1, 1], S_, "float64"),
        (
            [3, 2, 0, 1],
            E_,
            "lengths must be in 1..T = 1..3, because x has 3 steps; the length of sequence 2 is 0",
        ),
        ([3, 2, 4, 1], E_, "length of sequence 2 is 4"),
    ],
)
def test_wrong_lengths(lengths, error, message):
    with pytest.raises(error, match=message):
        Sequences(np.ones((3, 4), int), np.ones((3, 4), int), lengths=lengths, batch_size=2)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "must have 'epoch'"),
        ({"epoch": 0}, "must have 'position'"),
        ({"epoch": 0, "position": 13}, r"position in 0\.\.12; got 0 and 13"),
        ({"epoch": -1, "position": 0}, "an epoch >= 0"),
        ({"epoch": 0, "position": "a"}, "position of the source must be an integer"),
    ],
)
def test_places_that_cannot_be(state, message):
    source = Sequences(TOKENS, NEXT, batch_size=8)
    source.take()
    with pytest.raises(gd.GradcoreError, match=message):
        source.load_state_dict(state)
    assert source.state_dict() == {"epoch": 0, "position": 1}


class DLPackOnly:
    """An array of another library that has DLPack but not __array__."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("kind", [DLPackOnly, memoryview])
def test_sources_take_what_calls_take(kind):
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((n, 2)).astype(np.float32) for n in (5, 7)]
    y = [np.ones((len(one), 1), np.float32) for one in x]
    plain = gd.data.Sequences(x, y, batch_size=2, seed=0)
    given = gd.data.Sequences(list(map(kind, x)), list(map(kind, y)), batch_size=2, seed=0)
    np.testing.assert_array_equal(given.batch(0, 0).x, plain.batch(0, 0).x)
    stream = gd.data.Stream(kind(x[0]), kind(y[0]), k1=3)
    np.testing.assert_array_equal(stream.batch(0, 0).x[:, 0], x[0][:3])
