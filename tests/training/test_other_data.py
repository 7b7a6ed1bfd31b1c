"""A resumed run notices other data of the same shape, and data in other roles."""

import json

import numpy as np
import pytest

import gradcore as gd
from gradcore._net import io
from gradcore.data import _contents

RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, 2)).astype(np.float32)
Y = RNG.standard_normal((200, 2)).astype(np.float32)
NET = gd.Stack(gd.GRU(2, 3), gd.Linear(3, 2))


def sequences(x=X, y=Y, **options):
    return gd.data.Sequences(
        [x[:90], x[90:]], [y[:90], y[90:]], batch_size=1, seed=1, dtype="float32", **options
    )


def stream(x=X, y=Y, **options):
    return gd.data.Stream(x, y, k1=20, batch_size=2, **options)


def batches(x=X, y=Y, **options):
    return [gd.Batch(x[i : i + 50, None], y[i : i + 50, None], **options) for i in (0, 50, 100)]


def fit(data, run, steps, **options):
    params = NET.init(seed=0)
    trainer = gd.Trainer(
        NET, params, gd.optim.Adam(params, 0.01), loss="mse", threads=1, quiet=True
    )
    trainer.fit(data, steps=steps, run=run, **options)
    return params


@pytest.mark.parametrize("make", [sequences, stream, batches])
@pytest.mark.parametrize(
    ("other", "told"),
    [
        ((-X, Y), "numbers in x of the data differ from"),
        ((2 * X, Y), "numbers in x of"),
        ((X, -Y), "numbers in y of"),
        ((X[::-1].copy(), Y[::-1].copy()), "numbers in x and y of"),
        ((Y, X), "x and y of the data have changed places"),
    ],
)
def test_other_data_of_equal_shape_are_refused(make, other, told, tmp_path):
    fit(make(), tmp_path / "r", 3)
    with pytest.raises(gd.ArgumentError, match=f"holds a run with other settings.*{told}"):
        fit(make(*other), tmp_path / "r", 6, resume=True)
    resumed = fit(make(X.copy(), Y.copy()), tmp_path / "r", 6, resume=True)
    assert resumed == fit(make(), tmp_path / "whole", 6)


def test_weights_and_resets_count(tmp_path):
    fit(stream(weight=np.ones(200), reset=np.zeros(200, bool)), tmp_path / "r", 3)
    later = np.zeros(200, bool)
    later[150] = True
    with pytest.raises(gd.ArgumentError, match="numbers in reset of"):
        fit(stream(weight=np.ones(200), reset=later), tmp_path / "r", 6, resume=True)
    with pytest.raises(gd.ArgumentError, match="numbers in weight of"):
        fit(
            stream(weight=np.full(200, 0.5), reset=np.zeros(200, bool)),
            tmp_path / "r",
            6,
            resume=True,
        )


def generated(x=X, y=Y):
    return lambda epoch: iter(batches(x, y))


@pytest.mark.parametrize("make", [generated, lambda *given: iter(batches(*given))])
def test_batches_that_a_generator_gave_are_compared(make, tmp_path):
    once = make is not generated
    fit(make(), tmp_path / "r", 2)
    late = X.copy()
    late[100:] *= 2  # the third batch has not been used yet
    for other in ((-X, Y), (X, -Y), (Y, X)):
        with pytest.raises(gd.CheckpointError, match="the first 2 batches of pass 0 are others"):
            fit(make(*other), tmp_path / "r", 3, resume=True)
    resumed = fit(make(X.copy(), Y.copy()), tmp_path / "r", 3, resume=True)
    assert resumed == fit(make(), tmp_path / "whole", 3)
    if not once:  # in the second pass the hash begins anew
        fit(generated(), tmp_path / "r", 5, resume=True)
        with pytest.raises(gd.CheckpointError, match="the first 2 batches of pass 1 are others"):
            fit(generated(-X), tmp_path / "r", 6, resume=True)
        fit(generated(late), tmp_path / "r", 6, resume=True)


def test_generated_batches_with_weights_and_without_arrays(tmp_path):
    def weighted(value):
        return lambda epoch: batches(weight=np.full((50, 1), value, np.float32))

    fit(weighted(1.0), tmp_path / "r", 2)
    with pytest.raises(gd.CheckpointError, match="are others than those that the run has used"):
        fit(weighted(0.5), tmp_path / "r", 3, resume=True)
    with pytest.raises(gd.CheckpointError, match="are others than those that the run has used"):
        fit(generated(), tmp_path / "r", 3, resume=True)
    fit(weighted(1.0), tmp_path / "r", 3, resume=True)


@pytest.mark.parametrize("make", [sequences, stream, batches])
def test_other_validation_data_are_refused(make, tmp_path):
    fit(batches(), tmp_path / "r", 2, validation=make(), every=1)
    for other, told in (
        ((-X, Y), "numbers in x of the validation data differ"),
        ((X, -Y), "numbers in y of the validation data differ"),
        ((Y, X), "x and y of the validation data have changed places"),
    ):
        with pytest.raises(gd.ArgumentError, match=f"with other settings.*{told}"):
            fit(batches(), tmp_path / "r", 3, validation=make(*other), every=1, resume=True)
    other = stream() if make is sequences else sequences()
    with pytest.raises(gd.ArgumentError, match=r"validation\.source was"):
        fit(batches(), tmp_path / "r", 3, validation=other, every=1, resume=True)
    same = make(X.copy(), Y.copy())
    resumed = fit(batches(), tmp_path / "r", 3, validation=same, every=1, resume=True)
    assert resumed == fit(batches(), tmp_path / "whole", 3)


def test_validation_may_begin_and_end_later(tmp_path):
    fit(batches(), tmp_path / "r", 1)
    fit(batches(), tmp_path / "r", 2, validation=batches(-X), every=1, resume=True)
    resumed = fit(batches(), tmp_path / "r", 3, resume=True)
    assert resumed == fit(batches(), tmp_path / "whole", 3)


def test_roles_of_the_users_own_count(tmp_path):
    first, second = sequences(), sequences()
    first.roles = {"target": "speed"}
    second.roles = {"target": "height"}
    fit(first, tmp_path / "r", 3)
    with pytest.raises(gd.ArgumentError, match=r"data\.roles\.target was 'speed' and is 'height'"):
        fit(second, tmp_path / "r", 6, resume=True)


def test_runs_of_earlier_versions_can_be_resumed(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(gd.data.Sequences, "contents", lambda self: {})
        fit(sequences(), tmp_path / "r", 3)
    path = tmp_path / "r" / "last.safetensors"
    with io.open_checkpoint(path) as file:
        settings = json.loads(file.metadata()[io.TRAINING])["settings"]["data"]
    assert settings["contents"] == {}
    from gradcore._training import snapshot

    without = {name: value for name, value in settings.items() if name not in ("contents", "roles")}
    assert snapshot._differences(without, {**settings, "contents": {"x": "a"}}) == []


def test_a_sample_of_a_large_memory_map_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_contents, "WHOLE", 1000)
    monkeypatch.setattr(_contents, "BLOCKS", 2)
    monkeypatch.setattr(_contents, "BLOCK", 80)
    np.save(tmp_path / "x.npy", X)
    params = NET.init(seed=0)
    trainer = gd.Trainer(NET, params, gd.optim.Adam(params, 0.01), loss="mse", threads=1)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    trainer.fit(stream(x), steps=1, run=tmp_path / "r")
    said = capsys.readouterr()
    assert "will compare a sample of 160 of 1,600 bytes of x" in said.err + said.out
