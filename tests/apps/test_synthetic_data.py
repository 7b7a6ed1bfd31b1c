"""Copy, adding, mqar and enhancer: what their sequences are, which score guessing has, and when
they are solved.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import gradcore as gd
from gradcore.apps.tasks.synthetic import enhancer
from gradcore.apps.tasks.synthetic.adding import Adding
from gradcore.apps.tasks.synthetic.copying import BLANK, GO, Copying
from gradcore.apps.tasks.synthetic.enhancer import Enhancer
from gradcore.apps.tasks.synthetic.mqar import FILLER, NO_QUESTION, Mqar
from gradcore.apps.tasks.synthetic.task import Measured

TASKS = (Adding(40), Copying(15), Mqar(30, pairs=4, symbols=6))
ids = [task.name for task in TASKS]


def constant_net(task):
    """A net whose outputs are the bias of its head, at first zero, for any input."""
    embedding, width = task.first_layer()
    layers = (gd.RNN(width, 3), gd.Linear(3, task.outputs))
    net = gd.Stack(*((embedding, *layers) if embedding else layers))
    params = net.init(seed=0)
    params.flat[:] = 0.0
    return net, params, params[f"{len(net.layers) - 1}.bias"]


def loss_of(net, params, task, batch):
    return gd.value(net, params, batch.x, batch.y, loss=task.loss)


# ---- Every task --------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS, ids=ids)
def test_a_batch_is_a_function_of_seed_and_update(task):
    def drawn(*key):
        batch = task.training_batch(*key, 5)
        return batch.x, batch.y

    for one, two in zip(drawn(0, 7), drawn(0, 7), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(drawn(0, 7)[0], drawn(0, 8)[0])
    assert not np.array_equal(drawn(0, 7)[0], drawn(1, 7)[0])
    assert drawn(0, 7)[0].shape[:2] == (task.steps, 5)


@pytest.mark.parametrize("task", [Adding(40), Copying(15), Mqar(30, 8, 9)], ids=ids)
def test_held_out_sequences_are_no_training_sequences(task):
    held_out = task.held_out(64)
    np.testing.assert_array_equal(held_out.x, task.held_out(64).x)
    of_held_out = {held_out.x[:, b].tobytes() for b in range(64)}
    assert len(of_held_out) == 64
    for seed in range(4):
        for update in range(8):
            x = task.training_batch(seed, update, 64).x
            assert not of_held_out & {x[:, b].tobytes() for b in range(64)}


@pytest.mark.parametrize("task", [Adding(1_000), Copying(500), Mqar(256)], ids=ids)
def test_stages_grow_to_the_task_itself(task):
    stages = [task.stage(level) for level in range(16)]
    assert stages[0].steps < task.steps
    assert all(a.steps <= b.steps for a, b in itertools.pairwise(stages))
    assert stages[-1] == task.stage(1_000_000) == task


@pytest.mark.parametrize("kind", [Adding, Copying, Mqar])
def test_lengths_that_cannot_be(kind):
    with pytest.raises(gd.ArgumentError, match=r"length of \w+ must be at least"):
        kind(0)
    for length in (2.0, True, "9"):
        with pytest.raises(gd.DTypeError, match="length must be an integer"):
            kind(length)


# ---- Adding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 3, 40, 101])
def test_adding(length):
    batch = Adding(length).draw(np.random.default_rng(0), 200)
    assert batch.x.shape == (length, 200, 2)
    assert batch.x.dtype == batch.y.dtype == np.float32
    numbers, marks = batch.x[:, :, 0], batch.x[:, :, 1]
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert set(np.unique(marks)) <= {0.0, 1.0}
    half = length // 2
    assert (marks[:half].sum(axis=0) == 1).all()
    assert (marks[half:].sum(axis=0) == 1).all()
    np.testing.assert_array_equal(batch.y[:, 0], (numbers * marks).sum(axis=0))
    # Every place is used, including the first and the last of each half.
    if length <= 40:
        assert marks.any(axis=1).all()


def test_adding_baseline_is_the_loss_of_the_constant():
    task = Adding(20)
    batch = task.held_out(20_000)
    net, params, bias = constant_net(task)
    bias[:] = 1.0
    loss = loss_of(net, params, task, batch)
    # The square of (sum - 1) has standard deviation sqrt(7/180).
    tolerance = 4 * math.sqrt(7 / 180 / 20_000)
    assert loss == pytest.approx(task.baseline.loss, abs=tolerance)
    for other in (0.9, 1.1):
        bias[:] = other
        assert loss_of(net, params, task, batch) > loss
    outputs = np.ones((20, 20_000, 1), np.float32)
    assert task.measure(outputs, batch).score == pytest.approx(loss, rel=1e-6)
    assert task.baseline.score == task.baseline.loss


def test_adding_is_solved_under_a_hundredth():
    task = Adding(10)
    assert task.solved(Measured(0.0099, 0.0099))
    assert not task.solved(Measured(0.01, 0.01))
    batch = task.held_out(8)
    outputs = np.zeros((10, 8, 1), np.float32)
    outputs[-1] = batch.y
    assert task.measure(outputs, batch).score == 0.0


# ---- Copy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [1, 2, 50])
def test_copy(delay):
    batch = Copying(delay).draw(np.random.default_rng(0), 100)
    x, y = batch.x, batch.y
    assert x.shape == y.shape == (delay + 20, 100)
    assert set(np.unique(x[:10])) == set(range(8))
    assert (x[10 : delay + 9] == BLANK).all()
    assert (x[delay + 9] == GO).all()
    assert (x[delay + 10 :] == BLANK).all()
    assert (y[: delay + 10] == BLANK).all()
    np.testing.assert_array_equal(y[delay + 10 :], x[:10])


def test_copy_baseline_is_the_loss_of_knowing_only_the_time():
    task = Copying(30)
    batch = task.held_out(50)
    # Outputs that depend only on t, not on the input.
    outputs = np.full((50, 50, 9), -np.inf)
    outputs[:40, :, BLANK] = 0.0
    outputs[40:, :, :8] = math.log(1 / 8)
    taken = np.take_along_axis(outputs, batch.y[:, :, None].astype(np.int64), axis=2)
    assert -taken.mean() == pytest.approx(task.baseline.loss, rel=1e-12)
    assert task.baseline.loss == pytest.approx(10 * math.log(8) / 50)
    # Any one symbol is right one time in eight.
    outputs[40:, :, 3] = 1.0
    assert task.measure(outputs, batch).score == pytest.approx(
        1 / 8, abs=4 * math.sqrt(7 / 64 / 500)
    )
    net, params, _ = constant_net(task)
    assert loss_of(net, params, task, batch) == pytest.approx(math.log(9), rel=1e-6)


def test_copy_is_solved_when_it_recalls_and_knows_it():
    task = Copying(100)
    good = 0.09 * task.baseline.loss
    assert task.solved(Measured(good, 0.99))
    assert not task.solved(Measured(good, 0.989))
    assert not task.solved(Measured(0.1 * task.baseline.loss, 1.0))
    batch = task.held_out(8)
    assert task.measure(np.eye(9)[batch.y], batch).score == 1.0
    # Blanks before the end do not count.
    assert (
        task.measure(np.eye(9)[np.where(np.arange(120)[:, None] < 110, 0, batch.y)], batch).score
        == 1.0
    )


# ---- mqar --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "pairs", "symbols"), [(3, 1, 1), (12, 4, 4), (60, 5, 16)])
def test_mqar(length, pairs, symbols):
    batch = Mqar(length, pairs, symbols).draw(np.random.default_rng(0), 200)
    x, y = batch.x, batch.y
    assert x.shape == y.shape == (length, 200)
    for b in range(200):
        keys, values = x[0 : 2 * pairs : 2, b], x[1 : 2 * pairs : 2, b]
        known = dict(zip(keys, values, strict=True))
        assert len(known) == len(set(values)) == pairs
        assert keys.min() >= 1
        assert keys.max() <= symbols
        assert values.min() > symbols
        assert values.max() <= 2 * symbols
        assert (y[: 2 * pairs, b] == NO_QUESTION).all()
        asked = np.flatnonzero(y[:, b] != NO_QUESTION)
        assert set(x[asked, b]) == set(keys)
        assert len(asked) == pairs
        for t in asked:
            assert y[t, b] == known[x[t, b]] - 1 - symbols
        rest = np.setdiff1d(np.arange(2 * pairs, length), asked)
        assert (x[rest, b] == FILLER).all()
    asked = y[2 * pairs :] != NO_QUESTION
    # Queries occur everywhere, including the last step.
    assert asked.any(axis=1).all()


def test_mqar_baseline_is_the_loss_of_guessing_what_was_shown():
    task = Mqar(40, pairs=4, symbols=4)
    batch = task.held_out(100)
    net, params, _ = constant_net(task)
    assert loss_of(net, params, task, batch) == pytest.approx(task.baseline.loss, rel=1e-6)
    always = np.zeros((40, 100, 4))
    always[:, :, 2] = 1.0
    # No value occurs twice, so one of the four queries of a sequence has this answer.
    assert task.measure(always, batch).score == task.baseline.score == 1 / 4


def test_mqar_is_solved_at_99_of_100():
    task = Mqar(40)
    assert task.solved(Measured(0.1, 0.99))
    assert not task.solved(Measured(0.1, 0.9899))
    batch = task.held_out(8)
    right = np.eye(16)[np.where(batch.y == NO_QUESTION, 3, batch.y)]
    assert task.measure(right, batch).score == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 17}, "pairs must be at most the number of symbols, 16"),
        ({"pairs": 0}, "pairs must be at least 1"),
        ({"symbols": 0}, "symbols must be at least 1"),
        ({"length": 11}, "at least 3 times the pairs, 12"),
    ],
)
def test_mqar_that_cannot_be(options, message):
    with pytest.raises(gd.ArgumentError, match=message):
        Mqar(**{"length": 40, **options})


@pytest.mark.parametrize("name", ["pairs", "symbols"])
def test_mqar_sizes_are_integers(name):
    with pytest.raises(gd.DTypeError, match=f"{name} must be an integer"):
        Mqar(40, **{name: 2.5})


# ---- enhancer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [20, 32, 1_000])
def test_enhancer_and_promoter_stand_where_they_should(length):
    task = Enhancer(length)
    batch = task.draw(np.random.default_rng(0), 400)
    assert batch.x.shape == (length + length // 10 + 20, 400)
    assert batch.x.shape[0] == task.steps
    consensus = enhancer.motifs().argmax(axis=3)
    found = []
    for b in range(400):
        # The place where each motif fits best, and the number of bases that match.
        views = np.lib.stride_tricks.sliding_window_view(batch.x[:, b], 20)
        hits = (views[None, None] == consensus[:, :, None]).sum(axis=3)
        offsets = np.arange(length // 10 + 1)
        pairs = [
            (hits[0, i, at] + hits[1, j, at + length], i, j, at)
            for at in offsets
            for i in range(2)
            for j in range(2)
        ]
        best = max(pairs)
        assert best[0] >= 26
        assert batch.y[b, 0] == (best[1] == best[2])
        found.append(best)
    # Each of 40 bases is kept with probability 0.92.
    assert np.mean([one[0] for one in found]) == pytest.approx(36.8, abs=0.4)
    assert {(one[1], one[2]) for one in found} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert len({one[3] for one in found}) >= min(length // 10 + 1, 90)


def test_neither_motif_tells_the_answer():
    task = Enhancer(50)
    batch = task.draw(np.random.default_rng(1), 4_000)
    assert batch.y.mean() == pytest.approx(0.5, abs=0.03)
    consensus = enhancer.motifs()[1].argmax(axis=2)
    ends = np.array([[(w == c).sum() for c in consensus] for w in _windows(batch.x, 50)])
    kind = ends.argmax(axis=1)
    assert batch.y[kind == 0].mean() == pytest.approx(0.5, abs=0.05)


def _windows(x, length):
    """The 20 bases of each sequence that fit a promoter best."""
    consensus = enhancer.motifs()[1].argmax(axis=2)
    for b in range(x.shape[1]):
        views = np.lib.stride_tricks.sliding_window_view(x[:, b], 20)[length:]
        yield views[(views[None] == consensus[:, None]).sum(axis=2).max(axis=0).argmax()]


def test_enhancer_is_measured_and_solved():
    task = Enhancer(100)
    batch = task.draw(np.random.default_rng(0), 64)
    sure = np.where(batch.y > 0.5, 8.0, -8.0)
    outputs = np.zeros((task.steps, 64, 1))
    outputs[-1] = sure
    measured = task.measure(outputs, batch)
    assert measured.score == 1.0
    assert measured.loss == pytest.approx(np.log1p(np.exp(-8.0)))
    assert task.solved(measured)
    guess = task.measure(np.zeros_like(outputs), batch)
    assert guess.loss == pytest.approx(task.baseline.loss)
    assert not task.solved(guess)
    assert [task.stage(level).length for level in (0, 1, 2, 50)] == [32, 48, 72, 100]
    with pytest.raises(gd.ArgumentError, match="length of enhancer must be at least 20"):
        Enhancer(19)


def test_enhancer_in_real_sequence_keeps_a_fifth_for_judging(tmp_path):
    rng = np.random.default_rng(3)
    # Training may read A and C only; G and T are in the last fifth. Two records count as one
    # genome.
    text = rng.choice(list("AC"), 8_000).tolist() + rng.choice(list("GT"), 2_000).tolist()
    path = tmp_path / "real.fa"
    path.write_text(f">one\n{''.join(text[:5_000])}\n>two\n{''.join(text[5_000:])}\n")
    task = Enhancer(100, background=str(path))
    assert Enhancer(100).background == ""
    for batch, letters in ((task.training_batch(0, 3, 50), 2), (task.held_out(50), 4)):
        # Outside of the two motifs, which have 40 bases of 130, there is nothing but the
        # background.
        kinds = np.isin(batch.x, (0, 1) if letters == 2 else (2, 3)).mean()
        assert kinds > 0.75
    assert task.stage(0).background == str(path)
    with pytest.raises(
        gd.ArgumentError, match=r"must have at least 5 times 2,220 bases.*has 10,000"
    ):
        Enhancer(2_000, background=str(path)).held_out(2)
    with pytest.raises(gd.ArgumentError, match="cannot read"):
        Enhancer(100, background=str(tmp_path / "none.fa")).held_out(2)
