"""Checkpoints: what they restore, how they are written, and the ways in which a file can be
wrong.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gradcore as gd
from gradcore._net import io
from gradcore._net.flat import ParameterSpec

NETS = [
    gd.Stack(gd.RNN(3, 5, nonlinearity="relu")),
    gd.Stack(
        gd.Embedding(7, 8),
        gd.LSTM(8, 8, residual=True, skip=gd.Skip(4, kind="mix", value=0.25, learned=True)),
        gd.GRU(8, 3, bias=False, skip=gd.Skip(2, value=-0.5)),
        gd.Linear(3, 2, bias=False),
    ),
]
NET = NETS[1]
PARAMS = NET.init(seed=3)


@pytest.mark.parametrize("net", NETS, ids=["rnn", "stack"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip(tmp_path, net, dtype):
    params = net.init(seed=3, dtype=dtype)
    metadata = {"step": 7, "note": "ünïcode", "nested": {"a": [1, None, 2.5]}}
    gd.save(tmp_path / "net.safetensors", net, params, **metadata)
    loaded = gd.load(str(tmp_path / "net.safetensors"))
    assert loaded.net == net
    assert loaded.params == params
    assert loaded.params.dtype == dtype
    assert loaded.metadata == metadata
    net, params, _ = loaded
    assert params.net is net


def test_the_file_is_plain_safetensors(tmp_path):
    gd.save(tmp_path / "a", NET, PARAMS)
    tensors = load_file(tmp_path / "a")
    assert set(tensors) == set(PARAMS)
    np.testing.assert_array_equal(tensors["1.weight_hh"], PARAMS["1.weight_hh"])


def test_loaded_parameters_are_independent_of_the_file(tmp_path):
    path = tmp_path / "a"
    gd.save(path, NET, PARAMS)
    loaded = gd.load(path).params
    path.write_bytes(b"\0" * path.stat().st_size)
    assert loaded == PARAMS
    loaded["3.weight"] += 1.0


def test_writing_replaces_whole_files_only(tmp_path, monkeypatch):
    path = tmp_path / "a"
    gd.save(path, NET, PARAMS, version=1)

    def full_disk(tensors, name, header):
        name.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io, "save_file", full_disk)
    with pytest.raises(gd.CheckpointError, match=r"cannot write .*: No space left on device"):
        gd.save(path, NET, PARAMS, version=2)
    monkeypatch.undo()
    assert gd.load(path).metadata == {"version": 1}
    assert os.listdir(tmp_path) == ["a"]
    gd.save(path, NET, PARAMS, version=3)
    assert gd.load(path).metadata == {"version": 3}
    assert os.listdir(tmp_path) == ["a"]


def test_permissions_are_those_of_ordinary_files(tmp_path):
    gd.save(tmp_path / "a", NET, PARAMS)
    (tmp_path / "b").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"]
    assert modes[0] == modes[1]


def test_unwritable_places(tmp_path):
    with pytest.raises(gd.CheckpointError, match=r"cannot write .*: No such file or directory"):
        gd.save(tmp_path / "missing" / "a", NET, PARAMS)
    with pytest.raises(gd.CheckpointError, match=r"cannot write .*: it is a folder"):
        gd.save(tmp_path, NET, PARAMS)


def test_places_that_hold_no_net(tmp_path):
    with pytest.raises(gd.CheckpointError, match=r"it is a folder\. Name a file in it"):
        gd.load(tmp_path)
    with pytest.raises(gd.CheckpointError, match="a device or a pipe"):
        gd.load(os.devnull)
    (tmp_path / "a").touch()
    with pytest.raises(gd.CheckpointError, match="truncated or damaged: it is empty"):
        gd.load(tmp_path / "a")
    with pytest.raises(gd.CheckpointError, match=r"cannot read .*/b: no such file"):
        gd.load(tmp_path / "b")


def test_what_may_be_saved(tmp_path):
    with pytest.raises(gd.CheckpointError, match="metadata must be values that JSON can hold"):
        gd.save(tmp_path / "a", NET, PARAMS, callback=print)
    with pytest.raises(gd.ShapeError, match="params must belong to the net"):
        gd.save(tmp_path / "a", NETS[0], PARAMS)
    assert not os.listdir(tmp_path)


def header(**changes):
    values = {
        "format": "gradcore",
        "format_version": "1",
        "net": json.dumps(io.describe(NET)),
        "user": "{}",
    }
    return {k: v for k, v in {**values, **changes}.items() if v is not None}


def net_with(index, **changes):
    description = io.describe(NET)
    description[index].update(changes)
    return header(net=json.dumps(description))


TENSORS = dict(PARAMS)


def without(name):
    return {k: v for k, v in TENSORS.items() if k != name}


BAD_FILES = [
    (TENSORS, header(format=None), "not one that gradcore.save wrote"),
    (TENSORS, header(format="other"), "not one that gradcore.save wrote"),
    (
        TENSORS,
        header(format_version="3"),
        "has format version 3; this gradcore reads up to 2. Update",
    ),
    (TENSORS, header(format_version="9" * 5000), "this gradcore reads up to 2"),
    (TENSORS, header(format_version="one"), "format version 'one', which is not a number"),
    (TENSORS, header(format_version=None), "format version '', which is not a number"),
    (TENSORS, header(net=None), "is damaged: Expecting value"),
    (TENSORS, header(net="[" * 100_000), "is damaged"),
    (TENSORS, header(net="{}"), "is damaged: the description of the net is not a list"),
    (TENSORS, header(net="[1]"), "is damaged: the description of the net is not a list"),
    (TENSORS, header(net="[]"), "is damaged: Stack must be .*; got no recurrent layer"),
    (TENSORS, header(user="[]"), "is damaged: its user metadata are not an object"),
    (TENSORS, header(user=None), "is damaged: Expecting value"),
    (TENSORS, net_with(1, layer="Stack"), "a layer 'Stack', which this version does not know"),
    (TENSORS, net_with(1, layer=["LSTM"]), r"a layer \['LSTM'\], which this version does not"),
    (TENSORS, net_with(1, peephole=0.1), "LSTM has options this version does not know: peephole"),
    (
        TENSORS,
        net_with(1, skip={"lag": 2, "z": 1}),
        "Skip has options this version does not know: z",
    ),
    (TENSORS, net_with(1, skip={}), "the description of Skip is incomplete"),
    (TENSORS, net_with(1, skip=3), r"LSTM\.skip must be a Skip or None; got 3"),
    (TENSORS, net_with(1, hidden_size=-8), "is damaged: LSTM.hidden_size must be at least 1"),
    (TENSORS, net_with(1, hidden_size="8"), "is damaged: LSTM.hidden_size must be an integer"),
    (TENSORS, net_with(0, num_embeddings=2**24), r"0\.weight must have shape \(16777216, 8\)"),
    (without("3.weight"), header(), r"3\.weight must have shape \(2, 3\); the file has None"),
    ({**TENSORS, "evil": np.ones(1)}, header(), "evil must have shape None"),
    (
        {**TENSORS, "3.weight": np.ones((3, 2), np.float32)},
        header(),
        r"3\.weight must have shape \(2, 3\); the file has \(3, 2\)",
    ),
    (
        {**TENSORS, "3.weight": np.ones((2, 3))},
        header(),
        "must all be F32 or all F64; they are F32, F64",
    ),
    ({k: v.astype("f2") for k, v in TENSORS.items()}, header(), "all F64; they are F16"),
]


@pytest.mark.parametrize(("tensors", "metadata", "message"), BAD_FILES)
def test_bad_files(tmp_path, tensors, metadata, message):
    save_file(tensors, tmp_path / "a", metadata)
    with pytest.raises(gd.CheckpointError, match=message) as caught:
        gd.load(tmp_path / "a")
    assert str(tmp_path / "a") in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        b"not a checkpoint at all" * 10,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 50) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        b"\x80\x04\x95" + b"\0" * 100,
    ],
)
def test_foreign_files(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(gd.CheckpointError, match="is not a safetensors file, or is truncated"):
        gd.load(tmp_path / "a")


def test_truncated_files(tmp_path):
    path = tmp_path / "a"
    gd.save(path, NET, PARAMS)
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(gd.CheckpointError, match="truncated or damaged"):
            gd.load(path)


def test_flipped_bytes_never_crash(tmp_path):
    path = tmp_path / "a"
    gd.save(path, NET, PARAMS)
    whole = bytearray(path.read_bytes())
    start = len(whole) - PARAMS.flat.nbytes
    for position in range(0, start, 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0x15
        path.write_bytes(damaged)
        try:
            loaded = gd.load(path)
        except gd.CheckpointError:
            continue
        # If the changed file still loads, it must be a net with parameters that fit it.
        assert loaded.params.flat.size == loaded.net.n_parameters


def test_unreadable_files(tmp_path):
    with pytest.raises(gd.CheckpointError, match=r"cannot read .*missing"):
        gd.load(tmp_path / "missing")
    with pytest.raises(gd.CheckpointError, match="cannot read"):
        gd.load(tmp_path)


@pytest.mark.parametrize("layers", [10_001, 300_000])
def test_a_header_of_very_many_layers_is_refused_at_once(layers, tmp_path):
    net = json.dumps([{"layer": "Dropout", "p": 0.5}] * layers)
    header = {"format": "gradcore", "format_version": "1", "net": net, "user": "{}"}
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "a", header)
    start = time.monotonic()
    with pytest.raises(gd.CheckpointError, match=f"the net has {layers:,} layers; at most 10,000"):
        gd.load(tmp_path / "a")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("path", ["", b"x", "a\0b", None, 3])
def test_what_is_no_path_is_refused(path):
    for call in (lambda: gd.save(path, NET, PARAMS), lambda: gd.load(path)):
        with pytest.raises((gd.ArgumentError, gd.DTypeError), match="path must be a path"):
            call()


def test_time_grows_with_the_number_of_layers_only(tmp_path, monkeypatch):
    """Looks at descriptions of parameters are counted, because times vary on a busy machine."""
    looks = 0

    def counting(self, name):
        nonlocal looks
        looks += 1
        return object.__getattribute__(self, name)

    def count(layers):
        nonlocal looks
        net = gd.Stack(*[gd.RNN(1, 1)] * layers)
        params, path, looks = net.init(seed=0), tmp_path / "net.safetensors", 0
        gd.save(path, net, params)
        found = gd.load(path)
        assert found.params == params
        return looks

    monkeypatch.setattr(ParameterSpec, "__getattribute__", counting)
    few = count(50)
    assert few > 0
    assert count(200) < 4.5 * few
