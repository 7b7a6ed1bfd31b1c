"""Training checkpoints: what they contain, and that a wrong file only ever raises an error."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import gradcore as gd
from gradcore._training.checkpoint import Place, TrainingCheckpoint, read_training, write_training

NET = gd.Stack(gd.Embedding(5, 4), gd.LSTM(4, 6, skip=gd.Skip(2)), gd.Linear(6, 5))
TOKENS = np.arange(200) % 5
STEPS = 4


def make():
    params = NET.init(seed=1)
    return gd.Trainer(
        NET,
        params,
        gd.optim.Adam(params, 0.01, clip=gd.clip.ZScore()),
        loss="cross_entropy",
        schedule=gd.schedule.Plateau(),
        average=gd.optim.Average(params),
        threads=1,
        quiet=True,
    )


def stream():
    return gd.data.Stream(TOKENS[:-1], TOKENS[1:], batch_size=2, k1=10, k2=20)


def fit(folder, steps=STEPS, resume=False):
    trainer = make()
    trainer.fit(stream(), steps=steps, validation=stream(), every=2, run=folder, resume=resume)
    return trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a run of STEPS updates, interrupted so that one metrics line is not yet
    written.
    """
    folder = tmp_path_factory.mktemp("run")
    fit(folder)
    return folder


@pytest.fixture(scope="module")
def whole(run):
    return (run / "last.safetensors").read_bytes()


def header_of(path):
    with safe_open(path, framework="numpy") as file:
        return file.metadata()


@pytest.fixture
def edited(tmp_path, run):
    """Writes the checkpoint of the run with changed tensors or metadata; returns its path."""

    def edit(tensors=None, change=None, **metadata):
        source = run / "last.safetensors"
        old = header_of(source)
        del old["checksum"]  # which only tells that there is damage, and not which
        kept = json.loads(old["training"])
        if change is not None:
            change(kept)
        header = {**old, "training": json.dumps(kept), **metadata}
        found = load_file(source)
        if tensors is not None:
            tensors(found)
        path = tmp_path / "last.safetensors"
        save_file(found, path, {k: v for k, v in header.items() if v is not None})
        return path

    return edit


def refused(path, message):
    """Asserts that gd.load and a training that resumes both refuse the file."""
    with pytest.raises(gd.CheckpointError, match=message) as caught:
        read_training(path)
    assert str(path) in str(caught.value)
    not_resumed(path, message)


def not_resumed(path, message):
    trainer = make()
    before = trainer.params.copy(), trainer.optimizer.state_dict(), trainer._updater.averaged.copy()
    content = path.read_bytes()
    with pytest.raises(gd.CheckpointError, match=message):
        trainer.fit(stream(), steps=9, run=path.parent, resume=True)
    assert trainer.params == before[0]
    assert trainer._updater.averaged == before[2]
    np.testing.assert_equal(trainer.optimizer.state_dict(), before[1])
    assert path.read_bytes() == content


# ---- What is in it ----------------------------------------------------------------------------


def test_the_file_is_plain_safetensors_and_json(run):
    tensors, header = load_file(run / "last.safetensors"), header_of(run / "last.safetensors")
    assert set(NET.init()) < set(tensors)
    assert {name for name in tensors if not name[0].isdigit()} == {
        "training.optimizer.first_moment",
        "training.optimizer.second_moment",
        "training.average.average",
        "training.carried.flat",
    }
    assert (header["format"], header["format_version"]) == ("gradcore", "2")
    training = json.loads(header["training"])
    assert training["place"]["step"] == STEPS
    assert training["states"]["data"]["values"] == {"epoch": 0, "position": STEPS}
    assert training["states"]["optimizer"]["values"]["steps"] == STEPS
    assert training["settings"]["optimizer"]["kind"] == "adam"
    assert len(training["place"]["evaluations"]) == STEPS // 2


def test_load_reads_it_as_any_checkpoint(run):
    net, params, metadata = gd.load(run / "last.safetensors")
    assert net == NET
    assert params == read_training(run / "last.safetensors").params
    assert metadata["step"] == STEPS
    assert isinstance(metadata["score"], float)


def test_round_trip(tmp_path):
    params = NET.init(seed=2, dtype="float64")
    states = {
        "part": {
            "counts": np.arange(3),
            "flags": np.array([True, False]),
            "single": np.array(2.5),
            "strided": np.arange(12.0).reshape(3, 4)[:, ::2],
            "number": np.float64(0.1),
            "nested": {"a": [1, None, 1e-300]},
        },
        "empty": {},
    }
    place = Place(7, 1, 2.5, [(3, 0.5), (7, 0.1)], 7, {"step": 7})
    write_training(tmp_path / "a", TrainingCheckpoint(params, {"seed": 1}, place, states))
    read = read_training(tmp_path / "a")
    assert read.params == params
    assert (read.settings, read.place) == ({"seed": 1}, place)
    assert read.place.best == 0.1
    np.testing.assert_equal(read.states, states)
    assert read.states["part"]["flags"].dtype == bool


def test_what_cannot_be_written(tmp_path):
    params = NET.init()
    for state in ({"a": print}, {"a": np.array(["x"])}, {"a": {1, 2}}):
        with pytest.raises((gd.CheckpointError, KeyError)):
            write_training(tmp_path / "a", TrainingCheckpoint(params, {}, Place(), {"p": state}))
    assert not list(tmp_path.iterdir())


# ---- Wrong files ------------------------------------------------------------------------------


def test_a_file_of_save_has_no_training(tmp_path, run):
    gd.save(tmp_path / "last.safetensors", NET, NET.init())
    refused(tmp_path / "last.safetensors", r"has a net but no training.*gradcore\.load")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format_version": "3"}, "has format version 3; this gradcore reads up to 2. Update"),
        ({"format": "other"}, "not one that gradcore.save wrote"),
        ({"net": "[]"}, "is damaged"),
        ({"training": "{"}, "is damaged: "),
        ({"training": "[]"}, "is damaged: the training is not an object"),
        ({"training": "{}"}, "is damaged: the training lacks 'settings'"),
        ({"training": "[" * 100_000}, "is damaged"),
        ({"training": "1" * 10_000}, "is damaged"),
        ({"training": None}, "has a net but no training"),
    ],
)
def test_wrong_metadata(edited, metadata, message):
    refused(edited(**metadata), message)


def setter(*keys):
    """A function that sets an entry of nested dicts and lists to a value."""

    def make_edit(value):
        def edit(training):
            place = training
            for key in keys[:-1]:
                place = place[key]
            if value is ...:
                del place[keys[-1]]
            else:
                place[keys[-1]] = value

        return edit

    return make_edit


STEP = setter("place", "step")
EVALUATIONS = setter("place", "evaluations")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (setter("settings")(...), "lacks 'settings'"),
        (setter("states")([]), "lacks 'states', or it is of the wrong kind"),
        (setter("place", "step")(...), "the progress of the training lacks fields"),
        (
            setter("place", "more")(1),
            "the progress of the training lacks fields or has unknown ones",
        ),
        (STEP(-1), "step is negative"),
        (STEP(1.5), "step must be an integer"),
        (STEP(True), "step must be an integer"),
        (STEP(None), "step must be an integer"),
        (setter("place", "seconds")(-1), "seconds is negative"),
        (setter("place", "seconds")(float("nan")), "seconds must be finite"),
        (EVALUATIONS({}), "the evaluations are not a list"),
        (EVALUATIONS([[1]]), "an evaluation is not a pair"),
        (EVALUATIONS([[99, 1.0]]), f"an evaluation at step 99, but only {STEPS} steps"),
        (EVALUATIONS([[1, "a"]]), "a score must be a number"),
        (setter("place", "best_step")(3), "the step of the best evaluation is not that of any"),
        (setter("place", "line")(3), "the line of metrics does not belong to the last update"),
        (setter("place", "line")({"step": 1}), "the line of metrics does not belong to the last"),
        (setter("states", "optimizer")(3), "the state of optimizer is not an object"),
        (setter("states", "optimizer", "arrays")(...), "the state of optimizer lacks 'arrays'"),
        (setter("states", "optimizer", "arrays")([]), "tensors that belong to no state"),
        (setter("states", "optimizer", "arrays")(["x"]), "tensor training.optimizer.x is missing"),
        (setter("states", "optimizer", "arrays")([["x"]]), "is missing"),
    ],
)
def test_wrong_trainings(edited, edit, message):
    refused(edited(change=edit), message)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (setter("states", "data", "values", "position")(99), "position in 0..9; got 0 and 99"),
        (setter("states", "data", "values", "epoch")(None), "epoch of the source must be an int"),
        (setter("states", "optimizer", "values", "steps")(-1), "'steps' in the state of Adam"),
        (
            setter("states", "optimizer", "values", "steps")(2**60),
            "updates are more than is possible",
        ),
        (setter("states", "optimizer", "values", "lr")(10**400), ""),
        (setter("states", "optimizer", "values", "kind")("sgd"), "'kind' in the state of Adam"),
        (setter("states", "optimizer", "values", "lr")("x"), "'lr' in the state of Adam"),
        (setter("states", "schedule", "values", "bad")(0.5), "'bad' in the state of Plateau"),
        (setter("states", "average", "values", "updates")(-1), "'updates' in the state of Average"),
        (setter("states", "carried", "values", "batch")(3), "carried state does not fit the net"),
        (setter("states", "carried", "values", "batch")(0), "batch size of the carried state"),
        (setter("states", "carried", "values", "batch")(2**62), "does not fit the net"),
        (setter("states", "other")({"values": {}, "arrays": []}), "it has the states of"),
    ],
)
def test_states_that_do_not_fit(edited, edit, message):
    path = edited(change=edit)
    gd.load(path)
    not_resumed(path, f"cannot be resumed: .*{message}")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("training.optimizer.first_moment", np.zeros(3, np.float32), "must have shape"),
        ("training.optimizer.first_moment", np.zeros(NET.n_parameters), "must have dtype float32"),
        ("training.average.average", np.zeros((2, 2)), "must have shape"),
        ("training.carried.flat", np.zeros((2, 2), np.float32), "does not fit the net"),
        ("training.carried.flat", np.zeros(7, np.float64), "not an array of float32"),
    ],
)
def test_tensors_that_do_not_fit(edited, name, array, message):
    not_resumed(edited(lambda tensors: tensors.update({name: array})), message)


def test_missing_and_foreign_tensors(edited):
    refused(edited(lambda t: t.pop("training.average.average")), "average.average is missing")
    refused(
        edited(lambda t: t.update({"training.x": np.ones(2)})), "belong to no state: training.x"
    )
    refused(edited(lambda t: t.pop("2.weight")), "its tensors do not fit its net")
    refused(edited(lambda t: t.update({"trainings": np.ones(2)})), "do not fit its net")


def test_truncated_at_any_place(tmp_path, whole):
    path = tmp_path / "last.safetensors"
    for size in [*range(0, len(whole), 211), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(gd.CheckpointError, match="truncated or damaged"):
            read_training(path)
        with pytest.raises(gd.CheckpointError, match="truncated or damaged"):
            gd.load(path)


@pytest.mark.parametrize("size", [2**63, 2**40, 200_000_000])
def test_a_huge_header_is_not_believed(tmp_path, whole, size):
    path = tmp_path / "last.safetensors"
    path.write_bytes(struct.pack("<Q", size) + whole[8:])
    with pytest.raises(gd.CheckpointError, match="not a safetensors file, or is truncated"):
        read_training(path)


def test_a_hostile_shape_is_not_believed(tmp_path, whole):
    """Tensors, under any name, whose shapes need more bytes than the file has."""
    (size,) = struct.unpack("<Q", whole[:8])
    for name in ("training.average.average", "2.weight"):
        header = json.loads(whole[8 : 8 + size])
        header[name]["shape"] = [2**40, 2**20]
        text = json.dumps(header).encode()
        path = tmp_path / "last.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + size :])
        for read in (gd.load, read_training):
            with pytest.raises(gd.CheckpointError, match="truncated or damaged"):
                read(path)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_bytes_are_an_error_or_a_checkpoint(tmp_path, whole, data):
    """Whatever is damaged raises CheckpointError, or leaves values of the right form."""
    (size,) = struct.unpack("<Q", whole[:8])
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4), label="places")):
        # Most bytes that matter are in the header.
        last = len(damaged) - 1
        place = data.draw(st.one_of(st.integers(0, min(size + 7, last)), st.integers(0, last)))
        if data.draw(st.booleans(), label="flip"):
            damaged[place] ^= data.draw(st.integers(1, 255))
        else:
            length = data.draw(st.integers(1, 30))
            damaged[place : place + length] = data.draw(st.binary(max_size=30))
    path = tmp_path / "last.safetensors"
    path.write_bytes(damaged)
    for read in (gd.load, read_training):
        try:
            found = read(path)
        except gd.CheckpointError:
            pass
        else:
            assert found.params.flat.size == found.params.net.n_parameters


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def paths_of(value, path=()):
    """The paths to all entries of nested dicts and lists."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        if isinstance(inner, (dict, list)):
            yield from paths_of(inner, (*path, key))
        else:
            yield (*path, key)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_json_in_the_place_of_another_is_an_error_or_trains(edited, run, data):
    """With any value in the metadata, a resumed training raises only the documented errors."""
    kept = json.loads(header_of(run / "last.safetensors")["training"])
    places = [path for path in paths_of(kept) if path]
    place = data.draw(st.sampled_from(places))
    value = data.draw(JSON)
    path = edited(change=setter(*place)(value))
    (path.parent / "metrics.jsonl").unlink(missing_ok=True)
    trainer = make()
    try:
        trainer.fit(stream(), steps=STEPS + 1, validation=stream(), run=path.parent, resume=True)
    except (gd.CheckpointError, gd.ArgumentError):
        pass
    else:
        assert np.isfinite(trainer.params.flat).all()


def test_a_flipped_bit_is_an_error_or_changes_nothing(tmp_path, run, whole):
    """Everywhere: in tensors of the net and of the training, in metadata and in their lengths."""
    good = read_training(run / "last.safetensors")
    rng = np.random.default_rng(0)
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    places = [*rng.integers(0, header, 150), *rng.integers(header, len(whole), 150)]
    refused_flips = 0
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << int(rng.integers(8))
        path = tmp_path / "last.safetensors"
        path.write_bytes(content)
        try:
            found = read_training(path)
        except gd.CheckpointError:
            refused_flips += 1
            continue
        assert place < header
        assert found.params == good.params
        assert found.place == good.place
        assert found.settings == good.settings
    assert refused_flips > 250


def test_the_error_of_damage_names_the_checksum_and_the_remedy(tmp_path, whole):
    for name, read in (("last.safetensors", read_training), ("net", gd.load)):
        path = tmp_path / name
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(gd.CheckpointError, match=r"does not fit its checksum\. Take another"):
            read(path)


def test_a_file_of_another_program_has_no_checksum(tmp_path, run):
    tensors, header = load_file(run / "best.safetensors"), header_of(run / "best.safetensors")
    del header["checksum"]
    save_file(tensors, tmp_path / "a", header)
    assert gd.load(tmp_path / "a").params == gd.load(run / "best.safetensors").params
    save_file(tensors, tmp_path / "a", {**header, "checksun": "0"})
    with pytest.raises(gd.CheckpointError, match="have no checksum, but 'checksun'"):
        gd.load(tmp_path / "a")
