"""Fingerprints of data: what changes them, what does not, and how much of a memory map is read."""

import numpy as np
import pytest

import gradcore as gd
from gradcore.data import _contents
from gradcore.data._contents import fingerprint

RNG = np.random.default_rng(0)
X = RNG.standard_normal((1000, 3)).astype(np.float32)


def changed(array, place, value):
    other = array.copy()
    other[place] = value
    return other


def test_the_numbers_count_and_not_their_layout():
    whole = fingerprint(X)
    assert whole == fingerprint(np.asfortranarray(X)) == fingerprint(X.copy())
    assert whole == fingerprint(np.repeat(X, 2, axis=1)[:, ::2])
    assert fingerprint([X, X]) == fingerprint((X, np.asfortranarray(X)))


@pytest.mark.parametrize(
    "other",
    [
        -X,
        2 * X,
        X[::-1],
        X[:, ::-1],
        X[:-1],
        changed(X, (999, 2), 7.0),
        changed(X, (0, 0), np.nextafter(X[0, 0], np.float32(9))),
        X.astype(np.float64),
        X.reshape(3, 1000),
        X.view(np.int32),
    ],
)
def test_other_numbers_shapes_and_dtypes_are_noticed(other):
    assert fingerprint(other) != fingerprint(X)


def test_lists_are_more_than_their_numbers():
    assert fingerprint([X[:500], X[500:]]) != fingerprint([X[:400], X[400:]])
    assert fingerprint([X]) == fingerprint(X)


@pytest.mark.parametrize("rows", [1, 2, 5, 2**15, 2**16, 2**16 + 1, 2**20 + 3])
def test_every_row_of_an_array_is_read(rows):
    array = np.arange(rows, dtype=np.uint8)
    whole = fingerprint(array)
    for place in {0, rows // 3, rows - 1}:
        assert fingerprint(changed(array, place, 77 ^ array[place])) != whole


def big_map(tmp_path, size=100 * 10**6):
    path = tmp_path / "big.npy"
    made = np.lib.format.open_memmap(path, "w+", np.uint8, (size,))
    made[::4096] = 1
    made.flush()
    return made


def test_of_a_large_memory_map_a_sample_is_read(tmp_path):
    made = big_map(tmp_path)
    found = fingerprint(made)
    assert found.startswith("sample of 16,777,216 of 100,000,000 bytes")
    assert fingerprint(made[:]) == found
    for place in (0, len(made) - 1):  # the first and the last rows belong to it
        made[place] ^= 1
        assert fingerprint(made) != found
        made[place] ^= 1
    assert fingerprint(made) == found
    made[:] = 3
    assert fingerprint(made) != found
    assert "sample" not in fingerprint(made[: 10**6])
    assert "sample" not in fingerprint(np.array(made[: 70 * 10**6]))  # in memory: all of it


def test_many_maps_are_read_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(_contents, "WHOLE", 10**6)
    monkeypatch.setattr(_contents, "BLOCKS", 4)
    paths = [tmp_path / f"{i}.npy" for i in range(6)]
    for path in paths:
        np.save(path, np.zeros(400_000, np.uint8))
    maps = [np.load(path, mmap_mode="r") for path in paths]
    assert fingerprint(maps).startswith("sample of 1,848,576 of 2,400,000 bytes")


def test_sources_tell_the_numbers_by_role():
    x, y = [X[:500], X[500:]], [X[:500, :1], X[500:, :1]]
    one = gd.data.Sequences(x, y, batch_size=2)
    assert set(one.contents()) == {"x", "y"}
    assert one.contents() == gd.data.Sequences(x, y, batch_size=1, seed=4).contents()
    weighted = gd.data.Sequences(x, y, batch_size=2, weight=[np.ones(500), np.ones(500)])
    assert set(weighted.contents()) == {"x", "y", "weight"}
    stream = gd.data.Stream(X, X[:, 0], k1=10, reset=X[:, 0] > 1)
    assert set(stream.contents()) == {"x", "y", "reset"}
    last = gd.data.Sequences(x, np.array([1, 2]), step="last", batch_size=2)
    assert last.contents()["x"] == one.contents()["x"]
