"""gradcore.load of safetensors files that other programs have written."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

import gradcore as gd

NET = gd.Stack(gd.Embedding(7, 3), gd.LSTM(3, 4, bidirectional=True), gd.GRU(8, 4), gd.Linear(4, 2))
PARAMS = NET.init(seed=1)


def named(params, names):
    """Parameters by other names: a table of prefixes, and of numbers of recurrent layers."""
    tensors = {}
    for name, array in params.items():
        place, own = name.split(".")
        prefix, layer = names[int(place)]
        base, reverse, _ = own.partition("_reverse")
        tensors[f"{prefix}.{base}{layer}{reverse}"] = array.copy()
    return tensors


def test_our_names_without_our_metadata(tmp_path):
    save_file(dict(PARAMS), tmp_path / "a.safetensors")
    net, params, metadata = gd.load(tmp_path / "a.safetensors")
    assert (net, metadata) == (NET, {})
    assert params == PARAMS


def test_more_than_ten_layers_stay_in_order(tmp_path):
    net = gd.Stack(*(gd.RNN(n, n + 1) for n in range(1, 14)))
    params = net.init(seed=2, dtype="float64")
    names = [(f"model.cells.{place}", "_l0") for place in range(13)]
    save_file(named(params, names), tmp_path / "a.safetensors", {"format": "pt"})
    found = gd.load(tmp_path / "a.safetensors")
    assert found.net == net
    assert found.params == params
    assert found.metadata == {"format": "pt"}


def test_names_of_torch_without_numbers(tmp_path):
    net = gd.Stack(gd.Embedding(7, 3), gd.GRU(3, 4), gd.GRU(4, 4), gd.Linear(4, 2))
    params = net.init(seed=1)
    tensors = named(params, [("words", ""), ("rnn", "_l0"), ("rnn", "_l1"), ("a_head", "")])
    save_file(tensors, tmp_path / "a.safetensors")
    found = gd.load(tmp_path / "a.safetensors")
    assert found.net == net
    assert found.params == params


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({"conv.kernel": np.ones(3, "f")}), "conv.kernel is not the name"),
        (lambda t: t.update({"0.weight": t["0.weight"].astype("f8")}), "all be float32 or all"),
        (lambda t: t.update({"3.weight": np.ones((2, 5), "f")}), "in_features 4"),
        (lambda t: t.pop("1.weight_ih_reverse"), "weight_ih_reverse of 1 must have shape"),
        (lambda t: t.clear(), "recurrent"),
        (lambda t: t.update({f"{'9' * 5000}.weight": t["3.weight"]}), "not recognised"),
        (lambda t: t.update({"0.weight": np.array(1.0, "f")}), r"weight of shape \(\)"),
        (lambda t: t.update({"3.weight": np.ones((0, 4), "f")}), "out_features must be at least 1"),
        (lambda t: t.update({"1.weight_hh": np.ones((0, 0), "f")}), "1, 3 or 4 times as many rows"),
    ],
)
def test_what_is_no_net_is_told(tmp_path, change, message):
    tensors = dict(PARAMS)
    change(tensors)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(gd.CheckpointError, match=message):
        gd.load(tmp_path / "a.safetensors")


def test_numbers_of_another_kind_are_told(tmp_path):
    """bfloat16, which NumPy does not have, and integers."""
    torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")
    from safetensors.torch import save_file as save_tensors

    for dtype in (torch.bfloat16, torch.float16, torch.int32):
        tensors = {name: torch.ones(a.shape, dtype=dtype) for name, a in PARAMS.items()}
        save_tensors(tensors, tmp_path / "a.safetensors")
        with pytest.raises(gd.CheckpointError, match="not recognised"):
            gd.load(tmp_path / "a.safetensors")


def test_an_order_that_cannot_be_told_is_not_guessed(tmp_path):
    tensors = named(PARAMS, [("words", ""), ("first", "_l0"), ("second", "_l0"), ("head", "")])
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(gd.CheckpointError, match="order of the layers cannot be told"):
        gd.load(tmp_path / "a.safetensors")
    net = gd.Stack(gd.LayerNorm(3), gd.GRU(3, 4))
    save_file(named(net.init(), [("norm", ""), ("rnn", "_l0")]), tmp_path / "a.safetensors")
    with pytest.raises(gd.CheckpointError, match="place of a LayerNorm"):
        gd.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("lost", ["format", "net", "checksum"])
def test_a_damaged_file_of_ours_is_not_taken_for_a_foreign_one(tmp_path, lost):
    from gradcore._net import io

    path = tmp_path / "a.safetensors"
    gd.save(path, NET, PARAMS)
    with io.open_checkpoint(path) as file:
        header = dict(file.metadata())
    header[f"{lost}x"] = header.pop(lost)
    save_file(dict(PARAMS), path, header)
    with pytest.raises(gd.CheckpointError):
        gd.load(path)
