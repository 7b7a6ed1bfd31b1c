"""minimize: SciPy's optimizers on the whole loss, with runs, resumption and interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import gradcore as gd
from gradcore._net import io
from gradcore._training.full_batch import FullBatch, batches_of
from gradcore._training.runs import read_metrics

pytest.importorskip("scipy", reason="needs SciPy: install gradcore[diagnose]")

METHODS = ("L-BFGS-B", "trust-ncg", "least-squares")
NET = gd.Stack(gd.GRU(1, 4), gd.Linear(4, 1))
RNG = np.random.default_rng(0)
X = [RNG.standard_normal(n) for n in (40, 25, 33, 40)]
# A filter that the net can learn, nearly.
Y = [np.convolve(x, 0.6 ** np.arange(12))[: len(x)] for x in X]
HELD_OUT = gd.data.Sequences(X[3:], Y[3:], batch_size=1, shuffle=False, dtype="float64")


def data(batch_size=2, dtype="float64"):
    return gd.data.Sequences(X[:3], Y[:3], batch_size=batch_size, shuffle=False, dtype=dtype)


def made(dtype="float64", net=NET):
    return net.init(seed=1, dtype=dtype)


def run(params, **options):
    options = {"loss": "mse", "quiet": True, **options}
    return gd.minimize(NET, params, options.pop("data", data()), **options)


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls_below_that_of_adam(method):
    params = made()
    report = run(params, method=method, steps=60)
    assert report.steps == len(report.losses) == 60
    assert report.stopped == "steps"
    assert all(b <= a for a, b in zip(report.losses, report.losses[1:], strict=False))
    other = made()
    trainer = gd.Trainer(NET, other, gd.optim.Adam(other, 0.02), loss="mse", quiet=True)
    adam = trainer.fit([data(3).batch(0, 0)], epochs=60)
    assert report.losses[-1] < 0.5 * adam.losses[-1]
    # The loss of the report is that of params over all data.
    whole = data(3).batch(0, 0)
    loss = gd.value(NET, params, whole.x, whole.y, loss="mse", lengths=whole.lengths)
    assert loss == pytest.approx(report.losses[-1], rel=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_function_is_that_of_one_large_batch(reduction):
    loss, params = gd.loss.MeanSquaredError(reduction=reduction), made()
    parts = FullBatch(NET, params, batches_of(data(1)), loss, None, None)
    whole = FullBatch(NET, params, batches_of(data(3)), loss, None, None)
    x = params.flat.astype(np.float64)
    (f, g), (f1, g1) = whole.value_and_grad(x), parts.value_and_grad(x)
    assert f1 == pytest.approx(f, rel=1e-13)
    np.testing.assert_allclose(g1, g, rtol=1e-10, atol=1e-13)
    v, w = RNG.standard_normal((2, len(x)))
    for curvature in ("hessian", "gauss_newton"):
        product = whole.product(x, v, curvature)
        np.testing.assert_allclose(parts.product(x, v, curvature), product, rtol=1e-9, atol=1e-12)
        # They are products of a symmetric matrix.
        assert w @ product == pytest.approx(v @ whole.product(x, w, curvature), rel=1e-9)
    h = 1e-6
    rise = (whole.value_and_grad(x + h * v)[0] - whole.value_and_grad(x - h * v)[0]) / (2 * h)
    assert g @ v == pytest.approx(rise, rel=1e-7)
    turn = (whole.value_and_grad(x + h * v)[1] - whole.value_and_grad(x - h * v)[1]) / (2 * h)
    np.testing.assert_allclose(whole.product(x, v, "hessian"), turn, rtol=1e-6, atol=1e-6)


def test_a_direction_too_small_for_float32_has_its_product():
    params = made("float32")
    problem = FullBatch(
        NET, params, batches_of(data(dtype="float32")), gd.loss.MeanSquaredError(), None, None
    )
    x, v = params.flat.astype(np.float64), RNG.standard_normal(NET.n_parameters)
    product = problem.product(x, v, "gauss_newton")
    np.testing.assert_allclose(problem.product(x, v * 1e-60, "gauss_newton") * 1e60, product, 1e-5)
    assert not problem.product(x, 0 * v, "hessian").any()


def test_weights_of_batches_count_by_their_terms():
    """A step of weight 0 counts for nothing, in whichever batch it is."""
    batch = data(3).batch(0, 0)
    weight = np.ones(batch.x.shape[:2])
    weight[:, 1] = 0.0
    kept = [0, 2]
    halves = [
        gd.Batch(batch.x[:, [b]], batch.y[:, [b]], [batch.lengths[b]], weight[:, [b]])
        for b in range(3)
    ]
    alone = gd.Batch(batch.x[:, kept], batch.y[:, kept], batch.lengths[kept])
    losses = [run(made(), data=given, steps=4).losses for given in (halves, alone)]
    np.testing.assert_allclose(*losses, rtol=1e-9)


def test_float32_ends_where_rounding_does_not_let_the_loss_fall():
    params = made("float32")
    report = run(params, data=data(dtype="float32"), steps=100_000)
    assert report.stopped in ("precision", "converged")
    assert report.losses[-1] < 0.05 * report.losses[0]
    assert params.dtype == np.float32


def test_it_converges():
    net = gd.Stack(gd.RNN(1, 1, nonlinearity="identity"), gd.Linear(1, 1))
    params = net.init(seed=0, dtype="float64")
    x = RNG.standard_normal((50, 1, 1))
    batch = gd.Batch(x, 0.5 * x)
    report = gd.minimize(net, params, batch, loss="mse", method="least-squares", quiet=True)
    assert report.stopped == "converged"
    assert report.losses[-1] < 1e-12


def test_the_best_score_decides_what_params_are():
    params = made()
    scores = iter([3.0, 1.0, 2.0, 5.0])
    seen = []

    def evaluate(given):
        assert given is params
        seen.append(params.copy())
        return next(scores)

    report = run(params, steps=7, evaluate=evaluate, every=2)
    assert report.evaluations == ((2, 3.0), (4, 1.0), (6, 2.0), (7, 5.0))
    assert (report.best, report.best_step) == (1.0, 4)
    assert params == seen[1]


def test_patience_and_maximise():
    scores = iter([1.0, 2.0, 0.5, 0.4, 9.0])
    report = run(made(), steps=9, evaluate=lambda _: next(scores), maximise=True, patience=2)
    assert report.stopped == "patience"
    assert (report.steps, report.best_step) == (4, 2)


def test_minutes_end_it_between_evaluations():
    params = made()
    before = params.copy()
    report = run(params, minutes=0)
    assert (report.steps, report.stopped) == (0, "minutes")
    assert params == before
    assert run(params, minutes=0.002).stopped in ("minutes", "converged", "precision")


def same(one, other):
    for name in ("steps", "evaluations", "best", "best_step", "stopped"):
        assert getattr(one, name) == getattr(other, name)


def lines_of(folder):
    lines = read_metrics(folder)
    for line in lines:
        assert line.pop("seconds") >= 0
    return lines


class Raise(gd.callbacks.Callback):
    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_update(self, view):
        if view.steps == self.step:
            self.action()


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def fail():
    raise RuntimeError("of a callback")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("action", [interrupt, fail])
def test_it_resumes_to_the_same_bits(tmp_path, method, action):
    options = {"method": method, "steps": 12, "validation": HELD_OUT, "every": 3}
    whole = made()
    report = run(whole, run=tmp_path / "whole", **options)
    params = made()
    for step in (5, 9):
        callbacks = [Raise(step, action)]
        try:
            early = run(params, run=tmp_path / "r", resume=True, callbacks=callbacks, **options)
            assert action is interrupt
            assert early.interrupted
        except RuntimeError:
            assert action is fail
        assert gd.load(tmp_path / "r/last.safetensors").metadata["step"] == step
        params = net_params = made()  # a new process would begin with these
    again = run(net_params, run=tmp_path / "r", resume=True, **options)
    same(again, report)
    assert again.losses == report.losses[9:]
    assert params == whole
    assert lines_of(tmp_path / "r") == lines_of(tmp_path / "whole")
    for name in ("last", "best"):
        a, b = (gd.load(tmp_path / f / f"{name}.safetensors") for f in ("r", "whole"))
        assert a.params == b.params
        assert a.metadata == b.metadata


def test_a_resumed_run_computes_nothing_again(tmp_path, monkeypatch):
    run(made(), steps=8, run=tmp_path, method="trust-ncg")
    calls = []
    computed = FullBatch.value_and_grad

    def counted(self, x):
        calls.append(x)
        return computed(self, x)

    monkeypatch.setattr(FullBatch, "value_and_grad", counted)
    run(made(), steps=8, run=tmp_path, method="trust-ncg", resume=True)
    assert calls == []
    run(made(), steps=9, run=tmp_path, method="trust-ncg", resume=True)
    assert len(calls) == 1


SCRIPT = """
import sys
sys.path[:0] = {path!r}
import test_minimize as t
t.run(t.made(), run={folder!r}, resume=True, steps=300, callbacks=[t.Announce()])
"""


class Announce(gd.callbacks.Callback):
    def on_update(self, view):
        print(view.steps, flush=True)


def test_a_killed_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("gradcore._training.minimization.SAVE_SECONDS", 0.0)
    whole = made()
    run(whole, run=tmp_path / "whole", steps=40)
    monkeypatch.undo()
    code = "from gradcore._training import minimization as m; m.SAVE_SECONDS = 0.0\n"
    code += SCRIPT.format(path=[os.path.dirname(__file__)], folder=str(tmp_path / "r"))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        for line in child.stdout:
            if int(line) == 25:
                break
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert 0 < gd.load(tmp_path / "r/last.safetensors").metadata["step"] < 40
    params = made()
    run(params, run=tmp_path / "r", steps=40, resume=True)
    assert params == whole
    assert lines_of(tmp_path / "r") == lines_of(tmp_path / "whole")


def test_ctrl_c_keeps_the_best_so_far():
    params, seen = made(), []

    class Stop(gd.callbacks.Callback):
        def on_update(self, view):
            seen.append(view.params)
            if view.steps == 6:
                interrupt()

    report = run(params, callbacks=[Stop()])
    assert report.interrupted
    assert report.steps == 6
    assert params == seen[-1]


def test_other_settings_and_other_data_are_refused(tmp_path):
    run(made(), steps=2, run=tmp_path)
    with pytest.raises(gd.ArgumentError, match="method was 'L-BFGS-B' and is 'trust-ncg'"):
        run(made(), steps=4, run=tmp_path, resume=True, method="trust-ncg")
    with pytest.raises(gd.ArgumentError, match="options"):
        run(made(), steps=4, run=tmp_path, resume=True, options={"maxcor": 3})
    other = gd.data.Sequences(Y[:3], X[:3], batch_size=2, shuffle=False, dtype="float64")
    with pytest.raises(gd.ArgumentError, match="x and y of the data have changed places"):
        run(made(), steps=4, run=tmp_path, resume=True, data=other)
    with pytest.raises(gd.ArgumentError, match="already holds a run"):
        run(made(), steps=4, run=tmp_path)
    params = made()
    trainer = gd.Trainer(NET, params, gd.optim.Adam(params, 0.1), loss="mse", quiet=True)
    with pytest.raises(gd.ArgumentError, match="holds a run with other settings"):
        trainer.fit(data(), run=tmp_path, resume=True)


def test_an_optimizer_that_asks_for_other_numbers_is_noticed(tmp_path):
    run(made(), steps=3, run=tmp_path)
    path = tmp_path / "last.safetensors"
    with io.open_checkpoint(path) as file:
        training = json.loads(file.metadata()[io.TRAINING])
        tensors = {k: np.array(file.get_tensor(k)) for k in file.keys()}  # noqa: SIM118
    tensors["training.minimize.checks"][2] += 1
    extra = {k: v for k, v in tensors.items() if k.startswith("training.")}
    loaded = gd.load(path)
    text = io.as_json("it", training)
    io.write(path, loaded.params, loaded.metadata, extra, text)
    with pytest.raises(gd.CheckpointError, match="other numbers at its evaluation 3"):
        run(made(), steps=4, run=tmp_path, resume=True)
    extra["training.minimize.vectors"] = extra["training.minimize.vectors"][:, 1:]
    io.write(path, loaded.params, loaded.metadata, extra, text)
    with pytest.raises(gd.CheckpointError, match="log of evaluations does not fit the net"):
        run(made(), steps=4, run=tmp_path, resume=True)
    extra["training.minimize.best"] = extra["training.minimize.best"].astype("float32")
    io.write(path, loaded.params, loaded.metadata, extra, text)
    with pytest.raises(gd.CheckpointError, match="its vectors do not fit the net"):
        run(made(), steps=4, run=tmp_path, resume=True)


def test_a_loss_that_overflows_on_the_way_is_passed_over():
    net = gd.Stack(gd.RNN(1, 3, nonlinearity="relu"), gd.Linear(3, 1))
    params = net.init(seed=0, dtype="float64", gain=1.3)
    x = np.abs(RNG.standard_normal((3_000, 1, 1)))
    batch = gd.Batch(x, 0.1 * x)
    seen = []
    computed = FullBatch.value_and_grad

    class Seen(FullBatch):
        pass

    def value(self, at):
        try:
            return computed(self, at)
        except gd.NonFiniteError:
            seen.append(at)
            raise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FullBatch, "value_and_grad", value)
        params.flat[:] *= 0.5
        report = gd.minimize(net, params, batch, loss="mse", steps=40, quiet=True)
    assert np.isfinite(report.losses).all()
    assert report.losses[-1] < report.losses[0]


def test_no_iteration_ends_where_the_loss_is_not_finite(monkeypatch):
    """Also if the loss has fallen far during the search: what counts is where the search began."""
    params = made()
    start = params.flat.copy()
    down = np.zeros_like(start)
    down[0] = 1e6  # the first step is to 1, where the loss is 0.5, and the slope asks for more

    def value(self, x):
        if x[0] - start[0] > 1.5:
            raise gd.NonFiniteError("as large as it likes")
        return 1e6 + 0.5 - 1e6 * (x[0] - start[0]), -down

    monkeypatch.setattr(FullBatch, "value_and_grad", value)
    run(params, steps=1)
    assert 0.5 < params.flat[0] - start[0] <= 1.5


def test_a_start_that_is_not_finite_is_an_error():
    params = made()
    bad = [x.copy() for x in X[:1]]
    bad[0][7] = np.nan
    source = gd.data.Sequences(bad, Y[:1], batch_size=1, dtype="float64")
    with pytest.raises(gd.NonFiniteError, match="step 7"):
        run(params, data=source)


BATCH = data(3).batch(0, 0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "adam"}, gd.ArgumentError, "method must be one of 'L-BFGS-B'"),
        ({"data": 3}, gd.DTypeError, "data must be a gradcore.Batch, a list"),
        ({"data": []}, gd.ArgumentError, "at least one batch"),
        ({"data": [BATCH, 3]}, gd.DTypeError, r"data\[1\] must be a gradcore.Batch; got int"),
        ({"data": data(dtype="float32")}, gd.DTypeError, "data gives floats as float32"),
        (
            {"data": gd.data.Stream(X[0], Y[0], k1=10, dtype="float64")},
            gd.ArgumentError,
            "batch 0 carries its state",
        ),
        ({"options": {"maxiter": 3}}, gd.ArgumentError, "pass steps="),
        ({"options": {"gtole": 3}}, gd.ArgumentError, "unknown solver options: gtole"),
        ({"options": 3}, gd.DTypeError, "options must be a dict"),
        ({"options": {"gtol": {1}}}, gd.DTypeError, r"options\['gtol'\] must be a number"),
        ({"options": {"gtol": "1e-6"}}, gd.DTypeError, r"options\['gtol'\] must be a number"),
        ({"options": {"bounds": [(0, 1)]}}, gd.DTypeError, r"options\['bounds'\] must be a number"),
        ({"steps": 0}, gd.ArgumentError, "steps must be at least 1"),
        ({"patience": 3}, gd.ArgumentError, "patience needs a score"),
        ({"resume": True}, gd.ArgumentError, "resume=True needs run="),
        ({"callbacks": [3]}, gd.DTypeError, "callbacks"),
        ({"quiet": 1}, gd.DTypeError, "quiet must be True or False"),
        ({"loss": gd.loss.Given()}, gd.ArgumentError, "Given does not"),
        (
            {"loss": lambda o, a, b: (0.0, o), "method": "trust-ncg"},
            gd.ArgumentError,
            "needs a loss of gradcore.loss",
        ),
        (
            {"data": gd.Batch(BATCH.x, BATCH.y, weight=np.zeros(BATCH.x.shape[:2]))},
            gd.ArgumentError,
            "loss terms with a weight other than 0",
        ),
    ],
)
def test_wrong_arguments_are_told(options, error, message):
    params = made()
    before = params.copy()
    with pytest.raises(error, match=message):
        run(params, **options)
    assert params == before


def test_nets_with_random_masks_are_refused():
    net = gd.Stack(gd.GRU(1, 4), gd.Dropout(0.1), gd.Linear(4, 1))
    with pytest.raises(gd.ArgumentError, match="random masks"):
        gd.minimize(net, net.init(dtype="float64"), BATCH, loss="mse")


def test_a_python_loss_takes_gradients_only():
    def halved(outputs, t0, t1):
        return 0.5 * float((outputs**2).sum()), outputs

    params = made()
    report = run(params, data=gd.Batch(BATCH.x, None), loss=halved, steps=5)
    assert report.losses[-1] < report.losses[0]


def test_scipy_is_imported_only_when_used():
    code = (
        "import sys; sys.modules['scipy'] = None\n"
        "import numpy as np, gradcore as gd\n"
        "net = gd.Stack(gd.GRU(1, 2)); x = np.ones((3, 1, 1), 'f')\n"
        "try: gd.minimize(net, net.init(), gd.Batch(x, np.ones((3, 1, 2), 'f')), loss='mse')\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "minimize needs SciPy: pip install 'gradcore[diagnose]'" in done.stdout
