"""Nets with a Pool in everything that users call: shapes, losses, training, files, measurements,
other libraries, and what is refused.
"""

import numpy as np
import pytest

import gradcore as gd
from gradcore import _core, horizon, jacobian
from nets import POOLS

T, B, I, H, C = 150, 6, 4, 9, 3
LENGTHS = np.array([150, 7, 0, 128, 129, 1])
each_kind = pytest.mark.parametrize("kind", POOLS)


def made(kind="mean", *, dtype="float64", both=False, head=True):
    width = 2 * H if both else H
    layers = [gd.LSTM(I, H, bidirectional=both), gd.Pool(kind, width), gd.Dense(width, 5, "relu")]
    net = gd.Stack(*layers, *([gd.Linear(5, C)] if head else []))
    return net, net.init(seed=1, dtype=dtype)


def data(dtype="float64"):
    rng = np.random.default_rng(0)
    return rng.standard_normal((T, B, I)).astype(dtype), rng.integers(C, size=B)


# ---- descriptions


def test_shapes_and_parameters_are_told():
    net, _ = made("attention")
    assert net.pool == gd.Pool("attention", H)
    assert [spec.shape for spec in net.parameter_specs if spec.name.startswith("1.")] == [(1, H)]
    assert [net.is_pooled(place) for place in range(4)] == [False, True, True, True]
    assert net.positions(7, 2) == (2,)
    assert net.output_steps(1000) == 1
    assert net.output_lengths([0, 1, 9]).tolist() == [0, 1, 1]
    text = str(net)
    assert "(T, B, 9)" in text
    assert "(B, 9)" in text
    assert "(B, 3)" in text
    summary = gd.summary(net, steps=400, batch=2)
    assert [line.shape for line in summary.layers] == [(400, 2, 9), (2, 9), (2, 5), (2, 3)]
    assert summary.layers[-1].flops == 2 * 2 * 5 * 3


def test_files_keep_pools(tmp_path):
    net, params = made("attention", both=True)
    gd.save(tmp_path / "net.safetensors", net, params)
    loaded = gd.load(tmp_path / "net.safetensors")
    assert loaded.net == net
    np.testing.assert_array_equal(loaded.params.flat, params.flat)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([gd.Pool("mean", 4), gd.GRU(4, 4)], "behind the last layer that reads several steps"),
        ([gd.GRU(4, 4), gd.Pool("mean", 4), gd.Pool("max", 4)], "one Pool at most"),
        (
            [gd.GRU(4, 4), gd.Pool("mean", 4), gd.MaxPool1d(2)],
            "got a MaxPool1d at place 2, behind the Pool",
        ),
        (
            [gd.GRU(4, 4), gd.Pool("mean", 4), gd.Conv1d(4, 4, 3)],
            "got a Conv1d at place 2, behind the Pool",
        ),
    ],
)
def test_other_places_are_refused(layers, message):
    with pytest.raises(gd.ArgumentError, match=message):
        gd.Stack(*layers)


def test_what_a_pool_must_be():
    with pytest.raises(gd.ArgumentError, match=r"Pool.kind must be .*'attention'.*'median'"):
        gd.Pool("median", 3)
    with pytest.raises(gd.ArgumentError, match=r"Pool.width"):
        gd.Pool("mean", 0)
    with pytest.raises(gd.ShapeError, match=r"layer 1 \(Pool\) must have width 4"):
        gd.Stack(gd.GRU(3, 4), gd.Pool("mean", 5))
    with pytest.raises(gd.ArgumentError, match="Residual must not have a Pool"):
        gd.Residual(gd.GRU(4, 4), gd.Pool("mean", 4))


# ---- calls


@pytest.mark.parametrize("both", [False, True])
@each_kind
def test_ways_to_the_same_gradient(kind, both):
    """value_and_grad, a function, two calls, cotangents and a loss of the whole sequence."""
    net, params = made(kind, both=both)
    x, _ = data()
    rng = np.random.default_rng(1)
    w = rng.standard_normal((B, C))
    how = {"lengths": LENGTHS, "train": False}
    outputs, state = gd.apply(net, params, x, lengths=LENGTHS)
    assert outputs.shape == (B, C)
    assert not outputs[2].any()
    given = gd.value_and_grad(net, params, x, w, loss=gd.loss.Given(), **how)
    seen = []

    def function(outputs, t0, t1):
        seen.append((outputs.shape, t0, t1))
        return float((outputs * w).sum()), w

    own = gd.value_and_grad(net, params, x, loss=function, **how)
    assert seen == [((B, C), 0, 1)]
    assert own.loss == pytest.approx((outputs * w).sum(), rel=1e-12)
    begun = gd.forward(net, params, x, lengths=LENGTHS, train=False)
    assert begun.outputs.tobytes() == outputs.tobytes()
    assert "B=6" in repr(begun)
    later = begun.backward(w)
    back = jacobian.vjp(net, params, x, d_outputs=w[None], lengths=LENGTHS, wrt=("params",))
    whole = gd.loss.WholeSequence(lambda outputs, y, lengths: ((outputs * y).sum(), y))
    last = gd.value_and_grad(net, params, x, w, loss=whole, **how)
    for one in (own.grads, later.grads, back.grads[0], last.grads):
        assert one.flat.tobytes() == given.grads.flat.tobytes()
    x_only = jacobian.vjp(net, params, x, d_outputs=w[None], lengths=LENGTHS, wrt=("x",))
    assert x_only.dx.shape == (1, T, B, I)
    for one, other in zip(state, given.state, strict=True):
        np.testing.assert_array_equal(one.h, other.h)


def test_a_loss_of_pytorch():
    torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")
    net, params = made()
    x, y = data()

    def function(outputs, y, lengths):
        assert outputs.shape == (B, C)
        kept = lengths > 0
        return torch.nn.functional.cross_entropy(outputs[kept], y[kept])

    theirs = gd.loss.WholeSequence(function, framework="torch")
    one = gd.value_and_grad(net, params, x, y, loss=theirs, lengths=LENGTHS)
    two = gd.value_and_grad(net, params, x, y, loss="cross_entropy", lengths=LENGTHS)
    assert one.loss == pytest.approx(two.loss, rel=1e-13)
    np.testing.assert_allclose(one.grads.flat, two.grads.flat, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("head", [False, True])
def test_weights_and_targets_have_no_time(head):
    net, params = made("max", head=head)
    x, _ = data()
    width = C if head else 5
    numbers = np.random.default_rng(2).standard_normal((B, width))
    weight = np.array([1.0, 0.0, 3.0, 2.0, 0.5, 1.0])
    outputs, _ = gd.apply(net, params, x)
    assert outputs.shape == (B, width)
    found = gd.value(net, params, x, numbers, loss="mse", weight=weight)
    terms = ((outputs - numbers) ** 2).mean(axis=1)
    assert found == pytest.approx((weight * terms).sum() / weight.sum(), rel=1e-12)
    for wrong in (numbers[:, :1], numbers[None]):
        with pytest.raises(gd.ShapeError, match=r"the net has a Pool, and with it one output per"):
            gd.value(net, params, x, wrong, loss="mse")
    with pytest.raises(gd.ShapeError, match=r"weight must have shape \(6,\)"):
        gd.value(net, params, x, numbers, loss="mse", weight=np.ones((T, B)))


def test_missing_targets_and_other_losses():
    net, params = made(head=False)
    x, _ = data()
    y = np.random.default_rng(2).standard_normal((B, 5))
    y[1, 2] = np.nan
    some = gd.value(net, params, x, y, loss=gd.loss.MeanSquaredError(nan="ignore"))
    outputs, _ = gd.apply(net, params, x)
    assert some == pytest.approx(np.nanmean((outputs - y) ** 2), rel=1e-12)
    with pytest.raises(gd.NonFiniteError, match="target of step 0, sequence 1 is NaN"):
        gd.value(net, params, x, y, loss="mse")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (gd.loss.MeanSquaredError(step="last"), "must not have step='last'"),
        (gd.loss.NashSutcliffe(), "compares outputs and targets over all steps"),
        (gd.loss.ErrorToSignal(), "compares outputs and targets over all steps"),
        (gd.loss.CTC(), "compares outputs and targets over all steps"),
    ],
)
def test_losses_of_several_steps_are_refused(loss, message):
    net, params = made()
    x, _ = data()
    with pytest.raises(gd.ArgumentError, match=message):
        gd.value(net, params, x, np.zeros((B, C)), loss=loss)
    with pytest.raises(gd.ArgumentError, match=message):
        gd.plan(net, T, B, loss=loss)


def test_resets_and_steppers_are_refused():
    net, params = made()
    x, y = data()
    with pytest.raises(gd.ArgumentError, match="reset must be None for a net with a Pool"):
        gd.value(net, params, x, y, loss="cross_entropy", reset=np.zeros((T, B), bool))
    with pytest.raises(gd.ArgumentError, match="reset must be False for a net with a Pool"):
        gd.plan(net, T, B, reset=True)
    with pytest.raises(gd.ArgumentError, match=r"layer 1 \(Pool\)"):
        gd.Stepper(net, params)
    with pytest.raises(gd.ArgumentError, match="f must have no Pool"):
        gd.implicit.FixedPoint(gd.Stack(gd.GRU(4, 4), gd.Pool("mean", 4)))


def test_a_gradient_that_is_not_finite_is_told():
    net, params = made()
    x, _ = data()
    d = np.zeros((B, C))
    d[3, 1] = np.inf
    with pytest.raises(gd.NonFiniteError, match="sequence 3, output 1"):
        gd.value_and_grad(net, params, x, d, loss=gd.loss.Given())
    d[3, 1], d[2, 0] = 0.0, np.nan  # of a sequence without steps
    gd.value_and_grad(net, params, x, d, loss=gd.loss.Given(), lengths=LENGTHS)


@each_kind
def test_a_hessian_where_the_gradient_is_zero(kind):
    """With targets that are the outputs the gradient vanishes, and J^T (2 / n) J v remains."""
    net, params = made(kind)
    x, _ = data()
    y, _ = gd.apply(net, params, x)
    v = np.random.default_rng(3).standard_normal((1, net.n_parameters))
    assert not gd.value_and_grad(net, params, x, y, loss="mse").grads.flat.any()
    hessian = jacobian.hvp(net, params, x, y, v=v, loss="mse").product
    other = jacobian.gauss_newton_product(net, params, x, y, v=v, loss="mse").product
    assert np.linalg.norm(hessian) > 0
    np.testing.assert_allclose(hessian, other, atol=1e-12 * np.linalg.norm(other))


# ---- behind layers that shorten time


FRONTS = {
    "pools": lambda both: [
        gd.MaxPool1d(3, 2, padding="same"),
        gd.GRU(I, H, bidirectional=both),
        gd.AvgPool1d(2),
    ],
    "convolutions": lambda both: [
        gd.Conv1d(I, I, 5, 3, padding="same", activation="relu"),
        gd.GRU(I, H, bidirectional=both),
        gd.Conv1d(H * (1 + both), H * (1 + both), 3),
    ],
}


@pytest.mark.parametrize("ends", FRONTS)
@pytest.mark.parametrize("both", [False, True])
@each_kind
def test_behind_windows(kind, both, ends):
    """A front end with strides, and windows between the layer and the pool: as in two nets."""
    width = 2 * H if both else H
    front = gd.Stack(*FRONTS[ends](both))
    net = gd.Stack(*front.layers, gd.Pool(kind, width), gd.Linear(width, C))
    params = net.init(seed=2, dtype="float64")
    x, y = data()
    rows, _ = gd.apply(
        front,
        gd.Params(front, params.flat[: front.n_parameters].copy()),
        x,
        lengths=LENGTHS,
    )
    ends = front.output_lengths(LENGTHS)
    expected = np.zeros((B, width))
    for b, n in enumerate(ends):
        own = rows[:n, b]
        if n and kind == "attention":
            scores = own @ params["3.weight"][0]
            shares = np.exp(scores - scores.max())
            expected[b] = shares @ own / shares.sum()
        elif n:
            expected[b] = {"last": own[-1], "mean": own.mean(0), "max": own.max(0)}[kind]
    outputs, _ = gd.apply(net, params, x, lengths=LENGTHS)
    head = expected @ params["4.weight"].T + params["4.bias"]
    np.testing.assert_allclose(outputs, np.where(ends[:, None] > 0, head, 0.0), atol=1e-13)
    rng = np.random.default_rng(4)
    v = rng.standard_normal(net.n_parameters)
    how = {"loss": "cross_entropy", "lengths": LENGTHS}
    found = gd.value_and_grad(net, params, x, y, **how, memory="full")
    step = 1e-6 / np.linalg.norm(v)
    ahead, behind = (
        gd.value(net, gd.Params(net, params.flat + s * step * v), x, y, **how) for s in (1, -1)
    )
    slope = (ahead - behind) / (2 * step)
    assert slope == pytest.approx(found.grads.flat @ v, rel=1e-6, abs=1e-8)
    moved = jacobian.jvp(net, params, x, dparams=v[None], lengths=LENGTHS)
    assert moved.d_outputs.shape == (1, B, C)
    product = jacobian.hvp(net, params, x, y, v=v[None], **how).product[0]
    both_ends = [
        gd.value_and_grad(net, gd.Params(net, params.flat + s * step * v), x, y, **how).grads.flat
        for s in (1, -1)
    ]
    difference = (both_ends[0] - both_ends[1]) / (2 * step)
    np.testing.assert_allclose(product, difference, atol=2e-6 * np.abs(product).max() + 1e-9)


# ---- training


@each_kind
def test_training_on_sequences(kind, tmp_path):
    """Which of two values comes more often: a task for a pool."""
    rng = np.random.default_rng(5)
    x = [rng.integers(2, size=(n, 1)).astype(np.float32) for n in rng.integers(5, 60, size=64)]
    y = np.array([int(a.mean() > 0.5) for a in x])
    source = gd.data.Sequences(x, y, step="last", batch_size=16, seed=1)
    net = gd.Stack(gd.GRU(1, 8), gd.Pool(kind, 8), gd.Linear(8, 2))
    params = net.init(seed=0)
    trainer = gd.Trainer(net, params, gd.optim.Adam(params, lr=0.02), loss="cross_entropy")
    report = trainer.fit(source, epochs=20, validation=source, run=tmp_path / "run")
    assert report.best < 0.9 * float(np.log(2))
    assert report.evaluations[-1][1] == pytest.approx(
        np.average(
            [
                gd.value(net, params, b.x, b.y, loss="cross_entropy", lengths=b.lengths)
                for b in (source.batch(0, i) for i in range(len(source)))
            ]
        ),
        rel=1e-6,
    )


@each_kind
def test_trainings_are_watched(kind):
    """Measurements beside a training, and a fit by SciPy, take batches of one label each."""
    rng = np.random.default_rng(6)
    x = [rng.standard_normal((n, 2)) for n in rng.integers(20, 90, 24)]
    y = np.array([a[:, 0].mean() for a in x])
    data = gd.data.Sequences(x, y, step="last", batch_size=8, dtype="float64")
    net = gd.Stack(gd.GRU(2, 6), gd.Pool(kind, 6), gd.Dropout(0.1), gd.Linear(6, 1))
    params = net.init(seed=0, dtype="float64")
    optimizer = gd.optim.Adam(params, lr=1e-2, clip=gd.clip.GlobalNorm(1e-6))
    trainer = gd.Trainer(net, params, optimizer, loss="mse", quiet=True)
    report = trainer.fit(data, steps=4, watch=2)
    measured = [line for line in report.watched if "memory_length" in line]
    assert [line["step"] for line in measured] == [2, 4]
    assert all(np.isfinite(line["memory_length"]).all() for line in measured)
    reasons = [str(line["watch_missing"]) for line in report.watched if "watch_missing" in line]
    assert any("its loss depends on all steps at once" in reason for reason in reasons)
    plain = gd.Stack(*net.layers[:2], net.layers[3])
    start = plain.init(seed=0, dtype="float64")
    fitted = gd.minimize(plain, start, data, loss="mse", method="least-squares", steps=10)
    assert fitted.losses[-1] < 0.6 * fitted.losses[0]


def test_gradients_of_single_sequences():
    net, params = made("attention")
    x, y = data()
    loss = gd.loss.CrossEntropy(reduction="sum")
    each = jacobian.per_sample_gradients(net, params, x, y, loss=loss, lengths=LENGTHS)
    whole = gd.value_and_grad(net, params, x, y, loss=loss, lengths=LENGTHS)
    np.testing.assert_allclose(sum(g.flat for g in each), whole.grads.flat, atol=1e-12)


# ---- measurements


def test_how_far_a_pooled_output_reaches():
    """Of the last step it is as without a Pool; of a mean every step has a share of its own."""
    layers = [gd.GRU(I, H), gd.Linear(H, C)]
    plain, last = gd.Stack(*layers), gd.Stack(layers[0], gd.Pool("last", H), layers[1])
    mean = gd.Stack(layers[0], gd.Pool("mean", H), layers[1])
    params = plain.init(seed=3, dtype="float64")
    x, _ = data()
    lengths = np.array([150, 7, 20, 128, 129, 1])
    want = horizon.reach(plain, params, x, lengths=lengths)
    got = horizon.reach(last, gd.Params(last, params.flat.copy()), x, lengths=lengths)
    np.testing.assert_allclose(got.norm_log10, want.norm_log10, rtol=1e-9)
    assert got.memory_length().tolist() == want.memory_length().tolist()
    spread = horizon.reach(mean, gd.Params(mean, params.flat.copy()), x, lengths=lengths)
    assert spread.memory_length().tolist() == [149, 6, 19, 127, 128, 0]
    pooled = gd.Params(mean, params.flat.copy())
    for function in (horizon.window_shares, horizon.truncation_bias):
        with pytest.raises(gd.ArgumentError, match="its loss depends on all steps at once"):
            function(mean, pooled, x, np.zeros(B, np.int64), loss="cross_entropy")


def test_a_diagnosis():
    net, params = made("mean", dtype="float32")
    x, y = data("float32")
    found = gd.diagnose(net, params, x, y, loss="cross_entropy")
    measured = found.measured
    assert set(measured.left_out) == {"windows", "truncation"}
    assert "Pool" in measured.left_out["windows"]
    assert measured.gates is not None
    assert measured.lyapunov is not None
    assert measured.singular_values is not None
    assert "the pool (mean) reads every step itself" in str(found)
    net, params = made("last", dtype="float32")
    assert "the gradient of the last output" in str(gd.diagnose(net, params, x))


# ---- other libraries


@pytest.mark.parametrize("both", [False, True])
@each_kind
def test_to_torch_and_back(kind, both):
    torch = pytest.importorskip("torch", reason="needs PyTorch: install gradcore[torch]")
    net, params = made(kind, both=both)
    x, _ = data()
    module = gd.to_torch(net, params)
    outputs, _ = module(torch.from_numpy(x))
    expected, _ = gd.apply(net, params, x)
    np.testing.assert_allclose(outputs.detach().numpy(), expected, atol=1e-12)
    again, same = gd.from_torch(module)
    assert again == net
    np.testing.assert_array_equal(same.flat, params.flat)


@each_kind
def test_onnxruntime_computes_the_same(kind, tmp_path):
    pytest.importorskip("onnx", reason="needs onnx: install gradcore[test]")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: gradcore[test]")
    net, params = made(kind, dtype="float32", both=True)
    x, _ = data("float32")
    gd.export(tmp_path / "net.onnx", net, params)
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    expected, _ = gd.apply(net, params, x)
    (found,) = session.run(["outputs"], {"x": x})
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for suffix in ("json", "nam"):
        with pytest.raises(gd.ArgumentError, match=r"layer|net must be"):
            gd.export(tmp_path / f"net.{suffix}", net, params)


@pytest.mark.parametrize("level", _core.isa_available())
def test_every_level_runs(level):
    net, params = made("attention", dtype="float32")
    x, y = data("float32")
    _core.force_isa(level)
    try:
        found = gd.value(net, params, x, y, loss="cross_entropy")
    finally:
        _core.force_isa(None)
    assert found == pytest.approx(gd.value(net, params, x, y, loss="cross_entropy"), rel=1e-5)
