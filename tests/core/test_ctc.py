"""Connectionist temporal classification: the core against the sum over all alignments, PyTorch,
differences, and the same bits for all threads and budgets; decoding against all labels.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import gradcore as gd
import tolerances
from gradcore import _core
from nets import stack
from overriding import override
from problem import core_arguments, error, isa, random_problem
from reference import ctc, two_ways

LEVELS = _core.isa_available()
# Steps, classes, blank, labels: none, one, repeated ones, more than steps, all classes.
SMALL = [
    (1, 2, 0, (1,)),
    (1, 3, 2, ()),
    (3, 3, 0, (1, 2)),
    (5, 3, 1, (2, 2)),
    (6, 3, 0, (1, 1, 2)),
    (6, 3, 0, (1, 2, 1, 2, 1, 2)),
    (5, 4, 3, (0, 1, 2, 0)),
    (2, 3, 0, (1, 1)),
    (2, 3, 0, (1, 2, 1)),
    (7, 2, 0, ()),
]


def padded(rows, width=None):
    """Labels as an array (B, S) with -1 behind them."""
    width = max([1, *map(len, rows)]) if width is None else width
    return np.array([[*row, *[-1] * (width - len(row))] for row in rows], np.int64)


def core_loss(z, rows, lengths=None, blank=0, *, gradient=True, threads=1, factors=None):
    """Losses [B] and gradient of outputs z [T, B, C] by the core."""
    labels = np.array([c for row in rows for c in row], np.int64)
    counts = np.array([len(row) for row in rows], np.int64)
    slopes = np.full_like(z, np.nan) if gradient else None
    found = _core.ctc_loss(
        z, lengths, labels, counts, blank=blank, factors=factors, gradient=slopes, threads=threads
    )
    return found, slopes


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("steps", "classes", "blank", "labels"), SMALL)
def test_all_alignments(steps, classes, blank, labels, dtype, level):
    rng = np.random.default_rng(1)
    z = (3 * rng.standard_normal((steps, 1, classes))).astype(dtype)
    with isa(level):
        (value,), slopes = core_loss(z, [labels], blank=blank)
    exact = z[:, 0].astype(float)
    want = ctc.loss(exact, labels, blank)
    assert value == pytest.approx(want, rel=1e-14, abs=1e-14)
    tolerance = tolerances.DOUBLE if dtype == "float64" else tolerances.SINGLE
    difference = slopes[:, 0] - ctc.gradient(exact, labels, blank)
    assert np.abs(difference).max() <= tolerance
    repeats = sum(a == b for a, b in pairwise(labels))
    assert np.isfinite(value) == (len(labels) + repeats <= steps)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("steps", "count"), [(1, 1), (17, 7), (40, 8), (90, 33), (200, 65)])
def test_lengths_and_sizes(steps, count, level):
    """Sizes straddle lanes and stretches; each sequence is as if it were alone and unpadded."""
    rng = np.random.default_rng(2)
    z = rng.standard_normal((steps, 4, 9))
    lengths = np.array([steps, max(1, steps // 2), 0, steps], np.int64)
    rows = [rng.integers(1, 9, n) for n in (count, count // 3, 0, 0)]
    z[lengths[1] :, 1] = np.nan
    with isa(level):
        values, slopes = core_loss(z, rows, lengths)
        only, _ = core_loss(z, rows, lengths, gradient=False)
        np.testing.assert_array_equal(values, only)
        for b, (row, n) in enumerate(zip(rows, lengths, strict=True)):
            if n == 0:
                assert values[b] == 0.0
                assert not slopes[:, b].any()
                continue
            own = np.ascontiguousarray(z[:n, b : b + 1])
            (value,), slope = core_loss(own, [row])
            assert value == values[b]
            np.testing.assert_array_equal(slopes[:n, b], slope[:, 0])
            assert not slopes[n:, b].any()
            assert value == pytest.approx(ctc.by_logarithms(own[:, 0], row, 0), rel=1e-13)


def test_directional_differences():
    rng = np.random.default_rng(3)
    z, along = rng.standard_normal((2, 60, 3, 7))
    rows = [rng.integers(1, 7, n) for n in (20, 5, 0)]
    _, slopes = core_loss(z, rows)
    f = {s: core_loss(z + s * 1e-3 * along, rows)[0].sum() for s in (-2, -1, 1, 2)}
    slope = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / 12e-3
    size = np.linalg.norm(slopes) * np.linalg.norm(along)
    assert abs(slope - np.vdot(slopes, along)) <= tolerances.DIFFERENCES * size


def test_many_steps_and_improbable_labels():
    """Logits of +-300 make probabilities of e^-600 per step; 3,000 steps of them are far outside
    float64.
    """
    rng = np.random.default_rng(4)
    z = rng.uniform(-300, 300, (3000, 1, 5))
    row = rng.integers(1, 5, 700)
    (value,), slopes = core_loss(z, [row])
    assert value > 1e5
    assert value == pytest.approx(ctc.by_logarithms(z[:, 0], row, 0), rel=1e-13)
    # Each row of the gradient is a difference of two distributions.
    np.testing.assert_allclose(slopes.sum(-1), 0.0, atol=1e-12)
    assert np.abs(slopes).max() <= 1.0 + 1e-12
    uniform, _ = core_loss(np.zeros((20000, 1, 40)), [rng.integers(1, 40, 400)])
    assert 0.0 < uniform[0] < 20000 * np.log(40)


def test_classes_that_are_ruled_out():
    """A logit of -infinity is a probability of 0."""
    rng = np.random.default_rng(5)
    z = rng.standard_normal((6, 1, 4))
    without = np.ascontiguousarray(z[..., :3])
    z[..., 3] = -np.inf
    (value,), slopes = core_loss(z, [(1, 2, 1)])
    (want,), expected = core_loss(without, [(1, 2, 1)])
    assert value == pytest.approx(want, rel=1e-15)
    np.testing.assert_allclose(slopes[..., :3], expected, rtol=0, atol=1e-15)
    assert not slopes[..., 3].any()
    (value,), slopes = core_loss(z, [(1, 3)])
    assert value == np.inf
    assert not slopes.any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_for_all_threads(dtype):
    rng = np.random.default_rng(6)
    z = rng.standard_normal((300, 5, 12)).astype(dtype)
    rows = [rng.integers(1, 12, n) for n in (100, 3, 60, 0, 149)]
    lengths = np.array([300, 10, 200, 300, 290], np.int64)
    values, slopes = core_loss(z, rows, lengths)
    for threads in (2, 3, 8):
        again, other = core_loss(z, rows, lengths, threads=threads)
        assert again.tobytes() == values.tobytes()
        assert other.tobytes() == slopes.tobytes()
    halved, other = core_loss(z, rows, lengths, factors=np.full(5, 0.5))
    assert halved.tobytes() == values.tobytes()
    assert (2 * other).tobytes() == slopes.tobytes()


# ---- as a loss of a net


def problem_of(cell="lstm", both=()):
    net = stack(cell, 5, 9, layers=2, classes=6, bidirectional=both)
    problem = random_problem(net, gd.loss.MeanSquaredError(), 90, 3, seed=1, state=True)
    lengths = np.array([90, 40, 90])
    rng = np.random.default_rng(7)
    return replace(problem, lengths=lengths), [rng.integers(1, 6, n) for n in (30, 7, 0)]


def solve(problem, rows, loss, dtype="float64", **how):
    arguments, keywords = core_arguments(problem, dtype)
    with override(exact_threads=True):
        return gd.value_and_grad(*arguments, padded(rows), loss=loss, **keywords, **how)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("both", [(), (1,)])
def test_gradients_of_nets(reduction, dtype, both):
    problem, rows = problem_of(both=both)
    p = problem
    trace = two_ways.forward(p.net, p.params, p.x, state=p.state, mode=p.mode, **p.masks)
    scale = np.ones(3) if reduction == "sum" else 1 / (3 * np.array([30.0, 7.0, 1.0]))
    values, slopes = core_loss(trace.outputs, rows, p.lengths.astype(np.int64))
    want = two_ways.backward(p.net, p.params, trace, slopes * scale[:, None]).params
    found = solve(problem, rows, gd.loss.CTC(reduction=reduction), dtype)
    tolerance = tolerances.DOUBLE if dtype == "float64" else tolerances.SINGLE
    assert found.loss == pytest.approx((values * scale).sum(), rel=tolerance)
    for name, array in want.items():
        assert error(found.grads[name].astype(float), array, 1e-2) <= tolerance, name
    assert found.loss_weight == 3.0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_values_of_torch(reduction):
    torch = pytest.importorskip("torch", reason="compares with torch.nn.CTCLoss")
    rng = np.random.default_rng(8)
    z = rng.standard_normal((50, 4, 7))
    rows = [rng.integers(0, 6, n) for n in (20, 5, 0, 49)]
    lengths = np.array([50, 30, 50, 20])
    net = gd.Stack(gd.RNN(7, 7, nonlinearity="identity", bias=False))
    params = gd.Params(net, np.zeros(net.n_parameters))
    params["0.weight_ih"][:] = np.eye(7)
    loss = gd.loss.CTC(blank=6, reduction=reduction, zero_infinity=True)
    r = gd.value_and_grad(
        net, params, z, padded(rows), loss=loss, lengths=lengths, wrt=("x",), threads=2
    )
    outputs = torch.from_numpy(z).requires_grad_()
    function = torch.nn.CTCLoss(blank=6, reduction=reduction, zero_infinity=True)
    flat = torch.from_numpy(np.concatenate(rows))
    counts = torch.tensor([len(row) for row in rows])
    want = function(outputs.log_softmax(-1), flat, torch.from_numpy(lengths), counts)
    want.backward()
    assert r.loss == pytest.approx(want.item(), rel=1e-13)
    gradient = np.ldexp(r.dx, r.dx_exponent[:, None, None])
    np.testing.assert_allclose(gradient, outputs.grad.numpy(), rtol=0, atol=1e-12)


def test_budgets_threads_and_plans():
    problem, rows = problem_of("gru", (1,))
    problem = replace(problem, lengths=None)
    loss = gd.loss.CTC()

    def bits(**how):
        r = solve(problem, rows, loss, "float32", **how)
        assert r.arena_bytes <= r.plan.bytes
        return r.loss, r.grads.flat.tobytes()

    with pytest.raises(gd.MemoryBudgetError, match="of the whole sequence needs") as refused:
        solve(problem, rows, loss, memory=1)
    want = bits(memory="full", threads=1)
    for how in ({"threads": 3, "memory": "full"}, {"memory": refused.value.smallest}):
        assert bits(**how) == want
    planned = gd.plan(problem.net, 90, 3, loss=loss, threads=1)
    assert planned.bytes >= solve(problem, rows, loss, "float32", threads=1).plan.bytes


def test_memory_grows_with_the_square_root_of_steps():
    counts = np.full(1, 1000, np.int64)
    short, long = (
        _core.ctc_bytes(steps, counts, classes=40, gradient=True, threads=1)
        for steps in (10_000, 40_000)
    )
    assert 1.8 * short < long < 2.2 * short
    assert long < 40e6


def test_training_on_labels_without_times():
    """A net learns to spell its input, whose classes last some steps each; y has no times."""
    rng = np.random.default_rng(9)

    def example():
        labels = rng.integers(1, 5, 4)
        spans = rng.integers(2, 6, 4)
        x = np.repeat(np.eye(5, dtype="f4")[labels], spans, axis=0)
        pauses = np.zeros((len(x) + 4, 5), "f4")
        pauses[np.arange(len(x)) + np.repeat(np.arange(4), spans)] = x
        return pauses, labels

    xs, rows = zip(*(example() for _ in range(64)), strict=True)
    net = gd.Stack(gd.GRU(5, 24), gd.Linear(24, 5))
    params = net.init(seed=0)
    loss = gd.loss.CTC()
    y = padded(rows)
    data = gd.data.Sequences(list(xs), y, step="last", batch_size=16, seed=1)
    trainer = gd.Trainer(net, params, gd.optim.Adam(params, 1e-2), loss=loss, quiet=True)
    report = trainer.fit(data, steps=150, validation=data, every=50)
    assert report.evaluations[-1][1] < report.evaluations[0][1] < 1.0
    lengths = np.array([len(x) for x in xs])
    x = np.zeros((lengths.max(), 64, 5), "f4")
    for b, row in enumerate(xs):
        x[: len(row), b] = row
    outputs, _ = gd.apply(net, params, x, lengths=lengths)
    for beam in (None, 8):
        found = gd.ctc.decode(outputs, lengths, beam=beam)
        right = [list(a) == list(b) for a, b in zip(found.labels, rows, strict=True)]
        assert np.mean(right) > 0.9


# ---- decoding


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("blank", [0, 2])
def test_a_wide_beam_finds_the_most_probable_labels(blank, dtype):
    rng = np.random.default_rng(10)
    for _ in range(20):
        z = rng.standard_normal((6, 2, 3)).astype(dtype)
        lengths = np.array([6, 4])
        found = gd.ctc.decode(z, lengths, blank=blank, beam=500)
        for b, n in enumerate(lengths):
            all_labels = ctc.probabilities(z[:n, b].astype(float), blank)
            best = max(all_labels, key=all_labels.get)
            assert tuple(found.labels[b]) == best
            assert found.scores[b] == pytest.approx(np.log(all_labels[best]), rel=1e-12)


def test_the_best_path():
    rng = np.random.default_rng(11)
    z = rng.standard_normal((40, 3, 4))
    found = gd.ctc.decode(z, np.array([40, 7, 0]), blank=3)
    for b, n in enumerate((40, 7, 0)):
        assert tuple(found.labels[b]) == ctc.collapsed(z[:n, b].argmax(-1), 3)
        log_p = z[:n, b] - np.log(np.exp(z[:n, b]).sum(-1, keepdims=True))
        assert found.scores[b] == pytest.approx(log_p.max(-1, initial=-np.inf).sum(), rel=1e-13)


def test_a_beam_adds_up_alignments_where_the_best_path_does_not():
    """The example of Graves et al.: blanks are the best path, and a label is more probable."""
    z = np.log(np.array([[[0.6, 0.4]], [[0.6, 0.4]]]))
    assert list(gd.ctc.decode(z).labels[0]) == []
    found = gd.ctc.decode(z, beam=4)
    assert list(found.labels[0]) == [1]
    assert found.scores[0] == pytest.approx(np.log(0.64), rel=1e-14)


def test_a_narrow_beam_scores_less_and_threads_change_nothing():
    rng = np.random.default_rng(12)
    z = rng.standard_normal((200, 4, 12)).astype("f4")
    wide, narrow = (gd.ctc.decode(z, beam=beam, threads=1) for beam in (32, 2))
    assert (narrow.scores <= wide.scores + 1e-9).all()
    losses, _ = core_loss(z, wide.labels)
    assert (wide.scores <= -losses + 1e-9).all()
    again = gd.ctc.decode(z, beam=32, threads=3)
    assert again.scores.tobytes() == wide.scores.tobytes()
    for one, other in zip(again.labels, wide.labels, strict=True):
        np.testing.assert_array_equal(one, other)


# ---- errors

NET = gd.Stack(gd.GRU(2, 3))
PARAMS = NET.init(seed=0, dtype="float64")
X = np.zeros((4, 2, 2))


@pytest.mark.parametrize(
    ("y", "options", "error", "message"),
    [
        (None, {}, gd.ArgumentError, r"y must be given for CTC: the labels of each sequence"),
        ([[1.0], [2.0]], {}, gd.DTypeError, "y must hold labels as int64, int32 or uint8"),
        ([[1], [2], [1]], {}, gd.ShapeError, r"shape \(B, S\) = \(2, S\) for CTC.*got \(3, 1\)"),
        ([1, 2], {}, gd.ShapeError, r"got \(2,\)"),
        ([[1, -1], [-1, 2]], {}, gd.ArgumentError, r"y\[1\] has them before a label"),
        (
            [[1], [3]],
            {},
            gd.ArgumentError,
            r"classes in 0..2 other than the blank, 0; y\[1, 0\] is 3",
        ),
        ([[1], [0]], {}, gd.ArgumentError, r"y\[1, 0\] is 0"),
        ([[1], [1]], {"blank": 3}, gd.ArgumentError, "blank must be one of the net's 3 classes"),
        (
            [[1] * 3, [1, 2, -1]],
            {},
            gd.NonFiniteError,
            "of sequence 0 is infinite: its labels need 5",
        ),
    ],
)
def test_wrong_labels(y, options, error, message):
    y = None if y is None else np.array(y)
    with pytest.raises(error, match=message):
        gd.value(NET, PARAMS, X, y, loss=gd.loss.CTC(**options))


def test_impossible_labels_count_as_0_where_asked():
    y = np.array([[1, 1, 1], [2, -1, -1]])
    loss = gd.loss.CTC(zero_infinity=True)
    r = gd.value_and_grad(NET, PARAMS, X, y, loss=loss, wrt=("x",))
    alone = gd.value(NET, PARAMS, X[:, 1:], y[1:], loss=loss)
    assert r.loss == pytest.approx(alone / 2, rel=1e-14)
    assert not r.dx[:, 0].any()
    assert r.dx[:, 1].any()


def test_wrong_arguments():
    for make, message in (
        (lambda: gd.loss.CTC(blank=-1), "blank must be a class, 0 or more"),
        (lambda: gd.loss.CTC(step="last"), "must have step 'all'"),
        (lambda: gd.ctc.decode(X, blank=2), r"blank must be a class in 0..1; got 2"),
        (lambda: gd.ctc.decode(X, beam=0), "beam must be at least 1"),
    ):
        with pytest.raises(gd.ArgumentError, match=message):
            make()
    with pytest.raises(gd.ShapeError, match=r"outputs must have shape \(T, B, O\)"):
        gd.ctc.decode(X[0])
    with pytest.raises(gd.DTypeError, match="outputs must be float32 or float64"):
        gd.ctc.decode(X.astype(int))
    y = np.array([[1], [2]])
    with pytest.raises(gd.ArgumentError, match="the Hessian of CTC by the outputs is not known"):
        gd.jacobian.hvp(NET, PARAMS, X, y, np.ones((1, NET.n_parameters)), loss=gd.loss.CTC())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_no_numbers(value):
    z = np.zeros((5, 3, 4))
    z[3, 1, 2] = value
    with pytest.raises(gd.NonFiniteError, match=r"of step 3, sequence 1 must be numbers") as caught:
        gd.ctc.decode(z)
    assert (caught.value.step, caught.value.sequence) == (3, 1)
    with pytest.raises(
        gd.NonFiniteError, match="the outputs of step 3, sequence 1 must be numbers"
    ):
        core_loss(z, [(1,), (2,), (3,)])
    assert len(gd.ctc.decode(z, np.array([5, 3, 5])).labels) == 3


def test_the_core_checks_labels_and_lengths_itself():
    z = np.zeros((5, 2, 4))
    with pytest.raises(gd.ArgumentError, match="label 0 of sequence 1 is 4"):
        core_loss(z, [(1,), (4,)])
    with pytest.raises(gd.ArgumentError, match=r"lengths\[1\] = 6"):
        core_loss(z, [(1,), (2,)], np.array([5, 6]))
    with pytest.raises(gd.InternalError, match="was not checked"):
        core_loss(z, [(1,)])
