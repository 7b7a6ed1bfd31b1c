"""Losses: values and gradients against formulas in float64, options, and Python functions as
losses.
"""

from __future__ import annotations

import numpy as np
import pytest

import gradcore as gd

T, B, I, O = 140, 3, 4, 5
NET = gd.Stack(gd.GRU(I, 7), gd.Linear(7, O))
PARAMS = NET.init(seed=1, dtype="float64")
RNG = np.random.default_rng(7)
X = RNG.standard_normal((T, B, I))
CLASSES = RNG.integers(0, O, (T, B))
VALUES = RNG.random((T, B, O))
WEIGHT = RNG.random((T, B))
LENGTHS = np.array([T, 17, 1])
COUNTS = np.arange(T)[:, None] < LENGTHS


def outputs():
    return gd.apply(NET, PARAMS, X)[0]


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def last_of(array):
    return array[LENGTHS - 1, np.arange(B)]


def terms(kind, z, y):
    """The loss of every position, (T, B) or (B,)."""
    if kind == "cross_entropy":
        return -np.take_along_axis(log_softmax(z), y[..., None], -1)[..., 0]
    if kind == "binary_cross_entropy":
        return (np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))).sum(-1)
    return ((z - y) ** 2).sum(-1)


OBJECTS = {
    "cross_entropy": gd.loss.CrossEntropy,
    "binary_cross_entropy": gd.loss.BinaryCrossEntropy,
    "mse": gd.loss.MeanSquaredError,
}


@pytest.mark.parametrize("kind", list(OBJECTS))
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("step", ["all", "last"])
@pytest.mark.parametrize("weighted", [False, True])
def test_values(kind, reduction, step, weighted):
    y = CLASSES if kind == "cross_entropy" else VALUES
    weight = WEIGHT if weighted else np.ones_like(WEIGHT)
    z, mask = outputs(), COUNTS
    if step == "last":
        z, y, weight, mask = last_of(z), last_of(y), last_of(weight), np.ones(B, bool)
    total = (weight * terms(kind, z, y) * mask).sum()
    divisor = (weight * mask).sum() * (1 if kind == "cross_entropy" else O)
    value = gd.value(
        NET,
        PARAMS,
        X,
        y,
        loss=OBJECTS[kind](reduction=reduction, step=step),
        weight=weight if weighted else None,
        lengths=LENGTHS,
    )
    assert value == pytest.approx(total / divisor if reduction == "mean" else total, rel=1e-12)


@pytest.mark.parametrize("kind", list(OBJECTS))
def test_a_name_is_the_default_object(kind):
    y = CLASSES if kind == "cross_entropy" else VALUES
    by_name = gd.value_and_grad(NET, PARAMS, X, y, loss=kind)
    by_object = gd.value_and_grad(NET, PARAMS, X, y, loss=OBJECTS[kind]())
    assert by_name.loss == by_object.loss
    assert by_name.grads == by_object.grads


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_class_weights_and_ignored_targets(reduction):
    y = CLASSES.copy()
    y[::3] = -7
    class_weight = np.array([0.5, 1.0, 2.0, 0.0, 3.0])
    loss = gd.loss.CrossEntropy(weight=class_weight, ignore_index=-7, reduction=reduction)
    value = gd.value(NET, PARAMS, X, y, loss=loss, weight=WEIGHT)
    kept = y != -7
    weight = WEIGHT * class_weight[np.where(kept, y, 0)] * kept
    total = (weight * terms("cross_entropy", outputs(), np.where(kept, y, 0))).sum()
    expected = total / weight.sum() if reduction == "mean" else total
    assert value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", list(OBJECTS))
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("step", ["all", "last"])
def test_the_weight_by_which_batches_are_averaged(kind, reduction, step):
    """Each position counts by its weight, whatever the number of its outputs."""
    options = {"weight": [0.5, 2.0, 0.0, 1.0, 3.0], "ignore_index": 1}
    loss = OBJECTS[kind](
        reduction=reduction, step=step, **options if kind == "cross_entropy" else {}
    )
    y = CLASSES if kind == "cross_entropy" else VALUES
    each = WEIGHT.copy()
    if kind == "cross_entropy":
        each *= np.where(CLASSES == 1, 0.0, np.array(options["weight"])[CLASSES])
    weight, expected = WEIGHT, (each * COUNTS).sum()
    if step == "last":
        y, weight, expected = last_of(y), last_of(WEIGHT), last_of(each).sum()
    found = gd.value_and_grad(NET, PARAMS, X, y, loss=loss, weight=weight, lengths=LENGTHS)
    assert found.loss_weight == pytest.approx(expected, rel=1e-14)


def test_terms_that_are_not_known_have_no_weight():
    given = gd.loss.Given()
    assert gd.value_and_grad(NET, PARAMS, X, VALUES, loss=given).loss_weight == 0.0
    own = gd.value_and_grad(NET, PARAMS, X, loss=lambda z, t0, t1: (1.0, z))
    assert own.loss_weight == 0.0


def test_negative_weights_need_a_sum():
    weight = np.where(np.arange(T)[:, None] % 2, -WEIGHT, WEIGHT)
    loss = gd.loss.CrossEntropy(reduction="sum")
    expected = (weight * terms("cross_entropy", outputs(), CLASSES)).sum()
    value = gd.value(NET, PARAMS, X, CLASSES, loss=loss, weight=weight)
    assert value == pytest.approx(expected, rel=1e-10)
    with pytest.raises(gd.ArgumentError, match=r"must not be negative for a mean.*reduction='sum'"):
        gd.value(NET, PARAMS, X, CLASSES, loss="cross_entropy", weight=weight)


def test_ignored_everywhere():
    y = np.full((T, B), -100)
    result = gd.value_and_grad(NET, PARAMS, X, y, loss="cross_entropy")
    assert result.loss == 0.0
    assert not result.grads.flat.any()


@pytest.mark.parametrize("kind", list(OBJECTS))
@pytest.mark.parametrize("memory", ["full", "smallest"])
def test_a_function_gives_the_same_gradient(kind, memory):
    y = CLASSES if kind == "cross_entropy" else VALUES
    size = T * B * (1 if kind == "cross_entropy" else O)

    def function(z, t0, t1):
        part = y[t0:t1]
        value = terms(kind, z, part).sum() / size
        if kind == "cross_entropy":
            d = np.exp(log_softmax(z)) - np.eye(O)[part]
        elif kind == "mse":
            d = 2 * (z - part)
        else:
            d = 1 / (1 + np.exp(-z)) - part
        return value, d / size

    budget = memory
    if memory == "smallest":
        with pytest.raises(gd.MemoryBudgetError) as caught:
            gd.plan(NET, T, B, dtype="float64", loss=function, wrt=("params", "x"), memory=1)
        budget = caught.value.smallest
    expected = gd.value_and_grad(NET, PARAMS, X, y, loss=kind, wrt=("params", "x"))
    result = gd.value_and_grad(NET, PARAMS, X, loss=function, wrt=("params", "x"), memory=budget)
    assert result.plan.segments == (2 if memory == "smallest" else 1)
    assert result.loss == pytest.approx(expected.loss, rel=1e-13)
    np.testing.assert_allclose(result.grads.flat, expected.grads.flat, rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(result.dx, expected.dx, rtol=1e-11, atol=1e-15)
    assert gd.value(NET, PARAMS, X, loss=function) == pytest.approx(expected.loss, rel=1e-13)


def test_a_function_sees_each_step_once_and_may_keep_its_array():
    seen = {}

    def function(z, t0, t1):
        assert z.shape == (t1 - t0, B, O)
        seen[t0] = z
        return 0.0, np.zeros_like(z)

    result = gd.value_and_grad(NET, PARAMS, X, loss=function)
    gd.release_memory()
    assert not result.grads.flat.any()
    np.testing.assert_array_equal(np.concatenate([seen[t] for t in sorted(seen)]), outputs())


class StopError(Exception):
    """Raised by the callbacks of these tests."""


@pytest.mark.parametrize("call", [gd.value_and_grad, gd.value])
def test_an_exception_of_a_function_passes_through(call):
    error = StopError("in the loss")

    def function(z, t0, t1):
        raise error

    before = PARAMS.copy()
    with pytest.raises(StopError) as caught:
        call(NET, PARAMS, X, loss=function)
    assert caught.value is error
    assert before == PARAMS
    assert gd.value(NET, PARAMS, X, CLASSES, loss="cross_entropy") > 0


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda z: z, gd.DTypeError, r"must return \(loss, d_outputs\); got ndarray"),
        (lambda z: (0.0, z, z), gd.DTypeError, r"must return \(loss, d_outputs\); got tuple"),
        (lambda z: (0.0, z[:-1]), gd.ShapeError, r"shape of outputs, \(140, 3, 5\); got \(139"),
        (lambda z: (0.0, z.astype("f4")), gd.DTypeError, "d_outputs must have dtype float64"),
        (lambda z: (0.0, None), gd.DTypeError, "d_outputs must be a NumPy array"),
        (lambda z: (np.nan, z), gd.NonFiniteError, "returned nan for steps 0 to 140"),
    ],
)
def test_what_a_function_may_return(returned, error, message):
    with pytest.raises(error, match=message):
        gd.value_and_grad(NET, PARAMS, X, loss=lambda z, t0, t1: returned(z))


def test_a_function_may_return_any_layout():
    def function(z, t0, t1):
        return np.float32(z.sum()), np.asfortranarray(np.ones_like(z))

    plain = gd.value_and_grad(
        NET, PARAMS, X, loss=lambda z, t0, t1: (float(z.sum()), np.ones_like(z))
    )
    assert gd.value_and_grad(NET, PARAMS, X, loss=function).grads == plain.grads


@pytest.mark.parametrize("name", ["y", "weight"])
def test_a_function_takes_no_targets(name):
    arguments = {name: WEIGHT}
    with pytest.raises(gd.ArgumentError, match=f"{name} must be None if loss is a function"):
        gd.value(NET, PARAMS, X, loss=lambda z, t0, t1: (0.0, z), **arguments)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gd.loss.CrossEntropy(reduction="none"), gd.ArgumentError, "one of 'mean', 'sum'"),
        (lambda: gd.loss.CrossEntropy(step="first"), gd.ArgumentError, "one of 'all', 'last'"),
        (lambda: gd.loss.CrossEntropy(weight=[]), gd.ArgumentError, "one weight >= 0 per class"),
        (lambda: gd.loss.CrossEntropy(weight=[1, -1]), gd.ArgumentError, "one weight >= 0"),
        (lambda: gd.loss.CrossEntropy(weight=[1, np.inf]), gd.ArgumentError, "must be finite"),
        (
            lambda: gd.loss.CrossEntropy(weight=[1, "b"]),
            gd.DTypeError,
            r"per class; got \[1, 'b'\]",
        ),
        (lambda: gd.loss.CrossEntropy(weight="12"), gd.ShapeError, r"shape \(classes,\).*got \(\)"),
        (lambda: gd.loss.CrossEntropy(weight=["1", "2"]), gd.DTypeError, "must be numbers"),
        (lambda: gd.loss.CrossEntropy(weight=[1, None]), gd.DTypeError, "must be numbers"),
        (lambda: gd.loss.CrossEntropy(weight=[True, False]), gd.DTypeError, "must be numbers"),
        (lambda: gd.loss.CrossEntropy(weight=[[1], [2, 3]]), gd.DTypeError, "one number per class"),
        (lambda: gd.loss.CrossEntropy(weight=3.0), gd.ShapeError, r"got \(\)"),
        (lambda: gd.loss.CrossEntropy(weight=np.ones((2, 2))), gd.ShapeError, r"got \(2, 2\)"),
        (lambda: gd.loss.CrossEntropy(weight={1.0, 2.0}), gd.ShapeError, r"got \(\)"),
        (lambda: gd.loss.CrossEntropy(ignore_index=0.5), gd.DTypeError, "must be an integer"),
    ],
)
def test_wrong_losses(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_wrong_targets():
    with pytest.raises(gd.ShapeError, match="one weight per class, 5 of them; got 2"):
        gd.value(NET, PARAMS, X, CLASSES, loss=gd.loss.CrossEntropy(weight=[1.0, 2.0]))
    with pytest.raises(gd.DTypeError, match="y must have dtype float64, that of the parameters"):
        gd.value(NET, PARAMS, X, VALUES.astype("f4"), loss="mse")
    with pytest.raises(gd.ShapeError, match=r"y must have shape \(140, 3, 5\), one target per"):
        gd.value(NET, PARAMS, X, VALUES[..., :2], loss="binary_cross_entropy")
    with pytest.raises(gd.ShapeError, match=r"y must have shape \(3,\)"):
        gd.value(NET, PARAMS, X, CLASSES, loss=gd.loss.CrossEntropy(step="last"))
