"""Trainer: scores and decisions that depend on them, accumulation, schedules, averages, data."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gradcore as gd
from gradcore._training.runs import read_metrics

NET = gd.Stack(gd.Embedding(5, 4), gd.GRU(4, 7), gd.Linear(7, 5))
RNG = np.random.default_rng(0)
LENGTHS = [3, 9, 1, 7, 5, 4, 8]
TOKENS = [RNG.integers(0, 5, n) for n in LENGTHS]
NEXT = [np.roll(t, -1) for t in TOKENS]


def source(batch_size=2, **options):
    return gd.data.Sequences(TOKENS, NEXT, batch_size=batch_size, **options)


def make(loss="cross_entropy", dtype="float32", lr=0.1, **options):
    params = NET.init(seed=1, dtype=dtype)
    optimizer = gd.optim.SGD(params, lr=lr)
    return gd.Trainer(NET, params, optimizer, loss=loss, threads=1, quiet=True, **options)


def loss_of_all(params, loss="cross_entropy", weight=None):
    """The loss over all terms of all sequences, in one call."""
    steps = max(LENGTHS)
    x = np.zeros((steps, len(TOKENS)), int)
    y = np.zeros_like(x)
    for i, n in enumerate(LENGTHS):
        x[:n, i], y[:n, i] = TOKENS[i], NEXT[i]
    if weight is not None:
        weight = np.repeat(np.asarray(weight, params.dtype)[None], steps, axis=0)
    return gd.value_and_grad(NET, params, x, y, loss=loss, lengths=LENGTHS, weight=weight)


# ---- Scores -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss",
    [
        "cross_entropy",
        gd.loss.CrossEntropy(ignore_index=2),
        gd.loss.CrossEntropy(weight=[1, 2, 0.5, 0, 3]),
        gd.loss.CrossEntropy(reduction="sum"),
    ],
)
@pytest.mark.parametrize("weight", [None, [1, 2, 0, 0.5, 1, 3, 0]])
def test_the_validation_loss_is_that_of_all_terms_together(loss, weight):
    trainer = make(loss)
    held_out = source(weight=weight)
    held_out.take()  # the position of the source makes no difference
    report = trainer.fit(source(), steps=1, validation=held_out)
    whole = loss_of_all(trainer.params, loss, weight).loss
    assert report.evaluations == ((1, pytest.approx(whole, rel=1e-5)),)
    as_list = make(loss).fit(source(), steps=1, validation=list(source(weight=weight)))
    assert as_list.best == pytest.approx(report.best, rel=1e-6)
    assert held_out.position == 1


def test_the_validation_of_last_step_losses():
    loss = gd.loss.CrossEntropy(step="last")
    y = np.arange(7) % 5
    held_out = gd.data.Sequences(TOKENS, y, step="last", batch_size=3)
    trainer = make(loss)
    report = trainer.fit(held_out, steps=1, validation=held_out)
    each = [
        gd.value(NET, trainer.params, t[:, None], y[i : i + 1], loss=loss)
        for i, t in enumerate(TOKENS)
    ]
    assert report.best == pytest.approx(np.mean(each), rel=1e-5)


def test_patience_counts_evaluations_without_a_better_one():
    scores = iter([5.0, 4.0, 4.5, 4.0, 3.0, 3.5, 3.2, 3.1, 2.0])
    report = make().fit(
        source(), steps=100, evaluate=lambda params: next(scores), every=2, patience=3
    )
    assert report.stopped == "patience"
    assert report.steps == 16
    assert (report.best, report.best_step) == (3.0, 10)


def test_the_average_is_judged_and_kept(tmp_path):
    params = NET.init(seed=1)
    average = gd.optim.Average(params, decay=0.5)
    trainer = gd.Trainer(
        NET, params, gd.optim.SGD(params, 0.1), loss="cross_entropy", average=average, quiet=True
    )
    seen = []
    trainer.fit(
        source(),
        steps=6,
        every=2,
        evaluate=lambda given: seen.append(given.copy()) or -len(seen),
        run=tmp_path,
    )
    assert average.updates == 6
    assert seen[-1] == average.params != params
    assert gd.load(tmp_path / "best.safetensors").params == average.params
    assert gd.load(tmp_path / "last.safetensors").params == params


def test_the_schedule_multiplies_the_rate_and_sees_the_scores(tmp_path):
    schedule = gd.schedule.WarmUp(4, gd.schedule.Plateau(0.5, patience=0, mode="max"))
    trainer = make(schedule=schedule)
    scores = iter([1.0, 2.0, 2.0, 2.0])
    trainer.fit(
        source(),
        steps=8,
        every=2,
        evaluate=lambda params: next(scores),
        maximise=True,
        run=tmp_path,
    )
    rates = [line["lr"] for line in read_metrics(tmp_path)]
    assert rates == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.05, 0.05])
    assert trainer.optimizer.lr == 0.1
    other = make(lr=0.02)
    other.fit(source(), steps=1)
    again = make(schedule=gd.schedule.WarmUp(4))
    again.fit(source(), steps=1)
    assert again.params == other.params


# ---- Accumulation -----------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulated_batches_are_one_large_batch(reduction):
    loss = gd.loss.CrossEntropy(reduction=reduction)
    weight = [1, 2, 0, 0.5, 1, 3, 0.25]
    trainer = make(loss, "float64", accumulate=4)
    data = source(weight=weight, dtype="float64")
    report = trainer.fit(data, epochs=1)
    params = NET.init(seed=1, dtype="float64")
    whole = loss_of_all(params, loss, weight)
    gd.optim.SGD(params, lr=0.1).step(whole.grads)
    assert report.losses == (pytest.approx(whole.loss, rel=1e-12),)
    np.testing.assert_allclose(trainer.params.flat, params.flat, rtol=1e-10, atol=1e-12)


def test_what_is_left_at_the_end_is_an_update_of_its_own():
    trainer = make(accumulate=3)
    report = trainer.fit(source(), epochs=1)
    assert report.steps == 2
    assert report.stopped == "epochs"


def test_batches_without_weight_make_no_update():
    batches = list(source(shuffle=False))
    nothing = np.zeros(batches[1].x.shape, np.float32)
    skipped = gd.Batch(batches[1].x, batches[1].y, weight=nothing)
    optimizer_like = [make(), make()]
    report = optimizer_like[0].fit([batches[0], skipped, batches[2]])
    optimizer_like[1].fit([batches[0], batches[2]])
    assert report.steps == 2
    assert optimizer_like[0].params == optimizer_like[1].params
    with pytest.raises(
        gd.ArgumentError, match="loss terms with a weight other than 0, and a whole pass"
    ):
        make().fit([skipped], steps=1)


# ---- Data -------------------------------------------------------------------------------------


def test_what_ends_a_fit():
    batches = list(source(shuffle=False))
    assert make().fit(source(), steps=9).stopped == "steps"
    assert make().fit(source()).stopped == "epochs"
    assert make().fit(source(), epochs=3).steps == 12
    assert make().fit(batches, epochs=3).steps == 12
    assert make().fit(batches, steps=9).steps == 9
    assert make().fit(batches).steps == 4
    assert make().fit(iter(batches), steps=9).stopped == "data"
    assert make().fit(source(), minutes=0.0).stopped == "minutes"
    assert make().fit([], steps=3).stopped == "data"


def test_a_function_gives_the_batches_of_a_pass():
    asked = []

    def data(epoch):
        asked.append(epoch)
        return source(shuffle=False)

    first, second = make(), make()
    first.fit(data, epochs=3)
    second.fit(source(shuffle=False), epochs=3)
    assert asked == [0, 1, 2]
    assert first.params == second.params


def test_a_fit_goes_on_where_the_source_stands():
    first, second = make(), make()
    first.fit(source(), steps=7)
    data = source()
    second.fit(data, steps=3)
    second.fit(data, steps=4)
    assert data.state_dict() == {"epoch": 1, "position": 3}
    assert first.params == second.params


def test_after_an_error_the_source_stands_at_the_failed_batch():
    class Broken(gd.data.Sequences):
        def batch(self, epoch, index):
            if index == 2:
                raise RuntimeError("no such file")
            return super().batch(epoch, index)

    data = Broken(TOKENS, NEXT, batch_size=2)
    trainer = make(accumulate=3)
    with pytest.raises(RuntimeError, match="no such file"):
        trainer.fit(data, epochs=1)
    assert data.state_dict() == {"epoch": 0, "position": 0}
    assert trainer.optimizer.steps == 0


# ---- Lines ------------------------------------------------------------------------------------


def test_metrics_have_a_line_per_update(tmp_path):
    params = NET.init(seed=1)
    optimizer = gd.optim.SGD(params, 0.1, clip=gd.clip.GlobalNorm(1e-3))
    trainer = gd.Trainer(NET, params, optimizer, loss="cross_entropy", quiet=True)
    report = trainer.fit(source(), steps=7, every=3, evaluate=lambda params: 2.5, run=tmp_path)
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 8))
    assert [line["epoch"] for line in lines] == [0, 0, 0, 0, 1, 1, 1]
    assert [line["loss"] for line in lines] == list(report.losses)
    assert [line.get("score") for line in lines] == [None, None, 2.5, None, None, 2.5, 2.5]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert seconds[-1] <= report.seconds
    for line in lines:
        assert line["clipped"] is True
        assert line["lr"] == 0.1
        assert -3 < line["grad_norm_log10"] < 2
        assert 0 < line["update_ratio"] < 1e-3
    other = NET.init(seed=1)
    batch = source().take()
    result = gd.value_and_grad(
        NET, other, batch.x, batch.y, loss="cross_entropy", lengths=batch.lengths
    )
    done = gd.optim.SGD(other, 0.1, clip=gd.clip.GlobalNorm(1e-3)).step(result.grads)
    assert lines[0]["grad_norm_log10"] == done.grad_norm_log10
    assert lines[0]["update_ratio"] == done.update_ratio


def test_a_zero_gradient_is_a_line_of_plain_json(tmp_path):
    loss = gd.loss.CrossEntropy(ignore_index=3)
    batch = gd.Batch(np.zeros((4, 1), int), np.full((4, 1), 3))
    make(loss).fit([batch], run=tmp_path)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert '"grad_norm_log10": null' in text
    assert "Infinity" not in text


# ---- Errors -----------------------------------------------------------------------------------


def function_loss(outputs, t0, t1):
    return 0.0, np.zeros_like(outputs)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"validation": source(), "evaluate": len}, gd.ArgumentError, "not both"),
        ({"validation": iter([])}, gd.DTypeError, "validation must be a source"),
        ({"validation": [3]}, gd.DTypeError, "validation must hold gradcore.Batch; got int"),
        ({"validation": []}, gd.ArgumentError, "validation must have loss terms"),
        ({"patience": 3}, gd.ArgumentError, "patience needs a score"),
        ({"patience": 0, "validation": source()}, gd.ArgumentError, "patience must be at least 1"),
        ({"resume": True}, gd.ArgumentError, "resume=True needs run"),
        ({"epochs": 0}, gd.ArgumentError, "epochs must be at least 1"),
        ({"save_every": 0}, gd.ArgumentError, "save_every must be at least 1"),
        ({"data": 3}, gd.DTypeError, "data must be a source of gradcore.data"),
        ({"data": "abc"}, gd.DTypeError, "data must be a source of gradcore.data"),
        ({"data": lambda epoch: 3}, gd.DTypeError, "must return an iterable of gradcore.Batch"),
        ({"data": iter([]), "epochs": 2}, gd.ArgumentError, "epochs=2 needs data that can be"),
        (
            {"maximise": True, "evaluate": lambda params: 1.0},
            gd.ArgumentError,
            "Plateau must have mode='max' with maximise=True",
        ),
    ],
)
def test_wrong_fits(options, error, message):
    schedule = gd.schedule.WarmUp(3, gd.schedule.Plateau())
    with pytest.raises(error, match=message):
        make(schedule=schedule).fit(**{"data": source(), **options})


def test_sources_must_give_the_dtype_of_the_parameters():
    x = [RNG.normal(size=n) for n in LENGTHS]
    net = gd.Stack(gd.GRU(1, 3), gd.Linear(3, 1))
    params = net.init(seed=0, dtype="float64")
    trainer = gd.Trainer(net, params, gd.optim.SGD(params, 0.1), loss="mse", quiet=True)
    wrong, right = (gd.data.Sequences(x, x, batch_size=2, dtype=d) for d in ("f4", "f8"))
    message = "{} gives floats as float32.*Pass dtype='float64' to Sequences"
    with pytest.raises(gd.DTypeError, match=message.format("data")):
        trainer.fit(wrong)
    with pytest.raises(gd.DTypeError, match=message.format("validation")):
        trainer.fit(right, validation=wrong)
    assert trainer.fit(right, validation=right).steps == 4
    tokens = make(dtype="float64")
    assert tokens.fit(source()).steps == 4
    assert tokens.fit(gd.data.Stream(TOKENS[1], NEXT[1], k1=3)).steps == 3
    with pytest.raises(gd.DTypeError, match="to Stream"):
        tokens.fit(gd.data.Stream(TOKENS[1], NEXT[1], k1=3, burn_in=1))


def test_a_source_of_ones_own():
    class Counting(gd.data.Source):
        def __len__(self):
            return 3

        def batch(self, epoch, index):
            x = np.full((4, 1), (epoch + index) % 5)
            return gd.Batch(x, x)

        def describe(self):
            return {"source": "Counting"}

    data = Counting()
    report = make().fit(data, epochs=2, validation=Counting())
    assert report.steps == 6
    assert data.state_dict() == {"epoch": 2, "position": 0}


def test_a_loss_function_cannot_validate():
    with pytest.raises(gd.ArgumentError, match="validation needs a loss"):
        make(function_loss).fit(source(), validation=source())


def test_wrong_parts():
    params = NET.init(seed=1)
    with pytest.raises(gd.DTypeError, match="schedule must be one of gradcore"):
        make(schedule=math.sin)
    with pytest.raises(gd.DTypeError, match=r"average must be a gradcore\.optim\.Average"):
        make(average=params)
    with pytest.raises(gd.ArgumentError, match="average must have been made with the params"):
        make(average=gd.optim.Average(params))
    with pytest.raises(gd.ArgumentError, match="accumulate must be at least 1"):
        make(accumulate=0)
